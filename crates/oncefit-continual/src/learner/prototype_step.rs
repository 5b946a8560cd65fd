//! OnPro's step ([`OnPro`]): four kinds of pass, each through every network of the step.

use oncefit_kernels::Cpu;

use super::*;
use crate::linear::Linear;
use crate::onpro::{
    Centres, Instance, InstanceKind, MixedLabel, Mixtures, OnPro, feedback, instance_loss,
    pair_shares, prototype_equilibrium, turned_copies,
};

/// Name of the projection's layer.
pub(super) const PROJECTION: &str = "prototype-projection";

/// What a step found; the gradients are in the learner.
pub(super) struct PrototypeStep {
    pub loss: f64,
    /// Of the new images as they are, by the network before the step.
    pub logits: Vec<f32>,
    /// Of the memory batch; of an empty memory none.
    pub centres: Option<Centres>,
}

/// Images turned, and then a view of each; labels of the images alone, each turn a class of its own.
struct Turned {
    inputs: Vec<f32>,
    labels: Vec<u32>,
}

/// What a pass learns from: values, and how many images they are.
type Inputs<'a> = (&'a [f32], usize);

/// Features and projections of the rows, and what is to be added to their gradients.
struct Rows<'a> {
    features: &'a [f32],
    projections: &'a [f32],
    of_features: &'a mut [f32],
    of_projections: &'a mut [f32],
    widths: (usize, usize),
}

impl Learner {
    /// Adds the gradients of a step on `examples`.
    pub(super) fn prototype_step(
        &mut self,
        settings: &OnPro,
        examples: &Examples,
        networks: &[StepNetwork],
        cost: &mut Cost,
    ) -> Result<PrototypeStep> {
        let has_earlier_tasks = self.old > 0;
        let batch = self.memory.as_ref().map(|memory| {
            let count = settings.draw(self.seen.len());
            memory.examples(&memory.draw(count, self.step, 0))
        });
        let batch = batch.filter(|batch| !batch.is_empty());
        let replay = match (&batch, &self.memory) {
            (Some(batch), Some(memory)) if has_earlier_tasks => Some(match self.batches {
                0 => Mixtures::plain(batch.clone()),
                _ => {
                    let seed = self.settings.seed;
                    let mut draws = Draws::new(seed, "prototype-feedback", self.step, 0);
                    feedback(settings, memory, batch, &self.centres, &mut draws)
                }
            }),
            _ => None,
        };
        let new = Mixtures::plain(examples.clone());
        let (mut turned_new, mut turned_replay) = (None, None);
        if settings.instance > 0.0 || settings.equilibrium > 0.0 {
            turned_new = Some(self.turned(settings, &new, "new-views")?);
        }
        if settings.instance > 0.0
            && let Some(replay) = &replay
        {
            turned_replay = Some(self.turned(settings, replay, "replay-views")?);
        }
        let sampled = batch.map(|batch| {
            let mut inputs = normalised(&batch.images, &self.settings.normalisation);
            inputs.extend(self.inputs(batch.images, "memory-views"));
            (inputs, batch.labels)
        });
        let mut classified = Vec::new();
        if !has_earlier_tasks || settings.learns_new_labels || replay.is_none() {
            let inputs = self.inputs(new.images, "classified-views");
            classified.push((inputs, new.labels));
        }
        if let Some(replay) = replay {
            let inputs = self.inputs(replay.images, "classified-replay-views");
            classified.push((inputs, replay.labels));
        }
        let logits = self.logits_before(&examples.images)?;
        self.gradients.clear();
        let mut found = PrototypeStep {
            loss: 0.0,
            logits,
            centres: None,
        };
        for (index, network) in networks.iter().enumerate() {
            let loss = self.prototype_losses(
                settings,
                network,
                (turned_new.as_ref(), turned_replay.as_ref()),
                sampled.as_ref(),
                (index == 0).then_some(&mut found.centres),
                cost,
            )?;
            let mut all = loss;
            for (inputs, labels) in &classified {
                all += self.learn_mixed_labels(network, inputs, labels)?;
                cost.add(network, labels.len());
            }
            if index == 0 {
                found.loss = all;
            }
            if !all.is_finite() {
                return Err(ContinualError::NotFinite {
                    what: "the loss",
                    step: self.step,
                    detail: "OnPro's loss of the step".into(),
                });
            }
        }
        if let Some(elastic) = &mut self.elastic {
            elastic.aggregate(networks, &self.parameters, &mut self.gradients);
        }
        Ok(found)
    }

