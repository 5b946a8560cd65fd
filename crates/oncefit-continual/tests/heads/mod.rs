//! Heads: gradients, frozen rows, every kind of network.

use oncefit_continual::{Angles, Growth, HeadKind, MetricsRecipe, Rows, Targets};

use super::*;

fn targets(width: usize, seed: u64) -> Targets {
    let mut draws = oncefit_random::Draws::new(seed, "test targets", 0, 0);
    let values = (0..10 * width).map(|_| draws.normal() as f32).collect();
    Targets::new(width, values).unwrap()
}

/// Every kind of head on the 20 features of the small network.
fn heads() -> Vec<HeadSettings> {
    let fixed = HeadSettings {
        kind: HeadKind::Cosine {
            scale: 8.0,
            learns_scale: false,
        },
        ..HeadSettings::default()
    };
    let product = HeadSettings {
        kind: HeadKind::InnerProduct,
        ..HeadSettings::default()
    };
    let with_neck = |head: HeadSettings| HeadSettings {
        neck: Some(12),
        drops_last_activation: true,
        ..head
    };
    vec![
        HeadSettings::cosine(5.0),
        fixed.clone(),
        product.clone(),
        with_neck(HeadSettings::cosine(5.0)),
        with_neck(product.clone()),
        with_neck(fixed.with_targets(targets(12, 1), true)),
        HeadSettings::cosine(5.0).with_targets(targets(20, 1), true),
        HeadSettings::cosine(5.0).with_targets(targets(20, 1), false),
        product.with_targets(targets(20, 1), true),
    ]
}

fn with_head(head: HeadSettings, method: Method) -> Learner {
    let settings = LearnerSettings { head, ..settings() };
    Learner::new(&mlp(784, 20, 10).unwrap(), method, settings).unwrap()
}

fn layer(rows: &[f32], values: &[f64]) -> Vec<f64> {
    let product = |row: &[f32]| row.iter().zip(values).map(|(w, x)| f64::from(*w) * x).sum();
    rows.chunks_exact(values.len()).map(product).collect()
}

fn unit(values: &[f64]) -> Vec<f64> {
    let length = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    values.iter().map(|value| value / length).collect()
}

/// Features, and cosines or inner products, in f64 by plain loops.
fn products(head: &HeadSettings, p: &Parameters, image: &[u8]) -> (Vec<f64>, Vec<f64>) {
    let tensor = |name: &str| &p.get(name).unwrap().data[..];
    let mut values: Vec<f64> = image
        .iter()
        .map(|byte| f64::from((f32::from(*byte) / 255.0 - 0.286) / 0.353))
        .collect();
    for name in ["first", "second"] {
        let biases = tensor(&format!("{name}.linear.bias"));
        let found = layer(tensor(&format!("{name}.linear.weight")), &values);
        let keeps_sign = name == "second" && head.drops_last_activation;
        let pairs = found.iter().zip(biases);
        let sums = pairs.map(|(sum, bias)| sum + f64::from(*bias));
        values = match keeps_sign {
            true => sums.collect(),
            false => sums.map(|sum| sum.max(0.0)).collect(),
        };
    }
    if head.neck.is_some() {
        values = layer(tensor("neck.weight"), &values);
    }
    let rows = match &head.rows {
        Rows::Given {
            targets,
            are_frozen: true,
        } => targets.values(),
        _ => tensor("head.weight"),
    };
    if head.kind == HeadKind::InnerProduct {
        let found = layer(rows, &values);
        return (values, found);
    }
    let features = unit(&values);
    let cosine = |row: &[f32]| {
        let row: Vec<f64> = row.iter().map(|value| f64::from(*value)).collect();
        let pairs = unit(&row).into_iter().zip(&features);
        pairs.map(|(w, f)| w * f).sum()
    };
    let found = rows.chunks_exact(features.len()).map(cosine).collect();
    (features, found)
}

