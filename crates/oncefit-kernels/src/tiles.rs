//! Tiles of a dense convolution: rows in cache, products on registers, sums while hot.

use std::ops::Range;

use crate::convolution::{Geometry, SinkMode};
use crate::cpu::Kernel;
use crate::gemm::{Multiply, MultiplyTransposed, multiply, multiply_transposed};
use crate::parallel::Parts;
use crate::rows::{GradientRows, Prologue};
use crate::scratch::Scratch;
use crate::simd::Simd;
use crate::sums::{LaneSums, PreActivation, Squares};
use crate::types::{OutputGradient, Shape};

impl Geometry<'_> {
    /// End of the tile that begins at row `start`.
    pub fn tile_end(&self, start: usize, end: usize) -> usize {
        end.min(start + self.tile_rows())
    }

    /// Rows of an image.
    fn image_rows(&self) -> usize {
        self.output.height * self.output.width
    }

    fn padded_width(&self) -> usize {
        self.source.shape.width + 2 * self.window.padding()
    }

    /// Values of an image with its padding.
    fn padded_len(&self) -> usize {
        let height = self.source.shape.height + 2 * self.window.padding();
        height * self.padded_width() * self.source.shape.channels
    }

    /// Values of an image row, and where it lies in the padded image.
    fn padded_row(&self, y: usize) -> Range<usize> {
        let Shape {
            width, channels, ..
        } = self.source.shape;
        let padding = self.window.padding();
        let start = ((y + padding) * self.padded_width() + padding) * channels;
        start..start + width * channels
    }

    /// Where the window of an output row begins in the padded image.
    fn window_start(&self, row: usize) -> usize {
        let pixel = row % (self.output.height * self.output.width);
        let (y, x) = (pixel / self.output.width, pixel % self.output.width);
        (y * self.padded_width() + x) * self.window.stride * self.source.shape.channels
    }

    /// Values of a row of taps: they lie side by side in the padded image.
    fn run_len(&self) -> usize {
        self.window.kernel * self.source.shape.channels
    }

    /// Values between rows of the padded image.
    fn run_step(&self) -> usize {
        self.padded_width() * self.source.shape.channels
    }
}

/// Loads the `A` rows of tiles.
pub(crate) struct RowLoader<'a> {
    geometry: &'a Geometry<'a>,
    prologue: Prologue<'a>,
    /// The image in work with zeros around it, where windows are larger than a pixel.
    padded: Scratch,
    image: Option<usize>,
}

impl<'a> RowLoader<'a> {
    #[inline(always)]
    pub fn new<S: Simd>(simd: S, geometry: &'a Geometry<'a>) -> Self {
        let padded = if geometry.is_pointwise {
            0
        } else {
            geometry.padded_len()
        };
        Self {
            geometry,
            prologue: Prologue::new(simd, geometry.source),
            padded: Scratch::zeros(padded),
            image: None,
        }
    }

    /// The rows: the source's own memory where it is read as stored.
    #[inline(always)]
    pub fn load<'s, S: Simd>(
        &'s mut self,
        simd: S,
        rows: Range<usize>,
        scratch: &'s mut [f32],
    ) -> &'s [f32] {
        let Geometry {
            source,
            k,
            is_pointwise,
            ..
        } = *self.geometry;
        if is_pointwise && source.is_plain() {
            return &source.data[rows.start * k..rows.end * k];
        }
        let scratch = &mut scratch[..rows.len() * k];
        if is_pointwise {
            self.prologue.load(simd, rows, scratch);
        } else {
            let (run, step) = (self.geometry.run_len(), self.geometry.run_step());
            for (row, values) in rows.zip(scratch.chunks_exact_mut(k)) {
                self.pad_image(simd, row / self.geometry.image_rows());
                let start = self.geometry.window_start(row);
                for (y, values) in values.chunks_exact_mut(run).enumerate() {
                    let from = start + y * step;
                    copy_run(simd, &self.padded[from..from + run], values);
                }
            }
        }
        scratch
    }

    /// Makes an image the one in work.
    #[inline(always)]
    fn pad_image<S: Simd>(&mut self, simd: S, image: usize) {
        if self.image == Some(image) {
            return;
        }
        self.image = Some(image);
        let Shape { height, width, .. } = self.geometry.source.shape;
        for y in 0..height {
            let first = (image * height + y) * width;
            let to = self.geometry.padded_row(y);
            self.prologue
                .load(simd, first..first + width, &mut self.padded[to]);
        }
    }
}

