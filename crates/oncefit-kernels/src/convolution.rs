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

use crate::cpu::{Cpu, InstructionSet, Kernel};
use crate::elementwise::{PreActivationRows, add_lanes, load_rows, pre_activation_rows};
use crate::gemm::{Multiply, MultiplyTransposed, multiply, multiply_transposed, pack, packed_len};
use crate::parallel::{Parts, chunk_range, for_each_chunk, merge_sums};
use crate::scratch::Scratch;
use crate::simd::Simd;
use crate::types::{ChannelSums, ConvWeight, InputGradient, OutputGradient, Shape, Source, Window};

/// `output = convolution(value(source), weight) + bias`; `sums` receive Σy and Σy² per channel.
#[allow(clippy::too_many_arguments, reason = "the operands of one formula")]
pub fn convolution_forward(
    cpu: Cpu,
    source: Source,
    window: Window,
    weight: ConvWeight,
    out_channels: usize,
    bias: Option<&[f32]>,
    output: &mut [f32],
    sums: Option<&mut ChannelSums>,
) {
    let geometry = Geometry::new(source, window, weight, out_channels);
    assert_eq!(
        output.len(),
        geometry.output.len(),
        "convolution_forward: output"
    );
    assert!(
        bias.is_none_or(|bias| bias.len() == out_channels),
        "convolution_forward: bias"
    );
    let packed = geometry.pack_forward(cpu, weight);
    let chunks = geometry.forward_chunks();
    let mut partial = vec![
        0.0f64;
        if sums.is_some() {
            chunks * 2 * out_channels
        } else {
            0
        }
    ];
    let (outputs, partials) = (Parts::new(output), Parts::new(&mut partial));
    for_each_chunk(chunks, geometry.operations(), |chunk| {
        let rows = geometry.chunk_rows(chunks, chunk);
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
            packed: &packed,
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
    let geometry = Geometry::new(source, window, weight, out_channels);
    check_output_gradient(&gradient, geometry.output);
    let packed = match input {
        InputGradient::Skip => Scratch::take(0),
        _ => geometry.pack_backward(cpu, weight),
    };
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
    let mut sums_partial = vec![0.0f64; chunks * 2 * channels];
    let mut weight_partial = Scratch::zeros(chunks * weight_len);
    let mut bias_partial = vec![0.0f64; chunks * bias_len];
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
        for partial in weight_partial.chunks_exact(weight_len.max(1)) {
            for (row, taps) in partial.chunks_exact(geometry.k).enumerate() {
                for (tap, addends) in taps.chunks_exact(channels).enumerate() {
                    let target = &mut values[row * out_stride + tap * in_stride..][..channels];
                    target
                        .iter_mut()
                        .zip(addends)
                        .for_each(|(value, addend)| *value += addend);
                }
            }
        }
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

pub(crate) fn lanes(cpu: Cpu) -> usize {
    if cpu.instruction_set() == InstructionSet::Avx512 {
        16
    } else {
        8
    }
}

/// Sizes of a convolution; every chunk and tile border follows from them.
struct Geometry<'a> {
    source: Source<'a>,
    window: Window,
    output: Shape,
    /// Values of a row: k·k·in.
    k: usize,
    /// Output channels.
    n: usize,
    is_pointwise: bool,
}

impl<'a> Geometry<'a> {
    fn new(source: Source<'a>, window: Window, weight: ConvWeight, n: usize) -> Self {
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
        let geometry = Self {
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
        };
        geometry.check_weight(weight.data.len(), weight.out_stride, weight.in_stride);
        geometry
    }

    fn taps(&self) -> usize {
        self.window.kernel * self.window.kernel
    }

    fn check_weight(&self, length: usize, out_stride: usize, in_stride: usize) {
        let channels = self.source.shape.channels;
        let needed = (self.n - 1) * out_stride + (self.taps() - 1) * in_stride + channels;
        assert!(
            length >= needed
                && in_stride >= channels
                && out_stride >= (self.taps() - 1) * in_stride + channels,
            "convolution: a weight of {length} values with strides {out_stride}, {in_stride}"
        );
    }

    fn operations(&self) -> usize {
        2 * self.output.rows() * self.k * self.n
    }

    /// Rows of a tile: operands of about 64 KB.
    fn tile_rows(&self) -> usize {
        (16_384 / (self.k + self.n)).clamp(16, 256) / 8 * 8
    }

    fn forward_chunks(&self) -> usize {
        match self.is_pointwise {
            true => self.output.rows().div_ceil(self.tile_rows()).min(32),
            false => self.output.images.min(32),
        }
    }

    /// Few where the weight is large: each chunk has a weight gradient of its own.
    fn backward_chunks(&self) -> usize {
        let most = (2_000_000 / (self.k * self.n)).clamp(2, 16);
        match self.is_pointwise {
            true => self.output.rows().div_ceil(self.tile_rows()).min(most),
            false => self.output.images.min(most),
        }
    }

    /// Output rows of a chunk: whole images where windows overlap.
    fn chunk_rows(&self, chunks: usize, chunk: usize) -> Range<usize> {
        let unit = if self.is_pointwise {
            1
        } else {
            self.output.height * self.output.width
        };
        let range = chunk_range(self.output.rows() / unit, chunks, chunk);
        range.start * unit..range.end * unit
    }

    /// Inputs that belong to a chunk's rows.
    fn input_range(&self, rows: &Range<usize>) -> Range<usize> {
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

    fn pack_forward(&self, cpu: Cpu, weight: ConvWeight) -> Scratch {
        let lanes = lanes(cpu);
        let mut packed = Scratch::take(packed_len(self.k, self.n, lanes));
        let channels = self.source.shape.channels;
        if weight.in_stride == channels {
            pack(
                weight.data,
                (self.k, 1),
                (self.n, weight.out_stride),
                lanes,
                &mut packed,
            );
        } else {
            let mut compact = Scratch::take(self.n * self.k);
            self.compact(weight, &mut compact);
            pack(&compact, (self.k, 1), (self.n, self.k), lanes, &mut packed);
        }
        packed
    }

    fn pack_backward(&self, cpu: Cpu, weight: ConvWeight) -> Scratch {
        let lanes = lanes(cpu);
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
            self.compact(weight, &mut compact);
            pack(&compact, (self.n, self.k), (self.k, 1), lanes, &mut packed);
        }
        packed
    }

    /// The slice of a weight with elastic input channels, `[out][tap][in]` without gaps.
    fn compact(&self, weight: ConvWeight, compact: &mut [f32]) {
        let channels = self.source.shape.channels;
        for (row, values) in compact.chunks_exact_mut(self.k).enumerate() {
            for (tap, values) in values.chunks_exact_mut(channels).enumerate() {
                let from = row * weight.out_stride + tap * weight.in_stride;
                values.copy_from_slice(&weight.data[from..from + channels]);
            }
        }
    }

    /// The `A` rows of a tile: the source's own memory where it is read as stored.
    #[inline(always)]
    fn load<'s, S: Simd>(
        &'s self,
        simd: S,
        rows: Range<usize>,
        scratch: &'s mut [f32],
    ) -> &'s [f32] {
        if self.is_pointwise {
            if self.source.is_plain() {
                return &self.source.data[rows.start * self.k..rows.end * self.k];
            }
            load_rows(simd, self.source, rows, scratch);
        } else {
            self.load_windows(simd, rows, scratch);
        }
        scratch
    }

    /// The inputs under each row's window; 0 outside the image.
    #[inline(always)]
    fn load_windows<S: Simd>(&self, simd: S, rows: Range<usize>, scratch: &mut [f32]) {
        let channels = self.source.shape.channels;
        for (row, values) in rows.zip(scratch.chunks_exact_mut(self.k)) {
            for (tap, values) in values.chunks_exact_mut(channels).enumerate() {
                match self.input_pixel(row, tap) {
                    Some(pixel) => load_rows(simd, self.source, pixel..pixel + 1, values),
                    None => values.fill(0.0),
                }
            }
        }
    }

    /// The input pixel under a tap of an output row's window.
    #[inline(always)]
    fn input_pixel(&self, row: usize, tap: usize) -> Option<usize> {
        let (input, output) = (self.source.shape, self.output);
        let (image, pixel) = (
            row / (output.height * output.width),
            row % (output.height * output.width),
        );
        let padding = self.window.padding();
        let y = pixel / output.width * self.window.stride + tap / self.window.kernel;
        let x = pixel % output.width * self.window.stride + tap % self.window.kernel;
        let is_inside =
            y >= padding && x >= padding && y - padding < input.height && x - padding < input.width;
        is_inside.then(|| (image * input.height + y - padding) * input.width + x - padding)
    }
}

