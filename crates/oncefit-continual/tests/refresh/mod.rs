//! Refresh learning: a plug-in that moves weights and nothing else.

use oncefit_continual::{Direction, FisherNorms, Refresh, RefreshRule, UnlearntLoss};
use oncefit_nn::Gradients;

use super::*;

const HOSTS: [&str; 5] = ["fine-tune", "der++", "online-ewc", "si", "a-gem"];

fn host(name: &str) -> Method {
    with_few_examples(name)
}

fn with_momentum(method: Method) -> Learner {
    let settings = LearnerSettings {
        rule: UpdateRule::sgd(0.9),
        learning_rate: 0.01,
        ..settings()
    };
    Learner::new(&mlp(784, 20, 10).unwrap(), method, settings).unwrap()
}

fn forms() -> [Refresh; 2] {
    [Refresh::paper(), Refresh::released()].map(|refresh| Refresh {
        fisher_images: Some(20),
        ..refresh
    })
}

fn with_strength(refresh: Refresh, strength: f64, noise: f64) -> Refresh {
    let rule = match refresh.rule {
        RefreshRule::Paper { steps, damping, .. } => RefreshRule::Paper {
            rate: strength,
            steps,
            damping,
            temperature: noise,
            largest_step: None,
        },
        RefreshRule::Released { fisher_weight, .. } => RefreshRule::Released {
            displacement: strength,
            noise,
            fisher_weight,
        },
    };
    Refresh { rule, ..refresh }
}

/// At strength 0 nothing runs. At one so small that no weight changes everything runs, and weights,
/// momentum, memory, anchors and the draws of the host are still the host's.
#[test]
fn only_weights_are_moved() {
    for name in HOSTS {
        let mut plain = with_momentum(host(name));
        train(&mut plain, 2, 8);
        for refresh in forms() {
            let mut off =
                with_momentum(host(name).refreshed(with_strength(refresh.clone(), 0.0, 0.0)));
            train(&mut off, 2, 8);
            assert!(bits(off.parameters()) == bits(plain.parameters()), "{name}");
            assert_eq!(off.train_macs(), plain.train_macs());
            let mut idle =
                with_momentum(host(name).refreshed(with_strength(refresh.clone(), 1e-30, 0.0)));
            train(&mut idle, 2, 8);
            assert!(
                bits(idle.parameters()) == bits(plain.parameters()),
                "{name} {:?}",
                refresh.rule
            );
            assert_eq!(
                idle.memory().map(|memory| memory.counts()),
                plain.memory().map(|memory| memory.counts())
            );
            assert!(idle.train_macs() > plain.train_macs());
            let mut on = with_momentum(host(name).refreshed(refresh.clone()));
            train(&mut on, 2, 8);
            assert!(bits(on.parameters()) != bits(plain.parameters()), "{name}");
        }
    }
}