#[inline(always)]
fn copy_run<S: Simd>(simd: S, from: &[f32], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    let mut at = 0;
    while at < from.len() {
        let count = S::LANES.min(from.len() - at);
        // SAFETY: both hold these values.
        unsafe {
            let values = simd.load_some(from.as_ptr().add(at), count);
            simd.store_some(to.as_mut_ptr().add(at), count, values);
        }
        at += S::LANES;
    }
}

#[inline(always)]
pub(crate) fn add_run<S: Simd>(simd: S, from: &[f32], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    let mut at = 0;
    while at < from.len() {
        let count = S::LANES.min(from.len() - at);
        // SAFETY: both hold these values.
        unsafe {
            let to = to.as_mut_ptr().add(at);
            let values = simd.load_some(from.as_ptr().add(at), count);
            simd.store_some(to, count, simd.add(simd.load_some(to, count), values));
        }
        at += S::LANES;
    }
}

/// The forward pass of some rows.
pub(crate) struct ForwardRows<'a> {
    pub geometry: &'a Geometry<'a>,
    pub packed: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub rows: Range<usize>,
    pub output: &'a mut [f32],
    /// Empty where no sums are taken.
    pub sums: &'a mut [f64],
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
        let mut loader = RowLoader::new(simd, geometry);
        let mut lane_sums = LaneSums::new(simd, n);
        let mut scratch = Scratch::take(geometry.tile_rows() * k);
        let mut start = rows.start;
        while start < rows.end {
            let end = geometry.tile_end(start, rows.end);
            let a = loader.load(simd, start..end, &mut scratch);
            let output = &mut output[(start - rows.start) * n..(end - rows.start) * n];
            let product = Multiply {
                a,
                lda: k,
                b: packed,
                bias,
                rows: end - start,
                k,
                n,
            };
            multiply(simd, &product, output, n);
            if !sums.is_empty() {
                // SAFETY: there are `output.len()` squares.
                unsafe { lane_sums.add(simd, output.len(), &Squares(output)) };
                lane_sums.flush(sums);
            }
            start = end;
        }
    }
}

/// All rows of some output channels.
pub(crate) struct ForwardColumns<'a> {
    pub geometry: &'a Geometry<'a>,
    /// The weight of these channels.
    pub packed: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub columns: Range<usize>,
    pub output: &'a Parts<'a, f32>,
}

impl Kernel for ForwardColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let geometry = self.geometry;
        let (k, n, columns) = (geometry.k, geometry.n, self.columns.len());
        let rows = geometry.output.rows();
        let mut loader = RowLoader::new(simd, geometry);
        let mut values = Scratch::take(geometry.tile_rows() * k);
        let mut products = Scratch::take(geometry.tile_rows() * columns);
        let mut start = 0;
        while start < rows {
            let end = geometry.tile_end(start, rows);
            let product = Multiply {
                a: loader.load(simd, start..end, &mut values),
                lda: k,
                b: self.packed,
                bias: self.bias,
                rows: end - start,
                k,
                n: columns,
            };
            multiply(simd, &product, &mut products, columns);
            for (row, products) in (start..end).zip(products.chunks_exact(columns)) {
                let at = row * n + self.columns.start;
                // SAFETY: chunks are disjoint columns.
                unsafe { self.output.part(at..at + columns) }.copy_from_slice(products);
            }
            start = end;
        }
    }
}

/// The backward pass of some rows.
pub(crate) struct BackwardRows<'a> {
    pub geometry: &'a Geometry<'a>,
    pub packed: &'a [f32],
    pub gradient: OutputGradient<'a>,
    pub mode: SinkMode,
    pub rows: Range<usize>,
    /// The inputs of the rows.
    pub target: &'a mut [f32],
    pub sums: &'a mut [f64],
    /// Receives this chunk's weight gradient; empty where none is wanted.
    pub weight: &'a mut [f32],
    /// As above.
    pub bias: &'a mut [f64],
}

