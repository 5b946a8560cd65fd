//! Dense convolution and linear layers: tiles of rows times packed weights.
//!
//! A row is an output pixel; its values are the `k·k·in` inputs under the window, read through the
//! source's batch-norm, activation and gate (padding is 0 *after* them). For a 1×1 window with
//! stride 1 the rows are the pixels themselves. With `A` the rows and `W` the weight,
//!
//! ```text
//! forward   y  = A·Wᵀ + bias
//! backward  dA = dY·W        dW += dYᵀ·A        dbias += Σ dY
//! ```

use std::ops::Range;

use crate::columns::Backward;
use crate::cpu::{Cpu, InstructionSet};
use crate::gemm::{pack, packed_len};
use crate::parallel::{Parts, chunk_range, for_each_chunk, is_alone, merge_sums};
use crate::scratch::{Panels, Scratch, ScratchSums};
use crate::tiles::{BackwardRows, ForwardColumns, ForwardRows};
use crate::types::{ChannelSums, ConvWeight, InputGradient, OutputGradient, Shape, Source, Window};

/// `output = convolution(value(source), weight) + bias`; `sums` receive Σy and Σy² per channel.
#[allow(clippy::too_many_arguments, reason = "the operands of one formula")]
pub fn convolution_forward<'a>(
    cpu: Cpu,
    source: Source,
    window: Window,
    weight: impl Into<ForwardWeight<'a>>,
    out_channels: usize,
    bias: Option<&[f32]>,
    output: &mut [f32],
    sums: Option<&mut ChannelSums>,
) {
    let geometry = Geometry::new(cpu, source, window, out_channels);
    assert_eq!(
        output.len(),
        geometry.output.len(),
        "convolution_forward: output"
    );
    assert!(
        bias.is_none_or(|bias| bias.len() == out_channels),
        "convolution_forward: bias"
    );
    let scratch;
    let packed: &[f32] = match weight.into() {
        ForwardWeight::Stored(weight) => {
            geometry.check_weight(weight.data.len(), weight.out_stride, weight.in_stride);
            let mut panels = Scratch::take(packed_len(geometry.k, geometry.n, geometry.lanes));
            let channels = geometry.source.shape.channels;
            pack_forward(
                weight,
                geometry.taps(),
                channels,
                geometry.n,
                geometry.lanes,
                &mut panels,
            );
            scratch = panels;
            &scratch
        }
        ForwardWeight::Packed(weight) => {
            let found = (
                weight.taps,
                weight.in_channels,
                weight.out_channels,
                weight.lanes,
            );
            let needed = (
                geometry.taps(),
                geometry.source.shape.channels,
                geometry.n,
                geometry.lanes,
            );
            assert_eq!(found, needed, "convolution_forward: packed weight");
            &weight.panels
        }
    };
    if sums.is_none() && geometry.is_mostly_weight() {
        return forward_by_columns(cpu, &geometry, packed, bias, output);
    }
    let chunks = geometry.forward_chunks();
    let mut partial = ScratchSums::zeros(if sums.is_some() {
        chunks * 2 * out_channels
    } else {
        0
    });
    let (outputs, partials) = (Parts::new(output), Parts::new(&mut partial));
    for_each_chunk(chunks, geometry.operations(), |chunk| {
        let rows = geometry.forward_rows(chunks, chunk);
        let wanted = if sums.is_some() { 2 * out_channels } else { 0 };
        // SAFETY: chunks are disjoint ranges of rows and of partial sums.
        let (output, sums) = unsafe {
            (
                outputs.part(rows.start * out_channels..rows.end * out_channels),
                partials.part(chunk * wanted..(chunk + 1) * wanted),
            )
        };
        cpu.run(ForwardRows {
            geometry: &geometry,
            packed,
            bias,
            rows,
            output,
            sums,
        });
    });
    if let Some(sums) = sums {
        merge_sums(&partial, sums);
    }
}

