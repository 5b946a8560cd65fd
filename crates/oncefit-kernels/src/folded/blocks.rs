//! Blocks as one operation: the layers inside run over what fits the cache.
//!
//! ```text
//! inverted residual   1×1 expansion, depthwise k×k, (gate,) 1×1 projection (+ addend)
//! bottleneck          1×1, k×k, 1×1 (+ addend)
//! ```
//!
//! An expansion writes its channels where the depthwise convolution reads them, some planes at a time.
//! Without a gate, a band of rows goes through the projection at once, and the wide tensor never goes to
//! memory; with one, [`expanded_depthwise`] stores it once and takes its means on the way, and the
//! projection is a layer of its own. Rows that the next band reads again are kept, not computed again.

use std::ops::Range;

use super::convolution::FoldedConvolution;
use super::depthwise::{Band, FoldedDepthwise, GROUP, ImageParts, PanelOutput, PlanePass};
use super::product::{Product, Runs, Starts, Target, multiply_finish};
use super::{Pixels, parts};
use crate::cpu::{Cpu, Kernel};
use crate::parallel::{Parts, chunk_range, for_each_chunk};
use crate::scratch::Scratch;
use crate::simd::Simd;
use crate::types::{Shape, Source};

/// The layers of an inverted residual without a gate.
#[derive(Clone, Copy, Debug)]
pub struct InvertedResidual<'a> {
    /// 1×1, stride 1.
    pub expand: &'a FoldedConvolution,
    /// Any stride.
    pub depthwise: &'a FoldedDepthwise,
    /// 1×1, stride 1.
    pub project: &'a FoldedConvolution,
}

/// The layers of a bottleneck.
#[derive(Clone, Copy, Debug)]
pub struct Bottleneck<'a> {
    /// 1×1, stride 1.
    pub reduce: &'a FoldedConvolution,
    /// k×k, any stride.
    pub spatial: &'a FoldedConvolution,
    /// 1×1, stride 1.
    pub restore: &'a FoldedConvolution,
}

/// `output = depthwise(expand(value(source)))`; `means`, `images × channels`, receive the mean of each
/// channel of the output.
pub fn expanded_depthwise(
    cpu: Cpu,
    source: Source,
    expand: &FoldedConvolution,
    depthwise: &FoldedDepthwise,
    output: &mut [f32],
    means: Option<&mut [f32]>,
) {
    expand.check(cpu, &source);
    assert!(expand.is_pointwise(), "expanded depthwise: 1×1, stride 1");
    depthwise.check(cpu, expand.out_channels);
    let parts = ImageParts::new(depthwise, source.shape, output, means);
    parts.run(|image, panels, output, means| {
        cpu.run(Expanded {
            cpu,
            source,
            expand,
            depthwise,
            image,
            panels,
            output,
            means,
        });
    });
}

struct Expanded<'a> {
    cpu: Cpu,
    source: Source<'a>,
    expand: &'a FoldedConvolution,
    depthwise: &'a FoldedDepthwise,
    image: usize,
    panels: Range<usize>,
    output: PanelOutput,
    means: Option<&'a mut [f32]>,
}

impl Kernel for Expanded<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let shape = self.source.shape;
        let band = Band::new(self.depthwise.window, shape, S::LANES);
        let mut planes = Scratch::take(GROUP.min(self.panels.len()) * band.len);
        planes
            .chunks_exact_mut(band.len)
            .for_each(|plane| band.clear_margins(plane));
        let mut pixels = Pixels::new(simd, self.source);
        let size = shape.height * shape.width;
        let a = pixels.load(simd, self.image * size..(self.image + 1) * size);
        let mut pass = PlanePass {
            layer: self.depthwise,
            band: &band,
            output: self.output,
            first: self.panels.start,
            means: self.means,
        };
        for start in self.panels.clone().step_by(GROUP) {
            let group = start..self.panels.end.min(start + GROUP);
            fill_planes(self.cpu, self.expand, a, &band, group.clone(), &mut planes);
            for (plane, panel) in planes.chunks_exact(band.len).zip(group) {
                pass.convolve(self.cpu, plane, panel);
            }
        }
    }
}

