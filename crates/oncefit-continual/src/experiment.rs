//! A learner on a stream, from the first task to the last, with its accuracy matrices.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::learner::{Learner, TaskAccuracy};
use crate::metrics::AccuracyMatrix;
use crate::stream::Stream;

/// What a finished stream leaves behind.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Finished {
    /// The largest score among all classes seen.
    pub class_incremental: AccuracyMatrix,
    /// The largest score among the task's classes.
    pub task_incremental: AccuracyMatrix,
    /// Accuracy of each batch before it was learnt, the mean of each task (0 for methods whose
    /// network does not learn from batches).
    pub prequential: Vec<f64>,
    /// Seconds of the training steps of each task, without evaluation and task ends.
    pub task_seconds: Vec<f64>,
    /// Seconds in all, evaluation included.
    pub seconds: f64,
    /// Images that ran forward and backward.
    pub images: u64,
    /// Bytes of the memory at the end.
    pub memory_bytes: usize,
}

/// A learner on a stream.
///
/// To resume: restore the learner, give the rows of the tasks that ended, and run again; it goes on
/// at [`Learner::position`].
#[derive(Debug)]
pub struct Experiment {
    /// The stream.
    pub stream: Stream,
    /// The learner.
    pub learner: Learner,
    /// What is known so far; one row a task.
    pub finished: Finished,
}

impl Experiment {
    /// An experiment at its beginning.
    pub fn new(stream: Stream, learner: Learner) -> Self {
        Self {
            stream,
            learner,
            finished: Finished::default(),
        }
    }

    /// Runs to the end; `observe` sees the learner after every batch and may stop by returning
    /// false.
    ///
    /// # Errors
    /// If the stream does not fit the learner or training diverges.
    pub fn run(&mut self, observe: &mut dyn FnMut(&Learner) -> bool) -> Result<()> {
        let begun = Instant::now();
        let before = self.finished.seconds;
        if self.finished.class_incremental.untrained.is_empty() && self.learner.position() == (0, 0)
        {
            let accuracies = self.learner.evaluate(&self.stream)?;
            let (class, task) = columns(&accuracies);
            self.finished.class_incremental.untrained = class;
            self.finished.task_incremental.untrained = task;
        }
        let (first_task, first_batch) = self.learner.position();
        for task in first_task..self.stream.tasks().len() {
            let first = if task == first_task { first_batch } else { 0 };
            let (mut correct, mut images) = (0, 0);
            let started = Instant::now();
            for examples in self.stream.iterate(task, first) {
                correct += self.learner.step(&examples)?.correct;
                images += examples.len();
                if !observe(&self.learner) {
                    self.finished.seconds = before + begun.elapsed().as_secs_f64();
                    return Ok(());
                }
            }
            self.finished
                .task_seconds
                .push(started.elapsed().as_secs_f64());
            self.finished
                .prequential
                .push(correct as f64 / images.max(1) as f64);
            let train = self.stream.tasks()[task].train.clone();
            self.learner
                .end_task(&self.stream.train_examples(task, &train))?;
            let (class, by_task) = columns(&self.learner.evaluate(&self.stream)?);
            self.finished.class_incremental.rows.push(class);
            self.finished.task_incremental.rows.push(by_task);
        }
        self.finished.images = self.learner.images();
        self.finished.memory_bytes = self.learner.memory().map_or(0, |memory| memory.bytes());
        self.finished.seconds = before + begun.elapsed().as_secs_f64();
        Ok(())
    }
}

fn columns(accuracies: &[TaskAccuracy]) -> (Vec<f64>, Vec<f64>) {
    accuracies
        .iter()
        .map(|accuracy| (accuracy.class_incremental, accuracy.task_incremental))
        .unzip()
}
