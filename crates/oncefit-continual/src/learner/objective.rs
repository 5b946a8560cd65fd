//! Gradients of the output-space terms, on every network of a step.

use super::*;

/// What the network at the end of the previous task makes of a batch.
pub(super) struct Previous {
    logits: Vec<f32>,
    /// Of a cosine head.
    unit_features: Vec<f32>,
}

/// What a pass through the output-space terms found.
#[derive(Default)]
pub(super) struct Found {
    /// Loss of the new images.
    pub loss: f64,
    /// Logits of the new images.
    pub logits: Vec<f32>,
    /// What ran.
    pub cost: Cost,
}

/// Other networks' logits for the rows of a segment.
#[derive(Clone, Copy)]
struct SoftLabels<'a> {
    /// Of the network at the end of the previous task.
    previous: Option<&'a [f32]>,
    /// Of the step's largest network, for those that learn them instead of labels.
    largest: Option<&'a [f32]>,
}

impl Learner {
    /// The gradients of the output-space terms, on every network of the step.
    pub(super) fn output_gradients(&mut self, lesson: &Lesson) -> Result<Found> {
        let values = self.model.input_shape().len();
        let mut found = Found::default();
        self.gradients.clear();
        if self.method.cross_entropy == 0.0 && self.method.outputs.is_empty() {
            return Ok(found);
        }
        let segments = &lesson.segments;
        // Without batch-norm rows do not see each other: one pass for all segments.
        let groups: Vec<&[Segment]> = match self.has_norms {
            true => segments.chunks(1).collect(),
            false => vec![segments],
        };
        let total = segments.last().map_or(0, |segment| segment.rows.end);
        for group in groups {
            let rows = group[0].rows.start..group[group.len() - 1].rows.end;
            let images = Batch {
                data: &lesson.inputs[rows.start * values..rows.end * values],
                count: rows.len(),
            };
            let previous = self.previous_outputs(images)?;
            let mut largest = None;
            for network in &lesson.networks {
                let logits = self.network_gradients(
                    network,
                    group,
                    (images, total),
                    previous.as_ref(),
                    largest.as_deref(),
                    &mut found,
                )?;
                largest.get_or_insert(logits);
                found.cost.add(network, rows.len());
            }
        }
        if let Some(elastic) = &mut self.elastic {
            elastic.aggregate(&lesson.networks, &self.parameters, &mut self.gradients);
        }
        Ok(found)
    }

    /// Adds the gradients of one network on neighbouring segments of a step's `total` images;
    /// returns its logits. Without `largest` it is the step's largest.
    fn network_gradients(
        &mut self,
        network: &StepNetwork,
        group: &[Segment],
        (images, total): (Batch, usize),
        previous: Option<&Previous>,
        largest: Option<&[f32]>,
        found: &mut Found,
    ) -> Result<Vec<f32>> {
        let classes = self.classes();
        let first = group[0].rows.start;
        let mode = Mode::Train { dropout: None };
        let model = &network.model;
        let output = model.forward(&mut self.executor, &self.parameters, images, mode)?;
        let mut outputs = OutputGradients {
            logits: vec![0.0; images.count * classes],
            ..OutputGradients::default()
        };
        for segment in group {
            // One mean over all images, or one over each segment's.
            let share = match self.method.joint_mean {
                true => segment.rows.len() as f64 / total as f64,
                false => 1.0,
            };
            let range =
                (segment.rows.start - first) * classes..(segment.rows.end - first) * classes;
            let logits = &output.logits()[range.clone()];
            let soft = SoftLabels {
                previous: previous.map(|all| &all.logits[range.clone()]),
                largest: largest
                    .filter(|_| network.learns_largest)
                    .map(|all| &all[range.clone()]),
            };
            let gradient = &mut outputs.logits[range.clone()];
            let mut loss = self.objective(segment, share, logits, soft, gradient);
            if self.method.angles.is_some() {
                let at = segment.rows.start - first;
                loss += self.angle_terms(segment, at, share, &output, previous, &mut outputs);
            }
            if largest.is_none() && segment.draw.is_none() {
                found.loss = loss;
                found.logits.extend_from_slice(logits);
            }
        }
        if let Some(at) = outputs.logits.iter().position(|value| !value.is_finite()) {
            return Err(ContinualError::NotFinite {
                what: "the loss",
                step: self.step,
                detail: format!("image {} of the step", first + at / classes),
            });
        }
        let logits = output.logits().to_vec();
        model.backward(
            &mut self.executor,
            &self.parameters,
            output,
            &outputs,
            &mut self.gradients,
        )?;
        Ok(logits)
    }

    fn previous_outputs(&mut self, images: Batch) -> Result<Option<Previous>> {
        let Some(previous) = &self.previous else {
            return Ok(None);
        };
        self.train_macs += images.count as u64 * self.model.macs();
        let executor = &mut self.executor;
        let mode = Mode::BatchStatistics;
        let output = self.model.forward(executor, previous, images, mode)?;
        let mut found = Previous {
            logits: output.logits().to_vec(),
            unit_features: output.unit_features_and_cosines().0.to_vec(),
        };
        self.model.recycle(executor, output);
        if let Some(correction) = &self.correction {
            correction.apply(&mut found.logits, self.model.classes());
        }
        Ok(Some(found))
    }

