//! Depthwise convolution: one vector of channels of one image at a time, in a padded copy.
//!
//! The copy is read through the source's batch-norm and activation and has zeros around it, so
//! that the loops over taps have no borders. For the gradient of the input with stride `s`, input
//! pixel `x` is reached by the taps `t ≡ x + padding (mod s)` only: inputs of equal remainder form
//! a plain correlation of the output gradient, and no zero is ever multiplied.

use std::ops::Range;

use crate::convolution::{SinkMode, check_output_gradient};
use crate::cpu::{Cpu, Kernel};
use crate::parallel::{Parts, chunk_range, for_each_chunk, merge_sums};
use crate::scratch::{Scratch, ScratchSums};
use crate::simd::Simd;
use crate::sums::add_lanes;
use crate::types::{
    Activation, Affine, ChannelSums, InputGradient, OutputGradient, Shape, Source, Window,
};

/// `output = depthwise convolution of value(source)` with `weight` `[taps][channels]`; `sums`
/// receive Σy and Σy² per channel.
pub fn depthwise_forward(
    cpu: Cpu,
    source: Source,
    window: Window,
    weight: &[f32],
    output: &mut [f32],
    sums: Option<&mut ChannelSums>,
) {
    let geometry = Geometry::new(source, window, weight);
    assert_eq!(
        output.len(),
        geometry.output.len(),
        "depthwise_forward: output"
    );
    let channels = source.shape.channels;
    let bands = geometry.bands();
    let chunks = (source.shape.images * bands).min(MOST_CHUNKS);
    let mut partial = ScratchSums::zeros(chunks * 2 * channels);
    let (outputs, partials) = (Parts::new(output), Parts::new(&mut partial));
    let row = geometry.output.width * channels;
    for_each_chunk(chunks, geometry.operations(), |chunk| {
        let bands = chunk_range(source.shape.images * bands, chunks, chunk);
        let rows = geometry.band_start(bands.start)..geometry.band_start(bands.end);
        // SAFETY: chunks are disjoint ranges of rows and of partial sums.
        let (output, sums) = unsafe {
            (
                outputs.part(rows.start * row..rows.end * row),
                partials.part(chunk * 2 * channels..(chunk + 1) * 2 * channels),
            )
        };
        cpu.run(Forward {
            geometry: &geometry,
            weight,
            bands,
            output,
            sums,
        });
    });
    if let Some(sums) = sums {
        merge_sums(&partial, sums);
    }
}

/// The gradients of a depthwise convolution: of its input to `input`, of its weight added to
/// `weight_gradient` (`[taps][channels]`).
pub fn depthwise_backward(
    cpu: Cpu,
    source: Source,
    window: Window,
    weight: &[f32],
    gradient: OutputGradient,
    mut input: InputGradient,
    weight_gradient: Option<&mut [f32]>,
) {
    let geometry = Geometry::new(source, window, weight);
    check_output_gradient(&gradient, geometry.output);
    let channels = source.shape.channels;
    let chunks = geometry.chunks();
    let mode = input.mode();
    assert!(
        mode != SinkMode::PreActivation || source.gate.is_none(),
        "depthwise_backward: PreActivation of a gated source"
    );
    let mut sums_partial = ScratchSums::zeros(chunks * 2 * channels);
    let mut weight_partial = Scratch::zeros(chunks * weight.len());
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
                "depthwise_backward: input gradient"
            );
        }
        let image = match mode {
            SinkMode::Skip => 0,
            _ => source.shape.height * source.shape.width * channels,
        };
        let targets = Parts::new(target);
        let sums = Parts::new(&mut sums_partial);
        let weights = Parts::new(&mut weight_partial);
        for_each_chunk(chunks, 2 * geometry.operations(), |chunk| {
            let images = chunk_range(source.shape.images, chunks, chunk);
            // SAFETY: chunks are disjoint ranges of images and of partial sums.
            let pass = unsafe {
                Backward {
                    geometry: &geometry,
                    weight,
                    gradient,
                    mode,
                    target: targets.part(images.start * image..images.end * image),
                    images,
                    sums: sums.part(chunk * 2 * channels..(chunk + 1) * 2 * channels),
                    weight_gradient: weights.part(chunk * weight.len()..(chunk + 1) * weight.len()),
                }
            };
            cpu.run(pass);
        });
    }
    if let InputGradient::PreActivation { sums, .. } = input {
        merge_sums(&sums_partial, sums);
    }
    if let Some(values) = weight_gradient {
        assert_eq!(
            values.len(),
            weight.len(),
            "depthwise_backward: weight gradient"
        );
        for partial in weight_partial.chunks_exact(weight.len()) {
            values
                .iter_mut()
                .zip(partial)
                .for_each(|(value, addend)| *value += addend);
        }
    }
}

