//! Rates of the kernels as a training step calls them; takes about 20 seconds.
//!
//! Sources are read through batch-norm and h-swish, outputs are summed per channel, output
//! gradients come through batch-norm, input gradients are pre-activation gradients with their
//! sums, and weights get gradients. Rates count the multiplications and additions of the
//! convolution alone (backward: twice those of forward). Medians over at least 0.25 s each.
//!
//! `cargo run --release -p oncefit-kernels --example kernel_rates [portable|avx2|avx512]`

use std::hint::black_box;
use std::time::{Duration, Instant};

use oncefit_kernels::{
    Activation, Affine, BatchNormGradient, ChannelSums, ConvWeight, Cpu, InputGradient,
    InstructionSet, OutputGradient, Shape, Source, Window, convolution_backward,
    convolution_forward, depthwise_backward, depthwise_forward,
};

/// A convolution of a batch of square images.
struct Case {
    images: usize,
    side: usize,
    channels: usize,
    /// `None`: depthwise.
    out_channels: Option<usize>,
    window: Window,
}

const fn dense(images: usize, side: usize, channels: usize, out: usize, kernel: usize) -> Case {
    let window = Window { kernel, stride: 1 };
    Case {
        images,
        side,
        channels,
        out_channels: Some(out),
        window,
    }
}

const fn depthwise(side: usize, channels: usize, kernel: usize, stride: usize) -> Case {
    let window = Window { kernel, stride };
    Case {
        images: 64,
        side,
        channels,
        out_channels: None,
        window,
    }
}

const CASES: [Case; 18] = [
    dense(64, 32, 24, 96, 1),
    dense(64, 32, 96, 24, 1),
    dense(64, 32, 16, 32, 3),
    depthwise(32, 96, 3, 1),
    depthwise(32, 96, 5, 1),
    depthwise(32, 96, 3, 2),
    depthwise(32, 96, 5, 2),
    dense(64, 14, 8, 48, 1),
    dense(64, 14, 48, 8, 1),
    depthwise(14, 48, 3, 1),
    depthwise(14, 48, 5, 1),
    depthwise(14, 48, 5, 2),
    dense(64, 7, 24, 144, 1),
    dense(64, 7, 144, 24, 1),
    depthwise(7, 144, 5, 1),
    depthwise(7, 144, 7, 1),
    dense(64, 8, 160, 480, 1),
    dense(4, 1, 144, 40, 1),
];

fn main() {
    let cpu = match std::env::args().nth(1).as_deref() {
        None => Some(Cpu::detect()),
        Some("portable") => Cpu::with(InstructionSet::Portable),
        Some("avx2") => Cpu::with(InstructionSet::Avx2),
        Some("avx512") => Cpu::with(InstructionSet::Avx512),
        Some(other) => {
            eprintln!("instruction set {other:?}: expected portable, avx2 or avx512");
            std::process::exit(2);
        }
    };
    let Some(cpu) = cpu else {
        eprintln!("this machine does not have these instructions");
        std::process::exit(1);
    };
    println!(
        "{:?}, {} threads",
        cpu.instruction_set(),
        rayon::current_num_threads()
    );
    println!(
        "{:34} {:>16} {:>16}",
        "GFLOP/s (microseconds)", "forward", "backward"
    );
    for case in &CASES {
        let (forward, backward) = times(cpu, case);
        let operations = case.operations();
        println!(
            "{:34} {:>7.1} ({:>6.0}) {:>7.1} ({:>6.0})",
            case.name(),
            operations / forward.as_secs_f64() / 1e9,
            forward.as_secs_f64() * 1e6,
            2.0 * operations / backward.as_secs_f64() / 1e9,
            backward.as_secs_f64() * 1e6,
        );
    }
}

impl Case {
    fn input(&self) -> Shape {
        let Self {
            images,
            side,
            channels,
            ..
        } = *self;
        Shape {
            images,
            height: side,
            width: side,
            channels,
        }
    }

    fn output(&self) -> Shape {
        self.window
            .output_shape(self.input(), self.out_channels.unwrap_or(self.channels))
    }

    fn operations(&self) -> f64 {
        let taps = self.window.kernel * self.window.kernel;
        let inputs = if self.out_channels.is_some() {
            self.channels
        } else {
            1
        };
        (2 * self.output().len() * taps * inputs) as f64
    }

    fn name(&self) -> String {
        let Self {
            images,
            side,
            channels,
            window: Window { kernel, stride },
            ..
        } = self;
        match self.out_channels {
            Some(out) => format!("{images}×{side}×{side} dense {kernel}×{kernel} {channels}→{out}"),
            None => format!("{images}×{side}×{side} depthwise {kernel} stride {stride} {channels}"),
        }
    }
}

/// Median times of a forward and a backward pass.
fn times(cpu: Cpu, case: &Case) -> (Duration, Duration) {
    let (input, output) = (case.input(), case.output());
    let window = case.window;
    let taps = window.kernel * window.kernel;
    let data = values(input.len());
    let (scale, shift) = (values(input.channels), values(input.channels));
    let source = Source {
        data: &data,
        shape: input,
        affine: Some(Affine {
            scale: &scale,
            shift: &shift,
        }),
        activation: Activation::HardSwish,
        gate: None,
    };
    let weight = values(taps * input.channels * case.out_channels.unwrap_or(1));
    let conv_weight = ConvWeight {
        data: &weight,
        out_stride: taps * input.channels,
        in_stride: input.channels,
    };
    let mut y = vec![0.0; output.len()];
    let mut y_sums = ChannelSums::new(output.channels);
    let forward = median(|| match case.out_channels {
        Some(out) => {
            let sums = Some(&mut y_sums);
            convolution_forward(cpu, source, window, conv_weight, out, None, &mut y, sums);
        }
        None => depthwise_forward(cpu, source, window, &weight, &mut y, Some(&mut y_sums)),
    });
    let dz = values(output.len());
    let coefficients = [0; 3].map(|_| values(output.channels));
    let [a, b, c] = &coefficients;
    let gradient = OutputGradient {
        dz: &dz,
        batch_norm: Some(BatchNormGradient { y: &y, a, b, c }),
    };
    let mut input_gradient = vec![0.0; input.len()];
    let mut input_sums = ChannelSums::new(input.channels);
    let mut weight_gradient = vec![0.0; weight.len()];
    let backward = median(|| {
        let sink = InputGradient::PreActivation {
            dz: &mut input_gradient,
            sums: &mut input_sums,
        };
        match case.out_channels {
            Some(out) => {
                let to = (
                    &mut weight_gradient[..],
                    taps * input.channels,
                    input.channels,
                );
                convolution_backward(
                    cpu,
                    source,
                    window,
                    conv_weight,
                    out,
                    gradient,
                    sink,
                    Some(to),
                    None,
                );
            }
            None => {
                let to = Some(&mut weight_gradient[..]);
                depthwise_backward(cpu, source, window, &weight, gradient, sink, to);
            }
        }
    });
    black_box((y, input_gradient, weight_gradient));
    (forward, backward)
}

fn median(mut run: impl FnMut()) -> Duration {
    run();
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(250) || times.len() < 5 {
        let start = Instant::now();
        run();
        times.push(start.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

/// Numbers in [−1, 1) without a pattern.
fn values(count: usize) -> Vec<f32> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}
