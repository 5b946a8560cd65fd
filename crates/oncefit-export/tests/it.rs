//! Exported files of random subnets, run in tract.

use std::collections::BTreeMap;
use std::path::Path;

use oncefit_export::*;
use oncefit_nn::*;
use oncefit_random::Draws;
use oncefit_space::{DecisionSlot, Space, Subnet};

struct Case {
    network: Network,
    images: Vec<f32>,
    logits: Vec<f32>,
    count: usize,
}

impl Case {
    /// Images as the file reads them.
    fn planes(&self) -> Vec<f32> {
        let shape = self.network.graph.input_shape();
        to_channels_first(&self.images, shape.height, shape.width, shape.channels)
    }
}

/// An extracted network with random weights, statistics and images, and its logits.
fn case(supernet: &Supernet, subnet: &Subnet, count: usize, seed: u64) -> Case {
    let shape = subnet.graph().input_shape();
    let mut draws = Draws::new(seed, "images", 0, 0);
    let images: Vec<f32> = (0..count * shape.len())
        .map(|_| draws.normal() as f32)
        .collect();
    let batch = Images {
        data: &images,
        count,
    };
    let mut executor = Executor::default();
    let plan = supernet.plan(subnet).unwrap();
    let calibration = executor
        .calibrate(&plan, &supernet.parameters, [batch])
        .unwrap();
    let network = supernet.extract(subnet, &calibration).unwrap();
    let plan = network.plan().unwrap();
    let tape = executor
        .forward(
            &plan,
            &network.parameters,
            batch,
            Mode::Evaluate(&calibration),
        )
        .unwrap();
    let logits = tape.output().to_vec();
    Case {
        network,
        images,
        logits,
        count,
    }
}

fn supernet(space: &Space) -> Supernet {
    let mut supernet = Supernet::initialise(space, 3).unwrap();
    for (index, parameter) in supernet.parameters.iter_mut().enumerate() {
        let mut draws = Draws::new(5, "disturb", index as u64, 0);
        if parameter.kind != ParameterKind::ConvolutionWeight {
            parameter
                .data
                .iter_mut()
                .for_each(|value| *value += 0.2 * draws.normal() as f32);
        }
    }
    supernet
}

fn metadata() -> Metadata {
    Metadata {
        version: "1.2.3".into(),
        class_names: vec!["T-shirt/top".into(), "Ankle \"boot\"".into()],
        mean: vec![0.25],
        std: vec![0.5],
        resolution: 28,
        space: "fm-nano".into(),
        space_hash: "ab".into(),
        subnet: "depth=1".into(),
        weights_hash: "cd".into(),
        macs: 12,
        parameters: 34,
        accuracies: BTreeMap::from([("test".into(), 0.875)]),
    }
}

fn write_and_verify(case: &Case, path: &Path) -> Verification {
    std::fs::write(path, onnx_bytes(&case.network, &metadata()).unwrap()).unwrap();
    verify(path, &case.planes(), case.count, &case.logits).unwrap()
}

#[test]
fn files_of_random_subnets_give_the_networks_logits() {
    let folder = tempfile::tempdir().unwrap();
    let space = Space::builtin("fm-nano").unwrap();
    let supernet = supernet(&space);
    let mut draws = Draws::new(1, "subnets", 0, 0);
    for index in 0..8 {
        let subnet = match index {
            0 => space.largest().unwrap(),
            1 => space.smallest().unwrap(),
            _ => space.sample(&mut draws).unwrap(),
        };
        let case = case(&supernet, &subnet, 1 + index % 3, index as u64);
        let found = write_and_verify(&case, &folder.path().join("model.onnx"));
        assert!(found.largest_logit > 0.0, "{}", subnet.text());
    }
}

/// A random network of every family, at its lowest resolution.
#[test]
fn files_of_every_family_give_the_networks_logits() {
    let folder = tempfile::tempdir().unwrap();
    for (index, family) in Space::builtin_names().into_iter().enumerate() {
        let space = Space::builtin(family).unwrap();
        let mut draws = Draws::new(3, "families", index as u64, 0);
        let choose = |slot: &DecisionSlot| match slot.name.as_str() {
            "resolution" => 0,
            _ => draws.below(slot.domain.values.len()),
        };
        let subnet = space.build(&mut { choose }).unwrap();
        let case = case(&supernet(&space), &subnet, 2, 9);
        write_and_verify(&case, &folder.path().join(format!("{family}.onnx")));
    }
}