/// Chunks of a pass at most.
const MOST_CHUNKS: usize = 16;
/// Fewer images than this are cut into bands of rows.
const FEW_IMAGES: usize = 4;
/// Rows of a band at least.
const BAND_ROWS: usize = 4;

/// Outputs of a row that are computed together.
const BLOCK: usize = 8;

struct Geometry<'a> {
    source: Source<'a>,
    window: Window,
    output: Shape,
}

impl<'a> Geometry<'a> {
    fn new(source: Source<'a>, window: Window, weight: &[f32]) -> Self {
        source.check();
        assert!(
            matches!(window.kernel, 1 | 3 | 5 | 7) && window.stride > 0,
            "depthwise: kernels of 1, 3, 5 and 7 are supported, this is {window:?}"
        );
        assert!(!source.shape.is_empty(), "depthwise: empty tensors");
        assert_eq!(
            weight.len(),
            window.kernel * window.kernel * source.shape.channels,
            "depthwise: weight of {window:?}"
        );
        Self {
            source,
            window,
            output: window.output_shape(source.shape, source.shape.channels),
        }
    }

    fn operations(&self) -> usize {
        2 * self.output.len() * self.window.kernel * self.window.kernel
    }

    /// Chunks of the backward pass: whole images.
    fn chunks(&self) -> usize {
        self.source.shape.images.min(MOST_CHUNKS)
    }

    /// Bands of output rows that an image is cut into in the forward pass.
    fn bands(&self) -> usize {
        let images = self.source.shape.images;
        if images >= FEW_IMAGES {
            return 1;
        }
        let most = (self.output.height / BAND_ROWS).max(1);
        (2 * FEW_IMAGES / images).min(most)
    }

    /// The first output row of a band, counted through all images.
    fn band_start(&self, band: usize) -> usize {
        let (bands, height) = (self.bands(), self.output.height);
        band / bands * height + chunk_range(height, bands, band % bands).start
    }

    /// Height and width of the padded input.
    fn padded(&self) -> (usize, usize) {
        let margin = 2 * self.window.padding();
        (
            self.source.shape.height + margin,
            self.source.shape.width + margin,
        )
    }

    /// Zeros around the output gradient: as far as a tap can reach beyond it.
    fn gradient_margin(&self) -> usize {
        self.window.padding() / self.window.stride + 1
    }
}

/// Copies one vector of channels of an image into the middle of a padded plane with zeros around
/// it, through `value(pixel index)`; only some rows of the padded plane.
#[inline(always)]
fn fill_plane<S: Simd>(
    simd: S,
    plane: &mut [f32],
    (height, width): (usize, usize),
    margin: usize,
    rows: Range<usize>,
    pixels: &impl Pixels<S>,
) {
    let row_length = width + 2 * margin;
    assert!(rows.end <= height + 2 * margin);
    assert!(plane.len() >= (height + 2 * margin) * row_length * S::LANES);
    let to = plane.as_mut_ptr();
    for y in rows {
        let row = y * row_length;
        let is_inside = y >= margin && y < height + margin;
        // SAFETY: the positions lie in the plane, as checked.
        unsafe {
            if is_inside {
                for x in (0..margin).chain(width + margin..row_length) {
                    simd.store(to.add((row + x) * S::LANES), simd.zero());
                }
                for x in 0..width {
                    let vector = pixels.at(simd, (y - margin) * width + x);
                    simd.store(to.add((row + margin + x) * S::LANES), vector);
                }
            } else {
                for x in 0..row_length {
                    simd.store(to.add((row + x) * S::LANES), simd.zero());
                }
            }
        }
    }
}

/// One vector of channels at each pixel of an image. A trait and no closure: methods can be told to
/// be inlined, and only then are they compiled for the kernel's instructions.
trait Pixels<S: Simd> {
    fn at(&self, simd: S, pixel: usize) -> S::V;
}

