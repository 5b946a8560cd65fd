//! A space cut into segments, each of which depends on few decisions.
//!
//! A cost that adds up over a network, or is a maximum over it, can be remembered segment by
//! segment: what a segment adds to a network depends only on the decisions within it and on its
//! [`SegmentState`], the tensor and the variables that arrive. Nothing but that tensor is alive
//! between two segments: where a label is read, the steps from
//! its node to the last reader are one segment. Repeats become one run of segments for each copy, choices one for each
//! branch, and both are guarded by their decision.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::error::{Result, SpaceError};
use crate::graph::{FeatureShape, Graph};
use crate::member;
use crate::program::{Formula, Name, Sequence, Step, Times};
use crate::space::Space;
use crate::value::Value;

/// Combinations of decisions at which a segment is cut.
const MOST_COMBINATIONS: usize = 512;

/// A space cut into segments, in the order in which they run.
#[derive(Clone, Debug)]
pub struct Segments {
    space: Space,
    segments: Vec<Segment>,
}

/// A piece of every network that its guards allow.
#[derive(Clone, Debug)]
pub struct Segment {
    /// A decision that is met here and guards later segments.
    pub control: Option<usize>,
    /// It runs if all hold.
    pub guards: Vec<Guard>,
    /// The decisions that may be met within, by their numbers in [`Space::decisions`].
    pub slots: Vec<usize>,
    /// From the program's body to the sequence: step, and body of that step.
    location: Vec<(usize, usize)>,
    steps: Range<usize>,
    /// Variables that later segments read.
    live: Vec<usize>,
}

/// A condition on one decision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guard {
    /// The decision's number.
    pub slot: usize,
    /// For each of its values, whether the segment runs.
    pub allowed: Vec<bool>,
}

/// What arrives at a segment.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct SegmentState {
    /// The tensor; none before the image.
    pub shape: Option<FeatureShape>,
    /// Variables that are still read, with their values.
    variables: Vec<(usize, Value)>,
}

/// What a segment adds to a network.
#[derive(Clone, Debug)]
pub struct SegmentOutcome {
    /// Its operations. Where a tensor arrives, the first node is an input of its shape.
    pub graph: Graph,
    /// The decisions that were met, in order.
    pub active: Vec<usize>,
    /// What arrives at the next segment.
    pub state: SegmentState,
}

impl Space {
    /// Cuts the space into segments.
    pub fn segments(&self) -> Segments {
        let mut cutter = Cutter {
            space: self,
            segments: Vec::new(),
            reads: Vec::new(),
        };
        cutter.sequence(&self.program().body, &[], &[]);
        let Cutter {
            mut segments,
            reads,
            ..
        } = cutter;
        let mut live = BTreeSet::new();
        for (segment, reads) in segments.iter_mut().zip(&reads).rev() {
            segment.live = live.iter().copied().collect();
            live.extend(reads);
        }
        Segments {
            space: self.clone(),
            segments,
        }
    }
}

impl Segments {
    /// The segments.
    pub fn list(&self) -> &[Segment] {
        &self.segments
    }

    /// Runs segment `index` on what arrives, with the index of a value for each decision of the
    /// space.
    ///
    /// # Errors
    /// If an index is missing or out of range, or the shapes do not meet.
    pub fn run(
        &self,
        index: usize,
        state: &SegmentState,
        indices: &[usize],
    ) -> Result<SegmentOutcome> {
        let program = self.space.program();
        if indices.len() != program.slots.len() {
            return Err(SpaceError::Illegal(format!(
                "space `{}` has {} decisions, these are {} values",
                self.space.name(),
                program.slots.len(),
                indices.len()
            )));
        }
        let segment = &self.segments[index];
        let mut sequence = &program.body;
        for &(step, body) in &segment.location {
            sequence = sequence.steps[step].bodies()[body];
        }
        let mut active = Vec::new();
        let piece = member::build_piece(
            program,
            self.space.source(),
            &mut |slot, _| {
                active.push(slot);
                indices[slot]
            },
            &sequence.steps[segment.steps.clone()],
            state.shape,
            &state.variables,
        )?;
        let live = segment.live.iter();
        let variables = live
            .map(|&variable| (variable, piece.variables[variable].clone()))
            .collect();
        Ok(SegmentOutcome {
            state: SegmentState {
                shape: piece.graph.nodes.last().map(|node| node.shape),
                variables,
            },
            graph: piece.graph,
            active,
        })
    }
}

struct Cutter<'s> {
    space: &'s Space,
    segments: Vec<Segment>,
    /// For each segment, the variables that it reads and does not set.
    reads: Vec<BTreeSet<usize>>,
}