/// The forward pass of a layer whose weight takes longer to read than its tensors: each chunk reads a
/// part of the weight, and all rows.
fn forward_by_columns(
    cpu: Cpu,
    geometry: &Geometry,
    packed: &[f32],
    bias: Option<&[f32]>,
    output: &mut [f32],
) {
    let (k, n, lanes) = (geometry.k, geometry.n, geometry.lanes);
    let panels = n.div_ceil(lanes);
    let chunks = if is_alone() {
        1
    } else {
        panels.min(COLUMN_CHUNKS)
    };
    let outputs = Parts::new(output);
    for_each_chunk(chunks, geometry.operations(), |chunk| {
        let panels = chunk_range(panels, chunks, chunk);
        let columns = panels.start * lanes..n.min(panels.end * lanes);
        cpu.run(ForwardColumns {
            geometry,
            packed: &packed[panels.start * lanes * k..panels.end * lanes * k],
            bias: bias.map(|bias| &bias[columns.clone()]),
            columns,
            output: &outputs,
        });
    });
}

/// The gradients of a convolution: of its input to `input`, of its weight and bias added to
/// `weight_gradient` (values, out_stride, in_stride: laid out like the weight) and
/// `bias_gradient`.
#[allow(
    clippy::too_many_arguments,
    reason = "the operands of one formula and their gradients"
)]
pub fn convolution_backward(
    cpu: Cpu,
    source: Source,
    window: Window,
    weight: ConvWeight,
    out_channels: usize,
    gradient: OutputGradient,
    mut input: InputGradient,
    weight_gradient: Option<(&mut [f32], usize, usize)>,
    bias_gradient: Option<&mut [f32]>,
) {
    let geometry = Geometry::new(cpu, source, window, out_channels);
    geometry.check_weight(weight.data.len(), weight.out_stride, weight.in_stride);
    check_output_gradient(&gradient, geometry.output);
    let packed = match input {
        InputGradient::Skip => Scratch::take(0),
        _ => geometry.pack_backward(weight),
    };
    if geometry.gradient_is_mostly_weight() {
        let pass = Backward {
            geometry: &geometry,
            packed: &packed,
            gradient,
        };
        return pass.by_columns(cpu, input, weight_gradient, bias_gradient);
    }
    let chunks = geometry.backward_chunks();
    let weight_len = if weight_gradient.is_some() {
        out_channels * geometry.k
    } else {
        0
    };
    let bias_len = if bias_gradient.is_some() {
        out_channels
    } else {
        0
    };
    let channels = source.shape.channels;
    let mut sums_partial = ScratchSums::zeros(chunks * 2 * channels);
    let mut weight_partial = Scratch::take(chunks * weight_len);
    let mut bias_partial = ScratchSums::zeros(chunks * bias_len);
    let mode = input.mode();
    {
        let target = match &mut input {
            InputGradient::Skip => &mut [][..],
            InputGradient::Overwrite(target) | InputGradient::Accumulate(target) => target,
            InputGradient::PreActivation { dz, .. } => dz,
        };
        if mode != SinkMode::Skip {
            assert_eq!(
                target.len(),
                source.shape.len(),
                "convolution_backward: input gradient"
            );
        }
        let targets = Parts::new(target);
        let sums = Parts::new(&mut sums_partial);
        let weights = Parts::new(&mut weight_partial);
        let biases = Parts::new(&mut bias_partial);
        for_each_chunk(chunks, 2 * geometry.operations(), |chunk| {
            let rows = geometry.chunk_rows(chunks, chunk);
            let inputs = geometry.input_range(&rows);
            let inputs = if mode == SinkMode::Skip { 0..0 } else { inputs };
            // SAFETY: chunks are disjoint ranges of rows, of their inputs (whole images where
            // windows overlap) and of partial sums.
            let pass = unsafe {
                BackwardRows {
                    geometry: &geometry,
                    packed: &packed,
                    gradient,
                    mode,
                    rows,
                    target: targets.part(inputs),
                    sums: sums.part(chunk * 2 * channels..(chunk + 1) * 2 * channels),
                    weight: weights.part(chunk * weight_len..(chunk + 1) * weight_len),
                    bias: biases.part(chunk * bias_len..(chunk + 1) * bias_len),
                }
            };
            cpu.run(pass);
        });
    }
    if let InputGradient::PreActivation { sums, .. } = input {
        merge_sums(&sums_partial, sums);
    }
    if let Some((values, out_stride, in_stride)) = weight_gradient {
        geometry.check_weight(values.len(), out_stride, in_stride);
        geometry.add_weight_gradients(&weight_partial, values, out_stride, in_stride);
    }
    if let Some(values) = bias_gradient {
        assert_eq!(
            values.len(),
            out_channels,
            "convolution_backward: bias gradient"
        );
        for partial in bias_partial.chunks_exact(bias_len.max(1)) {
            values
                .iter_mut()
                .zip(partial)
                .for_each(|(value, sum)| *value += *sum as f32);
        }
    }
}

