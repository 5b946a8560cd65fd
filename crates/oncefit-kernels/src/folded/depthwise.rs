//! Depthwise convolution in inference: vectors of channels as planes with zeros around them.
//!
//! A plane holds one vector of channels of some rows of an image, so that the taps of a window lie side by
//! side and have no borders. Whoever makes the channels writes them there; those of a stored tensor are
//! copied, a few planes at a time.

use std::ops::Range;

use super::convolution::padded;
use super::product::activate_all;
use super::{Pixels, lanes, parts};
use crate::cpu::{Cpu, Kernel};
use crate::parallel::{Parts, chunk_range, for_each_chunk};
use crate::scratch::{Panels, Scratch};
use crate::simd::Simd;
use crate::sums::add_lanes;
use crate::types::{Activation, Shape, Source, Window};

/// A depthwise convolution that is ready to run.
#[derive(Clone, PartialEq, Debug)]
pub struct FoldedDepthwise {
    pub(super) window: Window,
    pub(super) channels: usize,
    pub(super) lanes: usize,
    /// `[panel][tap][lane]`
    taps: Panels,
    /// Of whole panels.
    bias: Panels,
    activation: Activation,
}

impl FoldedDepthwise {
    /// Lays a weight `[tap][channel]`, `stride` values between taps, out for `cpu`.
    ///
    /// # Panics
    /// If weight or bias are too short, or the kernel is none of 1, 3, 5, 7.
    pub fn new(
        cpu: Cpu,
        (weight, stride): (&[f32], usize),
        window: Window,
        channels: usize,
        bias: Option<&[f32]>,
        activation: Activation,
    ) -> Self {
        assert!(
            matches!(window.kernel, 1 | 3 | 5 | 7) && window.stride > 0 && channels > 0,
            "folded depthwise: kernels of 1, 3, 5 and 7 are supported, this is {window:?}"
        );
        let lanes = lanes(cpu);
        let count = window.kernel * window.kernel;
        let mut taps = Panels::zeros(channels.div_ceil(lanes) * count * lanes);
        for tap in 0..count {
            let row = &weight[tap * stride..][..channels];
            for (panel, values) in row.chunks(lanes).enumerate() {
                let at = (panel * count + tap) * lanes;
                taps[at..at + values.len()].copy_from_slice(values);
            }
        }
        Self {
            window,
            channels,
            lanes,
            taps,
            bias: padded(bias, channels, lanes),
            activation,
        }
    }

    /// Shape of what it makes.
    pub fn output_shape(&self, input: Shape) -> Shape {
        self.window.output_shape(input, self.channels)
    }

    pub(super) fn panels(&self) -> usize {
        self.channels.div_ceil(self.lanes)
    }

    /// Channels of a panel.
    pub(super) fn channels_of(&self, panel: usize) -> Range<usize> {
        panel * self.lanes..self.channels.min((panel + 1) * self.lanes)
    }

    pub(super) fn check(&self, cpu: Cpu, channels: usize) {
        assert!(
            self.lanes == lanes(cpu) && self.channels == channels,
            "folded depthwise: of {} channels for vectors of {}, given {channels}",
            self.channels,
            self.lanes
        );
    }
}

/// `output = act(depthwise convolution of value(source) + bias)`; `means`, `images × channels`, receive the
/// mean of each channel of the output.
pub fn folded_depthwise(
    cpu: Cpu,
    source: Source,
    layer: &FoldedDepthwise,
    output: &mut [f32],
    means: Option<&mut [f32]>,
) {
    source.check();
    layer.check(cpu, source.shape.channels);
    let parts = ImageParts::new(layer, source.shape, output, means);
    parts.run(|image, panels, output, means| {
        cpu.run(Copied {
            cpu,
            source,
            layer,
            image,
            panels,
            output,
            means,
        });
    });
}

/// Planes that are filled before any is convolved.
pub(super) const GROUP: usize = 3;

/// Images cut into groups of channels, each with its part of what a depthwise convolution makes.
pub(super) struct ImageParts<'a> {
    layer: &'a FoldedDepthwise,
    shape: Shape,
    output: Parts<'a, f32>,
    means: Option<Parts<'a, f32>>,
}

impl<'a> ImageParts<'a> {
    pub fn new(
        layer: &'a FoldedDepthwise,
        input: Shape,
        output: &'a mut [f32],
        means: Option<&'a mut [f32]>,
    ) -> Self {
        let shape = layer.output_shape(input);
        assert_eq!(output.len(), shape.len(), "folded depthwise: output");
        if let Some(means) = &means {
            let length = shape.images * shape.channels;
            assert_eq!(means.len(), length, "folded depthwise: means");
        }
        Self {
            layer,
            shape,
            output: Parts::new(output),
            means: means.map(Parts::new),
        }
    }

