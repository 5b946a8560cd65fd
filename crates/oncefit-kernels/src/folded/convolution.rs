//! Convolutions and linear layers in inference.
//!
//! Rows of the product are pixels of the source, read in place, or windows in a band of padded rows.

use std::ops::Range;

use super::product::{Finish, Product, Runs, Starts, Target, multiply_finish, tile_rows};
use super::{Pixels, lanes, parts};
use crate::convolution::PackedWeight;
use crate::cpu::{Cpu, Kernel};
use crate::parallel::{Parts, chunk_range, for_each_chunk};
use crate::scratch::{Panels, Scratch};
use crate::simd::Simd;
use crate::types::{Activation, ConvWeight, Shape, Source, Window};

/// A convolution or linear layer that is ready to run.
#[derive(Clone, PartialEq, Debug)]
pub struct FoldedConvolution {
    pub(super) window: Window,
    pub(super) in_channels: usize,
    pub(super) out_channels: usize,
    pub(super) lanes: usize,
    pub(super) weight: PackedWeight,
    /// Of whole panels.
    pub(super) bias: Panels,
    pub(super) activation: Activation,
}

impl FoldedConvolution {
    /// Lays a weight, possibly a slice of a larger one, out for `cpu`.
    ///
    /// # Panics
    /// If weight or bias are too short for their sizes.
    pub fn new(
        cpu: Cpu,
        weight: ConvWeight,
        window: Window,
        in_channels: usize,
        out_channels: usize,
        bias: Option<&[f32]>,
        activation: Activation,
    ) -> Self {
        assert!(
            window.kernel % 2 == 1 && window.stride > 0 && in_channels > 0 && out_channels > 0,
            "folded convolution: {window:?}, {in_channels} to {out_channels} channels"
        );
        let lanes = lanes(cpu);
        Self {
            window,
            in_channels,
            out_channels,
            lanes,
            weight: PackedWeight::new(cpu, weight, window.kernel, in_channels, out_channels),
            bias: padded(bias, out_channels, lanes),
            activation,
        }
    }

    /// Shape of what it makes.
    pub fn output_shape(&self, input: Shape) -> Shape {
        self.window.output_shape(input, self.out_channels)
    }

    /// Whether it reads each pixel by itself.
    pub fn is_pointwise(&self) -> bool {
        self.window.kernel == 1 && self.window.stride == 1
    }

    /// What is applied to its sums.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Applies another activation to its sums.
    pub fn set_activation(&mut self, activation: Activation) {
        self.activation = activation;
    }

    /// Multiply-adds for an output value.
    pub(super) fn depth(&self) -> usize {
        self.window.kernel * self.window.kernel * self.in_channels
    }

    /// Values between panels.
    pub(super) fn panel(&self) -> usize {
        self.depth() * self.lanes
    }

    /// All output channels of some rows.
    pub(super) fn product<'a>(
        &'a self,
        a: &'a [f32],
        starts: Starts<'a>,
        rows: usize,
        runs: Runs,
        addend: Option<&'a [f32]>,
    ) -> Product<'a> {
        Product {
            a,
            starts,
            rows,
            runs,
            b: self.weight.panels(),
            panel: self.panel(),
            bias: &self.bias,
            n: self.out_channels,
            is_first: true,
            finish: Some(Finish {
                activation: self.activation,
                addend,
            }),
        }
    }

    pub(super) fn check(&self, cpu: Cpu, source: &Source) {
        source.check();
        assert!(
            self.lanes == lanes(cpu) && self.in_channels == source.shape.channels,
            "folded convolution: of {} channels for vectors of {}, given {:?}",
            self.in_channels,
            self.lanes,
            source.shape
        );
    }
}

/// A vector of values for each channel, filled up with zeros to whole panels.
pub(super) fn padded(values: Option<&[f32]>, channels: usize, lanes: usize) -> Panels {
    let mut panels = Panels::zeros(channels.div_ceil(lanes) * lanes);
    if let Some(values) = values {
        panels[..channels].copy_from_slice(&values[..channels]);
    }
    panels
}

/// `output = act(convolution(value(source), weight) + bias + addend)`
pub fn folded_convolution(
    cpu: Cpu,
    source: Source,
    layer: &FoldedConvolution,
    addend: Option<&[f32]>,
    output: &mut [f32],
) {
    layer.check(cpu, &source);
    let shape = layer.output_shape(source.shape);
    assert_eq!(output.len(), shape.len(), "folded convolution: output");
    assert!(
        addend.is_none_or(|addend| addend.len() == shape.len()),
        "folded convolution: addend"
    );
    // Rows of the output: pixels, or rows of pixels.
    let width = if layer.is_pointwise() { 1 } else { shape.width };
    let (rows, panels) = (
        shape.rows() / width,
        layer.out_channels.div_ceil(layer.lanes),
    );
    let weight = layer.depth() * layer.out_channels;
    let tensors = shape.rows() * (layer.depth() + layer.out_channels);
    let by_columns = weight > 1 << 16 && weight > 2 * tensors;
    let chunks = match by_columns {
        true => parts(panels, 2),
        false => parts(rows, PART_PIXELS.div_ceil(width)),
    };
    let length = output.len();
    let output = Parts::new(output);
    for_each_chunk(chunks, 2 * shape.rows() * weight, |chunk| {
        let (rows, panels) = match by_columns {
            true => (0..rows, chunk_range(panels, chunks, chunk)),
            false => (chunk_range(rows, chunks, chunk), 0..panels),
        };
        cpu.run(Part {
            cpu,
            source,
            layer,
            addend,
            shape,
            rows,
            panels,
            output: &output,
            length,
        });
    });
}