pub(crate) fn check_output_gradient(gradient: &OutputGradient, output: Shape) {
    assert_eq!(
        gradient.dz.len(),
        output.len(),
        "output gradient: values of {output:?}"
    );
    if let Some(norm) = gradient.batch_norm {
        assert_eq!(norm.y.len(), output.len(), "output gradient: raw output");
        for coefficient in [norm.a, norm.b, norm.c] {
            assert_eq!(
                coefficient.len(),
                output.channels,
                "output gradient: coefficients"
            );
        }
    }
}

/// What is done with an input gradient, without the buffers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum SinkMode {
    Skip,
    Overwrite,
    Accumulate,
    PreActivation,
}

impl InputGradient<'_> {
    pub(crate) fn mode(&self) -> SinkMode {
        match self {
            Self::Skip => SinkMode::Skip,
            Self::Overwrite(_) => SinkMode::Overwrite,
            Self::Accumulate(_) => SinkMode::Accumulate,
            Self::PreActivation { .. } => SinkMode::PreActivation,
        }
    }
}

/// Of fewer images than this each is cut into pieces in the forward pass, although every piece loads
/// a padded image of its own.
const FEW_IMAGES: usize = 4;
/// Output pixels of such a piece at least.
const PIECE_ROWS: usize = 48;

/// Parts of a weight that is read in parts.
const COLUMN_CHUNKS: usize = 8;

/// A weight as [`convolution_forward`] reads it.
#[derive(Clone, Copy, Debug)]
pub enum ForwardWeight<'a> {
    /// As it is stored; it is rearranged at each call, which pays for many rows.
    Stored(ConvWeight<'a>),
    /// Rearranged beforehand.
    Packed(&'a PackedWeight),
}

impl<'a> From<ConvWeight<'a>> for ForwardWeight<'a> {
    fn from(weight: ConvWeight<'a>) -> Self {
        Self::Stored(weight)
    }
}

impl<'a> From<&'a PackedWeight> for ForwardWeight<'a> {
    fn from(weight: &'a PackedWeight) -> Self {
        Self::Packed(weight)
    }
}

/// A weight that is read many times without being changed, in the order in which
/// [`convolution_forward`] reads it on one instruction set.
#[derive(Clone, PartialEq, Debug)]
pub struct PackedWeight {
    taps: usize,
    in_channels: usize,
    out_channels: usize,
    lanes: usize,
    panels: Panels,
}

impl PackedWeight {
    /// Rearranges a weight of `kernel × kernel` taps for `cpu`.
    ///
    /// # Panics
    /// If the weight is too short for its sizes.
    pub fn new(
        cpu: Cpu,
        weight: ConvWeight,
        kernel: usize,
        in_channels: usize,
        out_channels: usize,
    ) -> Self {
        let (taps, lanes) = (kernel * kernel, lanes(cpu));
        let mut panels = Panels::zeros(packed_len(taps * in_channels, out_channels, lanes));
        pack_forward(weight, taps, in_channels, out_channels, lanes, &mut panels);
        Self {
            taps,
            in_channels,
            out_channels,
            lanes,
            panels,
        }
    }

    /// `[panel][tap and input channel][lane]`
    pub(crate) fn panels(&self) -> &[f32] {
        &self.panels
    }
}

