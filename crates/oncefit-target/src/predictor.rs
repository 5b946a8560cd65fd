//! A predictor of subnets' accuracies (Once-for-All, appendix A).
//!
//! One-hot codes, hidden layers of 400 with ReLU, one output without bias plus the mean accuracy of
//! the training samples; squared error, Adam. It is judged on samples held out, beside a straight
//! line through log-MACs: a predictor that does not beat that line says so.

use std::collections::HashMap;
use std::path::Path;

use oncefit_kernels::{Cpu, PackedWeight};
use oncefit_random::Draws;
use oncefit_space::{Space, Subnet};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::error::{Result, TargetError};
use crate::mlp::{Adam, Codes, Mlp};
use crate::statistics::{kendall, mean_and_std, root_mean_square_error};
use crate::target::write_atomically;

/// A subnet whose accuracy was measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// Positions of the ones in [`Space::encode`].
    pub code: Vec<u32>,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Accuracy in [0, 1].
    pub accuracy: f64,
}

impl Sample {
    /// A measured subnet of `space`.
    pub fn new(space: &Space, subnet: &Subnet, accuracy: f64) -> Self {
        Self {
            code: code_of(space, subnet),
            macs: subnet.graph().macs(),
            accuracy,
        }
    }
}

fn code_of(space: &Space, subnet: &Subnet) -> Vec<u32> {
    let dense = space.encode(subnet);
    let ones = (0u32..).zip(dense).filter(|(_, value)| *value != 0.0);
    ones.map(|(position, _)| position).collect()
}

/// How to train.
#[derive(Clone, PartialEq, Debug)]
pub struct PredictorOptions {
    /// Widths of the hidden layers.
    pub hidden: Vec<usize>,
    /// Steps of Adam, at least.
    pub steps: usize,
    /// Passes over the samples, at least.
    pub epochs: usize,
    /// Samples of a step; all, if there are fewer.
    pub batch: usize,
    /// Learning rate, lowered to 0 along a cosine.
    pub learning_rate: f32,
    /// Weight decay.
    pub weight_decay: f32,
    /// Share of the samples that only judge.
    pub held_out: f64,
    /// Seed of weights and order.
    pub seed: u64,
}

impl Default for PredictorOptions {
    fn default() -> Self {
        Self {
            hidden: vec![400; 3],
            // Of a few hundred samples of fm-nano, 600 steps learn no more than 100.
            steps: 200,
            epochs: 30,
            batch: 256,
            learning_rate: 1e-3,
            weight_decay: 1e-4,
            held_out: 0.2,
            seed: 0,
        }
    }
}

/// Errors on held-out samples after training on some of the others.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurvePoint {
    /// Training samples.
    pub samples: usize,
    /// Root of the mean squared error.
    pub rmse: f64,
    /// Kendall's tau-b; 0 if the predictions do not differ.
    pub kendall: f64,
}

/// How good a predictor is, on samples that its training never saw.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// Held-out samples.
    pub held_out: usize,
    /// The predictor on all training samples.
    pub predictor: CurvePoint,
    /// A straight line through log-MACs, fitted to the same samples.
    pub log_macs: CurvePoint,
    /// The predictor on ever more training samples, the last point being all of them.
    pub curve: Vec<CurvePoint>,
    /// Pairs of held-out predictions and measurements.
    pub scatter: Vec<(f64, f64)>,
}

impl Quality {
    /// Whether the predictor has the smaller error; if not, MACs alone tell more.
    pub fn beats_log_macs(&self) -> bool {
        self.predictor.rmse < self.log_macs.rmse
    }
}

/// A trained predictor of one space.
#[derive(Clone, PartialEq, Debug)]
pub struct Predictor {
    space: String,
    space_hash: String,
    mean: f64,
    deviation: f64,
    network: Mlp,
    /// The network's weights as they are multiplied with.
    packed: Vec<PackedWeight>,
    quality: Quality,
}

/// Fewest samples that a training accepts.
pub const FEWEST_SAMPLES: usize = 10;

const FORMAT: &str = "oncefit-predictor 1";

