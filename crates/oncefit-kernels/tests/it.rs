//! Every kernel against plain loops, on every instruction set of this machine.
//!
//! Tolerance: 2e-5 of the largest value compared, for sums of up to a few thousand products in
//! f32 against f64.

mod folded;
mod int8;
mod pipeline;
mod training;

use oncefit_kernels::reference;
use oncefit_kernels::*;
use proptest::prelude::*;

const TOLERANCE: f64 = 2e-5;

fn values(count: usize, salt: u64) -> Vec<f32> {
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected
        .iter()
        .fold(1.0f64, |largest, value| largest.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(*found) - expected).abs();
        assert!(
            difference <= TOLERANCE * largest,
            "{what}[{index}]: {found} instead of {expected} (largest {largest})"
        );
    }
}

const ACTIVATIONS: [Activation; 5] = [
    Activation::Identity,
    Activation::Relu,
    Activation::Relu6,
    Activation::HardSwish,
    Activation::HardSigmoid,
];

/// Owned parts of a source.
#[derive(Clone, Debug)]
struct Stored {
    shape: Shape,
    data: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
    gate: Vec<f32>,
    activation: Activation,
    has_affine: bool,
    has_gate: bool,
}

impl Stored {
    fn source(&self) -> Source<'_> {
        Source {
            data: &self.data,
            shape: self.shape,
            affine: self.has_affine.then_some(Affine {
                scale: &self.scale,
                shift: &self.shift,
            }),
            activation: self.activation,
            gate: self.has_gate.then_some(&self.gate),
        }
    }
}

fn stored(max_side: usize, max_channels: usize) -> impl Strategy<Value = Stored> {
    (
        1..6usize,
        1..=max_side,
        1..=max_side,
        1..=max_channels,
        0..5usize,
        any::<[bool; 2]>(),
        any::<u64>(),
    )
        .prop_map(
            |(images, height, width, channels, activation, [has_affine, has_gate], salt)| {
                let shape = Shape {
                    images,
                    height,
                    width,
                    channels,
                };
                Stored {
                    shape,
                    data: values(shape.len(), salt)
                        .iter()
                        .map(|value| value * 4.0)
                        .collect(),
                    scale: values(channels, salt ^ 1),
                    shift: values(channels, salt ^ 2),
                    gate: values(images * channels, salt ^ 3),
                    activation: ACTIVATIONS[activation],
                    has_affine,
                    has_gate,
                }
            },
        )
}

fn window() -> impl Strategy<Value = Window> {
    (0..4usize, 1..=2usize).prop_map(|(k, stride)| Window {
        kernel: 2 * k + 1,
        stride,
    })
}

/// Sums of products in f64: Σ first and Σ first·second by channel.
fn channel_sums(first: &[f32], second: &[f32], channels: usize) -> (Vec<f64>, Vec<f64>) {
    let mut sums = (vec![0.0; channels], vec![0.0; channels]);
    for (index, (first, second)) in first.iter().zip(second).enumerate() {
        sums.0[index % channels] += f64::from(*first);
        sums.1[index % channels] += f64::from(*first) * f64::from(*second);
    }
    sums
}

fn assert_sums(sums: &ChannelSums, first: &[f32], second: &[f32], what: &str) {
    let expected = channel_sums(first, second, sums.first.len());
    let narrow = |values: &[f64]| values.iter().map(|value| *value as f32).collect::<Vec<_>>();
    assert_close(&narrow(&sums.first), &expected.0, what);
    assert_close(&narrow(&sums.second), &expected.1, what);
}

fn derivative(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => 1.0,
        Activation::Relu => f64::from(x > 0.0),
        Activation::Relu6 => f64::from(x > 0.0 && x <= 6.0),
        Activation::HardSwish if x <= -3.0 => 0.0,
        Activation::HardSwish if x > 3.0 => 1.0,
        Activation::HardSwish => (2.0 * x + 3.0) / 6.0,
        Activation::HardSigmoid => f64::from(x > -3.0 && x <= 3.0) / 6.0,
    }
}

