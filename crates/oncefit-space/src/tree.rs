//! The tree of a space, as it is written.

use crate::expression::Expression;
use crate::value::Value;

/// A whole space: a header, definitions and a body.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub name: String,
    /// Parameters with their values.
    pub parameters: Vec<(String, Value)>,
    pub definitions: Vec<Definition>,
    pub body: Block,
    /// Decisions, by name or path, that are narrowed to some of their values.
    pub fixes: Vec<(String, Vec<Value>)>,
    /// What it was read from, for messages.
    pub source: Source,
}

/// A text and its name.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub file: String,
    pub text: String,
}

/// A template; each use decides afresh.
#[derive(Clone, Debug)]
pub(crate) struct Definition {
    pub name: String,
    pub parameters: Vec<String>,
    pub body: Block,
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
    Let { name: String, value: Expression },
    Node {
        label: Option<String>,
        node: Node,
        at: usize,
    },
}

/// The values of a decision as they are written.
#[derive(Clone, Debug)]
pub(crate) enum DomainText {
    List {
        values: Vec<Expression>,
        unordered: bool,
    },
    Range {
        from: Expression,
        to: Expression,
        step: Option<Expression>,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Input([Expression; 3]),
    Op {
        kind: &'static OpKind,
        arguments: Vec<Option<Expression>>,
    },
    Call {
        definition: usize,
        arguments: Vec<Expression>,
    },
    Seq(Block),
    Residual(Block),
    Gate(Block),
    Sum(Vec<Block>),
    If {
        condition: Expression,
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

/// Words that begin a node, a statement or a file's part.
pub(crate) const KEYWORDS: [&str; 19] = [
    "space",
    "decide",
    "input",
    "define",
    "let",
    "seq",
    "residual",
    "gate",
    "sum",
    "if",
    "then",
    "else",
    "choice",
    "optional",
    "repeat",
    "tied",
    "as",
    "fix",
    "unordered",
];
