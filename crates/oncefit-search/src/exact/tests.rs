use super::*;
use crate::additive::Term;
use oncefit_random::Draws;

/// A model with random terms: one per block over its decisions and the resolution, one per
/// depth, as a table of latencies has.
fn random_model(space: &Space, metrics: &[Metric], seed: u64) -> AdditiveModel {
    let mut draws = Draws::new(seed, "additive", 0, 0);
    let mut model = AdditiveModel::new(space, metrics);
    let slots = space.decisions();
    let mut groups: Vec<Vec<usize>> = vec![vec![0]];
    for (number, slot) in slots.iter().enumerate().skip(1) {
        match slot.name.as_str() {
            "kernel" => groups.push(vec![0, number, number + 1]),
            "expand" => {}
            _ => groups.push(vec![0, number]),
        }
    }
    for group in groups {
        let size = group
            .iter()
            .map(|&slot| slots[slot].domain.values.len())
            .product();
        let shares = (0..size).map(|_| Share {
            score: draws.unit_f64(),
            costs: metrics.iter().map(|_| draws.below(40) as u64).collect(),
        });
        let shares = shares.collect();
        let slots = group;
        model.add_term(Term { slots, shares }).unwrap();
    }
    let costs = vec![3; metrics.len()];
    model.add_constant(&Share { score: 0.5, costs }).unwrap();
    model
}

fn all(space: &Space) -> Vec<Candidate> {
    let mut next = Some(space.candidate(|_, _| 0).unwrap());
    let mut found = Vec::new();
    while let Some(candidate) = next {
        next = space.next_candidate(&candidate).unwrap();
        found.push(candidate);
    }
    found
}

fn small_space() -> Space {
    let space = Space::builtin("fm-nano").unwrap();
    let keep = |values: &[i64]| -> Vec<oncefit_space::Value> {
        values
            .iter()
            .map(|value| oncefit_space::Value::Int(*value))
            .collect()
    };
    let space = space.restrict("expand", &keep(&[3, 6])).unwrap();
    space.restrict("depth", &keep(&[1, 2])).unwrap()
}

#[test]
fn fronts_are_those_of_trying_everything() {
    let space = small_space();
    let members = all(&space);
    for (seed, metrics) in [
        (1, vec![Metric::Latency]),
        (2, vec![Metric::Latency]),
        (3, vec![Metric::Latency, Metric::Macs]),
        (4, vec![]),
    ] {
        let model = random_model(&space, &metrics, seed);
        let limits: Vec<Limit> = metrics
            .iter()
            .map(|&metric| Limit {
                metric,
                at_most: 110,
            })
            .collect();
        let front = solve(&model, &limits, &vec![1; metrics.len()]).unwrap();
        let mut best = f64::NEG_INFINITY;
        for member in &members {
            let share = model.of(member);
            if share.costs.iter().any(|cost| *cost > 110) {
                continue;
            }
            best = best.max(share.score);
            // Nothing that is feasible beats the front.
            let is_covered = front.iter().any(|solved| {
                let mut costs = solved.share.costs.iter().zip(&share.costs);
                solved.share.score >= share.score - 1e-9
                    && costs.all(|(solved, other)| solved <= other)
            });
            assert!(is_covered, "{share:?}");
        }
        assert!((front[0].share.score - best).abs() < 1e-9);
        assert!(
            front
                .iter()
                .all(|solved| solved.share.costs.iter().all(|cost| *cost <= 110))
        );
    }
}

#[test]
fn rounded_costs_stay_within_the_limit() {
    let space = small_space();
    let model = random_model(&space, &[Metric::Latency], 5);
    let limit = Limit {
        metric: Metric::Latency,
        at_most: 130,
    };
    let exact = solve(&model, &[limit], &[1]).unwrap();
    let rounded = solve(&model, &[limit], &[4]).unwrap();
    assert!(rounded[0].share.costs[0] <= 130);
    assert!(rounded[0].share.score <= exact[0].share.score);
}

