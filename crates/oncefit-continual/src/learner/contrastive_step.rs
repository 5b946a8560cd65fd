//! The step of methods with a contrastive loss.

use super::*;
use crate::contrastive::{Contrastive, projected_loss};

impl Learner {
    /// Gradients of the contrastive loss of new and drawn images, as they are and as changed views,
    /// in one pass (batch-norms see both views). Returns the loss.
    pub(super) fn contrast(
        &mut self,
        settings: &Contrastive,
        examples: &Examples,
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
        let plan = self.model.encoder();
        let images = Batch {
            data: &inputs,
            count: labels.len(),
        };
        let mode = Mode::Train { dropout: None };
        let tape = self
            .executor
            .forward(plan, &self.parameters, images, mode)?;
        let (loss, of_features) = projected_loss(
            settings,
            &self.parameters,
            tape.output(),
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
        self.executor.backward(
            plan,
            &self.parameters,
            tape,
            &of_features,
            &mut self.gradients,
        )?;
        cost.images += labels.len();
        cost.train_macs += 3 * labels.len() as u64 * self.model.macs();
        Ok(loss)
    }
}
