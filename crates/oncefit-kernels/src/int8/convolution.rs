//! Dense convolution and linear layers on bytes: tiles of rows times packed weights.
//!
//! A row is an output pixel's `k·k·in` bytes, the input's zero point where the window lies outside,
//! filled up to a multiple of four with bytes whose weights are 0. Four products are one
//! instruction, so a weight is packed `[vector of outputs][row / 4][output][4]`.

use std::ops::Range;

use super::integers::{IntegerKernel, Integers, lanes, run};
use super::{
    Finish, LayerFinish, Quantisation, QuantisedOutput, QuantisedTensor, quantise_weights,
};
use crate::cpu::Cpu;
use crate::parallel::{Parts, chunk_range, for_each_chunk};
use crate::scratch::Scratch;
use crate::simd::Simd;
use crate::types::{ConvWeight, Window};

/// The weight of a dense convolution or linear layer in eight bits, and what follows it.
#[derive(Clone, PartialEq, Debug)]
pub struct QuantisedConvolution {
    kernel: usize,
    in_channels: usize,
    out_channels: usize,
    lanes: usize,
    input: Quantisation,
    panels: Vec<u8>,
    finish: Finish,
}

impl QuantisedConvolution {
    /// Rounds a weight of `kernel × kernel` taps, each output channel to its own scale, for inputs
    /// stored as `input`.
    ///
    /// # Panics
    /// If the weight is too short for its sizes.
    pub fn new(
        cpu: Cpu,
        weight: ConvWeight,
        kernel: usize,
        in_channels: usize,
        out_channels: usize,
        input: Quantisation,
        finish: &LayerFinish,
    ) -> Self {
        let (taps, lanes) = (kernel * kernel, lanes(cpu));
        let quads = (taps * in_channels).div_ceil(4);
        let mut panels = vec![0; out_channels.div_ceil(lanes) * quads * 4 * lanes];
        let (mut scales, mut sums) = (Vec::new(), Vec::new());
        for out in 0..out_channels {
            let values = (0..taps).flat_map(|tap| {
                let from = out * weight.out_stride + tap * weight.in_stride;
                weight.data[from..from + in_channels].iter().copied()
            });
            let (scale, integers) = quantise_weights(values);
            let (panel, lane) = (out / lanes, out % lanes);
            let mut sum = 0;
            for (at, integer) in integers.enumerate() {
                panels[((panel * quads + at / 4) * lanes + lane) * 4 + at % 4] = integer as u8;
                sum += i32::from(integer);
            }
            scales.push(scale);
            sums.push(sum);
        }
        Self {
            kernel,
            in_channels,
            out_channels,
            lanes,
            input,
            panels,
            finish: Finish::new(finish, input, &scales, &sums, lanes),
        }
    }
}

/// `output = layer(source)`.
///
/// # Panics
/// If shapes or quantisations are not those that the layer was made for.
pub fn quantised_convolution(
    cpu: Cpu,
    source: QuantisedTensor,
    window: Window,
    layer: &QuantisedConvolution,
    mut output: QuantisedOutput,
) {
    source.check();
    let found = (window.kernel, source.shape.channels, source.quantisation);
    let made_for = (layer.kernel, layer.in_channels, layer.input);
    assert_eq!(found, made_for, "quantised_convolution: input");
    assert_eq!(lanes(cpu), layer.lanes, "quantised_convolution: processor");
    let shape = window.output_shape(source.shape, layer.out_channels);
    output.check(&layer.finish, shape.len());
    let (rows, n) = (shape.rows(), layer.out_channels);
    let k = window.kernel * window.kernel * source.shape.channels;
    let tile_rows = (48_000 / (k + n)).clamp(48, 240) / 48 * 48;
    let chunks = rows.div_ceil(tile_rows).min(32);
    let (bytes, floats) = match &mut output {
        QuantisedOutput::Bytes(bytes) => (&mut bytes[..], &mut [][..]),
        QuantisedOutput::Floats(floats) => (&mut [][..], &mut floats[..]),
    };
    let is_bytes = !bytes.is_empty();
    let (bytes, floats) = (Parts::new(bytes), Parts::new(floats));
    // A product of bytes takes about a third of the time of one of f32.
    for_each_chunk(chunks, 2 * rows * k * n / 3, |chunk| {
        let rows = chunk_range(rows, chunks, chunk);
        let part = rows.start * n..rows.end * n;
        // SAFETY: chunks are disjoint ranges of rows.
        let output = unsafe {
            match is_bytes {
                true => QuantisedOutput::Bytes(bytes.part(part)),
                false => QuantisedOutput::Floats(floats.part(part)),
            }
        };
        run(
            cpu,
            Rows {
                source,
                window,
                layer,
                rows,
                tile_rows,
                output,
            },
        );
    });
}