/// Linear layers on maps: behind an activation, a concatenation of elastic widths, and on the image.
#[test]
fn files_with_linear_layers_on_maps_give_the_networks_logits() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
space maps(classes = 10)
decide resolution in (5, 7)
decide width in (2, 3)
input(resolution, resolution + 1, 2)
choice kind {
  flat: seq { linear(6); batch_norm; relu }
  map: {
    conv(width, kernel = 3); batch_norm; relu
    concat { } { decide growth in (1, 3); conv(growth, stride = 1, bias = true) }
    max_pool(2, stride = 2)
    hidden: seq { decide units in (4, 6); linear(units); relu }
  }
}
linear(classes)
"#;
    let space = Space::parse(text, "maps.space").unwrap();
    let supernet = supernet(&space);
    for index in 0..u64::try_from(space.count().unwrap()).unwrap() {
        let subnet = space.unrank(&index.into()).unwrap();
        let case = case(&supernet, &subnet, 2, index);
        let found = write_and_verify(&case, &folder.path().join("model.onnx"));
        assert!(found.largest_logit > 0.0, "{}", subnet.text());
    }
}

#[test]
fn files_are_functions_of_the_network_and_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let space = Space::builtin("fm-nano").unwrap();
    let case = case(&supernet(&space), &space.smallest().unwrap(), 2, 4);
    let path = folder.path().join("model.onnx");
    write_and_verify(&case, &path);
    assert_eq!(read_metadata(&path).unwrap(), metadata());
    assert_eq!(
        std::fs::read(&path).unwrap(),
        onnx_bytes(&case.network, &metadata()).unwrap()
    );
    // For tools/onnx-check: files and expected logits, where a folder is named.
    if let Some(target) = std::env::var_os("ONCEFIT_ONNX_SAMPLES") {
        let target = Path::new(&target);
        std::fs::create_dir_all(target).unwrap();
        std::fs::copy(&path, target.join("fm-nano-smallest.onnx")).unwrap();
        let shape = case.network.graph.input_shape();
        let expected = serde_json::json!({
            "input": case.planes(),
            "shape": [case.count, shape.channels, shape.height, shape.width],
            "logits": case.logits,
        });
        std::fs::write(target.join("fm-nano-smallest.json"), expected.to_string()).unwrap();
    }
}

#[test]
fn damaged_files_and_wrong_inputs_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let space = Space::builtin("fm-nano").unwrap();
    let case = case(&supernet(&space), &space.smallest().unwrap(), 2, 4);
    let path = folder.path().join("model.onnx");
    write_and_verify(&case, &path);
    let model = OnnxModel::load(&path, 2).unwrap();
    let error = model.run(&case.planes()[1..]).unwrap_err().to_string();
    assert!(error.contains("2 images of 1×20×20"), "{error}");
    let mut wrong = case.logits.clone();
    wrong[3] += 0.01
        * wrong
            .iter()
            .fold(0.0f32, |largest, value| largest.max(value.abs()));
    let error = verify(&path, &case.planes(), 2, &wrong)
        .unwrap_err()
        .to_string();
    assert!(error.contains("other logits"), "{error}");
    let bytes = std::fs::read(&path).unwrap();
    let cut = folder.path().join("cut.onnx");
    for length in [0, 1, 10, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&cut, &bytes[..length]).unwrap();
        let error = OnnxModel::load(&cut, 2).unwrap_err().to_string();
        assert!(
            error.contains("cut.onnx is no usable ONNX file"),
            "{length}: {error}"
        );
    }
    std::fs::write(&cut, b"<html>not found</html>").unwrap();
    assert!(OnnxModel::load(&cut, 1).is_err());
    assert!(read_metadata(&cut).is_err());
    let missing = folder.path().join("no-folder/model.onnx");
    let error = OnnxModel::load(&missing, 1).unwrap_err().to_string();
    assert!(error.starts_with("cannot read"), "{error}");
}

#[test]
fn a_network_without_statistics_is_not_written() {
    let space = Space::builtin("fm-nano").unwrap();
    let mut case = case(&supernet(&space), &space.smallest().unwrap(), 2, 4);
    case.network.calibration = Calibration::None;
    let error = onnx_bytes(&case.network, &metadata())
        .unwrap_err()
        .to_string();
    assert!(error.contains("no calibrated statistics"), "{error}");
}
