//! OnPro as a whole; its losses are tested beside themselves.

use oncefit_continual::{
    ElasticSettings, ImageChanges, OnPro, PairChoice, Turns, small_cnn_with_norms,
};
use oncefit_data::{Augmentation, ImageShape};

use super::*;

const SHAPE: ImageShape = ImageShape {
    height: 28,
    width: 28,
    channels: 1,
};

fn lite() -> OnPro {
    OnPro {
        replay: 12,
        projection: 8,
        ..OnPro::lite()
    }
}

fn with_views(rule: UpdateRule) -> LearnerSettings {
    LearnerSettings {
        learning_rate: 1e-3,
        rule,
        augmentation: Some(ImageChanges {
            augmentation: Augmentation {
                horizontal_flip: true,
                resized_crop: 0.5,
                ..Augmentation::NONE
            },
            shape: SHAPE,
        }),
        ..settings()
    }
}

const ADAM: UpdateRule = UpdateRule::Adam {
    beta1: 0.9,
    beta2: 0.99,
    epsilon: 1e-8,
    decoupled: false,
};

fn fresh(onpro: OnPro, rule: UpdateRule) -> Learner {
    let space = small_cnn(28, 1, 4, 10).unwrap();
    Learner::new(&space, Method::onpro(onpro), with_views(rule)).unwrap()
}

#[test]
fn it_resumes_in_any_task_with_the_same_bytes() {
    for (task, batch) in [(0, 1), (1, 1), (2, 3)] {
        let mut one = fresh(lite(), ADAM);
        train(&mut one, task, 4);
        let stream = stream();
        one.step(&stream.iterate(task, 0).next().unwrap()).unwrap();
        let mut other = fresh(lite(), ADAM);
        other.restore(&one.state().unwrap()).unwrap();
        for examples in stream.iterate(task, 1).take(batch) {
            let (first, second) = (one.step(&examples).unwrap(), other.step(&examples).unwrap());
            assert_eq!(first, second);
        }
        assert!(one.state().unwrap() == other.state().unwrap(), "{task}");
    }
}

#[test]
fn every_part_changes_what_is_learnt_and_parts_with_weight_0_are_not_there() {
    let after = |onpro: OnPro| {
        let mut learner = fresh(onpro, ADAM);
        train(&mut learner, 2, 3);
        (learner.parameters().clone(), learner.images())
    };
    let (all, images) = after(lite());
    let changes: [(&str, OnPro); 6] = [
        (
            "no equilibrium",
            OnPro {
                equilibrium: 0.0,
                ..lite()
            },
        ),
        (
            "no instance",
            OnPro {
                instance: 0.0,
                ..lite()
            },
        ),
        (
            "no pairs",
            OnPro {
                base_share: 1.0,
                ..lite()
            },
        ),
        (
            "no mixing",
            OnPro {
                mixing: 0.0,
                ..lite()
            },
        ),
        (
            "any pairs",
            OnPro {
                pairs: PairChoice::Uniform,
                pair_temperature: 1.0,
                base_share: 0.0,
                ..lite()
            },
        ),
        (
            "new labels",
            OnPro {
                learns_new_labels: true,
                ..lite()
            },
        ),
    ];
    for (name, onpro) in changes {
        assert!(after(onpro).0 != all, "{name}");
    }
    // Without losses on views only the head's images run.
    let bare = OnPro {
        equilibrium: 0.0,
        instance: 0.0,
        base_share: 1.0,
        ..lite()
    };
    let (bare, few) = after(bare);
    assert!(few * 5 < images, "{few} {images}");
    // The projection is what only those losses train.
    let at_first = fresh(lite(), ADAM);
    let name = "prototype-projection/weight";
    let of = |parameters: &Parameters| parameters.get(name).unwrap().data.clone();
    assert!(of(&bare) == of(at_first.parameters()) && of(&all) != of(&bare));
}

