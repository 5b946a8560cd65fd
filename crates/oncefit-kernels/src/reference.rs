//! Plain loops in f64: what each kernel must compute. For tests of this crate and of those above.

use crate::types::{Activation, Shape, Source, Window};

/// `act(x)`.
pub fn activate(activation: Activation, x: f64) -> f64 {
    let relu6 = |x: f64| x.clamp(0.0, 6.0);
    match activation {
        Activation::Identity => x,
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => relu6(x),
        Activation::HardSwish => x * relu6(x + 3.0) / 6.0,
        Activation::HardSigmoid => relu6(x + 3.0) / 6.0,
    }
}

/// Every value of a source as its consumer reads it.
pub fn load(source: &Source) -> Vec<f64> {
    let Shape {
        height,
        width,
        channels,
        ..
    } = source.shape;
    source
        .data
        .iter()
        .enumerate()
        .map(|(index, x)| {
            let channel = index % channels;
            let x = f64::from(*x);
            let z = source.affine.map_or(x, |affine| {
                x * f64::from(affine.scale[channel]) + f64::from(affine.shift[channel])
            });
            let image = index / (height * width * channels);
            let gate = source
                .gate
                .map_or(1.0, |gate| f64::from(gate[image * channels + channel]));
            activate(source.activation, z) * gate
        })
        .collect()
}

/// The input pixel under a tap of an output pixel, if it lies in the image.
fn input_at(
    shape: Shape,
    window: Window,
    y: usize,
    x: usize,
    tap: usize,
) -> Option<(usize, usize)> {
    let padding = window.kernel / 2;
    let y = (y * window.stride + tap / window.kernel).checked_sub(padding)?;
    let x = (x * window.stride + tap % window.kernel).checked_sub(padding)?;
    (y < shape.height && x < shape.width).then_some((y, x))
}

/// Dense convolution of `input` with a compact `weight` `[out][tap][in]`.
pub fn convolution(
    input: &[f64],
    shape: Shape,
    window: Window,
    weight: &[f64],
    out_channels: usize,
    bias: &[f64],
) -> Vec<f64> {
    let output = window.output_shape(shape, out_channels);
    let taps = window.kernel * window.kernel;
    let mut values = vec![0.0; output.len()];
    for (index, value) in values.iter_mut().enumerate() {
        let (pixel, out) = (index / out_channels, index % out_channels);
        let (row, x) = (pixel / output.width, pixel % output.width);
        let (image, y) = (row / output.height, row % output.height);
        *value = bias.get(out).copied().unwrap_or(0.0);
        for tap in 0..taps {
            let Some((y, x)) = input_at(shape, window, y, x, tap) else {
                continue;
            };
            for channel in 0..shape.channels {
                let at = ((image * shape.height + y) * shape.width + x) * shape.channels + channel;
                *value += input[at] * weight[(out * taps + tap) * shape.channels + channel];
            }
        }
    }
    values
}

/// Depthwise convolution of `input` with `weight` `[tap][channel]`.
pub fn depthwise(input: &[f64], shape: Shape, window: Window, weight: &[f64]) -> Vec<f64> {
    let output = window.output_shape(shape, shape.channels);
    let mut values = vec![0.0; output.len()];
    for (index, value) in values.iter_mut().enumerate() {
        let (pixel, channel) = (index / shape.channels, index % shape.channels);
        let (row, x) = (pixel / output.width, pixel % output.width);
        let (image, y) = (row / output.height, row % output.height);
        for tap in 0..window.kernel * window.kernel {
            let Some((y, x)) = input_at(shape, window, y, x, tap) else {
                continue;
            };
            let at = ((image * shape.height + y) * shape.width + x) * shape.channels + channel;
            *value += input[at] * weight[tap * shape.channels + channel];
        }
    }
    values
}

/// Mean over the pixels of each image, `images × channels`.
pub fn global_average_pool(input: &[f64], shape: Shape) -> Vec<f64> {
    let pixels = shape.height * shape.width;
    let mut values = vec![0.0; shape.images * shape.channels];
    for (index, value) in input.iter().enumerate() {
        let image = index / (pixels * shape.channels);
        values[image * shape.channels + index % shape.channels] += value / pixels as f64;
    }
    values
}
