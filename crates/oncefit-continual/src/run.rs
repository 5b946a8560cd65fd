//! The run folder of continual learning, and the loop that fills it.
//!
//! ```text
//! recipe.toml        the resolved recipe
//! state.safetensors  learner, memory and accuracies: from here a run goes on with the same bits
//! accuracies.csv     the raw accuracy matrices: scenario, tasks learnt, task, accuracy
//! results.json       the same with tasks, costs and metrics
//! provenance.json    version, hashes, machine, command
//! report.html
//! ```

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use oncefit_data::LoadedData;
use oncefit_train::{RunFolder, TrainError, write_atomically};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::experiment::{Experiment, Finished, Moment};
use crate::learner::{Learner, StepReport};
use crate::method::Method;
use crate::metrics::{AccuracyMatrix, Metrics};
use crate::recipe::LearningRecipe;
use crate::stream::{PixelChange, Stream};

const STATE: &str = "state.safetensors";
const RESULTS: &str = "results.json";
const ACCURACIES: &str = "accuracies.csv";

/// The folder of a learnt stream.
#[derive(Debug)]
pub struct LearningRun {
    folder: RunFolder,
    recipe: LearningRecipe,
}

impl LearningRun {
    /// Makes a new run folder for a resolved recipe.
    ///
    /// # Errors
    /// If there is a run already, or the folder cannot be written.
    pub fn create(folder: &Path, recipe: &LearningRecipe) -> Result<Self> {
        let mut recipe = recipe.clone();
        recipe.pin_targets()?;
        Ok(Self {
            folder: RunFolder::create(folder, &recipe.to_toml())?,
            recipe,
        })
    }

    /// Opens a run to continue it.
    ///
    /// # Errors
    /// If it is no run of continual learning, or another process has it.
    pub fn open(folder: &Path) -> Result<Self> {
        let Self { folder, recipe } = Self::open_to_read(folder)?;
        let folder = folder.locked()?;
        Ok(Self { folder, recipe })
    }

    /// Opens a run to read it.
    ///
    /// # Errors
    /// If it is no run of continual learning.
    pub fn open_to_read(folder: &Path) -> Result<Self> {
        let (folder, text, name) = RunFolder::open_to_read(folder, "learn")?;
        let recipe = LearningRecipe::parse(&text, &name)?;
        Ok(Self { folder, recipe })
    }

    /// Removes what a run consists of, and nothing else, from a folder.
    ///
    /// # Errors
    /// If it is another process's or cannot be removed.
    pub fn remove(folder: &Path) -> Result<()> {
        let names = [
            STATE,
            RESULTS,
            ACCURACIES,
            "provenance.json",
            "report.html",
            "supernet",
        ];
        Ok(RunFolder::remove(folder, &names)?)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The resolved recipe.
    pub fn recipe(&self) -> &LearningRecipe {
        &self.recipe
    }

    /// A file of the run.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.file(name)
    }

    /// What is known so far; `None` before the first task ended.
    ///
    /// # Errors
    /// If `results.json` cannot be read or is damaged.
    pub fn results(&self) -> Result<Option<Results>> {
        let path = self.file(RESULTS);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).map_err(TrainError::file("read", &path))?;
        let found = serde_json::from_str(&text)
            .map_err(|error| at(&path, &format!("it is no result of a run: {error}")))?;
        Ok(Some(found))
    }

    /// The experiment where it stands: from the saved state, or from the beginning.
    ///
    /// # Errors
    /// If recipe and data do not fit, or the state is damaged or of another recipe.
    pub fn experiment(&self, data: &LoadedData) -> Result<Experiment> {
        let stream = self.recipe.build_stream(data)?;
        let mut experiment = Experiment::new(stream, self.recipe.build_learner(data)?);
        experiment = experiment.with_metrics(&self.recipe.metrics);
        let path = self.file(STATE);
        if path.exists() {
            let bytes = fs::read(&path).map_err(TrainError::file("read", &path))?;
            experiment.restore(&bytes).map_err(|error| {
                let folder = self.folder().display();
                let help =
                    format!("without this file `oncefit learn {folder} --resume` begins anew");
                at(&path, &format!("{error}; {help}"))
            })?;
        }
        Ok(experiment)
    }

    fn save(&self, experiment: &Experiment) -> Result<()> {
        Ok(write_atomically(&self.file(STATE), &experiment.state()?)?)
    }

    fn write_results(&self, experiment: &Experiment) -> Result<()> {
        let results = Results::of(&self.recipe, experiment);
        let text = serde_json::to_string_pretty(&results).expect("results are plain data");
        write_atomically(&self.file(RESULTS), text.as_bytes())?;
        Ok(write_atomically(
            &self.file(ACCURACIES),
            results.to_csv().as_bytes(),
        )?)
    }
}