impl Predictor {
    /// Judges the method on held-out samples, then trains on all of them.
    ///
    /// # Errors
    /// If there are fewer than [`FEWEST_SAMPLES`] samples, one is of another space or has an
    /// accuracy outside [0, 1], or the options are out of range.
    pub fn train(space: &Space, samples: &[Sample], options: &PredictorOptions) -> Result<Self> {
        check(space, samples, options)?;
        let mut order: Vec<usize> = (0..samples.len()).collect();
        Draws::new(options.seed, "predictor split", 0, 0).shuffle(&mut order);
        let held_out = (samples.len() as f64 * options.held_out).round() as usize;
        let held_out = held_out.clamp(2, samples.len() - 2);
        let (judges, training) = order.split_at(held_out);
        let pick = |chosen: &[usize]| -> Vec<&Sample> {
            chosen.iter().map(|&index| &samples[index]).collect()
        };
        let (judges, training) = (pick(judges), pick(training));
        let measured: Vec<f64> = judges.iter().map(|sample| sample.accuracy).collect();
        let point = |count: usize, predicted: &[f64]| {
            let tau = kendall(predicted, &measured);
            CurvePoint {
                samples: count,
                rmse: root_mean_square_error(predicted, &measured),
                kendall: if tau.is_nan() { 0.0 } else { tau },
            }
        };
        let mut curve = Vec::new();
        let mut scatter = Vec::new();
        for share in [8, 4, 2, 1] {
            let count = training.len() / share;
            if count < 4 {
                continue;
            }
            let fitted = Self::fit(space, &training[..count], options);
            let predicted = fitted.predict_codes(&codes(&judges));
            curve.push(point(count, &predicted));
            scatter = predicted
                .into_iter()
                .zip(measured.iter().copied())
                .collect();
        }
        let line = log_macs_line(&training);
        let by_line: Vec<f64> = judges.iter().map(|sample| line(sample.macs)).collect();
        let all: Vec<&Sample> = samples.iter().collect();
        let mut predictor = Self::fit(space, &all, options);
        predictor.quality = Quality {
            held_out: judges.len(),
            predictor: curve[curve.len() - 1],
            log_macs: point(training.len(), &by_line),
            curve,
            scatter,
        };
        Ok(predictor)
    }

    /// Trains on all of `samples`.
    fn fit(space: &Space, samples: &[&Sample], options: &PredictorOptions) -> Self {
        let accuracies: Vec<f64> = samples.iter().map(|sample| sample.accuracy).collect();
        let (mean, deviation) = mean_and_std(&accuracies);
        // Accuracies that do not differ need no scale.
        let deviation = if deviation > 1e-9 { deviation } else { 1.0 };
        let targets: Vec<f32> = accuracies
            .iter()
            .map(|accuracy| ((accuracy - mean) / deviation) as f32)
            .collect();
        let codes = codes(samples);
        let ones = samples.iter().map(|sample| sample.code.len()).max();
        let inputs = code_length(space);
        let mut network = Mlp::new(inputs, ones.unwrap_or(1), &options.hidden, options.seed);
        let mut adam = Adam::new(network.weights.len(), options.weight_decay);
        let mut gradient = vec![0.0; network.weights.len()];
        let cpu = Cpu::detect();
        let batch = options.batch.min(samples.len());
        let mut order: Vec<usize> = (0..samples.len()).collect();
        let mut at = samples.len();
        let mut epoch = 0;
        let steps = options.steps.max(options.epochs * samples.len() / batch);
        for step in 0..steps {
            if at + batch > samples.len() {
                Draws::new(options.seed, "predictor order", epoch, 0).shuffle(&mut order);
                epoch += 1;
                at = 0;
            }
            let chosen = &order[at..at + batch];
            at += batch;
            network.gradient(cpu, &codes, chosen, &targets, &mut gradient);
            let progress = step as f32 / steps as f32;
            let rate = 0.5 * (1.0 + (std::f32::consts::PI * progress).cos());
            adam.step(
                &mut network.weights,
                &mut gradient,
                options.learning_rate * rate,
            );
        }
        let none = CurvePoint {
            samples: samples.len(),
            rmse: 0.0,
            kendall: 0.0,
        };
        Self {
            space: space.name().to_owned(),
            space_hash: space.hash(),
            mean,
            deviation,
            packed: network.pack(Cpu::detect()),
            network,
            quality: Quality {
                held_out: 0,
                predictor: none,
                log_macs: none,
                curve: Vec::new(),
                scatter: Vec::new(),
            },
        }
    }