#[test]
fn infeasible_limits_are_answered_with_the_closest_value() {
    let space = small_space();
    let model = random_model(&space, &[Metric::Latency], 6);
    let cheapest = all(&space)
        .iter()
        .map(|member| model.of(member).costs[0])
        .min()
        .unwrap();
    let limit = |at_most| Limit {
        metric: Metric::Latency,
        at_most,
    };
    let error = solve(&model, &[limit(cheapest - 1)], &[1]).unwrap_err();
    let SearchError::Infeasible { closest, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(closest, cheapest);
    let front = solve(&model, &[limit(cheapest)], &[1]).unwrap();
    assert_eq!(front[0].share.costs[0], cheapest);
}

#[test]
fn a_large_space_is_solved_at_a_stated_resolution() {
    let space = Space::builtin("ofa-mobilenet-v3").unwrap();
    let model = random_model(&space, &[Metric::Latency], 7);
    let limit = Limit {
        metric: Metric::Latency,
        at_most: 400,
    };
    let front = solve(&model, &[limit], &[1]).unwrap();
    assert!(front[0].share.costs[0] <= 400);
    // Local search cannot improve on it.
    let mut draws = Draws::new(8, "test", 0, 0);
    let mut best = front[0].candidate.clone();
    for _ in 0..20_000 {
        let other = crate::variation::mutate_one(&space, &best, &mut draws).unwrap();
        let share = model.of(&other);
        assert!(share.costs[0] > 400 || share.score <= front[0].share.score + 1e-9);
        if share.costs[0] <= 400 && share.score >= model.of(&best).score - 0.3 {
            best = other;
        }
    }
}

/// Decisions below conditions on decisions near and far, on named expressions and in branches.
#[test]
fn conditions_are_solved_as_trying_everything_does() {
    let text = r#"
space conditions
decide width in (1, 2, 3)
decide deep in (false, true)
let wide = width * 2
input(4, 4, 1)
first: repeat depth in (1, 2) as i {
  if deep and i > 0 { decide k in (3, 5); conv(2, kernel = k) } else { decide r in (2, 3, 4); conv(r) }
}
choice kind {
  a: { if wide > 3 { decide p in (1, 2, 3); conv(p) } }
  b: { decide q in (1, 2); if q == 2 { decide s in (5, 6, 7); conv(s) } else { conv(width) } }
}
tied: repeat tied copies in (1, 2) { decide t in (2, 4); conv(t); if t == width + 1 { decide u in (1, 2); conv(u) } }
"#;
    let space = Space::parse(text, "conditions.space").unwrap();
    let members = all(&space);
    assert_eq!(space.count().unwrap(), members.len().into());
    let slots = space.decisions();
    let number = |path: &str| slots.iter().position(|slot| slot.path == path).unwrap();
    for seed in 0..4 {
        let mut draws = Draws::new(seed, "conditions", 0, 0);
        let metrics = [Metric::Macs];
        let mut model = AdditiveModel::new(&space, &metrics);
        let mut groups: Vec<Vec<usize>> = (0..slots.len()).map(|slot| vec![slot]).collect();
        // Terms across a condition, and of a branch with what lies outside of it.
        groups.push(vec![number("width"), number("tied[0].t")]);
        groups.push(vec![number("kind.b.q"), number("kind.b.s")]);
        groups.push(vec![number("first[1].k"), number("kind")]);
        for slots_of in groups {
            let sizes = slots_of.iter().map(|&slot| slots[slot].domain.values.len());
            let shares = (0..sizes.product()).map(|_| Share {
                score: draws.unit_f64(),
                costs: vec![draws.below(20) as u64],
            });
            let term = Term {
                shares: shares.collect(),
                slots: slots_of,
            };
            model.add_term(term).unwrap();
        }
        let limit = Limit {
            metric: Metric::Macs,
            at_most: 130,
        };
        let shares: Vec<Share> = members.iter().map(|member| model.of(member)).collect();
        let feasible = || shares.iter().filter(|share| share.costs[0] <= 130);
        let best = feasible().map(|share| share.score);
        let best = best.fold(f64::NEG_INFINITY, f64::max);
        let front = solve(&model, &[limit], &[1]).unwrap();
        assert!((front[0].share.score - best).abs() < 1e-9, "seed {seed}");
        for share in feasible() {
            assert!(
                front.iter().any(|solved| {
                    solved.share.score >= share.score - 1e-9
                        && solved.share.costs[0] <= share.costs[0]
                }),
                "seed {seed}: {share:?}"
            );
        }
    }
}
