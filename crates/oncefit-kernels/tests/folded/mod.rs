//! Layers of inference against plain loops, blocks against the composition of their layers.
//!
//! Tolerance of the layers: that of the other kernels. Blocks give the bits of their composition.

use oncefit_kernels::reference;
use oncefit_kernels::*;
use proptest::prelude::*;

use crate::{ACTIVATIONS, Stored, assert_close, stored, values, wide, window};

const POINTWISE: Window = Window {
    kernel: 1,
    stride: 1,
};

/// A convolution that is a slice of a weight with more outputs and inputs, and its compact weight.
fn convolution(
    cpu: Cpu,
    window: Window,
    (inputs, outputs): (usize, usize),
    activation: Activation,
    salt: u64,
) -> (FoldedConvolution, Vec<f32>, Vec<f32>) {
    let taps = window.kernel * window.kernel;
    let in_stride = inputs + (salt % 3) as usize;
    let out_stride = taps * in_stride;
    let size = 1.0 / ((taps * inputs) as f32).sqrt();
    let data: Vec<f32> = values((outputs + 1) * out_stride, salt)
        .iter()
        .map(|value| value * size)
        .collect();
    let bias = values(outputs, salt ^ 5);
    let weight = ConvWeight {
        data: &data,
        out_stride,
        in_stride,
    };
    let layer = FoldedConvolution::new(
        cpu,
        weight,
        window,
        inputs,
        outputs,
        Some(&bias),
        activation,
    );
    let compact = data[..outputs * out_stride]
        .chunks(in_stride)
        .flat_map(|row| row[..inputs].to_vec())
        .collect();
    (layer, compact, bias)
}

/// A depthwise convolution that is a slice of a wider one, and its compact weight.
fn depthwise(
    cpu: Cpu,
    window: Window,
    channels: usize,
    activation: Activation,
    salt: u64,
) -> (FoldedDepthwise, Vec<f32>, Vec<f32>) {
    let taps = window.kernel * window.kernel;
    let stride = channels + (salt % 4) as usize;
    let data = values(taps * stride, salt);
    let bias = values(channels, salt ^ 7);
    let layer = FoldedDepthwise::new(
        cpu,
        (&data[..], stride),
        window,
        channels,
        Some(&bias),
        activation,
    );
    let compact = data
        .chunks(stride)
        .flat_map(|row| row[..channels].to_vec())
        .collect();
    (layer, compact, bias)
}

fn finish(raw: Vec<f64>, bias: &[f32], addend: Option<&[f32]>, activation: Activation) -> Vec<f64> {
    let finished = raw.into_iter().enumerate().map(|(index, value)| {
        let value = value + f64::from(bias[index % bias.len()]);
        let more = addend.map_or(0.0, |addend| f64::from(addend[index]));
        reference::activate(activation, value + more)
    });
    finished.collect()
}

fn on_threads<R: Send>(threads: usize, body: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.expect("a pool").install(body)
}

/// What `run` makes is the same on one thread, on several, in a team and alone; returns it.
fn same_on_all_threads(length: usize, run: impl Fn(&mut [f32]) + Sync) -> Vec<f32> {
    let made = |wrap: &(dyn Fn(&mut [f32]) + Sync), threads| {
        let mut output = vec![f32::NAN; length];
        on_threads(threads, || wrap(&mut output));
        output
    };
    let one = made(&|output| run(output), 1);
    assert_eq!(made(&|output| run(output), 2), one, "two threads");
    assert_eq!(made(&|output| run(output), 3), one, "three threads");
    let team = made(&|output| in_team(|| run(output)), 2);
    assert_eq!(team, one, "a team of two");
    let alone = made(&|output| on_one_thread(|| run(output)), 2);
    assert_eq!(alone, one, "alone");
    one
}

