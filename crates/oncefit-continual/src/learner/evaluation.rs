//! Evaluation of all tasks that were seen: calibration, classifiers, accuracies.

use oncefit_data::mirror;

use super::*;

/// The last places of recent images with which each of their classes has as many images as the memory
/// has, on average, of a class that is not among them.
fn missing_places(stored: &[usize], recent: &[u32]) -> Vec<usize> {
    let is_earlier =
        |(class, count): &(usize, &usize)| **count > 0 && !recent.contains(&(*class as u32));
    let earlier = stored.iter().enumerate().filter(is_earlier);
    let counts: Vec<usize> = earlier.map(|(_, count)| *count).collect();
    let wanted = counts.iter().sum::<usize>() / counts.len().max(1);
    let mut room: Vec<usize> = stored
        .iter()
        .map(|count| wanted.saturating_sub(*count))
        .collect();
    let mut places: Vec<usize> = (0..recent.len())
        .rev()
        .filter(|place| {
            let left = &mut room[recent[*place] as usize];
            let takes = *left > 0;
            *left -= usize::from(takes);
            takes
        })
        .collect();
    places.reverse();
    places
}

impl Learner {
    /// What batch-norm is calibrated on, of the last images of the stream and the memory
    /// ([`CalibrationImages`]).
    pub fn calibration_examples(&self) -> Examples {
        let Some(memory) = self.memory.as_ref().filter(|memory| !memory.is_empty()) else {
            return self.recent.clone();
        };
        let stored: Vec<usize> = (0..memory.len()).collect();
        let mut found = memory.examples(&stored);
        let first_task = memory.tasks()[0];
        let is_first = memory.tasks().iter().all(|task| *task == first_task);
        let places: Vec<usize> = match self.settings.calibration {
            CalibrationImages::Balanced if !is_first => {
                missing_places(&memory.counts(), &self.recent.labels)
            }
            _ => (0..self.recent.len()).collect(),
        };
        let values = self.model.input_shape().len();
        for place in places {
            let pixels = place * values..(place + 1) * values;
            found.images.extend_from_slice(&self.recent.images[pixels]);
            found.labels.push(self.recent.labels[place]);
        }
        found
    }

    /// Batch-norm statistics of recent and stored images.
    pub(super) fn calibration(&mut self, of_features: bool) -> Result<Calibration> {
        if !self.has_norms {
            return Ok(Calibration::None);
        }
        let images = self.calibration_examples().images;
        let inputs = normalised(&images, &self.settings.normalisation);
        let values = self.model.input_shape().len();
        self.forwarded += (inputs.len() / values) as u64 * self.model.macs();
        let batches = inputs.chunks(128 * values).map(|data| Batch {
            data,
            count: data.len() / values,
        });
        let (executor, parameters) = (&mut self.executor, &self.parameters);
        self.model
            .calibrate(executor, parameters, batches, of_features)
    }

    /// Logits of images, N × classes, or with `of_features` their features.
    pub(super) fn outputs(
        &mut self,
        calibration: &Calibration,
        images: &[u8],
        of_features: bool,
    ) -> Result<Vec<f32>> {
        let values = self.model.input_shape().len();
        let mut outputs = Vec::new();
        for bytes in images.chunks(500 * values) {
            let data = normalised(bytes, &self.settings.normalisation);
            let batch = Batch {
                data: &data,
                count: data.len() / values,
            };
            self.forwarded += batch.count as u64 * self.model.macs();
            let (executor, parameters) = (&mut self.executor, &self.parameters);
            let found =
                self.model
                    .evaluate(executor, parameters, batch, calibration, of_features)?;
            outputs.extend_from_slice(&found);
        }
        Ok(outputs)
    }

    /// Values of the features before the head.
    pub(crate) fn feature_width(&self) -> usize {
        self.model.feature_width()
    }

    /// Features before the head, scaled to unit length, and their width.
    pub(crate) fn unit_features(&mut self, images: &[u8]) -> Result<(Vec<f32>, usize)> {
        let calibration = self.calibration(true)?;
        let width = self.model.feature_width();
        let mut features = self.outputs(&calibration, images, true)?;
        to_unit_lengths(&mut features, width);
        Ok((features, width))
    }