/// Pixels of a part at least.
const PART_PIXELS: usize = 48;

struct Part<'a> {
    cpu: Cpu,
    source: Source<'a>,
    layer: &'a FoldedConvolution,
    addend: Option<&'a [f32]>,
    shape: Shape,
    /// Of pixels where the layer is pointwise, else rows of the output counted through all images.
    rows: Range<usize>,
    panels: Range<usize>,
    output: &'a Parts<'a, f32>,
    length: usize,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (layer, source) = (self.layer, self.source);
        let (depth, n) = (layer.depth(), layer.out_channels);
        let mut pixels = Pixels::new(simd, source);
        let mut start = self.rows.start;
        if layer.is_pointwise() {
            let tile = match source.is_plain() {
                true => self.rows.len(),
                false => tile_rows(depth, n),
            };
            while start < self.rows.end {
                let end = self.rows.end.min(start + tile);
                let a = pixels.load(simd, start..end);
                let rows = (a, Starts::Every(depth), end - start);
                self.multiply(S::LANES, start, rows, Runs::one(depth));
                start = end;
            }
            return;
        }
        let (window, input) = (layer.window, source.shape);
        let width = self.shape.width;
        let values = match depth * n > 1 << 17 {
            true => 196_608,
            false => BAND_VALUES,
        };
        let pixel = input.channels * window.stride * window.stride + n;
        let band = ((values / pixel).clamp(48, 960) / width).max(1);
        while start < self.rows.end {
            let end = self.rows.end.min(start + band);
            let padded = PaddedRows::new(simd, &mut pixels, input, window, self.shape, start..end);
            let windows = &padded.windows;
            let rows = (&padded.values[..], Starts::At(windows), windows.len());
            self.multiply(S::LANES, start * width, rows, padded.runs);
            start = end;
        }
    }
}

/// Values that a band of padded rows and what is made from it have, about.
const BAND_VALUES: usize = 32_768;

impl Part<'_> {
    /// Rows that make the pixels of the output from `first` on; of them, the part's columns.
    fn multiply(
        &self,
        lanes: usize,
        first: usize,
        (a, starts, rows): (&[f32], Starts, usize),
        runs: Runs,
    ) {
        let (layer, n) = (self.layer, self.layer.out_channels);
        let column = self.panels.start * lanes;
        let start = first * n + column;
        let addend = self.addend.map(|addend| &addend[start..]);
        let product = Product {
            b: &layer.weight.panels()[self.panels.start * layer.panel()..],
            bias: &layer.bias[column..],
            n: n.min(self.panels.end * lanes) - column,
            ..layer.product(a, starts, rows, runs, addend)
        };
        // SAFETY: chunks write disjoint rows or columns of the output.
        let target = unsafe {
            let values = self.output.pointer(start);
            Target::new(values, self.length - start, Starts::Every(n), lanes)
        };
        multiply_finish(self.cpu, &product, &target);
    }
}

/// The rows of a source under a band of output rows, with zeros around each image.
pub(super) struct PaddedRows {
    pub values: Scratch,
    /// Where the window of each output pixel begins.
    pub windows: Vec<u32>,
    pub runs: Runs,
}

impl PaddedRows {
    /// `rows` are rows of the output, counted through all images.
    #[inline(always)]
    pub fn new<S: Simd>(
        simd: S,
        pixels: &mut Pixels,
        input: Shape,
        window: Window,
        output: Shape,
        rows: Range<usize>,
    ) -> Self {
        let (padding, channels) = (window.padding(), input.channels);
        let row = (input.width + 2 * padding) * channels;
        let images = rows.start / output.height..(rows.end - 1) / output.height + 1;
        let part = |image: usize| {
            let first = image * output.height;
            rows.start.max(first) - first..rows.end.min(first + output.height) - first
        };
        let heights = images
            .clone()
            .map(|image| (part(image).len() - 1) * window.stride + window.kernel);
        let mut values = Scratch::take(heights.sum::<usize>() * row);
        let mut windows = Vec::with_capacity(rows.len() * output.width);
        let mut at = 0;
        for image in images {
            let part = part(image);
            let top = at;
            for y in part.start * window.stride..(part.end - 1) * window.stride + window.kernel {
                let to = &mut values[at..at + row];
                at += row;
                if y < padding || y - padding >= input.height {
                    to.fill(0.0);
                    continue;
                }
                let inside = padding * channels..(padding + input.width) * channels;
                to[..inside.start].fill(0.0);
                to[inside.end..].fill(0.0);
                let first = (image * input.height + y - padding) * input.width;
                pixels.copy(simd, first..first + input.width, &mut to[inside]);
            }
            for y in 0..part.len() {
                let first = top + y * window.stride * row;
                let step = window.stride * channels;
                windows.extend((0..output.width).map(|x| (first + x * step) as u32));
            }
        }
        Self {
            values,
            windows,
            runs: Runs {
                count: window.kernel,
                length: window.kernel * channels,
                step: row,
            },
        }
    }
}