struct Rows<'a> {
    source: QuantisedTensor<'a>,
    window: Window,
    layer: &'a QuantisedConvolution,
    rows: Range<usize>,
    tile_rows: usize,
    output: QuantisedOutput<'a>,
}

impl IntegerKernel for Rows<'_> {
    #[inline(always)]
    fn run<S: Integers>(mut self, integers: S) {
        let channels = self.source.shape.channels;
        let k = self.window.kernel * self.window.kernel * channels;
        let lda = k.div_ceil(4) * 4;
        let is_plain = self.window.kernel == 1 && self.window.stride == 1 && k == lda;
        let n = self.layer.out_channels;
        let mut gathered = Scratch::take(if is_plain {
            0
        } else {
            (self.tile_rows * lda).div_ceil(4)
        });
        let gathered = gathered.as_bytes_mut();
        let mut start = self.rows.start;
        while start < self.rows.end {
            let rows = start..self.rows.end.min(start + self.tile_rows);
            let first = (start - self.rows.start) * n;
            let length = rows.len() * n;
            let a = if is_plain {
                &self.source.data[rows.start * k..rows.end * k]
            } else {
                let tile = &mut gathered[..rows.len() * lda];
                gather(self.source, self.window, rows.clone(), lda, tile);
                &*tile
            };
            let product = Product {
                a,
                lda,
                rows: rows.len(),
                layer: self.layer,
            };
            let store = match &mut self.output {
                QuantisedOutput::Bytes(bytes) => {
                    Store::Bytes(bytes[first..first + length].as_mut_ptr())
                }
                QuantisedOutput::Floats(floats) => {
                    Store::Floats(floats[first..first + length].as_mut_ptr())
                }
            };
            product.run(integers, &store);
            start = rows.end;
        }
    }
}

/// The bytes under the window of each output row, row distance `lda`.
fn gather(
    source: QuantisedTensor,
    window: Window,
    rows: Range<usize>,
    lda: usize,
    tile: &mut [u8],
) {
    let shape = source.shape;
    let (height, width, channels) = (shape.height, shape.width, shape.channels);
    let (out_height, out_width) = (window.outputs(height), window.outputs(width));
    let run = window.kernel * channels;
    let padding = source.quantisation.zero_point;
    for (row, to) in rows.zip(tile.chunks_exact_mut(lda)) {
        let (line, x) = (row / out_width, row % out_width);
        let (image, y) = (line / out_height, line % out_height);
        // Window borders, counted from `padding` pixels before the image.
        let (top, left) = (y * window.stride, x * window.stride);
        let first = left.max(window.padding());
        let last = (left + window.kernel).min(width + window.padding());
        to[window.kernel * run..].fill(0);
        for (tap, to) in to[..window.kernel * run].chunks_exact_mut(run).enumerate() {
            let y = (top + tap).wrapping_sub(window.padding());
            if y >= height || first >= last {
                to.fill(padding);
                continue;
            }
            let (before, after) = ((first - left) * channels, (last - left) * channels);
            let from = ((image * height + y) * width + first - window.padding()) * channels;
            to[..before].fill(padding);
            to[before..after].copy_from_slice(&source.data[from..from + after - before]);
            to[after..].fill(padding);
        }
    }
}

enum Store {
    Bytes(*mut u8),
    Floats(*mut f32),
}

/// Rows of bytes times a layer's weight.
struct Product<'a> {
    a: &'a [u8],
    lda: usize,
    rows: usize,
    layer: &'a QuantisedConvolution,
}

