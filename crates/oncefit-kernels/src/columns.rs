//! The backward pass of layers that are mostly weight: few rows, many channels.
//!
//! A chunk of rows with a weight gradient of its own would write and read that gradient again for
//! every few rows. Here all rows of `A` and `dY` are made first; then each chunk has a part of the
//! output channels, whose gradient is summed over all rows at once, or of the values of a row, of
//! which it makes `dA = dY·W`.

use std::ops::Range;

use crate::convolution::{Geometry, SinkMode};
use crate::cpu::{Cpu, Kernel};
use crate::gemm::{Multiply, MultiplyTransposed, multiply, multiply_transposed};
use crate::parallel::{Parts, chunk_range, for_each_chunk, merge_sums};
use crate::rows::GradientRows;
use crate::scratch::{Scratch, ScratchSums};
use crate::simd::Simd;
use crate::tiles::{RowLoader, Sink, add_run};
use crate::types::{InputGradient, OutputGradient};

/// Output channels of a part of a weight gradient, about.
const CHANNELS: usize = 24;
/// Panels of a part of the rows' gradients.
const PANELS: usize = 6;

/// What the gradients of a layer are made from.
#[derive(Clone, Copy)]
pub(crate) struct Backward<'a> {
    pub geometry: &'a Geometry<'a>,
    /// The weight; empty where no input gradient is wanted.
    pub packed: &'a [f32],
    pub gradient: OutputGradient<'a>,
}

impl Backward<'_> {
    /// Arguments as [`crate::convolution_backward`] has them.
    pub fn by_columns(
        self,
        cpu: Cpu,
        mut input: InputGradient,
        weight_gradient: Option<(&mut [f32], usize, usize)>,
        bias_gradient: Option<&mut [f32]>,
    ) {
        let geometry = self.geometry;
        let (k, n, rows) = (geometry.k, geometry.n, geometry.output.rows());
        let chunks = geometry.backward_chunks();
        let mode = input.mode();
        let wants_weight = weight_gradient.is_some();
        let mut g = Scratch::take(rows * n);
        let mut a = Scratch::take(if wants_weight { rows * k } else { 0 });
        let (gs, values) = (Parts::new(&mut g), Parts::new(&mut a));
        for_each_chunk(chunks, rows * (k + n), |chunk| {
            let rows = geometry.chunk_rows(chunks, chunk);
            let of_a = if wants_weight { k } else { 0 };
            // SAFETY: chunks are disjoint ranges of rows.
            let pass = unsafe {
                LoadRows {
                    geometry,
                    gradient: self.gradient,
                    g: gs.part(rows.start * n..rows.end * n),
                    a: values.part(rows.start * of_a..rows.end * of_a),
                    rows,
                }
            };
            cpu.run(pass);
        });
        if let Some((values, out_stride, in_stride)) = weight_gradient {
            geometry.check_weight(values.len(), out_stride, in_stride);
            self.add_weight_gradient(cpu, &g, &a, values, (out_stride, in_stride));
        }
        if let Some(bias) = bias_gradient {
            assert_eq!(bias.len(), n, "convolution_backward: bias gradient");
            let mut sums = ScratchSums::zeros(n);
            for row in g.chunks_exact(n) {
                let pairs = sums.iter_mut().zip(row);
                pairs.for_each(|(sum, g)| *sum += f64::from(*g));
            }
            let pairs = bias.iter_mut().zip(sums.iter());
            pairs.for_each(|(value, sum)| *value += *sum as f32);
        }
        if mode == SinkMode::Skip {
            return;
        }
        let d_rows = self.row_gradients(cpu, &g);
        let channels = geometry.source.shape.channels;
        let mut partial = ScratchSums::zeros(chunks * 2 * channels);
        {
            let target = match &mut input {
                InputGradient::Skip => return,
                InputGradient::Overwrite(target) | InputGradient::Accumulate(target) => target,
                InputGradient::PreActivation { dz, .. } => dz,
            };
            assert_eq!(
                target.len(),
                geometry.source.shape.len(),
                "convolution_backward: input gradient"
            );
            let (targets, partials) = (Parts::new(target), Parts::new(&mut partial));
            for_each_chunk(chunks, 2 * rows * k, |chunk| {
                let rows = geometry.chunk_rows(chunks, chunk);
                // SAFETY: chunks are disjoint ranges of rows, of their inputs and of partial sums.
                let pass = unsafe {
                    FinishRows {
                        geometry,
                        mode,
                        d_rows: &d_rows[rows.start * k..rows.end * k],
                        target: targets.part(geometry.input_range(&rows)),
                        sums: partials.part(chunk * 2 * channels..(chunk + 1) * 2 * channels),
                        rows,
                    }
                };
                cpu.run(pass);
            });
        }
        if let InputGradient::PreActivation { sums, .. } = input {
            merge_sums(&partial, sums);
        }
    }

    /// Adds `dYᵀ·A`, a few output channels at a time.
    fn add_weight_gradient(
        self,
        cpu: Cpu,
        g: &[f32],
        a: &[f32],
        values: &mut [f32],
        (out_stride, in_stride): (usize, usize),
    ) {
        let geometry = self.geometry;
        let (k, n, channels) = (geometry.k, geometry.n, geometry.source.shape.channels);
        let parts = n.div_ceil(CHANNELS);
        let length = values.len();
        let targets = Parts::new(values);
        for_each_chunk(parts, geometry.operations(), |part| {
            let outputs = chunk_range(n, parts, part);
            let mut own = Scratch::zeros(outputs.len() * k);
            cpu.run(WeightPart {
                geometry,
                g,
                a,
                outputs: outputs.clone(),
                own: &mut own,
            });
            let end = if outputs.end == n {
                length
            } else {
                outputs.end * out_stride
            };
            // SAFETY: parts are disjoint ranges of output channels.
            let target = unsafe { targets.part(outputs.start * out_stride..end) };
            for (row, own) in own.chunks_exact(k).enumerate() {
                for (tap, own) in own.chunks_exact(channels).enumerate() {
                    let target = &mut target[row * out_stride + tap * in_stride..][..channels];
                    let pairs = target.iter_mut().zip(own);
                    pairs.for_each(|(to, value)| *to += value);
                }
            }
        });
    }

    /// `dA = dY·W`, a few panels at a time.
    fn row_gradients(self, cpu: Cpu, g: &[f32]) -> Scratch {
        let geometry = self.geometry;
        let (k, n, lanes) = (geometry.k, geometry.n, geometry.lanes);
        let rows = geometry.output.rows();
        let panels = k.div_ceil(lanes);
        let parts = panels.div_ceil(PANELS);
        let mut d_rows = Scratch::take(rows * k);
        let all = Parts::new(&mut d_rows);
        for_each_chunk(parts, geometry.operations(), |part| {
            let panels = chunk_range(panels, parts, part);
            let columns = panels.start * lanes..k.min(panels.end * lanes);
            let width = columns.len();
            let mut own = Scratch::take(rows * width);
            cpu.run(RowsPart {
                g,
                packed: &self.packed[panels.start * lanes * n..panels.end * lanes * n],
                rows,
                n,
                width,
                own: &mut own,
            });
            for (row, own) in own.chunks_exact(width).enumerate() {
                let at = row * k + columns.start;
                // SAFETY: parts are disjoint columns.
                unsafe { all.part(at..at + width) }.copy_from_slice(own);
            }
        });
        d_rows
    }
}

