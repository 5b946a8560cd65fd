//! Depthwise convolution on bytes: one vector of channels at a time.
//!
//! Four neighbouring pixels of a channel lie side by side in a lane, so that four taps of a row of
//! the window are one instruction. The padded rows under a few output rows are brought into that
//! form once (each pixel four times, still in cache) and read for every window they belong to.

use std::ops::Range;

use super::convolution::Finisher;
use super::integers::{IntegerKernel, Integers, lanes, run};
use super::{
    Finish, LayerFinish, Quantisation, QuantisedOutput, QuantisedTensor, quantise_weights,
};
use crate::cpu::Cpu;
use crate::parallel::{Parts, chunk_range, for_each_chunk};
use crate::scratch::Scratch;
use crate::types::{Shape, Window};

/// The weight of a depthwise convolution in eight bits, and what follows it.
#[derive(Clone, PartialEq, Debug)]
pub struct QuantisedDepthwise {
    kernel: usize,
    channels: usize,
    lanes: usize,
    input: Quantisation,
    /// `[vector of channels][row of taps][four taps][channel][4]`
    panels: Vec<u8>,
    finish: Finish,
}

impl QuantisedDepthwise {
    /// Rounds a weight `[taps][channels]`, each channel to its own scale, for inputs stored as
    /// `input`.
    ///
    /// # Panics
    /// If the weight's length is not that of its sizes, or `finish` has no output quantisation.
    pub fn new(
        cpu: Cpu,
        weight: &[f32],
        kernel: usize,
        input: Quantisation,
        finish: &LayerFinish,
    ) -> Self {
        assert!(
            matches!(kernel, 1 | 3 | 5 | 7),
            "quantised depthwise: kernels of 1, 3, 5 and 7 are supported, this is {kernel}"
        );
        assert!(
            finish.output.is_some(),
            "quantised depthwise: it has no steps for its output"
        );
        let (taps, lanes) = (kernel * kernel, lanes(cpu));
        assert!(
            !weight.is_empty() && weight.len().is_multiple_of(taps),
            "quantised depthwise: {} weights for {taps} taps",
            weight.len()
        );
        let channels = weight.len() / taps;
        let per_row = kernel.div_ceil(4);
        let vectors = channels.div_ceil(lanes);
        let mut panels = vec![0; vectors * kernel * per_row * lanes * 4];
        let (mut scales, mut sums) = (Vec::new(), Vec::new());
        for channel in 0..channels {
            let values = weight[channel..].iter().step_by(channels).copied();
            let (scale, integers) = quantise_weights(values);
            let (vector, lane) = (channel / lanes, channel % lanes);
            let mut sum = 0;
            for (tap, integer) in integers.enumerate() {
                let (y, x) = (tap / kernel, tap % kernel);
                let quad = (vector * kernel + y) * per_row + x / 4;
                panels[(quad * lanes + lane) * 4 + x % 4] = integer as u8;
                sum += i32::from(integer);
            }
            scales.push(scale);
            sums.push(sum);
        }
        Self {
            kernel,
            channels,
            lanes,
            input,
            panels,
            finish: Finish::new(finish, input, &scales, &sums, lanes),
        }
    }
}

/// Output rows of a chunk at least.
const BAND_ROWS: usize = 4;
/// Bytes of the padded rows in work.
const PLANE_BYTES: usize = 64 << 10;
/// Outputs of a row that are computed together.
const BLOCK: usize = 8;

