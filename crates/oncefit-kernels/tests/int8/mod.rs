//! Kernels on bytes against plain loops in f64 over the values that the bytes stand for.
//!
//! Tolerance: half a step of the output, which rounding may be wrong by, and a hundredth of one.

use proptest::prelude::*;

use super::{ACTIVATIONS, values, wide, window};
use oncefit_kernels::*;

const TOLERANCE: f64 = 0.51;

struct Bytes {
    shape: Shape,
    data: Vec<u8>,
    quantisation: Quantisation,
}

impl Bytes {
    fn new(shape: Shape, salt: u64) -> Self {
        let bytes = values(shape.len(), salt).into_iter();
        Self {
            shape,
            data: bytes.map(|value| ((value + 1.0) * 127.5) as u8).collect(),
            quantisation: Quantisation::of_range(-1.3, 2.2 + (salt % 7) as f32),
        }
    }

    fn tensor(&self) -> QuantisedTensor<'_> {
        QuantisedTensor {
            data: &self.data,
            shape: self.shape,
            quantisation: self.quantisation,
        }
    }

    fn values(&self) -> Vec<f64> {
        let zero = f64::from(self.quantisation.zero_point);
        let scale = f64::from(self.quantisation.scale);
        let bytes = self.data.iter();
        bytes
            .map(|byte| (f64::from(*byte) - zero) * scale)
            .collect()
    }
}

/// A weight whose rows of `length` values are rounded to 127 steps of their largest magnitude.
fn rounded(weight: &[f32], row_of: impl Fn(usize) -> usize, rows: usize) -> Vec<f64> {
    let mut largest = vec![0.0f32; rows];
    for (at, value) in weight.iter().enumerate() {
        let most = &mut largest[row_of(at)];
        *most = most.max(value.abs());
    }
    let values = weight.iter().enumerate().map(|(at, value)| {
        let scale = largest[row_of(at)] / 127.0;
        f64::from((value / scale).round_ties_even()) * f64::from(scale)
    });
    values.collect()
}

fn assert_steps(found: &[u8], expected: &[f64], quantisation: Quantisation, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, value)) in found.iter().zip(expected).enumerate() {
        let steps = value / f64::from(quantisation.scale) + f64::from(quantisation.zero_point);
        let steps = steps.clamp(0.0, 255.0);
        let difference = (f64::from(*found) - steps).abs();
        assert!(
            difference <= TOLERANCE,
            "{what}[{at}]: {found} instead of {steps}"
        );
    }
}

/// Batch-norm, activation and steps behind a layer.
struct Behind {
    bias: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
    activation: Activation,
    output: Quantisation,
}

impl Behind {
    fn new(channels: usize, activation: usize, salt: u64) -> Self {
        Self {
            bias: values(channels, salt ^ 11),
            scale: values(channels, salt ^ 12),
            shift: values(channels, salt ^ 13),
            activation: ACTIVATIONS[activation],
            output: Quantisation::of_range(-2.0, 3.0),
        }
    }

    fn finish(&self, output: Option<Quantisation>) -> LayerFinish<'_> {
        LayerFinish {
            bias: Some(&self.bias),
            affine: Some(Affine {
                scale: &self.scale,
                shift: &self.shift,
            }),
            activation: self.activation,
            output,
        }
    }

    fn expected(&self, products: &[f64]) -> Vec<f64> {
        let channels = self.bias.len();
        let values = products.iter().enumerate().map(|(at, product)| {
            let channel = at % channels;
            let z = (product + f64::from(self.bias[channel])) * f64::from(self.scale[channel])
                + f64::from(self.shift[channel]);
            reference::activate(self.activation, z)
        });
        values.collect()
    }
}