#[test]
fn replay_and_prototypes_keep_what_fine_tuning_forgets() {
    let stream = stream();
    let of_first_task = |learner: &mut Learner| {
        train(learner, 3, 99);
        learner.evaluate(&stream).unwrap()[0].class_incremental
    };
    let space = small_cnn_with_norms(28, 1, 8, 10).unwrap();
    let plain = LearnerSettings {
        learning_rate: 5e-3,
        ..with_views(ADAM)
    };
    let of = |method: Method| Learner::new(&space, method, plain.clone()).unwrap();
    let found = of_first_task(&mut of(Method::onpro(lite())));
    let fine_tuned = of_first_task(&mut of(Method::fine_tune()));
    // Over five seeds 0.54 to 0.90 and 0.00 to 0.01.
    assert!(found > fine_tuned + 0.2, "{found} {fine_tuned}");
    let mut learner = of(Method::onpro(lite()));
    train(&mut learner, 2, 99);
    let shares = learner.pair_shares();
    assert_eq!(shares.len(), 6, "{shares:?}");
    assert!((shares.iter().map(|(_, share)| share).sum::<f64>() - 1.0).abs() < 1e-9);
    let images = stream.test_examples(0, &[0, 1, 2]).images;
    let (rows, width) = learner.unit_projections(&images).unwrap().unwrap();
    assert_eq!((rows.len(), width), (24, 8));
    assert_eq!(learner.predictions(&images).unwrap().len(), 3);
}

#[test]
fn a_supernet_shares_memory_prototypes_and_projection() {
    let space = crate::elastic::space();
    let learner = || {
        let method = Method::onpro(lite());
        let elastic = ElasticSettings::default();
        Learner::elastic(&space, elastic, method, with_views(ADAM)).unwrap()
    };
    let mut one = learner();
    train(&mut one, 2, 2);
    let found = one.evaluate_watched(&stream()).unwrap();
    assert_eq!(found.len(), 3);
    let mut other = learner();
    other.restore(&one.state().unwrap()).unwrap();
    let examples = stream().iterate(2, 0).next().unwrap();
    assert_eq!(one.step(&examples).unwrap(), other.step(&examples).unwrap());
    assert!(one.state().unwrap() == other.state().unwrap());
    // The smallest network's 8 features fit the projection; 16 would not.
    let wide = OnPro {
        projection: 9,
        ..lite()
    };
    let elastic = ElasticSettings::default();
    let found = Learner::elastic(&space, elastic, Method::onpro(wide), with_views(ADAM));
    assert!(found.unwrap_err().to_string().contains("at most 8"));
    let distilled = ElasticSettings {
        distillation: true,
        ..ElasticSettings::default()
    };
    let found = Learner::elastic(&space, distilled, Method::onpro(lite()), with_views(ADAM));
    assert!(found.unwrap_err().to_string().contains("distillation"));
}

/// A supernet of one member is that member, bit for bit.
#[test]
fn a_supernet_of_one_member_learns_like_the_network() {
    let mut single = fresh(lite(), ADAM);
    train(&mut single, 2, 3);
    let space = small_cnn(28, 1, 4, 10).unwrap();
    let (method, elastic) = (Method::onpro(lite()), ElasticSettings::default());
    let mut supernet = Learner::elastic(&space, elastic, method, with_views(ADAM)).unwrap();
    train(&mut supernet, 2, 3);
    assert!(bits(supernet.parameters()) == bits(single.parameters()));
}

#[test]
fn what_does_not_fit_is_said() {
    let error = |onpro: OnPro, settings: LearnerSettings| {
        let space = small_cnn(28, 1, 4, 10).unwrap();
        let found = Learner::new(&space, Method::onpro(onpro), settings);
        found.unwrap_err().to_string()
    };
    let found = error(lite(), settings());
    assert!(found.contains("`[augmentation]` is not there"), "{found}");
    let wide = OnPro {
        projection: 17,
        ..lite()
    };
    let found = error(wide, with_views(ADAM));
    assert!(
        found.contains("`onpro.projection` is 17; expected at most 16"),
        "{found}"
    );
    let cold = OnPro {
        instance_temperature: 0.0,
        ..lite()
    };
    assert!(error(cold, with_views(ADAM)).contains("above 0"));
    let mut odd = with_views(ADAM);
    odd.augmentation.as_mut().unwrap().shape = ImageShape {
        height: 16,
        width: 49,
        channels: 1,
    };
    assert!(error(lite(), odd.clone()).contains("square"));
    let full = OnPro {
        turns: Turns::Sixteen,
        ..lite()
    };
    assert!(error(full, odd).contains("even width"));
    let found = error(
        OnPro {
            replay: 300,
            ..lite()
        },
        with_views(ADAM),
    );
    assert!(found.contains("the memory's capacity is 200"), "{found}");
}
