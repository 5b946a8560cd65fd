//! Rates of the kernels in GFLOP/s: medians over repeated calls, on all threads.
//!
//! `cargo run --release -p oncefit-kernels --example rates`

use std::hint::black_box;
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

fn line(name: &str, operations: usize, seconds: f64) {
    let rate = operations as f64 / seconds / 1e9;
    println!("{name:<44} {:8.3} ms  {rate:7.1} GFLOP/s", seconds * 1e3);
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

fn main() {
    let cpu = Cpu::detect();
    println!(
        "{:?}, {} threads",
        cpu.instruction_set(),
        rayon::current_num_threads()
    );
    println!("batch 64, 32×32: the shapes of the reference network of docs/results");
    pointwise(cpu, &Tensor::new(64, 32, 24), 96);
    pointwise(cpu, &Tensor::new(64, 32, 96), 24);
    for (kernel, stride) in [(3, 1), (5, 1), (3, 2), (5, 2)] {
        depthwise(cpu, &Tensor::new(64, 32, 96), kernel, stride);
    }
    println!("batch 64, 14×14: the shapes of fm-nano");
    pointwise(cpu, &Tensor::new(64, 14, 8), 48);
    pointwise(cpu, &Tensor::new(64, 14, 48), 8);
    depthwise(cpu, &Tensor::new(64, 14, 48), 5, 1);
    depthwise(cpu, &Tensor::new(64, 14, 48), 7, 1);
    depthwise(cpu, &Tensor::new(64, 7, 144), 7, 1);
}