pub(super) fn logits_with(head: &HeadSettings, p: &Parameters, image: &[u8]) -> Vec<f64> {
    let scale = match head.kind {
        HeadKind::Cosine { scale, .. } => match p.get("head.scale") {
            Ok(learnt) => f64::from(learnt.data[0]),
            Err(_) => f64::from(scale),
        },
        _ => 1.0,
    };
    let found = products(head, p, image).1;
    found.into_iter().map(|product| scale * product).collect()
}

/// Checks a step against finite differences, for the strongest gradients of each tensor.
pub(super) fn check_gradients(
    before: &Parameters,
    after: &Parameters,
    loss: &dyn Fn(&Parameters) -> f64,
    name: &str,
) {
    for position in 0..before.len() {
        let found = |index: usize| {
            let moved = before.at(position).data[index] - after.at(position).data[index];
            f64::from(moved) / f64::from(settings().learning_rate)
        };
        let mut order: Vec<usize> = (0..before.at(position).data.len()).collect();
        order.sort_by(|&a, &b| found(b).abs().total_cmp(&found(a).abs()));
        for &index in order.iter().take(3) {
            let wanted = numeric_gradient(before, position, index, loss);
            let error = (found(index) - wanted).abs();
            assert!(
                error <= 5e-3 * wanted.abs() + 2e-4,
                "{name}: {} [{index}]: {} instead of {wanted}",
                before.at(position).name,
                found(index)
            );
        }
    }
}

#[test]
fn every_head_steps_along_its_gradient() {
    for (number, head) in heads().into_iter().enumerate() {
        let mut learner = with_head(head.clone(), Method::fine_tune());
        train(&mut learner, 1, 6);
        let examples = stream().iterate(1, 0).next().unwrap();
        let before = learner.parameters().clone();
        learner.step(&examples).unwrap();
        let range: Vec<u32> = match head.only_seen {
            true => learner.classes_seen().to_vec(),
            false => ALL.to_vec(),
        };
        let loss = |p: &Parameters| {
            let images = examples.images.chunks_exact(784).zip(&examples.labels);
            let of_image = images.map(|(image, label)| {
                let found = logits_with(&head, p, image);
                let kept: Vec<f64> = range.iter().map(|&class| found[class as usize]).collect();
                let place = range.iter().position(|class| class == label).unwrap();
                -log_softmax(&kept, 1.0)[place]
            });
            of_image.sum::<f64>() / examples.len() as f64
        };
        let name = format!("head {number}");
        check_gradients(&before, learner.parameters(), &loss, &name);
    }
}

#[test]
fn a_learner_with_any_head_goes_on_with_the_same_bits() {
    for head in heads() {
        let method = || with_few_examples("der++");
        let mut whole = with_head(head.clone(), method());
        train(&mut whole, 2, 99);
        let mut first = with_head(head.clone(), method());
        train(&mut first, 1, 99);
        let state = first.state().unwrap();
        let mut second = with_head(head.clone(), method());
        second.restore(&state).unwrap();
        let stream = stream();
        for examples in stream.iterate(1, 0) {
            second.step(&examples).unwrap();
        }
        let train = &stream.tasks()[1].train;
        second.end_task(&stream.train_examples(1, train)).unwrap();
        assert!(second.state().unwrap() == whole.state().unwrap());
        let before = second.state().unwrap();
        let accuracies = second.evaluate(&stream).unwrap();
        assert!(before == second.state().unwrap());
        assert!(accuracies[1].task_incremental > 0.6, "{head:?}");
    }
}

