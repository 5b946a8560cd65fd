//! A second executor of Oncefit's graphs, over the tensor library Burn: the way to GPUs.
//!
//! It runs what `oncefit_nn` runs, a subnet's graph on leading slices of a supernet's weights, with
//! tensors that live on a Burn device. Burn records the operations and derives the backward pass.
//!
//! ```text
//! Graph + Parameters ──▶ Program ──forward(DeviceParameters, images)──▶ DeviceTape ──backward──▶ DeviceGradients
//!                                        ▲───────────────────────────────────────── Sgd::step ◀──────┘
//! ```
//!
//! Weights, gradients and momentum stay on the device; images go there and logits come back in
//! every pass, so any loss that gives a gradient of the logits serves both executors.
//!
//! It is not bit-reproducible, unlike `oncefit_nn`: sums are taken in the order of the device.

mod check;
mod device;
mod error;
mod optimiser;
mod parameters;
mod program;

pub use burn_tensor::Device;
pub use check::{Differences, Outcome, TrainingStep};
pub use device::{DEVICES, open_device};
pub use error::{BurnError, Result};
pub use optimiser::Sgd;
pub use parameters::{DeviceGradients, DeviceParameters};
pub use program::{DeviceTape, Program};