    /// Runs `work` for each image and some panels, with the image's output from the first panel's first
    /// channel on, and the means of these channels.
    pub fn run(&self, work: impl Fn(usize, Range<usize>, PanelOutput, Option<&mut [f32]>) + Sync) {
        let (layer, shape) = (self.layer, self.shape);
        let panels = layer.panels();
        let groups = panels.div_ceil(GROUP);
        let cuts = parts(shape.images * groups, 1)
            .div_ceil(shape.images)
            .min(groups);
        let taps = layer.window.kernel * layer.window.kernel;
        for_each_chunk(shape.images * cuts, 2 * shape.len() * taps, |chunk| {
            let (image, cut) = (chunk / cuts, chunk % cuts);
            let groups = chunk_range(groups, cuts, cut);
            let panels = groups.start * GROUP..panels.min(groups.end * GROUP);
            let first = panels.start * layer.lanes;
            let end = shape.channels.min(panels.end * layer.lanes);
            let pixels = shape.height * shape.width;
            let start = image * pixels * shape.channels + first;
            // SAFETY: chunks have disjoint channels of disjoint images.
            let (output, means) = unsafe {
                let output = PanelOutput {
                    values: self.output.pointer(start),
                    length: pixels * shape.channels - first,
                    pixel: shape.channels,
                };
                let own = image * shape.channels + first..image * shape.channels + end;
                (output, self.means.as_ref().map(|means| means.part(own)))
            };
            work(image, panels, output, means);
        });
    }
}

/// Where planes go: pixels, `pixel` values apart, from the first panel's first channel on.
pub(super) struct PanelOutput {
    pub values: *mut f32,
    pub length: usize,
    pub pixel: usize,
}

struct Copied<'a> {
    cpu: Cpu,
    source: Source<'a>,
    layer: &'a FoldedDepthwise,
    image: usize,
    panels: Range<usize>,
    output: PanelOutput,
    means: Option<&'a mut [f32]>,
}

impl Kernel for Copied<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (layer, shape) = (self.layer, self.source.shape);
        let band = Band::new(layer.window, shape, S::LANES);
        let mut planes = Scratch::take(GROUP.min(self.panels.len()) * band.len);
        planes
            .chunks_exact_mut(band.len)
            .for_each(|plane| band.clear_margins(plane));
        let mut pixels = Pixels::new(simd, self.source);
        let size = shape.height * shape.width;
        let values = pixels.load(simd, self.image * size..(self.image + 1) * size);
        let mut pass = PlanePass {
            layer,
            band: &band,
            output: self.output,
            first: self.panels.start,
            means: self.means,
        };
        for start in self.panels.clone().step_by(GROUP) {
            let group = start..self.panels.end.min(start + GROUP);
            for (to, panel) in planes.chunks_exact_mut(band.len).zip(group.clone()) {
                let channels = layer.channels_of(panel);
                for (from, at) in values.chunks_exact(shape.channels).zip(&band.pixels) {
                    let from = &from[channels.clone()];
                    let to = &mut to[*at as usize..][..S::LANES];
                    // SAFETY: both hold these values.
                    unsafe {
                        let vector = simd.load_some(from.as_ptr(), from.len());
                        simd.store(to.as_mut_ptr(), vector);
                    }
                }
            }
            for (plane, panel) in planes.chunks_exact(band.len).zip(group) {
                pass.convolve(self.cpu, plane, panel);
            }
        }
    }
}

/// Rows of the output of an image, and where its pixels lie in the padded rows that they read.
pub(super) struct Band {
    /// Rows of the input that are to be filled.
    pub rows: Range<usize>,
    /// Where each pixel of these rows lies.
    pub pixels: Vec<u32>,
    /// Where the window of each output begins.
    pub windows: Vec<u32>,
    /// Values of a padded row.
    pub row: usize,
    /// Values of all padded rows.
    pub len: usize,
    /// Padded rows at the top that are known from the band before.
    pub known: usize,
    /// Values of the margins of a row.
    margin: usize,
}

impl Band {
    /// All rows of an image; `pitch` values between pixels.
    pub fn new(window: Window, input: Shape, pitch: usize) -> Self {
        Self::of_rows(window, input, 0..window.outputs(input.height), pitch, 0)
    }

    /// Some rows of the output.
    pub fn of_rows(
        window: Window,
        input: Shape,
        rows: Range<usize>,
        pitch: usize,
        known: usize,
    ) -> Self {
        let Window { kernel, stride } = window;
        let padding = window.padding();
        let (width, padded_width) = (window.outputs(input.width), input.width + 2 * padding);
        // Rows of the padded image.
        let padded = rows.start * stride..(rows.end - 1) * stride + kernel;
        let end = padded.end.min(padding + input.height) - padding;
        let start = (padded.start + known).max(padding) - padding;
        let inside = start.min(end)..end;
        let row = padded_width * pitch;
        let place = move |y: usize, x: usize| (y * row + x * pitch) as u32;
        let pixels = inside.clone().flat_map(|y| {
            let y = y + padding - padded.start;
            (0..input.width).map(move |x| place(y, x + padding))
        });
        let windows =
            (0..rows.len()).flat_map(|y| (0..width).map(move |x| place(y * stride, x * stride)));
        Self {
            pixels: pixels.collect(),
            windows: windows.collect(),
            row,
            len: padded.len() * row,
            known,
            margin: padding * pitch,
            rows: inside,
        }
    }