impl Kernel for BackwardRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let geometry = self.geometry;
        let (k, n) = (geometry.k, geometry.n);
        let tile = geometry.tile_rows();
        let mut loader = RowLoader::new(simd, geometry);
        let gradient = GradientRows::new(simd, self.gradient, n);
        let mut sink = Sink::new(simd, geometry, self.mode, &self.rows);
        let mut gradients = Scratch::take(tile * n);
        let mut values = Scratch::take(tile * k);
        let mut inputs = Scratch::take(if self.mode == SinkMode::Skip {
            0
        } else {
            tile * k
        });
        self.weight.fill(0.0);
        let mut start = self.rows.start;
        while start < self.rows.end {
            let end = geometry.tile_end(start, self.rows.end);
            let rows = end - start;
            let g = gradient.load(simd, start..end, &mut gradients);
            if !self.weight.is_empty() {
                let a = loader.load(simd, start..end, &mut values);
                let product = match geometry.is_transposed {
                    false => MultiplyTransposed {
                        g,
                        ldg: n,
                        a,
                        lda: k,
                        rows,
                        n,
                        k,
                    },
                    true => MultiplyTransposed {
                        g: a,
                        ldg: k,
                        a: g,
                        lda: n,
                        rows,
                        n: k,
                        k: n,
                    },
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
                    rows,
                    k: n,
                    n: k,
                };
                let first = start - self.rows.start;
                let at = first * k..(first + rows) * k;
                if geometry.is_pointwise && self.mode != SinkMode::Accumulate {
                    let target = &mut self.target[at];
                    multiply(simd, &product, target, k);
                    sink.finish_rows(simd, start..end, target, self.sums);
                } else {
                    let inputs = &mut inputs[..rows * k];
                    multiply(simd, &product, inputs, k);
                    if geometry.is_pointwise {
                        add_run(simd, inputs, &mut self.target[at]);
                    } else {
                        sink.scatter(simd, start..end, inputs, self.target, self.sums);
                    }
                }
            }
            start = end;
        }
    }
}

/// Where input gradients go.
pub(crate) struct Sink<'a> {
    geometry: &'a Geometry<'a>,
    mode: SinkMode,
    /// First image of the chunk.
    first_image: usize,
    pre_activation: Option<PreActivation<'a>>,
    /// Gradient of the image in work and its padding, where windows are larger than a pixel.
    padded: Scratch,
}

impl<'a> Sink<'a> {
    #[inline(always)]
    pub fn new<S: Simd>(
        simd: S,
        geometry: &'a Geometry<'a>,
        mode: SinkMode,
        rows: &Range<usize>,
    ) -> Self {
        let is_padded = !geometry.is_pointwise && mode != SinkMode::Skip;
        Self {
            geometry,
            mode,
            first_image: rows.start / geometry.image_rows(),
            pre_activation: (mode == SinkMode::PreActivation)
                .then(|| PreActivation::new(simd, geometry.source)),
            padded: Scratch::take(if is_padded { geometry.padded_len() } else { 0 }),
        }
    }

    /// Input gradients of some pixels are complete.
    #[inline(always)]
    pub fn finish_rows<S: Simd>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        gradient: &mut [f32],
        sums: &mut [f64],
    ) {
        if let Some(pass) = &mut self.pre_activation {
            pass.run(simd, rows, gradient, sums);
        }
    }

    /// Adds the gradients under each row's window; the last row of an image completes it.
    #[inline(always)]
    pub fn scatter<S: Simd>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        inputs: &[f32],
        target: &mut [f32],
        sums: &mut [f64],
    ) {
        let geometry = self.geometry;
        let image_rows = geometry.image_rows();
        let (run, step) = (geometry.run_len(), geometry.run_step());
        for (row, values) in rows.zip(inputs.chunks_exact(geometry.k)) {
            if row.is_multiple_of(image_rows) {
                self.padded.fill(0.0);
            }
            let start = geometry.window_start(row);
            for (y, values) in values.chunks_exact(run).enumerate() {
                let to = start + y * step;
                add_run(simd, values, &mut self.padded[to..to + run]);
            }
            if (row + 1).is_multiple_of(image_rows) {
                self.finish_image(simd, row / image_rows, target, sums);
            }
        }
    }

    /// All gradients of an image are in its padded copy.
    #[inline(always)]
    fn finish_image<S: Simd>(
        &mut self,
        simd: S,
        image: usize,
        target: &mut [f32],
        sums: &mut [f64],
    ) {
        let geometry = self.geometry;
        let Shape { height, width, .. } = geometry.source.shape;
        let length = height * width * geometry.source.shape.channels;
        let at = (image - self.first_image) * length;
        let target = &mut target[at..at + length];
        for (y, target) in target.chunks_exact_mut(length / height).enumerate() {
            let values = &self.padded[geometry.padded_row(y)];
            match self.mode {
                SinkMode::Accumulate => add_run(simd, values, target),
                _ => target.copy_from_slice(values),
            }
        }
        let pixels = image * height * width..(image + 1) * height * width;
        self.finish_rows(simd, pixels, target, sums);
    }
}
