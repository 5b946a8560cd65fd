//! Costs of subnets without building their graphs.
//!
//! A space is cut into segments ([`oncefit_space::Segments`]); what a segment adds to MACs,
//! parameters and latency, and its peak memory, depends on what arrives (tensor, variables, the
//! operator that is still open) and on the decisions within it. Each such case is worked out once,
//! from the graph of that segment, and looked up from then on: a network of twenty blocks costs
//! some twenty look-ups. The results are those of the whole graph, exactly.

mod exact;

use std::collections::{BTreeMap, HashMap, HashSet};

use oncefit_export::{Metadata, file_bytes, piece_bytes};
use oncefit_space::{SegmentState, Segments, Space, Subnet};

use crate::error::{Result, TargetError};
use crate::fusion::{Granularity, fuse};
use crate::operator::Operator;
use crate::table::{OperatorTable, Price, to_milliseconds};

pub use exact::{Bounds, SumScore};

/// The costs of a subnet.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Cost {
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Weights, biases and batch-norm's scales and shifts.
    pub parameters: u64,
    /// Bytes of live activations at the worst moment.
    pub peak_activation_bytes: u64,
    /// Milliseconds for one batch by the table, if there is one.
    pub latency_ms: Option<f64>,
    /// Whether part of the latency is estimated ([`crate::Latency::is_estimated`]).
    pub is_estimated: bool,
    /// Bytes of the exported file, where they are counted ([`Coster::count_file_bytes`]).
    pub file_bytes: Option<u64>,
}

/// Computes costs of the members of a space, and remembers what it has worked out. Cloning one
/// that has seen many subnets is cheaper than a new one.
#[derive(Clone, Debug)]
pub struct Coster {
    space: Space,
    segments: Segments,
    granularity: Granularity,
    parts: Vec<Part>,
    /// Where each decision's values begin in [`Space::encode`].
    offsets: Vec<u32>,
    /// How many values each decision has.
    sizes: Vec<usize>,
    positions: HashMap<String, usize>,
    /// Whether a decision can be met in several segments.
    has_repeats: bool,
    states: Vec<State>,
    state_numbers: HashMap<State, u32>,
    operators: Vec<Operator>,
    operator_numbers: HashMap<Operator, u32>,
    prices: Vec<Option<Price>>,
    transitions: Vec<Transition>,
    table: Option<OperatorTable>,
    /// What a file has besides its pieces, if sizes of files are counted.
    file_overhead: Option<u64>,
}

/// What arrives at a segment.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct State {
    state: SegmentState,
    open: Option<u32>,
}

/// A segment with what is known of it.
#[derive(Clone, Debug)]
struct Part {
    guards: Vec<(usize, Vec<bool>)>,
    control: Option<usize>,
    /// The decisions within, with their numbers of values.
    slots: Vec<(usize, usize)>,
    /// Combinations of their values, if they are few enough for a dense row.
    combinations: Option<usize>,
    /// For each state, where its row begins.
    rows: Vec<u32>,
    dense: Vec<u32>,
    sparse: HashMap<(u32, Vec<usize>), u32>,
}

/// One case of a segment.
#[derive(Clone, Debug)]
struct Transition {
    next: u32,
    is_estimated: bool,
    is_priced: bool,
    macs: u64,
    parameters: u64,
    peak: u64,
    picoseconds: u64,
    /// 0 where sizes of files are not counted.
    file_bytes: u64,
    active: Box<[u32]>,
    operators: Box<[u32]>,
}

const UNKNOWN: u32 = u32::MAX;

/// Combinations up to which a state's cases are stored in a row.
const LONGEST_ROW: usize = 4096;

impl Coster {
    /// A coster of operators one by one ([`Granularity::Operator`]), without latencies.
    pub fn new(space: &Space) -> Self {
        Self::with_granularity(space, Granularity::Operator)
    }

    /// A coster with the latencies of a table.
    pub fn with_table(space: &Space, table: &OperatorTable) -> Self {
        let mut coster = Self::with_granularity(space, table.granularity());
        coster.set_table(Some(table));
        coster
    }