/// `output = layer(source)`.
///
/// # Panics
/// If shapes or quantisations are not those that the layer was made for.
pub fn quantised_depthwise(
    cpu: Cpu,
    source: QuantisedTensor,
    window: Window,
    layer: &QuantisedDepthwise,
    output: &mut [u8],
) {
    source.check();
    let found = (window.kernel, source.shape.channels, source.quantisation);
    let made_for = (layer.kernel, layer.channels, layer.input);
    assert_eq!(found, made_for, "quantised_depthwise: input");
    assert_eq!(lanes(cpu), layer.lanes, "quantised_depthwise: processor");
    let shape = window.output_shape(source.shape, layer.channels);
    QuantisedOutput::Bytes(output).check(&layer.finish, shape.len());
    let rows = shape.images * shape.height;
    let chunks = rows.div_ceil(BAND_ROWS).min(16);
    let operations = 2 * shape.len() * window.kernel * window.kernel;
    let outputs = Parts::new(output);
    for_each_chunk(chunks, operations / 2, |chunk| {
        let rows = chunk_range(rows, chunks, chunk);
        let row = shape.width * shape.channels;
        // SAFETY: chunks are disjoint ranges of rows.
        let output = unsafe { outputs.part(rows.start * row..rows.end * row) };
        run(
            cpu,
            Bands {
                source,
                window,
                layer,
                shape,
                rows,
                output,
            },
        );
    });
}

struct Bands<'a> {
    source: QuantisedTensor<'a>,
    window: Window,
    layer: &'a QuantisedDepthwise,
    /// Of the output.
    shape: Shape,
    /// Output rows, counted through all images.
    rows: Range<usize>,
    output: &'a mut [u8],
}

impl IntegerKernel for Bands<'_> {
    #[inline(always)]
    fn run<S: Integers>(mut self, integers: S) {
        let Window { kernel, stride } = self.window;
        let padded_width = self.source.shape.width + 2 * self.window.padding();
        let row_bytes = padded_width * S::LANES * 4;
        let most = (PLANE_BYTES / row_bytes).saturating_sub(kernel) / stride + 1;
        let plane_rows = (most - 1) * stride + kernel;
        let mut plane = Scratch::take((plane_rows * row_bytes).div_ceil(4));
        let plane = plane.as_bytes_mut();
        let height = self.shape.height;
        let mut start = self.rows.start;
        while start < self.rows.end {
            let image_end = (start / height + 1) * height;
            let rows = start..self.rows.end.min(image_end).min(start + most);
            for vector in 0..self.shape.channels.div_ceil(S::LANES) {
                self.fill(integers, rows.clone(), vector, plane);
                match kernel {
                    1 => self.rows::<S, 1, 1>(integers, rows.clone(), vector, plane),
                    3 => self.rows::<S, 3, 1>(integers, rows.clone(), vector, plane),
                    5 => self.rows::<S, 5, 2>(integers, rows.clone(), vector, plane),
                    _ => self.rows::<S, 7, 2>(integers, rows.clone(), vector, plane),
                }
            }
            start = rows.end;
        }
    }
}

