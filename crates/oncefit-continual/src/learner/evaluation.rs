//! Evaluation of all tasks that were seen: calibration, classifiers, accuracies.

use super::*;

impl Learner {
    pub(super) fn calibration(&mut self, graph: &Graph) -> Result<(Plan, Calibration)> {
        let plan = Plan::new(graph, &self.parameters)?;
        if !self.has_norms {
            return Ok((plan, Calibration::None));
        }
        let mut images = self.recent.images.clone();
        if let Some(memory) = &self.memory {
            images.extend_from_slice(&memory.images);
        }
        let inputs = normalised(&images, &self.settings.normalisation);
        let values = plan.input_shape().len();
        let batches = inputs.chunks(128 * values).map(|data| Batch {
            data,
            count: data.len() / values,
        });
        let found = self.executor.calibrate(&plan, &self.parameters, batches)?;
        Ok((plan, found))
    }

    fn outputs(
        &mut self,
        plan: &Plan,
        calibration: &Calibration,
        images: &[u8],
    ) -> Result<Vec<f32>> {
        let values = plan.input_shape().len();
        let mut outputs = Vec::new();
        for bytes in images.chunks(500 * values) {
            let data = normalised(bytes, &self.settings.normalisation);
            let batch = Batch {
                data: &data,
                count: data.len() / values,
            };
            let mode = Mode::Evaluate(calibration);
            let tape = self.executor.forward(plan, &self.parameters, batch, mode)?;
            outputs.extend_from_slice(tape.output());
            self.executor.recycle(tape);
        }
        Ok(outputs)
    }

    /// Features before the head, scaled to unit length, and their width.
    pub(super) fn unit_features(
        &mut self,
        graph: &Graph,
        images: &[u8],
    ) -> Result<(Vec<f32>, usize)> {
        let mut graph = graph.clone();
        graph.nodes.pop();
        let (plan, calibration) = self.calibration(&graph)?;
        let width = plan.output_shape().len();
        let mut features = self.outputs(&plan, &calibration, images)?;
        features.chunks_exact_mut(width).for_each(to_unit_length);
        Ok((features, width))
    }

    /// Scores of images, N × classes; the largest is the prediction.
    fn scores(
        &mut self,
        graph: &Graph,
        images: &[u8],
        fresh: Option<&mut Self>,
    ) -> Result<Vec<f32>> {
        match (self.method.classifier, fresh) {
            (Classifier::FreshFromMemory { .. }, Some(fresh)) => fresh.head_scores(graph, images),
            (Classifier::NearestMean, _) if self.memory.as_ref().is_some_and(|m| !m.is_empty()) => {
                self.nearest_mean_scores(graph, images)
            }
            _ => self.head_scores(graph, images),
        }
    }

    fn head_scores(&mut self, graph: &Graph, images: &[u8]) -> Result<Vec<f32>> {
        if self.has_norms && self.recent.is_empty() {
            let values = self.plan.input_shape().len();
            self.recent.images = images[..images.len().min(RECENT * values)].to_vec();
            let found = self.calibration(graph);
            self.recent.images.clear();
            let (plan, calibration) = found?;
            return self.outputs(&plan, &calibration, images);
        }
        let (plan, calibration) = self.calibration(graph)?;
        self.outputs(&plan, &calibration, images)
    }

    fn nearest_mean_scores(&mut self, graph: &Graph, images: &[u8]) -> Result<Vec<f32>> {
        let classes = self.classes();
        let Some((stored, labels)) = self
            .memory
            .as_ref()
            .map(|memory| (memory.images.clone(), memory.labels.clone()))
        else {
            return self.head_scores(graph, images);
        };
        let (features, width) = self.unit_features(graph, &stored)?;
        let mut means = vec![0.0f32; classes * width];
        let mut is_there = vec![false; classes];
        for (row, &label) in features.chunks_exact(width).zip(&labels) {
            is_there[label as usize] = true;
            let mean = means[label as usize * width..][..width].iter_mut();
            mean.zip(row).for_each(|(sum, value)| *sum += value);
        }
        means.chunks_exact_mut(width).for_each(to_unit_length);
        let (features, _) = self.unit_features(graph, images)?;
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
        let mut fresh = self.fresh(Method::fine_tune())?;
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

    /// Accuracies on every task of `stream`, class- and task-incremental in one pass. Nothing that
    /// is learnt changes.
    ///
    /// # Errors
    /// If the images do not fit the network.
    pub fn evaluate(&mut self, stream: &Stream) -> Result<Vec<TaskAccuracy>> {
        let graph = self.graph.clone();
        Ok(self.evaluate_networks(&[&graph], stream)?.remove(0))
    }

    /// As [`Learner::evaluate`], of each subnet of [`Learner::watched`].
    ///
    /// # Errors
    /// If the images do not fit the network.
    pub fn evaluate_watched(&mut self, stream: &Stream) -> Result<Vec<Vec<TaskAccuracy>>> {
        let watched: Vec<Subnet> = self
            .watched()
            .iter()
            .map(|one| one.subnet.clone())
            .collect();
        let graphs: Vec<&Graph> = watched.iter().map(Subnet::graph).collect();
        self.evaluate_networks(&graphs, stream)
    }

    fn evaluate_networks(
        &mut self,
        graphs: &[&Graph],
        stream: &Stream,
    ) -> Result<Vec<Vec<TaskAccuracy>>> {
        let classes = self.classes();
        let mut fresh = match self.method.classifier {
            Classifier::FreshFromMemory { epochs } => self.fresh_from_memory(epochs)?,
            _ => None,
        };
        let seen: Vec<u32> = match self.seen.is_empty() {
            true => (0..classes as u32).collect(),
            false => self.seen.clone(),
        };
        let mut accuracies = vec![Vec::new(); graphs.len()];
        for task in stream.tasks() {
            let examples = stream.test_examples(task.index, &task.test);
            self.check(&examples)?;
            for (graph, accuracies) in graphs.iter().zip(&mut accuracies) {
                let scores = self.scores(graph, &examples.images, fresh.as_mut())?;
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
        }
        Ok(accuracies)
    }
}

fn to_unit_length(row: &mut [f32]) {
    let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
    if norm > 0.0 {
        row.iter_mut().for_each(|value| *value /= norm);
    }
}