    fn with_granularity(space: &Space, granularity: Granularity) -> Self {
        let segments = space.segments();
        let decisions = space.decisions();
        let mut uses = vec![0usize; decisions.len()];
        let mut parts = Vec::new();
        for segment in segments.list() {
            let slots: Vec<(usize, usize)> = segment
                .slots
                .iter()
                .map(|&slot| (slot, decisions[slot].domain.values.len()))
                .collect();
            for &(slot, _) in &slots {
                uses[slot] += 1;
            }
            segment.control.iter().for_each(|&slot| uses[slot] += 1);
            let combinations = slots
                .iter()
                .try_fold(1usize, |product, (_, values)| product.checked_mul(*values));
            parts.push(Part {
                guards: segment
                    .guards
                    .iter()
                    .map(|guard| (guard.slot, guard.allowed.clone()))
                    .collect(),
                control: segment.control,
                slots,
                combinations: combinations.filter(|&count| count <= LONGEST_ROW),
                rows: Vec::new(),
                dense: Vec::new(),
                sparse: HashMap::new(),
            });
        }
        let mut offset = 0;
        let offsets = decisions.iter().map(|slot| {
            let start = offset;
            offset += slot.domain.values.len() as u32;
            start
        });
        let offsets = offsets.collect();
        let paths = decisions.iter().map(|slot| slot.path.clone());
        let start = State::default();
        Self {
            space: space.clone(),
            segments,
            granularity,
            parts,
            offsets,
            sizes: decisions
                .iter()
                .map(|slot| slot.domain.values.len())
                .collect(),
            positions: paths.zip(0..).collect(),
            has_repeats: uses.iter().any(|&uses| uses > 1),
            state_numbers: HashMap::from([(start.clone(), 0)]),
            states: vec![start],
            operators: Vec::new(),
            operator_numbers: HashMap::new(),
            prices: Vec::new(),
            transitions: Vec::new(),
            table: None,
            file_overhead: None,
        }
    }

    /// Also counts the bytes of exported files: those of the nodes and weights, to within a few
    /// bytes for each segment of the space, and what files with this metadata have besides. Files
    /// are never larger than said, and at most some 2 % smaller: a batch-norm that begins a segment is
    /// counted as one that cannot be folded, and metadata may be shorter. What is known of the space
    /// so far is forgotten.
    ///
    /// # Errors
    /// If the largest member cannot be exported.
    pub fn count_file_bytes(&mut self, metadata: &Metadata) -> Result<()> {
        let table = self.table.take();
        *self = Self::with_granularity(&self.space, self.granularity);
        self.file_overhead = Some(0);
        let largest = self.space.largest()?;
        let pieces = self.cost(&self.indices(&largest)?)?;
        let whole = file_bytes(largest.graph(), metadata)?;
        self.file_overhead = Some(whole.saturating_sub(pieces.file_bytes.unwrap_or(0)));
        self.set_table(table.as_ref());
        Ok(())
    }

    /// The space.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Prices operators by another table from now on, or by none; what is known of the space is
    /// kept, unless the table cuts networks otherwise.
    pub fn set_table(&mut self, table: Option<&OperatorTable>) {
        let granularity = table.map_or(self.granularity, OperatorTable::granularity);
        if granularity != self.granularity {
            let file_overhead = self.file_overhead;
            *self = Self::with_granularity(&self.space, granularity);
            self.file_overhead = file_overhead;
        }
        let price = |operator| table.and_then(|table| table.price(operator));
        self.prices = self.operators.iter().map(price).collect();
        for transition in &mut self.transitions {
            reprice(transition, &self.prices);
        }
        self.table = table.cloned();
    }

    /// Whether it counts bytes of files.
    pub fn counts_file_bytes(&self) -> bool {
        self.file_overhead.is_some()
    }

