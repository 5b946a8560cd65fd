//! Expressions over parameters, decisions and `in`, the number of channels that arrive.
//!
//! Integers divide as in Euclid's division (`7 / 2` is 3); a real number on either side makes the
//! result real.

use crate::value::Value;

/// A binary operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
}

impl Operator {
    pub const ALL: [(&'static str, Operator); 12] = [
        ("or", Self::Or),
        ("and", Self::And),
        ("==", Self::Equal),
        ("!=", Self::NotEqual),
        ("<=", Self::LessEqual),
        (">=", Self::GreaterEqual),
        ("<", Self::Less),
        (">", Self::Greater),
        ("+", Self::Add),
        ("-", Self::Subtract),
        ("*", Self::Multiply),
        ("/", Self::Divide),
    ];

    pub fn text(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, operator)| *operator == self)
            .map_or("", |(text, _)| text)
    }

    /// How tightly it binds.
    pub fn precedence(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And => 2,
            Self::Equal | Self::NotEqual => 3,
            Self::Less | Self::LessEqual | Self::Greater | Self::GreaterEqual => 3,
            Self::Add | Self::Subtract => 4,
            Self::Multiply | Self::Divide => 5,
        }
    }

    /// Whether the value of the left side is the result, whatever the right side is.
    pub fn is_decided_by(self, left: &Value) -> bool {
        matches!(
            (self, left),
            (Self::And, Value::Bool(false)) | (Self::Or, Value::Bool(true))
        )
    }
}

/// A function of the language.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Function {
    Divisible,
    Max,
    Min,
    Not,
    Round,
}

impl Function {
    pub const ALL: [(&'static str, Function); 5] = [
        ("divisible", Self::Divisible),
        ("max", Self::Max),
        ("min", Self::Min),
        ("not", Self::Not),
        ("round", Self::Round),
    ];

    pub fn text(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, function)| *function == self)
            .map_or("", |(text, _)| text)
    }
}

/// An expression whose names are `N`: words in a text, variables in a program.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Expression<N> {
    Constant(Value),
    Name(N),
    Binary(Operator, Box<Expression<N>>, Box<Expression<N>>),
    Call(Function, Vec<Expression<N>>),
    If(Box<[Expression<N>; 3]>),
}

/// A name in a text.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Word {
    pub text: String,
    /// Its offset.
    pub at: usize,
}

impl<N> Expression<N> {
    /// Calls `found` for every name, in order.
    pub fn names<'e>(&'e self, found: &mut dyn FnMut(&'e N)) {
        match self {
            Self::Constant(_) => {}
            Self::Name(name) => found(name),
            Self::Binary(_, left, right) => {
                left.names(found);
                right.names(found);
            }
            Self::Call(_, arguments) => arguments.iter().for_each(|part| part.names(found)),
            Self::If(parts) => parts.iter().for_each(|part| part.names(found)),
        }
    }

    /// Calls `change` for every name, in order.
    pub fn names_mut(&mut self, change: &mut dyn FnMut(&mut N)) {
        match self {
            Self::Constant(_) => {}
            Self::Name(name) => change(name),
            Self::Binary(_, left, right) => {
                left.names_mut(change);
                right.names_mut(change);
            }
            Self::Call(_, arguments) => {
                arguments.iter_mut().for_each(|part| part.names_mut(change))
            }
            Self::If(parts) => parts.iter_mut().for_each(|part| part.names_mut(change)),
        }
    }

    /// Its value, given those of its names.
    ///
    /// # Errors
    /// Why it has none: the message.
    pub fn evaluate(&self, lookup: &dyn Fn(&N) -> Value) -> Result<Value, String> {
        match self {
            Self::Constant(value) => Ok(value.clone()),
            Self::Name(name) => Ok(lookup(name)),
            Self::Binary(operator, left, right) => {
                let left = left.evaluate(lookup)?;
                match operator.is_decided_by(&left) {
                    true => Ok(left),
                    false => binary(*operator, &left, &right.evaluate(lookup)?),
                }
            }
            Self::Call(function, arguments) => {
                let values = arguments
                    .iter()
                    .map(|part| part.evaluate(lookup))
                    .collect::<Result<Vec<_>, _>>()?;
                call(*function, &values)
            }
            Self::If(parts) => match parts[0].evaluate(lookup)? {
                Value::Bool(true) => parts[1].evaluate(lookup),
                Value::Bool(false) => parts[2].evaluate(lookup),
                other => Err(wrong("a condition is true or false", &[other])),
            },
        }
    }
}

fn wrong(expected: &str, found: &[Value]) -> String {
    let found: Vec<String> = found
        .iter()
        .map(|value| format!("{} `{value}`", value.kind()))
        .collect();
    format!("{expected}, this is {}", found.join(" and "))
}

