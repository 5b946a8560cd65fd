//! What each method computes is the gradient of its loss written out by itself, and what it
//! keeps of a task are the numbers of its definition.

use oncefit_continual::{Convention, FisherEstimator, fisher};
use oncefit_nn::{Executor, Mode};
use oncefit_random::Draws;

use super::*;

/// The loss of a method written out by itself, for finite differences: new images, replayed images
/// and the quadratic penalty as plain sums in f64.
pub(super) fn numeric_gradient(
    parameters: &Parameters,
    position: usize,
    index: usize,
    loss: &dyn Fn(&Parameters) -> f64,
) -> f64 {
    let step = 1e-4f32;
    let at = |by: f32| {
        let mut moved = parameters.clone();
        moved.at_mut(position).data[index] += by;
        loss(&moved)
    };
    (at(step) - at(-step)) / (2.0 * f64::from(step))
}

/// The network's logits in f64 by plain loops.
pub(super) fn logits(parameters: &Parameters, image: &[u8]) -> Vec<f64> {
    let mut values: Vec<f64> = image
        .iter()
        .map(|byte| f64::from((f32::from(*byte) / 255.0 - 0.286) / 0.353))
        .collect();
    let layers = ["first", "second", "classifier"];
    let tensors: Vec<_> = parameters.iter().collect();
    for (layer, name) in layers.iter().enumerate() {
        let (weight, bias) = (tensors[2 * layer], tensors[2 * layer + 1]);
        assert!(
            weight.name.starts_with(name) && bias.shape.len() == 1,
            "{}",
            weight.name
        );
        let rows = weight.data.chunks_exact(values.len()).zip(&bias.data);
        values = rows
            .map(|(row, bias)| {
                let sum: f64 = row
                    .iter()
                    .zip(&values)
                    .map(|(w, x)| f64::from(*w) * x)
                    .sum();
                let sum = sum + f64::from(*bias);
                if layer < 2 { sum.max(0.0) } else { sum }
            })
            .collect();
    }
    values
}

pub(super) fn log_softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|z| (z / temperature).exp()).sum();
    logits.iter().map(|z| z / temperature - sum.ln()).collect()
}

pub(super) fn cross_entropy(parameters: &Parameters, examples: &Examples, classes: &[u32]) -> f64 {
    let rows = examples.images.chunks_exact(784).zip(&examples.labels);
    let total: f64 = rows
        .map(|(image, label)| {
            let all = logits(parameters, image);
            let kept: Vec<f64> = classes.iter().map(|&class| all[class as usize]).collect();
            let place = classes.iter().position(|class| class == label).unwrap();
            -log_softmax(&kept, 1.0)[place]
        })
        .sum();
    total / examples.len() as f64
}

/// The step that a learner takes is minus the learning rate times the gradient of the
/// stand-alone method, here by finite differences of its loss in f64.
pub(super) fn check_step(method: Method, loss: &dyn Fn(&Learner, &Examples, &Parameters) -> f64) {
    let name = method.name.clone();
    let mut learner = learner(method);
    train(&mut learner, 1, 12);
    let examples = stream().iterate(1, 0).next().unwrap();
    // One more step leaves the anchor, so that penalties have a gradient.
    learner
        .step(&stream().iterate(1, 1).next().unwrap())
        .unwrap();
    let before = learner.parameters().clone();
    let mut after = learner_copy(&learner);
    after.step(&examples).unwrap();
    let at_start = |parameters: &Parameters| loss(&learner, &examples, parameters);
    for position in 0..before.len() {
        let length = before.at(position).data.len();
        // The strongest gradients of the tensor, where relative errors mean something.
        let found = |index: usize| {
            f64::from(before.at(position).data[index] - after.parameters().at(position).data[index])
                / f64::from(settings().learning_rate)
        };
        let mut order: Vec<usize> = (0..length).collect();
        order.sort_by(|&a, &b| found(b).abs().total_cmp(&found(a).abs()));
        for &index in order.iter().take(3) {
            let wanted = numeric_gradient(&before, position, index, &at_start);
            let error = (found(index) - wanted).abs();
            assert!(
                error <= 2e-3 * wanted.abs() + 1e-4,
                "{name}: {} [{index}]: {} instead of {wanted}",
                before.at(position).name,
                found(index)
            );
        }
    }
}

