//! Members: random ones, the ends of the space, relatives of others, and by number.

use std::collections::HashMap;

use num_bigint::BigUint;
use oncefit_random::Draws;

use crate::count;
use crate::error::Result;
use crate::space::Space;
use crate::trace::Subnet;

impl Space {
    /// How many members it has, exactly.
    ///
    /// # Errors
    /// If conditions read so many decisions at once that counting would take too long.
    pub fn count(&self) -> Result<BigUint> {
        count::count(self.program())
    }

    /// log10 of [`Space::count`].
    ///
    /// # Errors
    /// As [`Space::count`].
    pub fn log10_count(&self) -> Result<f64> {
        let count = self.count()?;
        // The leading 64 bits hold all that an f64 can.
        let shift = count.bits().saturating_sub(64);
        let leading = u64::try_from(&count >> shift).unwrap_or(u64::MAX);
        Ok((leading as f64).log10() + shift as f64 * std::f64::consts::LOG10_2)
    }

    /// The member of a number below [`Space::count`]. Numbers follow the order in which decisions
    /// are met, each decision running through its values, the last one fastest.
    ///
    /// # Errors
    /// If there is no such member, the space cannot be counted or the shapes do not meet.
    pub fn unrank(&self, rank: &BigUint) -> Result<Subnet> {
        self.subnet_of(&self.unrank_candidate(rank)?)
    }

    /// The number of a member: the inverse of [`Space::unrank`].
    ///
    /// # Errors
    /// If `subnet` is no member or the space cannot be counted.
    pub fn rank(&self, subnet: &Subnet) -> Result<BigUint> {
        let mut chosen = vec![None; self.decisions().len()];
        self.follow(subnet.trace(), &mut |slot, index| {
            chosen[slot] = Some(index)
        })?;
        count::rank(self.program(), &chosen)
    }

    /// A random member, every decision uniform (Once-for-All's sampling: not uniform over members,
    /// since shallow networks have fewer decisions).
    ///
    /// # Errors
    /// If the shapes do not meet.
    pub fn sample(&self, draws: &mut Draws) -> Result<Subnet> {
        self.build(&mut |slot| draws.below(slot.domain.values.len()))
    }

    /// A random member, uniform over members.
    ///
    /// # Errors
    /// If the space cannot be counted or the shapes do not meet.
    pub fn sample_uniform(&self, draws: &mut Draws) -> Result<Subnet> {
        self.subnet_of(&self.sample_candidate_uniform(draws)?)
    }

    /// The member with ordered decisions at their smallest and unordered ones at the value that
    /// gives the fewest MACs, the first of equals; unordered decisions are settled in order, each
    /// with those after it at their first value.
    ///
    /// # Errors
    /// If the shapes do not meet.
    pub fn smallest(&self) -> Result<Subnet> {
        self.extreme(false)
    }

    /// The member with ordered decisions at their largest and unordered ones at the value that
    /// gives the most MACs, settled as in [`Space::smallest`].
    ///
    /// # Errors
    /// If the shapes do not meet.
    pub fn largest(&self) -> Result<Subnet> {
        self.extreme(true)
    }

    fn extreme(&self, is_largest: bool) -> Result<Subnet> {
        let slots = self.decisions();
        let mut chosen: Vec<usize> = slots
            .iter()
            .map(|slot| match (slot.domain.ordered, is_largest) {
                (false, _) => 0,
                (true, true) => slot.domain.largest(),
                (true, false) => slot.domain.smallest(),
            })
            .collect();
        for (index, slot) in slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| !slot.domain.ordered)
        {
            let mut best: Option<(u64, usize)> = None;
            for value in 0..slot.domain.values.len() {
                chosen[index] = value;
                let macs = self
                    .build_slots(&mut |slot, _| chosen[slot])?
                    .graph()
                    .macs();
                let is_better =
                    best.is_none_or(|(best, _)| if is_largest { macs > best } else { macs < best });
                if is_better {
                    best = Some((macs, value));
                }
            }
            chosen[index] = best.map_or(0, |(_, value)| value);
        }
        self.build_slots(&mut |slot, _| chosen[slot])
    }

    /// `subnet` with each decision redrawn with `probability`; decisions that are new are drawn
    /// (after Once-for-All's mutation).
    ///
    /// # Errors
    /// If the shapes do not meet.
    pub fn mutate(&self, subnet: &Subnet, probability: f64, draws: &mut Draws) -> Result<Subnet> {
        let parent = self.indices(subnet);
        self.build_slots(&mut |slot, decision| match parent.get(&slot) {
            Some(&index) if !draws.chance(probability) => index,
            _ => draws.below(decision.domain.values.len()),
        })
    }

    /// A member that has each decision from one of two parents; decisions that neither has are
    /// drawn.
    ///
    /// # Errors
    /// If the shapes do not meet.
    pub fn crossover(&self, left: &Subnet, right: &Subnet, draws: &mut Draws) -> Result<Subnet> {
        let (left, right) = (self.indices(left), self.indices(right));
        self.build_slots(
            &mut |slot, decision| match (left.get(&slot), right.get(&slot)) {
                (Some(&left), Some(&right)) => {
                    if draws.chance(0.5) {
                        left
                    } else {
                        right
                    }
                }
                (Some(&index), None) | (None, Some(&index)) => index,
                (None, None) => draws.below(decision.domain.values.len()),
            },
        )
    }

    /// The decisions of `subnet`, which may come from a space like this one, that are legal here.
    fn indices(&self, subnet: &Subnet) -> HashMap<usize, usize> {
        let choices = subnet.trace().choices.iter();
        choices
            .filter_map(|choice| {
                let slot = self.slot(&choice.path)?;
                Some((slot, self.decisions()[slot].domain.position(&choice.value)?))
            })
            .collect()
    }
}

/// A uniform integer below `bound`.
pub(crate) fn below(bound: &BigUint, draws: &mut Draws) -> BigUint {
    let digits = (bound.bits() / 32 + 2) as usize;
    // 32 bits more than the bound has: the bias is below 2⁻³².
    let random = BigUint::new((0..digits).map(|_| draws.next_u32()).collect());
    (random * bound) >> (32 * digits)
}
