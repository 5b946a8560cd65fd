//! Laws that every method must pass, with the embedded data.

use oncefit_continual::{
    BatchClasses, CalibrationImages, Classifier, ContinualError, Examples, Experiment,
    HeadSettings, Images, Initialisation, Learner, LearnerSettings, MemoryPolicy, Method, Stream,
    StreamSettings, mlp, resnet18, small_cnn, small_cnn_with_norms,
};
use oncefit_data::{LoadedData, Normalisation};
use oncefit_nn::{Parameters, UpdateRule};
use oncefit_train::Decay;

use self::identities::{ALL, cross_entropy, learner_copy, log_softmax, logits, numeric_gradient};

/// A fifth of the embedded images.
fn data() -> LoadedData {
    let data = oncefit_data::embedded().unwrap();
    let some = |dataset: &oncefit_data::Dataset, count| {
        oncefit_data::first_per_class(dataset, count).unwrap()
    };
    LoadedData::new(some(&data.train, 120), some(&data.test, 50)).unwrap()
}

fn stream() -> Stream {
    Stream::new(&data(), StreamSettings::default()).unwrap()
}

fn settings() -> LearnerSettings {
    LearnerSettings {
        learning_rate: 0.05,
        rule: UpdateRule::sgd(0.0),
        weight_decay: 0.0,
        memory: 200,
        batch_size: 10,
        seed: 1,
        normalisation: Normalisation {
            mean: vec![0.286],
            std: vec![0.353],
        },
        ..LearnerSettings::default()
    }
}

fn learner(method: Method) -> Learner {
    let head = match method.angles {
        Some(_) => HeadSettings::cosine(10.0),
        None => HeadSettings::default(),
    };
    let settings = LearnerSettings { head, ..settings() };
    Learner::new(&mlp(784, 20, 10).unwrap(), method, settings).unwrap()
}

fn with_few_examples(name: &str) -> Method {
    let mut method = Method::preset(name, 10).unwrap();
    for term in &mut method.weights {
        // The presets' penalties are too stiff for this learning rate.
        term.weight = if name == "mas" { 0.05 } else { 1.0 };
        use oncefit_continual::Importance;
        if let Importance::Fisher { examples, .. } | Importance::OutputSensitivity { examples } =
            &mut term.importance
        {
            *examples = 20;
        }
    }
    method
}

/// Trains `tasks` tasks of `batches` batches.
fn train(learner: &mut Learner, tasks: usize, batches: usize) {
    let stream = stream();
    for task in 0..tasks {
        for examples in stream.iterate(task, 0).take(batches) {
            learner.step(&examples).unwrap();
        }
        let train = &stream.tasks()[task].train;
        learner
            .end_task(&stream.train_examples(task, train))
            .unwrap();
    }
}

fn bits(parameters: &Parameters) -> Vec<u32> {
    parameters
        .iter()
        .flat_map(|tensor| tensor.data.iter().map(|value| value.to_bits()))
        .collect()
}

#[test]
fn weight_0_is_fine_tuning_bit_for_bit_and_a_weight_above_0_is_not() {
    let mut plain = learner(Method::fine_tune());
    train(&mut plain, 2, 8);
    let terms = [
        "er",
        "der",
        "der++",
        "lwf",
        "cpr",
        "l2",
        "ewc",
        "online-ewc",
        "si",
        "mas",
    ];
    for name in terms {
        let method = with_few_examples(name);
        let mut off = method.clone();
        off.batch_classes = BatchClasses::All;
        off.outputs.iter_mut().for_each(|term| term.weight = 0.0);
        off.weights.iter_mut().for_each(|term| term.weight = 0.0);
        let mut without = learner(off);
        train(&mut without, 2, 8);
        assert!(
            bits(without.parameters()) == bits(plain.parameters()),
            "{name}, weight 0"
        );
        let mut on = method;
        on.batch_classes = BatchClasses::All;
        let mut with = learner(on);
        train(&mut with, 2, 8);
        assert!(
            bits(with.parameters()) != bits(plain.parameters()),
            "{name}, weight above 0"
        );
    }
}

