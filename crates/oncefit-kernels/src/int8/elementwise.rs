//! Operations on bytes without weights: to and from f32, per-channel maps, sums, pools.

use std::ops::Range;

use super::integers::{IntegerKernel, Integers, run};
use super::{Quantisation, QuantisedTensor};
use crate::cpu::Cpu;
use crate::parallel::{Parts, chunk_range, for_each_chunk};
use crate::simd::Simd;
use crate::types::{Activation, Affine, Shape};
use crate::window_pooling::PoolWindow;

/// Values that a chunk holds at least.
const CHUNK_VALUES: usize = 16_384;

fn value_chunks(values: usize) -> usize {
    (values / CHUNK_VALUES).clamp(1, 64)
}

/// `output` = the integers of `values`.
///
/// # Panics
/// If the lengths differ.
pub fn quantise(cpu: Cpu, values: &[f32], quantisation: Quantisation, output: &mut [u8]) {
    assert_eq!(values.len(), output.len(), "quantise: output");
    let chunks = value_chunks(values.len());
    let outputs = Parts::new(output);
    for_each_chunk(chunks, 4 * values.len(), |chunk| {
        let range = chunk_range(values.len(), chunks, chunk);
        // SAFETY: chunks are disjoint.
        let output = unsafe { outputs.part(range.clone()) };
        let pass = Quantise {
            values: &values[range],
            quantisation,
            output,
        };
        run(cpu, pass);
    });
}

/// `output` = what the integers of `source` stand for.
///
/// # Panics
/// If the lengths differ.
pub fn dequantise(source: QuantisedTensor, output: &mut [f32]) {
    source.check();
    assert_eq!(source.data.len(), output.len(), "dequantise: output");
    for (value, quantised) in output.iter_mut().zip(source.data) {
        *value = source.quantisation.value(*quantised);
    }
}

/// A factor of each image and channel, `images × channels`.
#[derive(Clone, Copy, Debug)]
pub struct QuantisedGate<'a> {
    /// Its integers.
    pub data: &'a [u8],
    /// What they stand for.
    pub quantisation: Quantisation,
}

/// `output = gate · act(scale · source + shift)`, stored as `quantisation`.
///
/// # Panics
/// If lengths do not fit.
pub fn quantised_map(
    cpu: Cpu,
    source: QuantisedTensor,
    affine: Option<Affine>,
    activation: Activation,
    gate: Option<QuantisedGate>,
    quantisation: Quantisation,
    output: &mut [u8],
) {
    source.check();
    assert_eq!(source.data.len(), output.len(), "quantised_map: output");
    let Shape {
        images, channels, ..
    } = source.shape;
    let (mut factor, mut offset) = (Vec::new(), Vec::new());
    for channel in 0..channels {
        let (scale, shift) = affine.map_or((1.0, 0.0), |affine| {
            (affine.scale[channel], affine.shift[channel])
        });
        let zero = f32::from(source.quantisation.zero_point);
        factor.push(source.quantisation.scale * scale);
        offset.push(shift - source.quantisation.scale * scale * zero);
    }
    let gates = gate.map(|gate| {
        assert_eq!(gate.data.len(), images * channels, "quantised_map: gate");
        let values = gate
            .data
            .iter()
            .map(|value| gate.quantisation.value(*value));
        values.collect::<Vec<f32>>()
    });
    let pixels = source.shape.height * source.shape.width;
    let rows = source.shape.rows();
    let chunks = value_chunks(output.len()).min(rows);
    let outputs = Parts::new(output);
    for_each_chunk(chunks, 8 * source.data.len(), |chunk| {
        let rows = chunk_range(rows, chunks, chunk);
        // SAFETY: chunks are disjoint ranges of rows.
        let output = unsafe { outputs.part(rows.start * channels..rows.end * channels) };
        let pass = Map {
            source: source.data,
            factor: &factor,
            offset: &offset,
            gates: gates.as_deref(),
            pixels,
            activation,
            quantisation,
            rows,
            output,
        };
        run(cpu, pass);
    });
}

/// `output = act(left + right)`, stored as `quantisation`.
///
/// # Panics
/// If shapes differ.
pub fn quantised_add(
    cpu: Cpu,
    left: QuantisedTensor,
    right: QuantisedTensor,
    activation: Activation,
    quantisation: Quantisation,
    output: &mut [u8],
) {
    left.check();
    right.check();
    assert_eq!(left.shape, right.shape, "quantised_add: shapes");
    assert_eq!(output.len(), left.data.len(), "quantised_add: output");
    let chunks = value_chunks(output.len());
    let values = output.len();
    let outputs = Parts::new(output);
    for_each_chunk(chunks, 8 * values, |chunk| {
        let range = chunk_range(values, chunks, chunk);
        // SAFETY: chunks are disjoint.
        let output = unsafe { outputs.part(range.clone()) };
        let pass = Add {
            left: (&left.data[range.clone()], left.quantisation),
            right: (&right.data[range], right.quantisation),
            activation,
            quantisation,
            output,
        };
        run(cpu, pass);
    });
}

