//! The best members within bounds where the score is a sum over decisions.
//!
//! ```text
//! score(member) = intercept + Σ over its decisions of weight(value)
//! ```
//!
//! Segment by segment, every way to arrive (what arrives, the decisions that are read again) keeps, for
//! each cost so far, only the best choice of what came before. Costs are sums over segments exactly, in
//! whole units; peak memory is a bound on each segment by itself.

use std::collections::{BTreeMap, HashMap};

use crate::coster::{Coster, Transition, UNKNOWN};
use crate::error::{Result, TargetError};
use crate::table::to_picoseconds;

/// What a member may cost at most.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Bounds {
    /// Multiply-accumulates for one image.
    pub macs: Option<u64>,
    /// Weights.
    pub parameters: Option<u64>,
    /// Bytes of live activations.
    pub peak_activation_bytes: Option<u64>,
    /// Milliseconds by the table.
    pub latency_ms: Option<f64>,
    /// Bytes of the file.
    pub file_bytes: Option<u64>,
    /// Whether members with operators that the table lacks are left out, instead of an error.
    pub leaves_out: bool,
}

/// A score that is a sum.
#[derive(Clone, PartialEq, Debug)]
pub struct SumScore {
    /// For each position of the encoding ([`oncefit_space::Space::encode`]).
    pub weights: Vec<f64>,
    /// Of every member.
    pub intercept: f64,
}

/// Costs so far, in units.
type Units = [u32; SUMS];

/// Costs that add up: MACs, parameters, latency, bytes of the file.
const SUMS: usize = 4;

/// Units that a bound is divided into, by the number of bounds that count.
const RESOLUTION: [u64; SUMS + 1] = [1, 4096, 128, 32, 16];

/// How a segment is reached: what arrives, and the decisions that are read again.
type Way = (u32, BTreeMap<usize, usize>);

/// The best choice so far for some costs.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    /// Its place among the links.
    link: u32,
}

/// A choice on top of others, before it has its place: score, what is below, what was chosen.
type Choice = (f64, u32, (u32, u32));

/// A choice on top of others.
struct Link {
    below: u32,
    /// Decisions and values, as a range of `chosen`.
    chosen: (u32, u32),
}