#[test]
fn frozen_rows_are_in_no_optimiser_and_later_ones_have_no_part() {
    let wild = LearnerSettings {
        rule: UpdateRule::sgd(0.9),
        weight_decay: 0.1,
        ..settings()
    };
    let learnt = |targets: Targets, are_frozen: bool| {
        let settings = LearnerSettings {
            head: HeadSettings::cosine(5.0).with_targets(targets, are_frozen),
            ..wild.clone()
        };
        let space = mlp(784, 20, 10).unwrap();
        let mut learner = Learner::new(&space, with_few_examples("online-ewc"), settings).unwrap();
        train(&mut learner, 2, 20);
        learner
    };
    let given = targets(20, 1);
    let frozen = learnt(given.clone(), true);
    let state = frozen.state().unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&state).unwrap();
    assert!(
        tensors
            .names()
            .iter()
            .all(|name| !name.contains("head.weight"))
    );
    // Rows of classes 4 to 9, which tasks 1 and 2 have not brought, are others.
    let mut values = given.values().to_vec();
    values[4 * 20..].iter_mut().for_each(|value| *value += 1.0);
    let other = Targets::new(20, values).unwrap();
    let same = learnt(other.clone(), true);
    assert_eq!(bits(same.parameters()), bits(frozen.parameters()));
    // They are part of what a state fits.
    let mut fresh = learnt(other, true);
    let error = fresh.restore(&state).unwrap_err().to_string();
    assert!(error.contains("other settings"), "{error}");
    // The control: the same rows, learnt from there on.
    let trained = learnt(given.clone(), false);
    let rows = &trained.parameters().get("head.weight").unwrap().data;
    assert!(rows[..80].iter().zip(given.values()).all(|(a, b)| a != b));
}

#[test]
fn every_kind_of_network_takes_a_head_with_a_neck() {
    let member = oncefit_space::Space::builtin("fm-nano").unwrap();
    let subnet = member.largest().unwrap();
    let spaces = [
        small_cnn(28, 1, 4, 10).unwrap(),
        resnet18(28, 1, 4, 10).unwrap(),
        oncefit_continual::space_of_member(&member, &subnet).unwrap(),
    ];
    let stream = stream();
    for space in spaces {
        let method = Method {
            memory: Some(MemoryPolicy::Herding),
            ..Method::er(1.0, 10)
        };
        let settings = LearnerSettings {
            head: HeadSettings {
                neck: Some(6),
                ..HeadSettings::cosine(5.0)
            }
            .with_targets(targets(6, 2), true),
            ..settings()
        };
        let mut learner = Learner::new(&space, method, settings).unwrap();
        train(&mut learner, 2, 4);
        assert_eq!(learner.evaluate(&stream).unwrap().len(), 5);
        assert!(learner.parameters().get("neck.weight").is_ok());
    }
}

#[test]
fn targets_that_do_not_fit_are_refused() {
    let space = mlp(784, 20, 10).unwrap();
    let settings = LearnerSettings {
        head: HeadSettings::cosine(5.0).with_targets(targets(12, 1), true),
        ..settings()
    };
    let error = Learner::new(&space, Method::fine_tune(), settings).unwrap_err();
    assert!(error.to_string().contains("10 rows of 20"), "{error}");
}

/// The mean over new and replayed images of `of_image`, one mean over all of them.
fn joint_mean(parts: [&Examples; 2], of_image: &dyn Fn(&[u8], u32) -> f64) -> f64 {
    let total: f64 = parts
        .iter()
        .flat_map(|part| part.images.chunks_exact(784).zip(&part.labels))
        .map(|(image, label)| of_image(image, *label))
        .sum();
    total / (parts[0].len() + parts[1].len()) as f64
}

fn cross_entropy_among(found: &[f64], label: u32, range: &[u32]) -> f64 {
    let kept: Vec<f64> = range.iter().map(|&class| found[class as usize]).collect();
    let place = range.iter().position(|class| *class == label).unwrap();
    -log_softmax(&kept, 1.0)[place]
}