/// `output[n, c] = act(mean over the pixels of image n)`, stored as `quantisation`.
///
/// # Panics
/// If the output is not `images × channels`.
pub fn quantised_global_average_pool(
    cpu: Cpu,
    source: QuantisedTensor,
    activation: Activation,
    quantisation: Quantisation,
    output: &mut [u8],
) {
    let shape = Shape {
        height: 1,
        width: 1,
        ..source.shape
    };
    let reduction = Reduction {
        source,
        window: None,
        is_maximum: false,
        activation,
        quantisation,
    };
    reduction.run(cpu, shape, output);
}

/// `output = act(mean of the pixels of each window that lie in the image)`, stored as
/// `quantisation`.
///
/// # Panics
/// If the output has another shape than the windows.
pub fn quantised_average_pool(
    cpu: Cpu,
    source: QuantisedTensor,
    window: PoolWindow,
    activation: Activation,
    quantisation: Quantisation,
    output: &mut [u8],
) {
    let reduction = Reduction {
        source,
        window: Some(window),
        is_maximum: false,
        activation,
        quantisation,
    };
    reduction.run(cpu, window.output_shape(source.shape), output);
}

/// `output = act(largest pixel of each window)`, stored as `quantisation`.
///
/// # Panics
/// If the output has another shape than the windows.
pub fn quantised_max_pool(
    cpu: Cpu,
    source: QuantisedTensor,
    window: PoolWindow,
    activation: Activation,
    quantisation: Quantisation,
    output: &mut [u8],
) {
    let reduction = Reduction {
        source,
        window: Some(window),
        is_maximum: true,
        activation,
        quantisation,
    };
    reduction.run(cpu, window.output_shape(source.shape), output);
}

/// Values to steps of a quantisation.
#[derive(Clone, Copy)]
struct Steps<S: Integers> {
    per_step: <S::Floats as Simd>::V,
    zero_point: <S::Floats as Simd>::V,
}

impl<S: Integers> Steps<S> {
    #[inline(always)]
    fn new(integers: S, quantisation: Quantisation) -> Self {
        let floats = integers.floats();
        Self {
            per_step: floats.splat(quantisation.scale.recip()),
            zero_point: floats.splat(f32::from(quantisation.zero_point)),
        }
    }

    #[inline(always)]
    fn of(&self, integers: S, value: <S::Floats as Simd>::V) -> <S::Floats as Simd>::V {
        integers.floats().fma(value, self.per_step, self.zero_point)
    }
}

struct Quantise<'a> {
    values: &'a [f32],
    quantisation: Quantisation,
    output: &'a mut [u8],
}

impl IntegerKernel for Quantise<'_> {
    #[inline(always)]
    fn run<S: Integers>(self, integers: S) {
        let steps = Steps::new(integers, self.quantisation);
        for start in (0..self.values.len()).step_by(S::LANES) {
            let count = S::LANES.min(self.values.len() - start);
            // SAFETY: both hold these values, as checked on entry.
            unsafe {
                let from = self.values.as_ptr().add(start);
                let value = integers.floats().load_some(from, count);
                let value = steps.of(integers, value);
                integers.store_bytes(self.output.as_mut_ptr().add(start), count, value);
            }
        }
    }
}

struct Map<'a> {
    source: &'a [u8],
    factor: &'a [f32],
    offset: &'a [f32],
    gates: Option<&'a [f32]>,
    /// Of an image.
    pixels: usize,
    activation: Activation,
    quantisation: Quantisation,
    rows: Range<usize>,
    output: &'a mut [u8],
}

impl IntegerKernel for Map<'_> {
    #[inline(always)]
    fn run<S: Integers>(self, integers: S) {
        let floats = integers.floats();
        let channels = self.factor.len();
        let steps = Steps::new(integers, self.quantisation);
        assert!(self.source.len() >= self.rows.end * channels);
        assert!(self.output.len() >= self.rows.len() * channels);
        for first in (0..channels).step_by(S::LANES) {
            let count = S::LANES.min(channels - first);
            // SAFETY: the channels and rows lie in their slices, as checked.
            unsafe {
                let factor = floats.load_some(self.factor.as_ptr().add(first), count);
                let offset = floats.load_some(self.offset.as_ptr().add(first), count);
                for row in self.rows.clone() {
                    let from = self.source.as_ptr().add(row * channels + first);
                    let value = integers.to_floats(integers.widen(from, count));
                    let value = floats.fma(value, factor, offset);
                    let mut value = floats.activate(self.activation, value);
                    if let Some(gates) = self.gates {
                        let gate = &gates[row / self.pixels * channels + first..][..count];
                        value = floats.mul(value, floats.load_some(gate.as_ptr(), count));
                    }
                    let to = (row - self.rows.start) * channels + first;
                    let value = steps.of(integers, value);
                    integers.store_bytes(self.output.as_mut_ptr().add(to), count, value);
                }
            }
        }
    }
}

