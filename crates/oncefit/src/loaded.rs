//! A finished (or stopped) run, opened for evaluation.

use std::collections::HashMap;
use std::path::Path;

use oncefit_continual::LearningRun;
use oncefit_nn::{Executor, Parameters, Supernet};
use oncefit_search::Objective;
use oncefit_space::{Space, Subnet};
use oncefit_train::{
    Accuracy, CheckpointFolder, Confusion, EVALUATIONS, Evaluator, RowLog, Run, RunData, Split,
    read_rows,
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::format::{count, duration};
use crate::learnt;

/// A measured subnet, as it stands in `evaluations.jsonl`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EvaluationRow {
    /// The subnet's text.
    pub subnet: String,
    /// Hash of the supernet's weights.
    pub weights_hash: String,
    /// The split it was measured on.
    pub split: Split,
    /// Training images that its batch-norm statistics are from.
    pub calibration_images: usize,
    /// Height of its input.
    pub resolution: usize,
    /// What ran it.
    pub engine: String,
    /// Share of the images predicted right.
    pub accuracy: f64,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Images predicted.
    pub images: usize,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Weights.
    pub parameters: u64,
}

/// The weights that a run is opened with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum WhichCheckpoint {
    /// The last that were saved.
    #[default]
    Newest,
    /// Those with the best mean validation accuracy of the networks watched while training.
    Best,
}

/// Name of our own kernels in evaluations.
const ENGINE: &str = "oncefit-kernels";

/// A run with its supernet and its images.
pub struct LoadedRun {
    /// The folder.
    pub run: Run,
    /// The space.
    pub space: Space,
    /// The newest weights.
    pub supernet: Supernet,
    /// Steps after which they were saved.
    pub step: u64,
    /// Multiply-accumulates that they cost.
    pub train_macs: u64,
    /// The images.
    pub data: RunData,
    /// Measures subnets.
    pub evaluator: Evaluator,
    /// Whether the images that subnets are chosen on are the test images.
    pub chooses_on_test: bool,
    weights_hash: String,
    known: HashMap<(String, Split), EvaluationRow>,
}

impl LoadedRun {
    /// Opens a run folder.
    ///
    /// # Errors
    /// If it is no run, has no usable checkpoint of that kind, or its data cannot be read.
    pub fn open(folder: &Path, which: WhichCheckpoint) -> Result<Self> {
        if let Ok(learning) = LearningRun::open_to_read(folder) {
            return learnt::open(&learning);
        }
        let run = Run::open_to_read(folder)?;
        let recipe = run.recipe();
        let data = RunData::load(recipe)?;
        let space = recipe.build_space(data.train.channels(), data.train.class_names().len())?;
        let layout = Supernet::layout(&space)?;
        let checkpoints = CheckpointFolder::open_to_read(&run.checkpoints());
        let checkpoint = match which {
            WhichCheckpoint::Best => checkpoints.best(&layout)?,
            WhichCheckpoint::Newest => {
                let (checkpoint, damaged) = checkpoints.newest(&layout)?;
                for error in damaged {
                    eprintln!("{error}; an older one is used");
                }
                checkpoint
            }
        };
        let checkpoint = checkpoint.ok_or_else(|| {
            let folder = folder.display();
            Error::Request(match which {
                WhichCheckpoint::Best => format!(
                    "{folder} has no checkpoints/best.safetensors; `--checkpoint newest` takes the last that were saved"
                ),
                WhichCheckpoint::Newest => format!(
                    "{folder} has no checkpoint yet; `oncefit train {folder} --resume` goes on with it"
                ),
            })
        })?;
        let cost = (checkpoint.step, checkpoint.train_macs);
        Self::assembled(run, space, checkpoint.into_evaluated(), cost, data)
    }

    /// A run with the weights of its supernet, their step and their train-MACs.
    pub(crate) fn assembled(
        run: Run,
        space: Space,
        weights: Parameters,
        (step, train_macs): (u64, u64),
        data: RunData,
    ) -> Result<Self> {
        let recipe = run.recipe();
        let evaluator = Evaluator::new(
            recipe,
            &data.train,
            &data.validation,
            &data.test,
            &data.normalisation,
        );
        let weights_hash = weights.hash();
        let rows: Vec<EvaluationRow> = read_rows(&run.file(EVALUATIONS))?;
        let known = rows
            .into_iter()
            .filter(|row| {
                row.weights_hash == weights_hash
                    && row.calibration_images == recipe.evaluation.calibration_images
            })
            .map(|row| ((row.subnet.clone(), row.split), row))
            .collect();
        Ok(Self {
            supernet: Supernet::with_parameters(&space, weights)?,
            step,
            train_macs,
            space,
            data,
            evaluator,
            weights_hash,
            known,
            chooses_on_test: false,
            run,
        })
    }

