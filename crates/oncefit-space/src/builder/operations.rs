//! The operations of a block, and what may be said about them after they are placed.

use super::{Block, Term};
use crate::graph::Activation;
use crate::tree::{Node, OPS};

/// An operation that may still get arguments.
struct Placed<'b> {
    block: &'b mut Block,
}

impl Placed<'_> {
    fn set(&mut self, name: &str, value: impl Into<Term>) {
        let value = self.block.term(value);
        if let Some(Node::Op { kind, arguments }) = self.block.last() {
            let index = kind.arguments.iter().position(|(other, _)| *other == name);
            if let Some(index) = index {
                arguments[index] = Some(value);
            }
        }
    }
}

/// A convolution that was placed: kernel 1, stride 1, no bias, unless said otherwise.
pub struct Convolution<'b>(Placed<'b>);

/// A depthwise convolution that was placed: stride 1, no transform, unless said otherwise.
pub struct Depthwise<'b>(Placed<'b>);

/// A batch normalisation that was placed: epsilon 1e-5, unless said otherwise.
pub struct BatchNorm<'b>(Placed<'b>);

/// A linear layer that was placed: with a bias, unless said otherwise.
pub struct Linear<'b>(Placed<'b>);

/// An average pool that was placed: stride 1, padding 0, full windows, unless said otherwise.
pub struct AveragePool<'b>(Placed<'b>);

/// A maximum pool that was placed: stride 1, padding 0, unless said otherwise.
pub struct MaxPool<'b>(Placed<'b>);

impl Block {
    fn place(&mut self, name: &str, first: Option<Term>) -> Placed<'_> {
        let first = first.map(|term| self.term(term));
        if let Some(kind) = OPS.iter().find(|kind| kind.name == name) {
            let mut arguments = vec![None; kind.arguments.len()];
            if let Some(argument) = arguments.first_mut() {
                *argument = first;
            }
            self.node(Node::Op { kind, arguments });
        }
        Placed { block: self }
    }

    /// A dense convolution with `out` channels.
    pub fn conv(&mut self, out: impl Into<Term>) -> Convolution<'_> {
        Convolution(self.place("conv", Some(out.into())))
    }

    /// A depthwise convolution.
    pub fn depthwise(&mut self, kernel: impl Into<Term>) -> Depthwise<'_> {
        Depthwise(self.place("depthwise", Some(kernel.into())))
    }

    /// A batch normalisation.
    pub fn batch_norm(&mut self) -> BatchNorm<'_> {
        BatchNorm(self.place("batch_norm", None))
    }

    /// A nonlinearity.
    pub fn activation(&mut self, activation: Activation) {
        if activation == Activation::Identity {
            self.activate(activation);
        } else {
            self.place(activation.name(), None);
        }
    }

    /// A nonlinearity that is a parameter of a template or the value of a decision.
    pub fn activate(&mut self, activation: impl Into<Term>) {
        self.place("activate", Some(activation.into()));
    }

    /// The mean over all pixels.
    pub fn global_average_pool(&mut self) {
        self.place("global_average_pool", None);
    }

    /// The mean over windows of `kernel` × `kernel` pixels.
    pub fn average_pool(&mut self, kernel: impl Into<Term>) -> AveragePool<'_> {
        AveragePool(self.place("average_pool", Some(kernel.into())))
    }

    /// The maximum over windows of `kernel` × `kernel` pixels.
    pub fn max_pool(&mut self, kernel: impl Into<Term>) -> MaxPool<'_> {
        MaxPool(self.place("max_pool", Some(kernel.into())))
    }

    /// Zeros at random in training.
    pub fn dropout(&mut self, rate: impl Into<Term>) {
        self.place("dropout", Some(rate.into()));
    }

    /// All features times a matrix, `out` of them left.
    pub fn linear(&mut self, out: impl Into<Term>) -> Linear<'_> {
        Linear(self.place("linear", Some(out.into())))
    }
}

impl Convolution<'_> {
    /// Pixels on a side, odd.
    pub fn kernel(mut self, kernel: impl Into<Term>) -> Self {
        self.0.set("kernel", kernel);
        self
    }

    /// Step between outputs.
    pub fn stride(mut self, stride: impl Into<Term>) -> Self {
        self.0.set("stride", stride);
        self
    }

    /// Whether it has a bias.
    pub fn bias(mut self, bias: impl Into<Term>) -> Self {
        self.0.set("bias", bias);
        self
    }
}

impl Depthwise<'_> {
    /// Step between outputs.
    pub fn stride(mut self, stride: impl Into<Term>) -> Self {
        self.0.set("stride", stride);
        self
    }

    /// Whether a supernet makes smaller kernels from larger ones through learnt matrices.
    pub fn transform(mut self, transform: impl Into<Term>) -> Self {
        self.0.set("transform", transform);
        self
    }
}

impl BatchNorm<'_> {
    /// What is added to the variance.
    pub fn epsilon(mut self, epsilon: impl Into<Term>) -> Self {
        self.0.set("epsilon", epsilon);
        self
    }
}

impl Linear<'_> {
    /// Whether it has a bias.
    pub fn bias(mut self, bias: impl Into<Term>) -> Self {
        self.0.set("bias", bias);
        self
    }
}

impl AveragePool<'_> {
    /// Step between outputs.
    pub fn stride(mut self, stride: impl Into<Term>) -> Self {
        self.0.set("stride", stride);
        self
    }

    /// Pixels around the image, which do not count.
    pub fn padding(mut self, padding: impl Into<Term>) -> Self {
        self.0.set("padding", padding);
        self
    }

    /// Whether a last, partial window counts.
    pub fn ceil(mut self, ceil: impl Into<Term>) -> Self {
        self.0.set("ceil", ceil);
        self
    }
}

impl MaxPool<'_> {
    /// Step between outputs.
    pub fn stride(mut self, stride: impl Into<Term>) -> Self {
        self.0.set("stride", stride);
        self
    }

    /// Pixels around the image.
    pub fn padding(mut self, padding: impl Into<Term>) -> Self {
        self.0.set("padding", padding);
        self
    }
}
