//! The exact solver for additive scores and costs.
//!
//! A multiple-choice knapsack over the tree of decisions, by dynamic programming on lists that hold
//! only what no other partial choice beats (higher score, lower costs):
//!
//! ```text
//! parts that share no term:   sums of all pairs, pruned
//! parts that share terms:     one decision is fixed to each of its values in turn, pruned
//! ```
//!
//! Fixing the decision that most terms share (the resolution) lets the rest fall apart into blocks.
//! What a condition on decisions leads to is opened once all that it reads is fixed; until then it belongs
//! to the part of those decisions.
//! Costs are integers; with a resolution above 1 each share's cost is rounded up to a multiple of
//! it, so that what is found is always within the limits and the answer is exact for rounded costs.

use oncefit_space::{Candidate, DecisionNode, Space};

use crate::additive::{AdditiveModel, Share};
use crate::error::{Result, SearchError};
use crate::limit::{Limit, Metric};
use crate::outcome::{Outcome, Trial};
use crate::searcher::Searcher;

/// The most metrics a model can have.
const METRICS: usize = Metric::ALL.len();
/// Costs up to this limit are kept in one cell each, larger ones are sorted.
const CELLS: u64 = 1 << 16;
/// Pairs beyond which a coarser resolution is asked for.
const MOST_PAIRS: usize = 40_000_000;

/// A member of the front.
#[derive(Clone, PartialEq, Debug)]
pub struct Solved {
    /// The member.
    pub candidate: Candidate,
    /// Its score and costs, not rounded.
    pub share: Share,
}

/// A partial choice.
#[derive(Clone, Copy, Debug)]
struct Point {
    score: f64,
    /// In units of the resolution.
    costs: [u64; METRICS],
    /// Its place among the links, by which its values are found.
    link: u32,
}

/// How a partial choice came about.
#[derive(Clone, Copy, Debug)]
enum Link {
    Nothing,
    /// A decision on top of others.
    Value {
        slot: u32,
        index: u32,
        below: u32,
    },
    Both(u32, u32),
}

/// The members that no other member within the limits beats, the highest score first.
/// `resolution` has the unit of each of the model's metrics; 1 is exact.
///
/// # Errors
/// If no member is within the limits, with the closest feasible value; if a limit is on a metric
/// that the model lacks; if there are too many partial choices for this resolution.
pub fn solve(model: &AdditiveModel, limits: &[Limit], resolution: &[u64]) -> Result<Vec<Solved>> {
    let metrics = model.metrics();
    if let Some(limit) = limits.iter().find(|limit| !metrics.contains(&limit.metric)) {
        let known: Vec<String> = metrics.iter().map(Metric::to_string).collect();
        return Err(SearchError::UnknownMetric {
            metric: limit.metric,
            coster: "the additive model".into(),
            known: known.join(", "),
        });
    }
    if resolution.len() != metrics.len() || resolution.contains(&0) || metrics.len() > METRICS {
        return Err(SearchError::Settings(format!(
            "the exact solver needs a resolution of at least 1 for each of at most {METRICS} metrics; there are {} metrics and resolutions {resolution:?}",
            metrics.len()
        )));
    }
    let mut solver = Solver::new(model, limits, resolution);
    let front = solver.solve()?;
    if let Some(solved) = front {
        return Ok(solved);
    }
    // Why nothing was found: the cheapest member by each metric, without limits.
    for limit in limits {
        let cheapest = cost_as_score(model, limit.metric)?;
        let found = Solver::new(&cheapest, &[], &[]).solve()?;
        let Some(best) = found.and_then(|found| found.into_iter().next()) else {
            continue;
        };
        let place = metrics.iter().position(|metric| *metric == limit.metric);
        let closest = model.of(&best.candidate).costs[place.unwrap_or(0)];
        if closest > limit.at_most {
            return Err(SearchError::Infeasible {
                space: model.space().name().to_owned(),
                metric: limit.metric,
                limit: limit.at_most,
                closest,
                subnet: model.space().trace_of(&best.candidate).text(),
            });
        }
    }
    Err(SearchError::InfeasibleTogether {
        space: model.space().name().to_owned(),
        closest: format!("limits that cannot be met together at resolution {resolution:?}"),
        subnet: "none".into(),
    })
}

