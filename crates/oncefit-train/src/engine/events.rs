//! What training tells whoever watches it.

use std::path::Path;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Training begins or goes on.
    Started {
        /// Steps done already.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Steps in an epoch.
        steps_per_epoch: u64,
        /// Share of the planned train-MACs that is done.
        work: f64,
    },
    /// A newer checkpoint could not be used and an older one was taken.
    CheckpointSkipped {
        /// Why.
        reason: String,
    },
    /// Training starts from the weights of a file.
    Initialised {
        /// How many tensors were in it.
        loaded: usize,
        /// Those that were drawn.
        fresh: &'a [String],
        /// Tensors of the file that were not needed.
        unused: &'a [String],
    },
    /// A phase of the schedule begins.
    Phase {
        /// Its number, from 1.
        number: usize,
        /// How many there are.
        of: usize,
        /// Its name.
        name: &'a str,
        /// Its epochs.
        epochs: u32,
    },
    /// A step is done.
    Step {
        /// What happened in it.
        report: StepReport,
        /// Share of the planned train-MACs that is done.
        work: f64,
    },
    /// Subnets were measured on the validation split, by name.
    Evaluated {
        /// Steps done.
        step: u64,
        /// Accuracy of each.
        accuracies: &'a [(String, f64)],
        /// Whether their mean is the best so far.
        is_best: bool,
    },
    /// A checkpoint was written.
    Saved {
        /// Steps done.
        step: u64,
        /// The file.
        path: &'a Path,
    },
}

/// A step as it is shown.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Steps done.
    pub step: u64,
    /// Epochs done.
    pub epoch: f64,
    /// Loss of the step's first network.
    pub loss: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Networks that ran.
    pub networks: usize,
    /// Images in the batch.
    pub images: usize,
}

/// How training ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// It was asked to stop, and saved.
    Stopped {
        /// Steps done.
        step: u64,
    },
}

/// What a training will cost.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Estimate {
    /// Steps in all.
    pub steps: u64,
    /// Multiply-accumulates, from a sample of the steps.
    pub train_macs: u64,
    /// Seconds on this machine, from a few timed steps.
    pub seconds: f64,
    /// Bytes of one checkpoint.
    pub checkpoint_bytes: u64,
}
