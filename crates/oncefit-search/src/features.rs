//! Candidates as numbers, for surrogates.

use std::collections::HashMap;

use oncefit_random::fnv1a64;
use oncefit_space::{Candidate, Space};
use serde::{Deserialize, Serialize};

use crate::ridge::SparseRow;

/// How a candidate becomes a row of numbers; with a year: as DeepArchitect's code had it then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Features {
    /// [`Features::Ordinal`] for decisions over more than four ordered numbers,
    /// [`Features::Positional`] for others.
    #[default]
    Automatic,
    /// One indicator per decision and value.
    Positional,
    /// For decisions over ordered numbers x, x² and ln x, with x scaled to (0, 1], and products of
    /// neighbours of the same name; indicators for others.
    Ordinal,
    /// The number of modules and counts of up to `longest` modules in a row that occur at least
    /// three times among evaluated members (2017).
    NGrams {
        /// The longest sequence counted (n).
        longest: usize,
        /// Whether modules are the decisions' values, or the operations of the network.
        of_decisions: bool,
    },
    /// Modules, edges and decisions, each hashed into one of `buckets` (2019).
    Hashed {
        /// Length of a row.
        buckets: usize,
    },
}

/// Decisions over more ordered numbers are ordinal by default.
const FEW_VALUES: usize = 4;
/// How often a sequence of modules must occur.
const OCCURRENCES: usize = 3;

/// Turns candidates into rows of fixed length.
#[derive(Clone, Debug)]
pub(crate) struct FixedFeatures {
    slots: Vec<SlotFeatures>,
    length: usize,
}

#[derive(Clone, Debug)]
enum SlotFeatures {
    Indicators {
        first: usize,
    },
    Ordinal {
        first: usize,
        /// The scaled value of each index.
        scaled: Vec<f64>,
        /// The neighbour before, and the number of the product's feature.
        product: Option<(usize, usize)>,
    },
}

impl FixedFeatures {
    /// The positional or ordinal features of a space.
    pub fn new(space: &Space, features: Features) -> Self {
        let mut length = 0;
        let mut take = |count: usize| {
            length += count;
            length - count
        };
        // The last ordinal decision of each name.
        let mut last: HashMap<&str, usize> = HashMap::new();
        let mut slots = Vec::with_capacity(space.decisions().len());
        for (number, slot) in space.decisions().iter().enumerate() {
            let values = &slot.domain.values;
            let numbers: Option<Vec<f64>> = values.iter().map(|value| value.as_f64()).collect();
            let numbers = numbers.filter(|numbers| {
                slot.domain.ordered
                    && numbers.iter().all(|value| *value > 0.0)
                    && match features {
                        Features::Ordinal => true,
                        Features::Automatic => numbers.len() > FEW_VALUES,
                        _ => false,
                    }
            });
            slots.push(match numbers {
                None => SlotFeatures::Indicators {
                    first: take(values.len()),
                },
                Some(numbers) => {
                    let largest = numbers.iter().copied().fold(0.0, f64::max);
                    let before = last.insert(&slot.name, number);
                    SlotFeatures::Ordinal {
                        first: take(3),
                        scaled: numbers.iter().map(|value| value / largest).collect(),
                        product: before.map(|before| (before, take(1))),
                    }
                }
            });
        }
        Self { slots, length }
    }

    pub fn length(&self) -> usize {
        self.length
    }

    pub fn row_into(&self, candidate: &Candidate, row: &mut SparseRow) {
        row.clear();
        for (slot, index) in candidate.active() {
            match &self.slots[slot] {
                SlotFeatures::Indicators { first } => row.push((first + index, 1.0)),
                SlotFeatures::Ordinal {
                    first,
                    scaled,
                    product,
                } => {
                    let x = scaled[index];
                    row.extend([(*first, x), (first + 1, x * x), (first + 2, x.ln())]);
                    let Some((before, feature)) = *product else {
                        continue;
                    };
                    if let (Some(index), SlotFeatures::Ordinal { scaled, .. }) =
                        (candidate.get(before), &self.slots[before])
                    {
                        row.push((feature, x * scaled[index]));
                    }
                }
            }
        }
    }

    pub fn row(&self, candidate: &Candidate) -> SparseRow {
        let mut row = SparseRow::new();
        self.row_into(candidate, &mut row);
        row
    }
}