    /// The index of the value of each decision of the space; 0 for decisions that `subnet` does
    /// not have, which do not matter.
    ///
    /// # Errors
    /// If `subnet` has a decision or value that the space does not have.
    pub fn indices(&self, subnet: &Subnet) -> Result<Vec<usize>> {
        let mut indices = vec![0; self.offsets.len()];
        for choice in &subnet.trace().choices {
            let slot = self.positions.get(&choice.path).copied();
            let value = slot.and_then(|slot| {
                let domain = &self.space.decisions()[slot].domain;
                Some((slot, domain.position(&choice.value)?))
            });
            let Some((slot, value)) = value else {
                return Err(TargetError::Request(format!(
                    "space `{}` has no decision `{}` with value `{}`",
                    self.space.name(),
                    choice.path,
                    choice.value
                )));
            };
            indices[slot] = value;
        }
        Ok(indices)
    }

    /// The costs of the member with these values: an index for each decision of
    /// [`Space::decisions`], of which inactive ones do not matter.
    ///
    /// # Errors
    /// If there are too few or too many values or one is out of range, the shapes do not meet, or
    /// the table lacks operators.
    pub fn cost(&mut self, indices: &[usize]) -> Result<Cost> {
        self.walk(indices, None)
    }

    /// As [`Coster::cost`]; `code` receives the positions of the ones in [`Space::encode`].
    ///
    /// # Errors
    /// As [`Coster::cost`].
    pub fn cost_and_code(&mut self, indices: &[usize], code: &mut Vec<u32>) -> Result<Cost> {
        code.clear();
        let cost = self.walk(indices, Some(code))?;
        if self.has_repeats {
            code.sort_unstable();
            code.dedup();
        }
        Ok(cost)
    }

    fn walk(&mut self, indices: &[usize], mut code: Option<&mut Vec<u32>>) -> Result<Cost> {
        self.check(indices)?;
        let mut state = 0u32;
        let (mut macs, mut parameters, mut peak, mut file_bytes) = (0u64, 0u64, 0u64, 0u64);
        let (mut picoseconds, mut is_estimated, mut is_priced) = (0u64, false, true);
        for number in 0..self.parts.len() {
            let part = &self.parts[number];
            if !part
                .guards
                .iter()
                .all(|(slot, allowed)| allowed[indices[*slot]])
            {
                continue;
            }
            if let (Some(code), Some(slot)) = (code.as_deref_mut(), part.control) {
                code.push(self.offsets[slot] + indices[slot] as u32);
            }
            let transition = match part.find(state, indices) {
                UNKNOWN => self.work_out(number, state, indices)?,
                known => known,
            };
            let transition = &self.transitions[transition as usize];
            macs += transition.macs;
            parameters += transition.parameters;
            peak = peak.max(transition.peak);
            picoseconds += transition.picoseconds;
            file_bytes += transition.file_bytes;
            is_estimated |= transition.is_estimated;
            is_priced &= transition.is_priced;
            if let Some(code) = code.as_deref_mut() {
                let active = transition.active.iter();
                code.extend(
                    active.map(|&slot| self.offsets[slot as usize] + indices[slot as usize] as u32),
                );
            }
            state = transition.next;
        }
        let latency_ms = match &self.table {
            None => None,
            Some(table) => {
                if let Some(last) = self.states[state as usize].open {
                    match self.prices[last as usize] {
                        Some(price) => {
                            picoseconds += price.picoseconds;
                            is_estimated |= price.is_estimated;
                        }
                        None => is_priced = false,
                    }
                }
                if !is_priced {
                    return Err(self.missing(table, indices));
                }
                Some(to_milliseconds(picoseconds + table.intercept()))
            }
        };
        Ok(Cost {
            macs,
            parameters,
            peak_activation_bytes: peak,
            latency_ms,
            is_estimated,
            file_bytes: self.file_overhead.map(|overhead| overhead + file_bytes),
        })
    }

