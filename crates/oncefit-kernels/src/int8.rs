//! Inference in eight bits: unsigned activations, signed weights, sums in 32 bits.
//!
//! ```text
//! activation  a = scale · (q − zero_point),   q in 0..=255, one scale and zero point per tensor
//! weight      w = scale[c] · q,               q in −127..=127, one scale per output channel
//! product     Σ a·w = scale · scale[c] · (Σ qₐ·q_w − zero_point · Σ q_w)
//! ```
//!
//! Sums of products are exact, so every instruction set finds the same integers; scales, batch-norm
//! and activation are applied to them in f32, and the result is rounded to the output's steps. What
//! is stored is the value that consumers read: nothing is applied on load but the zero point.
//!
//! (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
//! Integer-Arithmetic-Only Inference", sections 2.1 to 2.4, with f32 in place of fixed-point
//! multipliers.)

mod convolution;
mod depthwise;
mod elementwise;
mod integers;

pub use convolution::{QuantisedConvolution, quantised_convolution};
pub use depthwise::{QuantisedDepthwise, quantised_depthwise};
pub use elementwise::{
    QuantisedGate, dequantise, quantise, quantised_add, quantised_average_pool,
    quantised_global_average_pool, quantised_map, quantised_max_pool,
};

use crate::types::{Activation, Shape};

/// How a tensor's values are stored: `scale · (q − zero_point)`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Quantisation {
    /// Distance of two neighbouring values.
    pub scale: f32,
    /// The integer that stands for 0.
    pub zero_point: u8,
}

impl Quantisation {
    /// The finest steps that cover `least..=largest` and 0.
    ///
    /// ```
    /// let steps = oncefit_kernels::Quantisation::of_range(-1.0, 1.55);
    /// assert_eq!((steps.scale, steps.zero_point), (0.01, 100));
    /// assert_eq!(steps.quantise(0.123), 112);
    /// assert_eq!(steps.quantise(9.0), 255);
    /// assert_eq!(steps.value(112), 0.12);
    /// ```
    ///
    /// # Panics
    /// If a bound is not finite.
    pub fn of_range(least: f32, largest: f32) -> Self {
        assert!(
            least.is_finite() && largest.is_finite(),
            "quantisation: a range from {least} to {largest}"
        );
        let (least, largest) = (least.min(0.0), largest.max(0.0));
        let scale = match (largest - least) / 255.0 {
            width if width.is_normal() => width,
            _ => 1.0,
        };
        let zero_point = (-least / scale).round().clamp(0.0, 255.0) as u8;
        Self { scale, zero_point }
    }

    /// The nearest integer; values out of range become the first or last.
    pub fn quantise(self, value: f32) -> u8 {
        let steps = value * self.scale.recip() + f32::from(self.zero_point);
        steps.round_ties_even().clamp(0.0, 255.0) as u8
    }

    /// What an integer stands for.
    pub fn value(self, quantised: u8) -> f32 {
        f32::from(i16::from(quantised) - i16::from(self.zero_point)) * self.scale
    }
}

/// A stored tensor of eight bits.
#[derive(Clone, Copy, Debug)]
pub struct QuantisedTensor<'a> {
    /// Its integers, channels-last.
    pub data: &'a [u8],
    /// Its shape.
    pub shape: Shape,
    /// What they stand for.
    pub quantisation: Quantisation,
}

impl QuantisedTensor<'_> {
    fn check(&self) {
        assert!(!self.shape.is_empty(), "quantised tensor: {:?}", self.shape);
        assert_eq!(
            self.data.len(),
            self.shape.len(),
            "quantised tensor: values of {:?}",
            self.shape
        );
    }
}

/// What becomes of a channel's sum of products: `act(factor · sum + offset)`.
#[derive(Clone, PartialEq, Debug)]
struct Finish {
    /// Filled up to whole vectors.
    factor: Vec<f32>,
    /// Filled up to whole vectors.
    offset: Vec<f32>,
    activation: Activation,
    /// Steps of the output; values if there are none.
    output: Option<Quantisation>,
}

/// What follows the products of a layer: `act(scale · (product + bias) + shift)`, stored in `output`.
#[derive(Clone, Copy, Debug)]
pub struct LayerFinish<'a> {
    /// Added to the product, per channel.
    pub bias: Option<&'a [f32]>,
    /// Batch-norm as one multiplication and addition.
    pub affine: Option<crate::types::Affine<'a>>,
    /// Applied after it.
    pub activation: Activation,
    /// Steps of the output; f32 if there are none.
    pub output: Option<Quantisation>,
}

impl Finish {
    /// For products of integers of `input` with weights of `scales` whose sums are `sums`.
    fn new(
        finish: &LayerFinish,
        input: Quantisation,
        scales: &[f32],
        sums: &[i32],
        lanes: usize,
    ) -> Self {
        let padded = scales.len().div_ceil(lanes) * lanes;
        let (mut factors, mut offsets) = (vec![0.0; padded], vec![0.0; padded]);
        for (channel, (scale, sum)) in scales.iter().zip(sums).enumerate() {
            let product = scale * input.scale;
            // The part of the sum that the zero point puts in.
            let surplus = f64::from(*sum) * f64::from(input.zero_point) * f64::from(product);
            let bias = finish.bias.map_or(0.0, |bias| bias[channel]);
            let start = (f64::from(bias) - surplus) as f32;
            let (scale, shift) = finish.affine.map_or((1.0, 0.0), |affine| {
                (affine.scale[channel], affine.shift[channel])
            });
            factors[channel] = product * scale;
            offsets[channel] = start * scale + shift;
        }
        Self {
            factor: factors,
            offset: offsets,
            activation: finish.activation,
            output: finish.output,
        }
    }
}

/// Where a layer's outputs go.
#[derive(Debug)]
pub enum QuantisedOutput<'a> {
    /// Integers, for layers with an output quantisation.
    Bytes(&'a mut [u8]),
    /// Values, for layers without.
    Floats(&'a mut [f32]),
}

impl QuantisedOutput<'_> {
    fn check(&self, finish: &Finish, values: usize) {
        let (found, is_bytes) = match self {
            Self::Bytes(bytes) => (bytes.len(), true),
            Self::Floats(floats) => (floats.len(), false),
        };
        assert_eq!(found, values, "quantised layer: output");
        assert_eq!(
            is_bytes,
            finish.output.is_some(),
            "quantised layer: kind of output"
        );
    }
}

/// The scale of symmetric weights whose largest magnitude is `largest`, and each weight's integer.
fn quantise_weights(values: impl Iterator<Item = f32> + Clone) -> (f32, impl Iterator<Item = i8>) {
    let largest = values
        .clone()
        .fold(0.0f32, |most, value| most.max(value.abs()));
    let scale = match largest / 127.0 {
        width if width.is_normal() => width,
        _ => 1.0,
    };
    let integers = values.map(move |value| {
        let steps = (value / scale).round_ties_even();
        steps.clamp(-127.0, 127.0) as i8
    });
    (scale, integers)
}