struct ForwardRows<'a> {
    geometry: &'a Geometry<'a>,
    packed: &'a [f32],
    bias: Option<&'a [f32]>,
    rows: Range<usize>,
    output: &'a mut [f32],
    /// Empty where no sums are taken.
    sums: &'a mut [f64],
}

impl Kernel for ForwardRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self {
            geometry,
            packed,
            bias,
            rows,
            output,
            sums,
        } = self;
        let (k, n) = (geometry.k, geometry.n);
        let tile = geometry.tile_rows();
        let mut scratch = Scratch::take(tile * k);
        let mut start = rows.start;
        while start < rows.end {
            let end = rows.end.min(start + tile);
            let count = end - start;
            let a = geometry.load(simd, start..end, &mut scratch[..count * k]);
            let output = &mut output[(start - rows.start) * n..(end - rows.start) * n];
            multiply(
                simd,
                &Multiply {
                    a,
                    lda: k,
                    b: packed,
                    bias,
                    rows: count,
                    k,
                    n,
                },
                output,
                n,
            );
            if !sums.is_empty() {
                add_square_sums(simd, output, sums);
            }
            start = end;
        }
    }
}

/// Adds Σy and Σy² of rows of `sums.len() / 2` channels.
#[inline(always)]
pub(crate) fn add_square_sums<S: Simd>(simd: S, rows: &[f32], sums: &mut [f64]) {
    let channels = sums.len() / 2;
    let count_rows = rows.len() / channels;
    let mut first = 0;
    while first < channels {
        let count = S::LANES.min(channels - first);
        let (mut sum, mut square) = (simd.zero(), simd.zero());
        for row in 0..count_rows {
            // SAFETY: the row and its channels lie in `rows`.
            let y = unsafe { simd.load_some(rows.as_ptr().add(row * channels + first), count) };
            sum = simd.add(sum, y);
            square = simd.fma(y, y, square);
        }
        add_lanes(simd, sum, &mut sums[first..first + count]);
        add_lanes(
            simd,
            square,
            &mut sums[channels + first..channels + first + count],
        );
        first += S::LANES;
    }
}

