//! Both executors on random members of shipped families: Burn's CPU backend against ours.
//!
//! Differences are relative to the largest value of each tensor (`Differences`). Sums of different
//! orders in f32 differ by some 1e-6; batch-norms divide by the deviations of few values and
//! multiply that up.
//!
//! A maximum whose two largest values are equal to rounding may be won by another pixel, and a
//! value at the kink of an activation may fall to its other side: then single gradients differ by
//! more than rounding. The tolerance of gradients leaves room for that; a wrong term is off by 1.

use oncefit_burn::*;
use oncefit_nn::*;
use oncefit_random::Draws;
use oncefit_space::{Space, Subnet, Value};

const LOGITS: f32 = 1e-4;
const LOSS: f32 = 1e-5;
const GRADIENTS: f32 = 2e-3;
const STEPS: usize = 2;

/// A supernet whose batch-norms, biases and kernel transforms are not what they start as.
fn supernet(space: &Space) -> Supernet {
    let mut supernet = Supernet::initialise(space, 3).unwrap();
    for (index, parameter) in supernet.parameters.iter_mut().enumerate() {
        let mut draws = Draws::new(5, "disturb", index as u64, 0);
        let is_disturbed = match parameter.kind {
            ParameterKind::ConvolutionWeight => false,
            ParameterKind::DepthwiseWeight | ParameterKind::LinearWeight => false,
            ParameterKind::Bias | ParameterKind::NormScale => true,
            ParameterKind::NormShift | ParameterKind::KernelTransform => true,
        };
        if is_disturbed {
            for value in &mut parameter.data {
                *value += 0.2 * draws.normal() as f32;
            }
        }
    }
    supernet
}

fn random_members(space: &Space, count: u64) -> Vec<Subnet> {
    (0..count)
        .map(|index| {
            space
                .sample(&mut Draws::new(11, "members", index, 0))
                .unwrap()
        })
        .collect()
}

/// Two training steps of two random members and, of small families, the largest and the smallest.
fn steps_agree(space: &Space, count: usize, with_extremes: bool) {
    let supernet = supernet(space);
    let mut subnets = random_members(space, 2);
    if with_extremes {
        subnets.extend([space.largest().unwrap(), space.smallest().unwrap()]);
    }
    let step = TrainingStep::new(&supernet, subnets, count, 7);
    let (device, _) = open_device("flex").unwrap();
    let expected = step.on_cpu(STEPS).unwrap();
    let found = step.on_device(&device, STEPS).unwrap();
    let differences = step.differences(&found, &expected);
    println!("{}: {differences:?}", space.name());
    let noisy = step.with_noise(1e-6).on_cpu(STEPS).unwrap();
    let d2 = step.differences(&noisy, &expected);
    println!("{} NOISE: {d2:?}", space.name());
    assert!(differences.compared > 5, "{differences:?}");
    assert!(differences.logits < LOGITS, "{differences:?}");
    assert!(differences.loss < LOSS, "{differences:?}");
    assert!(differences.gradients < GRADIENTS, "{differences:?}");
    assert!(differences.changes < GRADIENTS, "{differences:?}");
}

/// A family at its smallest resolution, with few classes.
fn small(family: &str) -> Space {
    let space = Space::builtin_with(family, &[("classes", Value::Int(10))]).unwrap();
    space.restrict("resolution", &[Value::Int(128)]).unwrap()
}

#[test]
fn fm_nano_trains_the_same() {
    steps_agree(&Space::builtin("fm-nano").unwrap(), 6, true);
}

#[test]
fn vgg_nano_trains_the_same() {
    steps_agree(&Space::builtin("vgg-nano").unwrap(), 6, true);
}

#[test]
fn densenet_nano_trains_the_same() {
    steps_agree(&Space::builtin("densenet-nano").unwrap(), 6, true);
}

#[test]
fn ofa_mobilenet_v3_trains_the_same() {
    steps_agree(&small("ofa-mobilenet-v3"), 2, false);
}

#[test]
fn ofa_resnet50d_trains_the_same() {
    steps_agree(&small("ofa-resnet50d"), 2, false);
}

#[test]
fn a_calibrated_network_has_the_same_logits() {
    let space = Space::builtin("fm-nano").unwrap();
    let supernet = supernet(&space);
    let subnet = &random_members(&space, 1)[0];
    let mut draws = Draws::new(1, "images", 0, 0);
    let values = 5 * subnet.graph().input_shape().len();
    let data: Vec<f32> = (0..values).map(|_| draws.normal() as f32).collect();
    let images = Images {
        data: &data,
        count: 5,
    };
    let (weights, mut executor) = (&supernet.parameters, Executor::default());
    let plan = supernet.plan(subnet).unwrap();
    let calibration = executor.calibrate(&plan, weights, [images]).unwrap();
    let batch = executor
        .forward(&plan, weights, images, Mode::BatchStatistics)
        .unwrap();

    let (device, _) = open_device("flex").unwrap();
    let program = Program::new(subnet.graph(), weights).unwrap();
    let on_device = DeviceParameters::upload(weights, &device);
    let tape = program
        .forward(&on_device, images, Mode::BatchStatistics)
        .unwrap();
    let found = tape.statistics().unwrap();
    assert_eq!(found.len(), batch.statistics().count());
    for ([mean, variance], expected) in found.iter().zip(batch.statistics()) {
        assert_close(mean, expected.0);
        assert_close(variance, expected.1);
    }
    let mode = Mode::Evaluate(&calibration);
    let expected = executor.forward(&plan, weights, images, mode).unwrap();
    let tape = program.forward(&on_device, images, mode).unwrap();
    assert_close(&tape.output().unwrap(), expected.output());

    // A pass that is no training has no gradients, and a calibration is of one network.
    let mut gradients = DeviceGradients::none(&on_device);
    let error = tape.backward(&[0.0; 50], &mut gradients).unwrap_err();
    assert!(error.to_string().contains("training mode"), "{error}");
    let other = Program::new(space.largest().unwrap().graph(), weights).unwrap();
    let size = space.largest().unwrap().graph().input_shape().len();
    let images = Images {
        data: &vec![0.0; size],
        count: 1,
    };
    let error = other.forward(&on_device, images, mode).unwrap_err();
    assert!(error.to_string().contains("not calibrated"), "{error}");
    let images = Images { count: 2, ..images };
    let error = other.forward(&on_device, images, mode).unwrap_err();
    assert!(error.to_string().contains("the image batch"), "{error}");
}

#[test]
fn weights_come_back_as_they_went() {
    let supernet = supernet(&Space::builtin("densenet-nano").unwrap());
    let (device, _) = open_device("flex").unwrap();
    let on_device = DeviceParameters::upload(&supernet.parameters, &device);
    let mut back = supernet.parameters.zeros();
    on_device.download(&mut back).unwrap();
    assert!(back == supernet.parameters);
    let other = Supernet::initialise(&Space::builtin("vgg-nano").unwrap(), 0).unwrap();
    let error = on_device
        .download(&mut other.parameters.clone())
        .unwrap_err();
    assert!(error.to_string().starts_with("the weights"), "{error}");
}

fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let largest = expected
        .iter()
        .fold(0.0f32, |most, value| most.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= LOGITS * largest,
            "{found} {expected}"
        );
    }
}