impl Coster {
    /// The members with the best sums within `bounds`, best first, at most `keep`, no two of the same
    /// costs. A bound that is larger than a few thousand units of its cost is divided into 4,096 equal
    /// steps (fewer where several bounds are given), and what a segment costs is rounded up to whole
    /// steps: every member that is returned is within the bounds; one that uses the last part in a
    /// thousand or so of a bound may be missed.
    ///
    /// # Errors
    /// If a decision is met more than once on the way (tied copies), the score has another number of
    /// weights than the encoding positions, there are more than `most` cases of segments, shapes do not
    /// meet, or the table lacks operators.
    pub fn best_sums(
        &mut self,
        score: &SumScore,
        bounds: &Bounds,
        keep: usize,
        most: usize,
    ) -> Result<Vec<(Vec<usize>, f64)>> {
        let positions: usize = self.sizes.iter().sum();
        if score.weights.len() != positions {
            return Err(TargetError::Request(format!(
                "a sum over the decisions of space `{}` has {positions} weights, not {}",
                self.space.name(),
                score.weights.len()
            )));
        }
        if self.has_repeats {
            return Err(TargetError::Request(format!(
                "space `{}` meets a decision more than once (tied copies), which the exact solver cannot treat; use another searcher",
                self.space.name()
            )));
        }
        let limits = self.limits(bounds);
        let counted = limits.iter().flatten().count();
        let units =
            limits.map(|limit| limit.map(|limit| limit.div_ceil(RESOLUTION[counted]).max(1)));
        let last_read = self.last_read();
        let mut links = vec![Link {
            below: 0,
            chosen: (0, 0),
        }];
        let mut chosen: Vec<(u32, u32)> = Vec::new();
        let mut cases = 0;
        let nothing = Best {
            score: score.intercept,
            link: 0,
        };
        let mut ways: BTreeMap<Way, HashMap<Units, Best>> =
            BTreeMap::from([((0, BTreeMap::new()), HashMap::from([([0; SUMS], nothing)]))]);
        for number in 0..self.parts.len() {
            let mut next: BTreeMap<Way, HashMap<Units, Choice>> = BTreeMap::new();
            for ((state, pins), front) in ways {
                let part = &self.parts[number];
                let guards = part.guards.iter().map(|(slot, _)| *slot);
                let slots = part.slots.iter().map(|(slot, _)| *slot);
                let mut free: Vec<usize> = guards
                    .chain(slots)
                    .chain(part.control)
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
                            "space `{}` has more than {most} cases of segments, too many for the exact solver; use another searcher",
                            self.space.name()
                        )));
                    }
                    if let Some((after, added, cost)) =
                        self.step(number, state, &indices, score, &units, bounds)?
                    {
                        let start = chosen.len() as u32;
                        chosen.extend(free.iter().map(|&slot| (slot as u32, indices[slot] as u32)));
                        let range = (start, chosen.len() as u32);
                        let mut pins = pins.clone();
                        pins.extend(free.iter().map(|&slot| (slot, indices[slot])));
                        pins.retain(|&slot, _| last_read[slot] > number);
                        let cells = next.entry((after, pins)).or_default();
                        extend(cells, &front, added, cost, range, &limits, &units);
                    }
                    let values = |slot: usize| self.sizes[slot];
                    let digit = (0..free.len())
                        .find(|&digit| indices[free[digit]] + 1 < values(free[digit]));
                    let Some(digit) = digit else { break };
                    free[..digit].iter().for_each(|&slot| indices[slot] = 0);
                    indices[free[digit]] += 1;
                }
            }
            ways = next
                .into_iter()
                .map(|(way, cells)| {
                    let kept = pruned(cells, counted).into_iter();
                    let front = kept.map(|(costs, (score, below, chosen))| {
                        links.push(Link { below, chosen });
                        let link = (links.len() - 1) as u32;
                        (costs, Best { score, link })
                    });
                    (way, front.collect())
                })
                .collect();
        }
        let mut found: Vec<(Vec<usize>, f64)> = Vec::new();
        let mut ends: Vec<Best> = ways.into_values().flat_map(HashMap::into_values).collect();
        ends.sort_by(|one, other| {
            other
                .score
                .total_cmp(&one.score)
                .then(one.link.cmp(&other.link))
        });
        for end in ends {
            if found.len() == keep {
                break;
            }
            let mut indices = vec![0; self.offsets.len()];
            let mut link = end.link;
            while link > 0 {
                let Link {
                    below,
                    chosen: (from, to),
                } = links[link as usize];
                for &(slot, index) in &chosen[from as usize..to as usize] {
                    indices[slot as usize] = index as usize;
                }
                link = below;
            }
            // What is still open at the end of a network is priced only here.
            if self.is_within(&indices, bounds)? {
                found.push((indices, end.score));
            }
        }
        Ok(found)
    }

    /// The bounds on sums, less what every member has.
    fn limits(&self, bounds: &Bounds) -> [Option<u64>; SUMS] {
        let intercept = self.table.as_ref().map_or(0, |table| table.intercept());
        let latency = bounds.latency_ms.map(to_picoseconds);
        [
            bounds.macs,
            bounds.parameters,
            latency.map(|limit| limit.saturating_sub(intercept)),
            bounds
                .file_bytes
                .map(|limit| limit.saturating_sub(self.file_overhead.unwrap_or(0))),
        ]
    }

    /// What a segment leads to, adds to the score and costs; nothing if it breaks a bound.
    fn step(
        &mut self,
        number: usize,
        state: u32,
        indices: &[usize],
        score: &SumScore,
        units: &[Option<u64>; SUMS],
        bounds: &Bounds,
    ) -> Result<Option<(u32, f64, Units)>> {
        let part = &self.parts[number];
        let runs = (part.guards.iter()).all(|(slot, allowed)| allowed[indices[*slot]]);
        if !runs {
            return Ok(Some((state, 0.0, [0; SUMS])));
        }
        let control = part.control;
        let known = match part.find(state, indices) {
            UNKNOWN => self.work_out(number, state, indices)?,
            known => known,
        };
        let transition = &self.transitions[known as usize];
        if bounds
            .peak_activation_bytes
            .is_some_and(|most| transition.peak > most)
        {
            return Ok(None);
        }
        if let (Some(table), false) = (&self.table, transition.is_priced) {
            return match bounds.leaves_out {
                true => Ok(None),
                false => Err(self.missing(table, indices)),
            };
        }
        let weight = |slot: usize| score.weights[self.offsets[slot] as usize + indices[slot]];
        let active = transition.active.iter().map(|&slot| weight(slot as usize));
        let added = control.map_or(0.0, weight) + active.sum::<f64>();
        Ok(Some((transition.next, added, in_units(transition, units))))
    }

    fn is_within(&mut self, indices: &[usize], bounds: &Bounds) -> Result<bool> {
        let cost = self.cost(indices)?;
        let holds = |most: Option<u64>, value: u64| most.is_none_or(|most| value <= most);
        Ok(holds(bounds.macs, cost.macs)
            && holds(bounds.parameters, cost.parameters)
            && holds(bounds.peak_activation_bytes, cost.peak_activation_bytes)
            && bounds
                .file_bytes
                .is_none_or(|most| cost.file_bytes.is_some_and(|bytes| bytes <= most))
            && bounds
                .latency_ms
                .is_none_or(|most| cost.latency_ms.is_some_and(|ms| ms <= most)))
    }
}

