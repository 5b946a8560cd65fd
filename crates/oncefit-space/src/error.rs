//! Errors of spaces: they show the place, what was found and what would be legal.

/// An error in a space, a trace or a subnet's text.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
pub enum SpaceError {
    /// A place in a space's text.
    #[error("{file}:{line}:{column}: {message}\n  | {text}\n  | {margin}^")]
    Text {
        /// Name of the file.
        file: Box<str>,
        /// Line, from 1.
        line: usize,
        /// Character of the line, from 1.
        column: usize,
        /// The line's text.
        text: Box<str>,
        /// Blanks as wide as what stands before the place.
        margin: Box<str>,
        /// What is wrong there, and what would be legal.
        message: String,
    },
    /// A request that the space cannot meet: an unknown decision, an illegal value.
    #[error("{0}")]
    Illegal(String),
    /// A graph that comes from outside and is no network: [`crate::Graph::validate`].
    #[error("`{path}`: {message}")]
    Graph {
        /// Path of the node.
        path: String,
        /// What is wrong with it.
        message: String,
    },
}

impl SpaceError {
    /// The message in one line: without the line of the text that an error shows.
    pub fn reason(&self) -> String {
        match self {
            Self::Text {
                file,
                line,
                column,
                message,
                ..
            } => format!("{file}:{line}:{column}: {message}"),
            other => other.to_string(),
        }
    }
}

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