/// The same terms with the negated cost as the score and no costs.
fn cost_as_score(model: &AdditiveModel, metric: Metric) -> Result<AdditiveModel> {
    let place = model.metrics().iter().position(|other| *other == metric);
    let place = place.unwrap_or(0);
    let mut negated = AdditiveModel::new(model.space(), &[]);
    for term in model.terms() {
        let mut term = term.clone();
        for share in &mut term.shares {
            share.score = -(share.costs[place] as f64);
            share.costs.clear();
        }
        negated.add_term(term)?;
    }
    Ok(negated)
}

struct Solver<'m> {
    model: &'m AdditiveModel,
    /// Number of metrics.
    metrics: usize,
    resolution: Vec<u64>,
    /// The largest legal cost in each metric, in units of the resolution.
    limits: [u64; METRICS],
    /// The values fixed so far.
    fixed: Vec<Option<usize>>,
    /// The terms of each decision.
    terms_of: Vec<Vec<usize>>,
    links: Vec<Link>,
}

impl<'m> Solver<'m> {
    fn new(model: &'m AdditiveModel, limits: &[Limit], resolution: &[u64]) -> Self {
        let slots = model.space().decisions().len();
        let mut terms_of = vec![Vec::new(); slots];
        for (number, term) in model.terms().iter().enumerate() {
            for &slot in &term.slots {
                terms_of[slot].push(number);
            }
        }
        let metrics = model.metrics().len();
        let mut bounds = [u64::MAX; METRICS];
        for (place, metric) in model.metrics().iter().enumerate() {
            let unit = resolution[place];
            // No member costs more than all terms at their most expensive.
            let most = model.terms().iter().map(|term| {
                let costs = term.shares.iter().map(|share| share.costs[place]);
                costs.max().unwrap_or(0).div_ceil(unit)
            });
            let constant = model.constant().costs[place].div_ceil(unit);
            let most = most.fold(constant, u64::saturating_add);
            let of_metric = limits.iter().filter(|limit| limit.metric == *metric);
            let limit = of_metric.map(|limit| limit.at_most / unit).min();
            bounds[place] = most.min(limit.unwrap_or(u64::MAX));
        }
        Self {
            model,
            metrics,
            resolution: resolution.to_vec(),
            limits: bounds,
            fixed: vec![None; slots],
            terms_of,
            links: vec![Link::Nothing],
        }
    }

    /// The front, or `None` if no member is within the limits.
    fn solve(&mut self) -> Result<Option<Vec<Solved>>> {
        let space = self.model.space().clone();
        let mut nodes = Vec::new();
        self.open(space.decision_nodes(), &mut nodes);
        let constant = self.share(self.model.constant());
        let points = self.front(&nodes)?;
        let points = points.into_iter().map(|point| self.plus(point, &constant));
        let points: Vec<Point> = points.filter(|point| self.is_within(point)).collect();
        let mut solved = Vec::with_capacity(points.len());
        for point in points {
            let mut values = vec![0; space.decisions().len()];
            self.follow(point.link, &mut values);
            let candidate = space.candidate(|slot, _| values[slot])?;
            let share = self.model.of(&candidate);
            solved.push(Solved { candidate, share });
        }
        solved.sort_by(|left, right| right.share.score.total_cmp(&left.share.score));
        Ok((!solved.is_empty()).then_some(solved))
    }