/// Scale and shift of one vector of channels.
///
/// # Safety
/// The affine must have the channels `first..first + count`.
#[inline(always)]
unsafe fn load_affine<S: Simd>(
    simd: S,
    affine: Option<Affine>,
    first: usize,
    count: usize,
) -> (S::V, S::V) {
    match affine {
        // SAFETY: the caller's.
        Some(Affine { scale, shift }) => unsafe {
            (
                simd.load_some(scale.as_ptr().add(first), count),
                simd.load_some(shift.as_ptr().add(first), count),
            )
        },
        None => (simd.splat(1.0), simd.zero()),
    }
}

/// The values of a source.
struct SourcePixels<'s, S: Simd> {
    data: &'s [f32],
    channels: usize,
    count: usize,
    affine: Option<(S::V, S::V)>,
    activation: Activation,
    gate: Option<S::V>,
}

impl<'s, S: Simd> SourcePixels<'s, S> {
    #[inline(always)]
    fn new(simd: S, source: &'s Source, image: usize, first: usize, count: usize) -> Self {
        let Shape {
            height,
            width,
            channels,
            ..
        } = source.shape;
        // SAFETY: `check` made sure that the affine and the gate have these channels.
        let (affine, gate) = unsafe {
            let affine = load_affine(simd, source.affine, first, count);
            #[expect(clippy::manual_map, reason = "a closure has no vector instructions")]
            let gate = match source.gate {
                Some(gate) => {
                    Some(simd.load_some(gate.as_ptr().add(image * channels + first), count))
                }
                None => None,
            };
            (affine, gate)
        };
        Self {
            data: &source.data[image * height * width * channels + first..],
            channels,
            count,
            affine: source.affine.is_some().then_some(affine),
            activation: source.activation,
            gate,
        }
    }
}

impl<S: Simd> Pixels<S> for SourcePixels<'_, S> {
    #[inline(always)]
    fn at(&self, simd: S, pixel: usize) -> S::V {
        // SAFETY: the pixel lies in the image.
        let x =
            unsafe { simd.load_some(self.data.as_ptr().add(pixel * self.channels), self.count) };
        let z = match self.affine {
            Some((scale, shift)) => simd.fma(x, scale, shift),
            None => x,
        };
        let value = simd.activate(self.activation, z);
        match self.gate {
            Some(gate) => simd.mul(value, gate),
            None => value,
        }
    }
}

/// `a·dz + b·y + c`.
struct GradientPixels<'g, S: Simd> {
    dz: &'g [f32],
    channels: usize,
    count: usize,
    norm: Option<(&'g [f32], [S::V; 3])>,
}

impl<'g, S: Simd> GradientPixels<'g, S> {
    #[inline(always)]
    fn new(
        simd: S,
        gradient: &OutputGradient<'g>,
        shape: Shape,
        image: usize,
        first: usize,
        count: usize,
    ) -> Self {
        let base = image * shape.height * shape.width * shape.channels + first;
        let norm = match gradient.batch_norm {
            // SAFETY: the coefficients have these channels, as checked on entry.
            Some(norm) => unsafe {
                let a = simd.load_some(norm.a.as_ptr().add(first), count);
                let b = simd.load_some(norm.b.as_ptr().add(first), count);
                let c = simd.load_some(norm.c.as_ptr().add(first), count);
                Some((&norm.y[base..], [a, b, c]))
            },
            None => None,
        };
        Self {
            dz: &gradient.dz[base..],
            channels: shape.channels,
            count,
            norm,
        }
    }
}

impl<S: Simd> Pixels<S> for GradientPixels<'_, S> {
    #[inline(always)]
    fn at(&self, simd: S, pixel: usize) -> S::V {
        let at = pixel * self.channels;
        // SAFETY: the pixel lies in the image.
        unsafe {
            let dz = simd.load_some(self.dz.as_ptr().add(at), self.count);
            match self.norm {
                Some((y, [a, b, c])) => {
                    let y = simd.load_some(y.as_ptr().add(at), self.count);
                    simd.fma(dz, a, simd.fma(y, b, c))
                }
                None => dz,
            }
        }
    }
}

/// One vector of channels of each tap.
#[inline(always)]
fn load_taps<S: Simd>(
    simd: S,
    weight: &[f32],
    channels: usize,
    first: usize,
    count: usize,
    taps: &mut [S::V; 49],
) {
    for (tap, values) in weight.chunks_exact(channels).enumerate() {
        // SAFETY: the channels lie in the tap.
        taps[tap] = unsafe { simd.load_some(values.as_ptr().add(first), count) };
    }
}