pub(super) fn learner_copy(original: &Learner) -> Learner {
    let mut copy = learner(original.method().clone());
    copy.restore(&original.state().unwrap()).unwrap();
    copy
}

pub(super) const ALL: [u32; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

pub(super) fn drawn(learner: &Learner, draw: u64, count: usize) -> (Examples, Vec<f32>) {
    let memory = learner.memory().unwrap();
    // Steps done so far: 12 of the first task and one of the second.
    let places = memory.draw(count, 13, draw);
    let logits = match learner.method().stores_logits() {
        true => memory.stored_logits(&places),
        false => Vec::new(),
    };
    (memory.examples(&places), logits)
}

pub(super) fn squared(parameters: &Parameters, replay: &(Examples, Vec<f32>)) -> f64 {
    let images = replay
        .0
        .images
        .chunks_exact(784)
        .zip(replay.1.chunks_exact(10));
    let total: f64 = images
        .map(|(image, stored)| {
            let found = logits(parameters, image);
            let parts = found.iter().zip(stored);
            parts.map(|(h, z)| (h - f64::from(*z)).powi(2)).sum::<f64>()
        })
        .sum();
    total / replay.0.len() as f64
}

#[test]
fn replay_steps_are_the_gradients_of_the_methods_written_out() {
    check_step(Method::fine_tune(), &|_, new, p| {
        cross_entropy(p, new, &ALL)
    });
    check_step(Method::er(0.7, 10), &|learner, new, p| {
        cross_entropy(p, new, &ALL) + 0.7 * cross_entropy(p, &drawn(learner, 0, 10).0, &ALL)
    });
    let joint = Method {
        joint_mean: true,
        ..Method::er(0.7, 30)
    };
    check_step(joint, &|learner, new, p| {
        let replayed = drawn(learner, 0, 30).0;
        (cross_entropy(p, new, &ALL) + 3.0 * 0.7 * cross_entropy(p, &replayed, &ALL)) / 4.0
    });
    check_step(Method::er_ace(1.0, 10), &|learner, new, p| {
        cross_entropy(p, new, &[2, 3]) + cross_entropy(p, &drawn(learner, 0, 10).0, &ALL)
    });
    check_step(Method::der(0.05, 10), &|learner, new, p| {
        cross_entropy(p, new, &ALL) + 0.05 * squared(p, &drawn(learner, 0, 10))
    });
    // Mammoth's mean over images and classes.
    let alpha = Convention::Mammoth.squared_distance(0.5, 10);
    check_step(Method::der(alpha, 10), &|learner, new, p| {
        cross_entropy(p, new, &ALL) + 0.5 * squared(p, &drawn(learner, 0, 10)) / 10.0
    });
    check_step(Method::der_plus_plus(0.05, 0.5, 10), &|learner, new, p| {
        let second = drawn(learner, 1, 10).0;
        cross_entropy(p, new, &ALL)
            + 0.05 * squared(p, &drawn(learner, 0, 10))
            + 0.5 * cross_entropy(p, &second, &ALL)
    });
}

#[test]
fn output_terms_without_memory_are_the_methods_written_out() {
    check_step(Method::cpr(0.3), &|_, new, p| {
        let entropy = |image: &[u8]| -> f64 {
            let log = log_softmax(&logits(p, image), 1.0);
            -log.iter().map(|log| log.exp() * log).sum::<f64>()
        };
        let images = new.images.chunks_exact(784);
        let mean = images.map(entropy).sum::<f64>() / new.len() as f64;
        cross_entropy(p, new, &ALL) - 0.3 * mean
    });
    let method = Method::lwf(1.5, 2.0);
    let mut teacher = learner(method.clone());
    train(&mut teacher, 1, 12);
    let teacher = teacher.parameters().clone();
    check_step(method, &move |_, new, p| {
        let old = |parameters: &Parameters, image: &[u8]| {
            log_softmax(&logits(parameters, image)[..2], 2.0)
        };
        let distillation = |image: &[u8]| -> f64 {
            let pairs = old(&teacher, image).into_iter().zip(old(p, image));
            pairs.map(|(t, s)| -t.exp() * s).sum()
        };
        let images = new.images.chunks_exact(784);
        let mean = images.map(distillation).sum::<f64>() / new.len() as f64;
        cross_entropy(p, new, &[0, 1, 2, 3]) + 1.5 * mean
    });
}

#[test]
fn icarl_is_its_binary_losses_written_out() {
    let method = Method::icarl(0.7, 10);
    let mut teacher = learner(method.clone());
    train(&mut teacher, 1, 12);
    let teacher = teacher.parameters().clone();
    check_step(method, &move |learner, new, p| {
        let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
        let loss = |examples: &Examples| -> f64 {
            let images = examples.images.chunks_exact(784).zip(&examples.labels);
            let total: f64 = images
                .map(|(image, &label)| {
                    let (found, old) = (logits(p, image), logits(&teacher, image));
                    let entropy = |class: usize, aim: f64| {
                        let q = sigmoid(found[class]);
                        -aim * q.ln() - (1.0 - aim) * (1.0 - q).ln()
                    };
                    let is = |class: u32| f64::from(u8::from(class == label));
                    let labels = entropy(2, is(2)) + entropy(3, is(3));
                    labels
                        + 0.7
                            * (0..2)
                                .map(|class| entropy(class, sigmoid(old[class])))
                                .sum::<f64>()
                })
                .sum();
            total / examples.len() as f64
        };
        loss(new) + loss(&drawn(learner, 0, 10).0)
    });
}

#[test]
fn penalties_are_the_methods_written_out() {
    for name in ["l2", "ewc", "online-ewc", "si", "mas"] {
        let mut method = with_few_examples(name);
        // λ ΣF(θ − θ*)² by mammoth's definition, without ½.
        let lambda = match name {
            "l2" => 0.25,
            "mas" => 0.025,
            _ => 2.5,
        };
        method.weights[0].weight = Convention::Mammoth.penalty(lambda);
        let mut anchored = learner(method.clone());
        train(&mut anchored, 1, 12);
        let (importance, anchor) = (
            saved(&anchored, "importance/0/"),
            saved(&anchored, "anchor/0/"),
        );
        assert!(importance.iter().any(|value| *value != 0.0), "{name}");
        check_step(method, &move |_, new, p| {
            let weights = p.iter().flat_map(|tensor| &tensor.data);
            let parts = weights.zip(&anchor).zip(&importance);
            let penalty: f64 = parts
                .map(|((w, a), f)| f64::from(*f) * (f64::from(*w) - f64::from(*a)).powi(2))
                .sum();
            cross_entropy(p, new, &ALL) + lambda * penalty
        });
    }
}

/// The values that a state has under a prefix, in the order of the parameters.
fn saved(learner: &Learner, prefix: &str) -> Vec<f32> {
    let state = learner.state().unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&state).unwrap();
    let names = learner.parameters().iter();
    let names = names.map(|tensor| format!("{prefix}{}", tensor.name));
    names
        .flat_map(|name| {
            let data = tensors.tensor(&name).unwrap().data().to_vec();
            let words = data.as_chunks::<4>().0.to_vec();
            words.into_iter().map(f32::from_le_bytes)
        })
        .collect()
}

