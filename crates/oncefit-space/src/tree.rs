//! The tree of a space, as it is written.

use crate::error::SpaceError;
use crate::expression::{Expression, Word};
use crate::value::Value;

/// An expression as it is written.
pub(crate) type Written = Expression<Word>;

/// A whole space: a header, definitions and a body.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub name: String,
    /// Parameters with their values.
    pub parameters: Vec<(String, Value)>,
    pub definitions: Vec<Definition>,
    pub body: Block,
    pub fixes: Vec<Fix>,
    /// What it was read from, for messages.
    pub source: Source,
}

/// Decisions that are narrowed to some of their values.
#[derive(Clone, Debug)]
pub(crate) struct Fix {
    /// Name or path.
    pub name: String,
    pub values: Vec<Value>,
    /// Its place, if it stands in the text.
    pub at: Option<usize>,
}

/// A text and its name.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub file: String,
    pub text: String,
}

impl Source {
    /// An error at an offset of the text.
    pub fn error(&self, at: usize, message: impl Into<String>) -> SpaceError {
        let at = at.min(self.text.len());
        let start = self.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let before = &self.text[start..at];
        SpaceError::Text {
            file: self.file.as_str().into(),
            line: self.text[..at].matches('\n').count() + 1,
            column: before.chars().count() + 1,
            text: self.text[start..].lines().next().unwrap_or_default().into(),
            // A tab stays a tab, so that the caret stands below its place.
            margin: before
                .chars()
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect(),
            message: message.into(),
        }
    }
}

/// A template; each use decides afresh.
#[derive(Clone, Debug)]
pub(crate) struct Definition {
    pub name: String,
    pub parameters: Vec<Parameter>,
    pub body: Block,
}

/// A parameter of a template.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Parameter {
    pub name: String,
    /// Whether it stands for a tensor: `read before`.
    pub is_tensor: bool,
}

impl std::fmt::Display for Parameter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        let mark = if self.is_tensor { "read " } else { "" };
        write!(formatter, "{mark}{}", self.name)
    }
}

impl Definition {
    /// Its parameters as they are written.
    pub fn parameter_list(&self) -> String {
        let names: Vec<String> = self.parameters.iter().map(Parameter::to_string).collect();
        names.join(", ")
    }
}

/// What a template is given.
#[derive(Clone, Debug)]
pub(crate) enum Argument {
    Value(Written),
    /// What the node with this label made.
    Tensor(String),
}

impl Argument {
    fn value_mut(&mut self) -> Option<&mut Written> {
        match self {
            Self::Value(value) => Some(value),
            Self::Tensor(_) => None,
        }
    }
}

pub(crate) type Block = Vec<Statement>;

#[derive(Clone, Debug)]
pub(crate) enum Statement {
    /// A shared decision: decided once, known in the rest of the block.
    Decide {
        name: String,
        domain: DomainText,
        at: usize,
    },
    /// A named expression.
    Let {
        name: String,
        value: Written,
        at: usize,
    },
    Node {
        label: Option<String>,
        node: Node,
        at: usize,
    },
    /// A training setting; only within [`Node::Settings`].
    Setting {
        name: String,
        value: SettingText,
        at: usize,
    },
}

/// What a training setting is, as it is written.
#[derive(Clone, Debug)]
pub(crate) enum SettingText {
    Decided(DomainText),
    Computed(Written),
}

/// The values of a decision as they are written.
#[derive(Clone, Debug)]
pub(crate) enum DomainText {
    List {
        values: Vec<Written>,
        unordered: bool,
    },
    Range {
        from: Written,
        to: Written,
        step: Option<Written>,
    },
    /// Real values in equal ratios.
    Log {
        from: Written,
        to: Written,
        count: Written,
    },
}

impl DomainText {
    /// Its expressions, in order.
    pub fn terms(&self) -> Vec<&Written> {
        match self {
            Self::List { values, .. } => values.iter().collect(),
            Self::Range { from, to, step } => [from, to].into_iter().chain(step).collect(),
            Self::Log { from, to, count } => vec![from, to, count],
        }
    }

