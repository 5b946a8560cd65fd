//! Maximum and average over windows.
//!
//! ```text
//! max:      y = max v        dv[argmax] += dy
//! average:  y = Σ v / count  dv += dy / count
//! ```
//!
//! `v` is the source's value; pixels outside the image never win a maximum and add 0 to an
//! average, whose `count` is the window's size or only the pixels inside.

use std::ops::Range;

use crate::cpu::{Cpu, Kernel};
use crate::parallel::{Parts, for_each_chunk};
use crate::rows::Prologue;
use crate::scratch::Scratch;
use crate::simd::Simd;
use crate::types::{Shape, Source};

/// Windows of a pooling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolWindow {
    /// Pixels on a side.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
    /// Pixels added on each side, at most half the kernel.
    pub padding: usize,
    /// Whether a last window that reaches beyond the padded image counts; it begins inside the
    /// image or the padding before it.
    pub ceil: bool,
}

impl PoolWindow {
    /// Number of outputs along an axis of `size` pixels; without `ceil`, windows lie wholly in the
    /// padded image.
    pub fn outputs(self, size: usize) -> usize {
        let room = (size + 2 * self.padding + self.stride).saturating_sub(self.kernel);
        if !self.ceil {
            return room / self.stride;
        }
        let outputs = room.div_ceil(self.stride);
        match outputs.saturating_sub(1) * self.stride >= size + self.padding {
            true => outputs.saturating_sub(1),
            false => outputs,
        }
    }

    /// Shape of the output.
    pub fn output_shape(self, input: Shape) -> Shape {
        Shape {
            height: self.outputs(input.height),
            width: self.outputs(input.width),
            ..input
        }
    }

    /// Input coordinates under output `index` of an axis.
    pub(crate) fn inside(self, index: usize, size: usize) -> Range<usize> {
        let start = index * self.stride;
        start.saturating_sub(self.padding)..(start + self.kernel - self.padding).min(size)
    }

    fn check(self) {
        assert!(
            self.kernel > 0 && self.stride > 0 && 2 * self.padding <= self.kernel,
            "pool: a padding of at most half the kernel and a stride above 0, this is {self:?}"
        );
    }
}

/// `output` = the largest value under each window, `positions` = the pixel of its image that holds
/// it (the first of several), one for each output.
pub fn max_pool(
    cpu: Cpu,
    source: Source,
    window: PoolWindow,
    output: &mut [f32],
    positions: &mut [u32],
) {
    source.check();
    window.check();
    let shape = window.output_shape(source.shape);
    assert_eq!(output.len(), shape.len(), "max_pool: output");
    assert_eq!(positions.len(), shape.len(), "max_pool: positions");
    let length = shape.len() / shape.images.max(1);
    let (outputs, all) = (Parts::new(output), Parts::new(positions));
    for_each_chunk(shape.images, operations(shape, window), |image| {
        let range = image * length..(image + 1) * length;
        // SAFETY: images are disjoint.
        let (output, positions) = unsafe { (outputs.part(range.clone()), all.part(range)) };
        cpu.run(MaxImage {
            source,
            window,
            image,
            output,
            positions,
        });
    });
}

/// Adds the gradient of each output to the value that won, after clearing `input` unless `adds`.
pub fn max_pool_backward(
    _cpu: Cpu,
    positions: &[u32],
    gradient: &[f32],
    window: PoolWindow,
    shape: Shape,
    input: &mut [f32],
    adds: bool,
) {
    window.check();
    let output = window.output_shape(shape);
    assert_eq!(gradient.len(), output.len(), "max_pool_backward: gradient");
    assert_eq!(
        positions.len(),
        output.len(),
        "max_pool_backward: positions"
    );
    assert_eq!(
        input.len(),
        shape.len(),
        "max_pool_backward: input gradient"
    );
    let length = output.len() / shape.images.max(1);
    let input_len = shape.len() / shape.images.max(1);
    let inputs = Parts::new(input);
    for_each_chunk(shape.images, 2 * output.len(), |image| {
        // SAFETY: images are disjoint.
        let input = unsafe { inputs.part(image * input_len..(image + 1) * input_len) };
        if !adds {
            input.fill(0.0);
        }
        let range = image * length..(image + 1) * length;
        let values = gradient[range.clone()].iter().zip(&positions[range]);
        for (index, (gradient, pixel)) in values.enumerate() {
            input[*pixel as usize * shape.channels + index % shape.channels] += gradient;
        }
    });
}

/// `output` = the mean of the values under each window; `counts_padding` says whether pixels
/// outside the image count.
pub fn average_pool(
    cpu: Cpu,
    source: Source,
    window: PoolWindow,
    counts_padding: bool,
    output: &mut [f32],
) {
    source.check();
    window.check();
    let shape = window.output_shape(source.shape);
    assert_eq!(output.len(), shape.len(), "average_pool: output");
    let length = shape.len() / shape.images.max(1);
    let outputs = Parts::new(output);
    for_each_chunk(shape.images, operations(shape, window), |image| {
        // SAFETY: images are disjoint.
        let output = unsafe { outputs.part(image * length..(image + 1) * length) };
        cpu.run(AverageImage {
            source,
            window,
            counts_padding,
            image,
            output,
        });
    });
}