/// Some channels of a 1×1 convolution of pixels, as the planes of a band.
fn fill_planes(
    cpu: Cpu,
    expand: &FoldedConvolution,
    a: &[f32],
    band: &Band,
    panels: Range<usize>,
    planes: &mut [f32],
) {
    let depth = expand.depth();
    let rows = band.pixels.len();
    let product = Product {
        b: &expand.weight.panels()[panels.start * expand.panel()..],
        bias: &expand.bias[panels.start * expand.lanes..],
        n: panels.len() * expand.lanes,
        ..expand.product(a, Starts::Every(depth), rows, Runs::one(depth), None)
    };
    let target = Target::of(planes, Starts::At(&band.pixels), band.len);
    multiply_finish(cpu, &product, &target);
}

/// `output = project(depthwise(expand(value(source)))) + addend`, before the activation of the projection.
pub fn inverted_residual(
    cpu: Cpu,
    source: Source,
    block: InvertedResidual,
    addend: Option<&[f32]>,
    output: &mut [f32],
) {
    let InvertedResidual {
        expand,
        depthwise,
        project,
    } = block;
    expand.check(cpu, &source);
    depthwise.check(cpu, expand.out_channels);
    assert!(
        expand.is_pointwise() && project.is_pointwise(),
        "inverted residual: 1×1 convolutions of stride 1"
    );
    assert!(
        project.in_channels == depthwise.channels && project.lanes == expand.lanes,
        "inverted residual: the projection reads {} of {} channels",
        project.in_channels,
        depthwise.channels
    );
    let shape = project.output_shape(depthwise.output_shape(source.shape));
    let taps = depthwise.window.kernel * depthwise.window.kernel;
    let hidden = expand.out_channels;
    let operations = source.shape.rows() * hidden * source.shape.channels
        + shape.rows() * hidden * (taps + shape.channels);
    let parts = RowParts::new(shape, addend, output);
    parts.run(2 * operations, |image, rows, addend, output| {
        cpu.run(InvertedRows {
            cpu,
            source,
            block,
            shape,
            image,
            rows,
            addend,
            output,
        });
    });
}

/// `output = restore(spatial(reduce(value(source)))) + addend`, before the activation of the last.
pub fn bottleneck(
    cpu: Cpu,
    source: Source,
    block: Bottleneck,
    addend: Option<&[f32]>,
    output: &mut [f32],
) {
    let Bottleneck {
        reduce,
        spatial,
        restore,
    } = block;
    reduce.check(cpu, &source);
    assert!(
        reduce.is_pointwise() && restore.is_pointwise(),
        "bottleneck: 1×1 convolutions of stride 1"
    );
    assert!(
        spatial.in_channels == reduce.out_channels
            && restore.in_channels == spatial.out_channels
            && spatial.lanes == reduce.lanes
            && restore.lanes == reduce.lanes,
        "bottleneck: layers that follow each other"
    );
    let shape = restore.output_shape(spatial.output_shape(source.shape));
    let operations = source.shape.rows() * reduce.depth() * reduce.out_channels
        + shape.rows() * spatial.out_channels * (spatial.depth() + restore.out_channels);
    let parts = RowParts::new(shape, addend, output);
    parts.run(2 * operations, |image, rows, addend, output| {
        cpu.run(BottleneckRows {
            cpu,
            source,
            block,
            shape,
            image,
            rows,
            addend,
            output,
        });
    });
}

/// Images cut into rows.
struct RowParts<'a> {
    shape: Shape,
    addend: Option<&'a [f32]>,
    output: Parts<'a, f32>,
}

impl<'a> RowParts<'a> {
    fn new(shape: Shape, addend: Option<&'a [f32]>, output: &'a mut [f32]) -> Self {
        assert_eq!(output.len(), shape.len(), "block: output");
        assert!(
            addend.is_none_or(|addend| addend.len() == shape.len()),
            "block: addend"
        );
        Self {
            shape,
            addend,
            output: Parts::new(output),
        }
    }

