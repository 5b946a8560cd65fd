//! A learner on a stream, from the first task to the last, with its accuracy matrices.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::drift::Directions;
use crate::error::{ContinualError, Result};
use crate::learner::{Learner, StepReport, TaskAccuracy, WatchedSubnet};
use crate::metrics::AccuracyMatrix;
use crate::recipe::MetricsRecipe;
use crate::stream::{Stream, Task};

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
    /// Multiply-accumulates of evaluations.
    #[serde(default)]
    pub evaluation_macs: u64,
    /// Bytes of the memory at the end.
    pub memory_bytes: usize,
    /// Mean accuracy on the tasks so far, the running one too, among all classes seen: measured every
    /// so many batches; empty where it is not measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anytime: Vec<AnytimePoint>,
    /// Row t: how far the features of each earlier task's test images had turned after task t
    /// ([`Directions::drift_to`]); empty where it is not measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<Vec<f64>>,
    /// At the end: the cosines between the mean features, each of unit length, of the classes' test
    /// images, classes × classes; empty where they are not measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_cosines: Vec<Vec<f64>>,
    /// Of a supernet: its watched subnets. The accuracies above are the largest's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<SubnetAccuracies>,
    /// The task that is being learnt.
    #[serde(default)]
    pub running: Running,
}

impl Finished {
    /// Anytime accuracy: the mean over the points at which it was measured; `None` without one.
    pub fn anytime_accuracy(&self) -> Option<f64> {
        let sum: f64 = self.anytime.iter().map(|point| point.accuracy).sum();
        (!self.anytime.is_empty()).then(|| sum / self.anytime.len() as f64)
    }
}

/// An accuracy between two batches.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct AnytimePoint {
    /// Steps done.
    pub step: u64,
    /// Mean accuracy on the tasks so far.
    pub accuracy: f64,
}

/// Test images of a task that its drift is measured on, at most.
const DRIFT_IMAGES: usize = 512;

/// What is kept in a state beside the learner.
#[derive(Serialize, Deserialize)]
struct Note {
    #[serde(flatten)]
    finished: Finished,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    directions: Vec<Directions>,
}

/// What became of a subnet of a supernet.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SubnetAccuracies {
    /// `smallest`, `middle`, `largest` or its text.
    pub name: String,
    /// Its text.
    pub subnet: String,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// The largest score among all classes seen.
    pub class_incremental: AccuracyMatrix,
    /// The largest score among the task's classes.
    pub task_incremental: AccuracyMatrix,
}

impl SubnetAccuracies {
    fn of(watched: &WatchedSubnet) -> Self {
        Self {
            name: watched.name.clone(),
            subnet: watched.subnet.text(),
            macs: watched.subnet.graph().macs(),
            class_incremental: AccuracyMatrix::default(),
            task_incremental: AccuracyMatrix::default(),
        }
    }
}

/// A task so far.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Running {
    /// Images that were right before they were learnt.
    pub correct: usize,
    /// Images.
    pub images: usize,
    /// Seconds of training steps.
    pub seconds: f64,
}

/// What happened last in an experiment.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Moment {
    /// A batch of a task was learnt.
    Step(StepReport),
    /// A task ended and its row of accuracies is there.
    Task(usize),
}

/// A learner on a stream. [`Experiment::state`] and [`Experiment::restore`] stop and resume it at
/// any batch.
#[derive(Debug)]
pub struct Experiment {
    /// The stream.
    pub stream: Stream,
    /// The learner.
    pub learner: Learner,
    /// What is known so far; one row a task.
    pub finished: Finished,
    /// How many principal directions the drift is measured with, if it is.
    drift: Option<usize>,
    /// After how many steps the accuracy is measured, if it is not only after tasks.
    every: Option<u64>,
    measures_class_cosines: bool,
    /// Those of each task's test images right after the task.
    directions: Vec<Directions>,
}

impl Experiment {
    /// An experiment at its beginning.
    pub fn new(stream: Stream, learner: Learner) -> Self {
        Self {
            stream,
            learner,
            finished: Finished::default(),
            drift: None,
            every: None,
            measures_class_cosines: false,
            directions: Vec::new(),
        }
    }

    /// Measures what `recipe` asks for, beside accuracies.
    pub fn with_metrics(self, recipe: &MetricsRecipe) -> Self {
        Self {
            drift: recipe.drift,
            every: recipe.every_batches.map(|steps| steps as u64),
            measures_class_cosines: recipe.class_cosines,
            ..self
        }
    }

    /// Measures the accuracy on the tasks so far every `steps` steps too.
    pub fn with_anytime(self, steps: u64) -> Self {
        Self {
            every: Some(steps),
            ..self
        }
    }

    fn measure_anytime(&mut self, task: usize) -> Result<()> {
        let step = self.learner.steps();
        if !self.every.is_some_and(|every| step.is_multiple_of(every)) {
            return Ok(());
        }
        let found = self.learner.evaluate_first(&self.stream, task + 1)?;
        let sum: f64 = found.iter().map(|task| task.class_incremental).sum();
        self.finished.anytime.push(AnytimePoint {
            step,
            accuracy: sum / found.len() as f64,
        });
        self.count_evaluation();
        Ok(())
    }

    /// Makes the cost of evaluations a part of the state, which may be saved next.
    fn count_evaluation(&mut self) {
        self.finished.evaluation_macs += self.learner.take_evaluation_macs();
    }

