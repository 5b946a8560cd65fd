//! Operators as engines run them, and the keys that tables name them by.
//!
//! ```
//! use oncefit_target::Operator;
//! let key = "conv-k3-s2-in:28x28x1-out:14x14x8-hard_swish";
//! let operator: Operator = key.parse()?;
//! assert_eq!(operator.macs(), 14 * 14 * 8 * 9);
//! assert_eq!(operator.to_string(), key);
//! # Ok::<(), oncefit_target::TargetError>(())
//! ```
//!
//! An operator is an operation of a graph with the batch-norm and the activation that follow it: a
//! batch-norm is folded into the convolution before it, and engines apply the activation while
//! they store. Equal keys mean equal work.

use std::fmt;
use std::str::FromStr;

use oncefit_space::{Activation, FeatureShape};

use crate::error::{Result, TargetError};

/// Kinds of operators.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum OperatorKind {
    /// A dense convolution, batch-norm folded.
    Convolution,
    /// A depthwise convolution, batch-norm folded.
    Depthwise,
    /// A linear layer.
    Linear,
    /// The mean over all pixels.
    GlobalAveragePool,
    /// Means over windows.
    AveragePool,
    /// Maxima over windows.
    MaxPool,
    /// The sum of two tensors.
    Add,
    /// The channels of two tensors after each other; the input is the first of them.
    Concat,
    /// A tensor times a gate of 1×1 pixels.
    Multiply,
    /// A batch-norm that follows no convolution.
    BatchNorm,
    /// An activation that follows no operator of its own.
    Activation,
    /// An inverted-residual block, whole: expansion, depthwise convolution, squeeze-excite,
    /// projection and shortcut, the unit of the tables of the Once-for-All authors.
    InvertedResidual,
}

impl OperatorKind {
    /// The kinds and their names in keys.
    pub const ALL: [(&'static str, OperatorKind); 12] = [
        ("conv", Self::Convolution),
        ("depthwise", Self::Depthwise),
        ("linear", Self::Linear),
        ("global_average_pool", Self::GlobalAveragePool),
        ("average_pool", Self::AveragePool),
        ("max_pool", Self::MaxPool),
        ("add", Self::Add),
        ("concat", Self::Concat),
        ("multiply", Self::Multiply),
        ("batch_norm", Self::BatchNorm),
        ("activation", Self::Activation),
        ("inverted_residual", Self::InvertedResidual),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, other)| *other == self);
        found.map_or("", |(name, _)| name)
    }
}

/// An operator: all that its time depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Operator {
    /// What it does.
    pub kind: OperatorKind,
    /// Pixels on a side of its window; 1 where there is none.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
    /// Shape of its (first) input.
    pub input: FeatureShape,
    /// Shape of its output.
    pub output: FeatureShape,
    /// Applied to its output; inside the block, if it is an inverted residual.
    pub activation: Activation,
    /// Channels within an inverted residual, otherwise 0.
    pub middle: usize,
    /// Whether an inverted residual has a squeeze-excite.
    pub squeeze: bool,
    /// Whether an inverted residual has a shortcut.
    pub shortcut: bool,
}

impl Operator {
    /// An operator with window 1, stride 1 and no activation.
    pub fn new(kind: OperatorKind, input: FeatureShape, output: FeatureShape) -> Self {
        Self {
            kind,
            kernel: 1,
            stride: 1,
            input,
            output,
            activation: Activation::Identity,
            middle: 0,
            squeeze: false,
            shortcut: false,
        }
    }

    /// Multiply-accumulates for one image, counted as [`oncefit_space::Graph::macs`] does; of an
    /// inverted residual those of its convolutions without the squeeze-excite.
    pub fn macs(&self) -> u64 {
        let taps = (self.kernel * self.kernel) as u64;
        let (input, output) = (self.input, self.output);
        let pixels = (output.height * output.width) as u64;
        match self.kind {
            OperatorKind::Convolution => output.len() as u64 * taps * input.channels as u64,
            OperatorKind::Depthwise => output.len() as u64 * taps,
            OperatorKind::Linear => (input.len() * output.channels) as u64,
            OperatorKind::InvertedResidual => {
                let middle = self.middle as u64;
                let expands = self.middle != input.channels;
                let expansion = (input.len() as u64) * middle * u64::from(expands);
                expansion + pixels * middle * (taps + output.channels as u64)
            }
            _ => 0,
        }
    }

    /// Bytes of input, output and weights at 32 bits, for one image.
    pub fn bytes(&self) -> u64 {
        let (input, output) = (self.input, self.output);
        let taps = self.kernel * self.kernel;
        let values = match self.kind {
            OperatorKind::Convolution => taps * input.channels * output.channels,
            OperatorKind::Depthwise => taps * output.channels,
            OperatorKind::Linear => input.len() * output.channels,
            OperatorKind::Add => input.len(),
            // The second input.
            OperatorKind::Concat => output.len().saturating_sub(input.len()),
            OperatorKind::Multiply => output.channels,
            OperatorKind::InvertedResidual => {
                self.middle * (input.channels + taps + output.channels)
            }
            _ => 0,
        };
        4 * (values + input.len() + output.len()) as u64
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        use OperatorKind as K;
        formatter.write_str(self.kind.name())?;
        let is_windowed = matches!(
            self.kind,
            K::Convolution | K::Depthwise | K::AveragePool | K::MaxPool | K::InvertedResidual
        );
        if is_windowed {
            write!(formatter, "-k{}-s{}", self.kernel, self.stride)?;
        }
        if self.kind == K::InvertedResidual {
            write!(formatter, "-m{}", self.middle)?;
        }
        let (input, output) = (self.input, self.output);
        write!(
            formatter,
            "-in:{}x{}x{}-out:{}x{}x{}",
            input.height, input.width, input.channels, output.height, output.width, output.channels
        )?;
        if self.activation != Activation::Identity {
            write!(formatter, "-{}", self.activation.name())?;
        }
        if self.squeeze {
            formatter.write_str("-squeeze")?;
        }
        if self.shortcut {
            formatter.write_str("-shortcut")?;
        }
        Ok(())
    }
}