struct Forward<'a> {
    geometry: &'a Geometry<'a>,
    weight: &'a [f32],
    /// Bands of rows, counted through all images.
    bands: Range<usize>,
    output: &'a mut [f32],
    sums: &'a mut [f64],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        match self.geometry.window.kernel {
            1 => self.all_bands::<S, 1>(simd),
            3 => self.all_bands::<S, 3>(simd),
            5 => self.all_bands::<S, 5>(simd),
            _ => self.all_bands::<S, 7>(simd),
        }
    }
}

impl Forward<'_> {
    #[inline(always)]
    fn all_bands<S: Simd, const K: usize>(&mut self, simd: S) {
        let Geometry {
            source,
            window,
            output,
        } = self.geometry;
        let channels = source.shape.channels;
        let (padded_height, padded_width) = self.geometry.padded();
        let slack = BLOCK * window.stride + K;
        let mut plane = Scratch::take((padded_height * padded_width + slack) * S::LANES);
        let size = (source.shape.height, source.shape.width);
        let start = self.geometry.band_start(self.bands.start);
        for band in self.bands.clone() {
            let image = band / self.geometry.bands();
            let (from, end) = (
                self.geometry.band_start(band),
                self.geometry.band_start(band + 1),
            );
            let row = output.width * channels;
            let out = &mut self.output[(from - start) * row..(end - start) * row];
            // Rows of the output within the image, and of the padded source that they read.
            let (top, bottom) = (from - image * output.height, end - image * output.height);
            let reads = top * window.stride..(bottom - 1) * window.stride + K;
            let mut first = 0;
            while first < channels {
                let count = S::LANES.min(channels - first);
                let value = SourcePixels::new(simd, source, image, first, count);
                fill_plane(
                    simd,
                    &mut plane,
                    size,
                    window.padding(),
                    reads.clone(),
                    &value,
                );
                let mut taps = [simd.zero(); 49];
                load_taps(simd, self.weight, channels, first, count, &mut taps);
                let (mut sum, mut square) = (simd.zero(), simd.zero());
                for y in top..bottom {
                    let mut x = 0;
                    while x < output.width {
                        let from =
                            (y * window.stride * padded_width + x * window.stride) * S::LANES;
                        let to = ((y - top) * output.width + x) * channels + first;
                        let block = Block {
                            row: padded_width * S::LANES,
                            step: window.stride * S::LANES,
                        };
                        let size = BLOCK.min(output.width - x);
                        // SAFETY: the windows of the block's outputs lie in the plane and the slack
                        // behind it, and the outputs that are stored in the image.
                        unsafe {
                            let from = plane.as_ptr().add(from);
                            let values = block.run::<S, K>(simd, from, &taps);
                            for (offset, y) in values.into_iter().enumerate() {
                                // No `take`: the loop must be unrolled to stay in registers.
                                if offset < size {
                                    let to = out.as_mut_ptr().add(to + offset * channels);
                                    simd.store_some(to, count, y);
                                    sum = simd.add(sum, y);
                                    square = simd.fma(y, y, square);
                                }
                            }
                        }
                        x += size;
                    }
                }
                add_lanes(simd, sum, &mut self.sums[first..first + count]);
                add_lanes(
                    simd,
                    square,
                    &mut self.sums[channels + first..channels + first + count],
                );
                first += S::LANES;
            }
        }
    }
}

/// Distances, in values, between rows of the padded plane and between the windows of neighbouring
/// outputs.
struct Block {
    row: usize,
    step: usize,
}

impl Block {
    /// A block of neighbouring outputs; past the end of a row they mean nothing.
    ///
    /// # Safety
    /// Their windows, from `from` on, are readable.
    #[inline(always)]
    unsafe fn run<S: Simd, const K: usize>(
        &self,
        simd: S,
        from: *const f32,
        taps: &[S::V; 49],
    ) -> [S::V; BLOCK] {
        let mut sums = [simd.zero(); BLOCK];
        for tap_y in 0..K {
            for tap_x in 0..K {
                let weight = taps[tap_y * K + tap_x];
                for (offset, sum) in sums.iter_mut().enumerate() {
                    let at = tap_y * self.row + tap_x * S::LANES + offset * self.step;
                    // SAFETY: the caller's.
                    let x = unsafe { simd.load(from.add(at)) };
                    *sum = simd.fma(x, weight, *sum);
                }
            }
        }
        sums
    }
}

