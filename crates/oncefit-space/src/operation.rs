//! The arguments of one operation in a text, as an operation of a graph.

use crate::error::Result;
use crate::expression::Expression;
use crate::graph::{Activation, Op};
use crate::program::{Formula, Operation, size, with_size};
use crate::tree::{Fallback, OpKind, Source};
use crate::value::Value;

/// An operation of the language with its arguments, `None` where one is left out.
///
/// # Errors
/// At `at`, if an argument is missing, is no legal value or depends on a decision where it may not:
/// only the output channels of `conv`, the features of `linear` and the kernels of `conv` and
/// `depthwise` may.
pub(crate) fn operation(
    source: &Source,
    path: String,
    kind: &'static OpKind,
    arguments: &[Option<Formula>],
    at: usize,
) -> Result<Operation> {
    let reader = Arguments {
        source,
        kind,
        arguments,
        at,
    };
    let is_open = |formula: &&Formula| !matches!(formula, Expression::Constant(_));
    let kernel = match kind.name {
        "conv" => reader.formula(1).filter(is_open).cloned(),
        _ => None,
    };
    let (op, is_sized) = match kind.name {
        "conv" => (
            Op::Convolution {
                out_channels: 1,
                kernel: match &kernel {
                    None => reader.size(1)?,
                    Some(_) => 1,
                },
                stride: reader.size(2)?,
                bias: reader.truth(3)?,
            },
            true,
        ),
        "depthwise" => {
            let (stride, transform) = (reader.size(1)?, reader.truth(2)?);
            (
                Op::Depthwise {
                    kernel: 1,
                    stride,
                    transform,
                },
                true,
            )
        }
        "linear" => (
            Op::Linear {
                out_features: 1,
                bias: reader.truth(1)?,
            },
            true,
        ),
        "batch_norm" => {
            let epsilon = reader.real(0)?;
            if epsilon < 0.0 {
                return reader.wrong(0, "0 or more", &Value::Real(epsilon.into()));
            }
            (Op::BatchNorm { epsilon }, false)
        }
        "activate" => (Op::Activation(reader.activation(0)?), false),
        "global_average_pool" => (Op::GlobalAveragePool, false),
        "average_pool" => {
            let (kernel, stride, padding) = (reader.size(0)?, reader.size(1)?, reader.padding(2)?);
            (
                Op::AveragePool {
                    kernel,
                    stride,
                    padding,
                    ceil: reader.truth(3)?,
                },
                false,
            )
        }
        "max_pool" => {
            let (kernel, stride, padding) = (reader.size(0)?, reader.size(1)?, reader.padding(2)?);
            (
                Op::MaxPool {
                    kernel,
                    stride,
                    padding,
                },
                false,
            )
        }
        "dropout" => {
            let rate = reader.real(0)?;
            if !(0.0..1.0).contains(&rate) {
                return Err(source.error(
                    at,
                    format!("a dropout rate is 0 or more and below 1, this is {rate}"),
                ));
            }
            (Op::Dropout { rate }, false)
        }
        name => match Activation::by_name(name) {
            Some(activation) => (Op::Activation(activation), false),
            None => return Err(source.error(at, format!("`{name}` has no operation"))),
        },
    };
    let size = reader.formula(0).filter(|_| is_sized).filter(is_open);
    Ok(Operation {
        path,
        op: match (is_sized, size) {
            (true, None) => with_size(op, reader.size(0)?),
            _ => op,
        },
        size: size.cloned(),
        kernel,
        at,
    })
}

struct Arguments<'a> {
    source: &'a Source,
    kind: &'static OpKind,
    arguments: &'a [Option<Formula>],
    at: usize,
}

impl Arguments<'_> {
    fn formula(&self, index: usize) -> Option<&Formula> {
        self.arguments.get(index)?.as_ref()
    }

    fn what(&self, index: usize) -> String {
        format!(
            "argument `{}` of `{}`",
            self.kind.arguments[index].0, self.kind.name
        )
    }

    fn value(&self, index: usize) -> Result<Value> {
        let (name, fallback) = self.kind.arguments[index];
        let message = match (self.formula(index), fallback) {
            (Some(Expression::Constant(value)), _) => return Ok(value.clone()),
            (None, Fallback::Int(value)) => return Ok(Value::Int(value)),
            (None, Fallback::Real(value)) => return Ok(Value::Real(value)),
            (None, Fallback::Bool(value)) => return Ok(Value::Bool(value)),
            (None, Fallback::Required) => {
                format!("`{}` needs its argument `{name}`", self.kind.name)
            }
            (Some(_), _) => format!(
                "{} may not depend on a decision or on `in`",
                self.what(index)
            ),
        };
        Err(self.source.error(self.at, message))
    }

    fn size(&self, index: usize) -> Result<usize> {
        let value = self.value(index)?;
        size(&value, &self.what(index)).map_err(|message| self.source.error(self.at, message))
    }

    fn padding(&self, index: usize) -> Result<usize> {
        match self.value(index)? {
            Value::Int(0) => Ok(0),
            _ => self.size(index),
        }
    }

    fn truth(&self, index: usize) -> Result<bool> {
        match self.value(index)? {
            Value::Bool(value) => Ok(value),
            other => self.wrong(index, "true or false", &other),
        }
    }

    fn real(&self, index: usize) -> Result<f32> {
        let value = self.value(index)?;
        match value.as_f64() {
            Some(number) => Ok(number as f32),
            None => self.wrong(index, "a number", &value),
        }
    }

    fn activation(&self, index: usize) -> Result<Activation> {
        let value = self.value(index)?;
        let found = match &value {
            Value::Text(name) => Activation::by_name(name),
            _ => None,
        };
        match found {
            Some(activation) => Ok(activation),
            None => {
                let names = Activation::ALL.map(|(name, _)| name).join(", ");
                self.wrong(index, &format!("one of {names}"), &value)
            }
        }
    }

    fn wrong<T>(&self, index: usize, expected: &str, found: &Value) -> Result<T> {
        let message = format!("{} is {expected}, this is `{found}`", self.what(index));
        Err(self.source.error(self.at, message))
    }
}
