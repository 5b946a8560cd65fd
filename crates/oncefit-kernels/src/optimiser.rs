//! The updates of optimisers: stochastic gradient descent, Adam, RMSProp.

use crate::cpu::{Cpu, Kernel};
use crate::parallel::{Parts, chunk_range, for_each_chunk};
use crate::simd::Simd;

/// Values of a chunk at least: they are updated one by one, so that chunks cannot change a bit.
const CHUNK_VALUES: usize = 1 << 15;

/// Calls `update` with equal parts of the slices; the last one may be empty as a whole.
fn for_each_part(
    [parameter, first, second]: [&mut [f32]; 3],
    gradient: &[f32],
    update: impl Fn([&mut [f32]; 3], &[f32]) + Sync,
) {
    let length = parameter.len();
    let chunks = (length / CHUNK_VALUES).clamp(1, 64);
    let has_second = !second.is_empty();
    let parts = [parameter, first, second].map(Parts::new);
    for_each_chunk(chunks, 8 * length, |chunk| {
        let range = chunk_range(length, chunks, chunk);
        let of_second = if has_second { range.clone() } else { 0..0 };
        // SAFETY: chunks are disjoint ranges.
        let parts = unsafe {
            [
                parts[0].part(range.clone()),
                parts[1].part(range.clone()),
                parts[2].part(of_second),
            ]
        };
        update(parts, &gradient[range]);
    });
}

/// The numbers of a step; dampening is 0, as in PyTorch's default.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SgdStep {
    /// Learning rate.
    pub learning_rate: f32,
    /// Momentum.
    pub momentum: f32,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Weight decay, added to the gradient.
    pub weight_decay: f32,
}

/// `g += decay·p; buffer = momentum·buffer + g; p −= rate·(nesterov ? g + momentum·buffer : buffer)`.
/// Without momentum the buffer is not touched.
pub fn sgd_step(
    cpu: Cpu,
    parameter: &mut [f32],
    gradient: &[f32],
    buffer: &mut [f32],
    step: SgdStep,
) {
    assert!(
        gradient.len() == parameter.len() && buffer.len() == parameter.len(),
        "sgd_step: {} parameters",
        parameter.len()
    );
    for_each_part(
        [parameter, buffer, &mut []],
        gradient,
        |[parameter, buffer, _], gradient| {
            cpu.run(Update {
                parameter,
                gradient,
                buffer,
                step,
            });
        },
    );
}

struct Update<'a> {
    parameter: &'a mut [f32],
    gradient: &'a [f32],
    buffer: &'a mut [f32],
    step: SgdStep,
}

impl Kernel for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let SgdStep {
            learning_rate,
            momentum,
            nesterov,
            weight_decay,
        } = self.step;
        let values = self.parameter.iter_mut().zip(self.gradient);
        if momentum == 0.0 {
            for (parameter, gradient) in values {
                *parameter -= learning_rate * (gradient + weight_decay * *parameter);
            }
            return;
        }
        for ((parameter, gradient), buffer) in values.zip(self.buffer) {
            let gradient = gradient + weight_decay * *parameter;
            *buffer = momentum * *buffer + gradient;
            let direction = if nesterov {
                gradient + momentum * *buffer
            } else {
                *buffer
            };
            *parameter -= learning_rate * direction;
        }
    }
}

/// The numbers of a step of Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdamStep {
    /// Learning rate.
    pub learning_rate: f32,
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of squared gradients.
    pub beta2: f32,
    /// Added to the root of the second mean.
    pub epsilon: f32,
    /// Weight decay: added to the gradient, or with `decoupled` taken off the parameter itself.
    pub weight_decay: f32,
    /// Whether the decay is AdamW's.
    pub decoupled: bool,
    /// Which step this is, from 1: the means are corrected by `1 − βᵗ`.
    pub step: u64,
}

