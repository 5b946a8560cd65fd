//! Named weights, and gradients as an addressable value.
//!
//! A [`Parameters`] holds tensors in a fixed order under their names (`unit1[0].expand.conv.weight`).
//! A supernet's parameters have the largest size of each tensor; an extracted network's have the
//! exact size. Execution is the same for both: it reads leading slices.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::error::{NnError, Result};

/// What a parameter is for; decides its initialisation and whether weight decay applies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParameterKind {
    /// Weight of a dense convolution, `[out, k, k, in]`.
    ConvolutionWeight,
    /// Weight of a depthwise convolution, `[k, k, channels]`.
    DepthwiseWeight,
    /// Weight of a linear layer, `[out, in]`, or on a map of several pixels `[out, height, width, in]`.
    LinearWeight,
    /// Additive bias of a convolution or linear layer, `[out]`.
    Bias,
    /// Scale (gamma) of a batch-norm, `[channels]`.
    NormScale,
    /// Shift (beta) of a batch-norm, `[channels]`.
    NormShift,
    /// Matrix that makes a smaller depthwise kernel from a larger one, `[to², to²]`
    /// (Once-for-All §3.3).
    KernelTransform,
}

impl ParameterKind {
    /// Whether weight decay applies, as in Once-for-All: not to biases nor to batch-norm.
    pub fn decays(self) -> bool {
        !matches!(self, Self::Bias | Self::NormScale | Self::NormShift)
    }
}

/// One named tensor.
#[derive(Clone, PartialEq, Debug)]
pub struct Parameter {
    /// Name: the path of the graph node and the tensor's role.
    pub name: String,
    /// What it is for.
    pub kind: ParameterKind,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub data: Vec<f32>,
}

/// Named tensors in a fixed order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Parameters {
    tensors: Vec<Parameter>,
    index: HashMap<String, usize>,
}

impl Parameters {
    /// Adds a tensor at the end. A name that is there already is replaced in place.
    pub fn insert(&mut self, parameter: Parameter) {
        match self.index.get(&parameter.name) {
            Some(&at) => self.tensors[at] = parameter,
            None => {
                self.index
                    .insert(parameter.name.clone(), self.tensors.len());
                self.tensors.push(parameter);
            }
        }
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The number of values in all tensors.
    pub fn values(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.data.len()).sum()
    }

    /// The tensors in order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.tensors.iter()
    }

    /// The tensors in order, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        self.tensors.iter_mut()
    }

    /// The position of the tensor called `name`.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// The tensor at `position`.
    pub fn at(&self, position: usize) -> &Parameter {
        &self.tensors[position]
    }

    /// The tensor at `position`, to be changed.
    pub fn at_mut(&mut self, position: usize) -> &mut Parameter {
        &mut self.tensors[position]
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// If there is none.
    pub fn get(&self, name: &str) -> Result<&Parameter> {
        self.position(name)
            .map(|at| &self.tensors[at])
            .ok_or_else(|| NnError::MissingParameter {
                name: name.to_owned(),
            })
    }

    /// Tensors of the same names and shapes, all zero: an optimiser's buffers.
    pub fn zeros(&self) -> Self {
        let mut zeros = self.clone();
        zeros.iter_mut().for_each(|tensor| tensor.data.fill(0.0));
        zeros
    }

    /// `self = decay · self + (1 − decay) · other`: an exponential moving average.
    pub fn average_with(&mut self, other: &Self, decay: f32) {
        for (tensor, new) in self.tensors.iter_mut().zip(&other.tensors) {
            for (value, new) in tensor.data.iter_mut().zip(&new.data) {
                *value = decay * *value + (1.0 - decay) * new;
            }
        }
    }

    /// A 128-bit content hash in hexadecimal: names, shapes and values.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for tensor in &self.tensors {
            hasher.update(tensor.name.as_bytes());
            hasher.update(format!("{:?}", tensor.shape).as_bytes());
            for value in &tensor.data {
                hasher.update(&value.to_le_bytes());
            }
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// The name of the first tensor that holds a value that is not finite.
    pub fn first_not_finite(&self) -> Option<&str> {
        self.tensors
            .iter()
            .find(|tensor| !are_finite(&tensor.data))
            .map(|tensor| tensor.name.as_str())
    }
}

/// Whether no value is infinite or NaN; written so that it becomes vector instructions.
fn are_finite(values: &[f32]) -> bool {
    let exponent = f32::INFINITY.to_bits();
    let is_not = |value: &f32| u32::from(value.to_bits() & exponent == exponent);
    values.iter().map(is_not).fold(0, |any, one| any | one) == 0
}

/// The gradients of a step: one tensor for each parameter, with its presence.
///
/// A parameter that no network of the step used is absent: its gradient is zero and optimisers
/// may skip it.
#[derive(Clone, PartialEq, Debug)]
pub struct Gradients {
    data: Vec<Vec<f32>>,
    present: Vec<bool>,
}

impl Gradients {
    /// Zero gradients for `parameters`, all absent.
    pub fn zeros(parameters: &Parameters) -> Self {
        Self {
            data: parameters
                .iter()
                .map(|tensor| vec![0.0; tensor.data.len()])
                .collect(),
            present: vec![false; parameters.len()],
        }
    }

    /// Sets every gradient to zero and absent; keeps the memory.
    pub fn clear(&mut self) {
        let tensors = self.data.par_iter_mut().zip(&mut self.present);
        tensors.for_each(|(data, present)| {
            if std::mem::take(present) {
                data.fill(0.0);
            }
        });
    }

    /// The gradient of the parameter at `position`.
    pub fn at(&self, position: usize) -> &[f32] {
        &self.data[position]
    }

