//! The training engine: recipes, schedules, checkpoints, evaluation and run folders.
//!
//! ```text
//! Recipe ──▶ RunData, Space, Schedule ──▶ Trainer ──▶ Run folder ──▶ Evaluator
//! ```

mod checkpoint;
mod engine;
mod error;
mod evaluate;
mod field_names;
mod files;
mod recipe;
mod run;
mod schedule;

pub use checkpoint::{Checkpoint, CheckpointFolder};
pub use engine::{Estimate, Event, Outcome, RunData, StepReport, Trainer, middle};
pub use error::{Result, TrainError};
pub use evaluate::{Accuracy, Evaluator, Split, images, largest};
pub use files::{TEMPORARY_PREFIX, write_atomically};
pub use recipe::{
    AugmentationRecipe, CheckpointRecipe, DataRecipe, EvaluationRecipe, OptimiserRecipe, Recipe,
    ScheduleKind, ScheduleRecipe, SourceKind, SpaceRecipe, TrainingRecipe,
};
pub use run::{EVALUATIONS, METRICS, MetricsRow, RowLog, Run, read_rows};
pub use schedule::{
    Delayed, LearningRate, RESOLUTION, Schedule, StepNetwork, StepSpace, Teacher, at_resolution,
};
