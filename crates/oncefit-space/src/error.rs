//! Errors of spaces: they show the place, what was found and what would be legal.

use std::fmt;

/// An error in a space, a trace or a subnet's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpaceError {
    /// A place in a space's text.
    Text {
        /// File name, line and column, both from 1.
        place: (String, usize, usize),
        /// The line.
        line: String,
        /// What is wrong there.
        message: String,
    },
    /// A request that the space cannot meet: an unknown decision, an illegal value.
    Illegal(String),
    /// A network that cannot be built: shapes that do not meet.
    Shape {
        /// Path of the operation.
        path: String,
        /// The shapes and what they would have to be.
        message: String,
    },
}

impl fmt::Display for SpaceError {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Text {
                place: (file, row, column),
                line,
                message,
            } => {
                let caret = " ".repeat(column.saturating_sub(1));
                write!(
                    formatter,
                    "{file}:{row}:{column}: {message}\n  | {line}\n  | {caret}^"
                )
            }
            Self::Illegal(message) => formatter.write_str(message),
            Self::Shape { path, message } => write!(formatter, "`{path}`: {message}"),
        }
    }
}

impl std::error::Error for SpaceError {}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, SpaceError>;

/// "; did you mean `x`?", if one of the candidates is close to `word`.
pub(crate) fn suggestion<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| format!("; did you mean `{candidate}`?"))
        .unwrap_or_default()
}
