//! What an evaluation needs beyond the weights, as a value.
//!
//! A supernet's batch-norms have no statistics that are right for any one subnet (Once-for-All
//! §3.4 of the brief: running statistics are a mixture over subnets). So there are none: each
//! subnet is calibrated on training images before it is evaluated, extracted or exported, and the
//! calibration remembers which network it belongs to.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::error::{NnError, Result};
use crate::execute::{Executor, Images, Mode};
use crate::parameters::Parameters;
use crate::plan::{NormInfo, Plan};

/// Mean and variance of one batch-norm's input, per channel.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ChannelStatistics {
    /// Mean.
    pub mean: Vec<f32>,
    /// Biased variance.
    pub variance: Vec<f32>,
}

/// A calibration of one network.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Calibration {
    /// For networks that need none.
    None,
    /// Batch-norm statistics by the path of the batch-norm.
    BatchNorm {
        /// The graph they belong to ([`Plan::graph_id`]).
        graph_id: String,
        /// How many images they were taken from.
        images: usize,
        /// The statistics.
        statistics: HashMap<String, ChannelStatistics>,
    },
}

impl Calibration {
    pub(crate) fn statistics(&self, plan: &Plan, norm: &NormInfo) -> Result<(&[f32], &[f32])> {
        let Self::BatchNorm {
            graph_id,
            statistics,
            ..
        } = self
        else {
            return Err(NnError::NotCalibrated {
                reason: format!(
                    "batch-norm `{}` needs statistics and there are none",
                    norm.path
                ),
            });
        };
        if graph_id != plan.graph_id() {
            return Err(NnError::NotCalibrated {
                reason: format!(
                    "the statistics belong to network {graph_id}, this one is {}",
                    plan.graph_id()
                ),
            });
        }
        match statistics.get(&norm.path) {
            Some(found)
                if found.mean.len() == norm.channels && found.variance.len() == norm.channels =>
            {
                Ok((&found.mean, &found.variance))
            }
            _ => Err(NnError::NotCalibrated {
                reason: format!(
                    "there are no statistics of {} channels for batch-norm `{}`",
                    norm.channels, norm.path
                ),
            }),
        }
    }

    /// Mean and variance of the batch-norm at `path`, where this calibration has them.
    pub fn of(&self, path: &str) -> Option<&ChannelStatistics> {
        match self {
            Self::None => None,
            Self::BatchNorm { statistics, .. } => statistics.get(path),
        }
    }
}

impl Executor {
    /// Takes the statistics of `batches` (training images at the network's resolution): the
    /// average, weighted by batch size, of the batches' means and biased variances
    /// (Once-for-All, reference code `elastic_nn/utils.py`). No gradient, no dropout.
    ///
    /// # Errors
    /// If a batch does not fit, or there is none.
    pub fn calibrate<'a>(
        &mut self,
        plan: &Plan,
        parameters: &Parameters,
        batches: impl IntoIterator<Item = Images<'a>>,
    ) -> Result<Calibration> {
        if plan.norms.is_empty() {
            return Ok(Calibration::None);
        }
        let mut images = 0;
        let mut sums: Vec<(Vec<f64>, Vec<f64>)> = plan
            .norms
            .iter()
            .map(|norm| (vec![0.0; norm.channels], vec![0.0; norm.channels]))
            .collect();
        for batch in batches {
            let tape = self.forward(plan, parameters, batch, Mode::BatchStatistics)?;
            images += batch.count;
            for ((means, variances), (mean, variance)) in sums.iter_mut().zip(tape.statistics()) {
                add_weighted(means, batch.count, mean);
                add_weighted(variances, batch.count, variance);
            }
            self.recycle(tape);
        }
        if images == 0 {
            return Err(NnError::NotCalibrated {
                reason: "there are no calibration images".into(),
            });
        }
        let average = |sums: Vec<f64>| {
            sums.into_iter()
                .map(|sum| (sum / images as f64) as f32)
                .collect()
        };
        let statistics = plan
            .norms
            .iter()
            .zip(sums)
            .map(|(norm, (means, variances))| {
                let found = ChannelStatistics {
                    mean: average(means),
                    variance: average(variances),
                };
                (norm.path.clone(), found)
            });
        Ok(Calibration::BatchNorm {
            graph_id: plan.graph_id().to_owned(),
            images,
            statistics: statistics.collect(),
        })
    }
}

fn add_weighted(sums: &mut [f64], weight: usize, values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += weight as f64 * f64::from(*value);
    }
}