    /// The cosines between the mean features, each of unit length, of the classes' test images: classes
    /// × classes; 0 for a class without images.
    ///
    /// # Errors
    /// If the images do not fit the network.
    pub fn class_cosines(&mut self, stream: &Stream) -> Result<Vec<Vec<f64>>> {
        let mut means = vec![Vec::new(); self.classes()];
        for task in stream.tasks() {
            let examples = stream.test_examples(task.index, &task.test);
            let (features, width) = self.unit_features(&examples.images)?;
            for (row, &label) in features.chunks_exact(width).zip(&examples.labels) {
                let mean: &mut Vec<f64> = &mut means[label as usize];
                mean.resize(width, 0.0);
                let pairs = mean.iter_mut().zip(row);
                pairs.for_each(|(sum, value)| *sum += f64::from(*value));
            }
        }
        let dot =
            |one: &[f64], other: &[f64]| -> f64 { one.iter().zip(other).map(|(a, b)| a * b).sum() };
        let lengths: Vec<f64> = means.iter().map(|mean| dot(mean, mean).sqrt()).collect();
        let cosine = |one: usize, other: usize| match lengths[one] * lengths[other] {
            0.0 => 0.0,
            length => dot(&means[one], &means[other]) / length,
        };
        let all = 0..means.len();
        Ok(all
            .clone()
            .map(|one| all.clone().map(|other| cosine(one, other)).collect())
            .collect())
    }

    /// Scores of images, N × classes; the largest is the prediction.
    fn scores(&mut self, images: &[u8], fresh: Option<&mut Self>) -> Result<Vec<f32>> {
        match (self.method.classifier, fresh) {
            (Classifier::FreshFromMemory { .. }, Some(fresh)) => fresh.head_scores(images),
            (Classifier::NearestMean, _) if self.memory.as_ref().is_some_and(|m| !m.is_empty()) => {
                self.nearest_mean_scores(images)
            }
            _ => self.head_scores(images),
        }
    }

    /// Logits, between two tasks as BiC corrects them.
    pub(super) fn head_scores(&mut self, images: &[u8]) -> Result<Vec<f32>> {
        let mut scores = self.raw_scores(images)?;
        if let Some(correction) = self.correction.as_ref().filter(|_| self.batches == 0) {
            correction.apply(&mut scores, self.model.classes());
        }
        Ok(scores)
    }

    fn raw_scores(&mut self, images: &[u8]) -> Result<Vec<f32>> {
        if self.has_norms && self.recent.is_empty() {
            let values = self.model.input_shape().len();
            self.recent.images = images[..images.len().min(RECENT * values)].to_vec();
            let found = self.calibration(false);
            self.recent.images.clear();
            return self.outputs(&found?, images, false);
        }
        let calibration = self.calibration(false)?;
        self.outputs(&calibration, images, false)
    }

    fn nearest_mean_scores(&mut self, images: &[u8]) -> Result<Vec<f32>> {
        let classes = self.classes();
        let Some((stored, labels)) = self
            .memory
            .as_ref()
            .map(|memory| (memory.images.clone(), memory.labels.clone()))
        else {
            return self.head_scores(images);
        };
        let (mut stored, mut labels) = (stored, labels);
        if let Some(shape) = self.settings.mirrored {
            let mut mirrored = stored.clone();
            mirror(shape, &mut mirrored);
            stored.extend_from_slice(&mirrored);
            labels.extend_from_within(..);
        }
        let (features, width) = self.unit_features(&stored)?;
        let mut means = vec![0.0f32; classes * width];
        let mut is_there = vec![false; classes];
        for (row, &label) in features.chunks_exact(width).zip(&labels) {
            is_there[label as usize] = true;
            let mean = means[label as usize * width..][..width].iter_mut();
            mean.zip(row).for_each(|(sum, value)| *sum += value);
        }
        to_unit_lengths(&mut means, width);
        let (features, _) = self.unit_features(images)?;
        let mut scores = Vec::with_capacity(features.len() / width * classes);
        for row in features.chunks_exact(width) {
            for (class, mean) in means.chunks_exact(width).enumerate() {
                let distance: f32 = row.iter().zip(mean).map(|(a, b)| (a - b) * (a - b)).sum();
                scores.push(if is_there[class] {
                    -distance
                } else {
                    f32::NEG_INFINITY
                });
            }
        }
        Ok(scores)
    }

    /// GDumb's network: fresh weights, trained on the memory alone.
    fn fresh_from_memory(&self, epochs: usize) -> Result<Option<Self>> {
        let Some(memory) = self.memory.as_ref().filter(|memory| !memory.is_empty()) else {
            return Ok(None);
        };
        let settings = LearnerSettings {
            decay: Decay::Constant,
            ..self.settings.clone()
        };
        let mut fresh = self.fresh(Method::fine_tune(), settings)?;
        for epoch in 0..epochs {
            let mut order: Vec<usize> = (0..memory.len()).collect();
            let index = epoch as u64;
            Draws::new(self.settings.seed, "memory-epoch", self.task as u64, index)
                .shuffle(&mut order);
            for places in order.chunks(self.settings.batch_size.max(1)) {
                fresh.step(&memory.examples(places))?;
            }
        }
        Ok(Some(fresh))
    }

