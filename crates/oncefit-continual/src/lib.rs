//! Continual learning: streams of tasks, memories, one objective, metrics.
//!
//! ```text
//! Dataset ──▶ Stream ──Examples──▶ Learner ──accuracies──▶ AccuracyMatrix ──▶ metrics, intervals
//!                                    │  └── state() / restore()
//!                       Method = terms of one objective, Memory
//! ```
//!
//! The objective is `cross-entropy + Σ α·D_Φ(output, reference) + Σ β·D_Ψ(weights, anchor)` with
//! Bregman divergences D ("A Unified and General Framework for Continual Learning", ICLR 2024): a
//! [`Method`] is a value that lists terms. A term of weight 0 is not executed.

mod angles;
mod contrastive;
mod correction;
mod divergence;
mod drift;
mod error;
mod experiment;
mod head;
mod importance;
mod learner;
mod linear;
mod memory;
mod method;
mod metrics;
mod model;
mod networks;
mod onpro;
mod recipe;
mod refresh;
mod run;
mod state;
mod statistics;
mod stream;

pub use angles::{Angles, Growth};
pub use contrastive::{Contrastive, supervised_contrastive};
pub use correction::Correction;
pub use divergence::{Divergence, output_divergence};
pub use drift::Directions;
pub use error::{ContinualError, Result};
pub use experiment::{AnytimePoint, Experiment, Finished, Moment, Running, SubnetAccuracies};
pub use head::{HeadKind, HeadSettings, Rows, Targets};
pub use importance::{FisherEstimator, fisher, output_sensitivity};
pub use learner::{
    CalibrationImages, Classifier, ElasticSettings, ImageChanges, Initialisation, Learner,
    LearnerSettings, StepReport, TaskAccuracy, WatchedSubnet,
};
pub use memory::{Memory, MemoryPolicy, herding_order};
pub use method::{
    BatchClasses, BiasCorrection, ClassRange, Convention, Images, Importance, Method, OutputTerm,
    Reference, WeightTerm,
};
pub use metrics::{AccuracyMatrix, Metrics};
pub use model::Model;
pub use networks::{
    mlp, resnet18, single_member, small_cnn, small_cnn_with_norms, space_of_member,
};
pub use onpro::{
    Centres, Instance, InstanceKind, MixedLabel, Mixtures, OnPro, PairAllocation, PairChoice,
    Turns, allocate_pairs, feedback, instance_loss, pair_shares, prototype_equilibrium,
    turned_copies,
};
pub use recipe::{
    AggregationKind, ClassifierKind, ControlKind, ConventionKind, DrawKind, ElasticRecipe,
    FillKind, FisherKind, HeadKindName, HeadRecipe, LearningRecipe, MemoryRecipe, MethodRecipe,
    MetricsRecipe, NetworkKind, NetworkRecipe, PolicyKind, RateDecayKind, RefreshMode,
    RefreshRecipe, ReplayMean, RowsKind, StateRecipe, StepsRecipe, StreamKind, StreamRecipe,
    UpdateRecipe,
};
pub use refresh::{Direction, FisherNorms, Refresh, RefreshRule, UnlearntLoss};
pub use run::{
    Costs, LearningRun, MetricConvention, Outcome, Results, TaskSummary, Told, learn,
    learning_stream,
};
pub use statistics::{Interval, interval, paired_difference};
pub use stream::{ClassOrder, Examples, PixelChange, Scenario, Stream, StreamSettings, Task};