fn at(path: &Path, reason: &str) -> TrainError {
    TrainError::Run {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

/// A task as it is reported.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TaskSummary {
    /// Names of its classes, in order of arrival.
    pub classes: Vec<String>,
    /// Training images.
    pub train: usize,
    /// Images that its accuracy is measured on.
    pub test: usize,
    /// What it does to pixels.
    pub pixels: String,
}

impl TaskSummary {
    /// The tasks of a stream.
    pub fn all(stream: &Stream) -> Vec<Self> {
        let names = stream.data().train.class_names();
        let tasks = stream.tasks().iter().map(|task| Self {
            classes: task
                .classes
                .iter()
                .map(|&class| names[class as usize].clone())
                .collect(),
            train: task.train.len(),
            test: task.test.len(),
            pixels: match &task.pixels {
                PixelChange::None => "as they are".into(),
                PixelChange::Permutation(_) => "permuted".into(),
                PixelChange::Rotation(degrees) => format!("turned by {degrees:.1}°"),
            },
        });
        tasks.collect()
    }
}

/// What a run cost.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Costs {
    /// Steps of the optimiser.
    #[serde(default)]
    pub steps: u64,
    /// Images, new and replayed, that ran forward and backward, once for each network of a step.
    pub images: u64,
    /// Multiply-accumulates of training: steps (three times those of a forward pass), the previous
    /// network's outputs, and what is computed at the ends of tasks: importances, herding, logits.
    pub train_macs: u64,
    /// Multiply-accumulates of evaluations, of which GDumb's fresh networks are a part.
    #[serde(default)]
    pub evaluation_macs: u64,
    /// Seconds in all.
    pub seconds: f64,
    /// Seconds of training steps.
    pub step_seconds: f64,
    /// Bytes of what the memory holds.
    pub memory_bytes: usize,
    /// Weights of the network.
    pub parameters: usize,
}

/// Everything a run found out.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Results {
    /// Name of the recipe.
    pub name: String,
    /// Seed.
    pub seed: u64,
    /// The method with all its values.
    pub method: Method,
    /// The tasks of the stream.
    pub tasks: Vec<TaskSummary>,
    /// Raw accuracies and times.
    pub finished: Finished,
    /// Costs so far.
    pub costs: Costs,
    /// Class-incremental metrics, by this crate's definitions; `None` before the last task.
    pub class_incremental: Option<Metrics>,
    /// Task-incremental metrics.
    pub task_incremental: Option<Metrics>,
}

impl Results {
    fn of(recipe: &LearningRecipe, experiment: &Experiment) -> Self {
        let Experiment {
            stream,
            learner,
            finished,
            ..
        } = experiment;
        Self {
            name: recipe.name.clone(),
            seed: recipe.seed,
            method: learner.method().clone(),
            tasks: TaskSummary::all(stream),
            costs: Costs {
                steps: learner.steps(),
                images: learner.images(),
                train_macs: learner.train_macs(),
                evaluation_macs: finished.evaluation_macs,
                seconds: finished.seconds,
                step_seconds: finished.task_seconds.iter().sum(),
                memory_bytes: finished.memory_bytes,
                parameters: learner.parameters().values(),
            },
            class_incremental: finished.class_incremental.metrics().ok(),
            task_incremental: finished.task_incremental.metrics().ok(),
            finished: finished.clone(),
        }
    }

    /// Whether the last task has ended.
    pub fn is_finished(&self) -> bool {
        self.class_incremental.is_some()
    }

    /// The raw matrices, a row each cell; 0 tasks learnt: before training. Those of a supernet's
    /// subnets have the subnet in the scenario's name.
    pub fn to_csv(&self) -> String {
        let mut text = "scenario,tasks_learnt,task,accuracy\n".to_owned();
        let finished = &self.finished;
        let mut matrices = vec![
            ("class_incremental".to_owned(), &finished.class_incremental),
            ("task_incremental".to_owned(), &finished.task_incremental),
        ];
        for subnet in &finished.subnets {
            // Texts of subnets have commas.
            let named = |scenario: &str| format!("\"{scenario} of {}\"", subnet.name);
            matrices.push((named("class_incremental"), &subnet.class_incremental));
            matrices.push((named("task_incremental"), &subnet.task_incremental));
        }
        for (name, matrix) in matrices {
            let rows = std::iter::once(&matrix.untrained).chain(&matrix.rows);
            for (learnt, row) in rows.enumerate() {
                for (task, accuracy) in row.iter().enumerate() {
                    let _ = writeln!(text, "{name},{learnt},{},{accuracy}", task + 1);
                }
            }
        }
        text
    }
}

