//! What happens between two tasks: importances, anchors, the choice of exemplars.

use super::*;

impl Learner {
    /// Ends a task: what the method keeps of it is computed from `examples`, its training images.
    ///
    /// # Errors
    /// If the images do not fit the network.
    pub fn end_task(&mut self, examples: &Examples) -> Result<()> {
        self.check(examples)?;
        let forwarded = self.forwarded;
        if self.settings.fills_at_task_end {
            self.fill(examples)?;
        }
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
        if self.method.needs_previous() {
            self.previous = Some(self.parameters.clone());
        }
        for (omega, start) in self.paths.iter_mut().flatten() {
            omega.iter_mut().for_each(|tensor| tensor.data.fill(0.0));
            *start = self.parameters.clone();
        }
        let newest = &self.seen[self.old..];
        self.correction.take_if(|found| found.classes != newest);
        self.train_macs += std::mem::replace(&mut self.forwarded, forwarded) - forwarded;
        self.old = self.seen.len();
        self.task += 1;
        self.batches = 0;
        Ok(())
    }

    /// Fits BiC's correction of this task's classes, on `new` images that were kept out of its training
    /// and as many of each old class that the memory kept out of its draws; to be called before
    /// [`Learner::end_task`]. Without such a method nothing happens, nor in the first task.
    ///
    /// # Errors
    /// If the images do not fit the network.
    pub fn correct(&mut self, new: &Examples) -> Result<()> {
        self.check(new)?;
        let held_out = self.held_out();
        let Some(memory) = self.memory.as_ref().filter(|_| !held_out.is_empty()) else {
            return Ok(());
        };
        let mut both = memory.examples(&held_out);
        both.images.extend_from_slice(&new.images);
        both.labels.extend_from_slice(&new.labels);
        let forwarded = self.forwarded;
        let logits = self.head_scores(&both.images)?;
        self.train_macs += std::mem::replace(&mut self.forwarded, forwarded) - forwarded;
        self.correction = Some(Correction::fit(
            &logits,
            &both.labels,
            self.classes(),
            &self.seen,
            &self.seen[self.old..],
        ));
        Ok(())
    }

    /// Offers the memory a task's images at its end, with the logits of the network as it is then.
    fn fill(&mut self, examples: &Examples) -> Result<()> {
        let mut logits = match self.method.stores_logits() {
            true => self.head_scores(&examples.images)?,
            false => Vec::new(),
        };
        self.mark_unseen(&mut logits);
        if let Some(memory) = &mut self.memory {
            memory.offer(examples, self.task, &logits);
        }
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
        let bytes = self.model.input_shape().len();
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
        let range = self.classes_of_head();
        let passes_of_image = match importance {
            Importance::Fisher {
                estimator: FisherEstimator::Exact,
                ..
            } => 3 * range.len() as u64,
            _ => 3,
        };
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
                self.train_macs += passes_of_image * labels.len() as u64 * self.model.macs();
                let executor = &mut self.executor;
                fisher(
                    executor,
                    &self.model,
                    &self.parameters,
                    (&images, &labels),
                    &range,
                    *estimator,
                    Mode::Train { dropout: None },
                )
            }
            Importance::OutputSensitivity { examples: limit } => {
                let (images, labels) = self.chosen("importance", task, *limit);
                self.train_macs += passes_of_image * labels.len() as u64 * self.model.macs();
                let executor = &mut self.executor;
                output_sensitivity(
                    executor,
                    &self.model,
                    &self.parameters,
                    &images,
                    labels.len(),
                    &range,
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
        let bytes = self.model.input_shape().len();
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
            let (features, width) = self.unit_features(&images)?;
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
