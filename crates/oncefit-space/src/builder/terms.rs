//! Values of expressions and domains, as a builder takes them.

use std::ops::{Add, Div, Mul, RangeInclusive, Sub};

use crate::expression::{Expression, Function, Operator, Word};
use crate::graph::Activation;
use crate::tree::{DomainText, Written};
use crate::value::Value;

/// An expression over parameters and decisions: `&width * 3 / 4`.
#[derive(Clone, Debug)]
pub struct Term(pub(super) Written);

impl Term {
    /// The number of words that stand for themselves.
    pub(super) const WORD: usize = usize::MAX;

    /// The number of tensors, which are no values.
    pub(super) const TENSOR: usize = usize::MAX - 1;

    /// What the node with this label made, as an argument of a template: `read stem`.
    pub fn tensor(label: &str) -> Self {
        Self(Expression::Name(Word {
            text: label.to_owned(),
            at: Self::TENSOR,
        }))
    }

    /// The label, if it is a tensor.
    pub(super) fn label(&self) -> Option<&str> {
        match &self.0 {
            Expression::Name(word) if word.at == Self::TENSOR => Some(&word.text),
            _ => None,
        }
    }

    /// A word that stands for itself: a value of an unordered decision.
    pub fn text(word: &str) -> Self {
        Value::from(word).into()
    }

    /// `in`: the number of channels that arrive.
    pub fn channels() -> Self {
        Self::word("in")
    }

    fn word(text: &str) -> Self {
        Self(Expression::Name(Word {
            text: text.to_owned(),
            at: Self::WORD,
        }))
    }

    fn binary(self, operator: Operator, other: impl Into<Term>) -> Self {
        let right = other.into().0;
        Self(Expression::Binary(
            operator,
            Box::new(self.0),
            Box::new(right),
        ))
    }

    fn call<const N: usize>(function: Function, arguments: [Term; N]) -> Self {
        let arguments = arguments.map(|Term(argument)| argument).to_vec();
        Self(Expression::Call(function, arguments))
    }

    /// `self == other`.
    pub fn equals(&self, other: impl Into<Term>) -> Self {
        self.clone().binary(Operator::Equal, other)
    }

    /// `self != other`.
    pub fn differs(&self, other: impl Into<Term>) -> Self {
        self.clone().binary(Operator::NotEqual, other)
    }

    /// `self < other`.
    pub fn below(&self, other: impl Into<Term>) -> Self {
        self.clone().binary(Operator::Less, other)
    }

    /// `self <= other`.
    pub fn at_most(&self, other: impl Into<Term>) -> Self {
        self.clone().binary(Operator::LessEqual, other)
    }

    /// `self > other`.
    pub fn above(&self, other: impl Into<Term>) -> Self {
        self.clone().binary(Operator::Greater, other)
    }

    /// `self >= other`.
    pub fn at_least(&self, other: impl Into<Term>) -> Self {
        self.clone().binary(Operator::GreaterEqual, other)
    }

    /// Whether both hold.
    pub fn and(&self, other: impl Into<Term>) -> Self {
        self.clone().binary(Operator::And, other)
    }

    /// Whether one or both hold.
    pub fn or(&self, other: impl Into<Term>) -> Self {
        self.clone().binary(Operator::Or, other)
    }

    /// Whether it does not hold.
    pub fn negated(&self) -> Self {
        Self::call(Function::Not, [self.clone()])
    }

    /// The smaller one.
    pub fn min(&self, other: impl Into<Term>) -> Self {
        Self::call(Function::Min, [self.clone(), other.into()])
    }

    /// The larger one.
    pub fn max(&self, other: impl Into<Term>) -> Self {
        Self::call(Function::Max, [self.clone(), other.into()])
    }

    /// The closest integer.
    pub fn round(&self) -> Self {
        Self::call(Function::Round, [self.clone()])
    }

    /// The multiple of `divisor` that MobileNets round to: [`crate::make_divisible`].
    pub fn divisible(&self, divisor: impl Into<Term>) -> Self {
        Self::call(Function::Divisible, [self.clone(), divisor.into()])
    }

    /// `if self then then else otherwise`.
    pub fn select(&self, then: impl Into<Term>, otherwise: impl Into<Term>) -> Self {
        let parts = [self.0.clone(), then.into().0, otherwise.into().0];
        Self(Expression::If(Box::new(parts)))
    }
}

impl From<&Term> for Term {
    fn from(term: &Term) -> Self {
        term.clone()
    }
}

/// Its name, as an argument of a template or a value of a decision.
impl From<Activation> for Term {
    fn from(activation: Activation) -> Self {
        Self::word(activation.name())
    }
}

impl From<Value> for Term {
    fn from(value: Value) -> Self {
        Self(Expression::Constant(value))
    }
}