    /// Appends the nodes that still decide something.
    fn open<'n>(
        &self,
        nodes: impl IntoIterator<Item = &'n DecisionNode>,
        found: &mut Vec<&'n DecisionNode>,
    ) {
        for node in nodes {
            match node {
                DecisionNode::Let(_) => {}
                DecisionNode::If {
                    condition,
                    then,
                    otherwise,
                } => {
                    let space = self.model.space();
                    match space.condition_holds(condition, &|slot| self.fixed[slot]) {
                        Some(true) => self.open(then, found),
                        Some(false) => self.open(otherwise, found),
                        None => found.push(node),
                    }
                }
                DecisionNode::Repeat {
                    slot: None,
                    counts,
                    copies,
                } => {
                    copies[..counts[0]]
                        .iter()
                        .for_each(|copy| self.open(copy, found));
                }
                DecisionNode::Decide { slot, .. }
                | DecisionNode::Choose { slot, .. }
                | DecisionNode::Repeat {
                    slot: Some(slot), ..
                } => {
                    // Tied copies hold the decisions of the first.
                    let is_known = self.fixed[*slot].is_some()
                        || found.iter().any(|other| slot_of(other) == Some(*slot));
                    if !is_known {
                        found.push(node);
                    }
                }
            }
        }
    }

    /// All partial choices for some nodes that no other beats.
    fn front(&mut self, nodes: &[&DecisionNode]) -> Result<Vec<Point>> {
        if nodes.is_empty() {
            return Ok(vec![Point {
                score: 0.0,
                costs: [0; METRICS],
                link: 0,
            }]);
        }
        let (parts, shared) = self.parts(nodes);
        if parts.len() > 1 {
            let mut fronts = Vec::with_capacity(parts.len());
            for part in parts {
                let part: Vec<&DecisionNode> = part.iter().map(|&place| nodes[place]).collect();
                fronts.push(self.front(&part)?);
            }
            // Small lists first keeps the pairs few.
            fronts.sort_by_key(Vec::len);
            let mut fronts = fronts.into_iter();
            let mut sum = fronts.next().unwrap_or_default();
            for front in fronts {
                sum = self.pairs(&sum, &front)?;
            }
            return Ok(sum);
        }
        // The decision whose terms and conditions reach into most others is fixed first.
        let place = (0..nodes.len())
            .filter(|&place| slot_of(nodes[place]).is_some())
            .max_by_key(|&place| (shared[place], std::cmp::Reverse(place)))
            .unwrap_or(0);
        let mut rest: Vec<&DecisionNode> = nodes.to_vec();
        let node = rest.remove(place);
        self.values(node, &rest)
    }

    /// The front of a node and others, value by value.
    fn values(&mut self, node: &DecisionNode, rest: &[&DecisionNode]) -> Result<Vec<Point>> {
        let Some(slot) = slot_of(node) else {
            return self.front(rest);
        };
        let mut all: Vec<(Point, usize)> = Vec::new();
        let values = self.model.space().decisions()[slot].domain.values.len();
        for index in 0..values {
            self.fixed[slot] = Some(index);
            let mut nodes = Vec::with_capacity(rest.len());
            self.open(rest.iter().copied(), &mut nodes);
            match node {
                DecisionNode::Choose { branches, .. } => self.open(&branches[index], &mut nodes),
                DecisionNode::Repeat { counts, copies, .. } => {
                    for copy in &copies[..counts[index]] {
                        self.open(copy, &mut nodes);
                    }
                }
                _ => {}
            }
            let added = self.settled(slot);
            let points = self.front(&nodes)?;
            let points = points.into_iter().map(|point| self.plus(point, &added));
            all.extend(
                points
                    .filter(|point| self.is_within(point))
                    .map(|point| (point, index)),
            );
        }
        self.fixed[slot] = None;
        let mut kept = self.pruned(all, |(point, _)| point);
        for (point, index) in &mut kept {
            self.links.push(Link::Value {
                slot: slot as u32,
                index: *index as u32,
                below: point.link,
            });
            point.link = (self.links.len() - 1) as u32;
        }
        Ok(kept.into_iter().map(|(point, _)| point).collect())
    }

    /// What the terms add that the last fixed decision completes.
    fn settled(&self, slot: usize) -> Point {
        let mut sum = self.share(&Share {
            score: 0.0,
            costs: vec![0; self.metrics],
        });
        for &number in &self.terms_of[slot] {
            let term = &self.model.terms()[number];
            if let Some(place) = self.model.place(term, &|slot| self.fixed[slot]) {
                sum = self.plus(sum, &self.share(&term.shares[place]));
            }
        }
        sum
    }

    /// Groups of nodes that share open terms or conditions, by place, and for each node how many other
    /// nodes its own decision shares them with.
    fn parts(&self, nodes: &[&DecisionNode]) -> (Vec<Vec<usize>>, Vec<usize>) {
        let mut owners: Vec<Vec<usize>> = vec![Vec::new(); self.fixed.len()];
        for (place, node) in nodes.iter().enumerate() {
            each_slot(node, &mut |slot| {
                if owners[slot].last() != Some(&place) {
                    owners[slot].push(place);
                }
            });
        }
        let mut group: Vec<usize> = (0..nodes.len()).collect();
        let mut join = |left: usize, right: usize| {
            let (from, to) = (group[right], group[left]);
            if from != to {
                group.iter_mut().for_each(|one| {
                    if *one == from {
                        *one = to;
                    }
                });
            }
        };
        let mut reached: Vec<Vec<bool>> = vec![vec![false; nodes.len()]; nodes.len()];
        for owners in &owners {
            owners.windows(2).for_each(|pair| join(pair[0], pair[1]));
        }
        for (place, node) in nodes.iter().enumerate() {
            each_read(node, &mut |slot| {
                for &owner in &owners[slot] {
                    join(owner, place);
                    if slot_of(nodes[owner]) == Some(slot) {
                        reached[owner][place] = true;
                    }
                }
            });
        }
        for term in self.model.terms() {
            let open = || {
                let slots = term.slots.iter();
                slots.filter(|slot| self.fixed[**slot].is_none())
            };
            let places = || open().flat_map(|slot| owners[*slot].iter().copied());
            let Some(first) = places().next() else {
                continue;
            };
            places().for_each(|place| join(first, place));
            for (place, node) in nodes.iter().enumerate() {
                if open().any(|slot| slot_of(node) == Some(*slot)) {
                    places().for_each(|other| reached[place][other] = true);
                }
            }
        }
        let mut parts: Vec<Vec<usize>> = Vec::new();
        for place in 0..nodes.len() {
            match parts.iter_mut().find(|part| group[part[0]] == group[place]) {
                Some(part) => part.push(place),
                None => parts.push(vec![place]),
            }
        }
        let shared = reached
            .iter()
            .map(|others| others.iter().filter(|other| **other).count());
        (parts, shared.collect())
    }

    /// The sums of all pairs, pruned.
    fn pairs(&mut self, left: &[Point], right: &[Point]) -> Result<Vec<Point>> {
        let is_in_cells = self.metrics == 1 && self.limits[0] < CELLS;
        let count = left.len().saturating_mul(right.len());
        if !is_in_cells && count > MOST_PAIRS {
            return Err(SearchError::Settings(format!(
                "{count} partial choices to compare at once; choose a coarser resolution of costs than {:?}",
                self.resolution
            )));
        }
        let mut kept = if is_in_cells {
            self.pairs_in_cells(left, right)
        } else {
            let mut all = Vec::with_capacity(count);
            for one in left {
                for other in right {
                    let sum = self.plus(*one, other);
                    if self.is_within(&sum) {
                        all.push((sum, (one.link, other.link)));
                    }
                }
            }
            self.pruned(all, |(point, _)| point)
        };
        for (point, (one, other)) in &mut kept {
            self.links.push(Link::Both(*one, *other));
            point.link = (self.links.len() - 1) as u32;
        }
        Ok(kept.into_iter().map(|(point, _)| point).collect())
    }

    /// [`Solver::pairs`] for one metric with few different costs: the best of each cost.
    fn pairs_in_cells(&self, left: &[Point], right: &[Point]) -> Vec<(Point, (u32, u32))> {
        let limit = self.limits[0];
        let mut cells: Vec<(f64, u32, u32)> = vec![(f64::NEG_INFINITY, 0, 0); limit as usize + 1];
        for one in left {
            // Fronts rise in cost.
            for other in right {
                let cost = one.costs[0] + other.costs[0];
                if cost > limit {
                    break;
                }
                let score = one.score + other.score;
                let cell = &mut cells[cost as usize];
                if score > cell.0 {
                    *cell = (score, one.link, other.link);
                }
            }
        }
        let mut kept: Vec<(Point, (u32, u32))> = Vec::new();
        for (cost, (score, one, other)) in cells.into_iter().enumerate() {
            if score > kept.last().map_or(f64::NEG_INFINITY, |last| last.0.score) {
                let mut costs = [0; METRICS];
                costs[0] = cost as u64;
                let point = Point {
                    score,
                    costs,
                    link: 0,
                };
                kept.push((point, (one, other)));
            }
        }
        kept
    }

    /// Those that no other beats, rising in the first cost.
    fn pruned<T>(&self, mut all: Vec<T>, point: impl Fn(&T) -> &Point) -> Vec<T> {
        all.sort_by(|left, right| {
            let (left, right) = (point(left), point(right));
            let by_cost = left.costs.cmp(&right.costs);
            by_cost.then(right.score.total_cmp(&left.score))
        });
        let mut kept: Vec<T> = Vec::new();
        for one in all {
            let own = point(&one);
            let is_beaten = match self.metrics {
                0 | 1 => kept
                    .last()
                    .is_some_and(|last| point(last).score >= own.score),
                // Costs are in lexicographic order: only earlier ones can be lower everywhere.
                _ => kept.iter().any(|other| {
                    let other = point(other);
                    let mut costs = other.costs.iter().zip(&own.costs);
                    other.score >= own.score && costs.all(|(other, own)| other <= own)
                }),
            };
            if !is_beaten {
                kept.push(one);
            }
        }
        kept
    }

    fn share(&self, share: &Share) -> Point {
        let mut costs = [0; METRICS];
        for (place, cost) in share.costs.iter().enumerate() {
            costs[place] = cost.div_ceil(self.resolution[place]);
        }
        Point {
            score: share.score,
            costs,
            link: 0,
        }
    }

    /// The first point with the second's score and costs added.
    fn plus(&self, mut point: Point, other: &Point) -> Point {
        point.score += other.score;
        for (cost, more) in point.costs.iter_mut().zip(&other.costs) {
            *cost = cost.saturating_add(*more);
        }
        point
    }

    fn is_within(&self, point: &Point) -> bool {
        let mut costs = point.costs.iter().zip(&self.limits);
        costs.all(|(cost, limit)| cost <= limit)
    }

    fn follow(&self, link: u32, values: &mut [usize]) {
        match self.links[link as usize] {
            Link::Nothing => {}
            Link::Value { slot, index, below } => {
                values[slot as usize] = index as usize;
                self.follow(below, values);
            }
            Link::Both(one, other) => {
                self.follow(one, values);
                self.follow(other, values);
            }
        }
    }
}

