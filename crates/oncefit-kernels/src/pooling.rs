//! Global average pooling, and the gate of squeeze-excite that is made from it.

use crate::cpu::{Cpu, Kernel};
use crate::elementwise::{add_lanes, load_affine};
use crate::parallel::{Parts, for_each_chunk, merge_sums};
use crate::simd::Simd;
use crate::types::{ChannelSums, Shape, Source};

/// `output[n, c]` = mean over the pixels of image `n` of `value(source)`.
pub fn global_average_pool(cpu: Cpu, source: Source, output: &mut [f32]) {
    source.check();
    pool_images(cpu, source, None, 1.0 / pixels(source.shape) as f32, output);
}

/// `gate_gradient[n, c]` = Σ over pixels of `gradient · act(scale·x + shift)`: the gradient of the
/// gate, given the gradient of the gated value.
pub fn gate_gradient(cpu: Cpu, source: Source, gradient: &[f32], gate_gradient: &mut [f32]) {
    source.check();
    assert!(
        source.gate.is_none(),
        "gate_gradient: the source is the map before its gate"
    );
    assert_eq!(gradient.len(), source.data.len(), "gate_gradient: gradient");
    pool_images(cpu, source, Some(gradient), 1.0, gate_gradient);
}

/// From the gradient of a gated value, in place, to
/// `dz = (gradient·gate + pooled_gradient/(h·w)) · act'(scale·x + shift)`, with Σdz and Σdz·x:
/// the gate was made from the pool of the same map.
pub fn gated_backward_in_place(
    cpu: Cpu,
    source: Source,
    gradient: &mut [f32],
    pooled_gradient: &[f32],
    sums: Option<&mut ChannelSums>,
) {
    source.check();
    let shape = source.shape;
    assert!(
        source.gate.is_some(),
        "gated_backward: the source has its gate"
    );
    assert_eq!(
        gradient.len(),
        source.data.len(),
        "gated_backward: gradient"
    );
    assert_eq!(
        pooled_gradient.len(),
        shape.images * shape.channels,
        "gated_backward: pool"
    );
    let image = pixels(shape) * shape.channels;
    let mut partial = vec![0.0f64; shape.images * 2 * shape.channels];
    let (parts, partials) = (Parts::new(gradient), Parts::new(&mut partial));
    for_each_chunk(shape.images, 8 * source.data.len(), |n| {
        // SAFETY: images are disjoint.
        let (gradient, sums) = unsafe {
            (
                parts.part(n * image..(n + 1) * image),
                partials.part(n * 2 * shape.channels..(n + 1) * 2 * shape.channels),
            )
        };
        cpu.run(GatedImage {
            source,
            image: n,
            gradient,
            pooled_gradient,
            sums,
        });
    });
    if let Some(sums) = sums {
        merge_sums(&partial, sums);
    }
}

/// The gradient of the pool's input: `pooled_gradient / (h·w)` at every pixel, written or added.
pub fn global_average_pool_backward(
    _cpu: Cpu,
    pooled_gradient: &[f32],
    shape: Shape,
    gradient: &mut [f32],
    adds: bool,
) {
    assert_eq!(
        gradient.len(),
        shape.len(),
        "global_average_pool_backward: gradient"
    );
    assert_eq!(
        pooled_gradient.len(),
        shape.images * shape.channels,
        "global_average_pool_backward"
    );
    let factor = 1.0 / pixels(shape) as f32;
    let images = gradient.chunks_exact_mut((pixels(shape) * shape.channels).max(1));
    for (image, pooled) in images.zip(pooled_gradient.chunks_exact(shape.channels.max(1))) {
        for pixel in image.chunks_exact_mut(shape.channels) {
            for (value, pooled) in pixel.iter_mut().zip(pooled) {
                *value = if adds { *value } else { 0.0 } + pooled * factor;
            }
        }
    }
}

fn pixels(shape: Shape) -> usize {
    shape.height * shape.width
}