#[test]
fn refreshed_learners_restored_at_any_batch_go_on_with_the_same_bits() {
    let stream = stream();
    for refresh in forms() {
        let method = host("der++").refreshed(refresh);
        let mut whole = learner(method.clone());
        train(&mut whole, 2, 99);
        let mut first = learner(method.clone());
        train(&mut first, 1, 99);
        for examples in stream.iterate(1, 0).take(7) {
            first.step(&examples).unwrap();
        }
        let state = first.state().unwrap();
        let mut second = learner(method);
        second.restore(&state).unwrap();
        assert_eq!(second.state().unwrap(), state);
        for examples in stream.iterate(1, 7) {
            second.step(&examples).unwrap();
        }
        let train = &stream.tasks()[1].train;
        second.end_task(&stream.train_examples(1, train)).unwrap();
        assert!(second.state().unwrap() == whole.state().unwrap());
    }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// Weights of a small network and a gradient that is not theirs.
fn some_weights() -> (Parameters, Gradients) {
    let mut fine = learner(Method::fine_tune());
    train(&mut fine, 1, 5);
    let parameters = fine.parameters().clone();
    let mut gradients = Gradients::zeros(&parameters);
    for position in 0..parameters.len() {
        let mut draws = oncefit_random::Draws::new(1, "test gradient", position as u64, 0);
        let values = gradients.at_mut(position).iter_mut();
        values.for_each(|value| *value = draws.normal() as f32);
    }
    (parameters, gradients)
}

/// The released form moves each tensor by δ of its norm, up the gradient or, as a control, anywhere.
#[test]
fn the_released_form_moves_each_tensor_by_its_share() {
    let (parameters, gradients) = some_weights();
    for direction in [Direction::Gradient, Direction::Random] {
        let refresh = Refresh {
            direction,
            ..with_strength(Refresh::released(), 1e-5, 0.0)
        };
        let mut moved = parameters.clone();
        refresh.displace(&mut moved, &gradients, None, (1, 2, 0));
        for (position, (new, old)) in moved.iter().zip(parameters.iter()).enumerate() {
            let ways = || {
                let pairs = new.data.iter().zip(&old.data);
                pairs.map(|(new, old)| f64::from(new - old))
            };
            let size = norm(old.data.iter().map(|value| f64::from(*value)));
            let share = norm(ways()) / size;
            assert!((share / 1e-5 - 1.0).abs() < 0.01, "{}: {share}", old.name);
            let along: f64 = ways()
                .zip(gradients.at(position))
                .map(|(way, g)| way * f64::from(*g))
                .sum();
            let length = norm(gradients.at(position).iter().map(|g| f64::from(*g)));
            let cosine = along / (norm(ways()) * length);
            match direction {
                Direction::Gradient => assert!(cosine > 0.99, "{}: {cosine}", old.name),
                Direction::Random => assert!(cosine.abs() < 0.9, "{}: {cosine}", old.name),
            }
        }
    }
}

/// Where F is large weights move less, in both forms as their formulas say.
#[test]
fn important_weights_move_less() {
    let (parameters, gradients) = some_weights();
    let mut fisher = parameters.zeros();
    for tensor in fisher.iter_mut() {
        tensor
            .data
            .iter_mut()
            .step_by(2)
            .for_each(|value| *value = 3.0);
    }
    for refresh in [Refresh::paper(), Refresh::released()] {
        let refresh = match refresh.rule {
            RefreshRule::Paper { .. } => with_strength(refresh, 0.1, 0.0),
            RefreshRule::Released { .. } => Refresh {
                rule: RefreshRule::Released {
                    displacement: 0.1,
                    noise: 0.0,
                    fisher_weight: 1.0,
                },
                ..refresh
            },
        };
        let by = |fisher: Option<&Parameters>| {
            let mut moved = parameters.clone();
            refresh.displace(&mut moved, &gradients, fisher, (1, 2, 0));
            let pairs = moved.at(0).data.iter().zip(&parameters.at(0).data);
            pairs.map(|(new, old)| new - old).collect::<Vec<f32>>()
        };
        let (free, held) = (by(None), by(Some(&fisher)));
        for (at, (free, held)) in free.iter().zip(&held).enumerate().take(100) {
            // (F + d)⁻¹ with d = 1, and 1 / (1 + φF) with φ = 1.
            let wanted = if at % 2 == 0 { free / 4.0 } else { *free };
            assert!(
                (held - wanted).abs() < 1e-3 * free.abs() + 1e-7,
                "{at}: {held} {wanted}"
            );
        }
    }
}

/// L(θ + γ(F + d)⁻¹g) − L(θ) = γ gᵀ(F + d)⁻¹g for a small γ, with the loss in f64.
#[test]
fn to_first_order_the_loss_rises_by_the_squared_norm_of_the_gradient() {
    let mut start = learner(Method::fine_tune());
    train(&mut start, 1, 12);
    let examples = stream().iterate(1, 0).next().unwrap();
    let before = start.parameters().clone();
    // A step's way is minus the learning rate times the gradient.
    let mut after = learner_copy(&start);
    after.step(&examples).unwrap();
    let mut gradients = Gradients::zeros(&before);
    let mut fisher = before.zeros();
    let (rate, damping) = (1e-5, 0.5);
    let mut wanted = 0.0;
    for position in 0..before.len() {
        let mut draws = oncefit_random::Draws::new(1, "test fisher", position as u64, 0);
        for at in 0..before.at(position).data.len() {
            let way = before.at(position).data[at] - after.parameters().at(position).data[at];
            let gradient = way / settings().learning_rate;
            let importance = draws.unit_f32();
            gradients.at_mut(position)[at] = gradient;
            fisher.at_mut(position).data[at] = importance;
            wanted += rate * f64::from(gradient).powi(2) / (f64::from(importance) + damping);
        }
    }
    let refresh = Refresh {
        rule: RefreshRule::Paper {
            rate,
            steps: 1,
            damping,
            temperature: 0.0,
            largest_step: None,
        },
        ..Refresh::paper()
    };
    let mut moved = before.clone();
    refresh.displace(&mut moved, &gradients, Some(&fisher), (1, 0, 0));
    let loss = |parameters: &Parameters| cross_entropy(parameters, &examples, &ALL);
    let found = loss(&moved) - loss(&before);
    assert!((found / wanted - 1.0).abs() < 0.05, "{found} {wanted}");
}

/// The paper's form never moves a tensor further than its limit, whatever the noise.
#[test]
fn steps_are_limited() {
    let (parameters, gradients) = some_weights();
    let refresh = Refresh {
        rule: RefreshRule::Paper {
            rate: 0.03,
            steps: 1,
            damping: 1e-4,
            temperature: 1.0,
            largest_step: Some(1e-3),
        },
        ..Refresh::paper()
    };
    let mut moved = parameters.clone();
    refresh.displace(&mut moved, &gradients, None, (1, 2, 0));
    for (new, old) in moved.iter().zip(parameters.iter()) {
        let pairs = new.data.iter().zip(&old.data);
        let way = norm(pairs.map(|(new, old)| f64::from(new - old)));
        let size = norm(old.data.iter().map(|value| f64::from(*value)));
        assert!(
            (way / size / 1e-3 - 1.0).abs() < 0.01,
            "{}: {}",
            old.name,
            way / size
        );
    }
}

/// Networks with batch-norm are refreshed too, with calibrated statistics for F, and every value that is
/// not legal is named.
#[test]
fn batch_norm_is_calibrated_and_illegal_values_are_named() {
    let space = resnet18(28, 1, 4, 10).unwrap();
    let mut states = Vec::new();
    for fisher_norms in [FisherNorms::Calibrated, FisherNorms::SingleImage] {
        let refresh = Refresh {
            fisher_images: Some(4),
            fisher_norms,
            loss: UnlearntLoss::Host,
            ..Refresh::released()
        };
        let method = Method::er(1.0, 10).refreshed(refresh);
        let mut learner = Learner::new(&space, method, settings()).unwrap();
        train(&mut learner, 1, 3);
        learner.evaluate(&stream()).unwrap();
        states.push(learner.state().unwrap());
    }
    assert!(states[0] != states[1]);
    let refused = |refresh| {
        let method = Method::er(1.0, 10).refreshed(refresh);
        let space = mlp(784, 20, 10).unwrap();
        Learner::new(&space, method, settings())
            .unwrap_err()
            .to_string()
    };
    let never = Refresh {
        every: 0,
        ..Refresh::paper()
    };
    assert!(refused(never).contains("`refresh.every` is 0"));
    let found = refused(with_strength(Refresh::paper(), f64::NAN, 0.0));
    assert!(found.contains("`refresh.rate` is NaN"), "{found}");
    let gdumb = Method::gdumb(1).refreshed(Refresh::paper());
    assert!(Learner::new(&space, gdumb, settings()).is_err());
}