#[test]
fn lucir_is_its_three_losses_written_out() {
    let head = HeadSettings {
        only_seen: true,
        drops_last_activation: true,
        ..HeadSettings::cosine(5.0)
    };
    for growth in [Growth::OldOverNew, Growth::NewOverOld] {
        let angles = Angles {
            less_forget: 2.0,
            growth,
            ranking: 0.7,
            margin: 0.9,
            hardest: 1,
        };
        let mut learner = with_head(head.clone(), Method::lucir(angles, 8));
        train(&mut learner, 2, 12);
        let teacher = learner.parameters().clone();
        let stream = stream();
        learner.step(&stream.iterate(2, 1).next().unwrap()).unwrap();
        let examples = stream.iterate(2, 0).next().unwrap();
        let memory = learner.memory().unwrap();
        let replayed = memory.examples(&learner.drawn_places(8, 0));
        assert_eq!(replayed.len(), 8);
        let (old, new) = ([0u32, 1, 2, 3], [4usize, 5]);
        let seen = [0, 1, 2, 3, 4, 5];
        let lambda = match growth {
            Growth::NewOverOld => 2.0 / 2f64.sqrt(),
            _ => 2.0 * 2f64.sqrt(),
        };
        let loss = |p: &Parameters| {
            let angle = |image: &[u8]| {
                let (u, fixed) = (
                    products(&head, p, image).0,
                    products(&head, &teacher, image).0,
                );
                1.0 - u.iter().zip(&fixed).map(|(a, b)| a * b).sum::<f64>()
            };
            let entropy = |image: &[u8], label: u32| {
                cross_entropy_among(&logits_with(&head, p, image), label, &seen)
            };
            let rank = |image: &[u8], label: u32| {
                let cosines = products(&head, p, image).1;
                let hardest = new.iter().map(|&at| cosines[at]).fold(f64::MIN, f64::max);
                (0.9 - cosines[label as usize] + hardest).max(0.0)
            };
            let ranked = replayed.images.chunks_exact(784).zip(&replayed.labels);
            let ranked: f64 = ranked.map(|(image, label)| rank(image, *label)).sum();
            assert!(replayed.labels.iter().all(|label| old.contains(label)));
            let parts = [&examples, &replayed];
            joint_mean(parts, &|image, label| {
                entropy(image, label) + lambda * angle(image)
            }) + 0.7 * ranked / replayed.len() as f64
        };
        let before = learner.parameters().clone();
        learner.step(&examples).unwrap();
        check_gradients(&before, learner.parameters(), &loss, "lucir");
    }
    let lucir = Method::preset("lucir", 10).unwrap();
    let refused = Learner::new(&mlp(784, 20, 10).unwrap(), lucir, settings()).unwrap_err();
    assert!(refused.to_string().contains("cosine"), "{refused}");
}

/// A learner of BiC that has learnt `tasks` tasks and fitted its corrections.
fn corrected(tasks: usize) -> (Learner, Stream) {
    let method = Method::bic(1.5, 2.0, 0.2, 8);
    let share = method.correction.unwrap();
    let stream = stream().hold_out(|old| share.images_of_class(200, old));
    let mut learner = with_head(
        HeadSettings {
            only_seen: true,
            ..HeadSettings::default()
        },
        method,
    );
    for task in 0..tasks {
        for examples in stream.iterate(task, 0).take(12) {
            learner.step(&examples).unwrap();
        }
        let found = &stream.tasks()[task];
        if task > 0 {
            let held_out = stream.train_examples(task, &found.held_out);
            learner.correct(&held_out).unwrap();
        }
        let train = stream.train_examples(task, &found.train);
        learner.end_task(&train).unwrap();
    }
    (learner, stream)
}