impl Bands<'_> {
    /// Four neighbouring pixels a lane, for the padded rows under some output rows of an image.
    #[inline(always)]
    fn fill<S: Integers>(&self, integers: S, rows: Range<usize>, vector: usize, plane: &mut [u8]) {
        let Window { kernel, stride } = self.window;
        let Shape {
            height,
            width,
            channels,
            ..
        } = self.source.shape;
        let (image, padding) = (rows.start / self.shape.height, self.window.padding());
        let top = rows.start % self.shape.height * stride;
        let padded_rows = (rows.len() - 1) * stride + kernel;
        let padded_width = width + 2 * padding;
        let first = vector * S::LANES;
        let count = S::LANES.min(channels - first);
        let bytes = 4 * S::LANES;
        assert!(plane.len() >= padded_rows * padded_width * bytes);
        let zero = integers.splat(i32::from(self.source.quantisation.zero_point));
        let zeros = integers.splat(i32::from_le_bytes([self.source.quantisation.zero_point; 4]));
        for row in 0..padded_rows {
            let y = (top + row).wrapping_sub(padding);
            // SAFETY: the positions lie in the plane, the pixels in the image, as checked.
            unsafe {
                let to = plane.as_mut_ptr().add(row * padded_width * bytes);
                if y >= height {
                    for x in 0..padded_width {
                        integers.store(to.add(x * bytes), zeros);
                    }
                    continue;
                }
                let start = ((image * height + y) * width) * channels + first;
                let from = self.source.data.as_ptr().add(start);
                let mut four = zeros;
                // Entering a pixel completes the four that end with it.
                for entering in padding..width + padding {
                    let pixel = integers.widen(from.add((entering - padding) * channels), count);
                    four = integers.slide(four, pixel);
                    if entering >= 3 {
                        integers.store(to.add((entering - 3) * bytes), four);
                    }
                }
                for entering in width + padding..padded_width + 3 {
                    four = integers.slide(four, zero);
                    if entering >= 3 {
                        integers.store(to.add((entering - 3) * bytes), four);
                    }
                }
            }
        }
    }

    /// `Q` instructions cover the `K` taps of a row.
    #[inline(always)]
    fn rows<S: Integers, const K: usize, const Q: usize>(
        &mut self,
        integers: S,
        rows: Range<usize>,
        vector: usize,
        plane: &[u8],
    ) {
        let stride = self.window.stride;
        let bytes = 4 * S::LANES;
        let padded_width = self.source.shape.width + 2 * self.window.padding();
        let Shape {
            width, channels, ..
        } = self.shape;
        let first = vector * S::LANES;
        let count = S::LANES.min(channels - first);
        let needed = ((rows.len() - 1) * stride + K) * padded_width * bytes;
        assert!(plane.len() >= needed);
        assert!(self.layer.panels.len() >= (vector + 1) * K * Q * bytes);
        assert!(self.layer.finish.factor.len() >= first + S::LANES);
        assert!(self.layer.finish.offset.len() >= first + S::LANES);
        let start = rows.start - self.rows.start;
        assert!(self.output.len() >= (start + rows.len()) * width * channels);
        let mut taps = [[integers.signed(integers.splat(0)); Q]; K];
        // SAFETY: the weights have this vector, the plane these rows and the output these pixels.
        unsafe {
            let weights = self.layer.panels.as_ptr().add(vector * K * Q * bytes);
            for (y, taps) in taps.iter_mut().enumerate() {
                for (quad, taps) in taps.iter_mut().enumerate() {
                    let from = weights.add((y * Q + quad) * bytes);
                    *taps = integers.signed(integers.load(from));
                }
            }
            let finisher = Finisher::new(integers, &self.layer.finish, first);
            for row in 0..rows.len() {
                let windows = plane.as_ptr().add(row * stride * padded_width * bytes);
                let to = (start + row) * width * channels + first;
                let to = self.output.as_mut_ptr().add(to);
                let mut x = 0;
                while x + BLOCK <= width {
                    let mut sums = [integers.splat(0); BLOCK];
                    for (y, taps) in taps.iter().enumerate() {
                        let line = windows.add((y * padded_width + x * stride) * bytes);
                        for (quad, taps) in taps.iter().enumerate() {
                            for (index, sum) in sums.iter_mut().enumerate() {
                                let from = line.add((index * stride + 4 * quad) * bytes);
                                let pixels = integers.unsigned(integers.load(from));
                                *sum = integers.dot(pixels, *taps, *sum);
                            }
                        }
                    }
                    for (index, sum) in sums.iter().enumerate() {
                        let value = finisher.steps(integers, *sum);
                        integers.store_bytes(to.add((x + index) * channels), count, value);
                    }
                    x += BLOCK;
                }
                for x in x..width {
                    let mut sum = integers.splat(0);
                    for (y, taps) in taps.iter().enumerate() {
                        let line = windows.add((y * padded_width + x * stride) * bytes);
                        for (quad, taps) in taps.iter().enumerate() {
                            let from = line.add(4 * quad * bytes);
                            let pixels = integers.unsigned(integers.load(from));
                            sum = integers.dot(pixels, *taps, sum);
                        }
                    }
                    let value = finisher.steps(integers, sum);
                    integers.store_bytes(to.add(x * channels), count, value);
                }
            }
        }
    }
}