    /// The class of each image among those seen.
    ///
    /// # Errors
    /// If the images do not fit the network.
    pub fn predictions(&mut self, images: &[u8]) -> Result<Vec<u32>> {
        let mut fresh = self.fresh_classifier()?;
        let scores = self.scores(images, fresh.as_mut())?;
        let rows = scores.chunks_exact(self.classes());
        let seen = self.classes_to_tell();
        let found = rows.map(|row| largest(row, seen.iter().copied()).unwrap_or(0));
        Ok(found.collect())
    }

    /// The classes among which an image is classified: those seen, before the first step all.
    fn classes_to_tell(&self) -> Vec<u32> {
        match self.seen.is_empty() {
            true => (0..self.classes() as u32).collect(),
            false => self.seen.clone(),
        }
    }

    /// The network of GDumb's classifier, ready to classify.
    fn fresh_classifier(&self) -> Result<Option<Self>> {
        let Classifier::FreshFromMemory { epochs } = self.method.classifier else {
            return Ok(None);
        };
        let mut fresh = self.fresh_from_memory(epochs)?;
        if let Some(fresh) = &mut fresh {
            fresh.model = Arc::clone(&self.model);
        }
        Ok(fresh)
    }

    /// As [`Learner::evaluate`], of each subnet of [`Learner::watched`], calibrated by itself.
    ///
    /// # Errors
    /// As [`Learner::evaluate`].
    pub fn evaluate_watched(&mut self, stream: &Stream) -> Result<Vec<Vec<TaskAccuracy>>> {
        let graphs: Vec<Graph> = self
            .watched()
            .iter()
            .map(|one| one.subnet.graph().clone())
            .collect();
        let mut found = Vec::new();
        for graph in graphs {
            let model = Arc::new(self.model.member(&graph, &self.parameters)?);
            let largest = std::mem::replace(&mut self.model, model);
            let accuracies = self.evaluate(stream);
            self.model = largest;
            found.push(accuracies?);
        }
        Ok(found)
    }

    /// Accuracies on every task of `stream`, class- and task-incremental in one pass. Nothing that
    /// is learnt changes.
    ///
    /// # Errors
    /// If the images do not fit the network.
    pub fn evaluate(&mut self, stream: &Stream) -> Result<Vec<TaskAccuracy>> {
        self.evaluate_first(stream, stream.tasks().len())
    }

    /// As [`Learner::evaluate`], on the first `tasks` tasks.
    ///
    /// # Errors
    /// As [`Learner::evaluate`].
    pub fn evaluate_first(&mut self, stream: &Stream, tasks: usize) -> Result<Vec<TaskAccuracy>> {
        let classes = self.classes();
        let mut fresh = self.fresh_classifier()?;
        let seen = self.classes_to_tell();
        let forwarded = self.forwarded;
        let mut accuracies = Vec::new();
        for task in stream.tasks().iter().take(tasks) {
            let examples = stream.test_examples(task.index, &task.test);
            self.check(&examples)?;
            let scores = self.scores(&examples.images, fresh.as_mut())?;
            let accuracy = |range: &[u32]| {
                let rows = scores.chunks_exact(classes).zip(&examples.labels);
                let correct = rows
                    .filter(|(row, label)| largest(row, range.iter().copied()) == Some(**label))
                    .count();
                correct as f64 / examples.len() as f64
            };
            accuracies.push(TaskAccuracy {
                class_incremental: accuracy(&seen),
                task_incremental: accuracy(&task.classes),
            });
        }
        self.evaluation_macs += std::mem::replace(&mut self.forwarded, forwarded) - forwarded;
        if let Some(fresh) = fresh {
            self.evaluation_macs += fresh.train_macs + fresh.forwarded;
        }
        Ok(accuracies)
    }
}

#[cfg(test)]
mod tests {
    use super::missing_places;

    #[test]
    fn recent_classes_are_filled_up_to_what_the_memory_has_of_the_others() {
        // Of the classes 0 and 1 the memory has 5 on average; of 2 it has 3, of 3 none.
        let recent = [3, 2, 2, 3, 2, 3, 3, 2, 3, 3];
        assert_eq!(
            missing_places(&[4, 6, 3, 0, 0], &recent),
            [3, 4, 5, 6, 7, 8, 9]
        );
        // Enough is there; and where all classes come again, the memory has them all.
        assert!(missing_places(&[4, 6, 5, 7], &[2, 3, 3]).is_empty());
        assert!(missing_places(&[4, 6], &[1, 0, 0]).is_empty());
    }
}