impl FromStr for Operator {
    type Err = TargetError;

    fn from_str(key: &str) -> Result<Self> {
        let fails = |reason: String| TargetError::Key {
            key: key.chars().take(200).collect(),
            reason,
        };
        let mut parts = key.split('-');
        let name = parts.next().unwrap_or_default();
        let kinds = OperatorKind::ALL.map(|(name, _)| name).join(", ");
        let kind = OperatorKind::ALL.iter().find(|(known, _)| *known == name);
        let Some((_, kind)) = kind else {
            return Err(fails(format!("it begins with one of {kinds}")));
        };
        let empty = FeatureShape::default();
        let mut operator = Operator::new(*kind, empty, empty);
        for part in parts {
            let activation = Activation::ALL.iter().find(|(name, _)| *name == part);
            if let Some(shape) = part.strip_prefix("in:") {
                operator.input = read_shape(shape).map_err(&fails)?;
            } else if let Some(shape) = part.strip_prefix("out:") {
                operator.output = read_shape(shape).map_err(&fails)?;
            } else if let Some((_, activation)) = activation {
                operator.activation = *activation;
            } else if part == "squeeze" {
                operator.squeeze = true;
            } else if part == "shortcut" {
                operator.shortcut = true;
            } else if let Some(size) = part.strip_prefix('k') {
                operator.kernel = read_size(size).map_err(&fails)?;
            } else if let Some(size) = part.strip_prefix('s') {
                operator.stride = read_size(size).map_err(&fails)?;
            } else if let Some(size) = part.strip_prefix('m') {
                operator.middle = read_size(size).map_err(&fails)?;
            } else {
                return Err(fails(format!("`{part}` is unknown")));
            }
        }
        if operator.input.is_empty() || operator.output.is_empty() {
            return Err(fails(
                "it needs `in:HxWxC` and `out:HxWxC`, as in conv-k3-s2-in:28x28x1-out:14x14x8-relu"
                    .into(),
            ));
        }
        // One key for each operator: what is read is written the same way.
        match operator.to_string() == key {
            true => Ok(operator),
            false => Err(fails(format!("it is written `{operator}`"))),
        }
    }
}

/// The largest extent of anything in a key.
const LARGEST: usize = 1_000_000;

fn read_size(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(size @ 1..=LARGEST) => Ok(size),
        _ => Err(format!("`{text}` is no size from 1 to {LARGEST}")),
    }
}

/// `HxWxC`.
pub(crate) fn read_shape(text: &str) -> std::result::Result<FeatureShape, String> {
    let mut extents = text.split('x').map(read_size);
    match (
        extents.next(),
        extents.next(),
        extents.next(),
        extents.next(),
    ) {
        (Some(height), Some(width), Some(channels), None) => Ok(FeatureShape {
            height: height?,
            width: width?,
            channels: channels?,
        }),
        _ => Err(format!("`{text}` is no shape HxWxC")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        for key in [
            "conv-k1-s1-in:7x7x24-out:7x7x144-hard_swish",
            "depthwise-k5-s2-in:14x14x24-out:7x7x24-relu6",
            "linear-in:1x1x64-out:1x1x10",
            "add-in:7x7x24-out:7x7x24",
            "inverted_residual-k5-s2-m72-in:112x112x24-out:56x56x32-relu-squeeze",
            "inverted_residual-k3-s1-m96-in:56x56x32-out:56x56x32-hard_swish-shortcut",
        ] {
            assert_eq!(key.parse::<Operator>().unwrap().to_string(), key);
        }
    }

    #[test]
    fn what_is_no_key_is_an_error() {
        for (key, message) in [
            ("", "begins with one of"),
            ("convolution-in:1x1x1-out:1x1x1", "begins with one of"),
            ("conv-k3-s1-in:1x1x1", "needs `in:HxWxC`"),
            ("conv-k3-s1-in:1x1-out:1x1x1", "no shape"),
            ("conv-k0-s1-in:1x1x1-out:1x1x1", "no size"),
            ("conv-s1-k3-in:1x1x1-out:1x1x1", "is written"),
            (
                "conv-k3-s1-in:1x1x9999999999999999999999-out:1x1x1",
                "no size",
            ),
            ("conv-k3-s1-in:1x1x1-out:1x1x1-swish", "no size"),
            ("conv-k3-s1-in:1x1x1-out:1x1x1-gelu", "`gelu` is unknown"),
        ] {
            let error = key.parse::<Operator>().unwrap_err().to_string();
            assert!(error.contains(message), "{key}: {error}");
        }
    }
}