    /// Instance and equilibrium losses of one network; the centres of the memory batch go to
    /// `centres`.
    fn prototype_losses(
        &mut self,
        settings: &OnPro,
        network: &StepNetwork,
        (new, replay): (Option<&Turned>, Option<&Turned>),
        sampled: Option<&(Vec<f32>, Vec<u32>)>,
        centres: Option<&mut Option<Centres>>,
        cost: &mut Cost,
    ) -> Result<f64> {
        let spare = network.model.feature_width() - settings.projection;
        let similarity = match self.old {
            0 => 1.0,
            _ => settings.similarity,
        };
        let instance = |step: u64, seed: u64, kind: InstanceKind| {
            let mut draws = Draws::new(seed, "instance-window", step, kind as u64);
            Instance {
                kind,
                temperature: settings.instance_temperature,
                similarity,
                offset: draws.below(spare.max(1)),
            }
        };
        let (seed, step, cpu) = (self.settings.seed, self.step, self.executor.cpu());
        let temperature = settings.equilibrium_temperature;
        let mut loss = 0.0;
        if let Some(Turned { inputs, labels }) = new {
            let images = labels.len();
            let plain = images / settings.turns.count();
            cost.add(network, 2 * images);
            loss += self.contrasted(network, (inputs, 2 * images), &mut |mut rows| {
                let found = instance(step, seed, InstanceKind::New);
                let mut loss = rows.instance(cpu, settings.instance, found, labels);
                if settings.equilibrium > 0.0 {
                    let width = rows.widths.0;
                    let (one, other) = rows.projections.split_at(images * width);
                    let (of_one, of_other) = rows.of_projections.split_at_mut(images * width);
                    let plain_values = plain * width;
                    // The first turn is none, so these labels are the classes.
                    let labels = &labels[..plain];
                    let weight = settings.equilibrium;
                    loss += weight
                        * equilibrium(
                            [&one[..plain_values], &other[..plain_values]],
                            labels,
                            (width, temperature, weight),
                            [&mut of_one[..plain_values], &mut of_other[..plain_values]],
                        );
                }
                loss
            })?;
        }
        if let Some(Turned { inputs, labels }) = replay {
            cost.add(network, 2 * labels.len());
            loss += self.contrasted(network, (inputs, 2 * labels.len()), &mut |mut rows| {
                let found = instance(step, seed, InstanceKind::Memory);
                rows.instance(cpu, settings.instance, found, labels)
            })?;
        }
        // Centres are needed for feedback even where the loss is off.
        let has_use =
            settings.equilibrium > 0.0 || (settings.base_share < 1.0 && centres.is_some());
        if let Some((inputs, labels)) = sampled.filter(|_| has_use) {
            cost.add(network, 2 * labels.len());
            let mut found = Centres::default();
            loss += self.contrasted(network, (inputs, 2 * labels.len()), &mut |rows| {
                let half = rows.projections.len() / 2;
                let (one, other) = rows.projections.split_at(half);
                let (of_one, of_other) = rows.of_projections.split_at_mut(half);
                found = Centres::of([one, other], labels, rows.widths.0);
                let weight = settings.equilibrium;
                let constants = (rows.widths.0, temperature, weight);
                weight * equilibrium([one, other], labels, constants, [of_one, of_other])
            })?;
            if let Some(centres) = centres {
                *centres = Some(found);
            }
        }
        Ok(loss)
    }

    /// One pass through encoder and projection, and back with what `loss` adds to the gradients.
    fn contrasted(
        &mut self,
        network: &StepNetwork,
        (data, count): Inputs,
        loss: &mut dyn FnMut(Rows) -> f64,
    ) -> Result<f64> {
        let (plan, parameters) = (network.model.encoder(), &self.parameters);
        let (cpu, width) = (self.executor.cpu(), network.model.feature_width());
        let layer = Linear::of(parameters, PROJECTION);
        let mode = Mode::Train { dropout: None };
        let tape = self
            .executor
            .forward(plan, parameters, Batch { data, count }, mode)?;
        let features = tape.output();
        let projections = layer.forward(cpu, parameters, features, width);
        let mut of_features = vec![0.0; features.len()];
        let mut of_projections = vec![0.0; projections.len()];
        let found = loss(Rows {
            features,
            projections: &projections,
            of_features: &mut of_features,
            of_projections: &mut of_projections,
            widths: (layer.outputs, width),
        });
        let rows = (features, width);
        let through = layer.backward(cpu, parameters, rows, &of_projections, &mut self.gradients);
        let sums = of_features.iter_mut().zip(through);
        sums.for_each(|(sum, value)| *sum += value);
        self.executor
            .backward(plan, parameters, tape, &of_features, &mut self.gradients)?;
        Ok(found)
    }