    /// The gradient of the parameter at `position`, to be added to; it becomes present.
    pub fn at_mut(&mut self, position: usize) -> &mut [f32] {
        self.present[position] = true;
        &mut self.data[position]
    }

    /// Whether a network of the step used the parameter at `position`.
    pub fn is_present(&self, position: usize) -> bool {
        self.present[position]
    }

    /// Σ g·h over all parameters.
    pub fn dot(&self, other: &Self) -> f64 {
        self.data
            .iter()
            .zip(&other.data)
            .flat_map(|(left, right)| left.iter().zip(right))
            .map(|(left, right)| f64::from(*left) * f64::from(*right))
            .sum()
    }

    /// The Euclidean norm over all parameters.
    pub fn norm(&self) -> f64 {
        self.dot(self).sqrt()
    }

    /// `self += factor · other`; what is present in `other` becomes present.
    pub fn axpy(&mut self, factor: f32, other: &Self) {
        for position in 0..self.data.len() {
            if other.present[position] {
                let target = self.data[position].iter_mut();
                target
                    .zip(&other.data[position])
                    .for_each(|(value, addend)| *value += factor * addend);
                self.present[position] = true;
            }
        }
    }

    /// `self *= factor`.
    pub fn scale(&mut self, factor: f32) {
        self.data
            .iter_mut()
            .flatten()
            .for_each(|value| *value *= factor);
    }

    /// Limits every value to `±limit`.
    pub fn clip_values(&mut self, limit: f32) {
        self.data
            .iter_mut()
            .flatten()
            .for_each(|value| *value = value.clamp(-limit, limit));
    }

    /// Scales everything so that the norm is at most `limit`; returns the norm before.
    pub fn clip_norm(&mut self, limit: f64) -> f64 {
        let norm = self.norm();
        if norm > limit {
            self.scale((limit / norm) as f32);
        }
        norm
    }

    /// Divides each value by `divisor(how much of it was covered)`, where it was covered at all.
    pub fn divide(&mut self, coverage: &Self, divisor: impl Fn(f32) -> f32) {
        for (values, covered) in self.data.iter_mut().zip(&coverage.data) {
            for (value, covered) in values.iter_mut().zip(covered) {
                if *covered > 0.0 {
                    *value /= divisor(*covered);
                }
            }
        }
    }

    /// The position of the first gradient that holds a value that is not finite.
    pub fn first_not_finite(&self) -> Option<usize> {
        self.data.iter().position(|data| !are_finite(data))
    }

    /// Borrows two gradients at once, to be added to (a weight and its bias).
    pub(crate) fn pair_mut(&mut self, first: usize, second: usize) -> (&mut [f32], &mut [f32]) {
        self.present[first] = true;
        self.present[second] = true;
        let [first, second] = self
            .data
            .get_disjoint_mut([first, second])
            .expect("a weight and its bias are two tensors");
        (first, second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Parameters {
        let mut parameters = Parameters::default();
        for (name, data) in [("a", vec![1.0, 2.0]), ("b", vec![3.0])] {
            parameters.insert(Parameter {
                name: name.into(),
                kind: ParameterKind::Bias,
                shape: vec![data.len()],
                data,
            });
        }
        parameters
    }

    #[test]
    fn gradients_are_addressable() {
        let parameters = two();
        let mut left = Gradients::zeros(&parameters);
        left.at_mut(0).copy_from_slice(&[3.0, 4.0]);
        assert_eq!((left.is_present(0), left.is_present(1)), (true, false));
        assert_eq!(left.norm(), 5.0);
        let mut right = Gradients::zeros(&parameters);
        right.at_mut(1)[0] = 2.0;
        right.axpy(0.5, &left);
        assert_eq!((right.at(0), right.at(1)), (&[1.5, 2.0][..], &[2.0][..]));
        assert_eq!(right.dot(&left), 1.5 * 3.0 + 2.0 * 4.0);
        right.clear();
        assert_eq!(right, Gradients::zeros(&parameters));
    }

    #[test]
    fn gradients_are_clipped_and_divided() {
        let parameters = two();
        let mut gradients = Gradients::zeros(&parameters);
        gradients.at_mut(0).copy_from_slice(&[3.0, -4.0]);
        assert_eq!(gradients.clip_norm(10.0), 5.0);
        assert_eq!(gradients.at(0), [3.0, -4.0]);
        gradients.clip_norm(2.5);
        assert_eq!(gradients.at(0), [1.5, -2.0]);
        gradients.clip_values(1.75);
        assert_eq!(gradients.at(0), [1.5, -1.75]);
        let mut coverage = Gradients::zeros(&parameters);
        coverage.at_mut(0)[0] = 4.0;
        gradients.divide(&coverage, f32::sqrt);
        assert_eq!(gradients.at(0), [0.75, -1.75]);
    }

    #[test]
    fn averages_move_towards_the_new_values() {
        let (mut average, mut new) = (two(), two());
        new.at_mut(0).data = vec![3.0, 4.0];
        average.average_with(&new, 0.75);
        assert_eq!(average.at(0).data, [1.5, 2.5]);
        assert_eq!(average.zeros().at(0).data, [0.0, 0.0]);
    }

    #[test]
    fn hash_sees_names_shapes_and_values() {
        let base = two();
        let mut other = two();
        other.at_mut(1).data[0] = -3.0;
        assert_ne!(base.hash(), other.hash());
        let mut other = two();
        other.at_mut(0).shape = vec![2, 1];
        assert_ne!(base.hash(), other.hash());
        assert_eq!(base.hash(), two().hash());
    }

    #[test]
    fn values_that_are_not_finite_are_named() {
        let mut parameters = two();
        assert_eq!(parameters.first_not_finite(), None);
        parameters.at_mut(1).data[0] = f32::NAN;
        assert_eq!(parameters.first_not_finite(), Some("b"));
    }
}