    /// How good it is.
    pub fn quality(&self) -> &Quality {
        &self.quality
    }

    /// Widths of its hidden layers.
    pub fn hidden(&self) -> &[usize] {
        &self.network.hidden
    }

    /// Checks that it was trained for `space`.
    ///
    /// # Errors
    /// If it was trained for another one; a narrowed space is another one, since its codes differ.
    pub fn check_space(&self, space: &Space) -> Result<()> {
        if self.space_hash == space.hash() {
            return Ok(());
        }
        Err(TargetError::OtherSpace {
            what: "this predictor".into(),
            found: format!("{} ({})", self.space, self.space_hash),
            wanted: format!("{} ({})", space.name(), space.hash()),
            hint: "train one for this space",
        })
    }

    /// Predicted accuracy of a subnet.
    ///
    /// # Errors
    /// If the predictor was trained for another space.
    pub fn predict(&self, space: &Space, subnet: &Subnet) -> Result<f64> {
        self.check_space(space)?;
        let mut codes = Codes::default();
        codes.push(&code_of(space, subnet));
        Ok(self.predict_codes(&codes)[0])
    }

    /// Predicted accuracies of many codes of its space ([`crate::Coster::cost_and_code`]).
    ///
    /// # Panics
    /// If a position is beyond the length of the space's code.
    pub fn predict_codes(&self, codes: &Codes) -> Vec<f64> {
        assert!(
            codes
                .largest()
                .is_none_or(|largest| (largest as usize) < self.network.inputs),
            "a code of another space"
        );
        self.network
            .predict(Cpu::detect(), &self.packed, codes)
            .into_iter()
            .map(|output| self.mean + self.deviation * f64::from(output))
            .collect()
    }

    /// Its file: safetensors, with everything else as JSON in the metadata.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let malformed = |reason: String| TargetError::Malformed {
            path: path.to_owned(),
            reason,
        };
        let header = Header {
            format: FORMAT.into(),
            space: self.space.clone(),
            space_hash: self.space_hash.clone(),
            inputs: self.network.inputs,
            hidden: self.network.hidden.clone(),
            mean: self.mean,
            deviation: self.deviation,
            quality: self.quality.clone(),
        };
        let text = serde_json::to_string(&header).map_err(|error| malformed(error.to_string()))?;
        let weights = &self.network.weights;
        let bytes: Vec<u8> = weights
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let bytes = TensorView::new(Dtype::F32, vec![weights.len()], &bytes)
            .and_then(|view| {
                let metadata = HashMap::from([("oncefit".to_owned(), text)]);
                safetensors::serialize([("weights", view)], Some(metadata))
            })
            .map_err(|error| malformed(error.to_string()))?;
        write_atomically(path, &bytes)
    }

    /// Reads its file.
    ///
    /// # Errors
    /// If the file cannot be read or is no predictor.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| TargetError::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::from_bytes(&bytes).map_err(|reason| TargetError::Malformed {
            path: path.to_owned(),
            reason: format!("it is no predictor that can be used: {reason}"),
        })
    }

    fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, String> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
        let text = metadata
            .metadata()
            .as_ref()
            .and_then(|map| map.get("oncefit"));
        let header: Header = serde_json::from_str(text.ok_or("it has no Oncefit header")?)
            .map_err(|error| error.to_string())?;
        if header.format != FORMAT {
            return Err(format!(
                "its format is `{}`; this version reads `{FORMAT}`",
                header.format
            ));
        }
        let is_legal = |width: &usize| (1..=WIDEST).contains(width);
        if !(header.hidden.iter().all(is_legal) && is_legal(&header.inputs))
            || header.hidden.is_empty()
            || header.hidden.len() > DEEPEST
            || !header.mean.is_finite()
            || !header.deviation.is_finite()
        {
            return Err("its header is out of range".into());
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let view = tensors
            .tensor("weights")
            .map_err(|error| error.to_string())?;
        let (values, _) = view.data().as_chunks::<4>();
        let network = Mlp {
            inputs: header.inputs,
            hidden: header.hidden,
            weights: values
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect(),
        };
        if view.dtype() != Dtype::F32 || network.weights.len() != network.parameter_count() {
            return Err("its weights do not fit its layers".into());
        }
        if !network.weights.iter().all(|weight| weight.is_finite()) {
            return Err("a weight is not a number".into());
        }
        Ok(Self {
            space: header.space,
            space_hash: header.space_hash,
            mean: header.mean,
            deviation: header.deviation,
            packed: network.pack(Cpu::detect()),
            network,
            quality: header.quality,
        })
    }
}

