//! Batch-norm, losses, kernel transforms, optimiser steps, pools and squeeze-excite against plain
//! loops, over random sizes, on every instruction set.
//!
//! Tolerance: that of the crate's other tests for values, 1e-4 of the largest for derivatives, which
//! are compared with differences in f64.

use oncefit_kernels::*;
use proptest::prelude::*;

use crate::{ACTIVATIONS, assert_close, stored, values, wide};

const DERIVATIVES: f64 = 1e-4;

fn dot(values: &[f64], weights: &[f32]) -> f64 {
    let pairs = values.iter().zip(weights);
    pairs.map(|(value, w)| value * f64::from(*w)).sum()
}

/// `found` against differences of `loss` at some of the places of `at`.
fn assert_derivatives(found: &[f32], at: &[f64], loss: impl Fn(&[f64]) -> f64, what: &str) {
    const STEP: f64 = 1e-5;
    assert_eq!(found.len(), at.len(), "{what}");
    let step = (found.len() / 12).max(1);
    let differences: Vec<(f64, f64)> = (0..found.len())
        .step_by(step)
        .map(|index| {
            let moved = |by: f64| {
                let mut moved = at.to_vec();
                moved[index] += by;
                loss(&moved)
            };
            let difference = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            (f64::from(found[index]), difference)
        })
        .collect();
    let largest = differences.iter().map(|(_, d)| d.abs()).fold(1.0, f64::max);
    for (found, difference) in differences {
        assert!(
            (found - difference).abs() <= DERIVATIVES * largest,
            "{what}: {found} instead of {difference} (largest {largest})"
        );
    }
}

fn sums(first: &[f32], second: &[f32], channels: usize) -> ChannelSums {
    let (first, second) = crate::channel_sums(first, second, channels);
    ChannelSums { first, second }
}

