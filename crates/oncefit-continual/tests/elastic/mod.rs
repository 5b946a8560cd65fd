//! Supernets that learn a stream.

use oncefit_continual::{ElasticSettings, HeadKind, Refresh, Targets};
use oncefit_nn::Supernet;
use oncefit_space::Space;
use oncefit_train::Aggregation;

use super::*;

pub(super) fn space() -> Space {
    let text = r#"
space elastic-cnn()
input(28, 28, 1)
decide width in (4, 8)
decide wide in (8, 12, 16)
first: seq { conv(width, kernel = 3, stride = 2, bias = true); relu }
second: seq { conv(wide, kernel = 3, stride = 2, bias = true); relu }
global_average_pool
classifier: linear(10)
"#;
    Space::parse(text, "elastic-cnn.space").unwrap()
}

fn elastic(elastic: ElasticSettings, method: Method) -> Learner {
    let settings = settings_for(&method);
    Learner::elastic(&space(), elastic, method, settings).unwrap()
}

/// Methods that compare angles need a cosine head; its neck is what members of all widths share.
fn settings_for(method: &Method) -> LearnerSettings {
    let head = match method.angles {
        Some(_) => HeadSettings {
            neck: Some(6),
            only_seen: true,
            ..HeadSettings::cosine(5.0)
        },
        None => HeadSettings::default(),
    };
    LearnerSettings { head, ..settings() }
}

/// A supernet of one member is that member, bit for bit, whatever the elastic settings say.
#[test]
fn a_supernet_of_one_member_is_the_network() {
    let space = small_cnn(28, 1, 4, 10).unwrap();
    let names = ["er", "der++", "lwf", "a-gem", "online-ewc", "icarl"];
    for name in names.into_iter().chain(["lucir", "scr"]) {
        let method = with_few_examples(name);
        let settings = settings_for(&method);
        let mut single = Learner::new(&space, method.clone(), settings.clone()).unwrap();
        train(&mut single, 2, 6);
        let with = ElasticSettings {
            distillation: name != "scr",
            ..ElasticSettings::default()
        };
        let mut supernet = Learner::elastic(&space, with, method, settings).unwrap();
        train(&mut supernet, 2, 6);
        assert!(
            bits(supernet.parameters()) == bits(single.parameters()),
            "{name}"
        );
        assert_eq!(supernet.train_macs(), single.train_macs());
        let found = supernet.evaluate_watched(&stream()).unwrap();
        assert_eq!(found[2], single.evaluate(&stream()).unwrap());
    }
}

/// One step is minus the learning rate times the gradients of its networks, added up or as the mean over
/// those that hold a weight: each network's own step, taken apart, gives them.
#[test]
fn a_step_is_made_of_the_steps_of_its_networks() {
    let examples = stream().iterate(0, 0).next().unwrap();
    let space = space();
    let start = Supernet::initialise(&space, 1).unwrap();
    let ends = [space.largest().unwrap(), space.smallest().unwrap()];
    // How far each network alone moves each of its weights.
    let ways: Vec<Parameters> = ends
        .iter()
        .map(|subnet| {
            let single = oncefit_continual::space_of_member(&space, subnet).unwrap();
            let weights = start.extract_weights(subnet).unwrap();
            let mut alone =
                Learner::with_weights(&single, weights.clone(), Method::fine_tune(), settings())
                    .unwrap();
            alone.step(&examples).unwrap();
            let mut moved = alone.parameters().clone();
            for (new, old) in moved.iter_mut().zip(weights.iter()) {
                let pairs = new.data.iter_mut().zip(&old.data);
                pairs.for_each(|(new, old)| *new -= old);
            }
            moved
        })
        .collect();
    for (aggregation, both) in [(Aggregation::Sum, 1.0), (Aggregation::Avg, 0.5)] {
        let with = ElasticSettings {
            random: 0,
            aggregation,
            ..ElasticSettings::default()
        };
        let mut learner = elastic(with, Method::fine_tune());
        learner.step(&examples).unwrap();
        for (position, tensor) in learner.parameters().iter().enumerate() {
            let (large, small) = (ways[0].at(position), ways[1].at(position));
            let old = start.parameters.at(position);
            let row = |shape: &[usize]| shape[1..].iter().product::<usize>().max(1);
            // [out, k, k, in], leading slices in the first and in the last dimension.
            let inputs = *tensor.shape.last().unwrap();
            let small_inputs = *small.shape.last().unwrap();
            for at in 0..tensor.data.len() {
                let (out, inner) = match tensor.shape.len() {
                    1 => (0, at),
                    _ => (at / row(&tensor.shape), at % row(&tensor.shape)),
                };
                let (tap, input) = (inner / inputs, inner % inputs);
                let is_in =
                    input < small_inputs && (tensor.shape.len() == 1 || out < small.shape[0]);
                let wanted = match is_in {
                    true => {
                        let place = match tensor.shape.len() {
                            1 => input,
                            _ => out * row(&small.shape) + tap * small_inputs + input,
                        };
                        both * (large.data[at] + small.data[place])
                    }
                    false => large.data[at],
                };
                let found = tensor.data[at] - old.data[at];
                assert!(
                    (found - wanted).abs() < 1e-3 * wanted.abs() + 1e-6,
                    "{} [{at}]: {found} instead of {wanted}",
                    tensor.name
                );
            }
        }
    }
}