/// `dz` of an ungated source, in f64.
fn expected_dz(source: &Source, gradient: &[f64]) -> Vec<f64> {
    gradient
        .iter()
        .enumerate()
        .map(|(index, gradient)| {
            let channel = index % source.shape.channels;
            let x = f64::from(source.data[index]);
            let z = source.affine.map_or(x, |affine| {
                x * f64::from(affine.scale[channel]) + f64::from(affine.shift[channel])
            });
            gradient * derivative(source.activation, z)
        })
        .collect()
}

/// Batch-norm coefficients and the gradient they make, in f64.
struct NormCase {
    y: Vec<f32>,
    coefficients: [Vec<f32>; 3],
}

impl NormCase {
    fn new(shape: Shape, salt: u64) -> Self {
        Self {
            y: values(shape.len(), salt),
            coefficients: [4, 5, 6].map(|part| values(shape.channels, salt ^ part)),
        }
    }

    fn gradient<'a>(&'a self, dz: &'a [f32], has_norm: bool) -> OutputGradient<'a> {
        let [a, b, c] = &self.coefficients;
        let norm = BatchNormGradient {
            y: &self.y,
            a,
            b,
            c,
        };
        OutputGradient {
            dz,
            batch_norm: has_norm.then_some(norm),
        }
    }

    fn expected(&self, dz: &[f32], has_norm: bool, channels: usize) -> Vec<f64> {
        let [a, b, c] = &self.coefficients;
        let wide = |index: usize, dz: f32| {
            let channel = index % channels;
            f64::from(a[channel]) * f64::from(dz)
                + f64::from(b[channel]) * f64::from(self.y[index])
                + f64::from(c[channel])
        };
        dz.iter()
            .enumerate()
            .map(|(index, &dz)| {
                if has_norm {
                    wide(index, dz)
                } else {
                    f64::from(dz)
                }
            })
            .collect()
    }
}

/// The gradient of `Σ gradient·f(input)` for an `f` that is linear: f applied to each unit vector
/// would be slow, so one difference for each of some indices; the step is large because f is
/// linear.
fn linear_gradient_at(
    f: impl Fn(&[f64]) -> Vec<f64>,
    input: &[f64],
    gradient: &[f64],
    index: usize,
) -> f64 {
    let loss = |by: f64| {
        let mut moved = input.to_vec();
        moved[index] += by;
        f(&moved)
            .iter()
            .zip(gradient)
            .map(|(value, gradient)| value * gradient)
            .sum::<f64>()
    };
    (loss(0.5) - loss(-0.5)) / 1.0
}

fn check_at_some_indices(found: &[f32], expected: impl Fn(usize) -> f64, what: &str) {
    let step = (found.len() / 12).max(1);
    let indices: Vec<usize> = (0..found.len()).step_by(step).collect();
    let picked: Vec<f32> = indices.iter().map(|&index| found[index]).collect();
    let expected: Vec<f64> = indices.iter().map(|&index| expected(index)).collect();
    assert_close(&picked, &expected, what);
}

/// Runs an input-gradient sink of each mode and checks it.
fn check_sinks(source: Source, d_value: &[f64], run: impl Fn(InputGradient)) {
    let length = source.shape.len();
    let mut overwritten = vec![7.0; length];
    run(InputGradient::Overwrite(&mut overwritten));
    assert_close(&overwritten, d_value, "overwrite");
    let start = values(length, 99);
    let mut accumulated = start.clone();
    run(InputGradient::Accumulate(&mut accumulated));
    let expected: Vec<f64> = d_value
        .iter()
        .zip(&start)
        .map(|(value, start)| value + f64::from(*start))
        .collect();
    assert_close(&accumulated, &expected, "accumulate");
    if source.gate.is_none() {
        let mut dz = vec![7.0; length];
        let mut sums = ChannelSums::new(source.shape.channels);
        run(InputGradient::PreActivation {
            dz: &mut dz,
            sums: &mut sums,
        });
        assert_close(&dz, &expected_dz(&source, d_value), "pre-activation");
        assert_sums(&sums, &dz, source.data, "pre-activation sums");
    }
    run(InputGradient::Skip);
}