/// The decision that a node takes itself.
fn slot_of(node: &DecisionNode) -> Option<usize> {
    match node {
        DecisionNode::Decide { slot, .. } | DecisionNode::Choose { slot, .. } => Some(*slot),
        DecisionNode::Repeat { slot, .. } => *slot,
        DecisionNode::If { .. } | DecisionNode::Let(_) => None,
    }
}

/// Calls `found` for every decision of a node and below it.
fn each_slot(node: &DecisionNode, found: &mut dyn FnMut(usize)) {
    if let Some(slot) = slot_of(node) {
        found(slot);
    }
    match node {
        DecisionNode::Choose { branches, .. } => {
            branches
                .iter()
                .flatten()
                .for_each(|node| each_slot(node, found));
        }
        DecisionNode::Repeat { copies, .. } => {
            copies
                .iter()
                .flatten()
                .for_each(|node| each_slot(node, found));
        }
        DecisionNode::If {
            then, otherwise, ..
        } => {
            let both = then.iter().chain(otherwise);
            both.for_each(|node| each_slot(node, found));
        }
        DecisionNode::Decide { .. } | DecisionNode::Let(_) => {}
    }
}

/// Calls `found` for every decision that conditions in a node read.
fn each_read(node: &DecisionNode, found: &mut dyn FnMut(usize)) {
    match node {
        DecisionNode::If {
            condition,
            then,
            otherwise,
        } => {
            condition.reads().iter().for_each(|&slot| found(slot));
            let both = then.iter().chain(otherwise);
            both.for_each(|node| each_read(node, found));
        }
        DecisionNode::Choose { branches, .. } => {
            let inner = branches.iter().flatten();
            inner.for_each(|node| each_read(node, found));
        }
        DecisionNode::Repeat { copies, .. } => {
            let inner = copies.iter().flatten();
            inner.for_each(|node| each_read(node, found));
        }
        DecisionNode::Decide { .. } | DecisionNode::Let(_) => {}
    }
}

