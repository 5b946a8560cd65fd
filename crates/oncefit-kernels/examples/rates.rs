//! Rates of the kernels in GFLOP/s and in per cent of what multiply-adds on registers reach on this
//! machine: medians over repeated calls, on all threads.
//!
//! `cargo run --release -p oncefit-kernels --example rates [blocks]`

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Instant;

use oncefit_kernels::*;

/// Median seconds of a call.
fn median(mut call: impl FnMut()) -> f64 {
    call();
    let mut times: Vec<f64> = (0..15)
        .map(|_| {
            let started = Instant::now();
            call();
            started.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Operations per second on registers.
static PEAK: OnceLock<f64> = OnceLock::new();

fn line(name: &str, operations: usize, seconds: f64) {
    let rate = operations as f64 / seconds;
    let share = PEAK.get().map_or(f64::NAN, |peak| 100.0 * rate / peak);
    let (milliseconds, rate) = (seconds * 1e3, rate / 1e9);
    println!("{name:<64} {milliseconds:8.3} ms  {rate:7.1} GFLOP/s  {share:5.1} %");
}

/// Bytes per second of copies from memory to memory, all threads together.
static MEMORY: OnceLock<f64> = OnceLock::new();

/// Bytes read and written by copies on all threads, per second.
fn copied_bytes_per_second() -> f64 {
    const VALUES: usize = 16 << 20;
    let memory =
        rayon::broadcast(|_| std::sync::Mutex::new((vec![1.0f32; VALUES], vec![0.0f32; VALUES])));
    let seconds = median(|| {
        rayon::broadcast(|context| {
            let mut own = memory[context.index()].lock().expect("no copy panics");
            let (from, to) = &mut *own;
            to.copy_from_slice(black_box(from));
        });
    });
    (2 * 4 * VALUES * memory.len()) as f64 / seconds
}

/// A kernel that moves values more than it computes: `values` of f32 are read or written.
fn moved(name: &str, values: usize, seconds: f64) {
    let rate = 4.0 * values as f64 / seconds;
    let share = MEMORY
        .get()
        .map_or(f64::NAN, |memory| 100.0 * rate / memory);
    let (milliseconds, rate) = (seconds * 1e3, rate / 1e9);
    println!("{name:<52} {milliseconds:8.3} ms  {rate:7.1} GB/s     {share:5.1} %");
}

/// Values of a tensor and the batch-norm it is read through.
struct Tensor {
    shape: Shape,
    data: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Tensor {
    fn new(images: usize, side: usize, channels: usize) -> Self {
        let shape = Shape {
            images,
            height: side,
            width: side,
            channels,
        };
        let data = (0..shape.len())
            .map(|index| (index % 17) as f32 * 0.1 - 0.8)
            .collect();
        Self {
            shape,
            data,
            scale: vec![1.1; channels],
            shift: vec![0.1; channels],
        }
    }

    fn source(&self) -> Source<'_> {
        Source {
            affine: Some(Affine {
                scale: &self.scale,
                shift: &self.shift,
            }),
            activation: Activation::HardSwish,
            ..Source::plain(&self.data, self.shape)
        }
    }
}

fn pointwise(cpu: Cpu, input: &Tensor, out: usize) {
    let shape = input.shape;
    let window = Window {
        kernel: 1,
        stride: 1,
    };
    let data = vec![0.01; out * shape.channels];
    let weight = ConvWeight {
        data: &data,
        out_stride: shape.channels,
        in_stride: shape.channels,
    };
    let mut output = vec![0.0; shape.rows() * out];
    let mut sums = ChannelSums::new(out);
    let operations = 2 * shape.rows() * shape.channels * out;
    let name = format!("1×1 {}→{out}, {} rows", shape.channels, shape.rows());
    let seconds = median(|| {
        convolution_forward(
            cpu,
            input.source(),
            window,
            weight,
            out,
            None,
            &mut output,
            Some(&mut sums),
        );
        black_box(&output);
    });
    line(&format!("{name}, forward"), operations, seconds);
    let mut dz = vec![0.0; shape.len()];
    let mut gradient = vec![0.0; data.len()];
    let mut sums = ChannelSums::new(shape.channels);
    let ones = vec![1.0; out];
    let norm = BatchNormGradient {
        y: &output,
        a: &ones,
        b: &ones,
        c: &ones,
    };
    let seconds = median(|| {
        convolution_backward(
            cpu,
            input.source(),
            window,
            weight,
            out,
            OutputGradient {
                dz: &output,
                batch_norm: Some(norm),
            },
            InputGradient::PreActivation {
                dz: &mut dz,
                sums: &mut sums,
            },
            Some((&mut gradient, shape.channels, shape.channels)),
            None,
        );
        black_box(&dz);
    });
    line(&format!("{name}, backward"), 2 * operations, seconds);
}

fn depthwise(cpu: Cpu, input: &Tensor, kernel: usize, stride: usize) {
    let shape = input.shape;
    let window = Window { kernel, stride };
    let weight = vec![0.01; kernel * kernel * shape.channels];
    let output_shape = window.output_shape(shape, shape.channels);
    let mut output = vec![0.0; output_shape.len()];
    let mut sums = ChannelSums::new(shape.channels);
    let operations = 2 * output.len() * kernel * kernel;
    let side = shape.height;
    let name = format!(
        "depthwise {kernel}×{kernel}/{stride}, {side}×{side}×{}",
        shape.channels
    );
    let seconds = median(|| {
        depthwise_forward(
            cpu,
            input.source(),
            window,
            &weight,
            &mut output,
            Some(&mut sums),
        );
        black_box(&output);
    });
    line(&format!("{name}, forward"), operations, seconds);
    let mut dz = vec![0.0; shape.len()];
    let mut gradient = vec![0.0; weight.len()];
    let ones = vec![1.0; shape.channels];
    let norm = BatchNormGradient {
        y: &output,
        a: &ones,
        b: &ones,
        c: &ones,
    };
    let seconds = median(|| {
        depthwise_backward(
            cpu,
            input.source(),
            window,
            &weight,
            OutputGradient {
                dz: &output,
                batch_norm: Some(norm),
            },
            InputGradient::PreActivation {
                dz: &mut dz,
                sums: &mut sums,
            },
            Some(&mut gradient),
        );
        black_box(&dz);
    });
    line(&format!("{name}, backward"), 2 * operations, seconds);
}

/// A dense k×k convolution in training.
fn dense(cpu: Cpu, input: &Tensor, kernel: usize, out: usize) {
    let shape = input.shape;
    let window = Window { kernel, stride: 1 };
    let row = kernel * kernel * shape.channels;
    let data = vec![0.01; out * row];
    let weight = ConvWeight {
        data: &data,
        out_stride: row,
        in_stride: shape.channels,
    };
    let mut output = vec![0.0; shape.rows() * out];
    let operations = 2 * shape.rows() * row * out;
    let side = shape.height;
    let name = format!("{kernel}×{kernel} {}→{out}, {side}×{side}", shape.channels);
    let seconds = median(|| {
        let source = input.source();
        convolution_forward(cpu, source, window, weight, out, None, &mut output, None);
        black_box(&output);
    });
    line(&format!("{name}, forward"), operations, seconds);
    let mut target = vec![0.0; shape.len()];
    let mut gradient = vec![0.0; data.len()];
    let seconds = median(|| {
        let dz = OutputGradient {
            dz: &output,
            batch_norm: None,
        };
        let to = InputGradient::Overwrite(&mut target);
        let weights = Some((&mut gradient[..], row, shape.channels));
        convolution_backward(
            cpu,
            input.source(),
            window,
            weight,
            out,
            dz,
            to,
            weights,
            None,
        );
        black_box(&target);
    });
    line(&format!("{name}, backward"), 2 * operations, seconds);
}

/// Batch-norm, activation and squeeze-excite where no convolution carries them.
fn elementwise(cpu: Cpu, input: &Tensor) {
    let (shape, length) = (input.shape, input.shape.len());
    let name = format!("{}×{}×{}", shape.height, shape.width, shape.channels);
    let mut output = vec![0.0; length];
    let mut sums = ChannelSums::new(shape.channels);
    let vectors = shape.images * shape.channels;
    let (mut pooled, gate) = (vec![0.0; vectors], vec![0.5; vectors]);
    let gated = Source {
        gate: Some(&gate),
        ..input.source()
    };
    let seconds = median(|| materialise(cpu, input.source(), &mut output));
    moved(
        &format!("batch-norm with h-swish, {name}"),
        2 * length,
        seconds,
    );
    let seconds = median(|| {
        activation_backward_in_place(cpu, input.source(), &mut output, Some(&mut sums));
    });
    moved(&format!("{:32} backward", "…"), 3 * length, seconds);
    let seconds = median(|| add(cpu, input.source(), input.source(), &mut output));
    moved(&format!("sum of two, {name}"), 3 * length, seconds);
    let seconds = median(|| global_average_pool(cpu, input.source(), &mut pooled));
    moved(&format!("global average pool, {name}"), length, seconds);
    let seconds = median(|| {
        global_average_pool_backward(cpu, &pooled, shape, &mut output, false);
    });
    moved(&format!("{:32} backward", "…"), length, seconds);
    let seconds = median(|| materialise(cpu, gated, &mut output));
    moved(
        &format!("gate of squeeze-excite, {name}"),
        2 * length,
        seconds,
    );
    let seconds = median(|| {
        gate_gradient(cpu, input.source(), &output, &mut pooled);
        gated_backward_in_place(cpu, gated, &mut output, &gate, Some(&mut sums));
    });
    moved(&format!("{:32} backward", "…"), 5 * length, seconds);
    let window = PoolWindow {
        kernel: 3,
        stride: 2,
        padding: 1,
        ceil: false,
    };
    let mut small = vec![0.0; window.output_shape(shape).len()];
    let mut winners = vec![0; small.len()];
    let both = length + small.len();
    let seconds = median(|| max_pool(cpu, input.source(), window, &mut small, &mut winners));
    moved(
        &format!("max-pool 3×3/2, {name}"),
        both + small.len(),
        seconds,
    );
    let seconds = median(|| {
        max_pool_backward(cpu, &winners, &small, window, shape, &mut output, false);
    });
    moved(&format!("{:32} backward", "…"), both + small.len(), seconds);
    let seconds = median(|| average_pool(cpu, input.source(), window, false, &mut small));
    moved(&format!("average pool 3×3/2, {name}"), both, seconds);
    let seconds = median(|| {
        average_pool_backward(cpu, &small, window, false, shape, &mut output, false);
    });
    moved(&format!("{:32} backward", "…"), both, seconds);
}

/// What a step does once for each weight or image: kernel transforms, the loss, the optimisers.
fn once_a_step(cpu: Cpu) {
    let channels = 960;
    let (kernel, matrix) = (vec![0.1; 49 * channels], vec![0.01; 625]);
    let mut smaller = vec![0.0; 25 * channels];
    let mut larger_gradient = vec![0.0; 49 * channels];
    let mut matrix_gradient = vec![0.0; 625];
    let operations = 2 * 625 * channels;
    let seconds = median(|| {
        kernel_transform_forward(cpu, &kernel, 7, 5, channels, Some(&matrix), &mut smaller);
    });
    line("kernel transform 7→5 of 960 channels", operations, seconds);
    let seconds = median(|| {
        kernel_transform_backward(
            cpu,
            &kernel,
            7,
            5,
            channels,
            Some(&matrix),
            &smaller,
            &mut larger_gradient,
            Some(&mut matrix_gradient),
        );
    });
    line("… backward", 2 * operations, seconds);
    let (rows, classes) = (64, 1000);
    let logits: Vec<f32> = (0..rows * classes)
        .map(|at| (at % 29) as f32 * 0.1)
        .collect();
    let labels = vec![3; rows];
    let mut gradient = vec![0.0; logits.len()];
    let target = Target::Labels {
        labels: &labels,
        smoothing: 0.1,
    };
    let seconds = median(|| {
        black_box(softmax_cross_entropy(
            &logits,
            classes,
            target,
            &mut gradient,
            1.0,
        ));
    });
    moved(
        "softmax cross-entropy, 64 × 1000",
        2 * logits.len(),
        seconds,
    );
    let length = 8 << 20;
    let [mut parameter, mut first, mut second] = [(); 3].map(|()| vec![0.1f32; length]);
    let gradient = vec![1e-3f32; length];
    let step = SgdStep {
        learning_rate: 1e-3,
        momentum: 0.9,
        nesterov: true,
        weight_decay: 1e-4,
    };
    let seconds = median(|| sgd_step(cpu, &mut parameter, &gradient, &mut first, step));
    moved("SGD with momentum, 8 M weights", 5 * length, seconds);
    let step = AdamStep {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 1e-4,
        decoupled: true,
        step: 10,
    };
    let seconds = median(|| {
        adam_step(
            cpu,
            &mut parameter,
            &gradient,
            &mut first,
            &mut second,
            step,
        )
    });
    moved("AdamW, 8 M weights", 7 * length, seconds);
    let step = RmsPropStep {
        learning_rate: 1e-3,
        smoothing: 0.9,
        epsilon: 1e-3,
        momentum: 0.9,
        weight_decay: 1e-4,
    };
    let seconds = median(|| {
        rms_prop_step(
            cpu,
            &mut parameter,
            &gradient,
            &mut first,
            &mut second,
            step,
        )
    });
    moved("RMSProp, 8 M weights", 7 * length, seconds);
}

/// The inference kernels in eight bits beside those in f32.
fn in_bytes(cpu: Cpu, images: usize, side: usize, channels: usize, out: usize) {
    let shape = Shape {
        images,
        height: side,
        width: side,
        channels,
    };
    let quantisation = Quantisation::of_range(-0.4, 6.0);
    let data: Vec<u8> = (0..shape.len()).map(|at| (at % 251) as u8).collect();
    let values: Vec<f32> = data.iter().map(|byte| quantisation.value(*byte)).collect();
    let bytes = QuantisedTensor {
        data: &data,
        shape,
        quantisation,
    };
    let finish = LayerFinish {
        bias: None,
        affine: None,
        activation: Activation::HardSwish,
        output: Some(quantisation),
    };
    let mut to_bytes = vec![0; shape.rows() * out.max(channels)];
    let mut to_values = vec![0.0; shape.rows() * out.max(channels)];
    let weights: Vec<f32> = (0..9 * channels * out)
        .map(|at| (at % 13) as f32 * 0.01 - 0.06)
        .collect();
    for kernel in [1, 3] {
        let window = Window { kernel, stride: 1 };
        let row = kernel * kernel * channels;
        let weight = ConvWeight {
            data: &weights,
            out_stride: row,
            in_stride: channels,
        };
        let operations = 2 * shape.rows() * row * out;
        let name = format!("{kernel}×{kernel} {channels}→{out}, {images}×{side}×{side}");
        let packed = PackedWeight::new(cpu, weight, kernel, channels, out);
        let seconds = median(|| {
            let source = Source::plain(&values, shape);
            let to = &mut to_values[..shape.rows() * out];
            convolution_forward(cpu, source, window, &packed, out, None, to, None);
            black_box(&to_values);
        });
        line(&format!("{name}, f32, packed"), operations, seconds);
        let layer =
            QuantisedConvolution::new(cpu, weight, kernel, channels, out, quantisation, &finish);
        let seconds = median(|| {
            let to = QuantisedOutput::Bytes(&mut to_bytes[..shape.rows() * out]);
            quantised_convolution(cpu, bytes, window, &layer, to);
        });
        line(&format!("{name}, int8 with h-swish"), operations, seconds);
    }
    for kernel in [3, 5] {
        let window = Window { kernel, stride: 1 };
        let weights = &weights[..kernel * kernel * channels];
        let operations = 2 * shape.len() * kernel * kernel;
        let name = format!("depthwise {kernel}×{kernel}, {images}×{side}×{side}×{channels}");
        let seconds = median(|| {
            let source = Source::plain(&values, shape);
            let to = &mut to_values[..shape.len()];
            depthwise_forward(cpu, source, window, weights, to, None);
            black_box(&to_values);
        });
        line(&format!("{name}, f32"), operations, seconds);
        let layer = QuantisedDepthwise::new(cpu, weights, kernel, quantisation, &finish);
        let seconds = median(|| {
            let to = &mut to_bytes[..shape.len()];
            quantised_depthwise(cpu, bytes, window, &layer, to);
        });
        line(&format!("{name}, int8 with h-swish"), operations, seconds);
    }
}

/// A convolution of inference with made-up values.
fn folded(
    cpu: Cpu,
    kernel: usize,
    stride: usize,
    channels: [usize; 2],
    activation: Activation,
) -> FoldedConvolution {
    let [inputs, outputs] = channels;
    let row = kernel * kernel * inputs;
    let data: Vec<f32> = (0..outputs * row)
        .map(|at| (at % 13) as f32 * 0.01 - 0.06)
        .collect();
    let weight = ConvWeight {
        data: &data,
        out_stride: row,
        in_stride: inputs,
    };
    let window = Window { kernel, stride };
    FoldedConvolution::new(cpu, weight, window, inputs, outputs, None, activation)
}

/// An inverted residual as its layers, with the expansion and the depthwise convolution as one, and as one.
fn inverted(
    cpu: Cpu,
    (images, side): (usize, usize),
    [inputs, hidden, outputs]: [usize; 3],
    window: Window,
) {
    let shape = Shape {
        images,
        height: side,
        width: side,
        channels: inputs,
    };
    let data: Vec<f32> = (0..shape.len())
        .map(|at| (at % 17) as f32 * 0.1 - 0.8)
        .collect();
    let source = Source::plain(&data, shape);
    let swish = Activation::HardSwish;
    let expand = folded(cpu, 1, 1, [inputs, hidden], swish);
    let project = folded(cpu, 1, 1, [hidden, outputs], Activation::Identity);
    let taps = window.kernel * window.kernel;
    let weight = vec![0.01; taps * hidden];
    let depthwise = FoldedDepthwise::new(cpu, (&weight, hidden), window, hidden, None, swish);
    let wide = expand.output_shape(shape);
    let narrow = depthwise.output_shape(wide);
    let mut expanded = vec![0.0; wide.len()];
    let mut convolved = vec![0.0; narrow.len()];
    let mut output = vec![0.0; narrow.rows() * outputs];
    let expansion = 2 * wide.len() * inputs;
    let convolution = 2 * narrow.len() * taps;
    let all = expansion + convolution + 2 * narrow.len() * outputs;
    let Window { kernel, stride } = window;
    let name =
        format!("{images}×{side}×{side}, {inputs}→{hidden}→{outputs}, {kernel}×{kernel}/{stride}");
    let seconds = median(|| folded_convolution(cpu, source, &expand, None, &mut expanded));
    line(&format!("{name}: expansion"), expansion, seconds);
    let seconds = median(|| {
        let source = Source::plain(&expanded, wide);
        folded_depthwise(cpu, source, &depthwise, &mut convolved, None);
    });
    line(&format!("{name}: depthwise"), convolution, seconds);
    let mut run = |is_joined: bool| {
        median(|| {
            if is_joined {
                expanded_depthwise(cpu, source, &expand, &depthwise, &mut convolved, None);
            } else {
                folded_convolution(cpu, source, &expand, None, &mut expanded);
                let source = Source::plain(&expanded, wide);
                folded_depthwise(cpu, source, &depthwise, &mut convolved, None);
            }
            let source = Source::plain(&convolved, narrow);
            folded_convolution(cpu, source, &project, None, &mut output);
            black_box(&output);
        })
    };
    line(&format!("{name}: layers"), all, run(false));
    line(
        &format!("{name}: expansion and depthwise joined"),
        all,
        run(true),
    );
    let block = InvertedResidual {
        expand: &expand,
        depthwise: &depthwise,
        project: &project,
    };
    let seconds = median(|| {
        inverted_residual(cpu, source, block, None, &mut output);
        black_box(&output);
    });
    line(&format!("{name}: block"), all, seconds);
}

/// A bottleneck as its layers and as one.
fn reduced(cpu: Cpu, (images, side): (usize, usize), [outer, inner]: [usize; 2]) {
    let shape = Shape {
        images,
        height: side,
        width: side,
        channels: outer,
    };
    let data: Vec<f32> = (0..shape.len())
        .map(|at| (at % 17) as f32 * 0.1 - 0.8)
        .collect();
    let source = Source::plain(&data, shape);
    let reduce = folded(cpu, 1, 1, [outer, inner], Activation::Relu);
    let spatial = folded(cpu, 3, 1, [inner, inner], Activation::Relu);
    let restore = folded(cpu, 1, 1, [inner, outer], Activation::Relu);
    let middle = reduce.output_shape(shape);
    let mut values = [vec![0.0; middle.len()], vec![0.0; middle.len()]];
    let mut output = vec![0.0; shape.len()];
    let operations = 2 * middle.len() * (2 * outer + 9 * inner);
    let name = format!("{images}×{side}×{side}, {outer}→{inner}→{outer}, 3×3");
    let seconds = median(|| {
        let [first, second] = &mut values;
        folded_convolution(cpu, source, &reduce, None, first);
        folded_convolution(cpu, Source::plain(first, middle), &spatial, None, second);
        let source = Source::plain(second, middle);
        folded_convolution(cpu, source, &restore, Some(&data), &mut output);
        black_box(&output);
    });
    line(&format!("{name}: layers"), operations, seconds);
    let block = Bottleneck {
        reduce: &reduce,
        spatial: &spatial,
        restore: &restore,
    };
    let seconds = median(|| {
        bottleneck(cpu, source, block, Some(&data), &mut output);
        black_box(&output);
    });
    line(&format!("{name}: block"), operations, seconds);
}

/// All, or with the argument `blocks` only the blocks of inference.
fn main() {
    let cpu = Cpu::detect();
    println!(
        "{:?}, {} threads",
        cpu.instruction_set(),
        rayon::current_num_threads()
    );
    let peak = *PEAK.get_or_init(|| peak_operations_per_second(cpu, 15));
    println!("on registers: {:.1} GFLOP/s", peak / 1e9);
    if std::env::args().nth(1).as_deref() == Some("blocks") {
        return blocks(cpu);
    }
    let memory = *MEMORY.get_or_init(copied_bytes_per_second);
    println!(
        "copies in memory: {:.1} GB/s; shares are of these two",
        memory / 1e9
    );
    println!("batch 64, 32×32: the shapes of the reference network of docs/results");
    pointwise(cpu, &Tensor::new(64, 32, 24), 96);
    pointwise(cpu, &Tensor::new(64, 32, 96), 24);
    for (kernel, stride) in [(1, 1), (3, 1), (5, 1), (7, 1), (3, 2), (5, 2), (7, 2)] {
        depthwise(cpu, &Tensor::new(64, 32, 96), kernel, stride);
    }
    println!("batch 64, 14×14: the shapes of fm-nano");
    pointwise(cpu, &Tensor::new(64, 14, 8), 48);
    pointwise(cpu, &Tensor::new(64, 14, 48), 8);
    depthwise(cpu, &Tensor::new(64, 14, 48), 5, 1);
    depthwise(cpu, &Tensor::new(64, 14, 48), 7, 1);
    depthwise(cpu, &Tensor::new(64, 7, 144), 7, 1);
    println!("batch 8, dense: the shapes of ResNets at 128");
    dense(cpu, &Tensor::new(8, 32, 64), 3, 64);
    dense(cpu, &Tensor::new(8, 8, 256), 3, 256);
    dense(cpu, &Tensor::new(8, 16, 512), 1, 128);
    dense(cpu, &Tensor::new(8, 4, 720), 3, 720);
    println!("batch 64: what no convolution carries, and what a step does once");
    elementwise(cpu, &Tensor::new(64, 32, 96));
    once_a_step(cpu);
    println!("inference, batch 8 and 1");
    in_bytes(cpu, 8, 28, 96, 96);
    in_bytes(cpu, 1, 14, 240, 80);
    blocks(cpu);
}

fn blocks(cpu: Cpu) {
    println!("blocks of inference");
    let window = |kernel, stride| Window { kernel, stride };
    for images in [1, 8] {
        inverted(cpu, (images, 112), [16, 64, 24], window(3, 2));
        inverted(cpu, (images, 56), [24, 96, 24], window(3, 1));
        inverted(cpu, (images, 28), [40, 240, 40], window(5, 1));
        inverted(cpu, (images, 14), [80, 480, 80], window(5, 1));
        inverted(cpu, (images, 7), [160, 960, 160], window(5, 1));
        reduced(cpu, (images, 32), [256, 64]);
        reduced(cpu, (images, 16), [512, 128]);
        reduced(cpu, (images, 8), [1024, 256]);
    }
}