    fn check(&self, indices: &[usize]) -> Result<()> {
        let decisions = self.space.decisions();
        let is_legal = indices.len() == decisions.len()
            && (indices.iter().zip(&self.sizes)).all(|(index, size)| index < size);
        if is_legal {
            return Ok(());
        }
        Err(TargetError::Request(format!(
            "these {} values belong to no member of space `{}`: it has {} decisions, each with its own number of values",
            indices.len(),
            self.space.name(),
            decisions.len()
        )))
    }

    /// Builds the graph after all, for the message.
    fn missing(&self, table: &OperatorTable, indices: &[usize]) -> TargetError {
        let built = self.space.build(&mut |slot| {
            let position = self.positions.get(&slot.path);
            position.map_or(0, |&position| indices[position])
        });
        match built {
            Ok(subnet) => match table.latency(subnet.graph()) {
                Err(error) => error,
                Ok(_) => table.missing(&[]),
            },
            Err(error) => error.into(),
        }
    }

    fn work_out(&mut self, number: usize, state: u32, indices: &[usize]) -> Result<u32> {
        let arriving = &self.states[state as usize];
        let outcome = self.segments.run(number, &arriving.state, indices)?;
        let open = arriving.open.map(|open| self.operators[open as usize]);
        let graph = &outcome.graph;
        let fused = fuse(graph, self.granularity, open);
        let closed = fused.closed.iter().map(|operator| self.operator(operator));
        let operators: Box<[u32]> = closed.collect::<Vec<_>>().into();
        let open = fused.open.map(|operator| self.operator(&operator));
        let next = self.state(State {
            state: outcome.state,
            open,
        });
        let mut transition = Transition {
            next,
            is_estimated: false,
            is_priced: true,
            macs: graph.macs(),
            parameters: graph.parameters(),
            peak: graph.peak_activation_bytes(),
            picoseconds: 0,
            file_bytes: match self.file_overhead {
                Some(_) => piece_bytes(graph)?,
                None => 0,
            },
            active: outcome.active.iter().map(|&slot| slot as u32).collect(),
            operators,
        };
        if self.table.is_some() {
            reprice(&mut transition, &self.prices);
        }
        let found = self.transitions.len() as u32;
        self.transitions.push(transition);
        self.parts[number].insert(state, indices, found);
        Ok(found)
    }

    fn operator(&mut self, operator: &Operator) -> u32 {
        if let Some(&number) = self.operator_numbers.get(operator) {
            return number;
        }
        let number = self.operators.len() as u32;
        self.operators.push(*operator);
        self.operator_numbers.insert(*operator, number);
        let price = self.table.as_ref().and_then(|table| table.price(operator));
        self.prices.push(price);
        number
    }

    fn state(&mut self, state: State) -> u32 {
        if let Some(&number) = self.state_numbers.get(&state) {
            return number;
        }
        let number = self.states.len() as u32;
        self.states.push(state.clone());
        self.state_numbers.insert(state, number);
        number
    }