    /// Padded rows that the next band of rows has in common with this one.
    pub fn shared(window: Window) -> usize {
        window.kernel.saturating_sub(window.stride)
    }

    /// Zeros in padded rows where no pixel lies, from the known rows on.
    pub fn clear_margins(&self, values: &mut [f32]) {
        let start = match self.pixels.first() {
            Some(first) => *first as usize / self.row * self.row,
            None => self.known * self.row,
        };
        let end = start + self.rows.len() * self.row;
        values[self.known * self.row..start].fill(0.0);
        for row in values[start..end].chunks_exact_mut(self.row) {
            row[..self.margin].fill(0.0);
            row[self.row - self.margin..].fill(0.0);
        }
        values[end..self.len].fill(0.0);
    }
}

/// Convolves planes.
pub(super) struct PlanePass<'a> {
    pub layer: &'a FoldedDepthwise,
    pub band: &'a Band,
    pub output: PanelOutput,
    /// The panel where the output begins.
    pub first: usize,
    /// From the first panel's first channel on.
    pub means: Option<&'a mut [f32]>,
}

struct Convolution<'p, 'a> {
    pass: &'p mut PlanePass<'a>,
    plane: &'p [f32],
    panel: usize,
}

impl Kernel for Convolution<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { pass, plane, panel } = self;
        match pass.layer.window.kernel {
            1 => pass.panel::<S, 1>(simd, plane, panel),
            3 => pass.panel::<S, 3>(simd, plane, panel),
            5 => pass.panel::<S, 5>(simd, plane, panel),
            _ => pass.panel::<S, 7>(simd, plane, panel),
        }
    }
}

/// Outputs that are computed together.
const BLOCK: usize = 8;

impl PlanePass<'_> {
    /// The outputs of a panel's channels. It is compiled once for each instruction set, whoever calls it.
    pub fn convolve(&mut self, cpu: Cpu, plane: &[f32], panel: usize) {
        cpu.run(Convolution {
            pass: self,
            plane,
            panel,
        });
    }

    #[inline(always)]
    fn panel<S: Simd, const K: usize>(&mut self, simd: S, plane: &[f32], panel: usize) {
        /// Blocks whose sum is taken in f32.
        const SUMMED: usize = 16;
        let (layer, band) = (self.layer, self.band);
        let outputs = band.windows.len();
        let channels = layer.channels_of(panel);
        let first = channels.start - self.first * S::LANES;
        let taps = &layer.taps[panel * K * K * S::LANES..][..K * K * S::LANES];
        let bias = &layer.bias[panel * S::LANES..][..S::LANES];
        assert_eq!(plane.len(), band.len, "folded depthwise: plane");
        assert!(
            self.output.length >= (outputs - 1) * self.output.pixel + first + channels.len(),
            "folded depthwise: output of a panel"
        );
        let mut total = [0.0f64; 16];
        let mut sum = simd.zero();
        for (index, windows) in band.windows.chunks(BLOCK).enumerate() {
            let mut from = [plane.as_ptr(); BLOCK];
            for (offset, from) in from.iter_mut().enumerate() {
                let window = windows[offset.min(windows.len() - 1)] as usize;
                *from = from.wrapping_add(window);
            }
            // SAFETY: the windows of the band's outputs lie in the plane, and the outputs that are stored in
            // the output, as checked.
            unsafe {
                let mut values = [simd.load(bias.as_ptr()); BLOCK];
                for y in 0..K {
                    for x in 0..K {
                        let tap = simd.load(taps.as_ptr().add((y * K + x) * S::LANES));
                        for (value, from) in values.iter_mut().zip(&from) {
                            let from = simd.load(from.add(y * band.row + x * S::LANES));
                            *value = simd.fma(from, tap, *value);
                        }
                    }
                }
                activate_all(simd, layer.activation, &mut values);
                let start = index * BLOCK;
                for (offset, value) in values.into_iter().enumerate() {
                    // No `take`: the loop must be unrolled to stay in registers.
                    if offset < windows.len() {
                        let at = (start + offset) * self.output.pixel + first;
                        let to = self.output.values.add(at);
                        simd.store_some(to, channels.len(), value);
                        sum = simd.add(sum, value);
                    }
                }
            }
            if self.means.is_some() && (index + 1).is_multiple_of(SUMMED) {
                add_lanes(simd, sum, &mut total);
                sum = simd.zero();
            }
        }
        if let Some(means) = &mut self.means {
            add_lanes(simd, sum, &mut total);
            let means = &mut means[first..first + channels.len()];
            for (mean, total) in means.iter_mut().zip(total) {
                *mean = (total / outputs as f64) as f32;
            }
        }
    }
}