/// Spreads the gradient of each output over its window, after clearing `input` unless `adds`.
pub fn average_pool_backward(
    cpu: Cpu,
    gradient: &[f32],
    window: PoolWindow,
    counts_padding: bool,
    shape: Shape,
    input: &mut [f32],
    adds: bool,
) {
    window.check();
    let output = window.output_shape(shape);
    assert_eq!(
        gradient.len(),
        output.len(),
        "average_pool_backward: gradient"
    );
    assert_eq!(
        input.len(),
        shape.len(),
        "average_pool_backward: input gradient"
    );
    let length = output.len() / shape.images.max(1);
    let input_len = shape.len() / shape.images.max(1);
    let inputs = Parts::new(input);
    for_each_chunk(shape.images, operations(output, window), |image| {
        // SAFETY: images are disjoint.
        let input = unsafe { inputs.part(image * input_len..(image + 1) * input_len) };
        if !adds {
            input.fill(0.0);
        }
        let gradient = &gradient[image * length..(image + 1) * length];
        cpu.run(SpreadImage {
            gradient,
            window,
            counts_padding,
            shape,
            input,
        });
    });
}

fn operations(output: Shape, window: PoolWindow) -> usize {
    output.len() * window.kernel * window.kernel
}

/// Each output pixel, and the input pixels under its window.
fn windows(
    window: PoolWindow,
    input: Shape,
) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> {
    let output = window.output_shape(input);
    (0..output.height * output.width).map(move |pixel| {
        let rows = window.inside(pixel / output.width, input.height);
        let columns = window.inside(pixel % output.width, input.width);
        (pixel, rows, columns)
    })
}

/// Reads the values of an image.
#[inline(always)]
fn load_image<S: Simd>(simd: S, source: Source, image: usize) -> Scratch {
    let pixels = source.shape.height * source.shape.width;
    let mut values = Scratch::take(pixels * source.shape.channels);
    Prologue::new(simd, source).load(simd, image * pixels..(image + 1) * pixels, &mut values);
    values
}

struct MaxImage<'a> {
    source: Source<'a>,
    window: PoolWindow,
    image: usize,
    output: &'a mut [f32],
    positions: &'a mut [u32],
}

impl Kernel for MaxImage<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let shape = self.source.shape;
        let values = load_image(simd, self.source, self.image);
        for (pixel, rows, columns) in windows(self.window, shape) {
            let range = pixel * shape.channels..(pixel + 1) * shape.channels;
            let (best, positions) = (&mut self.output[range.clone()], &mut self.positions[range]);
            let first = rows.start * shape.width + columns.start;
            best.copy_from_slice(&values[first * shape.channels..][..shape.channels]);
            positions.fill(first as u32);
            for y in rows {
                for at in y * shape.width + columns.start..y * shape.width + columns.end {
                    let values = &values[at * shape.channels..][..shape.channels];
                    for ((best, position), value) in
                        best.iter_mut().zip(positions.iter_mut()).zip(values)
                    {
                        if *value > *best {
                            *best = *value;
                            *position = at as u32;
                        }
                    }
                }
            }
        }
    }
}

/// One over the number of pixels that an average counts.
fn factor(window: PoolWindow, counts_padding: bool, inside: usize) -> f32 {
    let count = if counts_padding {
        window.kernel * window.kernel
    } else {
        inside
    };
    1.0 / count as f32
}

struct AverageImage<'a> {
    source: Source<'a>,
    window: PoolWindow,
    counts_padding: bool,
    image: usize,
    output: &'a mut [f32],
}

impl Kernel for AverageImage<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let shape = self.source.shape;
        let values = load_image(simd, self.source, self.image);
        for (pixel, rows, columns) in windows(self.window, shape) {
            let factor = factor(self.window, self.counts_padding, rows.len() * columns.len());
            let output = &mut self.output[pixel * shape.channels..][..shape.channels];
            output.fill(0.0);
            for y in rows {
                for at in y * shape.width + columns.start..y * shape.width + columns.end {
                    let values = &values[at * shape.channels..][..shape.channels];
                    output
                        .iter_mut()
                        .zip(values)
                        .for_each(|(sum, value)| *sum += value);
                }
            }
            output.iter_mut().for_each(|sum| *sum *= factor);
        }
    }
}

struct SpreadImage<'a> {
    gradient: &'a [f32],
    window: PoolWindow,
    counts_padding: bool,
    shape: Shape,
    input: &'a mut [f32],
}

