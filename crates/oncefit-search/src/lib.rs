//! Searchers over Oncefit spaces.
//!
//! A [`Searcher`] proposes candidates (`ask`) and learns what came of them (`tell`); it knows
//! nothing of networks. An [`Objective`], implemented where the networks live, scores subnets; an
//! [`Evaluate`] scores candidates by the million. [`search`] and [`run`] bring them together within
//! a [`Region`]: a space and [`Limit`]s on costs.

mod additive;
mod command;
mod compact;
pub mod conformance;
mod coster;
mod encoder;
mod error;
mod evolution;
mod exact;
mod exhaustive;
mod features;
mod halving;
mod landscape;
mod limit;
mod mcts;
mod nsga2;
mod outcome;
mod proposer;
mod random;
mod region;
mod regularised;
mod ridge;
mod search;
mod searcher;
mod smbo;
pub mod statistics;
mod study;
mod table;
mod variation;

pub use additive::{AdditiveModel, Share, Term};
pub use command::CommandObjective;
pub use compact::{Assessment, CompactObjective, Ranked, evolve};
pub use coster::{Coster, GraphCoster};
pub use encoder::Encoder;
pub use error::{Result, SearchError};
pub use evolution::{Evolution, EvolutionSettings};
pub use exact::{ExactSearch, Solved, solve};
pub use exhaustive::ExhaustiveSearch;
pub use features::Features;
pub use halving::{Bracket, HalvingSettings, HyperbandSettings, Screening};
pub use landscape::Landscape;
pub use limit::{Count, Limit, Metric, check_feasible};
pub use mcts::{Mcts, MctsSettings};
pub use nsga2::{Nsga2, Nsga2Settings, crowding_distances, non_dominated_fronts};
pub use outcome::{Outcome, Rung, Trial};
pub use random::{RandomKind, RandomSearch};
pub use region::Region;
pub use regularised::{RegularisedEvolution, RegularisedSettings, Removal};
pub use ridge::{LinearModel, Ridge, SparseRow};
pub use search::{
    Evaluate, Evaluation, Formula, Found, Objective, OnSubnets, best, pareto_front, run, search,
};
pub use searcher::Searcher;
pub use smbo::{Smbo, SmboSettings};
pub use study::{Claim, Header, Study, StudyLog, StudyRow};
pub use table::{Table, TableKey, TableObjective};
pub use variation::{crossover, mutate, mutate_one, neighbours};