    /// Runs `work` for each image and some of its rows, with their addends and outputs.
    fn run(
        &self,
        operations: usize,
        work: impl Fn(usize, Range<usize>, Option<&[f32]>, &mut [f32]) + Sync,
    ) {
        /// Pixels of a part at least: at its border, rows are computed twice.
        const PIXELS: usize = 96;
        let Shape {
            images,
            height,
            width,
            channels,
        } = self.shape;
        let cuts = parts(images * height, PIXELS.div_ceil(width)).div_ceil(images);
        for_each_chunk(images * cuts, operations, |chunk| {
            let (image, cut) = (chunk / cuts, chunk % cuts);
            let rows = chunk_range(height, cuts, cut);
            if rows.is_empty() {
                return;
            }
            let row = width * channels;
            let start = image * height * row;
            let values = start + rows.start * row..start + rows.end * row;
            let addend = self.addend.map(|addend| &addend[values.clone()]);
            // SAFETY: chunks are disjoint rows.
            let output = unsafe { self.output.part(values) };
            work(image, rows, addend, output);
        });
    }
}

/// Values of a band's working memory, about: a part of a second-level cache.
const BAND_VALUES: usize = 49_152;
/// Planes of a group that is projected at once.
const PROJECTED: usize = 6;

struct InvertedRows<'a> {
    cpu: Cpu,
    source: Source<'a>,
    block: InvertedResidual<'a>,
    shape: Shape,
    image: usize,
    rows: Range<usize>,
    addend: Option<&'a [f32]>,
    output: &'a mut [f32],
}

impl Kernel for InvertedRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let InvertedResidual {
            expand,
            depthwise,
            project,
        } = self.block;
        let (window, input) = (depthwise.window, self.source.shape);
        let (width, n) = (self.shape.width, self.shape.channels);
        let panels = depthwise.panels();
        let most = PROJECTED.min(panels);
        let padded_width = input.width + 2 * window.padding();
        let per_row = (padded_width * window.stride + width) * most * S::LANES;
        let band_rows = (BAND_VALUES / per_row).clamp(1, self.rows.len());
        let padded_rows = (band_rows - 1) * window.stride + window.kernel;
        let shared = Band::shared(window) * padded_width * S::LANES;
        let mut planes = Scratch::take(most * padded_rows * padded_width * S::LANES);
        let mut kept = Scratch::take(panels * shared);
        let mut values = Scratch::take(band_rows * width * most * S::LANES);
        let mut pixels = Pixels::new(simd, self.source);
        let mut start = self.rows.start;
        while start < self.rows.end {
            let end = self.rows.end.min(start + band_rows);
            let known = match start == self.rows.start {
                true => 0,
                false => Band::shared(window),
            };
            let band = Band::of_rows(window, input, start..end, S::LANES, known);
            planes
                .chunks_exact_mut(band.len)
                .take(most)
                .for_each(|plane| band.clear_margins(plane));
            let first = self.image * input.height * input.width;
            let rows = first + band.rows.start * input.width..first + band.rows.end * input.width;
            let a = pixels.load(simd, rows);
            let out = (start - self.rows.start) * width * n..(end - self.rows.start) * width * n;
            for first in (0..panels).step_by(most) {
                let group = first..panels.min(first + most);
                if known > 0 {
                    let kept = kept[group.start * shared..].chunks_exact(shared);
                    for (plane, kept) in planes.chunks_exact_mut(band.len).zip(kept) {
                        plane[..shared].copy_from_slice(kept);
                    }
                }
                fill_planes(self.cpu, expand, a, &band, group.clone(), &mut planes);
                let pixel = group.len() * S::LANES;
                let mut pass = PlanePass {
                    layer: depthwise,
                    band: &band,
                    output: PanelOutput {
                        length: values.len(),
                        values: values.as_mut_ptr(),
                        pixel,
                    },
                    first: group.start,
                    means: None,
                };
                for (plane, panel) in planes.chunks_exact(band.len).zip(group.clone()) {
                    pass.convolve(self.cpu, plane, panel);
                    if end < self.rows.end {
                        kept[panel * shared..(panel + 1) * shared]
                            .copy_from_slice(&plane[band.len - shared..]);
                    }
                }
                let channels = group.start * S::LANES..depthwise.channels_of(group.end - 1).end;
                let is_last = group.end == panels;
                let (rows, runs) = ((end - start) * width, Runs::one(channels.len()));
                let addend = self.addend.map(|addend| &addend[out.clone()]);
                let all = project.product(&values, Starts::Every(pixel), rows, runs, addend);
                let product = Product {
                    b: &project.weight.panels()[channels.start * S::LANES..],
                    is_first: group.start == 0,
                    finish: all.finish.filter(|_| is_last),
                    ..all
                };
                let output = &mut self.output[out.clone()];
                let target = Target::of(output, Starts::Every(n), S::LANES);
                multiply_finish(self.cpu, &product, &target);
            }
            start = end;
        }
    }
}