fn values(parameters: &Parameters) -> Vec<f32> {
    let tensors = parameters.iter();
    tensors.flat_map(|tensor| tensor.data.clone()).collect()
}

fn inputs(images: &[u8]) -> Vec<f32> {
    let normalise = |byte: &u8| (f32::from(*byte) / 255.0 - 0.286) / 0.353;
    images.iter().map(normalise).collect()
}

/// All values are near those wanted, the largest of which is not 0.
fn assert_near(found: &[f32], wanted: &[f64], tolerance: f64, what: &str) {
    let largest = wanted
        .iter()
        .fold(0.0f64, |most, value| most.max(value.abs()));
    assert!(largest > 0.0 && found.len() == wanted.len(), "{what}");
    for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let error = (f64::from(*found) - wanted).abs();
        assert!(
            error <= tolerance * largest,
            "{what} [{at}]: {found} {wanted}"
        );
    }
}

/// What a step of fine-tuning on `examples` from the weights of `learner` takes off them, over the
/// learning rate.
fn plain_gradient(learner: &Learner, examples: &Examples) -> Vec<f64> {
    let space = mlp(784, 20, 10).unwrap();
    let weights = learner.parameters().clone();
    let mut plain =
        Learner::with_weights(&space, weights, Method::fine_tune(), settings()).unwrap();
    plain.step(examples).unwrap();
    way(learner.parameters(), plain.parameters())
}

