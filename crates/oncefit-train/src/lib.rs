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
mod learning_rate;
mod recipe;
mod run;
mod sampler;
mod schedule;

pub use checkpoint::{Checkpoint, CheckpointFolder};
pub use engine::{Estimate, Event, Outcome, RunData, StepReport, Trainer, middle};
pub use error::{Result, TrainError};
pub use evaluate::{Accuracy, Confusion, Evaluator, Split, images, largest};
pub use field_names::field_names;
pub use files::{TEMPORARY_PREFIX, write_atomically};
pub use learning_rate::{Decay, LearningRate};
pub use recipe::{
    CheckpointRecipe, DataRecipe, DecayKind, DistillationKind, EvaluationRecipe, InitRecipe,
    OptimiserKind, OptimiserRecipe, PhaseRecipe, Recipe, SamplerKind, ScheduleKind, ScheduleRecipe,
    SortKind, SourceKind, SpaceRecipe, TrainingRecipe, TransformDecayKind, parse_strictly,
};
pub use run::{EVALUATIONS, METRICS, MetricsRow, RowLog, Run, RunFolder, lock_folder, read_rows};
pub use sampler::{Pick, RESOLUTION, Sampler, StepSpace, at_resolution};
pub use schedule::{
    Aggregation, ChannelSort, Distance, Lesson, Networks, Phase, Place, Sandwich, Schedule,
    StepNetwork,
};
