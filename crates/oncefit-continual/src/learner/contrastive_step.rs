//! The step of methods with a contrastive loss.

use super::*;
use crate::contrastive::{Contrastive, projected_loss};

impl Learner {
    /// Gradients of the contrastive loss of new and drawn images, as they are and as changed views,
    /// in one pass of each network (batch-norms see both views). Returns the largest's loss.
    pub(super) fn contrast(
        &mut self,
        settings: &Contrastive,
        examples: &Examples,
        networks: &[StepNetwork],
        cost: &mut Cost,
    ) -> Result<f64> {
        let mut union = examples.clone();
        if let Some(memory) = &self.memory {
            let drawn = memory.examples(&memory.draw(settings.replay, self.step, 0));
            union.images.extend_from_slice(&drawn.images);
            union.labels.extend_from_slice(&drawn.labels);
        }
        let mut inputs = normalised(&union.images, &self.settings.normalisation);
        inputs.extend(self.inputs(union.images, "augmentation"));
        let labels = union.labels.repeat(2);
        let images = Batch {
            data: &inputs,
            count: labels.len(),
        };
        let mut of_largest = None;
        for network in networks {
            let plan = network.model.encoder();
            let mode = Mode::Train { dropout: None };
            let (executor, parameters) = (&mut self.executor, &self.parameters);
            let tape = executor.forward(plan, parameters, images, mode)?;
            let (loss, of_features) = projected_loss(
                executor.cpu(),
                settings,
                parameters,
                (tape.output(), network.model.feature_width()),
                &labels,
                &mut self.gradients,
            );
            if !loss.is_finite() {
                return Err(ContinualError::NotFinite {
                    what: "the loss",
                    step: self.step,
                    detail: "the contrastive loss of the step".into(),
                });
            }
            executor.backward(plan, parameters, tape, &of_features, &mut self.gradients)?;
            cost.add(network, labels.len());
            of_largest.get_or_insert(loss);
        }
        if let Some(elastic) = &mut self.elastic {
            elastic.aggregate(networks, &self.parameters, &mut self.gradients);
        }
        Ok(of_largest.unwrap_or(0.0))
    }
}
