//! Plain loops in f64: what each kernel must compute. For tests of this crate and of those above.

use crate::optimiser::{AdamStep, RmsPropStep, SgdStep};
use crate::types::{Activation, Shape, Source, Window};
use crate::window_pooling::PoolWindow;

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

/// Maximum, or average over all taps (`Some(true)`) or those inside (`Some(false)`), of windows.
pub fn pool(input: &[f64], shape: Shape, window: PoolWindow, average: Option<bool>) -> Vec<f64> {
    let output = window.output_shape(shape);
    let value = |index: usize| {
        let (pixel, channel) = (index / shape.channels, index % shape.channels);
        let (row, x) = (pixel / output.width, pixel % output.width);
        let (image, y) = (row / output.height, row % output.height);
        let mut inside = Vec::new();
        for tap in 0..window.kernel * window.kernel {
            let y = (y * window.stride + tap / window.kernel).checked_sub(window.padding);
            let x = (x * window.stride + tap % window.kernel).checked_sub(window.padding);
            if let (Some(y), Some(x)) = (y, x)
                && y < shape.height
                && x < shape.width
            {
                let pixel = (image * shape.height + y) * shape.width + x;
                inside.push(input[pixel * shape.channels + channel]);
            }
        }
        match average {
            None => inside.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            Some(true) => inside.iter().sum::<f64>() / window.kernel.pow(2) as f64,
            Some(false) => inside.iter().sum::<f64>() / inside.len() as f64,
        }
    };
    (0..output.len()).map(value).collect()
}

/// Batch-norm with the statistics of `y` itself: its values, mean and biased variance by channel.
pub fn batch_norm(
    y: &[f64],
    gamma: &[f64],
    beta: &[f64],
    epsilon: f64,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let channels = gamma.len();
    let count = (y.len() / channels) as f64;
    let (mut mean, mut variance) = (vec![0.0; channels], vec![0.0; channels]);
    for (index, y) in y.iter().enumerate() {
        mean[index % channels] += y / count;
    }
    for (index, y) in y.iter().enumerate() {
        variance[index % channels] += (y - mean[index % channels]).powi(2) / count;
    }
    let value = |(index, y): (usize, &f64)| {
        let channel = index % channels;
        let normal = (y - mean[channel]) / (variance[channel] + epsilon).sqrt();
        gamma[channel] * normal + beta[channel]
    };
    let values = y.iter().enumerate().map(value).collect();
    (values, mean, variance)
}

/// `−τ²·Σ aim·ln softmax(z/τ)`, the mean over rows; `aims` are laid out like the logits.
pub fn cross_entropy(logits: &[f64], classes: usize, aims: &[f64], temperature: f64) -> f64 {
    let rows = logits.chunks_exact(classes).zip(aims.chunks_exact(classes));
    let of_row = |(logits, aims): (&[f64], &[f64])| -> f64 {
        let sum: f64 = logits.iter().map(|z| (z / temperature).exp()).sum();
        let each = logits.iter().zip(aims);
        each.map(|(z, aim)| aim * (sum.ln() - z / temperature))
            .sum()
    };
    let rows: Vec<f64> = rows.map(of_row).collect();
    temperature * temperature * rows.iter().sum::<f64>() / rows.len() as f64
}

/// The `to`×`to` kernel made from a `from`×`from` one, `[tap][channel]`.
pub fn kernel_transform(
    kernel: &[f64],
    from: usize,
    to: usize,
    channels: usize,
    matrix: Option<&[f64]>,
) -> Vec<f64> {
    let border = (from - to) / 2;
    let centre = |tap: usize, channel: usize| {
        let (y, x) = (border + tap / to, border + tap % to);
        kernel[(y * from + x) * channels + channel]
    };
    let taps = to * to;
    let value = |index: usize| {
        let (tap, channel) = (index / channels, index % channels);
        match matrix {
            None => centre(tap, channel),
            Some(matrix) => (0..taps)
                .map(|from| matrix[tap * taps + from] * centre(from, channel))
                .sum(),
        }
    };
    (0..taps * channels).map(value).collect()
}

/// A step of SGD for one value: parameter and momentum.
pub fn sgd_step([p, b]: [f64; 2], gradient: f64, step: SgdStep) -> [f64; 2] {
    let [rate, momentum, decay] =
        [step.learning_rate, step.momentum, step.weight_decay].map(f64::from);
    let g = gradient + decay * p;
    let b = momentum * b + g;
    let direction = if step.nesterov { g + momentum * b } else { b };
    [p - rate * direction, b]
}

/// A step of Adam or AdamW for one value: parameter, mean and mean square.
pub fn adam_step([p, m, v]: [f64; 3], gradient: f64, step: AdamStep) -> [f64; 3] {
    let [rate, beta1, beta2, epsilon, decay] = [
        step.learning_rate,
        step.beta1,
        step.beta2,
        step.epsilon,
        step.weight_decay,
    ]
    .map(f64::from);
    let g = gradient + if step.decoupled { 0.0 } else { decay * p };
    let (m, v) = (
        beta1 * m + (1.0 - beta1) * g,
        beta2 * v + (1.0 - beta2) * g * g,
    );
    let corrected = |value: f64, beta: f64| value / (1.0 - beta.powf(step.step as f64));
    let p = p - if step.decoupled {
        rate * decay * p
    } else {
        0.0
    };
    let update = corrected(m, beta1) / (corrected(v, beta2).sqrt() + epsilon);
    [p - rate * update, m, v]
}

/// A step of RMSProp for one value: parameter, momentum and mean square.
pub fn rms_prop_step([p, b, v]: [f64; 3], gradient: f64, step: RmsPropStep) -> [f64; 3] {
    let [rate, smoothing, epsilon, momentum, decay] = [
        step.learning_rate,
        step.smoothing,
        step.epsilon,
        step.momentum,
        step.weight_decay,
    ]
    .map(f64::from);
    let g = gradient + decay * p;
    let v = smoothing * v + (1.0 - smoothing) * g * g;
    let b = momentum * b + g / (v.sqrt() + epsilon);
    [p - rate * b, b, v]
}