/// What the file says beside the weights.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    space: String,
    space_hash: String,
    inputs: usize,
    hidden: Vec<usize>,
    mean: f64,
    deviation: f64,
    quality: Quality,
}

/// Widest layer, most layers.
const WIDEST: usize = 1 << 16;
const DEEPEST: usize = 16;

fn code_length(space: &Space) -> usize {
    let slots = space.decisions().iter();
    slots.map(|slot| slot.domain.values.len()).sum()
}

fn codes(samples: &[&Sample]) -> Codes {
    let mut codes = Codes::default();
    samples.iter().for_each(|sample| codes.push(&sample.code));
    codes
}

fn check(space: &Space, samples: &[Sample], options: &PredictorOptions) -> Result<()> {
    let fails = |message: String| Err(TargetError::Request(message));
    if samples.len() < FEWEST_SAMPLES {
        return fails(format!(
            "{} measured subnets are too few for a predictor; at least {FEWEST_SAMPLES} are needed, some hundreds are better",
            samples.len()
        ));
    }
    let length = code_length(space);
    for (index, sample) in samples.iter().enumerate() {
        if !(0.0..=1.0).contains(&sample.accuracy) {
            return fails(format!(
                "the accuracy of sample {index} is {}; accuracies lie in [0, 1]",
                sample.accuracy
            ));
        }
        if let Some(position) = sample.code.iter().find(|&&one| one as usize >= length) {
            return fails(format!(
                "sample {index} is of another space: its code has a one at {position}, codes of `{}` have length {length}",
                space.name()
            ));
        }
    }
    let widths = &options.hidden;
    let is_legal = (1..=DEEPEST).contains(&widths.len())
        && widths.iter().all(|width| (1..=WIDEST).contains(width))
        && options.batch > 0
        && options.learning_rate > 0.0
        && options.held_out > 0.0
        && options.held_out < 1.0;
    if !is_legal || length == 0 {
        return fails(
            "a predictor needs decisions, from 1 to 16 hidden layers, a batch, a learning rate above 0 and a held-out share between 0 and 1".into(),
        );
    }
    Ok(())
}

/// The least-squares line `accuracy = a + b · ln MACs`.
fn log_macs_line(samples: &[&Sample]) -> impl Fn(u64) -> f64 {
    let logs: Vec<f64> = samples
        .iter()
        .map(|sample| (sample.macs.max(1) as f64).ln())
        .collect();
    let accuracies: Vec<f64> = samples.iter().map(|sample| sample.accuracy).collect();
    let (mean_log, _) = mean_and_std(&logs);
    let (mean, _) = mean_and_std(&accuracies);
    let pairs = logs.iter().zip(&accuracies);
    let product: f64 = pairs
        .map(|(log, accuracy)| (log - mean_log) * (accuracy - mean))
        .sum();
    let squares: f64 = logs.iter().map(|log| (log - mean_log).powi(2)).sum();
    let slope = if squares > 0.0 {
        product / squares
    } else {
        0.0
    };
    move |macs| mean + slope * ((macs.max(1) as f64).ln() - mean_log)
}
