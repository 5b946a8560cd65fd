//! What happens between two tasks, in order; the correction of the head, the choice of exemplars.

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
        self.anchor(examples)?;
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
        self.begin_paths();
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