impl Product<'_> {
    /// `store` has room for `rows × out_channels` values.
    #[inline(always)]
    fn run<S: Integers>(&self, integers: S, store: &Store) {
        assert!(self.a.len() >= self.rows * self.lda);
        let panels = self.layer.out_channels.div_ceil(S::LANES);
        assert!(self.layer.panels.len() >= panels * self.lda * S::LANES);
        assert!(self.layer.finish.factor.len() >= panels * S::LANES);
        assert!(self.layer.finish.offset.len() >= panels * S::LANES);
        let mut panel = 0;
        while panel + 2 <= panels {
            self.panel::<S, 2>(integers, panel, store);
            panel += 2;
        }
        if panel < panels {
            self.panel::<S, 1>(integers, panel, store);
        }
    }

    #[inline(always)]
    fn panel<S: Integers, const NV: usize>(&self, integers: S, panel: usize, store: &Store) {
        let mut row = 0;
        while row < self.rows {
            let left = self.rows - row;
            // SAFETY: the operands hold these rows and panels, as checked.
            row += unsafe {
                if const { S::BLOCK_ROWS[NV - 1] == 16 } && left >= 16 {
                    self.block::<S, 16, NV>(integers, row, panel, store)
                } else if const { S::BLOCK_ROWS[NV - 1] == 12 } && left >= 12 {
                    self.block::<S, 12, NV>(integers, row, panel, store)
                } else if const { S::BLOCK_ROWS[NV - 1] == 6 } && left >= 6 {
                    self.block::<S, 6, NV>(integers, row, panel, store)
                } else if left >= 4 {
                    self.block::<S, 4, NV>(integers, row, panel, store)
                } else {
                    self.block::<S, 1, NV>(integers, row, panel, store)
                }
            };
        }
    }

    /// A block of sums, finished and stored; returns its number of rows.
    ///
    /// # Safety
    /// Rows `row..row + MR` and panels `panel..panel + NV` lie in the operands and in `store`.
    #[inline(always)]
    unsafe fn block<S: Integers, const MR: usize, const NV: usize>(
        &self,
        integers: S,
        row: usize,
        panel: usize,
        store: &Store,
    ) -> usize {
        let (lanes, quads) = (S::LANES, self.lda / 4);
        let n = self.layer.out_channels;
        let mut sums = [[integers.splat(0); NV]; MR];
        // SAFETY: the caller's promise.
        unsafe {
            let a = self.a.as_ptr().add(row * self.lda);
            let weights = self.layer.panels.as_ptr().add(panel * quads * 4 * lanes);
            for quad in 0..quads {
                let mut columns = [integers.signed(integers.splat(0)); NV];
                for (vector, column) in columns.iter_mut().enumerate() {
                    let at = (vector * quads + quad) * 4 * lanes;
                    *column = integers.signed(integers.load(weights.add(at)));
                }
                for (index, sums) in sums.iter_mut().enumerate() {
                    let bytes = a.add(index * self.lda + 4 * quad);
                    let bytes = integers.splat(bytes.cast::<i32>().read_unaligned());
                    let bytes = integers.unsigned(bytes);
                    for vector in 0..NV {
                        sums[vector] = integers.dot(bytes, columns[vector], sums[vector]);
                    }
                }
            }
            for vector in 0..NV {
                let first = (panel + vector) * lanes;
                let count = lanes.min(n - first);
                let finisher = Finisher::new(integers, &self.layer.finish, first);
                for (index, sums) in sums.iter().enumerate() {
                    let at = (row + index) * n + first;
                    match *store {
                        Store::Bytes(to) => {
                            let value = finisher.steps(integers, sums[vector]);
                            integers.store_bytes(to.add(at), count, value);
                        }
                        Store::Floats(to) => {
                            let value = finisher.value(integers, sums[vector]);
                            integers.floats().store_some(to.add(at), count, value);
                        }
                    }
                }
            }
        }
        MR
    }
}

/// A vector of channels of a [`Finish`].
pub(super) struct Finisher<'a, S: Integers> {
    factor: <S::Floats as Simd>::V,
    offset: <S::Floats as Simd>::V,
    per_step: <S::Floats as Simd>::V,
    zero_point: <S::Floats as Simd>::V,
    finish: &'a Finish,
}

impl<'a, S: Integers> Finisher<'a, S> {
    /// # Safety
    /// The finish has the channels `first..first + LANES`.
    #[inline(always)]
    pub unsafe fn new(integers: S, finish: &'a Finish, first: usize) -> Self {
        let floats = integers.floats();
        let output = finish.output.unwrap_or(Quantisation {
            scale: 1.0,
            zero_point: 0,
        });
        // SAFETY: the caller's.
        let (factor, offset) = unsafe {
            (
                floats.load(finish.factor.as_ptr().add(first)),
                floats.load(finish.offset.as_ptr().add(first)),
            )
        };
        Self {
            factor,
            offset,
            per_step: floats.splat(output.scale.recip()),
            zero_point: floats.splat(f32::from(output.zero_point)),
            finish,
        }
    }

    /// The layer's output.
    #[inline(always)]
    pub fn value(&self, integers: S, sums: S::I) -> <S::Floats as Simd>::V {
        let floats = integers.floats();
        let z = floats.fma(integers.to_floats(sums), self.factor, self.offset);
        floats.activate(self.finish.activation, z)
    }

    /// The same in steps of the output's quantisation, not rounded.
    #[inline(always)]
    pub fn steps(&self, integers: S, sums: S::I) -> <S::Floats as Simd>::V {
        let value = self.value(integers, sums);
        integers.floats().fma(value, self.per_step, self.zero_point)
    }
}