    /// Whether there are subnets to choose from.
    ///
    /// # Errors
    /// If it is a run of one network.
    pub fn check_choice(&self) -> Result<()> {
        let folder = self.run.folder().display();
        match self.space.decisions().is_empty() {
            true => Err(Error::Request(format!(
                "{folder} has one network, so that there is nothing to choose; `oncefit export RUN --subnet largest` writes it"
            ))),
            false => Ok(()),
        }
    }

    /// What the weights are and what they cost, as a line.
    ///
    /// # Errors
    /// If the run's log cannot be read.
    pub fn origin(&self) -> Result<String> {
        let rows = self.run.metrics()?;
        let until = rows.iter().rfind(|row| row.step <= self.step);
        Ok(format!(
            "weights: {} after {} steps, {} train-MACs, {} of training",
            self.run.folder().display(),
            self.step,
            count(self.train_macs),
            duration(until.map_or(0.0, |row| row.seconds))
        ))
    }

    /// Hash of the weights.
    pub fn weights_hash(&self) -> &str {
        &self.weights_hash
    }

    /// Every evaluation of these weights on a split, in no particular order.
    pub fn known(&self, split: Split) -> Vec<&EvaluationRow> {
        let mut rows: Vec<&EvaluationRow> = self
            .known
            .values()
            .filter(|row| row.split == split)
            .collect();
        rows.sort_by(|left, right| {
            left.macs
                .cmp(&right.macs)
                .then_with(|| left.subnet.cmp(&right.subnet))
        });
        rows
    }

    /// Which classes a subnet takes for which.
    ///
    /// # Errors
    /// If the subnet cannot be executed.
    pub fn confusion(&mut self, subnet: &Subnet, split: Split) -> Result<Confusion> {
        let resolution = subnet.graph().input_shape().height;
        self.evaluator.prepare(split, resolution)?;
        let mut executor = Executor::default();
        let measured = self
            .evaluator
            .measure(&mut executor, &self.supernet, subnet, split)?;
        Ok(measured.1)
    }

    /// A subnet in eight bits; not kept.
    ///
    /// # Errors
    /// If the subnet cannot be executed or extracted, or a weight is not finite.
    pub fn evaluate_quantised(&mut self, subnet: &Subnet, split: Split) -> Result<Accuracy> {
        let mut executor = Executor::default();
        let calibration = self
            .evaluator
            .calibrate(&mut executor, &self.supernet, subnet)?;
        let network = self.supernet.extract(subnet, &calibration)?;
        Ok(self.evaluator.evaluate_quantised(&network, split)?.0)
    }

    /// Measures subnets, on all cores; what is measured already is not measured again.
    ///
    /// # Errors
    /// If a subnet cannot be executed or the log not be written.
    pub fn evaluate(&mut self, subnets: &[Subnet], split: Split) -> Result<Vec<EvaluationRow>> {
        let mut new: Vec<&Subnet> = Vec::new();
        for subnet in subnets {
            let is_known = self.known.contains_key(&(subnet.text(), split));
            if !is_known && !new.contains(&subnet) {
                self.evaluator
                    .prepare(split, subnet.graph().input_shape().height)?;
                new.push(subnet);
            }
        }
        let measured = new
            .par_iter()
            .map_init(Executor::default, |executor, subnet| {
                let (found, _) = self
                    .evaluator
                    .measure(executor, &self.supernet, subnet, split)?;
                Ok(EvaluationRow {
                    subnet: subnet.text(),
                    weights_hash: self.weights_hash.clone(),
                    split,
                    calibration_images: self.run.recipe().evaluation.calibration_images,
                    resolution: subnet.graph().input_shape().height,
                    engine: ENGINE.into(),
                    accuracy: found.accuracy,
                    loss: found.loss,
                    images: found.images,
                    macs: subnet.graph().macs(),
                    parameters: subnet.graph().parameters(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let mut log = RowLog::append(&self.run.file(EVALUATIONS))?;
        for row in measured {
            log.push(&row)?;
            self.known.insert((row.subnet.clone(), split), row);
        }
        Ok(subnets
            .iter()
            .map(|subnet| self.known[&(subnet.text(), split)].clone())
            .collect())
    }
}

/// Accuracy on the validation split, after calibration.
impl Objective for LoadedRun {
    fn score(&mut self, subnets: &[Subnet]) -> std::result::Result<Vec<f64>, String> {
        let rows = self
            .evaluate(subnets, Split::Validation)
            .map_err(|error| error.to_string())?;
        Ok(rows.into_iter().map(|row| row.accuracy).collect())
    }
}