#[test]
fn supernets_run_every_method_and_resume_with_the_same_bits() {
    let stream = stream();
    for name in Method::NAMES {
        let method = with_few_examples(name);
        if name == "joint" || name.starts_with("onpro") {
            continue;
        }
        for distillation in [false, true] {
            if distillation && method.contrastive.is_some() {
                continue;
            }
            let with = ElasticSettings {
                distillation,
                ..ElasticSettings::default()
            };
            let refreshed = match method.cross_entropy != 0.0 {
                true => method.clone().refreshed(Refresh {
                    fisher_images: Some(5),
                    ..Refresh::paper()
                }),
                false => method.clone(),
            };
            let run = |state: Option<Vec<u8>>, batches: usize| {
                let mut learner = elastic(with.clone(), refreshed.clone());
                if let Some(state) = state {
                    learner.restore(&state).unwrap();
                }
                let done = learner.position().1;
                for examples in stream.iterate(0, done).take(batches - done) {
                    learner.step(&examples).unwrap();
                }
                learner
            };
            let mut whole = run(None, 8);
            let again = run(Some(run(None, 3).state().unwrap()), 8);
            assert!(whole.state().unwrap() == again.state().unwrap(), "{name}");
            let examples = stream.train_examples(0, &stream.tasks()[0].train);
            whole.end_task(&examples).unwrap();
            let state = whole.state().unwrap();
            assert_eq!(whole.evaluate_watched(&stream).unwrap().len(), 3, "{name}");
            assert!(
                whole.state().unwrap() == state,
                "{name}: evaluation changes nothing"
            );
        }
    }
}

/// With in-place distillation the others' labels do not matter, only the largest's do.
#[test]
fn distillation_replaces_the_labels() {
    let examples = stream().iterate(0, 0).next().unwrap();
    let step = |distillation| {
        let with = ElasticSettings {
            distillation,
            random: 1,
            ..ElasticSettings::default()
        };
        let mut learner = elastic(with, Method::fine_tune());
        let report = learner.step(&examples).unwrap();
        (report.loss, bits(learner.parameters()))
    };
    let (labels, soft) = (step(false), step(true));
    assert_eq!(labels.0, soft.0, "the loss is the largest's");
    assert!(labels.1 != soft.1);
}