/// `(before − after) / learning rate`
fn way(before: &Parameters, after: &Parameters) -> Vec<f64> {
    let pairs = values(before).into_iter().zip(values(after));
    let rate = f64::from(settings().learning_rate);
    pairs.map(|(a, b)| f64::from(a - b) / rate).collect()
}

/// A-GEM's projection is the new images' gradient plus a multiple of the replayed ones'.
#[test]
fn a_gem_is_replay_whose_weight_depends_on_the_step() {
    let mut learner = learner(Method::a_gem(64));
    train(&mut learner, 1, 12);
    let stream = stream();
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let (mut projected, mut left) = (0, 0);
    let batches = stream.iterate(1, 0).take(6).chain(stream.iterate(0, 20));
    for (batch, examples) in batches.enumerate() {
        let memory = learner.memory().unwrap();
        let reference = memory.examples(&memory.draw(64, 12 + batch as u64, 0));
        let new = plain_gradient(&learner, &examples);
        let reference = plain_gradient(&learner, &reference);
        let alpha = (-dot(&new, &reference) / dot(&reference, &reference)).max(0.0);
        let before = learner.parameters().clone();
        let report = learner.step(&examples).unwrap();
        let found = way(&before, learner.parameters());
        assert_eq!(report.projected, alpha > 0.0);
        match report.projected {
            true => projected += 1,
            false => left += 1,
        }
        let wanted = new.iter().zip(&reference).map(|(g, r)| g + alpha * r);
        let wanted: Vec<f64> = wanted.collect();
        let narrow: Vec<f32> = found.iter().map(|value| *value as f32).collect();
        assert_near(&narrow, &wanted, 1e-4, "a-gem");
        assert!(dot(&found, &reference) >= -1e-5, "batch {batch}");
    }
    assert!(projected > 0 && left > 0, "{projected} {left}");
}

/// The gradients of log p of all classes for an image, along one weight.
fn slopes(parameters: &Parameters, position: usize, index: usize, image: &[u8]) -> Vec<f64> {
    let at = |by: f32| {
        let mut moved = parameters.clone();
        moved.at_mut(position).data[index] += by;
        log_softmax(&logits(&moved, image), 1.0)
    };
    let step = 1e-3;
    let pairs = at(step).into_iter().zip(at(-step));
    pairs
        .map(|(up, down)| (up - down) / (2.0 * f64::from(step)))
        .collect()
}

#[test]
fn fisher_estimators_are_their_definitions_by_finite_differences() {
    let mut learner = learner(Method::fine_tune());
    train(&mut learner, 1, 12);
    let examples = stream().iterate(1, 0).next().unwrap();
    let examples = Examples {
        images: examples.images[..6 * 784].to_vec(),
        labels: examples.labels[..6].to_vec(),
    };
    let parameters = learner.parameters();
    let images = || examples.images.chunks_exact(784).zip(&examples.labels);
    let probabilities: Vec<Vec<f64>> = images()
        .map(|(image, _)| {
            let logs = log_softmax(&logits(parameters, image), 1.0);
            logs.into_iter().map(f64::exp).collect()
        })
        .collect();
    let estimators = [
        FisherEstimator::Exact,
        FisherEstimator::WeightedLabel,
        FisherEstimator::TrueLabel,
        FisherEstimator::MiniBatch { size: 3 },
    ];
    for estimator in estimators {
        let found = fisher(
            &mut Executor::default(),
            learner.model(),
            parameters,
            (&inputs(&examples.images), &examples.labels),
            &ALL,
            estimator,
            Mode::Train { dropout: None },
        )
        .unwrap();
        for position in 0..parameters.len() {
            let tensor = &found.at(position).data;
            let mut order: Vec<usize> = (0..tensor.len()).collect();
            order.sort_by(|&a, &b| tensor[b].total_cmp(&tensor[a]));
            for &index in order.iter().take(2) {
                let of_images: Vec<(Vec<f64>, usize)> = images()
                    .map(|(image, label)| {
                        let slopes = slopes(parameters, position, index, image);
                        (slopes, *label as usize)
                    })
                    .collect();
                let rows = of_images.iter().zip(&probabilities);
                let wanted = match estimator {
                    FisherEstimator::Exact => {
                        let sums = rows.map(|((slopes, _), p)| {
                            let terms = slopes.iter().zip(p);
                            terms.map(|(slope, p)| p * slope * slope).sum::<f64>()
                        });
                        sums.sum::<f64>() / 6.0
                    }
                    FisherEstimator::WeightedLabel => {
                        let terms =
                            rows.map(|((slopes, label), p)| p[*label] * slopes[*label].powi(2));
                        terms.sum::<f64>() / 6.0
                    }
                    FisherEstimator::TrueLabel => {
                        let terms = of_images.iter().map(|(s, label)| s[*label].powi(2));
                        terms.sum::<f64>() / 6.0
                    }
                    FisherEstimator::MiniBatch { size } => {
                        let batches = of_images.chunks(size).map(|batch| {
                            let sum: f64 = batch.iter().map(|(s, label)| s[*label]).sum();
                            (sum / size as f64).powi(2)
                        });
                        batches.sum::<f64>() / 2.0
                    }
                };
                let value = f64::from(tensor[index]);
                assert!(
                    (value - wanted).abs() <= 0.01 * wanted + 1e-7,
                    "{estimator:?}, {} [{index}]: {value} {wanted}",
                    parameters.at(position).name
                );
            }
        }
    }
}