#[test]
fn a_learner_restored_at_any_batch_goes_on_with_the_same_bits() {
    let stream = stream();
    let mut names: Vec<&str> = Method::NAMES.to_vec();
    // OnPro needs views of images: `onpro` below.
    names.retain(|name| *name != "joint" && !name.starts_with("onpro"));
    for name in names {
        let method = with_few_examples(name);
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
        assert_eq!(second.state().unwrap(), state, "{name}");
        assert_eq!(second.position(), (1, 7));
        for examples in stream.iterate(1, second.position().1) {
            second.step(&examples).unwrap();
        }
        let train = &stream.tasks()[1].train;
        second.end_task(&stream.train_examples(1, train)).unwrap();
        assert!(second.state().unwrap() == whole.state().unwrap(), "{name}");
        assert!(second.restore(&state[..state.len() / 2]).is_err());
        assert!(
            second.state().unwrap() == whole.state().unwrap(),
            "{name}: unchanged"
        );
    }
}

#[test]
fn evaluation_changes_nothing_and_task_incremental_is_not_below_class_incremental() {
    for name in ["der++", "er-nearest-mean", "gdumb"] {
        let mut learner = learner(with_few_examples(name));
        train(&mut learner, 2, 99);
        let before = learner.state().unwrap();
        let accuracies = learner.evaluate(&stream()).unwrap();
        assert!(before == learner.state().unwrap(), "{name}");
        for accuracy in &accuracies[..2] {
            assert!(accuracy.task_incremental >= accuracy.class_incremental);
        }
        assert!(
            accuracies[0].task_incremental > 0.7,
            "{name} {accuracies:?}"
        );
    }
}

#[test]
fn replay_forgets_less_than_fine_tuning() {
    let accuracy = |name: &str| {
        let mut experiment = Experiment::new(stream(), learner(with_few_examples(name)));
        experiment.run(&mut |_| true).unwrap();
        let metrics = experiment.finished.class_incremental.metrics().unwrap();
        metrics.final_average_accuracy
    };
    let (plain, replay) = (accuracy("fine-tune"), accuracy("der++"));
    assert!(plain < 0.35 && replay > plain + 0.15, "{plain} {replay}");
}

#[test]
fn contrastive_replay_keeps_what_fine_tuning_forgets_and_refuses_an_untrained_head() {
    let accuracy = |name: &str| {
        let mut learner = learner(Method::preset(name, 10).unwrap());
        train(&mut learner, 3, 99);
        let found = learner.evaluate(&stream()).unwrap();
        found[..3]
            .iter()
            .map(|task| task.class_incremental)
            .sum::<f64>()
            / 3.0
    };
    let (scr, fine_tune) = (accuracy("scr"), accuracy("fine-tune"));
    assert!(scr > fine_tune + 0.1, "{scr} {fine_tune}");
    let method = Method {
        classifier: oncefit_continual::Classifier::Head,
        ..Method::scr(0.07, 10)
    };
    let error = Learner::new(&mlp(784, 20, 10).unwrap(), method, settings()).unwrap_err();
    assert!(
        error.to_string().contains("does not train the head"),
        "{error}"
    );
    let cold = Method::scr(0.0, 10);
    let error = Learner::new(&mlp(784, 20, 10).unwrap(), cold, settings()).unwrap_err();
    assert!(error.to_string().contains("above 0"), "{error}");
}

#[test]
fn herding_fills_the_memory_class_by_class() {
    let method = Method {
        memory: Some(MemoryPolicy::Herding),
        classifier: Classifier::NearestMean,
        ..Method::er(1.0, 10)
    };
    let mut learner = learner(method);
    train(&mut learner, 3, 99);
    assert_eq!(
        learner.memory().unwrap().counts(),
        [33, 33, 33, 33, 33, 33, 0, 0, 0, 0]
    );
}

#[test]
fn networks_with_and_without_batch_norm_run() {
    let stream = stream();
    let spaces = [
        small_cnn(28, 1, 4, 10).unwrap(),
        resnet18(28, 1, 4, 10).unwrap(),
    ];
    let pairs = spaces
        .iter()
        .flat_map(|space| [(space, "er"), (space, "scr")]);
    for (space, name) in pairs {
        let method = Method::preset(name, 10).unwrap();
        let mut learner = Learner::new(space, method, settings()).unwrap();
        for examples in stream.iterate(0, 0).take(4) {
            learner.step(&examples).unwrap();
        }
        let before = learner.state().unwrap();
        assert_eq!(learner.evaluate(&stream).unwrap().len(), 5);
        assert!(before == learner.state().unwrap());
    }
    let space = resnet18(28, 1, 4, 10).unwrap();
    let error = Learner::new(&space, Method::preset("ewc", 10).unwrap(), settings()).unwrap_err();
    assert!(matches!(error, ContinualError::NotAvailable { .. }));
}

