//! The step of methods with a contrastive loss.

use super::*;
use crate::contrastive::{Contrastive, projected_loss};

/// The network without its last layer.
pub(super) fn without_head(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    graph.nodes.pop();
    graph
}

impl Learner {
    /// Gradients of the contrastive loss of new and drawn images, as they are and as changed views,
    /// in one pass (batch-norms see both views). Returns the loss and the images that ran.
    pub(super) fn contrast(
        &mut self,
        settings: &Contrastive,
        examples: &Examples,
    ) -> Result<(f64, usize)> {
        let mut union = examples.clone();
        if let Some(memory) = &self.memory {
            let drawn = memory.examples(&memory.draw(settings.replay, self.step, 0));
            union.images.extend_from_slice(&drawn.images);
            union.labels.extend_from_slice(&drawn.labels);
        }
        let mut inputs = normalised(&union.images, &self.settings.normalisation);
        inputs.extend(self.inputs(union.images, "augmentation"));
        let labels = union.labels.repeat(2);
        let plan = Plan::new(&without_head(&self.graph), &self.parameters)?;
        let images = Batch {
            data: &inputs,
            count: labels.len(),
        };
        let mode = Mode::Train { dropout: None };
        let tape = self
            .executor
            .forward(&plan, &self.parameters, images, mode)?;
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
            &plan,
            &self.parameters,
            tape,
            &of_features,
            &mut self.gradients,
        )?;
        Ok((loss, labels.len()))
    }
}