struct Backward<'a> {
    geometry: &'a Geometry<'a>,
    weight: &'a [f32],
    gradient: OutputGradient<'a>,
    mode: SinkMode,
    images: Range<usize>,
    target: &'a mut [f32],
    sums: &'a mut [f64],
    weight_gradient: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        match self.geometry.window.kernel {
            1 => self.images::<S, 1>(simd),
            3 => self.images::<S, 3>(simd),
            5 => self.images::<S, 5>(simd),
            _ => self.images::<S, 7>(simd),
        }
    }
}

impl Backward<'_> {
    #[inline(always)]
    fn images<S: Simd, const K: usize>(&mut self, simd: S) {
        let Geometry {
            source,
            window,
            output,
        } = self.geometry;
        let channels = source.shape.channels;
        let (padded_height, padded_width) = self.geometry.padded();
        let margin = self.geometry.gradient_margin();
        let gradient_width = output.width + 2 * margin;
        let mut values = Scratch::take(padded_height * padded_width * S::LANES);
        let gradient_pixels = (output.height + 2 * margin) * gradient_width;
        let mut gradients = Scratch::take((gradient_pixels + BLOCK) * S::LANES);
        for (index, image) in self.images.clone().enumerate() {
            let mut first = 0;
            while first < channels {
                let count = S::LANES.min(channels - first);
                let value = SourcePixels::new(simd, source, image, first, count);
                let size = (source.shape.height, source.shape.width);
                fill_plane(
                    simd,
                    &mut values,
                    size,
                    window.padding(),
                    0..padded_height,
                    &value,
                );
                let dy = GradientPixels::new(simd, &self.gradient, *output, image, first, count);
                fill_plane(
                    simd,
                    &mut gradients,
                    (output.height, output.width),
                    margin,
                    0..output.height + 2 * margin,
                    &dy,
                );
                let view = GradientPlane {
                    values: &gradients,
                    width: gradient_width,
                    margin,
                };
                self.add_weight_gradient::<S, K>(simd, &values, padded_width, &view, first, count);
                if self.mode != SinkMode::Skip {
                    self.input_gradient::<S, K>(simd, &view, (index, image), first, count);
                }
                first += S::LANES;
            }
        }
    }

    /// dW[tap] += Σ value · dy.
    #[inline(always)]
    fn add_weight_gradient<S: Simd, const K: usize>(
        &mut self,
        simd: S,
        values: &[f32],
        padded_width: usize,
        gradients: &GradientPlane,
        first: usize,
        count: usize,
    ) {
        let Geometry {
            source,
            window,
            output,
        } = self.geometry;
        let channels = source.shape.channels;
        for tap_y in 0..K {
            // Two sets of sums hide the latency of the multiplications.
            let mut sums = [[simd.zero(); K]; 2];
            for y in 0..output.height {
                // SAFETY: windows lie in the padded values, outputs in the gradient plane.
                unsafe {
                    let row = values
                        .as_ptr()
                        .add((y * window.stride + tap_y) * padded_width * S::LANES);
                    let dy_row = gradients.pointer::<S>(y, 0);
                    let mut x = 0;
                    while x < output.width {
                        // Both halves of a pair, or the first one at the end of an odd row.
                        for (half, sums) in sums.iter_mut().enumerate() {
                            if x + half < output.width {
                                let dy = simd.load(dy_row.add((x + half) * S::LANES));
                                let from = row.add((x + half) * window.stride * S::LANES);
                                for (tap_x, sum) in sums.iter_mut().enumerate() {
                                    let value = simd.load(from.add(tap_x * S::LANES));
                                    *sum = simd.fma(value, dy, *sum);
                                }
                            }
                        }
                        x += 2;
                    }
                }
            }
            for (tap_x, (even, odd)) in sums[0].into_iter().zip(sums[1]).enumerate() {
                let at = (tap_y * K + tap_x) * channels + first;
                let target = self.weight_gradient[at..at + count].as_mut_ptr();
                // SAFETY: the slice holds `count` values.
                unsafe {
                    let sum = simd.add(even, odd);
                    simd.store_some(target, count, simd.add(simd.load_some(target, count), sum));
                }
            }
        }
    }

    #[inline(always)]
    fn input_gradient<S: Simd, const K: usize>(
        &mut self,
        simd: S,
        gradients: &GradientPlane,
        (index, image): (usize, usize),
        first: usize,
        count: usize,
    ) {
        let Geometry { source, window, .. } = self.geometry;
        let Shape {
            height,
            width,
            channels,
            ..
        } = source.shape;
        let (stride, padding) = (window.stride, window.padding());
        let mut taps = [simd.zero(); 49];
        load_taps(simd, self.weight, channels, first, count, &mut taps);
        // SAFETY: `check` made sure that the affine has these channels.
        let (scale, shift) = unsafe { load_affine(simd, source.affine, first, count) };
        let (mut sum, mut product) = (simd.zero(), simd.zero());
        for y in 0..height {
            for phase in 0..stride.min(width) {
                // Inputs phase, phase + stride, …: the same taps reach each of them.
                let inputs = (width - phase).div_ceil(stride);
                // `x + padding − tap` is a multiple of the stride, maybe negative; each further
                // tap reaches the output before.
                let first_y = (y + padding) / stride + gradients.margin;
                let first_x = (phase + padding) / stride + gradients.margin;
                let mut block = 0;
                while block < inputs {
                    let size = BLOCK.min(inputs - block);
                    let mut found = [simd.zero(); BLOCK];
                    let mut out_y = first_y;
                    for tap_y in ((y + padding) % stride..K).step_by(stride) {
                        let mut out_x = first_x + block;
                        for tap_x in ((phase + padding) % stride..K).step_by(stride) {
                            let weight = taps[tap_y * K + tap_x];
                            // SAFETY: the margin holds every output a tap can reach, and the slack
                            // behind the plane what a block reads beyond the end of its row.
                            unsafe {
                                let from = gradients.raw::<S>(out_y, out_x);
                                for (offset, value) in found.iter_mut().enumerate() {
                                    let dy = simd.load(from.add(offset * S::LANES));
                                    *value = simd.fma(dy, weight, *value);
                                }
                            }
                            out_x = out_x.wrapping_sub(1);
                        }
                        out_y = out_y.wrapping_sub(1);
                    }
                    for (offset, value) in found.into_iter().enumerate() {
                        if offset >= size {
                            continue;
                        }
                        let x = phase + (block + offset) * stride;
                        let pixel = y * width + x;
                        // SAFETY: the pixel and its channels lie in the image.
                        unsafe {
                            let at = (index * height * width + pixel) * channels + first;
                            let to = self.target.as_mut_ptr().add(at);
                            let value = match self.mode {
                                SinkMode::Accumulate => simd.add(simd.load_some(to, count), value),
                                SinkMode::PreActivation => {
                                    let at = (image * height * width + pixel) * channels + first;
                                    let x = simd.load_some(source.data.as_ptr().add(at), count);
                                    let z = simd.fma(x, scale, shift);
                                    let dz = simd.activation_gradient(source.activation, z, value);
                                    sum = simd.add(sum, dz);
                                    product = simd.fma(dz, x, product);
                                    dz
                                }
                                SinkMode::Overwrite | SinkMode::Skip => value,
                            };
                            simd.store_some(to, count, value);
                        }
                    }
                    block += size;
                }
            }
        }
        if self.mode == SinkMode::PreActivation {
            add_lanes(simd, sum, &mut self.sums[first..first + count]);
            add_lanes(
                simd,
                product,
                &mut self.sums[channels + first..channels + first + count],
            );
        }
    }
}

/// A plane of output gradients with zeros around it.
struct GradientPlane<'a> {
    values: &'a [f32],
    width: usize,
    margin: usize,
}

impl GradientPlane<'_> {
    /// Pointer to output `(y, x)`.
    #[inline(always)]
    unsafe fn pointer<S: Simd>(&self, y: usize, x: usize) -> *const f32 {
        // SAFETY: the caller's: the output lies in the plane.
        unsafe { self.raw::<S>(y + self.margin, x + self.margin) }
    }

    /// Pointer to a position counted from the corner of the margin.
    #[inline(always)]
    unsafe fn raw<S: Simd>(&self, y: usize, x: usize) -> *const f32 {
        debug_assert!((y * self.width + x + 1) * S::LANES <= self.values.len());
        // SAFETY: the caller's.
        unsafe { self.values.as_ptr().add((y * self.width + x) * S::LANES) }
    }
}
