//! Targets: devices as tables of operator times, fast costs of subnets, and accuracy predictors.

mod coster;
mod error;
mod fusion;
mod ofa_table;
mod operator;
mod table;

pub use coster::{Cost, Coster};
pub use error::{Result, TargetError};
pub use fusion::{Granularity, operators};
pub use ofa_table::{OfaEntry, load_ofa_table, parse_ofa_table};
pub use operator::{Operator, OperatorKind};
pub use table::{Estimate, KeyStyle, Latency, OperatorTable, WorkCost};
