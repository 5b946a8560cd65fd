//! Global average pooling, and the gate of squeeze-excite that is made from it.

use crate::cpu::{Cpu, Kernel};
use crate::parallel::{Parts, for_each_chunk, merge_sums};
use crate::scratch::{Scratch, ScratchSums};
use crate::simd::Simd;
use crate::sums::{PreActivation, ValueSums};
use crate::types::{ChannelSums, Shape, Source};

/// `output[n, c]` = mean over the pixels of image `n` of `value(source)`.
pub fn global_average_pool(cpu: Cpu, source: Source, output: &mut [f32]) {
    source.check();
    pool_images(cpu, source, None, output);
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
    pool_images(cpu, source, Some(gradient), gate_gradient);
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
    let gates = source
        .gate
        .expect("gated_backward: the source has its gate");
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
    let mut partial = ScratchSums::zeros(shape.images * 2 * shape.channels);
    let (parts, partials) = (Parts::new(gradient), Parts::new(&mut partial));
    for_each_chunk(shape.images, 8 * source.data.len(), |n| {
        let channels = n * shape.channels..(n + 1) * shape.channels;
        // SAFETY: images are disjoint.
        let (gradient, sums) = unsafe {
            (
                parts.part(n * image..(n + 1) * image),
                partials.part(2 * channels.start..2 * channels.end),
            )
        };
        let (gate, pooled) = (&gates[channels.clone()], &pooled_gradient[channels]);
        cpu.run(GatedImage {
            source,
            image: n,
            gradient,
            gate,
            pooled,
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

/// Per image and channel, the sum of the values times `weights`, or else their mean.
fn pool_images(cpu: Cpu, source: Source, weights: Option<&[f32]>, output: &mut [f32]) {
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
            output,
        });
    });
}

struct PoolImage<'a> {
    source: Source<'a>,
    image: usize,
    weights: Option<&'a [f32]>,
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
            output,
        } = self;
        let channels = source.shape.channels;
        let mut sums = ScratchSums::zeros(2 * channels);
        ValueSums::new(
            simd,
            Source {
                gate: None,
                ..source
            },
        )
        .add(simd, image, weights.unwrap_or(source.data), &mut sums);
        let (means, products) = sums.split_at(channels);
        if weights.is_some() {
            output
                .iter_mut()
                .zip(products)
                .for_each(|(to, sum)| *to = *sum as f32);
        } else {
            let factor = 1.0 / pixels(source.shape) as f64;
            output
                .iter_mut()
                .zip(means)
                .for_each(|(to, sum)| *to = (sum * factor) as f32);
            if let Some(gate) = source.gate {
                let gate = &gate[image * channels..(image + 1) * channels];
                output
                    .iter_mut()
                    .zip(gate)
                    .for_each(|(to, gate)| *to *= gate);
            }
        }
    }
}

struct GatedImage<'a> {
    source: Source<'a>,
    image: usize,
    gradient: &'a mut [f32],
    gate: &'a [f32],
    pooled: &'a [f32],
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
            gate,
            pooled,
            sums,
        } = self;
        let pixels = pixels(source.shape);
        let mut each = Scratch::take(pooled.len());
        each.iter_mut()
            .zip(pooled)
            .for_each(|(each, sum)| *each = sum / pixels as f32);
        let rows = image * pixels..(image + 1) * pixels;
        PreActivation::new(simd, source).run_scaled(simd, rows, gradient, (gate, &each), sums);
    }
}
