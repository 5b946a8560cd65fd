//! The update of stochastic gradient descent.

use crate::cpu::{Cpu, Kernel};
use crate::simd::Simd;

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
    cpu.run(Update {
        parameter,
        gradient,
        buffer,
        step,
    });
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
        let values = self
            .parameter
            .iter_mut()
            .zip(self.gradient)
            .zip(self.buffer);
        for ((parameter, gradient), buffer) in values {
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
}