    /// Its expressions, in order.
    pub fn terms_mut(&mut self) -> Vec<&mut Written> {
        match self {
            Self::List { values, .. } => values.iter_mut().collect(),
            Self::Range { from, to, step } => [from, to].into_iter().chain(step).collect(),
            Self::Log { from, to, count } => vec![from, to, count],
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Input([Written; 3]),
    /// How members are trained: settings, values and conditions.
    Settings(Block),
    Op {
        kind: &'static OpKind,
        arguments: Vec<Option<Written>>,
    },
    Call {
        definition: usize,
        arguments: Vec<Argument>,
    },
    Seq(Block),
    Residual(Block),
    Gate(Block),
    Sum(Vec<Block>),
    /// Branches whose channels follow each other.
    Concat(Vec<Block>),
    /// The input's channels, then those of what the block makes of it.
    Dense(Block),
    /// Two or more blocks, one after the other, in an order that is decided.
    Permute {
        name: String,
        blocks: Vec<Block>,
    },
    /// Goes on from what the node with this label made.
    Read(String),
    /// Ends a branch that is left out.
    Nothing,
    If {
        condition: Written,
        then: Block,
        otherwise: Block,
    },
    Choice {
        name: String,
        branches: Vec<(String, Block)>,
    },
    Optional {
        name: String,
        body: Block,
    },
    Repeat {
        tied: bool,
        name: String,
        domain: DomainText,
        index: Option<String>,
        body: Block,
    },
}

impl Node {
    /// The blocks within it, in order.
    pub fn blocks(&self) -> Vec<&Block> {
        match self {
            Self::Input(_)
            | Self::Op { .. }
            | Self::Call { .. }
            | Self::Read(_)
            | Self::Nothing => Vec::new(),
            Self::Seq(body)
            | Self::Residual(body)
            | Self::Gate(body)
            | Self::Dense(body)
            | Self::Settings(body)
            | Self::Optional { body, .. }
            | Self::Repeat { body, .. } => vec![body],
            Self::Sum(blocks) | Self::Concat(blocks) | Self::Permute { blocks, .. } => {
                blocks.iter().collect()
            }
            Self::If {
                then, otherwise, ..
            } => vec![then, otherwise],
            Self::Choice { branches, .. } => branches.iter().map(|(_, block)| block).collect(),
        }
    }

    /// The blocks within it, in order.
    pub fn blocks_mut(&mut self) -> Vec<&mut Block> {
        match self {
            Self::Input(_)
            | Self::Op { .. }
            | Self::Call { .. }
            | Self::Read(_)
            | Self::Nothing => Vec::new(),
            Self::Seq(body)
            | Self::Residual(body)
            | Self::Gate(body)
            | Self::Dense(body)
            | Self::Settings(body)
            | Self::Optional { body, .. }
            | Self::Repeat { body, .. } => vec![body],
            Self::Sum(blocks) | Self::Concat(blocks) | Self::Permute { blocks, .. } => {
                blocks.iter_mut().collect()
            }
            Self::If {
                then, otherwise, ..
            } => vec![then, otherwise],
            Self::Choice { branches, .. } => branches.iter_mut().map(|(_, block)| block).collect(),
        }
    }

    /// The expressions of the node itself, in order.
    pub fn terms_mut(&mut self) -> Vec<&mut Written> {
        match self {
            Self::Input(extents) => extents.iter_mut().collect(),
            Self::Op { arguments, .. } => arguments.iter_mut().flatten().collect(),
            Self::Call { arguments, .. } => {
                let values = arguments.iter_mut();
                values.filter_map(Argument::value_mut).collect()
            }
            Self::If { condition, .. } => vec![condition],
            Self::Repeat { domain, .. } => domain.terms_mut(),
            Self::Settings(_)
            | Self::Seq(_)
            | Self::Residual(_)
            | Self::Gate(_)
            | Self::Dense(_)
            | Self::Sum(_)
            | Self::Concat(_)
            | Self::Permute { .. }
            | Self::Optional { .. }
            | Self::Read(_)
            | Self::Nothing
            | Self::Choice { .. } => Vec::new(),
        }
    }
}

/// An operation of the language: its name and its arguments with their defaults.
#[derive(Debug, PartialEq)]
pub(crate) struct OpKind {
    pub name: &'static str,
    pub arguments: &'static [(&'static str, Fallback)],
}

/// What an argument is when it is not given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fallback {
    Required,
    Int(i64),
    Real(f64),
    Bool(bool),
}

use Fallback::{Bool, Int, Real, Required};

/// Every operation.
pub(crate) const OPS: [OpKind; 13] = [
    OpKind {
        name: "conv",
        arguments: &[
            ("out", Required),
            ("kernel", Int(1)),
            ("stride", Int(1)),
            ("bias", Bool(false)),
        ],
    },
    OpKind {
        name: "depthwise",
        arguments: &[
            ("kernel", Required),
            ("stride", Int(1)),
            ("transform", Bool(false)),
        ],
    },
    OpKind {
        name: "batch_norm",
        arguments: &[("epsilon", Real(1e-5))],
    },
    OpKind {
        name: "relu",
        arguments: &[],
    },
    OpKind {
        name: "relu6",
        arguments: &[],
    },
    OpKind {
        name: "hard_swish",
        arguments: &[],
    },
    OpKind {
        name: "hard_sigmoid",
        arguments: &[],
    },
    OpKind {
        name: "activate",
        arguments: &[("activation", Required)],
    },
    OpKind {
        name: "global_average_pool",
        arguments: &[],
    },
    OpKind {
        name: "average_pool",
        arguments: &[
            ("kernel", Required),
            ("stride", Int(1)),
            ("padding", Int(0)),
            ("ceil", Bool(false)),
        ],
    },
    OpKind {
        name: "max_pool",
        arguments: &[
            ("kernel", Required),
            ("stride", Int(1)),
            ("padding", Int(0)),
        ],
    },
    OpKind {
        name: "dropout",
        arguments: &[("rate", Required)],
    },
    OpKind {
        name: "linear",
        arguments: &[("out", Required), ("bias", Bool(true))],
    },
];

/// Words that mean something in a space's text and cannot name a value, a decision or a template.
pub(crate) const KEYWORDS: [&str; 30] = [
    "space",
    "input",
    "define",
    "settings",
    "decide",
    "let",
    "seq",
    "residual",
    "gate",
    "sum",
    "concat",
    "dense",
    "permute",
    "read",
    "nothing",
    "log",
    "if",
    "then",
    "else",
    "choice",
    "optional",
    "repeat",
    "tied",
    "as",
    "in",
    "fix",
    "unordered",
    "step",
    "true",
    "false",
];