struct Add<'a> {
    left: (&'a [u8], Quantisation),
    right: (&'a [u8], Quantisation),
    activation: Activation,
    quantisation: Quantisation,
    output: &'a mut [u8],
}

impl IntegerKernel for Add<'_> {
    #[inline(always)]
    fn run<S: Integers>(self, integers: S) {
        let floats = integers.floats();
        let steps = Steps::new(integers, self.quantisation);
        let ((left, of_left), (right, of_right)) = (self.left, self.right);
        let zero =
            |quantisation: Quantisation| f32::from(quantisation.zero_point) * quantisation.scale;
        let offset = floats.splat(-(zero(of_left) + zero(of_right)));
        let (left_scale, right_scale) = (floats.splat(of_left.scale), floats.splat(of_right.scale));
        let length = self.output.len();
        assert!(left.len() == length && right.len() == length);
        for start in (0..length).step_by(S::LANES) {
            let count = S::LANES.min(length - start);
            // SAFETY: all hold these values, as checked.
            unsafe {
                let left = integers.to_floats(integers.widen(left.as_ptr().add(start), count));
                let right = integers.to_floats(integers.widen(right.as_ptr().add(start), count));
                let sum = floats.fma(left, left_scale, floats.fma(right, right_scale, offset));
                let value = steps.of(integers, floats.activate(self.activation, sum));
                integers.store_bytes(self.output.as_mut_ptr().add(start), count, value);
            }
        }
    }
}

/// A mean or maximum over windows, or over whole images.
#[derive(Clone, Copy)]
struct Reduction<'a> {
    source: QuantisedTensor<'a>,
    window: Option<PoolWindow>,
    is_maximum: bool,
    activation: Activation,
    quantisation: Quantisation,
}

impl Reduction<'_> {
    fn run(self, cpu: Cpu, shape: Shape, output: &mut [u8]) {
        self.source.check();
        assert_eq!(output.len(), shape.len(), "quantised pool: output");
        let lines = shape.images * shape.height;
        let chunks = lines.min(16);
        let outputs = Parts::new(output);
        for_each_chunk(chunks, 4 * self.source.data.len(), |chunk| {
            let lines = chunk_range(lines, chunks, chunk);
            let line = shape.width * shape.channels;
            // SAFETY: chunks are disjoint ranges of lines.
            let output = unsafe { outputs.part(lines.start * line..lines.end * line) };
            let pass = ReduceLines {
                reduction: self,
                shape,
                lines,
                output,
            };
            run(cpu, pass);
        });
    }

    /// Input pixels along an axis of `size` under output `index`.
    fn inside(&self, index: usize, size: usize) -> Range<usize> {
        self.window
            .map_or(0..size, |window| window.inside(index, size))
    }
}

struct ReduceLines<'a> {
    reduction: Reduction<'a>,
    /// Of the output.
    shape: Shape,
    /// Lines of output pixels, counted through all images.
    lines: Range<usize>,
    output: &'a mut [u8],
}

impl IntegerKernel for ReduceLines<'_> {
    #[inline(always)]
    fn run<S: Integers>(self, integers: S) {
        let floats = integers.floats();
        let reduction = self.reduction;
        let QuantisedTensor {
            data,
            shape: input,
            quantisation,
        } = reduction.source;
        let steps = Steps::new(integers, reduction.quantisation);
        let scale = floats.splat(quantisation.scale);
        let offset = floats.splat(-quantisation.scale * f32::from(quantisation.zero_point));
        let channels = input.channels;
        assert!(data.len() == input.len());
        assert!(self.output.len() >= self.lines.len() * self.shape.width * channels);
        for line in self.lines.clone() {
            let (image, y) = (line / self.shape.height, line % self.shape.height);
            let ys = reduction.inside(y, input.height);
            for x in 0..self.shape.width {
                let xs = reduction.inside(x, input.width);
                assert!(ys.end <= input.height && xs.end <= input.width);
                let share = floats.splat(1.0 / (ys.len() * xs.len()) as f32);
                let to = ((line - self.lines.start) * self.shape.width + x) * channels;
                for first in (0..channels).step_by(S::LANES) {
                    let count = S::LANES.min(channels - first);
                    let mut found = floats.zero();
                    for y in ys.clone() {
                        let row = (image * input.height + y) * input.width;
                        for x in xs.clone() {
                            // SAFETY: the pixel lies in the image, the channels in the pixel.
                            let pixel = unsafe {
                                let from = data.as_ptr().add((row + x) * channels + first);
                                integers.to_floats(integers.widen(from, count))
                            };
                            found = match reduction.is_maximum {
                                true => floats.max(found, pixel),
                                false => floats.add(found, pixel),
                            };
                        }
                    }
                    if !reduction.is_maximum {
                        found = floats.mul(found, share);
                    }
                    let value = floats.fma(found, scale, offset);
                    let value = floats.activate(reduction.activation, value);
                    let value = steps.of(integers, value);
                    // SAFETY: the pixel lies in the output, as checked.
                    unsafe {
                        let to = self.output.as_mut_ptr().add(to + first);
                        integers.store_bytes(to, count, value);
                    }
                }
            }
        }
    }
}