#[test]
fn bic_is_its_two_losses_written_out_with_a_corrected_teacher() {
    let (mut learner, stream) = corrected(2);
    let correction = learner.correction().unwrap().clone();
    assert_eq!(correction.classes, [2, 3]);
    assert!(
        correction.shift < 0.0,
        "new classes are favoured: {correction:?}"
    );
    let teacher = learner.parameters().clone();
    learner.step(&stream.iterate(2, 1).next().unwrap()).unwrap();
    let examples = stream.iterate(2, 0).next().unwrap();
    let memory = learner.memory().unwrap();
    // A fifth of the 50 places of each of four classes is held out.
    let all = learner.drawn_places(999, 0);
    assert_eq!(all.len(), memory.len() - 4 * 10);
    let replayed = memory.examples(&learner.drawn_places(8, 0));
    let (old, seen) = ([0, 1, 2, 3], [0, 1, 2, 3, 4, 5]);
    let loss = |p: &Parameters| {
        let of_image = |image: &[u8], label: u32| {
            let found = logits(p, image);
            let mut fixed = logits(&teacher, image);
            for class in [2, 3] {
                fixed[class] = correction.scale * fixed[class] + correction.shift;
            }
            let (aim, own) = (log_softmax(&fixed[..4], 2.0), log_softmax(&found[..4], 2.0));
            let distilled: f64 = aim.iter().zip(&own).map(|(t, s)| -t.exp() * s).sum();
            let share = old.len() as f64 / seen.len() as f64;
            (1.0 - share) * cross_entropy_among(&found, label, &seen) + 1.5 * share * distilled
        };
        joint_mean([&examples, &replayed], &of_image)
    };
    let before = learner.parameters().clone();
    learner.step(&examples).unwrap();
    check_gradients(&before, learner.parameters(), &loss, "bic");
}

#[test]
fn held_out_images_are_in_no_batch_and_the_correction_is_resumed() {
    let (mut learner, stream) = corrected(3);
    let counts: Vec<usize> = stream
        .tasks()
        .iter()
        .map(|task| task.held_out.len())
        .collect();
    // 20 % of 200 / 2, 4, 6, 8 places, for two classes.
    assert_eq!(counts, [0, 40, 20, 14, 10]);
    for task in stream.tasks() {
        assert!(
            task.held_out
                .iter()
                .all(|index| !task.train.contains(index))
        );
        assert_eq!(task.held_out.len() + task.train.len(), 240);
    }
    let state = learner.state().unwrap();
    let (mut other, _) = corrected(1);
    other.restore(&state).unwrap();
    assert_eq!(other.correction(), learner.correction());
    assert!(other.state().unwrap() == state);
    let (ours, theirs) = (learner.evaluate(&stream), other.evaluate(&stream));
    assert_eq!(ours.unwrap(), theirs.unwrap());
}

fn recipe(head: &str) -> oncefit_continual::Result<oncefit_continual::LearningRecipe> {
    let text = format!(
        "seed = 3\n[data]\nsource = \"embedded\"\n[stream]\nclass_order = \"seeded\"\n[network]\nhidden = 20\n[head]\n{head}\n"
    );
    oncefit_continual::LearningRecipe::parse(&text, "r.toml")
}

fn rows_of(head: &str) -> (Vec<Vec<f32>>, bool, HeadSettings) {
    let learner = recipe(head).unwrap().build_learner(&data()).unwrap();
    let settings = learner.settings().head.clone();
    match &settings.rows {
        Rows::Given {
            targets,
            are_frozen,
        } => {
            let rows = targets.values().chunks_exact(targets.width());
            (
                rows.map(<[f32]>::to_vec).collect(),
                *are_frozen,
                settings.clone(),
            )
        }
        Rows::Learnt => panic!("the rows are not given"),
    }
}