    fn measure_drift(&mut self, task: usize, directions: usize) -> Result<()> {
        let mut row = Vec::new();
        for earlier in 0..=task {
            let test = &self.stream.tasks()[earlier].test;
            let count = test.len().min(DRIFT_IMAGES);
            let chosen: Vec<usize> = (0..count).map(|at| test[at * test.len() / count]).collect();
            let examples = self.stream.test_examples(earlier, &chosen);
            let (features, width) = self.learner.unit_features(&examples.images)?;
            let found = Directions::of(&features, width, directions);
            match earlier == task {
                true => self.directions.push(found),
                false => row.push(self.directions[earlier].drift_to(&found)),
            }
        }
        self.finished.drift.push(row);
        Ok(())
    }

    /// Runs to the end; `observe` sees the learner after every batch and may stop by returning
    /// false.
    ///
    /// # Errors
    /// If the stream does not fit the learner or training diverges.
    pub fn run(&mut self, observe: &mut dyn FnMut(&Learner) -> bool) -> Result<()> {
        self.watch(&mut |experiment, moment| {
            Ok(matches!(moment, Moment::Task(_)) || observe(&experiment.learner))
        })
    }

    /// Runs to the end; `observe` sees the experiment after every batch and every task, with
    /// [`Experiment::state`] legal to take, and may stop by returning false.
    ///
    /// # Errors
    /// If the stream does not fit the learner or training diverges; those of `observe`.
    pub fn watch(&mut self, observe: &mut dyn FnMut(&Self, Moment) -> Result<bool>) -> Result<()> {
        let begun = Instant::now();
        let before = self.finished.seconds;
        if self.finished.class_incremental.untrained.is_empty() && self.learner.position() == (0, 0)
        {
            self.measure(&mut |matrix, row| matrix.untrained = row)?;
            self.count_evaluation();
        }
        let (first_task, first_batch) = self.learner.position();
        for task in first_task..self.stream.tasks().len() {
            let first = if task == first_task { first_batch } else { 0 };
            self.learner.expect(self.stream.batches_per_epoch(task));
            // A stream of its own, so that the observer may see the experiment.
            let stream = self.stream.clone();
            for examples in stream.iterate(task, first) {
                let started = Instant::now();
                let report = self.learner.step(&examples)?;
                let running = &mut self.finished.running;
                running.correct += report.correct;
                running.images += examples.len();
                running.seconds += started.elapsed().as_secs_f64();
                self.measure_anytime(task)?;
                self.finished.seconds = before + begun.elapsed().as_secs_f64();
                if !observe(self, Moment::Step(report))? {
                    return Ok(());
                }
            }
            let running = std::mem::take(&mut self.finished.running);
            self.finished.task_seconds.push(running.seconds);
            let share = running.correct as f64 / running.images.max(1) as f64;
            self.finished.prequential.push(share);
            let Task {
                train, held_out, ..
            } = &stream.tasks()[task];
            if !held_out.is_empty() {
                let held_out = stream.train_examples(task, held_out);
                self.learner.correct(&held_out)?;
            }
            self.learner.end_task(&stream.train_examples(task, train))?;
            self.measure(&mut |matrix, row| matrix.rows.push(row))?;
            if let Some(directions) = self.drift {
                self.measure_drift(task, directions)?;
            }
            if self.measures_class_cosines && task + 1 == stream.tasks().len() {
                self.finished.class_cosines = self.learner.class_cosines(&stream)?;
            }
            self.finished.images = self.learner.images();
            self.count_evaluation();
            self.finished.memory_bytes = self.learner.memory().map_or(0, |memory| memory.bytes());
            self.finished.seconds = before + begun.elapsed().as_secs_f64();
            if !observe(self, Moment::Task(task))? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Measures the network, or the watched subnets, on all tasks; `note` gets every matrix with its
    /// new row.
    fn measure(&mut self, note: &mut dyn FnMut(&mut AccuracyMatrix, Vec<f64>)) -> Result<()> {
        let finished = &mut self.finished;
        if self.learner.watched().is_empty() {
            let (class, by_task) = columns(&self.learner.evaluate(&self.stream)?);
            note(&mut finished.class_incremental, class);
            note(&mut finished.task_incremental, by_task);
            return Ok(());
        }
        let found = self.learner.evaluate_watched(&self.stream)?;
        if finished.subnets.is_empty() {
            let watched = self.learner.watched().iter();
            finished.subnets = watched.map(SubnetAccuracies::of).collect();
        }
        for (accuracies, subnet) in found.iter().zip(&mut finished.subnets) {
            let (class, by_task) = columns(accuracies);
            if subnet.name == "largest" {
                note(&mut finished.class_incremental, class.clone());
                note(&mut finished.task_incremental, by_task.clone());
            }
            note(&mut subnet.class_incremental, class);
            note(&mut subnet.task_incremental, by_task);
        }
        Ok(())
    }

    /// Learner and accuracies as the bytes of one safetensors file.
    ///
    /// # Errors
    /// As [`Learner::state`].
    pub fn state(&self) -> Result<Vec<u8>> {
        let note = Note {
            finished: self.finished.clone(),
            directions: self.directions.clone(),
        };
        let note = serde_json::to_string(&note).expect("accuracies are plain data");
        self.learner.state_with_note(&note)
    }

    /// Makes this experiment the one that was saved.
    ///
    /// # Errors
    /// If the bytes are damaged or of another experiment; this one is unchanged then.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<()> {
        let fails = |reason: String| ContinualError::State { reason };
        let note = crate::state::note(bytes)?;
        let note: Note = serde_json::from_str(&note)
            .map_err(|error| fails(format!("it has no accuracies beside it ({error})")))?;
        self.learner.restore_with_note(bytes)?;
        self.finished = note.finished;
        self.directions = note.directions;
        Ok(())
    }
}

fn columns(accuracies: &[TaskAccuracy]) -> (Vec<f64>, Vec<f64>) {
    accuracies
        .iter()
        .map(|accuracy| (accuracy.class_incremental, accuracy.task_incremental))
        .unzip()
}