#[test]
fn bad_input_is_said_and_loses_nothing() {
    let mut learner = learner(Method::preset("der++", 10).unwrap());
    train(&mut learner, 1, 5);
    let before = learner.state().unwrap();
    let image = vec![0; 784];
    let unknown = Examples {
        images: image.clone(),
        labels: vec![10],
    };
    let message = learner.step(&unknown).unwrap_err().to_string();
    assert_eq!(
        message,
        "the stream brings class 10, but the network has 10 outputs"
    );
    assert!(learner.step(&Examples::default()).is_err());
    let short = Examples {
        images: image[1..].to_vec(),
        labels: vec![1],
    };
    assert!(learner.step(&short).is_err());
    assert!(before == learner.state().unwrap());
    let space = mlp(784, 20, 10).unwrap();
    let small = LearnerSettings {
        memory: 9,
        ..settings()
    };
    let error = Learner::new(&space, Method::er(1.0, 10), small)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("capacity is 9; expected 10 or more"),
        "{error}"
    );
    let not_finite = LearnerSettings {
        normalisation: Normalisation {
            mean: vec![f32::NAN],
            std: vec![1.0],
        },
        ..settings()
    };
    assert!(Learner::new(&space, Method::fine_tune(), not_finite).is_err());
    for name in ["mir", "fdr", "gem", "ocm"] {
        assert!(
            Method::preset(name, 10)
                .unwrap_err()
                .to_string()
                .contains("not available")
        );
    }
}

#[test]
fn divergence_is_said_and_loses_nothing() {
    let wild = LearnerSettings {
        learning_rate: 1e20,
        ..settings()
    };
    let mut learner = Learner::new(&mlp(784, 20, 10).unwrap(), Method::fine_tune(), wild).unwrap();
    for examples in stream().iterate(0, 0) {
        let before = learner.state().unwrap();
        if let Err(error) = learner.step(&examples) {
            assert!(matches!(error, ContinualError::NotFinite { .. }), "{error}");
            assert!(before == learner.state().unwrap());
            return;
        }
    }
    panic!("a learning rate of 1e20 diverges");
}

#[test]
fn terms_of_one_draw_share_it() {
    let method = Method::der_plus_plus(0.1, 0.5, 10);
    let draws: Vec<Images> = method.outputs.iter().map(|term| term.images).collect();
    assert_ne!(draws[0], draws[1]);
    let mut learner = learner(method);
    train(&mut learner, 1, 3);
    assert_eq!(learner.images(), 10 + 2 * (10 + 20));
}

#[test]
fn a_memory_filled_at_task_ends_replays_nothing_before() {
    let filled = |name: &str| {
        let settings = LearnerSettings {
            fills_at_task_end: true,
            ..settings()
        };
        let method = Method::preset(name, 10).unwrap();
        let mut learner = Learner::new(&mlp(784, 20, 10).unwrap(), method, settings).unwrap();
        for examples in stream().iterate(0, 0).take(5) {
            assert_eq!(learner.step(&examples).unwrap().images, 10);
        }
        assert!(learner.memory().unwrap().is_empty());
        let stream = stream();
        let train = &stream.tasks()[0].train;
        learner.end_task(&stream.train_examples(0, train)).unwrap();
        learner
    };
    assert_eq!(filled("er").memory().unwrap().len(), 200);
    // Stored logits are those of the network at the end of the task.
    let der = filled("der");
    let memory = der.memory().unwrap();
    let image = memory.examples(&[7]).images;
    let found = logits(der.parameters(), &image);
    let stored = memory.stored_logits(&[7]);
    assert!(
        found
            .iter()
            .zip(stored)
            .all(|(a, b)| (a - f64::from(b)).abs() < 1e-4)
    );
}