/// `m = β₁·m + (1 − β₁)·g; v = β₂·v + (1 − β₂)·g²; p −= rate·m̂ / (√v̂ + ε)`, with `m̂ = m / (1 − β₁ᵗ)`
/// and `v̂ = v / (1 − β₂ᵗ)`.
pub fn adam_step(
    cpu: Cpu,
    parameter: &mut [f32],
    gradient: &[f32],
    mean: &mut [f32],
    square: &mut [f32],
    step: AdamStep,
) {
    assert!(
        [gradient.len(), mean.len(), square.len()] == [parameter.len(); 3],
        "adam_step: {} parameters",
        parameter.len()
    );
    for_each_part(
        [parameter, mean, square],
        gradient,
        |[parameter, mean, square], gradient| {
            cpu.run(AdamUpdate {
                parameter,
                gradient,
                mean,
                square,
                step,
            });
        },
    );
}

struct AdamUpdate<'a> {
    parameter: &'a mut [f32],
    gradient: &'a [f32],
    mean: &'a mut [f32],
    square: &'a mut [f32],
    step: AdamStep,
}

impl Kernel for AdamUpdate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let step = self.step;
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(step.step as f64);
        let rate = (f64::from(step.learning_rate) / correction(step.beta1)) as f32;
        let root = correction(step.beta2).sqrt() as f32;
        let (added, kept) = match step.decoupled {
            true => (0.0, 1.0 - step.learning_rate * step.weight_decay),
            false => (step.weight_decay, 1.0),
        };
        let values = self
            .parameter
            .iter_mut()
            .zip(self.gradient)
            .zip(self.mean.iter_mut().zip(self.square));
        for ((parameter, gradient), (mean, square)) in values {
            let gradient = gradient + added * *parameter;
            *mean = step.beta1 * *mean + (1.0 - step.beta1) * gradient;
            *square = step.beta2 * *square + (1.0 - step.beta2) * gradient * gradient;
            let update = rate * *mean / (square.sqrt() / root + step.epsilon);
            *parameter = kept * *parameter - update;
        }
    }
}

/// The numbers of a step of RMSProp (Tieleman & Hinton 2012) with momentum.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RmsPropStep {
    /// Learning rate.
    pub learning_rate: f32,
    /// Decay of the mean of squared gradients.
    pub smoothing: f32,
    /// Added to the root of that mean.
    pub epsilon: f32,
    /// Momentum.
    pub momentum: f32,
    /// Weight decay, added to the gradient.
    pub weight_decay: f32,
}

/// `v = α·v + (1 − α)·g²; b = momentum·b + g / (√v + ε); p −= rate·b`.
pub fn rms_prop_step(
    cpu: Cpu,
    parameter: &mut [f32],
    gradient: &[f32],
    buffer: &mut [f32],
    square: &mut [f32],
    step: RmsPropStep,
) {
    assert!(
        [gradient.len(), buffer.len(), square.len()] == [parameter.len(); 3],
        "rms_prop_step: {} parameters",
        parameter.len()
    );
    for_each_part(
        [parameter, buffer, square],
        gradient,
        |[parameter, buffer, square], gradient| {
            cpu.run(RmsPropUpdate {
                parameter,
                gradient,
                buffer,
                square,
                step,
            });
        },
    );
}

struct RmsPropUpdate<'a> {
    parameter: &'a mut [f32],
    gradient: &'a [f32],
    buffer: &'a mut [f32],
    square: &'a mut [f32],
    step: RmsPropStep,
}

