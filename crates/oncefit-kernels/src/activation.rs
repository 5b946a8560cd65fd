//! Activations as types, so that the inner loop of a pass knows its activation when compiled.

use crate::simd::Simd;
use crate::types::Activation;

impl Activation {
    /// `act(x)`.
    pub fn apply(self, x: f32) -> f32 {
        let relu6 = |x: f32| x.clamp(0.0, 6.0);
        match self {
            Self::Identity => x,
            Self::Relu => x.max(0.0),
            Self::Relu6 => relu6(x),
            Self::HardSwish => x * relu6(x + 3.0) / 6.0,
            Self::HardSigmoid => relu6(x + 3.0) / 6.0,
        }
    }

    /// `act'(x)`; at a kink, the derivative from the left.
    pub fn derivative(self, x: f32) -> f32 {
        match self {
            Self::Identity => 1.0,
            Self::Relu if x > 0.0 => 1.0,
            Self::Relu6 if x > 0.0 && x <= 6.0 => 1.0,
            Self::HardSwish if x > 3.0 => 1.0,
            Self::HardSwish if x > -3.0 => x / 3.0 + 0.5,
            Self::HardSigmoid if x > -3.0 && x <= 3.0 => 1.0 / 6.0,
            _ => 0.0,
        }
    }
}

/// An activation as a type.
pub(crate) trait Function {
    /// The activation.
    const ACTIVATION: Activation;

    #[inline(always)]
    fn value<S: Simd>(simd: S, x: S::V) -> S::V {
        simd.activate(Self::ACTIVATION, x)
    }

    #[inline(always)]
    fn gradient<S: Simd>(simd: S, x: S::V, gradient: S::V) -> S::V {
        simd.activation_gradient(Self::ACTIVATION, x, gradient)
    }
}

pub(crate) struct Identity;
struct Relu;
struct Relu6;
struct HardSwish;
struct HardSigmoid;

impl Function for Identity {
    const ACTIVATION: Activation = Activation::Identity;
}
impl Function for Relu {
    const ACTIVATION: Activation = Activation::Relu;
}
impl Function for Relu6 {
    const ACTIVATION: Activation = Activation::Relu6;
}
impl Function for HardSwish {
    const ACTIVATION: Activation = Activation::HardSwish;
}
impl Function for HardSigmoid {
    const ACTIVATION: Activation = Activation::HardSigmoid;
}

/// A loop with an activation in it. `run` must be `#[inline(always)]`, as for kernels.
pub(crate) trait Pass<S: Simd> {
    /// The body.
    fn run<F: Function>(self, simd: S);
}

/// Runs the version of a pass that is compiled for the activation.
#[inline(always)]
pub(crate) fn specialise<S: Simd>(simd: S, activation: Activation, pass: impl Pass<S>) {
    match activation {
        Activation::Identity => pass.run::<Identity>(simd),
        Activation::Relu => pass.run::<Relu>(simd),
        Activation::Relu6 => pass.run::<Relu6>(simd),
        Activation::HardSwish => pass.run::<HardSwish>(simd),
        Activation::HardSigmoid => pass.run::<HardSigmoid>(simd),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    const ALL: [Activation; 5] = [
        Activation::Identity,
        Activation::Relu,
        Activation::Relu6,
        Activation::HardSwish,
        Activation::HardSigmoid,
    ];

    #[test]
    fn values_and_derivatives_are_those_of_the_reference() {
        let step = 1e-6;
        for activation in ALL {
            for x in [
                -4.0f32, -2.75, -1.0, -0.125, 0.125, 1.0, 2.75, 4.0, 5.75, 7.0,
            ] {
                let at = |x: f64| reference::activate(activation, x);
                let wide = f64::from(x);
                let difference = (at(wide + step) - at(wide - step)) / (2.0 * step);
                assert!((f64::from(activation.apply(x)) - at(wide)).abs() < 1e-6);
                assert!(
                    (f64::from(activation.derivative(x)) - difference).abs() < 1e-6,
                    "{activation:?} at {x}"
                );
            }
        }
    }

    #[test]
    fn kinks_have_the_derivative_from_the_left() {
        assert_eq!(Activation::Relu.derivative(0.0), 0.0);
        assert_eq!(Activation::Relu6.derivative(6.0), 1.0);
        assert_eq!(Activation::HardSwish.derivative(-3.0), 0.0);
        assert_eq!(Activation::HardSwish.derivative(3.0), 1.5);
        assert_eq!(Activation::HardSigmoid.derivative(-3.0), 0.0);
    }
}
