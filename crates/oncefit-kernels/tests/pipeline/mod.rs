//! Convolution, batch-norm through its statistics, activation and depthwise convolution in a row,
//! as a training step runs them: nothing but the two raw outputs is stored.
//!
//! Tolerance: 5e-4 of the largest derivative, for f32 passes against differences of f64 losses.

use oncefit_kernels::*;

use crate::{assert_sums, values, wide};

const TOLERANCE: f64 = 5e-4;
const EPSILON: f32 = 1e-3;
const SHAPE: Shape = Shape {
    images: 2,
    height: 5,
    width: 4,
    channels: 7,
};
const HIDDEN: usize = 19;
const POINTWISE: Window = Window {
    kernel: 1,
    stride: 1,
};

/// What the loss depends on.
#[derive(Clone)]
struct Inputs {
    x: Vec<f64>,
    expand: Vec<f64>,
    gamma: Vec<f64>,
    beta: Vec<f64>,
    taps: Vec<f64>,
}

/// `Σ weights · depthwise(act(batch_norm(convolution(x))))`
fn loss(inputs: &Inputs, window: Window, activation: Activation, weights: &[f32]) -> f64 {
    let hidden = Shape {
        channels: HIDDEN,
        ..SHAPE
    };
    let y = reference::convolution(&inputs.x, SHAPE, POINTWISE, &inputs.expand, HIDDEN, &[]);
    let count = hidden.rows() as f64;
    let (mut mean, mut square) = (vec![0.0; HIDDEN], vec![0.0; HIDDEN]);
    for (index, y) in y.iter().enumerate() {
        mean[index % HIDDEN] += y / count;
        square[index % HIDDEN] += y * y / count;
    }
    let value = |(index, y): (usize, &f64)| {
        let channel = index % HIDDEN;
        let variance = square[channel] - mean[channel] * mean[channel];
        let normal = (y - mean[channel]) / (variance + f64::from(EPSILON)).sqrt();
        reference::activate(
            activation,
            inputs.gamma[channel] * normal + inputs.beta[channel],
        )
    };
    let value: Vec<f64> = y.iter().enumerate().map(value).collect();
    let output = reference::depthwise(&value, hidden, window, &inputs.taps);
    output
        .iter()
        .zip(weights)
        .map(|(y, weight)| y * f64::from(*weight))
        .sum()
}

fn assert_derivatives(
    found: &[f32],
    inputs: &Inputs,
    part: impl Fn(&mut Inputs) -> &mut Vec<f64>,
    loss: impl Fn(&Inputs) -> f64,
    what: &str,
) {
    let step = 1e-5;
    let at = |index: usize, by: f64| {
        let mut moved = inputs.clone();
        part(&mut moved)[index] += by;
        loss(&moved)
    };
    let expected: Vec<f64> = (0..found.len())
        .map(|index| (at(index, step) - at(index, -step)) / (2.0 * step))
        .collect();
    let largest = expected
        .iter()
        .fold(1.0f64, |largest, value| largest.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!(
            (f64::from(*found) - expected).abs() <= TOLERANCE * largest,
            "{what}[{index}]: {found} instead of {expected}"
        );
    }
}

#[test]
fn a_step_through_batch_norm_has_the_derivatives_of_its_loss() {
    for (activation, window) in [
        (
            Activation::HardSwish,
            Window {
                kernel: 5,
                stride: 1,
            },
        ),
        (
            Activation::Relu,
            Window {
                kernel: 3,
                stride: 2,
            },
        ),
    ] {
        for cpu in Cpu::available() {
            check(cpu, activation, window);
        }
    }
}

fn check(cpu: Cpu, activation: Activation, window: Window) {
    let hidden = Shape {
        channels: HIDDEN,
        ..SHAPE
    };
    let x = values(SHAPE.len(), 41);
    let expand = values(HIDDEN * SHAPE.channels, 42);
    let gamma: Vec<f32> = values(HIDDEN, 43).iter().map(|value| value + 1.5).collect();
    let beta = values(HIDDEN, 44);
    let taps = values(window.kernel * window.kernel * HIDDEN, 45);
    let weights = values(window.output_shape(hidden, HIDDEN).len(), 46);

    let source = Source::plain(&x, SHAPE);
    let weight = ConvWeight {
        data: &expand,
        out_stride: SHAPE.channels,
        in_stride: SHAPE.channels,
    };
    let (mut y, mut sums) = (vec![0.0; hidden.len()], ChannelSums::new(HIDDEN));
    convolution_forward(
        cpu,
        source,
        POINTWISE,
        weight,
        HIDDEN,
        None,
        &mut y,
        Some(&mut sums),
    );
    let count = hidden.rows();
    let (mean, variance) = batch_norm_statistics(&sums, count);
    let (scale, shift) = batch_norm_affine(&mean, &variance, &gamma, &beta, EPSILON);
    let between = Source {
        data: &y,
        shape: hidden,
        affine: Some(Affine {
            scale: &scale,
            shift: &shift,
        }),
        activation,
        gate: None,
    };
    let (mut dz, mut dtaps) = (vec![0.0; hidden.len()], vec![0.0; taps.len()]);
    depthwise_backward(
        cpu,
        between,
        window,
        &taps,
        OutputGradient {
            dz: &weights,
            batch_norm: None,
        },
        InputGradient::PreActivation {
            dz: &mut dz,
            sums: &mut sums,
        },
        Some(&mut dtaps),
    );
    assert_sums(&sums, &dz, &y, "sums of dz");
    let norm = batch_norm_backward(&sums, count, &mean, &variance, &gamma, EPSILON);
    let (mut dx, mut dexpand) = (vec![0.0; x.len()], vec![0.0; expand.len()]);
    convolution_backward(
        cpu,
        source,
        POINTWISE,
        weight,
        HIDDEN,
        OutputGradient {
            dz: &dz,
            batch_norm: Some(BatchNormGradient {
                y: &y,
                a: &norm.a,
                b: &norm.b,
                c: &norm.c,
            }),
        },
        InputGradient::Overwrite(&mut dx),
        Some((&mut dexpand, SHAPE.channels, SHAPE.channels)),
        None,
    );

    let inputs = Inputs {
        x: wide(&x),
        expand: wide(&expand),
        gamma: wide(&gamma),
        beta: wide(&beta),
        taps: wide(&taps),
    };
    let loss = |inputs: &Inputs| loss(inputs, window, activation, &weights);
    assert_derivatives(&dtaps, &inputs, |inputs| &mut inputs.taps, loss, "taps");
    assert_derivatives(
        &norm.dgamma,
        &inputs,
        |inputs| &mut inputs.gamma,
        loss,
        "gamma",
    );
    assert_derivatives(
        &norm.dbeta,
        &inputs,
        |inputs| &mut inputs.beta,
        loss,
        "beta",
    );
    assert_derivatives(
        &dexpand,
        &inputs,
        |inputs| &mut inputs.expand,
        loss,
        "expand",
    );
    assert_derivatives(&dx, &inputs, |inputs| &mut inputs.x, loss, "x");
}