impl Kernel for RmsPropUpdate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let step = self.step;
        let values = self
            .parameter
            .iter_mut()
            .zip(self.gradient)
            .zip(self.buffer.iter_mut().zip(self.square));
        for ((parameter, gradient), (buffer, square)) in values {
            let gradient = gradient + step.weight_decay * *parameter;
            *square = step.smoothing * *square + (1.0 - step.smoothing) * gradient * gradient;
            *buffer = step.momentum * *buffer + gradient / (square.sqrt() + step.epsilon);
            *parameter -= step.learning_rate * *buffer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of `torch.optim.SGD([1, −2], lr=0.1, momentum=0.9, nesterov, weight_decay=0.01)`
    /// after two steps with gradients (0.5, −1), worked out by hand from its documentation.
    #[test]
    fn two_steps_have_pytorchs_values() {
        for cpu in Cpu::available() {
            let (mut parameter, mut buffer) = ([1.0f32, -2.0], [0.0; 2]);
            let step = SgdStep {
                learning_rate: 0.1,
                momentum: 0.9,
                nesterov: true,
                weight_decay: 0.01,
            };
            for _ in 0..2 {
                sgd_step(cpu, &mut parameter, &[0.5, -1.0], &mut buffer, step);
            }
            // g₁ = 0.51, p₁ = 1 − 0.1·1.9·0.51 = 0.9031; g₂ = 0.509031, b₂ = 0.968031,
            // p₂ = 0.9031 − 0.1·(0.509031 + 0.9·0.968031)
            assert!((parameter[0] - 0.765_074_1).abs() < 1e-6, "{parameter:?}");
            assert!((parameter[1] + 1.530_148_2).abs() < 1e-6, "{parameter:?}");
        }
    }

    #[test]
    fn without_momentum_a_step_leaves_the_buffer() {
        for cpu in Cpu::available() {
            let (mut parameter, mut buffer) = ([1.0f32, -2.0], [7.0; 2]);
            let step = SgdStep {
                learning_rate: 0.5,
                momentum: 0.0,
                nesterov: false,
                weight_decay: 0.25,
            };
            sgd_step(cpu, &mut parameter, &[0.5, -1.0], &mut buffer, step);
            assert_eq!((parameter, buffer), ([0.625, -1.25], [7.0; 2]));
        }
    }

    /// Adam's first step is `rate · g / (|g| + ε)`; the second is worked out by hand.
    #[test]
    fn adam_has_its_papers_values() {
        for cpu in Cpu::available() {
            let (mut parameter, mut mean, mut square) = ([1.0f32], [0.0], [0.0]);
            let mut step = AdamStep {
                learning_rate: 0.1,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.0,
                decoupled: false,
                step: 1,
            };
            adam_step(cpu, &mut parameter, &[0.5], &mut mean, &mut square, step);
            assert!((parameter[0] - 0.9).abs() < 1e-6, "{parameter:?}");
            step.step = 2;
            adam_step(cpu, &mut parameter, &[-1.0], &mut mean, &mut square, step);
            // m = 0.9·0.05 − 0.1 = −0.055, v = 0.999·0.00025 + 0.001 = 0.00124975
            let mean_hat = -0.055 / (1.0 - 0.81);
            let square_hat: f64 = 0.001_249_75 / (1.0 - 0.998_001);
            let expected = 0.9 - 0.1 * mean_hat / square_hat.sqrt();
            assert!((f64::from(parameter[0]) - expected).abs() < 1e-5);
        }
    }

    /// AdamW shrinks a parameter without gradient by `rate · decay`; Adam moves it by its rate.
    #[test]
    fn decoupled_decay_is_taken_off_the_parameter() {
        let after = |decoupled| {
            let (mut parameter, mut mean, mut square) = ([2.0f32], [0.0], [0.0]);
            let step = AdamStep {
                learning_rate: 0.1,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.01,
                decoupled,
                step: 1,
            };
            let cpu = Cpu::detect();
            adam_step(cpu, &mut parameter, &[0.0], &mut mean, &mut square, step);
            parameter[0]
        };
        assert!((after(true) - 2.0 * (1.0 - 0.001)).abs() < 1e-6);
        assert!((after(false) - 1.9).abs() < 1e-5);
    }

    #[test]
    fn rms_prop_has_its_values() {
        for cpu in Cpu::available() {
            let (mut parameter, mut buffer, mut square) = ([1.0f32], [0.0], [0.0]);
            let step = RmsPropStep {
                learning_rate: 0.1,
                smoothing: 0.9,
                epsilon: 0.5,
                momentum: 0.5,
                weight_decay: 0.0,
            };
            for _ in 0..2 {
                rms_prop_step(cpu, &mut parameter, &[2.0], &mut buffer, &mut square, step);
            }
            // v = 0.4, 0.76; b₁ = 2 / (√0.4 + 0.5), b₂ = b₁/2 + 2 / (√0.76 + 0.5)
            let first = 2.0 / (0.4f64.sqrt() + 0.5);
            let second = 0.5 * first + 2.0 / (0.76f64.sqrt() + 0.5);
            let expected = 1.0 - 0.1 * (first + second);
            assert!((f64::from(parameter[0]) - expected).abs() < 1e-6);
        }
    }
}
