//! Search spaces as data: decisions, traces, counting, graphs and their exact costs.
//!
//! A [`Space`] is an immutable tree of decisions and modules, read from a small language
//! (`spaces/*.space`) or written in Rust ([`builder`]). A [`Trace`] holds the values chosen; a [`Subnet`] is a complete, validated
//! trace with its [`Graph`]: one network as operations and shapes. No tensors, no closures, no
//! global state.
//!
//! ```
//! use oncefit_space::Space;
//! let space = Space::builtin("fm-nano")?;
//! let subnet = space.parse_subnet("resolution=28:depth=1:kernel=3:expand=3")?;
//! assert_eq!(subnet.graph().macs(), 355_448);
//! assert_eq!(space.count()?, (819u64.pow(3) * 3).into());
//! # Ok::<(), oncefit_space::SpaceError>(())
//! ```

pub mod builder;
mod candidate;
mod cost;
mod count;
mod decisions;
mod elaborate;
mod encode;
mod envelope;
mod error;
mod expression;
mod families;
mod graph;
mod import;
mod member;
mod operation;
mod parser;
mod printer;
mod program;
mod sampling;
mod scope;
mod segments;
mod space;
mod trace;
mod tree;
mod value;

pub use candidate::Candidate;
pub use decisions::{Binding, Condition, DecisionNode, Variable};
pub use envelope::{Envelope, EnvelopeNode};
pub use error::{Result, SpaceError};
pub use expression::make_divisible;
pub use graph::{Activation, FeatureShape, Graph, GraphNode, Op, ParameterSpec};
pub use segments::{Guard, Segment, SegmentOutcome, SegmentState, Segments};
pub use space::{Space, Step};
pub use trace::{Choice, Subnet, Trace};
pub use value::{DecisionSlot, Domain, Value};
