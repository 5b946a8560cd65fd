//! A-GEM: gradients that do not raise the loss of the memory.

use super::*;

impl Learner {
    /// A-GEM's projection of the gradients; whether it changed them.
    pub(super) fn project(&mut self, networks: &[StepNetwork], cost: &mut Cost) -> Result<bool> {
        let (Some(count), Some(memory)) = (self.method.projection, &self.memory) else {
            return Ok(false);
        };
        if memory.is_empty() {
            return Ok(false);
        }
        let drawn = memory.examples(&memory.draw(count, self.step, 0));
        let inputs = self.inputs(drawn.images.clone(), "reference-augmentation");
        let mut reference = Gradients::zeros(&self.parameters);
        self.plain_gradients(networks, &inputs, &drawn.labels, &mut reference, cost)?;
        let (dot, norm) = (self.gradients.dot(&reference), reference.dot(&reference));
        let projects = dot < 0.0 && norm > 0.0;
        if projects {
            self.gradients.axpy((-dot / norm) as f32, &reference);
        }
        Ok(projects)
    }
}