    /// Mean of `(1 − λ) CE(first) + λ CE(second)`, with its gradients.
    fn learn_mixed_labels(
        &mut self,
        network: &StepNetwork,
        data: &[f32],
        labels: &[MixedLabel],
    ) -> Result<f64> {
        let (classes, range) = (self.classes(), self.classes_of_head());
        let images = Batch {
            data,
            count: labels.len(),
        };
        let mode = Mode::Train { dropout: None };
        let (executor, parameters) = (&mut self.executor, &self.parameters);
        let output = network.model.forward(executor, parameters, images, mode)?;
        let mut outputs = OutputGradients {
            logits: vec![0.0; labels.len() * classes],
            ..OutputGradients::default()
        };
        let mut loss = 0.0;
        let rows = output.logits().chunks_exact(classes).zip(labels);
        for ((logits, label), gradient) in rows.zip(outputs.logits.chunks_exact_mut(classes)) {
            for (class, share) in [
                (label.first, 1.0 - f64::from(label.share)),
                (label.second, f64::from(label.share)),
            ] {
                if share > 0.0 {
                    let weight = share / labels.len() as f64;
                    loss +=
                        weight * cross_entropy(logits, &[class], classes, &range, weight, gradient);
                }
            }
        }
        let gradients = &mut self.gradients;
        network
            .model
            .backward(executor, parameters, output, &outputs, gradients)?;
        Ok(loss)
    }

    fn turned(
        &self,
        settings: &OnPro,
        mixtures: &Mixtures,
        purpose: &'static str,
    ) -> Result<Turned> {
        let Some(changes) = &self.settings.augmentation else {
            return Err(needs_views());
        };
        let copies: Vec<Vec<Vec<u8>>> = mixtures
            .images
            .chunks_exact(changes.shape.bytes())
            .map(|image| turned_copies(image, changes.shape, settings.turns))
            .collect::<Result<_>>()?;
        let mut keys: Vec<_> = mixtures.labels.iter().map(|label| label.key()).collect();
        keys.sort_unstable();
        keys.dedup();
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for turn in 0..settings.turns.count() {
            for (copies, label) in copies.iter().zip(&mixtures.labels) {
                pixels.extend_from_slice(&copies[turn]);
                let place = keys.partition_point(|key| *key < label.key());
                labels.push((turn * keys.len() + place) as u32);
            }
        }
        let mut inputs = normalised(&pixels, &self.settings.normalisation);
        inputs.extend(self.inputs(pixels, purpose));
        Ok(Turned { inputs, labels })
    }

    /// Logits of the new images before they are learnt; no gradients.
    fn logits_before(&mut self, images: &[u8]) -> Result<Vec<f32>> {
        let data = normalised(images, &self.settings.normalisation);
        let count = data.len() / self.model.input_shape().len();
        let batch = Batch { data: &data, count };
        let (executor, parameters) = (&mut self.executor, &self.parameters);
        let mode = Mode::BatchStatistics;
        let output = self.model.forward(executor, parameters, batch, mode)?;
        let logits = output.logits().to_vec();
        self.model.recycle(executor, output);
        Ok(logits)
    }

    /// Projections of images for OnPro, of unit length, and their width; none with another method.
    ///
    /// # Errors
    /// If the images do not fit the network.
    pub fn unit_projections(&mut self, images: &[u8]) -> Result<Option<(Vec<f32>, usize)>> {
        if self.method.prototypes.is_none() {
            return Ok(None);
        }
        let calibration = self.calibration(true)?;
        let features = self.outputs(&calibration, images, true)?;
        let layer = Linear::of(&self.parameters, PROJECTION);
        let width = self.model.feature_width();
        let mut projections =
            layer.forward(self.executor.cpu(), &self.parameters, &features, width);
        to_unit_lengths(&mut projections, layer.outputs);
        Ok(Some((projections, layer.outputs)))
    }

    /// OnPro's probabilities of pairs of classes, from the last step's centres; empty with another
    /// method.
    pub fn pair_shares(&self) -> Vec<((u32, u32), f64)> {
        let Some(settings) = &self.method.prototypes else {
            return Vec::new();
        };
        let (pairs, distances): (Vec<_>, Vec<_>) = self.centres.distances().into_iter().unzip();
        let shares = pair_shares(
            &distances,
            settings.pair_temperature,
            settings.distance_floor,
        );
        pairs.into_iter().zip(shares).collect()
    }
}

/// What is said where views are missing.
pub(super) fn needs_views() -> ContinualError {
    let legal = "a section: OnPro contrasts images with changed views of them";
    setting("`[augmentation]`", "not there", legal)
}