impl Cutter<'_> {
    fn sequence(&mut self, sequence: &Sequence, location: &[(usize, usize)], guards: &[Guard]) {
        let mut start = 0;
        let glued = glued(&sequence.steps);
        for (index, step) in sequence.steps.iter().enumerate() {
            if glued[index] || !matches!(step, Step::Repeat { .. } | Step::Choose { .. }) {
                let open = &sequence.steps[start..=index];
                if start < index && !glued[index] && self.combinations(open) > MOST_COMBINATIONS {
                    self.cut(sequence, location, guards, start..index);
                    start = index;
                }
                continue;
            }
            self.cut(sequence, location, guards, start..index);
            start = index + 1;
            let decided = match step {
                Step::Repeat {
                    times: Times::Decided { slot, .. },
                    ..
                }
                | Step::Choose { slot, .. } => Some(*slot),
                _ => None,
            };
            if let Some(slot) = decided {
                self.add(location, guards, index..index, Some(slot), &[]);
            }
            for (number, body) in step.bodies().into_iter().enumerate() {
                let allowed: Option<(usize, Vec<bool>)> = match step {
                    Step::Repeat {
                        times: Times::Decided { slot, counts },
                        ..
                    } => Some((*slot, counts.iter().map(|&count| number < count).collect())),
                    Step::Choose { slot, branches, .. } => Some((
                        *slot,
                        (0..branches.len()).map(|index| index == number).collect(),
                    )),
                    _ => None,
                };
                let mut inner = guards.to_vec();
                inner.extend(allowed.map(|(slot, allowed)| Guard { slot, allowed }));
                let path = [location, &[(index, number)]].concat();
                self.sequence(body, &path, &inner);
            }
        }
        self.cut(sequence, location, guards, start..sequence.steps.len());
    }

    fn combinations(&self, steps: &[Step]) -> usize {
        let mut found = Found::default();
        found.steps(steps);
        let sizes = found.slots.iter();
        sizes
            .map(|&slot| self.space.decisions()[slot].domain.values.len())
            .fold(1, usize::saturating_mul)
    }

    fn cut(
        &mut self,
        sequence: &Sequence,
        location: &[(usize, usize)],
        guards: &[Guard],
        steps: Range<usize>,
    ) {
        if !steps.is_empty() {
            let inside = &sequence.steps[steps.clone()];
            self.add(location, guards, steps, None, inside);
        }
    }

    fn add(
        &mut self,
        location: &[(usize, usize)],
        guards: &[Guard],
        range: Range<usize>,
        control: Option<usize>,
        steps: &[Step],
    ) {
        let mut found = Found::default();
        found.steps(steps);
        self.reads
            .push(found.reads.difference(&found.sets).copied().collect());
        self.segments.push(Segment {
            control,
            guards: guards.to_vec(),
            slots: found.slots.into_iter().collect(),
            location: location.to_vec(),
            steps: range,
            live: Vec::new(),
        });
    }
}

/// For each step, whether a remembered tensor is alive between the step before it and it.
fn glued(steps: &[Step]) -> Vec<bool> {
    let mut glued = vec![false; steps.len()];
    for (first, step) in steps.iter().enumerate() {
        if let Step::Keep { tensor } = step {
            let last = steps.iter().rposition(|step| step.reads_tensor(*tensor));
            if let Some(last) = last.filter(|last| *last > first) {
                glued[first + 1..=last].fill(true);
            }
        }
    }
    glued
}

/// What steps decide, read and set, however deep.
#[derive(Default)]
struct Found {
    slots: BTreeSet<usize>,
    reads: BTreeSet<usize>,
    sets: BTreeSet<usize>,
}

impl Found {
    fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Input { extents, .. } => {
                    extents.iter().for_each(|extent| self.formula(extent));
                }
                Step::Let {
                    variable, formula, ..
                } => {
                    self.formula(formula);
                    self.sets.insert(*variable);
                }
                Step::Decide { variable, slot } => {
                    self.slots.insert(*slot);
                    self.sets.insert(*variable);
                }
                Step::Setting { formula, .. } => self.formula(formula),
                Step::Operation(operation) => {
                    let formulas = operation.size.iter().chain(&operation.kernel);
                    formulas.for_each(|formula| self.formula(formula));
                }
                Step::If { condition, .. } => self.formula(condition),
                Step::Choose { slot, .. }
                | Step::Repeat {
                    times: Times::Decided { slot, .. },
                    ..
                } => {
                    self.slots.insert(*slot);
                }
                _ => {}
            }
            for body in step.bodies() {
                self.steps(&body.steps);
            }
        }
    }

    fn formula(&mut self, formula: &Formula) {
        formula.names(&mut |name| {
            if let Name::Variable(variable) = name {
                self.reads.insert(*variable);
            }
        });
    }
}
