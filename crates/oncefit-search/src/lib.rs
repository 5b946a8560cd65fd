//! Searchers over Oncefit spaces.
//!
//! A [`Searcher`] proposes subnets (`ask`) and learns their scores (`tell`); it knows nothing of
//! networks. An [`Objective`], implemented where the networks live, scores subnets. [`search`]
//! brings the two together within [`Limit`]s on costs that follow from the graph alone.

mod compact;
mod error;
mod evolution;
mod limit;
mod search;
mod searcher;

pub use compact::{Assessment, CompactObjective, Ranked, evolve};
pub use error::{Result, SearchError};
pub use evolution::{Evolution, EvolutionSettings};
pub use limit::{Count, Limit, Metric, check_feasible};
pub use search::{Evaluation, Found, Objective, pareto_front, search};
pub use searcher::{RandomSearch, Searcher};
