//! Linear layers between features and a loss: no part of the network, but trained with it.

use oncefit_nn::{Gradients, Parameter, ParameterKind, Parameters};
use oncefit_random::Draws;

/// Adds `{name}/weight` and `{name}/bias`, drawn as PyTorch's linear layers are (uniform in
/// ±1/√inputs).
pub(crate) fn add_linear(
    parameters: &mut Parameters,
    name: &str,
    (inputs, outputs): (usize, usize),
    mut draws: Draws,
) {
    let bound = 1.0 / (inputs as f32).sqrt();
    let mut drawn = |count: usize| -> Vec<f32> {
        (0..count)
            .map(|_| draws.uniform_f32(-bound, bound))
            .collect()
    };
    parameters.insert(Parameter {
        name: format!("{name}/weight"),
        kind: ParameterKind::LinearWeight,
        shape: vec![outputs, inputs],
        data: drawn(outputs * inputs),
    });
    parameters.insert(Parameter {
        name: format!("{name}/bias"),
        kind: ParameterKind::Bias,
        shape: vec![outputs],
        data: drawn(outputs),
    });
}

/// Where a layer's parameters are, and its sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    pub weight: usize,
    pub bias: usize,
    /// Inputs of the largest network; smaller ones use the first.
    pub inputs: usize,
    pub outputs: usize,
}

impl Linear {
    /// The layer that [`add_linear`] added under `name`.
    pub fn of(parameters: &Parameters, name: &str) -> Self {
        let position = |part: &str| {
            let name = format!("{name}/{part}");
            parameters
                .position(&name)
                .expect("the learner added the layer")
        };
        let weight = position("weight");
        let shape = &parameters.at(weight).shape;
        Self {
            weight,
            bias: position("bias"),
            inputs: shape[1],
            outputs: shape[0],
        }
    }

    /// N × outputs, of N × `width` rows.
    pub fn forward(&self, parameters: &Parameters, rows: &[f32], width: usize) -> Vec<f32> {
        let (weight, bias) = (parameters.at(self.weight), parameters.at(self.bias));
        let mut outputs = Vec::new();
        for row in rows.chunks_exact(width) {
            for (weights, bias) in weight.data.chunks_exact(self.inputs).zip(&bias.data) {
                let products = weights.iter().zip(row).map(|(w, x)| w * x);
                outputs.push(bias + products.sum::<f32>());
            }
        }
        outputs
    }

    /// Adds the layer's gradients; returns that of the N × `width` rows.
    pub fn backward(
        &self,
        parameters: &Parameters,
        (rows, width): (&[f32], usize),
        upstream: &[f32],
        into: &mut Gradients,
    ) -> Vec<f32> {
        let mut of_rows = vec![0.0; rows.len()];
        let parts = rows
            .chunks_exact(width)
            .zip(upstream.chunks_exact(self.outputs));
        for ((row, slopes), of_row) in parts.zip(of_rows.chunks_exact_mut(width)) {
            for (output, slope) in slopes.iter().enumerate() {
                into.at_mut(self.bias)[output] += slope;
                let start = output * self.inputs;
                let range = start..start + width;
                let of_weights = into.at_mut(self.weight)[range.clone()].iter_mut();
                of_weights.zip(row).for_each(|(g, x)| *g += slope * x);
                let weights = &parameters.at(self.weight).data[range];
                of_row
                    .iter_mut()
                    .zip(weights)
                    .for_each(|(g, w)| *g += slope * w);
            }
        }
        of_rows
    }

    /// Counts which of the layer's values a network with features of `width` uses.
    pub fn add_coverage(&self, width: usize, coverage: &mut Gradients) {
        for row in coverage.at_mut(self.weight).chunks_exact_mut(self.inputs) {
            row[..width].iter_mut().for_each(|value| *value += 1.0);
        }
        let of_bias = coverage.at_mut(self.bias).iter_mut();
        of_bias.for_each(|value| *value += 1.0);
    }
}
