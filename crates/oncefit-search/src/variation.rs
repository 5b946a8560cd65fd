//! Mutation and crossover of candidates: children keep values wherever a decision still exists.

use oncefit_random::Draws;
use oncefit_space::{Candidate, Space};

use crate::error::Result;

/// `parent` with each decision redrawn with `probability`; decisions that are new are drawn
/// (after Once-for-All's mutation).
///
/// # Errors
/// If `parent` is a candidate of another space.
pub fn mutate(
    space: &Space,
    parent: &Candidate,
    probability: f64,
    draws: &mut Draws,
) -> Result<Candidate> {
    Ok(space.candidate(|slot, values| match parent.get(slot) {
        Some(index) if !draws.chance(probability) => index,
        _ => draws.below(values),
    })?)
}

/// `parent` with one decision, chosen uniformly, changed to another value; decisions that are new
/// are drawn (DeepArchitect's mutation, but for the tail, which it draws anew).
///
/// # Errors
/// If `parent` is a candidate of another space.
pub fn mutate_one(space: &Space, parent: &Candidate, draws: &mut Draws) -> Result<Candidate> {
    let active = parent.active().count();
    if active == 0 {
        return Ok(parent.clone());
    }
    let at = draws.below(active);
    let changed = parent.active().nth(at).map(|(slot, _)| slot);
    Ok(space.candidate(|slot, values| match parent.get(slot) {
        Some(index) if Some(slot) == changed => {
            let other = draws.below(values - 1);
            other + usize::from(other >= index)
        }
        Some(index) => index,
        None => draws.below(values),
    })?)
}

/// All members that differ from `member` in one decision, in the order of its decisions and their
/// values; decisions that become active take their first value, those that stay keep theirs.
///
/// # Errors
/// If `member` is a candidate of another space.
pub fn neighbours(space: &Space, member: &Candidate) -> Result<Vec<Candidate>> {
    let mut found = Vec::new();
    for (changed, own) in member.active() {
        for index in 0..space.decisions()[changed].domain.values.len() {
            if index != own {
                found.push(space.candidate(|slot, _| match slot == changed {
                    true => index,
                    false => member.get(slot).unwrap_or(0),
                })?);
            }
        }
    }
    Ok(found)
}

/// A candidate that has each decision from one of two parents; decisions that neither has are
/// drawn.
///
/// # Errors
/// If a parent is a candidate of another space.
pub fn crossover(
    space: &Space,
    left: &Candidate,
    right: &Candidate,
    draws: &mut Draws,
) -> Result<Candidate> {
    Ok(
        space.candidate(|slot, values| match (left.get(slot), right.get(slot)) {
            (Some(left), Some(right)) if left == right => left,
            (Some(left), Some(right)) => {
                if draws.chance(0.5) {
                    left
                } else {
                    right
                }
            }
            (Some(index), None) | (None, Some(index)) => index,
            (None, None) => draws.below(values),
        })?,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mutation_changes_one_decision_and_what_follows_from_it() {
        let space = Space::builtin("ofa-mobilenet-v3").unwrap();
        let mut draws = Draws::new(3, "test", 0, 0);
        for _ in 0..200 {
            let parent = space.sample_candidate(&mut draws).unwrap();
            let child = mutate_one(&space, &parent, &mut draws).unwrap();
            let changed = parent
                .active()
                .filter(|&(slot, index)| child.get(slot).is_some_and(|other| other != index));
            assert_eq!(changed.count(), 1);
        }
    }

    #[test]
    fn neighbours_differ_in_one_decision() {
        let text = "space s\ninput(4, 4, 1)\ndecide a in (1, 2, 3)\noptional b { decide c in (1, 2); conv(c) }\nconv(a)\n";
        let space = Space::parse(text, "s").unwrap();
        let texts = |text: &str| -> Vec<String> {
            let member = space.parse_subnet(text).unwrap();
            let member = space.candidate_of(member.trace()).unwrap();
            let found = neighbours(&space, &member).unwrap();
            found
                .iter()
                .map(|other| space.trace_of(other).text())
                .collect()
        };
        assert_eq!(
            texts("a=2:b=false"),
            ["a=1:b=false", "a=3:b=false", "a=2:b=true:c=1"]
        );
        assert_eq!(
            texts("a=1:b=true:c=2"),
            [
                "a=2:b=true:c=2",
                "a=3:b=true:c=2",
                "a=1:b=false",
                "a=1:b=true:c=1"
            ]
        );
    }

    #[test]
    fn children_of_equal_parents_are_equal_and_shared_values_are_kept() {
        let space = Space::builtin("ofa-mobilenet-v3").unwrap();
        let mut draws = Draws::new(4, "test", 0, 0);
        let one = space.sample_candidate(&mut draws).unwrap();
        let two = space.sample_candidate(&mut draws).unwrap();
        assert_eq!(crossover(&space, &one, &one, &mut draws).unwrap(), one);
        assert_eq!(mutate(&space, &one, 0.0, &mut draws).unwrap(), one);
        let child = crossover(&space, &one, &two, &mut draws).unwrap();
        for (slot, index) in child.active() {
            let of = [one.get(slot), two.get(slot)];
            assert!(of.contains(&Some(index)) || of == [None, None]);
        }
    }
}
