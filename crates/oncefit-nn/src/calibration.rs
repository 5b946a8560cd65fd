//! What an evaluation needs beyond the weights, as a value.
//!
//! A supernet's batch-norms have no statistics that are right for any one subnet (Once-for-All's
//! code calibrates, too: running statistics are a mixture over subnets). So there are none: each
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
    /// Mean and variance of each batch-norm of `plan`, in the order of the graph.
    ///
    /// # Errors
    /// If this calibration belongs to another network.
    pub fn in_order(&self, plan: &Plan) -> Result<Vec<(&[f32], &[f32])>> {
        let norms = plan.norms.iter();
        norms.map(|norm| self.statistics(plan, norm)).collect()
    }

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

/// What the variance of several batches is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Variances {
    /// The average of the batches' biased variances, weighted by batch size (Once-for-All,
    /// reference code `elastic_nn/utils.py`): too small where batches are.
    #[default]
    Averaged,
    /// That of all images together: the average of the variances and the variance of the means.
    Pooled,
}

impl Executor {
    /// Takes the statistics of `batches` (training images at the network's resolution), with
    /// variances averaged as Once-for-All does. No gradient, no dropout.
    ///
    /// # Errors
    /// If a batch does not fit, or there is none.
    pub fn calibrate<'a>(
        &mut self,
        plan: &Plan,
        parameters: &Parameters,
        batches: impl IntoIterator<Item = Images<'a>>,
    ) -> Result<Calibration> {
        self.calibrate_with(plan, parameters, batches, Variances::Averaged)
    }

    /// As [`Executor::calibrate`], with a choice of what the variance of several batches is.
    ///
    /// # Errors
    /// As [`Executor::calibrate`].
    pub fn calibrate_with<'a>(
        &mut self,
        plan: &Plan,
        parameters: &Parameters,
        batches: impl IntoIterator<Item = Images<'a>>,
        variances: Variances,
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
            for ((means, sum_of_variances), (mean, variance)) in
                sums.iter_mut().zip(tape.statistics())
            {
                add_weighted(means, batch.count, mean);
                add_weighted(sum_of_variances, batch.count, variance);
                if variances == Variances::Pooled {
                    let sums = sum_of_variances.iter_mut().zip(mean);
                    sums.for_each(|(sum, mean)| {
                        *sum += batch.count as f64 * f64::from(*mean) * f64::from(*mean);
                    });
                }
            }
            self.recycle(tape);
        }
        if images == 0 {
            return Err(NnError::NotCalibrated {
                reason: "there are no calibration images".into(),
            });
        }
        let average = |sums: Vec<f64>| -> Vec<f64> {
            let averages = sums.into_iter().map(|sum| sum / images as f64);
            averages.collect()
        };
        let narrow = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
        let statistics = plan.norms.iter().zip(sums).map(|(norm, (means, sums))| {
            let mean = average(means);
            let mut variance = average(sums);
            if variances == Variances::Pooled {
                let squares = variance.iter_mut().zip(&mean);
                squares.for_each(|(square, mean)| *square = (*square - mean * mean).max(0.0));
            }
            let found = ChannelStatistics {
                mean: narrow(mean),
                variance: narrow(variance),
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