/// `to = a·dz + b·y + c` for rows of `channels` values.
#[inline(always)]
pub(crate) fn load_output_gradient<S: Simd>(
    simd: S,
    gradient: &OutputGradient,
    channels: usize,
    rows: Range<usize>,
    to: &mut [f32],
) {
    let Some(norm) = gradient.batch_norm else {
        to.copy_from_slice(&gradient.dz[rows.start * channels..rows.end * channels]);
        return;
    };
    assert!(rows.end * channels <= gradient.dz.len() && to.len() >= rows.len() * channels);
    let mut first = 0;
    while first < channels {
        let count = S::LANES.min(channels - first);
        // SAFETY: rows and channels lie in dz, y, the coefficients and `to`.
        unsafe {
            let a = simd.load_some(norm.a.as_ptr().add(first), count);
            let b = simd.load_some(norm.b.as_ptr().add(first), count);
            let c = simd.load_some(norm.c.as_ptr().add(first), count);
            for (index, row) in rows.clone().enumerate() {
                let at = row * channels + first;
                let dz = simd.load_some(gradient.dz.as_ptr().add(at), count);
                let y = simd.load_some(norm.y.as_ptr().add(at), count);
                let dy = simd.fma(dz, a, simd.fma(y, b, c));
                simd.store_some(to.as_mut_ptr().add(index * channels + first), count, dy);
            }
        }
        first += S::LANES;
    }
}

struct BackwardRows<'a> {
    geometry: &'a Geometry<'a>,
    packed: &'a [f32],
    gradient: OutputGradient<'a>,
    mode: SinkMode,
    rows: Range<usize>,
    /// The inputs of the rows.
    target: &'a mut [f32],
    sums: &'a mut [f64],
    weight: &'a mut [f32],
    bias: &'a mut [f64],
}