/// Forward and backward against the reference, a slice against its compact copy.
fn check_convolution(
    stored: &Stored,
    window: Window,
    out: usize,
    extra: usize,
    has_bias: bool,
    has_norm: bool,
) {
    let source = stored.source();
    let shape = stored.shape;
    let taps = window.kernel * window.kernel;
    let (in_stride, rows) = (shape.channels + extra, out + extra);
    let out_stride = taps * in_stride;
    let data = values(rows * out_stride, 11);
    let weight = ConvWeight {
        data: &data,
        out_stride,
        in_stride,
    };
    let compact: Vec<f32> = (0..out * taps)
        .flat_map(|row| {
            data[row / taps * out_stride + row % taps * in_stride..][..shape.channels].to_vec()
        })
        .collect();
    let bias = values(out, 12);
    let bias = if has_bias { &bias[..] } else { &[] };
    let output_shape = window.output_shape(shape, out);
    let input = reference::load(&source);
    let forward = |input: &[f64], weight: &[f64]| {
        reference::convolution(input, shape, window, weight, out, &wide(bias))
    };
    let expected = forward(&input, &wide(&compact));
    let dz = values(output_shape.len(), 13);
    let norm = NormCase::new(output_shape, 14);
    let dy = norm.expected(&dz, has_norm, out);
    let transposed =
        |input: &[f64]| reference::convolution(input, shape, window, &wide(&compact), out, &[]);
    for cpu in Cpu::available() {
        let mut output = vec![0.0; output_shape.len()];
        let mut sums = ChannelSums::new(out);
        let bias = has_bias.then_some(bias);
        convolution_forward(
            cpu,
            source,
            window,
            weight,
            out,
            bias,
            &mut output,
            Some(&mut sums),
        );
        assert_close(&output, &expected, "output");
        assert_sums(&sums, &output, &output, "sums");

        let mut whole = vec![0.0; output_shape.len()];
        let slice = ConvWeight {
            data: &compact,
            out_stride: taps * shape.channels,
            in_stride: shape.channels,
        };
        convolution_forward(cpu, source, window, slice, out, bias, &mut whole, None);
        assert_eq!(&output, &whole, "a slice and its compact copy");

        let packed = PackedWeight::new(cpu, weight, window.kernel, shape.channels, out);
        whole.fill(0.0);
        convolution_forward(cpu, source, window, &packed, out, bias, &mut whole, None);
        assert_eq!(&output, &whole, "a weight that was packed before");

        let mut weight_gradient = vec![0.5; data.len()];
        let mut bias_gradient = vec![0.25; out];
        let mut d_value = vec![0.0; shape.len()];
        convolution_backward(
            cpu,
            source,
            window,
            weight,
            out,
            norm.gradient(&dz, has_norm),
            InputGradient::Overwrite(&mut d_value),
            Some((&mut weight_gradient, out_stride, in_stride)),
            Some(&mut bias_gradient),
        );
        check_at_some_indices(
            &d_value,
            |index| linear_gradient_at(transposed, &input, &dy, index),
            "input",
        );
        let mut compact_weight_gradient = vec![0.5; compact.len()];
        let mut compact_d_value = vec![0.0; shape.len()];
        convolution_backward(
            cpu,
            source,
            window,
            slice,
            out,
            norm.gradient(&dz, has_norm),
            InputGradient::Overwrite(&mut compact_d_value),
            Some((
                &mut compact_weight_gradient,
                taps * shape.channels,
                shape.channels,
            )),
            None,
        );
        assert_eq!(
            &d_value, &compact_d_value,
            "input gradient of a slice and its copy"
        );
        let compact_gradient: Vec<f32> = (0..out * taps)
            .flat_map(|row| {
                let at = row / taps * out_stride + row % taps * in_stride;
                weight_gradient[at..at + shape.channels].to_vec()
            })
            .collect();
        let by_weight =
            |weight: &[f64]| reference::convolution(&input, shape, window, weight, out, &[]);
        check_at_some_indices(
            &compact_gradient,
            |index| 0.5 + linear_gradient_at(by_weight, &wide(&compact), &dy, index),
            "weight",
        );
        assert_eq!(
            &compact_gradient, &compact_weight_gradient,
            "weight gradient of a slice"
        );
        let touched: f64 = weight_gradient
            .iter()
            .filter(|value| **value != 0.5)
            .count() as f64;
        assert!(
            touched <= compact.len() as f64,
            "values outside the slice stay"
        );
        let mut by_out = vec![0.25; out];
        dy.iter()
            .enumerate()
            .for_each(|(index, dy)| by_out[index % out] += dy);
        assert_close(&bias_gradient, &by_out, "bias");
        let d_value = wide(&d_value);
        check_sinks(source, &d_value, |sink| {
            convolution_backward(
                cpu,
                source,
                window,
                weight,
                out,
                norm.gradient(&dz, has_norm),
                sink,
                None,
                None,
            )
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn convolution_is_its_reference(
        stored in stored(7, 37),
        window in window(),
        out in 1..41usize,
        extra in 0..3usize,
        has_bias: bool,
        has_norm: bool,
    ) {
        check_convolution(&stored, window, out, extra, has_bias, has_norm);
    }

    /// Layers of few rows and many channels, whose gradients are made in another order.
    #[test]
    fn convolution_of_large_weights_is_its_reference(
        stored in stored(3, 9), kernel in 0..2usize, stride in 1..=2usize, channels in 0..9usize,
        out in 0..9usize, extra in 0..3usize, has_bias: bool, has_norm: bool,
    ) {
        let (channels, out) = if kernel == 0 { (257 + channels, 257 + out) } else { (61 + channels, 128 + out) };
        let images = stored.shape.images.min(2);
        let shape = Shape { channels, images, ..stored.shape };
        let stored = Stored {
            shape,
            data: values(shape.len(), 1).iter().map(|value| value * 4.0).collect(),
            scale: values(channels, 2),
            shift: values(channels, 3),
            gate: values(images * channels, 4),
            ..stored
        };
        let window = Window { kernel: 2 * kernel + 1, stride };
        check_convolution(&stored, window, out, extra, has_bias, has_norm);
    }

    #[test]
    fn depthwise_is_its_reference(
        stored in stored(17, 35), window in window(), has_norm: bool,
    ) {
        let source = stored.source();
        let shape = stored.shape;
        let weight = values(window.kernel * window.kernel * shape.channels, 21);
        let output_shape = window.output_shape(shape, shape.channels);
        let input = reference::load(&source);
        let expected = reference::depthwise(&input, shape, window, &wide(&weight));
        let dz = values(output_shape.len(), 22);
        let norm = NormCase::new(output_shape, 23);
        let dy = norm.expected(&dz, has_norm, shape.channels);
        for cpu in Cpu::available() {
            let mut output = vec![0.0; output_shape.len()];
            let mut sums = ChannelSums::new(shape.channels);
            depthwise_forward(cpu, source, window, &weight, &mut output, Some(&mut sums));
            assert_close(&output, &expected, "output");
            assert_sums(&sums, &output, &output, "sums");
            let mut d_value = vec![0.0; shape.len()];
            let mut weight_gradient = vec![0.5; weight.len()];
            let gradient = norm.gradient(&dz, has_norm);
            depthwise_backward(
                cpu, source, window, &weight, gradient,
                InputGradient::Overwrite(&mut d_value), Some(&mut weight_gradient),
            );
            let by_input = |input: &[f64]| reference::depthwise(input, shape, window, &wide(&weight));
            check_at_some_indices(&d_value, |index| linear_gradient_at(by_input, &input, &dy, index), "input");
            let by_weight = |weight: &[f64]| reference::depthwise(&input, shape, window, weight);
            check_at_some_indices(
                &weight_gradient,
                |index| 0.5 + linear_gradient_at(by_weight, &wide(&weight), &dy, index),
                "weight",
            );
            check_sinks(source, &wide(&d_value), |sink| {
                depthwise_backward(cpu, source, window, &weight, gradient, sink, None);
            });
        }
    }

    #[test]
    fn elementwise_operations_are_their_references(stored in stored(9, 35)) {
        let other = Stored { data: values(stored.data.len(), 31), has_gate: false, ..stored.clone() };
        let plain = Stored { has_gate: false, ..stored.clone() };
        let shape = stored.shape;
        let gradient = values(shape.len(), 32);
        for cpu in Cpu::available() {
            let mut output = vec![0.0; shape.len()];
            materialise(cpu, stored.source(), &mut output);
            assert_close(&output, &reference::load(&stored.source()), "materialise");
            add(cpu, plain.source(), other.source(), &mut output);
            let expected: Vec<f64> = reference::load(&plain.source())
                .iter()
                .zip(reference::load(&other.source()))
                .map(|(left, right)| left + right)
                .collect();
            assert_close(&output, &expected, "add");
            let mut dz = vec![0.0; shape.len()];
            let mut sums = ChannelSums::new(shape.channels);
            activation_backward(cpu, plain.source(), &gradient, &mut dz, Some(&mut sums));
            assert_close(&dz, &expected_dz(&plain.source(), &wide(&gradient)), "activation");
            assert_sums(&sums, &dz, &plain.data, "activation sums");

            let unscaled = Source { activation: stored.activation, ..Source::plain(&stored.data, shape) };
            activate(cpu, &stored.data, stored.activation, &mut output);
            assert_close(&output, &reference::load(&unscaled), "activate");
            let mut dz = gradient.clone();
            activate_backward_in_place(cpu, &stored.data, stored.activation, &mut dz);
            assert_close(&dz, &expected_dz(&unscaled, &wide(&gradient)), "activate backward");

            let mut pooled = vec![0.0; shape.images * shape.channels];
            global_average_pool(cpu, stored.source(), &mut pooled);
            let expected = reference::global_average_pool(&reference::load(&stored.source()), shape);
            assert_close(&pooled, &expected, "pool");

            // L = Σ gradient·gate·v + Σ pooled_gradient·pool(v): through the gate and the pool.
            let gated = Stored { has_gate: true, ..stored.clone() };
            let pixels = shape.height * shape.width;
            let position = |index: usize| index / (pixels * shape.channels) * shape.channels + index % shape.channels;
            let value = reference::load(&plain.source());
            let mut dgate = vec![0.0; stored.gate.len()];
            gate_gradient(cpu, plain.source(), &gradient, &mut dgate);
            let mut expected = vec![0.0; stored.gate.len()];
            for (index, gradient) in gradient.iter().enumerate() {
                expected[position(index)] += f64::from(*gradient) * value[index];
            }
            assert_close(&dgate, &expected, "gate");
            let pooled_gradient = values(stored.gate.len(), 33);
            let d_value: Vec<f64> = gradient
                .iter()
                .enumerate()
                .map(|(index, gradient)| {
                    let at = position(index);
                    f64::from(*gradient) * f64::from(stored.gate[at])
                        + f64::from(pooled_gradient[at]) / pixels as f64
                })
                .collect();
            let mut dz = gradient.clone();
            gated_backward_in_place(cpu, gated.source(), &mut dz, &pooled_gradient, Some(&mut sums));
            assert_close(&dz, &expected_dz(&plain.source(), &d_value), "gated");
            assert_sums(&sums, &dz, &plain.data, "gated sums");

            let mut spread = vec![1.0; shape.len()];
            global_average_pool_backward(cpu, &pooled_gradient, shape, &mut spread, true);
            let expected: Vec<f64> = (0..shape.len())
                .map(|index| 1.0 + f64::from(pooled_gradient[position(index)]) / pixels as f64)
                .collect();
            assert_close(&spread, &expected, "pool backward");
        }
    }
}

#[test]
fn derivatives_are_finite_differences_of_the_activations() {
    let step = 1e-6;
    for activation in ACTIVATIONS {
        for x in [-4.0, -2.9, -1.0, -0.1, 0.1, 1.0, 2.9, 4.0, 5.9, 7.0] {
            let difference = (reference::activate(activation, x + step)
                - reference::activate(activation, x - step))
                / (2.0 * step);
            assert!(
                (derivative(activation, x) - difference).abs() < 1e-6,
                "{activation:?} at {x}"
            );
        }
    }
}

/// All outputs of a forward and a backward pass large enough to be spread over threads.
fn pass(cpu: Cpu, images: usize) -> Vec<u32> {
    let shape = Shape {
        images,
        height: 14,
        width: 14,
        channels: 24,
    };
    let stored = Stored {
        shape,
        data: values(shape.len(), 1),
        scale: values(24, 2),
        shift: values(24, 3),
        gate: values(images * 24, 4),
        activation: Activation::HardSwish,
        has_affine: true,
        has_gate: false,
    };
    let source = stored.source();
    let mut all: Vec<f32> = Vec::new();
    let push_sums = |sums: &ChannelSums, all: &mut Vec<f32>| {
        all.extend(sums.first.iter().chain(&sums.second).map(|sum| *sum as f32));
    };
    for window in [
        Window {
            kernel: 1,
            stride: 1,
        },
        Window {
            kernel: 3,
            stride: 2,
        },
    ] {
        let taps = window.kernel * window.kernel;
        let data = values(40 * taps * 24, 5);
        let weight = ConvWeight {
            data: &data,
            out_stride: taps * 24,
            in_stride: 24,
        };
        let mut output = vec![0.0; window.output_shape(shape, 40).len()];
        let mut sums = ChannelSums::new(40);
        convolution_forward(
            cpu,
            source,
            window,
            weight,
            40,
            None,
            &mut output,
            Some(&mut sums),
        );
        push_sums(&sums, &mut all);
        let mut dz = vec![0.0; shape.len()];
        let mut sums = ChannelSums::new(24);
        let mut weight_gradient = vec![0.0; data.len()];
        convolution_backward(
            cpu,
            source,
            window,
            weight,
            40,
            OutputGradient {
                dz: &output,
                batch_norm: None,
            },
            InputGradient::PreActivation {
                dz: &mut dz,
                sums: &mut sums,
            },
            Some((&mut weight_gradient, taps * 24, 24)),
            None,
        );
        push_sums(&sums, &mut all);
        all.extend(output.into_iter().chain(dz).chain(weight_gradient));
    }
    for (kernel, stride) in [(5, 1), (3, 2)] {
        let window = Window { kernel, stride };
        let weight = values(window.kernel * window.kernel * 24, 6);
        let mut output = vec![0.0; window.output_shape(shape, 24).len()];
        let mut sums = ChannelSums::new(24);
        depthwise_forward(cpu, source, window, &weight, &mut output, Some(&mut sums));
        push_sums(&sums, &mut all);
        let mut dz = vec![0.0; shape.len()];
        let mut weight_gradient = vec![0.0; weight.len()];
        depthwise_backward(
            cpu,
            source,
            window,
            &weight,
            OutputGradient {
                dz: &output,
                batch_norm: None,
            },
            InputGradient::PreActivation {
                dz: &mut dz,
                sums: &mut sums,
            },
            Some(&mut weight_gradient),
        );
        push_sums(&sums, &mut all);
        all.extend(output.into_iter().chain(dz).chain(weight_gradient));
    }
    all.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    for (cpu, images) in Cpu::available()
        .into_iter()
        .flat_map(|cpu| [(cpu, 24), (cpu, 3)])
    {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| pass(cpu, images))
        };
        let one = run(1);
        for threads in [2, 3, 4] {
            assert!(
                run(threads) == one,
                "{threads} threads, {images} images, {cpu:?}"
            );
        }
    }
}