struct BottleneckRows<'a> {
    cpu: Cpu,
    source: Source<'a>,
    block: Bottleneck<'a>,
    shape: Shape,
    image: usize,
    rows: Range<usize>,
    addend: Option<&'a [f32]>,
    output: &'a mut [f32],
}

impl Kernel for BottleneckRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Bottleneck {
            reduce,
            spatial,
            restore,
        } = self.block;
        let (window, input) = (spatial.window, self.source.shape);
        let (width, n) = (self.shape.width, self.shape.channels);
        let (narrow, middle) = (reduce.out_channels, spatial.out_channels);
        let row = (input.width + 2 * window.padding()) * narrow;
        let per_row = row * window.stride + width * middle;
        // At least a block of pixels, whatever that takes.
        let least = 24usize.div_ceil(width);
        let band_rows = (BAND_VALUES / per_row).max(least).min(self.rows.len());
        let padded_rows = (band_rows - 1) * window.stride + window.kernel;
        let shared = Band::shared(window) * row;
        let mut padded = Scratch::take(padded_rows * row);
        let mut values = Scratch::take(band_rows * width * middle);
        let mut pixels = Pixels::new(simd, self.source);
        let mut last = 0;
        let mut start = self.rows.start;
        while start < self.rows.end {
            let end = self.rows.end.min(start + band_rows);
            let mut known = 0;
            if start > self.rows.start {
                known = Band::shared(window);
                padded.copy_within(last - shared..last, 0);
            }
            let band = Band::of_rows(window, input, start..end, narrow, known);
            last = band.len;
            band.clear_margins(&mut padded);
            let first = self.image * input.height * input.width;
            let rows = first + band.rows.start * input.width..first + band.rows.end * input.width;
            let a = pixels.load(simd, rows);
            let (every, runs) = (Starts::Every(input.channels), Runs::one(input.channels));
            let reduced = reduce.product(a, every, band.pixels.len(), runs, None);
            let target = Target::of(&mut padded, Starts::At(&band.pixels), S::LANES);
            multiply_finish(self.cpu, &reduced, &target);
            let rows = band.windows.len();
            let runs = Runs {
                count: window.kernel,
                length: window.kernel * narrow,
                step: row,
            };
            let spread = spatial.product(&padded, Starts::At(&band.windows), rows, runs, None);
            let every = Starts::Every(middle);
            let target = Target::of(&mut values, every, S::LANES);
            multiply_finish(self.cpu, &spread, &target);
            let out = (start - self.rows.start) * width * n..(end - self.rows.start) * width * n;
            let addend = self.addend.map(|addend| &addend[out.clone()]);
            let restored = restore.product(&values, every, rows, Runs::one(middle), addend);
            let target = Target::of(&mut self.output[out], Starts::Every(n), S::LANES);
            multiply_finish(self.cpu, &restored, &target);
            start = end;
        }
    }
}
