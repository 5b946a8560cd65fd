//! What happens between two tasks: importances, anchors, the choice of exemplars.

use super::*;

impl Learner {
    /// Ends a task: what the method keeps of it is computed from `examples`, its training images.
    ///
    /// # Errors
    /// If the images do not fit the network.
    pub fn end_task(&mut self, examples: &Examples) -> Result<()> {
        self.check(examples)?;
        self.end_refresh(examples)?;
        for index in 0..self.method.weights.len() {
            let term = self.method.weights[index].clone();
            if term.weight != 0.0 {
                let found = self.importance(index, &term.importance, examples)?;
                self.anchors[index] = Some(self.anchored(index, &term.importance, found));
            }
        }
        if self
            .memory
            .as_ref()
            .is_some_and(|memory| memory.policy() == MemoryPolicy::Herding)
        {
            self.herd(examples)?;
        }
        if self
            .method
            .outputs
            .iter()
            .any(|term| term.weight != 0.0 && term.reference == Reference::PreviousNetwork)
        {
            self.previous = Some(self.parameters.clone());
        }
        for (omega, start) in self.paths.iter_mut().flatten() {
            omega.iter_mut().for_each(|tensor| tensor.data.fill(0.0));
            *start = self.parameters.clone();
        }
        self.old = self.seen.len();
        self.task += 1;
        self.batches = 0;
        Ok(())
    }

    /// At most `limit` random images of a task, normalised, with their labels.
    pub(super) fn chosen(
        &self,
        purpose: &str,
        examples: &Examples,
        limit: usize,
    ) -> (Vec<f32>, Vec<u32>) {
        let mut order: Vec<usize> = (0..examples.len()).collect();
        Draws::new(self.settings.seed, purpose, self.task as u64, 0).shuffle(&mut order);
        order.truncate(limit.max(1));
        let bytes = self.plan.input_shape().len();
        let images = order
            .iter()
            .flat_map(|&at| &examples.images[at * bytes..(at + 1) * bytes]);
        let images: Vec<u8> = images.copied().collect();
        let labels: Vec<u32> = order.iter().map(|&at| examples.labels[at]).collect();
        (normalised(&images, &self.settings.normalisation), labels)
    }

    fn importance(
        &mut self,
        index: usize,
        importance: &Importance,
        task: &Examples,
    ) -> Result<Parameters> {
        match importance {
            Importance::Identity => {
                let mut ones = self.parameters.clone();
                ones.iter_mut().for_each(|tensor| tensor.data.fill(1.0));
                Ok(ones)
            }
            Importance::Fisher {
                estimator,
                examples: limit,
                ..
            } => {
                let (images, labels) = self.chosen("importance", task, *limit);
                let executor = &mut self.executor;
                fisher(
                    executor,
                    &self.plan,
                    &self.parameters,
                    &images,
                    &labels,
                    *estimator,
                    Mode::Train { dropout: None },
                )
            }
            Importance::OutputSensitivity { examples: limit } => {
                let (images, labels) = self.chosen("importance", task, *limit);
                let executor = &mut self.executor;
                output_sensitivity(
                    executor,
                    &self.plan,
                    &self.parameters,
                    &images,
                    labels.len(),
                )
            }
            Importance::PathIntegral { damping } => {
                let mut found = self.parameters.zeros();
                if let Some((omega, start)) = &self.paths[index] {
                    for (position, tensor) in found.iter_mut().enumerate() {
                        let now = &self.parameters.at(position).data;
                        let ways = now.iter().zip(&start.at(position).data);
                        let parts = tensor
                            .data
                            .iter_mut()
                            .zip(&omega.at(position).data)
                            .zip(ways);
                        for ((value, omega), (now, start)) in parts {
                            let moved = f64::from(now - start);
                            *value = (f64::from(*omega) / (moved * moved + damping)) as f32;
                        }
                    }
                }
                Ok(found)
            }
        }
    }

    /// The quadratic form after a task whose importance is `found`.
    fn anchored(&self, index: usize, importance: &Importance, mut found: Parameters) -> Anchor {
        let mut weights = self.parameters.clone();
        let Some(before) = &self.anchors[index] else {
            return Anchor {
                importance: found,
                weights,
            };
        };
        let (decay, keeps_anchors) = match importance {
            Importance::Identity => (0.0, false),
            Importance::Fisher { decay: None, .. } => (1.0, true),
            Importance::Fisher {
                decay: Some(decay), ..
            } => (*decay as f32, false),
            Importance::PathIntegral { .. } | Importance::OutputSensitivity { .. } => (1.0, false),
        };
        for (position, tensor) in found.iter_mut().enumerate() {
            let old = before.importance.at(position).data.iter();
            let anchors = before.weights.at(position).data.iter();
            let now = weights.at_mut(position).data.iter_mut();
            for (((new, old), anchor), now) in tensor.data.iter_mut().zip(old).zip(anchors).zip(now)
            {
                let sum = decay * old + *new;
                if keeps_anchors {
                    // ΣF_t(θ−θ_t)² = (ΣF_t)(θ−θ̄)² + constant, θ̄ the mean weighted by F.
                    let share = if sum > 0.0 { *new / sum } else { 0.0 };
                    *now = anchor + share * (*now - anchor);
                }
                *new = sum;
            }
        }
        Anchor {
            importance: found,
            weights,
        }
    }

    fn herd(&mut self, examples: &Examples) -> Result<()> {
        let bytes = self.plan.input_shape().len();
        let graph = self.graph.clone();
        let mut present = examples.labels.clone();
        present.sort_unstable();
        present.dedup();
        for class in present {
            let of_class: Vec<usize> = (0..examples.len())
                .filter(|&at| examples.labels[at] == class)
                .collect();
            let take = |order: &[usize]| Examples {
                images: order
                    .iter()
                    .flat_map(|&at| &examples.images[at * bytes..(at + 1) * bytes])
                    .copied()
                    .collect(),
                labels: vec![class; order.len()],
            };
            let images = take(&of_class).images;
            let (features, width) = self.unit_features(&graph, &images)?;
            let order = herding_order(&features, width, self.settings.memory);
            let order: Vec<usize> = order.into_iter().map(|at| of_class[at]).collect();
            let task = self.task;
            if let Some(memory) = &mut self.memory {
                memory.herd(&take(&order), task);
            }
        }
        Ok(())
    }
}