impl Kernel for SpreadImage<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let shape = self.shape;
        for (pixel, rows, columns) in windows(self.window, shape) {
            let factor = factor(self.window, self.counts_padding, rows.len() * columns.len());
            let gradient = &self.gradient[pixel * shape.channels..][..shape.channels];
            for y in rows {
                for at in y * shape.width + columns.start..y * shape.width + columns.end {
                    let input = &mut self.input[at * shape.channels..][..shape.channels];
                    let pairs = input.iter_mut().zip(gradient);
                    pairs.for_each(|(sum, gradient)| *sum += factor * gradient);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    const SHAPE: Shape = Shape {
        images: 2,
        height: 5,
        width: 4,
        channels: 19,
    };
    const WINDOWS: [PoolWindow; 6] = [
        PoolWindow {
            kernel: 2,
            stride: 2,
            padding: 0,
            ceil: false,
        },
        PoolWindow {
            kernel: 3,
            stride: 2,
            padding: 1,
            ceil: false,
        },
        PoolWindow {
            kernel: 3,
            stride: 1,
            padding: 1,
            ceil: false,
        },
        PoolWindow {
            kernel: 2,
            stride: 1,
            padding: 1,
            ceil: false,
        },
        PoolWindow {
            kernel: 2,
            stride: 2,
            padding: 0,
            ceil: true,
        },
        PoolWindow {
            kernel: 3,
            stride: 2,
            padding: 1,
            ceil: true,
        },
    ];

    /// Values that differ by at least 0.01.
    fn distinct(count: usize, factor: usize) -> Vec<f32> {
        (0..count)
            .map(|index| (index * factor % 1009) as f32 * 0.01 - 5.0)
            .collect()
    }

    /// Loss `Σ weight · pool(x)` in f64.
    fn loss(x: &[f32], weights: &[f32], window: PoolWindow, average: Option<bool>) -> f64 {
        let x: Vec<f64> = x.iter().map(|value| f64::from(*value)).collect();
        let values = reference::pool(&x, SHAPE, window, average);
        let weighted = values.iter().zip(weights);
        weighted
            .map(|(value, weight)| value * f64::from(*weight))
            .sum()
    }

    #[test]
    fn values_and_gradients_are_those_of_plain_loops() {
        let x = distinct(SHAPE.len(), 389);
        let source = Source::plain(&x, SHAPE);
        for window in WINDOWS {
            let length = window.output_shape(SHAPE).len();
            let weights: Vec<f32> = (0..length)
                .map(|index| (index as f32 * 0.7).sin())
                .collect();
            for average in [None, Some(true), Some(false)] {
                for cpu in Cpu::available() {
                    let (mut output, mut input) = (vec![9.0; length], vec![1.0; SHAPE.len()]);
                    match average {
                        None => {
                            let mut at = vec![0; length];
                            max_pool(cpu, source, window, &mut output, &mut at);
                            max_pool_backward(cpu, &at, &weights, window, SHAPE, &mut input, true);
                        }
                        Some(counts) => {
                            average_pool(cpu, source, window, counts, &mut output);
                            average_pool_backward(
                                cpu, &weights, window, counts, SHAPE, &mut input, true,
                            );
                        }
                    }
                    let pairs = output.iter().zip(&weights);
                    let found: f64 = pairs.map(|(y, w)| f64::from(*y) * f64::from(*w)).sum();
                    let expected = loss(&x, &weights, window, average);
                    assert!(
                        (found - expected).abs() < 1e-3,
                        "{window:?}: {found} {expected}"
                    );
                    for index in (0..SHAPE.len()).step_by(37) {
                        let at = |by: f32| {
                            let mut moved = x.clone();
                            moved[index] += by;
                            loss(&moved, &weights, window, average)
                        };
                        let expected = 1.0 + (at(0.004) - at(-0.004)) / 0.008;
                        let found = f64::from(input[index]);
                        assert!((found - expected).abs() < 1e-3, "{window:?} [{index}]");
                    }
                }
            }
        }
    }

    #[test]
    fn a_last_partial_window_counts_if_asked() {
        let outputs = |size, kernel, stride, padding, ceil| {
            let window = PoolWindow {
                kernel,
                stride,
                padding,
                ceil,
            };
            window.outputs(size)
        };
        assert_eq!(
            (outputs(5, 2, 2, 0, false), outputs(5, 2, 2, 0, true)),
            (2, 3)
        );
        assert_eq!(
            (outputs(4, 2, 2, 0, false), outputs(4, 2, 2, 0, true)),
            (2, 2)
        );
        assert_eq!(
            (outputs(7, 3, 2, 1, false), outputs(7, 3, 2, 1, true)),
            (4, 4)
        );
        // A window that begins in the trailing padding does not count.
        assert_eq!(outputs(2, 2, 2, 1, true), 2);
        assert_eq!(outputs(3, 2, 3, 1, true), 2);
    }
}