#[test]
fn pytorchs_weights_and_biases_are_within_their_reach() {
    let settings = LearnerSettings {
        initialisation: Initialisation::Pytorch,
        ..settings()
    };
    let space = small_cnn(28, 1, 4, 10).unwrap();
    let learner = Learner::new(&space, Method::fine_tune(), settings).unwrap();
    let inputs = [9, 9, 36, 36, 72, 72, 16, 16];
    for (tensor, inputs) in learner.parameters().iter().zip(inputs) {
        let reach = 1.0 / f64::from(inputs).sqrt();
        let largest = tensor
            .data
            .iter()
            .fold(0.0, |most: f32, v| most.max(v.abs()));
        let largest = f64::from(largest);
        assert!(largest <= reach && largest > 0.5 * reach, "{}", tensor.name);
    }
}

#[test]
fn a_falling_rate_follows_the_epochs_of_each_task() {
    let moved = |decay: Decay, batch: usize| {
        let settings = LearnerSettings {
            decay,
            epochs: 4,
            ..settings()
        };
        let space = mlp(784, 20, 10).unwrap();
        let mut learner = Learner::new(&space, Method::fine_tune(), settings).unwrap();
        learner.expect(2);
        let batches: Vec<Examples> = stream().iterate(0, 0).take(batch + 1).collect();
        for examples in &batches[..batch] {
            learner.step(examples).unwrap();
        }
        let before = learner.parameters().at(0).data.clone();
        let mut constant = self::learner(Method::fine_tune());
        let state = learner.parameters().clone();
        constant = Learner::with_weights(
            &mlp(784, 20, 10).unwrap(),
            state,
            Method::fine_tune(),
            constant.settings().clone(),
        )
        .unwrap();
        learner.step(&batches[batch]).unwrap();
        constant.step(&batches[batch]).unwrap();
        let way = |after: &Learner| -> f64 {
            let pairs = before.iter().zip(&after.parameters().at(0).data);
            pairs
                .map(|(a, b)| f64::from((a - b).powi(2)))
                .sum::<f64>()
                .sqrt()
        };
        way(&learner) / way(&constant)
    };
    let step = || Decay::Step {
        milestones: vec![1.0, 3.0],
        factor: 0.1,
    };
    let close = |a: f64, b: f64| (a - b).abs() < 0.01 * b;
    assert!(close(moved(step(), 1), 1.0) && close(moved(step(), 2), 0.1));
    assert!(close(moved(step(), 6), 0.01) && close(moved(Decay::Cosine, 4), 0.5));
    let settings = LearnerSettings {
        decay: Decay::Cosine,
        ..settings()
    };
    let space = mlp(784, 20, 10).unwrap();
    let mut untold = Learner::new(&space, Method::fine_tune(), settings).unwrap();
    let examples = stream().iterate(0, 0).next().unwrap();
    assert!(untold.step(&examples).is_err());
}

#[test]
fn train_macs_count_steps_teachers_and_task_ends() {
    let passes = |name: &str| {
        let mut learner = learner(with_few_examples(name));
        train(&mut learner, 2, 5);
        assert_eq!(learner.take_evaluation_macs() / learner.model().macs(), 0);
        learner.evaluate(&stream()).unwrap();
        assert!(learner.take_evaluation_macs() / learner.model().macs() >= 500);
        learner.train_macs() / learner.model().macs()
    };
    let steps = 3 * 2 * 5 * 10;
    assert_eq!(passes("fine-tune"), steps);
    assert_eq!(passes("lwf"), steps + 5 * 10);
    // 20 images a task, ten classes, forward and backward.
    assert_eq!(passes("ewc"), steps + 2 * 20 * 10 * 3);
    assert_eq!(passes("mas"), steps + 2 * 20 * 3);
}