fn binary(operator: Operator, left: &Value, right: &Value) -> Result<Value, String> {
    use Operator as O;
    use Value::{Bool, Int, Real};
    match (operator, left, right) {
        (O::Equal, ..) => return Ok(Bool(left.is_equal_to(right))),
        (O::NotEqual, ..) => return Ok(Bool(!left.is_equal_to(right))),
        (O::And, Bool(left), Bool(right)) => return Ok(Bool(*left && *right)),
        (O::Or, Bool(left), Bool(right)) => return Ok(Bool(*left || *right)),
        (O::And | O::Or, ..) => {
            let expected = format!("`{}` takes two truth values", operator.text());
            return Err(wrong(&expected, &[left.clone(), right.clone()]));
        }
        (O::Divide, Int(_), Int(0)) => return Err("division by zero".into()),
        (O::Add | O::Subtract | O::Multiply | O::Divide, Int(left), Int(right)) => {
            let result = match operator {
                O::Add => left.checked_add(*right),
                O::Subtract => left.checked_sub(*right),
                O::Multiply => left.checked_mul(*right),
                _ => left.checked_div_euclid(*right),
            };
            return result
                .map(Int)
                .ok_or_else(|| "the result is too large".into());
        }
        _ => {}
    }
    let (Some(a), Some(b)) = (left.as_f64(), right.as_f64()) else {
        let expected = format!("`{}` takes two numbers", operator.text());
        return Err(wrong(&expected, &[left.clone(), right.clone()]));
    };
    let result = match operator {
        O::Less => return Ok(Bool(a < b)),
        O::LessEqual => return Ok(Bool(a <= b)),
        O::Greater => return Ok(Bool(a > b)),
        O::GreaterEqual => return Ok(Bool(a >= b)),
        O::Add => a + b,
        O::Subtract => a - b,
        O::Multiply => a * b,
        _ => a / b,
    };
    match result.is_finite() {
        true => Ok(Real(result)),
        false => Err(format!(
            "`{left} {} {right}` is no finite number",
            operator.text()
        )),
    }
}

fn call(function: Function, values: &[Value]) -> Result<Value, String> {
    use Value::{Bool, Int, Real};
    let expected = match (function, values) {
        (Function::Not, [Bool(value)]) => return Ok(Bool(!value)),
        (Function::Round, [value @ Int(_)]) => return Ok(value.clone()),
        (Function::Round, [Real(value)]) => return Ok(Int(value.round() as i64)),
        (Function::Min, [Int(left), Int(right)]) => return Ok(Int(*left.min(right))),
        (Function::Max, [Int(left), Int(right)]) => return Ok(Int(*left.max(right))),
        (Function::Min | Function::Max, [left, right]) => {
            if let (Some(left), Some(right)) = (left.as_f64(), right.as_f64()) {
                let is_min = function == Function::Min;
                return Ok(Real(if is_min {
                    left.min(right)
                } else {
                    left.max(right)
                }));
            }
            "`min(x, y)` and `max(x, y)` take two numbers"
        }
        (Function::Divisible, [value, Int(divisor @ 1..=1_000_000)]) => match value.as_f64() {
            Some(value) => return Ok(Int(make_divisible(value, *divisor))),
            None => "`divisible(x, divisor)` takes a number",
        },
        (Function::Not, _) => "`not(x)` takes one truth value",
        (Function::Round, _) => "`round(x)` takes one number",
        (Function::Divisible, _) => {
            "`divisible(x, divisor)` takes a number and an integer divisor from 1 to 1000000"
        }
        (Function::Min | Function::Max, _) => "`min(x, y)` and `max(x, y)` take two numbers",
    };
    Err(wrong(expected, values))
}

/// The multiple of `divisor` closest to `value`, at least one, and not below 90 % of `value`
/// (Once-for-All's `make_divisible`).
pub fn make_divisible(value: f64, divisor: i64) -> i64 {
    let step = divisor as f64;
    let rounded = (((value + step / 2.0) / step).floor() * step).max(step);
    (if rounded < 0.9 * value {
        rounded + step
    } else {
        rounded
    }) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn make_divisible_has_known_values() {
        for (value, expected) in [
            (19.2, 24),
            (28.8, 32),
            (134.4, 136),
            (41.6, 40),
            (249.6, 248),
            (90.0, 88),
            (1.0, 8),
        ] {
            assert_eq!(make_divisible(value, 8), expected, "{value}");
        }
    }

    #[test]
    fn integers_stay_integers_and_overflow_is_an_error() {
        use Operator as O;
        use Value::{Int, Real};
        for (operator, left, right, expected) in [
            (O::Divide, Int(7), Int(2), Ok(Int(3))),
            (O::Divide, Int(7), Real(2.0), Ok(Real(3.5))),
            (O::Multiply, Int(16), Real(1.5), Ok(Real(24.0))),
            (O::Less, Int(1), Real(1.5), Ok(Value::Bool(true))),
            (O::Equal, Int(1), Real(1.0), Ok(Value::Bool(true))),
            (O::Divide, Int(1), Int(0), Err("division by zero")),
            (O::Divide, Int(i64::MIN), Int(-1), Err("too large")),
            (O::Multiply, Int(i64::MAX), Int(2), Err("too large")),
            (
                O::Multiply,
                Real(1e300),
                Real(1e300),
                Err("no finite number"),
            ),
            (O::Add, Int(1), Value::Bool(true), Err("takes two numbers")),
            (O::And, Int(1), Value::Bool(true), Err("two truth values")),
        ] {
            let found = binary(operator, &left, &right);
            match (&found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(*found, expected),
                (Err(found), Err(part)) => assert!(found.contains(part), "{found}"),
                (_, expected) => panic!("{left} {operator:?} {right}: {found:?}, {expected:?}"),
            }
        }
    }
}