fn shape(images: usize, [height, width]: [usize; 2], channels: usize) -> Shape {
    Shape {
        images,
        height,
        width,
        channels,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn convolution_of_bytes(
        images in 1..4usize, sides in [1..9usize, 1..9], channels in 1..40usize, out in 1..50usize,
        window in window(), activation in 0..5usize, salt in any::<u64>(), is_sliced in any::<bool>(),
    ) {
        let source = Bytes::new(shape(images, sides, channels), salt);
        let taps = window.kernel * window.kernel;
        let weight = values(out * taps * channels, salt ^ 21);
        let behind = Behind::new(out, activation, salt);
        let expected = {
            let weight = rounded(&weight, |at| at / (taps * channels), out);
            let input = source.values();
            let products =
                reference::convolution(&input, source.shape, window, &weight, out, &[]);
            behind.expected(&products)
        };
        // The same weight as a slice of a larger one.
        let surplus = if is_sliced { 5 } else { 0 };
        let in_stride = channels + surplus;
        let mut stored = values(out * taps * in_stride, salt ^ 22);
        for (to, from) in stored.chunks_mut(in_stride).zip(weight.chunks(channels)) {
            to[..channels].copy_from_slice(from);
        }
        let weight = ConvWeight { data: &stored, out_stride: taps * in_stride, in_stride };
        for cpu in Cpu::available() {
            let layer = |output| QuantisedConvolution::new(
                cpu, weight, window.kernel, channels, out, source.quantisation,
                &behind.finish(output),
            );
            let mut bytes = vec![0; expected.len()];
            let to = QuantisedOutput::Bytes(&mut bytes);
            quantised_convolution(cpu, source.tensor(), window, &layer(Some(behind.output)), to);
            assert_steps(&bytes, &expected, behind.output, &format!("{cpu:?}"));
            let mut floats = vec![0.0; expected.len()];
            let to = QuantisedOutput::Floats(&mut floats);
            quantised_convolution(cpu, source.tensor(), window, &layer(None), to);
            super::assert_close(&floats, &expected, &format!("{cpu:?} in f32"));
        }
    }

    #[test]
    fn depthwise_of_bytes(
        images in 1..4usize, sides in [1..20usize, 1..40], channels in 1..40usize,
        window in window(), activation in 0..5usize, salt in any::<u64>(),
    ) {
        let source = Bytes::new(shape(images, sides, channels), salt);
        let weight = values(window.kernel * window.kernel * channels, salt ^ 31);
        let behind = Behind::new(channels, activation, salt);
        let expected = {
            let weight = rounded(&weight, |at| at % channels, channels);
            let input = source.values();
            behind.expected(&reference::depthwise(&input, source.shape, window, &weight))
        };
        for cpu in Cpu::available() {
            let layer = QuantisedDepthwise::new(
                cpu, &weight, window.kernel, source.quantisation,
                &behind.finish(Some(behind.output)),
            );
            let mut bytes = vec![0; expected.len()];
            quantised_depthwise(cpu, source.tensor(), window, &layer, &mut bytes);
            assert_steps(&bytes, &expected, behind.output, &format!("{cpu:?}"));
        }
    }

    #[test]
    fn maps_sums_and_pools_of_bytes(
        images in 1..4usize, sides in [2..9usize, 2..9], channels in 1..40usize,
        activation in 0..5usize, salt in any::<u64>(), has_gate in any::<bool>(),
        (kernel, stride) in (1..4usize, 1..3usize),
    ) {
        let source = Bytes::new(shape(images, sides, channels), salt);
        let other = Bytes::new(source.shape, salt ^ 41);
        let gate = Bytes::new(shape(images, [1, 1], channels), salt ^ 42);
        let behind = Behind::new(channels, activation, salt);
        let activation = behind.activation;
        let input = source.values();
        let pixels = source.shape.height * source.shape.width;
        let mapped: Vec<f64> = input.iter().enumerate().map(|(at, value)| {
            let channel = at % channels;
            let z = value * f64::from(behind.scale[channel]) + f64::from(behind.shift[channel]);
            let factor = gate.values()[at / (pixels * channels) * channels + channel];
            reference::activate(activation, z) * if has_gate { factor } else { 1.0 }
        }).collect();
        let activated = |values: Vec<f64>| -> Vec<f64> {
            values.into_iter().map(|value| reference::activate(activation, value)).collect()
        };
        let sums = input.iter().zip(other.values()).map(|(left, right)| left + right);
        let sums = activated(sums.collect());
        let means = activated(reference::global_average_pool(&input, source.shape));
        let pool = PoolWindow { kernel, stride, padding: kernel / 2, ceil: false };
        let pooled = pool.output_shape(source.shape);
        let (mut largest, mut average) = (Vec::new(), Vec::new());
        for at in 0..pooled.len() {
            let (pixel, channel) = (at / channels, at % channels);
            let (row, x) = (pixel / pooled.width, pixel % pooled.width);
            let (image, y) = (row / pooled.height, row % pooled.height);
            let under = |size: usize, index: usize| {
                let first = (index * stride).saturating_sub(pool.padding);
                first..(index * stride + kernel - pool.padding).min(size)
            };
            let mut found = Vec::new();
            for y in under(source.shape.height, y) {
                for x in under(source.shape.width, x) {
                    let row = (image * source.shape.height + y) * source.shape.width;
                    found.push(input[(row + x) * channels + channel]);
                }
            }
            largest.push(found.iter().copied().fold(f64::MIN, f64::max));
            average.push(found.iter().sum::<f64>() / found.len() as f64);
        }
        let (largest, average) = (activated(largest), activated(average));
        let output = behind.output;
        for cpu in Cpu::available() {
            let check = |what: &str, expected: &[f64], call: &dyn Fn(&mut [u8])| {
                let mut bytes = vec![0; expected.len()];
                call(&mut bytes);
                assert_steps(&bytes, expected, output, &format!("{what} {cpu:?}"));
            };
            check("map", &mapped, &|bytes| {
                let affine = Affine { scale: &behind.scale, shift: &behind.shift };
                let gate = has_gate.then_some(QuantisedGate {
                    data: &gate.data,
                    quantisation: gate.quantisation,
                });
                let source = source.tensor();
                quantised_map(cpu, source, Some(affine), activation, gate, output, bytes);
            });
            check("add", &sums, &|bytes| {
                quantised_add(cpu, source.tensor(), other.tensor(), activation, output, bytes);
            });
            check("global average", &means, &|bytes| {
                quantised_global_average_pool(cpu, source.tensor(), activation, output, bytes);
            });
            check("average", &average, &|bytes| {
                quantised_average_pool(cpu, source.tensor(), pool, activation, output, bytes);
            });
            check("maximum", &largest, &|bytes| {
                quantised_max_pool(cpu, source.tensor(), pool, activation, output, bytes);
            });
        }
    }

    #[test]
    fn bytes_of_values(count in 1..100usize, salt in any::<u64>(), least in -3.0..1.0f32) {
        let given = values(count, salt);
        let quantisation = Quantisation::of_range(least, 0.9);
        for cpu in Cpu::available() {
            let mut bytes = vec![0; count];
            quantise(cpu, &given, quantisation, &mut bytes);
            assert_steps(&bytes, &wide(&given), quantisation, &format!("{cpu:?}"));
        }
    }
}

#[test]
fn threads_do_not_change_bytes() {
    let source = Bytes::new(shape(3, [31, 30], 40), 5);
    let cpu = Cpu::detect();
    let window = Window {
        kernel: 3,
        stride: 1,
    };
    let weight = values(9 * 40 * 24, 6);
    let behind = Behind::new(24, 3, 7);
    let weight = ConvWeight {
        data: &weight,
        out_stride: 9 * 40,
        in_stride: 40,
    };
    let finish = behind.finish(Some(behind.output));
    let layer = QuantisedConvolution::new(cpu, weight, 3, 40, 24, source.quantisation, &finish);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a pool");
        let mut bytes = vec![0; 3 * 31 * 30 * 24];
        pool.install(|| {
            let output = QuantisedOutput::Bytes(&mut bytes);
            quantised_convolution(cpu, source.tensor(), window, &layer, output);
        });
        bytes
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn a_constant_tensor_is_kept() {
    let steps = Quantisation::of_range(0.0, 0.0);
    assert_eq!(steps.value(steps.quantise(0.0)), 0.0);
    let weight = vec![0.0; 9];
    let source = Bytes::new(shape(1, [2, 2], 1), 1);
    let cpu = Cpu::detect();
    let behind = Behind::new(1, 0, 3);
    let finish = behind.finish(Some(behind.output));
    let layer = QuantisedDepthwise::new(cpu, &weight, 3, source.quantisation, &finish);
    let mut bytes = vec![0; 4];
    let window = Window {
        kernel: 3,
        stride: 1,
    };
    quantised_depthwise(cpu, source.tensor(), window, &layer, &mut bytes);
    assert_steps(
        &bytes,
        &behind.expected(&[0.0; 4]),
        behind.output,
        "zero weights",
    );
}