    /// The output-space part of one segment; returns the cross-entropy of new images.
    fn objective(
        &self,
        segment: &Segment,
        share: f64,
        logits: &[f32],
        soft: SoftLabels,
        gradient: &mut [f32],
    ) -> f64 {
        let classes = self.classes();
        let all = self.classes_of_head();
        let (of_labels, of_previous) = match self.method.shares_by_classes {
            true => {
                let old = self.old as f64 / self.seen.len() as f64;
                (share * (1.0 - old), share * old)
            }
            false => (share, share),
        };
        let mut loss = 0.0;
        if segment.draw.is_none() && self.method.cross_entropy != 0.0 {
            let range = match self.method.batch_classes {
                BatchClasses::All => all.clone(),
                BatchClasses::Seen => self.seen.clone(),
                BatchClasses::OfBatch => {
                    let mut present = segment.labels.clone();
                    present.sort_unstable();
                    present.dedup();
                    present
                }
            };
            let weight = self.method.cross_entropy * of_labels;
            let labels = &segment.labels;
            loss = match soft.largest {
                None => cross_entropy(logits, labels, classes, &range, weight, gradient),
                Some(largest) => {
                    let kind = Divergence::KullbackLeibler { temperature: 1.0 };
                    output_divergence(kind, logits, largest, classes, &range, weight, gradient)
                }
            };
        }
        for term in self.method.outputs.iter().filter(|term| term.weight != 0.0) {
            let draw = match term.images {
                Images::Current => None,
                Images::Memory { draw, .. } => Some(draw),
            };
            if draw != segment.draw {
                continue;
            }
            let range = match term.classes {
                ClassRange::All => &all[..],
                ClassRange::Old => &self.seen[..self.old],
                ClassRange::New => &self.seen[self.old..],
            };
            let stored;
            let reference = match (term.reference, soft.largest) {
                (Reference::Labels, Some(largest)) => largest,
                (Reference::Labels, None) => {
                    let divergence = match term.divergence {
                        Divergence::BinaryKullbackLeibler => binary_cross_entropy,
                        _ => cross_entropy,
                    };
                    let labels = &segment.labels;
                    let weight = term.weight * of_labels;
                    let found = divergence(logits, labels, classes, range, weight, gradient);
                    if segment.draw.is_none() {
                        loss += term.weight * found;
                    }
                    continue;
                }
                (Reference::Uniform, _) => &[],
                (Reference::PreviousNetwork, _) => match soft.previous {
                    Some(previous) => previous,
                    None => continue,
                },
                (Reference::StoredLogits, _) => {
                    let memory = self.memory.as_ref();
                    stored = memory
                        .map_or_else(Vec::new, |memory| memory.stored_logits(&segment.places));
                    &stored[..]
                }
            };
            let weight = match term.reference {
                Reference::Labels => term.weight * of_labels,
                Reference::PreviousNetwork => term.weight * of_previous,
                _ => term.weight * share,
            };
            output_divergence(
                term.divergence,
                logits,
                reference,
                classes,
                range,
                weight,
                gradient,
            );
        }
        loss
    }

    /// LUCIR's part of one segment, whose rows of `output` begin at `first`; returns its loss.
    fn angle_terms(
        &self,
        segment: &Segment,
        first: usize,
        share: f64,
        output: &Output,
        previous: Option<&Previous>,
        outputs: &mut OutputGradients,
    ) -> f64 {
        let Some(angles) = &self.method.angles else {
            return 0.0;
        };
        let (unit, cosines) = output.unit_features_and_cosines();
        outputs.unit_features.resize(unit.len(), 0.0);
        outputs.cosines.resize(cosines.len(), 0.0);
        let (width, classes) = (self.model.feature_width(), self.classes());
        let rows = first..first + segment.rows.len();
        let (old, new) = self.seen.split_at(self.old);
        let lambda = angles.less_forget * angles.growth.factor(old.len(), new.len());
        let mut loss = 0.0;
        if let (Some(previous), true) = (previous, lambda != 0.0) {
            let range = rows.start * width..rows.end * width;
            let (now, fixed) = (&unit[range.clone()], &previous.unit_features[range.clone()]);
            let gradient = &mut outputs.unit_features[range];
            loss += lambda * less_forget(now, fixed, width, lambda * share, gradient);
        }
        if angles.ranking != 0.0 {
            let range = rows.start * classes..rows.end * classes;
            let gradient = &mut outputs.cosines[range.clone()];
            let weight = (angles, angles.ranking);
            let labels = &segment.labels;
            let cosines = &cosines[range];
            loss += angles.ranking
                * margin_ranking(cosines, labels, classes, (old, new), weight, gradient);
        }
        loss
    }

    /// Adds the gradients of the mean cross-entropy over all classes.
    pub(super) fn plain_gradients(
        &mut self,
        networks: &[StepNetwork],
        inputs: &[f32],
        labels: &[u32],
        into: &mut Gradients,
        cost: &mut Cost,
    ) -> Result<()> {
        let classes = self.classes();
        let all = self.classes_of_head();
        let images = Batch {
            data: inputs,
            count: labels.len(),
        };
        for network in networks {
            let mode = Mode::Train { dropout: None };
            let (executor, parameters) = (&mut self.executor, &self.parameters);
            let output = network.model.forward(executor, parameters, images, mode)?;
            let mut outputs = OutputGradients {
                logits: vec![0.0; labels.len() * classes],
                ..OutputGradients::default()
            };
            let gradient = &mut outputs.logits;
            cross_entropy(output.logits(), labels, classes, &all, 1.0, gradient);
            network
                .model
                .backward(executor, parameters, output, &outputs, into)?;
            cost.add(network, labels.len());
        }
        if let Some(elastic) = &mut self.elastic {
            elastic.aggregate(networks, &self.parameters, into);
        }
        Ok(())
    }
}
