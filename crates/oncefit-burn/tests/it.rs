//! Both executors on random members of shipped families: Burn's CPU backend against ours.
//!
//! Differences are relative (`Differences`). Sums in another order differ by some 1e-7 of their
//! terms; batch-norms over few values multiply that up. A value within rounding of the kink of an
//! activation may fall to its other side and then changes gradients by far more: in `ofa-resnet50d`,
//! images changed by 1e-6 of themselves move a gradient of our own executor by 4 %. So large
//! networks are compared twice: as they are with a tolerance for that, and with their activations
//! taken out, where nothing but rounding is left.

use oncefit_burn::*;
use oncefit_nn::*;
use oncefit_random::Draws;
use oncefit_space::{Activation, Graph, Op, Space, Subnet, Value};

const LOGITS: f32 = 1e-4;
const LOSS: f32 = 1e-5;
const GRADIENTS: f32 = 2e-3;
const GRADIENTS_AT_KINKS: f32 = 0.2;

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
    let member = |index| space.sample(&mut Draws::new(11, "members", index, 0));
    (0..count).map(|index| member(index).unwrap()).collect()
}

fn graphs(subnets: &[Subnet]) -> Vec<Graph> {
    subnets
        .iter()
        .map(|subnet| subnet.graph().clone())
        .collect()
}

/// Steps with `graphs` on both executors.
fn steps_agree(space: &Space, graphs: Vec<Graph>, count: usize, steps: usize, tolerance: f32) {
    let supernet = supernet(space);
    let step = TrainingStep::new(&supernet, graphs, count, 7);
    let (device, _) = open_device("flex").unwrap();
    let expected = step.on_cpu(steps).unwrap();
    let found = step.on_device(&device, steps).unwrap();
    let differences = step.differences(&found, &expected);
    println!("{}: {differences:?}", space.name());
    assert!(differences.compared > 10, "{differences:?}");
    assert!(differences.logits < LOGITS, "{differences:?}");
    assert!(differences.loss < LOSS, "{differences:?}");
    assert!(differences.gradients < tolerance, "{differences:?}");
    assert!(differences.changes < tolerance, "{differences:?}");
}

/// Two steps of the smallest, the largest and two random members.
fn small_family_agrees(family: &str) {
    small_space_agrees(&Space::builtin(family).unwrap());
}

fn small_space_agrees(space: &Space) {
    let mut subnets = random_members(space, 2);
    subnets.extend([space.largest().unwrap(), space.smallest().unwrap()]);
    steps_agree(space, graphs(&subnets), 6, 2, GRADIENTS);
}

/// A step of two random members at the smallest resolution, as they are and without activations.
fn large_family_agrees(family: &str) {
    let space = small(family);
    let mut graphs = graphs(&random_members(&space, 2));
    steps_agree(&space, graphs.clone(), 2, 1, GRADIENTS_AT_KINKS);
    for node in graphs.iter_mut().flat_map(|graph| &mut graph.nodes) {
        if let Op::Activation(activation) = &mut node.op {
            *activation = Activation::Identity;
        }
    }
    steps_agree(&space, graphs, 2, 1, GRADIENTS);
}

/// A family at its smallest resolution, with few classes.
fn small(family: &str) -> Space {
    let space = Space::builtin_with(family, &[("classes", Value::Int(10))]).unwrap();
    space.restrict("resolution", &[Value::Int(128)]).unwrap()
}

#[test]
fn fm_nano_trains_the_same() {
    small_family_agrees("fm-nano");
}

#[test]
fn vgg_nano_trains_the_same() {
    small_family_agrees("vgg-nano");
}

#[test]
fn densenet_nano_trains_the_same() {
    small_family_agrees("densenet-nano");
}

#[test]
fn genetic_nano_trains_the_same() {
    small_family_agrees("genetic-nano");
}

#[test]
fn nasnet_nano_trains_the_same() {
    small_family_agrees("nasnet-nano");
}

/// Sums of channels that lie in different places, a gate that is not made from a pool of what it
/// multiplies, linear layers on maps behind channels with room between.
#[test]
fn small_spaces_with_every_operation_train_the_same() {
    for (text, name) in [
        (
            include_str!("../../oncefit-nn/tests/spaces/tiny-mixed.space"),
            "tiny-mixed.space",
        ),
        (
            include_str!("../../oncefit-nn/tests/spaces/tiny-alexnet.space"),
            "tiny-alexnet.space",
        ),
    ] {
        small_space_agrees(&Space::parse(text, name).unwrap());
    }
}

#[test]
fn ofa_mobilenet_v3_trains_the_same() {
    large_family_agrees("ofa-mobilenet-v3");
}

#[test]
fn ofa_resnet50d_trains_the_same() {
    large_family_agrees("ofa-resnet50d");
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
