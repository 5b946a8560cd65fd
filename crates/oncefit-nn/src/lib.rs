//! Supernets and networks: elastic execution, gradients, calibration, extraction.
//!
//! A [`Supernet`] is weights and a space. A subnet's graph is compiled to a [`Plan`] against those
//! weights; an [`Executor`] runs the plan forward and backward on leading slices of them, without
//! copying them and without any "active" state. [`Supernet::extract`] copies the slices into a
//! [`Network`], whose outputs are the same bits.
//!
//! ```text
//! Space ──initialise──▶ Supernet ──plan(subnet)──▶ Plan ──forward──▶ Tape ──backward──▶ Gradients
//!                          │                         └──calibrate──▶ Calibration
//!                          └──extract(subnet, calibration)──▶ Network
//! ```

mod backward;
mod buffers;
mod calibration;
mod channels;
mod coverage;
mod error;
mod execute;
mod import;
mod inference;
mod name_map;
mod optimiser;
mod parameters;
mod plan;
mod quantised;
mod session;
mod sort;
mod supernet;

pub use calibration::{Calibration, ChannelStatistics, Variances};
pub use channels::Channels;
pub use error::{NnError, Result};
pub use execute::{DropoutDraws, Executor, Images, Mode, Tape};
pub use import::{ImportSettings, Imported, import_weights};
pub use inference::Blocks;
pub use name_map::NameMap;
pub use oncefit_kernels::{
    AlphaDivergence, Cpu, InstructionSet, Target, in_pool, softmax, softmax_cross_entropy,
};
pub use optimiser::{Optimiser, TransformDecay, UpdateRule};
pub use parameters::{Gradients, Parameter, ParameterKind, Parameters};
pub use plan::{KernelLink, Plan, stored_channels};
pub use quantised::{ActivationRanges, QuantisedSession};
pub use session::Session;
pub use sort::{ChannelOrder, Tiers, sort_channels};
pub use supernet::{Network, Supernet};