#[test]
fn anytime_accuracies_are_measured_between_batches_and_survive_a_restart() {
    let experiment = || {
        let learner = learner(Method::preset("er", 10).unwrap());
        Experiment::new(stream(), learner).with_anytime(9)
    };
    let mut whole = experiment();
    whole.run(&mut |_| true).unwrap();
    let steps: Vec<u64> = whole
        .finished
        .anytime
        .iter()
        .map(|point| point.step)
        .collect();
    // 5 tasks of 24 batches.
    assert_eq!(steps, Vec::from_iter((1..=13).map(|point| 9 * point)));
    let mut first = experiment();
    first.run(&mut |learner| learner.steps() < 5).unwrap();
    let mut second = experiment();
    second.restore(&first.state().unwrap()).unwrap();
    second.run(&mut |_| true).unwrap();
    assert_eq!(second.finished.anytime, whole.finished.anytime);
    assert_eq!(
        second.finished.evaluation_macs,
        whole.finished.evaluation_macs
    );
    let mean: f64 = whole
        .finished
        .anytime
        .iter()
        .map(|point| point.accuracy)
        .sum();
    assert_eq!(whole.finished.anytime_accuracy(), Some(mean / 13.0));
    // Measuring changes nothing that is learnt.
    let mut plain = Experiment::new(stream(), learner(Method::preset("er", 10).unwrap()));
    plain.run(&mut |_| true).unwrap();
    assert_eq!(
        bits(plain.learner.parameters()),
        bits(whole.learner.parameters())
    );
    assert_eq!(plain.finished.anytime_accuracy(), None);
}

/// Training sees changed images; the memory keeps them as they came.
#[test]
fn augmentation_changes_steps_and_not_the_memory() {
    use oncefit_continual::ImageChanges;
    let data = data();
    let changed = |augmentation| LearnerSettings {
        augmentation: Some(ImageChanges {
            augmentation,
            shape: data.train.shape(),
        }),
        ..settings()
    };
    let with = |settings: LearnerSettings| {
        let space = mlp(784, 20, 10).unwrap();
        Learner::new(&space, Method::er(1.0, 10), settings)
    };
    let crop = oncefit_data::Augmentation {
        crop_padding: 2,
        ..oncefit_data::Augmentation::NONE
    };
    let mut plain = with(settings()).unwrap();
    let mut none = with(changed(oncefit_data::Augmentation::NONE)).unwrap();
    let mut cropped = with(changed(crop)).unwrap();
    for learner in [&mut plain, &mut none, &mut cropped] {
        train(learner, 1, 6);
    }
    assert_eq!(bits(plain.parameters()), bits(none.parameters()));
    assert!(bits(plain.parameters()) != bits(cropped.parameters()));
    let kept = |learner: &Learner| {
        let memory = learner.memory().unwrap();
        memory.examples(&(0..memory.len()).collect::<Vec<_>>())
    };
    assert_eq!(kept(&plain), kept(&cropped));
    let mixed = oncefit_data::Augmentation {
        mixup: 0.2,
        ..oncefit_data::Augmentation::NONE
    };
    let error = with(changed(mixed)).unwrap_err();
    assert!(error.to_string().contains("mixing"), "{error}");
}

mod elastic;
mod heads;
mod identities;
mod onpro;
mod refresh;

/// Statistics of batch-norm should be those of all classes, not of the newest task.
#[test]
fn networks_are_calibrated_on_every_class_alike() {
    let space = small_cnn_with_norms(28, 1, 4, 10).unwrap();
    let stream = Stream::new(
        &oncefit_data::embedded().unwrap(),
        StreamSettings::default(),
    )
    .unwrap();
    // Images of classes of earlier tasks, and of the newest, after each of two tasks.
    let counts = |calibration| {
        let with = LearnerSettings {
            memory: 60,
            calibration,
            ..settings()
        };
        let mut learner = Learner::new(&space, Method::er(1.0, 10), with).unwrap();
        [0, 1].map(|task| {
            for examples in stream.iterate(task, 0).take(60) {
                learner.step(&examples).unwrap();
            }
            let few = stream.iterate(task, 0).next().unwrap();
            learner.end_task(&few).unwrap();
            let labels = learner.calibration_examples().labels;
            let is_old = |label: &&u32| **label < 2 * task as u32;
            let old = labels.iter().filter(is_old).count();
            (old, labels.len() - old)
        })
    };
    let balanced = counts(CalibrationImages::Balanced);
    let recent = counts(CalibrationImages::Recent);
    // In the first task all images are of its classes.
    assert_eq!((balanced[0], recent[0]), ((0, 572), (0, 572)));
    let (old, new) = balanced[1];
    assert!(old > 10 && new + 2 >= old && new <= 2 * old, "{balanced:?}");
    assert_eq!(recent[1], (old, 572 - old));
}