/// Whose definitions metrics follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricConvention {
    /// [`Metrics`].
    Ours,
    /// Mammoth's: forgetting is measured from the best of all rows, the last one too.
    Mammoth,
    /// Avalanche's: forgetting is measured from the row right after learning.
    Avalanche,
    /// That of OnPro's and RaptorMai's code: ours, divided by the number of tasks, the last one too.
    Online,
}

impl MetricConvention {
    /// Forgetting of a finished matrix; `None` for one task.
    ///
    /// # Errors
    /// If the matrix is not finished.
    pub fn forgetting(self, matrix: &AccuracyMatrix) -> Result<Option<f64>> {
        match self {
            Self::Ours => Ok(matrix.metrics()?.forgetting),
            Self::Mammoth => matrix.mammoth_forgetting(),
            Self::Avalanche => matrix.avalanche_forgetting(),
            Self::Online => matrix.online_forgetting(),
        }
    }
}

/// What [`learn`] tells whoever watches it.
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    /// It begins or goes on.
    Started {
        /// Batches done.
        done: usize,
        /// Batches in all.
        batches: usize,
        /// What is known so far.
        finished: &'a Finished,
    },
    /// A batch was learnt.
    Step {
        /// What happened.
        report: StepReport,
        /// Batches done.
        done: usize,
        /// Number of the task, from 0.
        task: usize,
        /// Tasks in all.
        tasks: usize,
    },
    /// A task ended.
    Task {
        /// Its number, from 0.
        task: usize,
        /// What is known so far.
        finished: &'a Finished,
    },
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All tasks are learnt.
    Finished,
    /// It was asked to stop, and saved.
    Stopped {
        /// Batches done.
        done: usize,
        /// Batches in all.
        batches: usize,
    },
}

/// The stream of a recipe with its data.
///
/// # Errors
/// If the data cannot be read or does not fit the stream.
pub fn learning_stream(recipe: &LearningRecipe) -> Result<Stream> {
    recipe.build_stream(&recipe.load_data()?)
}

/// Learns the stream of a run from where it stands, saving as its recipe says; returns the learner
/// too, for a report.
///
/// # Errors
/// If recipe, data and state do not fit, a file cannot be written, or a loss is not finite: the
/// last good state is saved then.
pub fn learn(
    run: &LearningRun,
    data: &LoadedData,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(Told),
) -> Result<(Outcome, Learner)> {
    let mut experiment = run.experiment(data)?;
    let tasks = experiment.stream.tasks().len();
    let of_task: Vec<usize> = (0..tasks)
        .map(|task| experiment.stream.batches(task))
        .collect();
    let batches: usize = of_task.iter().sum();
    let before = |learner: &Learner| {
        let (task, batch) = learner.position();
        of_task[..task].iter().sum::<usize>() + batch
    };
    tell(Told::Started {
        done: before(&experiment.learner),
        batches,
        finished: &experiment.finished,
    });
    let checkpoint = run.recipe.checkpoint.clone();
    let mut saved = Instant::now();
    let mut is_stopped = false;
    let outcome = experiment.watch(&mut |experiment, moment| {
        let done = before(&experiment.learner);
        match moment {
            Moment::Step(report) => {
                let (task, _) = experiment.learner.position();
                tell(Told::Step {
                    report,
                    done,
                    task,
                    tasks,
                });
                is_stopped = stop.load(Ordering::Relaxed);
                let every = checkpoint.every_batches;
                let is_due = saved.elapsed().as_secs_f64() >= checkpoint.every_seconds
                    || (every > 0 && report.step.is_multiple_of(every));
                if is_stopped || is_due {
                    run.save(experiment)?;
                    saved = Instant::now();
                }
                Ok(!is_stopped)
            }
            Moment::Task(task) => {
                run.save(experiment)?;
                run.write_results(experiment)?;
                saved = Instant::now();
                tell(Told::Task {
                    task,
                    finished: &experiment.finished,
                });
                is_stopped = stop.load(Ordering::Relaxed) && task + 1 < tasks;
                Ok(!is_stopped)
            }
        }
    });
    if let Err(error) = outcome {
        // A step that fails leaves the learner as it was.
        run.save(&experiment)?;
        return Err(error);
    }
    let done = before(&experiment.learner);
    if is_stopped {
        return Ok((Outcome::Stopped { done, batches }, experiment.learner));
    }
    run.write_results(&experiment)?;
    Ok((Outcome::Finished, experiment.learner))
}