impl Rows<'_> {
    fn instance(&mut self, cpu: Cpu, weight: f64, settings: Instance, labels: &[u32]) -> f64 {
        if weight == 0.0 {
            return 0.0;
        }
        let (mut of_projections, mut of_features) = (
            vec![0.0; self.projections.len()],
            vec![0.0; self.features.len()],
        );
        let loss = instance_loss(
            cpu,
            settings,
            self.projections,
            self.features,
            labels,
            self.widths,
            [&mut of_projections, &mut of_features],
        );
        add_scaled(self.of_projections, weight, &of_projections);
        add_scaled(self.of_features, weight, &of_features);
        weight * loss
    }
}

fn add_scaled(out: &mut [f32], weight: f64, values: &[f32]) {
    let pairs = out.iter_mut().zip(values);
    pairs.for_each(|(out, value)| *out += weight as f32 * value);
}

/// The loss, with `weight` times its gradients.
fn equilibrium(
    views: [&[f32]; 2],
    labels: &[u32],
    (width, temperature, weight): (usize, f64, f64),
    gradients: [&mut [f32]; 2],
) -> f64 {
    if weight == 0.0 {
        return 0.0;
    }
    let mut found = [vec![0.0; views[0].len()], vec![0.0; views[1].len()]];
    let [one, other] = &mut found;
    let loss = prototype_equilibrium(views, labels, width, temperature, [one, other]);
    for (out, values) in gradients.into_iter().zip(&found) {
        add_scaled(out, weight, values);
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::mlp;
    use crate::onpro::Turns;

    const SHAPE: ImageShape = ImageShape {
        height: 4,
        width: 4,
        channels: 1,
    };

    fn learner(turns: Turns) -> Learner {
        let settings = LearnerSettings {
            learning_rate: 1e-3,
            memory: 20,
            batch_size: 4,
            augmentation: Some(ImageChanges {
                augmentation: Augmentation {
                    horizontal_flip: true,
                    ..Augmentation::NONE
                },
                shape: SHAPE,
            }),
            ..LearnerSettings::default()
        };
        let onpro = OnPro {
            replay: 6,
            projection: 5,
            turns,
            base_share: 0.5,
            mixing: 1.0,
            instance_temperature: 0.5,
            instance: 0.7,
            equilibrium: 1.3,
            ..OnPro::lite()
        };
        let space = mlp(16, 12, 4).unwrap();
        Learner::new(&space, Method::onpro(onpro), settings).unwrap()
    }

    fn batch(task: u32, index: u64) -> Examples {
        let mut draws = Draws::new(4, "test images", u64::from(task), index);
        Examples {
            images: (0..64).map(|_| draws.below(256) as u8).collect(),
            labels: vec![2 * task, 2 * task + 1, 2 * task, 2 * task + 1],
        }
    }

    /// The step's gradients are those of the loss that it reports, in both kinds of task.
    #[test]
    fn gradients_are_the_slopes_of_the_loss() {
        for (turns, tasks) in [(Turns::Four, 1), (Turns::Sixteen, 2), (Turns::Four, 2)] {
            let mut learner = learner(turns);
            for task in 0..tasks {
                for index in 0..3 {
                    learner.step(&batch(task, index)).unwrap();
                }
                if task + 1 < tasks {
                    learner.end_task(&batch(task, 0)).unwrap();
                }
            }
            let examples = batch(tasks - 1, 9);
            let onpro = learner.method.prototypes.clone().unwrap();
            let networks = learner.step_networks().unwrap();
            let start = learner.parameters.clone();
            let loss = |learner: &mut Learner| {
                let mut cost = Cost::default();
                let found = learner.prototype_step(&onpro, &examples, &networks, &mut cost);
                found.unwrap().loss
            };
            loss(&mut learner);
            let gradients = learner.gradients.clone();
            let mut checked = 0;
            for position in 0..start.len() {
                // Along its gradient, where the slope is its length.
                let gradient = gradients.at(position);
                let square = |value: &f32| f64::from(*value).powi(2);
                let length = gradient.iter().map(square).sum::<f64>().sqrt();
                if length < 1e-3 {
                    continue;
                }
                let mut moved = |by: f64| {
                    learner.parameters = start.clone();
                    let values = learner.parameters.at_mut(position).data.iter_mut();
                    let pairs = values.zip(gradient);
                    pairs.for_each(|(value, slope)| {
                        *value += (by * f64::from(*slope) / length) as f32;
                    });
                    loss(&mut learner)
                };
                let numeric = (moved(1e-3) - moved(-1e-3)) / 2e-3;
                let name = &start.at(position).name;
                assert!(
                    (numeric - length).abs() < 2e-2 * length + 1e-3,
                    "{turns:?}, {tasks} tasks, {name}: {numeric} {length}"
                );
                checked += 1;
            }
            assert!(checked >= 6, "{checked}");
        }
    }
}