fn pool_window() -> impl Strategy<Value = PoolWindow> {
    (1..4usize, 1..4usize, any::<bool>(), any::<bool>()).prop_map(
        |(kernel, stride, is_padded, ceil)| PoolWindow {
            kernel,
            stride,
            padding: if is_padded { kernel / 2 } else { 0 },
            ceil,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn batch_norm_is_its_reference(stored in stored(6, 37), epsilon in 1e-4f32..0.1) {
        let (shape, y) = (stored.shape, &stored.data);
        let channels = shape.channels;
        prop_assume!(shape.rows() > 1);
        let (gamma, beta) = (values(channels, 51), values(channels, 52));
        let dz = values(shape.len(), 53);
        let of = |y: &[f64], gamma: &[f64], beta: &[f64]| {
            reference::batch_norm(y, gamma, beta, f64::from(epsilon))
        };
        let (expected, means, variances) = of(&wide(y), &wide(&gamma), &wide(&beta));
        // Training: the batch's own statistics.
        let (mean, variance) = batch_norm_statistics(&sums(y, y, channels), shape.rows());
        assert_close(&mean, &means, "mean");
        assert_close(&variance, &variances, "variance");
        let (scale, shift) = batch_norm_affine(&mean, &variance, &gamma, &beta, epsilon);
        let affine = Some(Affine { scale: &scale, shift: &shift });
        for cpu in Cpu::available() {
            let mut z = vec![0.0; shape.len()];
            materialise(cpu, Source { affine, ..Source::plain(y, shape) }, &mut z);
            let largest = expected.iter().fold(1.0f64, |most, z| most.max(z.abs()));
            for (z, expected) in z.iter().zip(&expected) {
                prop_assert!((f64::from(*z) - expected).abs() < DERIVATIVES * largest, "{z} {expected}");
            }
        }
        let found = batch_norm_backward(
            &sums(&dz, y, channels), shape.rows(), &mean, &variance, &gamma, epsilon,
        );
        // A channel of almost equal values has derivatives that f32 cannot hold.
        prop_assume!(variances.iter().all(|variance| *variance > 1e-2));
        let dy: Vec<f32> = (0..shape.len())
            .map(|index| {
                let channel = index % channels;
                found.a[channel] * dz[index] + found.b[channel] * y[index] + found.c[channel]
            })
            .collect();
        let (y, gamma, beta) = (wide(y), wide(&gamma), wide(&beta));
        assert_derivatives(&dy, &y, |y| dot(&of(y, &gamma, &beta).0, &dz), "y");
        assert_derivatives(&found.dgamma, &gamma, |gamma| dot(&of(&y, gamma, &beta).0, &dz), "gamma");
        assert_derivatives(&found.dbeta, &beta, |beta| dot(&of(&y, &gamma, beta).0, &dz), "beta");
        // Evaluation and calibration: given statistics, of which a wider network's are the first.
        let half = channels.div_ceil(2);
        let (narrow, _) = batch_norm_affine(
            &mean[..half], &variance[..half], &values(channels, 51)[..half], &values(channels, 52)[..half], epsilon,
        );
        prop_assert_eq!(&scale[..half], &narrow[..]);
    }

    #[test]
    fn losses_are_their_references(
        rows in 1..9usize, classes in 1..40usize, smoothing in 0.0f32..0.5, temperature in 0.5f32..4.0,
        weight in 0.1f32..2.0,
    ) {
        let logits: Vec<f32> = values(rows * classes, 61).iter().map(|value| 5.0 * value).collect();
        let labels: Vec<u32> = (0..rows).map(|row| (row * 7 % classes) as u32).collect();
        let mut soft = vec![0.0; logits.len()];
        softmax(&values(logits.len(), 62), classes, 0.5, &mut soft);
        let hard: Vec<f64> = (0..logits.len())
            .map(|index| {
                let hit = labels[index / classes] as usize == index % classes;
                let hit = if hit { 1.0 } else { 0.0 };
                (1.0 - f64::from(smoothing)) * hit + f64::from(smoothing) / classes as f64
            })
            .collect();
        for (target, aims, temperature) in [
            (Target::Labels { labels: &labels, smoothing }, hard, 1.0),
            (Target::Soft { probabilities: &soft, temperature }, wide(&soft), temperature),
        ] {
            let loss = |logits: &[f64]| {
                reference::cross_entropy(logits, classes, &aims, f64::from(temperature))
            };
            let mut gradient = vec![0.0; logits.len()];
            let found = softmax_cross_entropy(&logits, classes, target, &mut gradient, weight);
            let expected = loss(&wide(&logits));
            prop_assert!((found - expected).abs() < 1e-6 * expected.abs().max(1.0));
            let loss = |logits: &[f64]| f64::from(weight) * loss(logits);
            assert_derivatives(&gradient, &wide(&logits), loss, "logits");
        }
    }

    #[test]
    fn kernel_transforms_are_their_references(
        from in 1..4usize, smaller in 0..4usize, active in 1..37usize, extra in 0..4usize, has_matrix: bool,
    ) {
        let (from, to) = (2 * from + 1, (2 * from + 1).saturating_sub(2 * smaller).max(1));
        let stored = active + extra;
        let whole = values(from * from * stored, 71);
        let kernel: Vec<f32> =
            whole.chunks_exact(stored).flat_map(|tap| tap[..active].to_vec()).collect();
        let matrix = values(to.pow(4), 72);
        let matrix = has_matrix.then_some(&matrix[..]);
        let transform = |kernel: &[f64], matrix: Option<&[f64]>| {
            reference::kernel_transform(kernel, from, to, active, matrix)
        };
        let wide_matrix = matrix.map(wide);
        let expected = transform(&wide(&kernel), wide_matrix.as_deref());
        let gradient = values(expected.len(), 73);
        for cpu in Cpu::available() {
            let mut found = vec![0.0; expected.len()];
            kernel_transform_forward(cpu, &kernel, from, to, active, matrix, &mut found);
            assert_close(&found, &expected, "kernel");
            if !has_matrix {
                let mut cropped = vec![0.0; expected.len()];
                crop_center(&whole, from, to, stored, active, &mut cropped);
                prop_assert_eq!(&cropped, &found, "a slice and its copy");
            }
            let mut dkernel = vec![0.0; kernel.len()];
            let mut dmatrix = vec![0.0; to.pow(4)];
            kernel_transform_backward(
                cpu, &kernel, from, to, active, matrix, &gradient, &mut dkernel,
                has_matrix.then_some(&mut dmatrix[..]),
            );
            let loss = |kernel: &[f64]| dot(&transform(kernel, wide_matrix.as_deref()), &gradient);
            assert_derivatives(&dkernel, &wide(&kernel), loss, "kernel gradient");
            if let Some(matrix) = &wide_matrix {
                let loss = |matrix: &[f64]| dot(&transform(&wide(&kernel), Some(matrix)), &gradient);
                assert_derivatives(&dmatrix, matrix, loss, "matrix gradient");
            }
        }
    }

    #[test]
    fn optimiser_steps_are_their_references(
        length in 1..70usize, flag: bool, decay in 0.0f32..0.1, rate in 1e-3f32..0.3,
    ) {
        let start = values(length, 81);
        for cpu in Cpu::available() {
            let mut p = [start.clone(), start.clone(), start.clone()];
            let mut first = [(); 3].map(|()| vec![0.0f32; length]);
            let mut second = [(); 3].map(|()| vec![0.0f32; length]);
            let mut expected = [(); 3].map(|()| Vec::from_iter(start.iter().map(|p| [f64::from(*p), 0.0, 0.0])));
            for step in 1..4 {
                let g = values(length, 82 + step);
                let sgd = SgdStep { learning_rate: rate, momentum: 0.9, nesterov: flag, weight_decay: decay };
                let adam = AdamStep {
                    learning_rate: rate, beta1: 0.9, beta2: 0.99, epsilon: 1e-3, weight_decay: decay,
                    decoupled: flag, step,
                };
                let rms = RmsPropStep {
                    learning_rate: rate, smoothing: 0.9, epsilon: 1e-2, momentum: 0.9, weight_decay: decay,
                };
                sgd_step(cpu, &mut p[0], &g, &mut first[0], sgd);
                adam_step(cpu, &mut p[1], &g, &mut first[1], &mut second[1], adam);
                rms_prop_step(cpu, &mut p[2], &g, &mut first[2], &mut second[2], rms);
                for (index, g) in g.iter().map(|g| f64::from(*g)).enumerate() {
                    let [p, b, _] = expected[0][index];
                    let [p, b] = reference::sgd_step([p, b], g, sgd);
                    expected[0][index] = [p, b, 0.0];
                    expected[1][index] = reference::adam_step(expected[1][index], g, adam);
                    expected[2][index] = reference::rms_prop_step(expected[2][index], g, rms);
                }
            }
            for (rule, expected) in expected.iter().enumerate() {
                let part = |part: usize| Vec::from_iter(expected.iter().map(|state| state[part]));
                assert_close(&p[rule], &part(0), "parameter");
                assert_close(&first[rule], &part(1), "first buffer");
                assert_close(&second[rule], &part(2), "second buffer");
            }
        }
    }

    #[test]
    fn window_pools_are_their_references(stored in stored(9, 35), window in pool_window()) {
        prop_assume!(window.outputs(stored.shape.height) > 0 && window.outputs(stored.shape.width) > 0);
        let shape = stored.shape;
        let source = Source { gate: None, ..stored.source() };
        let input = reference::load(&source);
        let gradient = values(window.output_shape(shape).len(), 91);
        for average in [None, Some(true), Some(false)] {
            let expected = reference::pool(&input, shape, window, average);
            prop_assume!(expected.iter().all(|value| value.is_finite()));
            for cpu in Cpu::available() {
                let mut output = vec![0.0; gradient.len()];
                let mut back = vec![0.0; shape.len()];
                match average {
                    Some(counts) => {
                        average_pool(cpu, source, window, counts, &mut output);
                        average_pool_backward(cpu, &gradient, window, counts, shape, &mut back, false);
                        let loss = |input: &[f64]| {
                            dot(&reference::pool(input, shape, window, average), &gradient)
                        };
                        assert_derivatives(&back, &input, loss, "average");
                    }
                    None => {
                        let mut winners = vec![0; gradient.len()];
                        max_pool(cpu, source, window, &mut output, &mut winners);
                        max_pool_backward(cpu, &winners, &gradient, window, shape, &mut back, false);
                        // What reaches the winners is what was there, and nothing else gets anything.
                        let total: f64 = wide(&gradient).iter().sum();
                        prop_assert!((wide(&back).iter().sum::<f64>() - total).abs() < 1e-3);
                    }
                }
                assert_close(&output, &expected, "pool");
            }
        }
    }

    /// `value · h-sigmoid(W₂·relu(W₁·pool(value)))`, the value read through batch-norm and activation:
    /// forward and backward as a training step composes them.
    #[test]
    fn squeeze_excite_has_the_derivatives_of_its_loss(stored in stored(5, 21), middle in 1..9usize) {
        let shape = stored.shape;
        let (channels, images) = (shape.channels, shape.images);
        let has_kinks = |z: &f64| [-3.0, 0.0, 3.0, 6.0].iter().any(|kink| (z - kink).abs() < 1e-3);
        let plain = Source { gate: None, ..stored.source() };
        let before = reference::load(&Source { activation: Activation::Identity, ..plain });
        prop_assume!(!before.iter().any(has_kinks));
        let (reduce, restore) = (values(middle * channels, 101), values(channels * middle, 102));
        let weights = values(shape.len(), 103);
        let vectors = |channels: usize| Shape { images, height: 1, width: 1, channels };
        let window = Window { kernel: 1, stride: 1 };
        let layers = |z: &[f64]| {
            let value: Vec<f64> =
                z.iter().map(|z| reference::activate(plain.activation, *z)).collect();
            let pooled = reference::global_average_pool(&value, shape);
            let hidden = reference::convolution(
                &pooled, vectors(channels), window, &wide(&reduce), middle, &[],
            );
            let active: Vec<f64> =
                hidden.iter().map(|h| reference::activate(Activation::Relu, *h)).collect();
            let raw = reference::convolution(
                &active, vectors(middle), window, &wide(&restore), channels, &[],
            );
            (value, hidden, raw)
        };
        let position = |index: usize| {
            index / (shape.height * shape.width * channels) * channels + index % channels
        };
        let forward = |z: &[f64]| -> Vec<f64> {
            let (value, _, raw) = layers(z);
            let gate = |index: usize| reference::activate(Activation::HardSigmoid, raw[position(index)]);
            value.iter().enumerate().map(|(index, value)| value * gate(index)).collect()
        };
        let (_, hidden, raw) = layers(&before);
        prop_assume!(!hidden.iter().chain(&raw).any(has_kinks));
        for cpu in Cpu::available() {
            let compact = |data, inputs| ConvWeight { data, out_stride: inputs, in_stride: inputs };
            let mut pooled = vec![0.0; images * channels];
            global_average_pool(cpu, plain, &mut pooled);
            let mut h = vec![0.0; images * middle];
            let from_pool = Source::plain(&pooled, vectors(channels));
            convolution_forward(
                cpu, from_pool, window, compact(&reduce, channels), middle, None, &mut h, None,
            );
            let from_hidden =
                Source { activation: Activation::Relu, ..Source::plain(&h, vectors(middle)) };
            let mut y = vec![0.0; images * channels];
            convolution_forward(
                cpu, from_hidden, window, compact(&restore, middle), channels, None, &mut y, None,
            );
            let mut gate = vec![0.0; y.len()];
            activate(cpu, &y, Activation::HardSigmoid, &mut gate);
            let gated = Source { gate: Some(&gate), ..plain };
            let mut output = vec![0.0; shape.len()];
            materialise(cpu, gated, &mut output);
            assert_close(&output, &forward(&before), "squeeze-excite");

            let mut dgate = vec![0.0; gate.len()];
            gate_gradient(cpu, plain, &weights, &mut dgate);
            activate_backward_in_place(cpu, &y, Activation::HardSigmoid, &mut dgate);
            let mut dh = vec![0.0; h.len()];
            let mut dh_sums = ChannelSums::new(middle);
            convolution_backward(
                cpu, from_hidden, window, compact(&restore, middle), channels,
                OutputGradient { dz: &dgate, batch_norm: None },
                InputGradient::PreActivation { dz: &mut dh, sums: &mut dh_sums }, None, None,
            );
            let mut dpooled = vec![0.0; pooled.len()];
            convolution_backward(
                cpu, from_pool, window, compact(&reduce, channels), middle,
                OutputGradient { dz: &dh, batch_norm: None },
                InputGradient::Overwrite(&mut dpooled), None, None,
            );
            let mut dz = weights.clone();
            gated_backward_in_place(cpu, gated, &mut dz, &dpooled, None);
            assert_derivatives(&dz, &before, |z| dot(&forward(z), &weights), "before the activation");
        }
    }
}

/// Bits of everything that the kernels of this file make, of tensors large enough to be shared out.
fn bits(cpu: Cpu, images: usize) -> Vec<u32> {
    let shape = Shape {
        images,
        height: 24,
        width: 24,
        channels: 20,
    };
    let data = values(shape.len(), 1);
    let (scale, shift, gate) = (values(20, 2), values(20, 3), values(images * 20, 4));
    let source = Source {
        affine: Some(Affine {
            scale: &scale,
            shift: &shift,
        }),
        activation: Activation::HardSwish,
        ..Source::plain(&data, shape)
    };
    let gated = Source {
        gate: Some(&gate),
        ..source
    };
    let mut all: Vec<f32> = Vec::new();
    let mut output = vec![0.0; shape.len()];
    for activation in ACTIVATIONS {
        let source = Source {
            activation,
            ..source
        };
        let mut sums = ChannelSums::new(20);
        materialise(cpu, gated, &mut output);
        all.extend(&output);
        add(cpu, source, source, &mut output);
        all.extend(&output);
        activation_backward(cpu, source, &data, &mut output, Some(&mut sums));
        all.extend(&output);
        all.extend(sums.first.iter().chain(&sums.second).map(|sum| *sum as f32));
    }
    let mut pooled = vec![0.0; images * 20];
    global_average_pool(cpu, gated, &mut pooled);
    all.extend(&pooled);
    gate_gradient(cpu, source, &data, &mut pooled);
    all.extend(&pooled);
    let mut sums = ChannelSums::new(20);
    gated_backward_in_place(cpu, gated, &mut output, &gate, Some(&mut sums));
    all.extend(&output);
    all.extend(sums.first.iter().chain(&sums.second).map(|sum| *sum as f32));
    let window = PoolWindow {
        kernel: 3,
        stride: 2,
        padding: 1,
        ceil: false,
    };
    let mut small = vec![0.0; window.output_shape(shape).len()];
    let mut winners = vec![0; small.len()];
    max_pool(cpu, source, window, &mut small, &mut winners);
    all.extend(&small);
    max_pool_backward(cpu, &winners, &small, window, shape, &mut output, false);
    all.extend(&output);
    average_pool(cpu, source, window, false, &mut small);
    all.extend(&small);
    average_pool_backward(cpu, &small, window, false, shape, &mut output, true);
    all.extend(&output);
    all.extend(bits_of_a_large_weight(cpu, images));
    let (mut parameter, mut buffer) = (data.clone(), data.clone());
    let step = SgdStep {
        learning_rate: 0.1,
        momentum: 0.9,
        nesterov: true,
        weight_decay: 0.01,
    };
    sgd_step(cpu, &mut parameter, &output, &mut buffer, step);
    all.extend(parameter.iter().chain(&buffer));
    all.iter().map(|value| value.to_bits()).collect()
}

/// The gradients of a layer that is mostly weight.
fn bits_of_a_large_weight(cpu: Cpu, images: usize) -> Vec<f32> {
    let (channels, out) = (70, 150);
    let shape = Shape {
        images,
        height: 3,
        width: 2,
        channels,
    };
    let (data, scale) = (values(shape.len(), 5), values(channels, 6));
    let source = Source {
        affine: Some(Affine {
            scale: &scale,
            shift: &scale,
        }),
        activation: Activation::Relu,
        ..Source::plain(&data, shape)
    };
    let window = Window {
        kernel: 3,
        stride: 1,
    };
    let weights = values(out * 9 * channels, 7);
    let weight = ConvWeight {
        data: &weights,
        out_stride: 9 * channels,
        in_stride: channels,
    };
    let dz = values(window.output_shape(shape, out).len(), 8);
    let mut input = vec![0.0; shape.len()];
    let mut sums = ChannelSums::new(channels);
    let mut gradient = vec![0.0; weights.len()];
    let mut bias = vec![0.0; out];
    convolution_backward(
        cpu,
        source,
        window,
        weight,
        out,
        OutputGradient {
            dz: &dz,
            batch_norm: None,
        },
        InputGradient::PreActivation {
            dz: &mut input,
            sums: &mut sums,
        },
        Some((&mut gradient, 9 * channels, channels)),
        Some(&mut bias),
    );
    let sums = sums.first.iter().chain(&sums.second).map(|sum| *sum as f32);
    let vectors = input.into_iter().chain(gradient).chain(bias);
    vectors.chain(sums).collect()
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    for (cpu, images) in Cpu::available()
        .into_iter()
        .flat_map(|cpu| [(cpu, 24), (cpu, 3)])
    {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap().install(|| bits(cpu, images))
        };
        let one = run(1);
        for threads in [2, 3] {
            assert!(
                run(threads) == one,
                "{threads} threads, {images} images, {cpu:?}"
            );
        }
    }
}