fn in_units(transition: &Transition, units: &[Option<u64>; SUMS]) -> Units {
    let sums = [
        transition.macs,
        transition.parameters,
        transition.picoseconds,
        transition.file_bytes,
    ];
    std::array::from_fn(|place| match units[place] {
        Some(unit) => u32::try_from(sums[place].div_ceil(unit)).unwrap_or(u32::MAX),
        None => 0,
    })
}

/// Adds a segment to every choice so far, where the limits allow it.
fn extend(
    cells: &mut HashMap<Units, Choice>,
    front: &HashMap<Units, Best>,
    added: f64,
    cost: Units,
    chosen: (u32, u32),
    limits: &[Option<u64>; SUMS],
    units: &[Option<u64>; SUMS],
) {
    for (costs, best) in front {
        let sum: Units = std::array::from_fn(|place| costs[place].saturating_add(cost[place]));
        let is_within = (0..SUMS).all(|place| match (limits[place], units[place]) {
            (Some(limit), Some(unit)) => u64::from(sum[place]).saturating_mul(unit) <= limit,
            _ => true,
        });
        if !is_within {
            continue;
        }
        let found = (best.score + added, best.link, chosen);
        let cell = cells.entry(sum).or_insert(found);
        // Equal scores: the same one, whatever the order of the cells.
        if (found.0, std::cmp::Reverse(found.1)) > (cell.0, std::cmp::Reverse(cell.1)) {
            *cell = found;
        }
    }
}

/// The cells that no cheaper one beats, in the order of their costs.
fn pruned(cells: HashMap<Units, Choice>, counted: usize) -> Vec<(Units, Choice)> {
    let mut sorted: Vec<_> = cells.into_iter().collect();
    sorted.sort_by_key(|(costs, _)| *costs);
    if counted < 2 {
        let mut best = f64::NEG_INFINITY;
        sorted.retain(|(_, (score, ..))| {
            let is_better = *score > best;
            best = best.max(*score);
            is_better
        });
    }
    sorted
}