/// Packs a weight for the product of rows of `taps × channels` values with `n` outputs.
fn pack_forward(
    weight: ConvWeight,
    taps: usize,
    channels: usize,
    n: usize,
    lanes: usize,
    packed: &mut [f32],
) {
    let k = taps * channels;
    if weight.in_stride == channels {
        pack(weight.data, (k, 1), (n, weight.out_stride), lanes, packed);
    } else {
        let mut compact = Scratch::take(n * k);
        copy_slice(weight, taps, channels, &mut compact);
        pack(&compact, (k, 1), (n, k), lanes, packed);
    }
}

/// The slice of a weight with elastic input channels, `[out][tap][in]` without gaps.
fn copy_slice(weight: ConvWeight, taps: usize, channels: usize, compact: &mut [f32]) {
    for (row, values) in compact.chunks_exact_mut(taps * channels).enumerate() {
        for (tap, values) in values.chunks_exact_mut(channels).enumerate() {
            let from = row * weight.out_stride + tap * weight.in_stride;
            values.copy_from_slice(&weight.data[from..from + channels]);
        }
    }
}

pub(crate) fn lanes(cpu: Cpu) -> usize {
    if cpu.instruction_set() == InstructionSet::Avx512 {
        16
    } else {
        8
    }
}

/// Sizes of a convolution; every chunk and tile border follows from them.
pub(crate) struct Geometry<'a> {
    pub source: Source<'a>,
    pub window: Window,
    pub output: Shape,
    /// Values of a row: k·k·in.
    pub k: usize,
    /// Output channels.
    pub n: usize,
    pub is_pointwise: bool,
    /// Whether weight gradients are summed as `[k][n]`, which wastes fewer lanes.
    pub is_transposed: bool,
    pub lanes: usize,
}

impl<'a> Geometry<'a> {
    fn new(cpu: Cpu, source: Source<'a>, window: Window, n: usize) -> Self {
        source.check();
        assert!(
            window.kernel % 2 == 1 && window.stride > 0,
            "convolution: {window:?}"
        );
        assert!(
            !source.shape.is_empty() && n > 0,
            "convolution: empty tensors"
        );
        let k = window.kernel * window.kernel * source.shape.channels;
        let lanes = lanes(cpu);
        Self {
            source,
            window,
            output: window.output_shape(source.shape, n),
            k,
            n,
            is_pointwise: window
                == Window {
                    kernel: 1,
                    stride: 1,
                },
            is_transposed: n.div_ceil(lanes) * k < k.div_ceil(lanes) * n,
            lanes,
        }
    }

    pub fn taps(&self) -> usize {
        self.window.kernel * self.window.kernel
    }

    pub fn check_weight(&self, length: usize, out_stride: usize, in_stride: usize) {
        let channels = self.source.shape.channels;
        let needed = (self.n - 1) * out_stride + (self.taps() - 1) * in_stride + channels;
        assert!(
            length >= needed
                && in_stride >= channels
                && out_stride >= (self.taps() - 1) * in_stride + channels,
            "convolution: a weight of {length} values with strides {out_stride}, {in_stride}"
        );
    }

    pub fn operations(&self) -> usize {
        2 * self.output.rows() * self.k * self.n
    }

    /// Whether the weight is so much larger than input and output that it should be read once.
    fn is_mostly_weight(&self) -> bool {
        let weight = self.k * self.n;
        weight > 1 << 16 && weight > 2 * self.output.rows() * (self.k + self.n)
    }

    /// Whether the weight is so large that its gradient should be written once, and the few rows be
    /// kept whole for it.
    fn gradient_is_mostly_weight(&self) -> bool {
        let weight = self.k * self.n;
        weight > 1 << 16 && 2 * weight > self.output.rows() * (self.k + self.n)
    }

    /// Rows of a tile, whole blocks of any height: operands of about 64 KB, or of most of a
    /// second-level cache where the weight, which each tile reads, does not fit beside them.
    pub fn tile_rows(&self) -> usize {
        let values = if self.k * self.n > 1 << 17 {
            196_608
        } else {
            16_384
        };
        let rows = (values / (self.k + self.n)).clamp(48, 240);
        rows / 48 * 48
    }

