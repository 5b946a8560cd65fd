//! Targets: devices as tables of operator times, fast costs of subnets, and accuracy predictors.

mod additive;
mod coster;
mod engine;
mod error;
mod fusion;
mod mlp;
mod nnls;
mod ofa_table;
#[cfg(feature = "onnxruntime")]
mod onnxruntime;
mod operator;
mod predictor;
mod probe_files;
mod probes;
mod profile;
mod statistics;
mod table;
mod target;

pub use additive::{
    AdditiveModel, FEWEST_NETWORKS, Measurements, NetworkTime, OperatorTime, Validation, fit,
    validate,
};
pub use coster::{Bounds, Cost, Coster, SumScore};
pub use engine::time_network;
pub use error::{Result, TargetError};
pub use fusion::{Granularity, operators};
pub use mlp::Codes;
pub use nnls::{LeastSquares, SparseLeastSquares};
pub use ofa_table::{OfaEntry, parse_ofa_table};
pub use operator::{Operator, OperatorKind};
pub use predictor::{CurvePoint, FEWEST_SAMPLES, Predictor, PredictorOptions, Quality, Sample};
pub use probe_files::{
    ImportOptions, Manifest, PROBES_FORMAT, Probe, ProbeKind, ProbeOptions, emit_probes,
    import_timings, load_manifest,
};
pub use profile::{ProfileOptions, Progress, profile};
pub use statistics::{kendall, mean_and_std, median, root_mean_square_error, spearman};
pub use table::{Estimate, KeyStyle, Latency, OperatorTable, WorkCost};
pub use target::{Engine, FORMAT, Machine, Measured, OperatorEntry, Target};
