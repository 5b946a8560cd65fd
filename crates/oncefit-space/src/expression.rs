//! Expressions over parameters, decisions and `in`, the number of channels that arrive.

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
}

/// The functions of the language.
pub(crate) const FUNCTIONS: [&str; 5] = ["divisible", "max", "min", "not", "round"];

/// An expression.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Expression {
    Constant(Value),
    /// A name and its offset in the text.
    Name(String, usize),
    Binary(Operator, Box<Expression>, Box<Expression>),
    Call(&'static str, Vec<Expression>),
    If(Box<[Expression; 3]>),
}

/// Why an expression has no value, and where.
#[derive(Debug)]
pub(crate) struct NoValue {
    pub message: String,
    pub at: Option<usize>,
}

impl Expression {
    /// The names it reads.
    pub fn names(&self, found: &mut Vec<String>) {
        match self {
            Self::Constant(_) => {}
            Self::Name(name, _) => {
                if !found.contains(name) {
                    found.push(name.clone());
                }
            }
            Self::Binary(_, left, right) => {
                left.names(found);
                right.names(found);
            }
            Self::Call(_, arguments) => arguments.iter().for_each(|part| part.names(found)),
            Self::If(parts) => parts.iter().for_each(|part| part.names(found)),
        }
    }

    /// Its value, given those of the names it reads.
    pub fn evaluate(&self, lookup: &dyn Fn(&str) -> Option<Value>) -> Result<Value, NoValue> {
        match self {
            Self::Constant(value) => Ok(value.clone()),
            Self::Name(name, at) => lookup(name).ok_or_else(|| NoValue {
                message: format!("`{name}` is not known here"),
                at: Some(*at),
            }),
            Self::Binary(operator, left, right) => {
                let left = left.evaluate(lookup)?;
                // The right side of `and`, `or` is not reached where the left decides.
                match (operator, &left) {
                    (Operator::And, Value::Bool(false)) | (Operator::Or, Value::Bool(true)) => {
                        return Ok(left);
                    }
                    _ => {}
                }
                binary(*operator, &left, &right.evaluate(lookup)?)
            }
            Self::Call(function, arguments) => {
                let values = arguments
                    .iter()
                    .map(|part| part.evaluate(lookup))
                    .collect::<Result<Vec<_>, _>>()?;
                call(function, &values)
            }
            Self::If(parts) => match parts[0].evaluate(lookup)? {
                Value::Bool(true) => parts[1].evaluate(lookup),
                Value::Bool(false) => parts[2].evaluate(lookup),
                other => Err(wrong("a condition is true or false", &[other])),
            },
        }
    }
}

fn wrong(expected: &str, found: &[Value]) -> NoValue {
    let found: Vec<String> = found
        .iter()
        .map(|value| format!("{} `{value}`", value.kind()))
        .collect();
    NoValue {
        message: format!("{expected}, this is {}", found.join(" and ")),
        at: None,
    }
}

fn binary(operator: Operator, left: &Value, right: &Value) -> Result<Value, NoValue> {
    use Operator as O;
    use Value::{Bool, Int, Real};
    let overflow = || NoValue {
        message: "the result is too large".into(),
        at: None,
    };
    match (operator, left, right) {
        (O::Equal, ..) => Ok(Bool(same(left, right))),
        (O::NotEqual, ..) => Ok(Bool(!same(left, right))),
        (O::And, Bool(left), Bool(right)) => Ok(Bool(*left && *right)),
        (O::Or, Bool(left), Bool(right)) => Ok(Bool(*left || *right)),
        (O::Add, Int(left), Int(right)) => left.checked_add(*right).map(Int).ok_or_else(overflow),
        (O::Subtract, Int(left), Int(right)) => {
            left.checked_sub(*right).map(Int).ok_or_else(overflow)
        }
        (O::Multiply, Int(left), Int(right)) => {
            left.checked_mul(*right).map(Int).ok_or_else(overflow)
        }
        (O::Divide, Int(left), Int(right)) => {
            left.checked_div_euclid(*right)
                .map(Int)
                .ok_or_else(|| NoValue {
                    message: "division by zero".into(),
                    at: None,
                })
        }
        _ => {
            let (Some(a), Some(b)) = (left.as_f64(), right.as_f64()) else {
                let expected = format!("`{}` takes two numbers", operator.text());
                return Err(wrong(&expected, &[left.clone(), right.clone()]));
            };
            Ok(match operator {
                O::Less => Bool(a < b),
                O::LessEqual => Bool(a <= b),
                O::Greater => Bool(a > b),
                O::GreaterEqual => Bool(a >= b),
                O::Add => Real(a + b),
                O::Subtract => Real(a - b),
                O::Multiply => Real(a * b),
                O::Divide => Real(a / b),
                O::Or | O::And | O::Equal | O::NotEqual => {
                    let expected = format!("`{}` takes two truth values", operator.text());
                    return Err(wrong(&expected, &[left.clone(), right.clone()]));
                }
            })
        }
    }
}

fn same(left: &Value, right: &Value) -> bool {
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left == right,
        _ => left == right,
    }
}

fn call(function: &str, values: &[Value]) -> Result<Value, NoValue> {
    let is_real = values.iter().any(|value| matches!(value, Value::Real(_)));
    let numbers: Option<Vec<f64>> = values.iter().map(Value::as_f64).collect();
    let number = |value: f64| {
        if is_real {
            Value::Real(value)
        } else {
            Value::Int(value as i64)
        }
    };
    match (function, values, numbers.as_deref()) {
        ("not", [Value::Bool(value)], _) => Ok(Value::Bool(!value)),
        ("round", _, Some([value])) => Ok(Value::Int(value.round() as i64)),
        ("min", _, Some([left, right])) => Ok(number(left.min(*right))),
        ("max", _, Some([left, right])) => Ok(number(left.max(*right))),
        ("divisible", _, Some([value, divisor])) if *divisor >= 1.0 => {
            Ok(Value::Int(make_divisible(*value, *divisor as i64)))
        }
        _ => {
            let expected = match function {
                "not" => "`not(x)` takes one truth value",
                "round" => "`round(x)` takes one number",
                "divisible" => "`divisible(x, divisor)` takes a number and a divisor of at least 1",
                "min" => "`min(x, y)` takes two numbers",
                _ => "`max(x, y)` takes two numbers",
            };
            Err(wrong(expected, values))
        }
    }
}

/// The multiple of `divisor` closest to `value`, at least one, and not below 90 % of `value`
/// (brief `once-for-all` §2.4).
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
    fn make_divisible_has_the_values_of_the_brief() {
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
}