fn small_window() -> impl Strategy<Value = Window> {
    (1..4usize, 1..=2usize).prop_map(|(half, stride)| Window {
        kernel: 2 * half + 1,
        stride,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn folded_convolutions_are_their_reference(
        stored in stored(9, 40),
        window in window(),
        outputs in 1..70usize,
        activation in 0..5usize,
        has_addend in any::<bool>(),
        salt in any::<u64>(),
    ) {
        let source = stored.source();
        let activation = ACTIVATIONS[activation];
        let inputs = stored.shape.channels;
        for cpu in Cpu::available() {
            let (layer, weight, bias) =
                convolution(cpu, window, (inputs, outputs), activation, salt);
            let shape = layer.output_shape(stored.shape);
            let addend = has_addend.then(|| values(shape.len(), salt ^ 9));
            let output = same_on_all_threads(shape.len(), |output| {
                folded_convolution(cpu, source, &layer, addend.as_deref(), output);
            });
            let input = reference::load(&source);
            let raw =
                reference::convolution(&input, stored.shape, window, &wide(&weight), outputs, &[]);
            let expected = finish(raw, &bias, addend.as_deref(), activation);
            assert_close(&output, &expected, "folded convolution");
        }
    }

    #[test]
    fn folded_depthwise_convolutions_are_their_reference(
        stored in stored(11, 40),
        window in window(),
        activation in 0..5usize,
        salt in any::<u64>(),
    ) {
        let source = stored.source();
        let activation = ACTIVATIONS[activation];
        let channels = stored.shape.channels;
        for cpu in Cpu::available() {
            let (layer, weight, bias) = depthwise(cpu, window, channels, activation, salt);
            let shape = layer.output_shape(stored.shape);
            let pooled = shape.images * channels;
            let both = same_on_all_threads(shape.len() + pooled, |both| {
                let (output, means) = both.split_at_mut(shape.len());
                folded_depthwise(cpu, source, &layer, output, Some(means));
            });
            let input = reference::load(&source);
            let raw = reference::depthwise(&input, stored.shape, window, &wide(&weight));
            let expected = finish(raw, &bias, None, activation);
            let means = reference::global_average_pool(&expected, shape);
            assert_close(&both[..shape.len()], &expected, "folded depthwise");
            assert_close(&both[shape.len()..], &means, "means");
        }
    }

    #[test]
    fn inverted_residuals_are_their_composition(
        stored in stored(15, 24),
        window in small_window(),
        hidden in 1..120usize,
        outputs in 1..40usize,
        activations in [0..5usize, 0..5usize, 0..5usize],
        has_addend in any::<bool>(),
        salt in any::<u64>(),
    ) {
        check_inverted_residual(&stored, window, (hidden, outputs), activations, has_addend, salt);
    }

    #[test]
    fn bottlenecks_are_their_composition(
        stored in stored(13, 40),
        window in small_window(),
        (narrow, middle, outputs) in (1..40usize, 1..40usize, 1..70usize),
        activations in [0..5usize, 0..5usize, 0..5usize],
        has_addend in any::<bool>(),
        salt in any::<u64>(),
    ) {
        check_bottleneck(
            &stored,
            window,
            (narrow, middle, outputs),
            activations,
            has_addend,
            salt,
        );
    }
}

fn check_inverted_residual(
    stored: &Stored,
    window: Window,
    (hidden, outputs): (usize, usize),
    activations: [usize; 3],
    has_addend: bool,
    salt: u64,
) {
    let source = stored.source();
    let [first, second, third] = activations.map(|index| ACTIVATIONS[index]);
    for cpu in Cpu::available() {
        let inputs = stored.shape.channels;
        let (expand, ..) = convolution(cpu, POINTWISE, (inputs, hidden), first, salt);
        let (depthwise, ..) = depthwise(cpu, window, hidden, second, salt ^ 1);
        let (project, ..) = convolution(cpu, POINTWISE, (hidden, outputs), third, salt ^ 2);
        let wide = expand.output_shape(stored.shape);
        let narrow = depthwise.output_shape(wide);
        let shape = project.output_shape(narrow);
        let addend = has_addend.then(|| values(shape.len(), salt ^ 9));
        let mut expanded = vec![0.0; wide.len()];
        folded_convolution(cpu, source, &expand, None, &mut expanded);
        let mut convolved = vec![0.0; narrow.len()];
        let mut means = vec![0.0; narrow.images * hidden];
        let expanded = Source::plain(&expanded, wide);
        folded_depthwise(cpu, expanded, &depthwise, &mut convolved, Some(&mut means));
        let mut expected = vec![0.0; shape.len()];
        let from = Source::plain(&convolved, narrow);
        folded_convolution(cpu, from, &project, addend.as_deref(), &mut expected);
        let block = InvertedResidual {
            expand: &expand,
            depthwise: &depthwise,
            project: &project,
        };
        let found = same_on_all_threads(shape.len(), |output| {
            inverted_residual(cpu, source, block, addend.as_deref(), output);
        });
        assert_eq!(found, expected, "{cpu:?} {wide:?} {window:?}");
        let both = same_on_all_threads(narrow.len() + means.len(), |both| {
            let (output, means) = both.split_at_mut(narrow.len());
            expanded_depthwise(cpu, source, &expand, &depthwise, output, Some(means));
        });
        assert_eq!(&both[..narrow.len()], convolved);
        assert_eq!(&both[narrow.len()..], means);
    }
}

fn check_bottleneck(
    stored: &Stored,
    window: Window,
    (narrow, middle, outputs): (usize, usize, usize),
    activations: [usize; 3],
    has_addend: bool,
    salt: u64,
) {
    let source = stored.source();
    let [first, second, third] = activations.map(|index| ACTIVATIONS[index]);
    for cpu in Cpu::available() {
        let inputs = stored.shape.channels;
        let (reduce, ..) = convolution(cpu, POINTWISE, (inputs, narrow), first, salt);
        let (spatial, ..) = convolution(cpu, window, (narrow, middle), second, salt ^ 1);
        let (restore, ..) = convolution(cpu, POINTWISE, (middle, outputs), third, salt ^ 2);
        let shapes = [&reduce, &spatial, &restore]
            .iter()
            .scan(stored.shape, |shape, layer| {
                *shape = layer.output_shape(*shape);
                Some(*shape)
            })
            .collect::<Vec<_>>();
        let addend = has_addend.then(|| values(shapes[2].len(), salt ^ 9));
        let mut made = [vec![], vec![], vec![]];
        for (index, layer) in [&reduce, &spatial, &restore].into_iter().enumerate() {
            let mut output = vec![0.0; shapes[index].len()];
            let from = match index {
                0 => source,
                _ => Source::plain(&made[index - 1], shapes[index - 1]),
            };
            let addend = addend.as_deref().filter(|_| index == 2);
            folded_convolution(cpu, from, layer, addend, &mut output);
            made[index] = output;
        }
        let block = Bottleneck {
            reduce: &reduce,
            spatial: &spatial,
            restore: &restore,
        };
        let found = same_on_all_threads(shapes[2].len(), |output| {
            bottleneck(cpu, source, block, addend.as_deref(), output);
        });
        assert_eq!(found, made[2], "{cpu:?} {:?} {window:?}", stored.shape);
    }
}

fn image(images: usize, side: usize, channels: usize) -> Stored {
    let shape = Shape {
        images,
        height: side,
        width: side,
        channels,
    };
    Stored {
        shape,
        data: values(shape.len(), 3),
        scale: vec![1.0; channels],
        shift: vec![0.0; channels],
        gate: values(images * channels, 4),
        activation: Activation::Identity,
        has_affine: false,
        has_gate: false,
    }
}

/// Sizes with several bands of rows, several groups of planes, and products in pieces of their depth.
#[test]
fn large_blocks_are_their_composition() {
    for stride in [1, 2] {
        let window = Window { kernel: 5, stride };
        check_inverted_residual(&image(1, 61, 12), window, (150, 20), [3, 3, 0], true, 8);
        let window = Window { kernel: 3, stride };
        check_bottleneck(&image(2, 33, 64), window, (64, 64, 128), [1, 1, 1], true, 8);
    }
    let window = Window {
        kernel: 3,
        stride: 1,
    };
    check_bottleneck(
        &image(1, 5, 600),
        window,
        (520, 30, 40),
        [1, 1, 1],
        false,
        8,
    );
}