impl Kernel for BackwardRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let geometry = self.geometry;
        let (k, n) = (geometry.k, geometry.n);
        let tile = geometry.tile_rows();
        let mut gradients = Scratch::take(tile * n);
        let mut values = Scratch::take(tile * k);
        let mut inputs = Scratch::take(if self.mode == SinkMode::Skip {
            0
        } else {
            tile * k
        });
        let needs_clear = matches!(self.mode, SinkMode::Overwrite | SinkMode::PreActivation);
        if !geometry.is_pointwise && needs_clear {
            self.target.fill(0.0);
        }
        let mut start = self.rows.start;
        while start < self.rows.end {
            let end = self.rows.end.min(start + tile);
            let count = end - start;
            let g = match self.gradient.batch_norm {
                None => &self.gradient.dz[start * n..end * n],
                Some(_) => {
                    let gradients = &mut gradients[..count * n];
                    load_output_gradient(simd, &self.gradient, n, start..end, gradients);
                    gradients
                }
            };
            if !self.weight.is_empty() {
                let a = geometry.load(simd, start..end, &mut values[..count * k]);
                let product = MultiplyTransposed {
                    g,
                    ldg: n,
                    a,
                    lda: k,
                    rows: count,
                    n,
                    k,
                };
                multiply_transposed(simd, &product, self.weight);
            }
            if !self.bias.is_empty() {
                for row in g.chunks_exact(n) {
                    self.bias
                        .iter_mut()
                        .zip(row)
                        .for_each(|(sum, g)| *sum += f64::from(*g));
                }
            }
            if self.mode != SinkMode::Skip {
                let product = Multiply {
                    a: g,
                    lda: n,
                    b: self.packed,
                    bias: None,
                    rows: count,
                    k: n,
                    n: k,
                };
                let at = (start - self.rows.start) * k..(end - self.rows.start) * k;
                if geometry.is_pointwise && self.mode != SinkMode::Accumulate {
                    let target = &mut self.target[at];
                    multiply(simd, &product, target, k);
                    if self.mode == SinkMode::PreActivation {
                        pre_activation(simd, geometry.source, start..end, target, self.sums);
                    }
                } else {
                    let inputs = &mut inputs[..count * k];
                    multiply(simd, &product, inputs, k);
                    if geometry.is_pointwise {
                        add_values(&mut self.target[at], inputs);
                    } else {
                        self.scatter(start..end, inputs);
                    }
                }
            }
            start = end;
        }
        if !geometry.is_pointwise && self.mode == SinkMode::PreActivation {
            let range = geometry.input_range(&self.rows);
            let channels = geometry.source.shape.channels;
            let rows = range.start / channels..range.end / channels;
            pre_activation(simd, geometry.source, rows, self.target, self.sums);
        }
    }
}

impl BackwardRows<'_> {
    /// Adds the gradients under each row's window to the inputs they belong to.
    fn scatter(&mut self, rows: Range<usize>, inputs: &[f32]) {
        let channels = self.geometry.source.shape.channels;
        let first = self.geometry.input_range(&self.rows).start;
        for (row, values) in rows.zip(inputs.chunks_exact(self.geometry.k)) {
            for (tap, values) in values.chunks_exact(channels).enumerate() {
                if let Some(pixel) = self.geometry.input_pixel(row, tap) {
                    let at = pixel * channels - first;
                    add_values(&mut self.target[at..at + channels], values);
                }
            }
        }
    }
}

fn add_values(to: &mut [f32], values: &[f32]) {
    to.iter_mut()
        .zip(values)
        .for_each(|(to, value)| *to += value);
}

#[inline(always)]
fn pre_activation<S: Simd>(
    simd: S,
    source: Source,
    rows: Range<usize>,
    gradient: &mut [f32],
    sums: &mut [f64],
) {
    let channels = source.shape.channels;
    assert!(
        source.gate.is_none(),
        "convolution_backward: PreActivation of a gated source"
    );
    let data = &source.data[rows.start * channels..rows.end * channels];
    let (affine, activation) = (source.affine, source.activation);
    pre_activation_rows(
        simd,
        PreActivationRows {
            data,
            affine,
            activation,
            gradient,
            sums,
        },
    );
}
