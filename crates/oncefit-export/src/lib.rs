//! Writers of deployable files, and their checks in real engines.
//!
//! [`onnx_bytes`] makes an ONNX file of an extracted network, [`OnnxModel`] runs such a file in
//! `tract`, and [`verify`] compares the two: an export counts as done when the file itself gave the
//! network's logits.

mod error;
mod metadata;
#[allow(missing_docs, clippy::all, reason = "generated")]
mod onnx;
mod runtime;
mod write;

pub use error::{ExportError, Result};
pub use metadata::{Metadata, read_metadata};
pub use runtime::{ENGINE, OnnxModel, TOLERANCE, Verification, verify};
pub use write::{file_bytes, onnx_bytes, piece_bytes, to_channels_first};
