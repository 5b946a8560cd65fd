//! Linear layers between features and a loss: no part of the network, but trained with it.

use oncefit_kernels::{
    ConvWeight, Cpu, InputGradient, OutputGradient, Shape, Source, Window, convolution_backward,
    convolution_forward,
};
use oncefit_nn::{Gradients, Parameter, ParameterKind, Parameters};
use oncefit_random::Draws;

/// Rows that others are multiplied with: the first `width` of each `stride` values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub values: &'a [f32],
    pub width: usize,
    pub stride: usize,
}

impl Rows<'_> {
    fn count(&self) -> usize {
        self.values.len() / self.stride
    }

    fn weight(&self) -> ConvWeight<'_> {
        ConvWeight {
            data: self.values,
            out_stride: self.stride,
            in_stride: self.stride,
        }
    }
}

/// A product of matrices is a convolution of one tap on an image of one row of pixels.
const POINT: Window = Window {
    kernel: 1,
    stride: 1,
};

fn as_image(rows: &[f32], width: usize) -> Source<'_> {
    let shape = Shape {
        images: 1,
        height: 1,
        width: rows.len() / width,
        channels: width,
    };
    Source::plain(rows, shape)
}

/// The inner products of N rows, as wide as those of `others`, with each of these, and a bias: N ×
/// others.
pub(crate) fn products(cpu: Cpu, rows: &[f32], others: Rows, bias: Option<&[f32]>) -> Vec<f32> {
    let count = others.count();
    let mut output = vec![0.0; rows.len() / others.width * count];
    let source = as_image(rows, others.width);
    let weight = others.weight();
    convolution_forward(cpu, source, POINT, weight, count, bias, &mut output, None);
    output
}

/// From the gradients of [`products`], N × others, to those of the rows; those of the others are
/// added, with their stride.
pub(crate) fn products_backward(
    cpu: Cpu,
    rows: &[f32],
    others: Rows,
    upstream: &[f32],
    of_others: &mut [f32],
) -> Vec<f32> {
    let mut of_rows = vec![0.0; rows.len()];
    let gradient = OutputGradient {
        dz: upstream,
        batch_norm: None,
    };
    convolution_backward(
        cpu,
        as_image(rows, others.width),
        POINT,
        others.weight(),
        others.count(),
        gradient,
        InputGradient::Overwrite(&mut of_rows),
        Some((of_others, others.stride, others.stride)),
        None,
    );
    of_rows
}

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

    fn rows<'a>(&self, parameters: &'a Parameters, width: usize) -> Rows<'a> {
        Rows {
            values: &parameters.at(self.weight).data,
            width,
            stride: self.inputs,
        }
    }

    /// N × outputs, of N × `width` rows.
    pub fn forward(
        &self,
        cpu: Cpu,
        parameters: &Parameters,
        rows: &[f32],
        width: usize,
    ) -> Vec<f32> {
        let bias = &parameters.at(self.bias).data;
        products(cpu, rows, self.rows(parameters, width), Some(bias))
    }

    /// Adds the layer's gradients; returns that of the N × `width` rows.
    pub fn backward(
        &self,
        cpu: Cpu,
        parameters: &Parameters,
        (rows, width): (&[f32], usize),
        upstream: &[f32],
        into: &mut Gradients,
    ) -> Vec<f32> {
        let of_bias = into.at_mut(self.bias);
        for slopes in upstream.chunks_exact(self.outputs) {
            let pairs = of_bias.iter_mut().zip(slopes);
            pairs.for_each(|(sum, slope)| *sum += slope);
        }
        let of_weight = into.at_mut(self.weight);
        products_backward(cpu, rows, self.rows(parameters, width), upstream, of_weight)
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