fn pool_images(cpu: Cpu, source: Source, weights: Option<&[f32]>, factor: f32, output: &mut [f32]) {
    let shape = source.shape;
    assert_eq!(
        output.len(),
        shape.images * shape.channels,
        "pool: images × channels"
    );
    let parts = Parts::new(output);
    for_each_chunk(shape.images, 4 * source.data.len(), |image| {
        // SAFETY: images are disjoint.
        let output = unsafe { parts.part(image * shape.channels..(image + 1) * shape.channels) };
        cpu.run(PoolImage {
            source,
            image,
            weights,
            factor,
            output,
        });
    });
}

/// `output[c] = factor · Σ weights · value(source)` over the pixels of one image.
struct PoolImage<'a> {
    source: Source<'a>,
    image: usize,
    weights: Option<&'a [f32]>,
    factor: f32,
    output: &'a mut [f32],
}

impl Kernel for PoolImage<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self {
            source,
            image,
            weights,
            factor,
            output,
        } = self;
        let channels = source.shape.channels;
        let pixels = pixels(source.shape);
        let mut first = 0;
        while first < channels {
            let count = S::LANES.min(channels - first);
            // SAFETY: the image and the channels lie in source, affine, gate, weights and output.
            unsafe {
                let (scale, shift) = load_affine(simd, source.affine, first, count);
                let mut sum = simd.zero();
                for pixel in 0..pixels {
                    let at = (image * pixels + pixel) * channels + first;
                    let x = simd.load_some(source.data.as_ptr().add(at), count);
                    let value = simd.activate(source.activation, simd.fma(x, scale, shift));
                    sum = match weights {
                        Some(weights) => {
                            simd.fma(value, simd.load_some(weights.as_ptr().add(at), count), sum)
                        }
                        None => simd.add(sum, value),
                    };
                }
                if let Some(gate) = source.gate {
                    let gate = gate.as_ptr().add(image * channels + first);
                    sum = simd.mul(sum, simd.load_some(gate, count));
                }
                let sum = simd.mul(sum, simd.splat(factor));
                simd.store_some(output.as_mut_ptr().add(first), count, sum);
            }
            first += S::LANES;
        }
    }
}

struct GatedImage<'a> {
    source: Source<'a>,
    image: usize,
    gradient: &'a mut [f32],
    pooled_gradient: &'a [f32],
    sums: &'a mut [f64],
}

impl Kernel for GatedImage<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self {
            source,
            image,
            gradient,
            pooled_gradient,
            sums,
        } = self;
        let channels = source.shape.channels;
        let pixels = pixels(source.shape);
        let gates = source.gate.unwrap_or_default();
        assert!(gates.len() >= (image + 1) * channels && gradient.len() == pixels * channels);
        let mut first = 0;
        while first < channels {
            let count = S::LANES.min(channels - first);
            let (mut sum, mut product) = (simd.zero(), simd.zero());
            // SAFETY: the image and the channels lie in all operands, as checked.
            unsafe {
                let (scale, shift) = load_affine(simd, source.affine, first, count);
                let at = image * channels + first;
                let gate = simd.load_some(gates.as_ptr().add(at), count);
                let pooled = simd.load_some(pooled_gradient.as_ptr().add(at), count);
                let pooled = simd.mul(pooled, simd.splat(1.0 / pixels as f32));
                for pixel in 0..pixels {
                    let at = (image * pixels + pixel) * channels + first;
                    let x = simd.load_some(source.data.as_ptr().add(at), count);
                    let z = simd.fma(x, scale, shift);
                    let to = gradient.as_mut_ptr().add(pixel * channels + first);
                    let value = simd.fma(simd.load_some(to, count), gate, pooled);
                    let dz = simd.activation_gradient(source.activation, z, value);
                    simd.store_some(to, count, dz);
                    sum = simd.add(sum, dz);
                    product = simd.fma(dz, x, product);
                }
            }
            add_lanes(simd, sum, &mut sums[first..first + count]);
            add_lanes(
                simd,
                product,
                &mut sums[channels + first..channels + first + count],
            );
            first += S::LANES;
        }
    }
}