/// Proposes the front of an additive model, the highest score first: what a search by a linear
/// predictor should evaluate.
#[derive(Clone, Debug)]
pub struct ExactSearch {
    space: Space,
    settings: String,
    front: Vec<Solved>,
    asked: usize,
}

impl ExactSearch {
    /// The front within limits.
    ///
    /// # Errors
    /// As [`solve`].
    pub fn new(model: &AdditiveModel, limits: &[Limit], resolution: &[u64]) -> Result<Self> {
        let settings = serde_json::json!({
            "searcher": "exact",
            "limits": limits,
            "resolution": resolution,
            "model": oncefit_random::fnv1a64(format!("{:?}", model.terms()).as_bytes()),
        });
        Ok(Self {
            space: model.space().clone(),
            settings: settings.to_string(),
            front: solve(model, limits, resolution)?,
            asked: 0,
        })
    }
}

impl Searcher for ExactSearch {
    fn space(&self) -> &Space {
        &self.space
    }

    fn settings(&self) -> String {
        self.settings.clone()
    }

    fn ask(&mut self, count: usize) -> Result<Vec<Trial>> {
        let first = self.asked;
        self.asked = (first + count).min(self.front.len());
        let trials = self.front[first..self.asked].iter().zip(first as u64..);
        Ok(trials
            .map(|(solved, number)| Trial {
                number,
                candidate: solved.candidate.clone(),
                budget: None,
                rung: None,
            })
            .collect())
    }

    fn tell(&mut self, _: &Trial, _: &Outcome) {}
}

#[cfg(test)]
mod tests;