#[test]
fn output_sensitivity_is_its_definition_by_finite_differences() {
    let mut mas = learner(with_few_examples("mas"));
    // A batch is all there is of the task.
    let examples = stream().iterate(0, 0).next().unwrap();
    mas.step(&examples).unwrap();
    mas.end_task(&examples).unwrap();
    let found = saved(&mas, "importance/0/");
    let parameters = mas.parameters();
    let mut start = 0;
    for position in 0..parameters.len() {
        let length = parameters.at(position).data.len();
        let tensor = &found[start..start + length];
        start += length;
        let mut order: Vec<usize> = (0..length).collect();
        order.sort_by(|&a, &b| tensor[b].total_cmp(&tensor[a]));
        for &index in order.iter().take(2) {
            let square = |by: f32, image: &[u8]| -> f64 {
                let mut moved = parameters.clone();
                moved.at_mut(position).data[index] += by;
                logits(&moved, image).iter().map(|h| h * h).sum()
            };
            let slopes = examples.images.chunks_exact(784).map(|image| {
                let slope = (square(1e-3, image) - square(-1e-3, image)) / 2e-3;
                slope.abs()
            });
            let wanted = slopes.sum::<f64>() / examples.len() as f64;
            let value = f64::from(tensor[index]);
            assert!(
                (value - wanted).abs() <= 0.01 * wanted,
                "{} [{index}]: {value} {wanted}",
                parameters.at(position).name
            );
        }
    }
}

/// EWC's penalties of two tasks have the gradient of the one quadratic form that is kept of them;
/// online EWC keeps the last weights and `γ F₁ + F₂`.
#[test]
fn ewc_keeps_the_penalties_of_all_tasks() {
    let stream = stream();
    for (name, decay) in [("ewc", 1.0), ("online-ewc", 0.7)] {
        let mut method = with_few_examples(name);
        if let oncefit_continual::Importance::Fisher {
            examples, decay, ..
        } = &mut method.weights[0].importance
        {
            *examples = usize::MAX;
            *decay = decay.map(|_| 0.7);
        }
        let mut learner = learner(method);
        let (mut importances, mut weights) = (Vec::new(), Vec::new());
        for task in 0..2 {
            for examples in stream.iterate(task, 0).take(8) {
                learner.step(&examples).unwrap();
            }
            let examples = stream.train_examples(task, &stream.tasks()[task].train);
            let found = fisher(
                &mut Executor::default(),
                learner.model(),
                learner.parameters(),
                (&inputs(&examples.images), &examples.labels),
                &ALL,
                FisherEstimator::Exact,
                Mode::Train { dropout: None },
            );
            importances.push(values(&found.unwrap()));
            weights.push(values(learner.parameters()));
            learner.end_task(&examples).unwrap();
        }
        let (kept, anchor) = (
            saved(&learner, "importance/0/"),
            saved(&learner, "anchor/0/"),
        );
        let both = importances[0].iter().zip(&importances[1]);
        let sums: Vec<f64> = both
            .map(|(first, second)| decay * f64::from(*first) + f64::from(*second))
            .collect();
        assert_near(&kept, &sums, 1e-4, name);
        if name == "online-ewc" {
            assert!(anchor == weights[1]);
            continue;
        }
        // At any weights, here those moved by ½.
        let at = |index: usize| f64::from(weights[1][index]) + 0.5;
        let gradient = (0..kept.len()).map(|k| {
            let slope = f64::from(kept[k]) * (at(k) - f64::from(anchor[k]));
            slope as f32
        });
        let wanted = (0..kept.len()).map(|k| {
            let of_task = |task: usize| {
                f64::from(importances[task][k]) * (at(k) - f64::from(weights[task][k]))
            };
            of_task(0) + of_task(1)
        });
        let (gradient, wanted): (Vec<f32>, Vec<f64>) = (gradient.collect(), wanted.collect());
        assert_near(&gradient, &wanted, 1e-4, name);
    }
}