/// Some rows of `A` and `dY`.
struct LoadRows<'a> {
    geometry: &'a Geometry<'a>,
    gradient: OutputGradient<'a>,
    rows: Range<usize>,
    g: &'a mut [f32],
    /// Empty where they are not wanted.
    a: &'a mut [f32],
}

impl Kernel for LoadRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let geometry = self.geometry;
        let (k, n, tile) = (geometry.k, geometry.n, geometry.tile_rows());
        let gradient = GradientRows::new(simd, self.gradient, n);
        let mut loader = RowLoader::new(simd, geometry);
        let mut scratch = Scratch::take(tile * k.max(n));
        let mut start = self.rows.start;
        while start < self.rows.end {
            let end = geometry.tile_end(start, self.rows.end);
            let at = start - self.rows.start..end - self.rows.start;
            self.g[at.start * n..at.end * n].copy_from_slice(gradient.load(
                simd,
                start..end,
                &mut scratch,
            ));
            if !self.a.is_empty() {
                self.a[at.start * k..at.end * k].copy_from_slice(loader.load(
                    simd,
                    start..end,
                    &mut scratch,
                ));
            }
            start = end;
        }
    }
}

/// The weight gradient of some output channels.
struct WeightPart<'a> {
    geometry: &'a Geometry<'a>,
    g: &'a [f32],
    a: &'a [f32],
    outputs: Range<usize>,
    own: &'a mut [f32],
}

impl Kernel for WeightPart<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (k, n) = (self.geometry.k, self.geometry.n);
        let product = MultiplyTransposed {
            g: &self.g[self.outputs.start..],
            ldg: n,
            a: self.a,
            lda: k,
            rows: self.geometry.output.rows(),
            n: self.outputs.len(),
            k,
        };
        multiply_transposed(simd, &product, self.own);
    }
}

/// Some columns of the rows' gradients.
struct RowsPart<'a> {
    g: &'a [f32],
    packed: &'a [f32],
    rows: usize,
    n: usize,
    width: usize,
    own: &'a mut [f32],
}

impl Kernel for RowsPart<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let product = Multiply {
            a: self.g,
            lda: self.n,
            b: self.packed,
            bias: None,
            rows: self.rows,
            k: self.n,
            n: self.width,
        };
        multiply(simd, &product, self.own, self.width);
    }
}

/// From gradients of rows to gradients of the pixels they were made of.
struct FinishRows<'a> {
    geometry: &'a Geometry<'a>,
    mode: SinkMode,
    rows: Range<usize>,
    d_rows: &'a [f32],
    target: &'a mut [f32],
    sums: &'a mut [f64],
}

impl Kernel for FinishRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self {
            geometry,
            mode,
            rows,
            d_rows,
            target,
            sums,
        } = self;
        let mut sink = Sink::new(simd, geometry, mode, &rows);
        if !geometry.is_pointwise {
            sink.scatter(simd, rows, d_rows, target, sums);
        } else if mode == SinkMode::Accumulate {
            add_run(simd, d_rows, target);
        } else {
            target.copy_from_slice(d_rows);
            sink.finish_rows(simd, rows, target, sums);
        }
    }
}