    fn forward_chunks(&self) -> usize {
        match self.is_pointwise {
            true => self.output.rows().div_ceil(self.tile_rows()).min(32),
            false if self.output.images < FEW_IMAGES => {
                let most = (self.output.rows() / PIECE_ROWS).max(1);
                (2 * FEW_IMAGES).min(most)
            }
            false => self.output.images.min(32),
        }
    }

    /// Few where the weight is large: each chunk has a weight gradient of its own.
    pub fn backward_chunks(&self) -> usize {
        let most = (2_000_000 / (self.k * self.n)).clamp(2, 16);
        match self.is_pointwise {
            true => self.output.rows().div_ceil(self.tile_rows()).min(most),
            false => self.output.images.min(most),
        }
    }

    /// Output rows of a chunk of the forward pass.
    fn forward_rows(&self, chunks: usize, chunk: usize) -> Range<usize> {
        match !self.is_pointwise && self.output.images < FEW_IMAGES {
            true => chunk_range(self.output.rows(), chunks, chunk),
            false => self.chunk_rows(chunks, chunk),
        }
    }

    /// Output rows of a chunk: whole images where windows overlap.
    pub fn chunk_rows(&self, chunks: usize, chunk: usize) -> Range<usize> {
        let unit = if self.is_pointwise {
            1
        } else {
            self.output.height * self.output.width
        };
        let range = chunk_range(self.output.rows() / unit, chunks, chunk);
        range.start * unit..range.end * unit
    }

    /// Inputs that belong to a chunk's rows.
    pub fn input_range(&self, rows: &Range<usize>) -> Range<usize> {
        let unit = if self.is_pointwise {
            1
        } else {
            self.output.height * self.output.width
        };
        let inputs = match self.is_pointwise {
            true => self.source.shape.channels,
            false => self.source.shape.len() / self.source.shape.images,
        };
        rows.start / unit * inputs..rows.end / unit * inputs
    }

    fn pack_backward(&self, weight: ConvWeight) -> Scratch {
        let lanes = self.lanes;
        let mut packed = Scratch::take(packed_len(self.n, self.k, lanes));
        let channels = self.source.shape.channels;
        if weight.in_stride == channels {
            pack(
                weight.data,
                (self.n, weight.out_stride),
                (self.k, 1),
                lanes,
                &mut packed,
            );
        } else {
            let mut compact = Scratch::take(self.n * self.k);
            copy_slice(weight, self.taps(), channels, &mut compact);
            pack(&compact, (self.n, self.k), (self.k, 1), lanes, &mut packed);
        }
        packed
    }

    /// Adds the weight gradients of all chunks, in their order.
    fn add_weight_gradients(
        &self,
        partial: &[f32],
        values: &mut [f32],
        out_stride: usize,
        in_stride: usize,
    ) {
        let (k, n, channels) = (self.k, self.n, self.source.shape.channels);
        let parts = n.min(16);
        let length = values.len();
        let targets = Parts::new(values);
        for_each_chunk(parts, partial.len(), |part| {
            let rows = chunk_range(n, parts, part);
            let end = if rows.end == n {
                length
            } else {
                rows.end * out_stride
            };
            // SAFETY: parts are disjoint ranges of output channels.
            let target = unsafe { targets.part(rows.start * out_stride..end) };
            for partial in partial.chunks_exact(n * k) {
                for row in rows.clone() {
                    for tap in 0..self.taps() {
                        let at = (row - rows.start) * out_stride + tap * in_stride;
                        let target = &mut target[at..at + channels];
                        if self.is_transposed {
                            let column = &partial[tap * channels * n + row..];
                            let addends = column.iter().step_by(n);
                            target
                                .iter_mut()
                                .zip(addends)
                                .for_each(|(to, value)| *to += value);
                        } else {
                            let addends = &partial[row * k + tap * channels..][..channels];
                            target
                                .iter_mut()
                                .zip(addends)
                                .for_each(|(to, value)| *to += value);
                        }
                    }
                }
            }
        });
    }
}