/// Ω of two tasks by a plain loop: the gradient of the task's loss is what the step took off the
/// weights, less the penalty's.
#[test]
fn synaptic_intelligence_is_its_path_integral_written_out() {
    let method = with_few_examples("si");
    let oncefit_continual::Importance::PathIntegral { damping } = method.weights[0].importance
    else {
        panic!("si has a path integral");
    };
    let beta = method.weights[0].weight;
    let mut learner = learner(method);
    let count = learner.parameters().values();
    let (mut importance, mut anchor) = (vec![0.0; count], values(learner.parameters()));
    let stream = stream();
    for task in 0..2 {
        let mut omega = vec![0.0; count];
        for examples in stream.iterate(task, 0).take(8) {
            let before = learner.parameters().clone();
            learner.step(&examples).unwrap();
            let step = way(&before, learner.parameters());
            let before = values(&before);
            for k in 0..count {
                let penalty = beta * importance[k] * f64::from(before[k] - anchor[k]);
                let rate = f64::from(settings().learning_rate);
                omega[k] += (step[k] - penalty) * step[k] * rate;
            }
        }
        let now = values(learner.parameters());
        for k in 0..count {
            let moved = f64::from(now[k] - anchor[k]);
            importance[k] += omega[k] / (moved * moved + damping);
        }
        let train = &stream.tasks()[task].train;
        learner
            .end_task(&stream.train_examples(task, train))
            .unwrap();
        anchor = now;
        let kept = saved(&learner, "importance/0/");
        assert_near(&kept, &importance, 1e-3, "si");
        assert!(saved(&learner, "anchor/0/") == anchor);
    }
}

#[test]
fn the_nearest_mean_changes_predictions_and_no_step() {
    let mut er = learner(Method::preset("er", 10).unwrap());
    let mut means = learner(Method::preset("er-nearest-mean", 10).unwrap());
    train(&mut er, 2, 12);
    train(&mut means, 2, 12);
    assert_eq!(bits(er.parameters()), bits(means.parameters()));
    assert_ne!(
        er.evaluate(&stream()).unwrap(),
        means.evaluate(&stream()).unwrap()
    );
}

#[test]
fn gdumb_is_fine_tuning_of_a_fresh_network_on_the_memory() {
    let mut gdumb = learner(Method::gdumb(3));
    let start = bits(gdumb.parameters());
    train(&mut gdumb, 2, 99);
    assert_eq!(bits(gdumb.parameters()), start);
    let memory = gdumb.memory().unwrap();
    let mut fresh = learner(Method::fine_tune());
    for epoch in 0..3 {
        let mut order: Vec<usize> = (0..memory.len()).collect();
        Draws::new(settings().seed, "memory-epoch", 2, epoch).shuffle(&mut order);
        for places in order.chunks(settings().batch_size) {
            fresh.step(&memory.examples(places)).unwrap();
        }
    }
    let images = stream()
        .test_examples(0, &stream().tasks()[0].test.clone())
        .images;
    let wanted = fresh.predictions(&images).unwrap();
    assert_eq!(gdumb.predictions(&images).unwrap(), wanted);
    assert!(
        wanted
            .iter()
            .collect::<std::collections::HashSet<_>>()
            .len()
            > 1
    );
}