#[test]
fn a_recipe_takes_the_vectors_of_class_names_and_their_controls() {
    let table = oncefit_text::TargetTable::builtin("fashion-mnist").unwrap();
    let (rows, are_frozen, head) = rows_of("targets = \"fashion-mnist\"");
    assert_eq!(rows, table.rows_for(data().train.class_names()).unwrap());
    assert!(are_frozen && head.only_seen);
    assert_eq!(head.neck, Some(384));
    assert_eq!(head.kind, HeadSettings::cosine(10.0).kind);
    let (learnt, are_frozen, _) = rows_of("targets = \"fashion-mnist\"\nrows = \"learnt\"");
    assert!(learnt == rows && !are_frozen);
    let control = |kind: &str| {
        rows_of(&format!(
            "targets = \"fashion-mnist\"\ncontrol = \"{kind}\""
        ))
        .0
    };
    assert!(control("shuffled").iter().all(|row| rows.contains(row)));
    assert!(control("random").iter().all(|row| !rows.contains(row)));
    // The first class of the stream keeps its row.
    let stream = recipe("").unwrap().build_stream(&data()).unwrap();
    let first = stream.tasks()[0].classes[0] as usize;
    let orthogonal = control("orthogonal");
    let is_kept = |class: usize| {
        let pairs = orthogonal[class].iter().zip(&rows[class]);
        pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5)
    };
    let kept: Vec<usize> = (0..10).filter(|&class| is_kept(class)).collect();
    assert_eq!(kept, [first]);
}

#[test]
fn illegal_targets_are_refused() {
    for (head, part) in [
        ("rows = \"learnt\"", "`head.rows` needs `head.targets`"),
        (
            "control = \"random\"",
            "`head.control` needs `head.targets`",
        ),
        (
            "kind = \"linear\"\ntargets = \"mnist\"",
            "`head.targets` belongs to",
        ),
        (
            "targets = \"mnist\"\nonly_seen = false",
            "`head.only_seen` is false",
        ),
    ] {
        let found = recipe(head).unwrap_err().to_string();
        assert!(found.contains(part), "{found}");
    }
    for (head, part) in [
        (
            "targets = \"mnist\"",
            "no vector for class `T-shirt/top`; it has 0, 1",
        ),
        ("targets = \"no\"", "no such file"),
        ("targets = \"fashion-mnist\"\nneck = 64", "10 rows of 384"),
        (
            "targets = \"fashion-mnist\"\ntargets_hash = \"00\"",
            "expected 00",
        ),
    ] {
        let built = recipe(head).unwrap().build_learner(&data());
        let found = built
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(found.contains(part), "{found}");
    }
}

#[test]
fn drift_is_measured_without_touching_what_is_learnt_and_is_resumed() {
    let run = |drift: Option<usize>, stop: Option<u64>| {
        let learner = || with_head(HeadSettings::cosine(5.0), with_few_examples("er"));
        let fresh = || {
            let experiment = Experiment::new(stream(), learner());
            experiment.with_metrics(&MetricsRecipe {
                drift,
                class_cosines: drift.is_some(),
                ..MetricsRecipe::default()
            })
        };
        let mut experiment = fresh();
        if let Some(batches) = stop {
            let mut seen = 0;
            let mut go_on = |_: &Learner| {
                seen += 1;
                seen < batches
            };
            experiment.run(&mut go_on).unwrap();
            let state = experiment.state().unwrap();
            experiment = fresh();
            experiment.restore(&state).unwrap();
        }
        experiment.run(&mut |_| true).unwrap();
        experiment
    };
    let (without, with) = (run(None, None), run(Some(4), None));
    assert_eq!(
        bits(without.learner.parameters()),
        bits(with.learner.parameters())
    );
    assert!(without.finished.drift.is_empty() && without.finished.class_cosines.is_empty());
    let cosines = &with.finished.class_cosines;
    assert_eq!(cosines.len(), 10);
    for (one, row) in cosines.iter().enumerate() {
        assert!((row[one] - 1.0).abs() < 1e-9, "{row:?}");
        for (other, cosine) in row.iter().enumerate() {
            // Features after a ReLU have no negative values.
            assert!((0.0..1.0 + 1e-9).contains(cosine) && *cosine == cosines[other][one]);
        }
    }
    let drift = &with.finished.drift;
    assert_eq!(
        drift.iter().map(Vec::len).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4]
    );
    assert!(
        drift
            .iter()
            .flatten()
            .all(|drift| *drift > 0.0 && *drift < 1.0),
        "{drift:?}"
    );
    // In the third task.
    assert_eq!(run(Some(4), Some(60)).finished.drift, *drift);
}