/// The modules of a member, one number each, in order.
///
/// # Errors
/// Why the member has no network.
pub(crate) fn modules(
    space: &Space,
    candidate: &Candidate,
    of_decisions: bool,
) -> oncefit_space::Result<Vec<u64>> {
    if of_decisions {
        let slots = space.decisions();
        let values = candidate.active().map(|(slot, index)| {
            let decision = &slots[slot];
            let text = format!("{}={}", decision.name, decision.domain.values[index]);
            fnv1a64(text.as_bytes())
        });
        return Ok(values.collect());
    }
    let subnet = space.subnet_of(candidate)?;
    let nodes = subnet.graph().nodes.iter().skip(1);
    Ok(nodes
        .map(|node| fnv1a64(format!("{:?}", node.op).as_bytes()))
        .collect())
}

/// The sequences of up to `longest` modules that a member has, with the number of modules first.
pub(crate) fn n_grams(modules: &[u64], longest: usize) -> HashMap<u64, f64> {
    let mut counts = HashMap::new();
    for length in 1..=longest {
        for window in modules.windows(length) {
            let bytes: Vec<u8> = window
                .iter()
                .flat_map(|module| module.to_le_bytes())
                .collect();
            *counts.entry(fnv1a64(&bytes)).or_insert(0.0) += 1.0;
        }
    }
    counts
}

/// The sequences that occur often enough among all members, numbered from 1; feature 0 is the
/// number of modules. Sorted, so that sums do not depend on a hash table's order.
pub(crate) fn vocabulary(members: &[HashMap<u64, f64>]) -> HashMap<u64, usize> {
    let mut totals: HashMap<u64, f64> = HashMap::new();
    for (gram, count) in members.iter().flatten() {
        *totals.entry(*gram).or_insert(0.0) += count;
    }
    let mut kept: Vec<u64> = totals
        .into_iter()
        .filter(|(_, count)| *count >= OCCURRENCES as f64)
        .map(|(gram, _)| gram)
        .collect();
    kept.sort_unstable();
    let numbered = kept.into_iter().enumerate();
    numbered.map(|(index, gram)| (gram, index + 1)).collect()
}

/// The row of a member in a vocabulary.
pub(crate) fn n_gram_row(
    modules: usize,
    grams: &HashMap<u64, f64>,
    vocabulary: &HashMap<u64, usize>,
) -> SparseRow {
    let mut row: SparseRow = vec![(0, modules as f64)];
    row.extend(
        grams
            .iter()
            .filter_map(|(gram, count)| Some((*vocabulary.get(gram)?, *count))),
    );
    row.sort_unstable_by_key(|(feature, _)| *feature);
    row
}

/// The hashed strings of a member: module paths, edges, decisions.
///
/// # Errors
/// Why the member has no network.
pub(crate) fn hashed_row(
    space: &Space,
    candidate: &Candidate,
    buckets: usize,
) -> oncefit_space::Result<SparseRow> {
    let subnet = space.subnet_of(candidate)?;
    let nodes = &subnet.graph().nodes;
    let mut counts = vec![0.0; buckets.max(1)];
    let mut count = |text: String| {
        let bucket = fnv1a64(text.as_bytes()) % counts.len() as u64;
        counts[bucket as usize] += 1.0;
    };
    for node in nodes {
        count(node.path.clone());
        for &input in &node.inputs {
            count(format!("{} |-> {}", nodes[input].path, node.path));
        }
    }
    for choice in &subnet.trace().choices {
        count(format!("{}={}", choice.path, choice.value));
    }
    let filled = counts.into_iter().enumerate();
    Ok(filled.filter(|(_, count)| *count > 0.0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n_grams_count_to_the_last_one_and_rare_ones_are_dropped() {
        let grams = n_grams(&[7, 7, 8], 2);
        assert_eq!(grams.values().sum::<f64>(), 5.0);
        assert_eq!(grams.len(), 4);
        let vocabulary = vocabulary(&[grams.clone(), n_grams(&[7], 2)]);
        assert_eq!(vocabulary.len(), 1);
        assert_eq!(n_gram_row(3, &grams, &vocabulary), [(0, 3.0), (1, 2.0)]);
    }

    #[test]
    fn ordered_decisions_with_many_values_are_ordinal() {
        let space = Space::builtin("ofa-mobilenet-v3").unwrap();
        let features = FixedFeatures::new(&space, Features::Automatic);
        // Resolution: three; depths and blocks: three indicators for each of 45 decisions.
        assert_eq!(features.length(), 3 + 3 * 45);
        let positional = FixedFeatures::new(&space, Features::Positional);
        assert_eq!(positional.length(), 25 + 3 * 45);
        let first = space.candidate(|_, _| 0).unwrap();
        let row = features.row(&first);
        assert_eq!(row[0], (0, 128.0 / 224.0));
        assert_eq!(positional.row(&first).len(), first.active().count());
    }
}