    /// Works out every case that some member has, and returns the operators of all members in the
    /// order of their keys.
    ///
    /// # Errors
    /// If there are more than `most` cases, or shapes do not meet.
    pub fn explore(&mut self, most: usize) -> Result<Vec<Operator>> {
        /// A way to reach a segment: the state, and the decisions that are read again.
        type Way = (u32, BTreeMap<usize, usize>);
        let last_read = self.last_read();
        let mut cases = 0;
        let mut used: HashSet<u32> = HashSet::new();
        let mut ways: HashSet<Way> = HashSet::from([(0, BTreeMap::new())]);
        for number in 0..self.parts.len() {
            let part = self.parts[number].clone();
            let mut next: HashSet<Way> = HashSet::new();
            for (state, pins) in ways {
                let guards = part.guards.iter().map(|(slot, _)| *slot);
                let mut free: Vec<usize> = guards
                    .chain(part.slots.iter().map(|(slot, _)| *slot))
                    .filter(|slot| !pins.contains_key(slot))
                    .collect();
                free.sort_unstable();
                free.dedup();
                let mut indices = vec![0; self.offsets.len()];
                pins.iter()
                    .for_each(|(&slot, &index)| indices[slot] = index);
                loop {
                    cases += 1;
                    if cases > most {
                        return Err(TargetError::Request(format!(
                            "space `{}` has more than {most} different pieces; narrow it, for example to few resolutions",
                            self.space.name()
                        )));
                    }
                    let runs = (part.guards.iter()).all(|(slot, allowed)| allowed[indices[*slot]]);
                    let mut after = state;
                    if runs {
                        let known = match self.parts[number].find(state, &indices) {
                            UNKNOWN => self.work_out(number, state, &indices)?,
                            known => known,
                        };
                        let transition = &self.transitions[known as usize];
                        used.extend(transition.operators.iter());
                        after = transition.next;
                    }
                    let mut pins = pins.clone();
                    pins.extend(free.iter().map(|&slot| (slot, indices[slot])));
                    pins.retain(|&slot, _| last_read[slot] > number);
                    next.insert((after, pins));
                    let values = |slot: usize| self.space.decisions()[slot].domain.values.len();
                    let digit = (0..free.len())
                        .find(|&digit| indices[free[digit]] + 1 < values(free[digit]));
                    let Some(digit) = digit else { break };
                    free[..digit].iter().for_each(|&slot| indices[slot] = 0);
                    indices[free[digit]] += 1;
                }
            }
            ways = next;
        }
        used.extend(
            ways.iter()
                .filter_map(|(state, _)| self.states[*state as usize].open),
        );
        let mut found: Vec<Operator> = used
            .into_iter()
            .map(|number| self.operators[number as usize])
            .collect();
        found.sort_by_cached_key(Operator::to_string);
        Ok(found)
    }

    /// For each decision, the last segment that reads it.
    fn last_read(&self) -> Vec<usize> {
        let mut last_read = vec![0; self.offsets.len()];
        for (number, part) in self.parts.iter().enumerate() {
            let guards = part.guards.iter().map(|(slot, _)| *slot);
            for slot in guards.chain(part.slots.iter().map(|(slot, _)| *slot)) {
                last_read[slot] = number;
            }
        }
        last_read
    }

    /// How many cases of segments are known.
    pub fn known_cases(&self) -> usize {
        self.transitions.len()
    }
}

impl Part {
    /// The transition from `state` with these values.
    fn find(&self, state: u32, indices: &[usize]) -> u32 {
        if self.combinations.is_none() {
            let key = (state, self.values(indices));
            return self.sparse.get(&key).copied().unwrap_or(UNKNOWN);
        }
        match self.rows.get(state as usize) {
            None | Some(&UNKNOWN) => UNKNOWN,
            Some(&row) => self.dense[row as usize + self.column(indices)],
        }
    }

    fn column(&self, indices: &[usize]) -> usize {
        let slots = self.slots.iter();
        slots.fold(0, |column, (slot, values)| column * values + indices[*slot])
    }

    fn values(&self, indices: &[usize]) -> Vec<usize> {
        self.slots.iter().map(|(slot, _)| indices[*slot]).collect()
    }

    fn insert(&mut self, state: u32, indices: &[usize], transition: u32) {
        let Some(combinations) = self.combinations else {
            self.sparse
                .insert((state, self.values(indices)), transition);
            return;
        };
        let state = state as usize;
        if self.rows.len() <= state {
            self.rows.resize(state + 1, UNKNOWN);
        }
        if self.rows[state] == UNKNOWN {
            self.rows[state] = self.dense.len() as u32;
            self.dense.resize(self.dense.len() + combinations, UNKNOWN);
        }
        let at = self.rows[state] as usize + self.column(indices);
        self.dense[at] = transition;
    }
}

fn reprice(transition: &mut Transition, prices: &[Option<Price>]) {
    transition.picoseconds = 0;
    transition.is_estimated = false;
    transition.is_priced = true;
    for &operator in &transition.operators {
        match prices[operator as usize] {
            Some(price) => {
                transition.picoseconds += price.picoseconds;
                transition.is_estimated |= price.is_estimated;
            }
            None => transition.is_priced = false,
        }
    }
}