/// All subnets learn: after one task the smallest, the middle and the largest know it, each measured
/// through an experiment with matrices of its own.
#[test]
fn experiments_keep_a_matrix_of_each_watched_subnet() {
    let text = space().largest().unwrap().text();
    let with = ElasticSettings {
        watched: vec![text.clone()],
        ..ElasticSettings::default()
    };
    // A network this small needs several epochs.
    let longer = StreamSettings {
        epochs: 10,
        ..StreamSettings::default()
    };
    let stream = Stream::new(&data(), longer).unwrap();
    let mut experiment = Experiment::new(stream, elastic(with, Method::er(1.0, 10)));
    experiment.run(&mut |_| true).unwrap();
    let subnets = &experiment.finished.subnets;
    let names: Vec<&str> = subnets.iter().map(|subnet| subnet.name.as_str()).collect();
    assert_eq!(names, ["smallest", "middle", "largest", &text]);
    assert!(subnets[0].macs < subnets[1].macs && subnets[1].macs < subnets[2].macs);
    assert_eq!(subnets[2].class_incremental, subnets[3].class_incremental);
    assert_eq!(
        subnets[2].class_incremental,
        experiment.finished.class_incremental
    );
    for subnet in subnets {
        assert_eq!(subnet.class_incremental.rows.len(), 5);
        let first = subnet.task_incremental.rows[0][0];
        assert!(first > 0.7, "{}: {first}", subnet.name);
    }
    let wrong = ElasticSettings {
        watched: vec!["width=5:8".into()],
        ..ElasticSettings::default()
    };
    assert!(Learner::elastic(&space(), wrong, Method::fine_tune(), settings()).is_err());
}

/// All members share a head that is not the network's own: a step moves it by the mean of what each
/// alone would, and frozen rows not at all.
#[test]
fn members_share_the_head() {
    let text = r#"
space elastic-encoder()
input(28, 28, 1)
decide width in (4, 8)
first: seq { conv(width, kernel = 3, stride = 2, bias = true); relu }
second: seq { conv(16, kernel = 3, stride = 2, bias = true); relu }
global_average_pool
classifier: linear(10)
"#;
    let space = Space::parse(text, "elastic-encoder.space").unwrap();
    let start = Supernet::initialise(&space, settings().seed).unwrap();
    let ends = [space.largest().unwrap(), space.smallest().unwrap()];
    let examples = stream().iterate(0, 0).next().unwrap();
    let targets = || {
        let mut draws = oncefit_random::Draws::new(3, "test targets", 0, 0);
        let values = (0..160).map(|_| draws.normal() as f32).collect();
        Targets::new(16, values).unwrap()
    };
    let cosine = HeadSettings {
        only_seen: true,
        ..HeadSettings::cosine(5.0)
    };
    let product = HeadSettings {
        kind: HeadKind::InnerProduct,
        ..cosine.clone()
    };
    let heads = [
        (cosine.clone(), vec!["head.weight", "head.scale"]),
        (product, vec!["head.weight"]),
        (cosine.with_targets(targets(), true), vec!["head.scale"]),
    ];
    for (head, names) in heads {
        let settings = LearnerSettings { head, ..settings() };
        let alone = ends.each_ref().map(|subnet| {
            let single = oncefit_continual::space_of_member(&space, subnet).unwrap();
            let weights = start.extract_weights(subnet).unwrap();
            let method = Method::fine_tune();
            let mut learner =
                Learner::with_weights(&single, weights, method, settings.clone()).unwrap();
            learner.step(&examples).unwrap();
            learner
        });
        let with = ElasticSettings {
            random: 0,
            ..ElasticSettings::default()
        };
        let method = Method::fine_tune();
        let mut learner = Learner::elastic(&space, with, method, settings).unwrap();
        let of_head = |parameters: &Parameters| {
            let found = parameters.iter().filter(|one| one.name.starts_with("head"));
            found.map(|one| one.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(of_head(learner.parameters()), names);
        assert!(
            learner
                .parameters()
                .get("classifier.linear.weight")
                .is_err()
        );
        learner.step(&examples).unwrap();
        for name in names {
            let of = |learner: &Learner| learner.parameters().get(name).unwrap().data.clone();
            let [large, small] = alone.each_ref().map(of);
            let found = of(&learner);
            for ((found, large), small) in found.iter().zip(&large).zip(&small) {
                // Both moved from the same value.
                let wanted = (large + small) / 2.0;
                assert!((found - wanted).abs() < 1e-5, "{name}: {found} {wanted}");
            }
            assert!(large != small, "{name}");
        }
    }
    // Members of several feature widths need a neck, which gives them one.
    let settings = LearnerSettings {
        head: HeadSettings::cosine(5.0),
        ..settings()
    };
    let found = Learner::elastic(
        &self::space(),
        ElasticSettings::default(),
        Method::fine_tune(),
        settings,
    );
    assert!(found.unwrap_err().to_string().contains("neck"));
}