/// Terms of Rust's numbers and truth values.
macro_rules! constants {
    ($($kind:ty),*) => {$(
        impl From<$kind> for Term {
            fn from(value: $kind) -> Self {
                Value::from(value).into()
            }
        }
    )*};
}

constants!(i32, i64, f64, bool);

/// Arithmetic of terms, with a number on either side.
macro_rules! arithmetic {
    ($($operator:ident $function:ident $variant:ident),*) => {$(
        impl<T: Into<Term>> $operator<T> for Term {
            type Output = Term;
            fn $function(self, other: T) -> Term {
                self.binary(Operator::$variant, other)
            }
        }

        impl<T: Into<Term>> $operator<T> for &Term {
            type Output = Term;
            fn $function(self, other: T) -> Term {
                self.clone().binary(Operator::$variant, other)
            }
        }

        arithmetic!(@number i32 $operator $function $variant);
        arithmetic!(@number i64 $operator $function $variant);
        arithmetic!(@number f64 $operator $function $variant);
    )*};
    (@number $number:ident $operator:ident $function:ident $variant:ident) => {
        impl $operator<Term> for $number {
            type Output = Term;
            fn $function(self, other: Term) -> Term {
                Term::from(self).binary(Operator::$variant, other)
            }
        }

        impl $operator<&Term> for $number {
            type Output = Term;
            fn $function(self, other: &Term) -> Term {
                Term::from(self).binary(Operator::$variant, other)
            }
        }
    };
}

arithmetic!(Add add Add, Sub sub Subtract, Mul mul Multiply, Div div Divide);

/// The arguments of a template: an array of terms, or a tuple of up to six things that are terms.
pub trait Arguments<const N: usize> {
    /// The arguments in order.
    fn terms(self) -> [Term; N];
}

impl<T: Into<Term>, const N: usize> Arguments<N> for [T; N] {
    fn terms(self) -> [Term; N] {
        self.map(Into::into)
    }
}

macro_rules! tuples {
    ($($count:literal ($($name:ident)*))*) => {$(
        impl<$($name: Into<Term>),*> Arguments<$count> for ($($name,)*) {
            #[allow(non_snake_case)]
            fn terms(self) -> [Term; $count] {
                let ($($name,)*) = self;
                [$($name.into()),*]
            }
        }
    )*};
}

tuples!(2 (A B) 3 (A B C) 4 (A B C D) 5 (A B C D E) 6 (A B C D E F));

/// No arguments.
impl Arguments<0> for () {
    fn terms(self) -> [Term; 0] {
        []
    }
}

/// The values of a decision: an array or vector of terms, a range of integers, or one of the
/// functions here.
#[derive(Clone, Debug)]
pub struct Values(pub(super) DomainText);

impl Values {
    /// `from..=to`: integers.
    pub fn range(from: impl Into<Term>, to: impl Into<Term>) -> Self {
        Self(DomainText::Range {
            from: from.into().0,
            to: to.into().0,
            step: None,
        })
    }

    /// `from..=to step step`: integers.
    pub fn steps(from: impl Into<Term>, to: impl Into<Term>, step: impl Into<Term>) -> Self {
        Self(DomainText::Range {
            from: from.into().0,
            to: to.into().0,
            step: Some(step.into().0),
        })
    }

    /// `log from..=to count count`: real values in equal ratios.
    pub fn log(from: impl Into<Term>, to: impl Into<Term>, count: impl Into<Term>) -> Self {
        Self(DomainText::Log {
            from: from.into().0,
            to: to.into().0,
            count: count.into().0,
        })
    }

    /// Values of which neighbours are not alike.
    pub fn unordered<T: Into<Term>>(values: impl IntoIterator<Item = T>) -> Self {
        Self::list(values, true)
    }

    fn list<T: Into<Term>>(values: impl IntoIterator<Item = T>, unordered: bool) -> Self {
        Self(DomainText::List {
            values: values.into_iter().map(|value| value.into().0).collect(),
            unordered,
        })
    }
}

impl<T: Into<Term>, const N: usize> From<[T; N]> for Values {
    fn from(values: [T; N]) -> Self {
        Self::list(values, false)
    }
}

impl<T: Into<Term>> From<Vec<T>> for Values {
    fn from(values: Vec<T>) -> Self {
        Self::list(values, false)
    }
}

impl From<RangeInclusive<i32>> for Values {
    fn from(range: RangeInclusive<i32>) -> Self {
        Self::range(*range.start(), *range.end())
    }
}

impl From<RangeInclusive<i64>> for Values {
    fn from(range: RangeInclusive<i64>) -> Self {
        Self::range(*range.start(), *range.end())
    }
}
