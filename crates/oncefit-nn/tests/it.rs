//! Subnets of a supernet: gradients, extraction, calibration, channel sorting, determinism.

use oncefit_kernels::Cpu;
use oncefit_nn::*;
use oncefit_random::Draws;
use oncefit_space::{Space, Subnet};

const COUNT: usize = 6;

fn images(subnet: &Subnet, seed: u64) -> Vec<f32> {
    let shape = subnet.graph().input_shape();
    let mut draws = Draws::new(seed, "images", 0, 0);
    (0..COUNT * shape.len())
        .map(|_| draws.normal() as f32)
        .collect()
}

/// A supernet whose batch-norms, biases and kernel transforms are not what they start as.
fn supernet(space: &Space) -> Supernet {
    let mut supernet = Supernet::initialise(space, 3).unwrap();
    for (index, parameter) in supernet.parameters.iter_mut().enumerate() {
        let mut draws = Draws::new(5, "disturb", index as u64, 0);
        if parameter.kind != ParameterKind::ConvolutionWeight {
            for value in &mut parameter.data {
                *value += 0.2 * draws.normal() as f32;
            }
        }
    }
    supernet
}

fn nano() -> Space {
    Space::builtin("fm-nano").unwrap()
}

/// A small relative of ResNet50D: pools, shortcuts with an average pool, rectifiers after additions,
/// elastic stage widths, an optional block in the stem.
fn tiny_resnet() -> Space {
    let text = r#"
space tiny-resnet(channels = 2, classes = 10)

define bottleneck(out, stride, changes) {
  decide expand in (0.5, 0.75)
  let middle = divisible(round(out * expand), 4)
  if changes {
    sum {
      reduce: seq { conv(middle); batch_norm; relu }
      spatial: seq { conv(middle, kernel = 3, stride = stride); batch_norm; relu }
      restore: seq { conv(out); batch_norm }
    } {
      shortcut: seq {
        if stride > 1 { average_pool(stride, stride = stride, ceil = true) }
        conv(out); batch_norm
      }
    }
  } else {
    residual {
      reduce: seq { conv(middle); batch_norm; relu }
      spatial: seq { conv(middle, kernel = 3, stride = stride); batch_norm; relu }
      restore: seq { conv(out); batch_norm }
    }
  }
  relu
}

define stage(channels, stride) {
  decide width in (0.5, 1.0)
  let out = divisible(channels * width, 4)
  block: repeat depth in (1, 2) as i { bottleneck(out, if i == 0 then stride else 1, i == 0) }
}

decide resolution in (14, 17)
input(resolution, resolution, channels)
stem: seq {
  first: seq { conv(8, kernel = 3, stride = 1); batch_norm; relu }
  optional second { residual { conv(in, kernel = 3); batch_norm; relu } }
  max_pool(3, stride = 2, padding = 1)
}
stage1: stage(16, 1)
stage2: stage(24, 2)
global_average_pool
dropout(0.1)
linear(classes)
"#;
    Space::parse(text, "tiny-resnet.space").unwrap()
}

/// A small relative of DenseNet: elastic growth, kernels and depth, batch-norms on concatenated tensors that
/// are read again, branches side by side, a linear layer behind channels with room between.
fn tiny_densenet() -> Space {
    let text = r#"
space tiny-densenet(channels = 2, classes = 10)

define layer() {
  decide growth in (2, 3, 5)
  dense {
    reduce: seq { batch_norm; relu; conv(8) }
    grow: seq { decide kernel in (1, 3, 5)
      batch_norm; relu; conv(growth, kernel = kernel, bias = true) }
  }
}

decide resolution in (8, 9)
input(resolution, resolution, channels)
conv(6, kernel = 3)
block1: repeat depth in (1, 3) { layer() }
transition: seq {
  decide width in (5, 8)
  batch_norm; relu; conv(width); average_pool(2, stride = 2)
}
mixed: concat {
} {
  decide left in (2, 4)
  conv(left, kernel = 3); batch_norm; relu
} {
  decide right in (3, 6)
  max_pool(3, padding = 1); conv(right); batch_norm
}
block2: repeat depth in (1, 2) { layer() }
batch_norm; relu
global_average_pool
linear(classes)
"#;
    Space::parse(text, "tiny-densenet.space").unwrap()
}

/// A small relative of Genetic CNN: nodes that add what the edges into them bring, with elastic
/// widths and kernels; tensors of several readers, and none.
fn tiny_genetic() -> Space {
    let text = r#"
space tiny-genetic(channels = 2, classes = 10)

define node(width) { decide kernel in (1, 3); conv(width, kernel = kernel); batch_norm; relu }

decide resolution in (8, 9)
decide width in (4, 6)
decide edge12 in (false, true)
decide leaves2 in (false, true)
input(resolution, resolution, channels)
entry: node(width)
node1: node(width)
read entry
if edge12 { read node1 }
node2: choice kind { plain: node(width)
  pooled: { max_pool(3, padding = 1); conv(width); batch_norm } }
read entry
node3: sum { choice edge13 { off: nothing
    on: read node1 } } { choice edge23 { off: nothing
    on: read node2 } } { choice edge03 { off: nothing
    on: node(width) } }
node(width)
last: seq { }
read entry
sum { read last } { if leaves2 { read node2 } else { nothing } }
global_average_pool
linear(classes)
"#;
    Space::parse(text, "tiny-genetic.space").unwrap()
}

/// Linear layers on maps, as AlexNet and VGG have: behind channels with room between, an activation, an
/// elastic width and an elastic resolution.
fn tiny_alexnet() -> Space {
    let text = include_str!("spaces/tiny-alexnet.space");
    Space::parse(text, "tiny-alexnet.space").unwrap()
}

/// Sums of tensors whose channels lie in different places, and of a tensor with itself; parts of a
/// concatenation that are left out; a gate that is not made from the pool of what it multiplies.
fn tiny_mixed() -> Space {
    let text = include_str!("spaces/tiny-mixed.space");
    Space::parse(text, "tiny-mixed.space").unwrap()
}

fn all_kinds() -> [Space; 6] {
    [
        nano(),
        tiny_resnet(),
        tiny_densenet(),
        tiny_genetic(),
        tiny_alexnet(),
        tiny_mixed(),
    ]
}

fn some_subnets(space: &Space) -> Vec<Subnet> {
    let mut draws = Draws::new(11, "subnets", 0, 0);
    let mut subnets = vec![space.largest().unwrap(), space.smallest().unwrap()];
    subnets.extend((0..4).map(|_| space.sample(&mut draws).unwrap()));
    subnets
}

/// Loss and gradients of a training pass.
fn pass(supernet: &Supernet, subnet: &Subnet, data: &[f32]) -> (f64, Gradients) {
    pass_in(supernet, subnet, data, WITH_DROPOUT)
}

fn pass_in(supernet: &Supernet, subnet: &Subnet, data: &[f32], mode: Mode) -> (f64, Gradients) {
    let mut executor = Executor::default();
    let mut gradients = Gradients::zeros(&supernet.parameters);
    let loss = add_pass(
        &mut executor,
        supernet,
        subnet,
        data,
        mode,
        1.0,
        &mut gradients,
    );
    (loss, gradients)
}

const WITH_DROPOUT: Mode = Mode::Train {
    dropout: Some(DropoutDraws {
        seed: 1,
        step: 2,
        network: 0,
    }),
};

fn add_pass(
    executor: &mut Executor,
    supernet: &Supernet,
    subnet: &Subnet,
    data: &[f32],
    mode: Mode,
    weight: f32,
    gradients: &mut Gradients,
) -> f64 {
    let plan = supernet.plan(subnet).unwrap();
    let batch = Images { data, count: COUNT };
    let tape = executor
        .forward(&plan, &supernet.parameters, batch, mode)
        .unwrap();
    let labels: Vec<u32> = (0..COUNT as u32).collect();
    let mut gradient = vec![0.0; tape.output().len()];
    let target = Target::Labels {
        labels: &labels,
        smoothing: 0.1,
    };
    let loss = softmax_cross_entropy(tape.output(), 10, target, &mut gradient, weight);
    executor
        .backward(&plan, &supernet.parameters, tape, &gradient, gradients)
        .unwrap();
    loss
}

/// Each parameter's gradient against the loss's change along a random direction.
#[test]
fn gradients_are_finite_differences_for_every_parameter() {
    all_kinds()
        .iter()
        .for_each(check_gradients_are_finite_differences_for_every_parameter);
}

fn check_gradients_are_finite_differences_for_every_parameter(space: &Space) {
    let supernet = supernet(space);
    for (index, subnet) in some_subnets(space).iter().take(4).enumerate() {
        let data = images(subnet, index as u64);
        let plan = supernet.plan(subnet).unwrap();
        let batch = Images {
            data: &data,
            count: COUNT,
        };
        // The same statistics, as constants.
        let calibration = Executor::default()
            .calibrate(&plan, &supernet.parameters, [batch])
            .unwrap();
        for mode in [WITH_DROPOUT, Mode::TrainCalibrated(&calibration)] {
            check_gradients(&supernet, subnet, &data, mode);
        }
    }
}

fn check_gradients(supernet: &Supernet, subnet: &Subnet, data: &[f32], mode: Mode) {
    let (_, gradients) = pass_in(supernet, subnet, data, mode);
    let total = gradients.norm();
    for position in 0..supernet.parameters.len() {
        let parameter = supernet.parameters.at(position);
        let gradient = gradients.at(position);
        let norm = gradient
            .iter()
            .map(|g| f64::from(*g).powi(2))
            .sum::<f64>()
            .sqrt();
        if !gradients.is_present(position) {
            assert_eq!(norm, 0.0, "{}", parameter.name);
            continue;
        }
        // Along the gradient itself the loss changes most, so that rounding matters least.
        let direction: Vec<f32> = gradient
            .iter()
            .map(|g| (f64::from(*g) / norm.max(1e-12)) as f32)
            .collect();
        let moved = |by: f32| {
            let mut moved = supernet.clone();
            for (value, d) in moved
                .parameters
                .at_mut(position)
                .data
                .iter_mut()
                .zip(&direction)
            {
                *value += by * d;
            }
            pass_in(&moved, subnet, data, mode).0
        };
        // A kink of an activation between the two points spoils a large step, rounding a small one; a
        // wrong gradient is wrong for all.
        let found =
            [1e-4, 4e-4, 2e-5].map(|step| (moved(step) - moved(-step)) / (2.0 * f64::from(step)));
        let is_close = |found: &f64| (found - norm).abs() < 0.03 * norm + 2e-4 * total;
        assert!(
            found.iter().any(is_close),
            "{} of {}: {found:?} instead of {norm}",
            parameter.name,
            subnet.text()
        );
    }
}

/// Wide tensors made again in the backward pass give the same bits, and hold no more.
#[test]
fn gradients_with_recomputation_are_the_same_bits() {
    let gated = Space::builtin("cifar-nano").unwrap();
    for space in all_kinds().into_iter().chain([gated]) {
        let supernet = supernet(&space);
        for (index, subnet) in some_subnets(&space).iter().enumerate() {
            let data = images(subnet, index as u64);
            let [kept, again] = [false, true].map(|recomputes| {
                let mut executor = Executor::default();
                executor.recompute(recomputes);
                let mut gradients = Gradients::zeros(&supernet.parameters);
                let loss = add_pass(
                    &mut executor,
                    &supernet,
                    subnet,
                    &data,
                    WITH_DROPOUT,
                    1.0,
                    &mut gradients,
                );
                ((loss, gradients), executor.held_bytes())
            });
            assert_eq!(again.0, kept.0, "{}", subnet.text());
            // The tensors of networks this small are mostly alive in the widest block's backward
            // pass, which needs as many either way.
            assert!(again.1 <= kept.1, "{}: {again:?}", subnet.text());
        }
    }
}

#[test]
fn gradients_of_several_networks_are_the_sum_of_their_gradients() {
    let space = &nano();
    let supernet = supernet(space);
    let subnets: Vec<Subnet> = some_subnets(space)
        .into_iter()
        .map(|subnet| space.parse_subnet(&resized(&subnet)).unwrap())
        .collect();
    let data = images(&subnets[0], 1);
    let mut executor = Executor::default();
    let mut together = Gradients::zeros(&supernet.parameters);
    let mut apart = Gradients::zeros(&supernet.parameters);
    for (subnet, weight) in subnets.iter().zip([1.0, 0.5, 0.25]) {
        add_pass(
            &mut executor,
            &supernet,
            subnet,
            &data,
            WITH_DROPOUT,
            weight,
            &mut together,
        );
        let mut one = Gradients::zeros(&supernet.parameters);
        add_pass(
            &mut executor,
            &supernet,
            subnet,
            &data,
            WITH_DROPOUT,
            1.0,
            &mut one,
        );
        apart.axpy(weight, &one);
    }
    let scale = together.norm();
    apart.axpy(-1.0, &together);
    assert!(apart.norm() < 1e-5 * scale, "{} of {scale}", apart.norm());
}

/// The subnet's text at resolution 28.
fn resized(subnet: &Subnet) -> String {
    let text = subnet.text();
    let rest = text.split_once(':').unwrap().1.to_owned();
    format!("resolution=28:{rest}")
}

#[test]
fn extracted_networks_give_the_same_bits() {
    all_kinds()
        .iter()
        .for_each(check_extracted_networks_give_the_same_bits);
}

fn check_extracted_networks_give_the_same_bits(space: &Space) {
    let supernet = supernet(space);
    let mut executor = Executor::default();
    for (index, subnet) in some_subnets(space).iter().enumerate() {
        let data = images(subnet, 20 + index as u64);
        let batch = Images {
            data: &data,
            count: COUNT,
        };
        let plan = supernet.plan(subnet).unwrap();
        let calibration = executor
            .calibrate(&plan, &supernet.parameters, [batch])
            .unwrap();
        let network = supernet.extract(subnet, &calibration).unwrap();
        for (parameter, spec) in network
            .parameters
            .iter()
            .zip(subnet.graph().parameter_specs())
        {
            assert_eq!(
                (&parameter.name, &parameter.shape),
                (&spec.name, &spec.shape)
            );
        }
        let mode = Mode::Evaluate(&calibration);
        let sliced = executor
            .forward(&plan, &supernet.parameters, batch, mode)
            .unwrap();
        let alone = network.plan().unwrap();
        let mode = Mode::Evaluate(&network.calibration);
        let extracted = executor
            .forward(&alone, &network.parameters, batch, mode)
            .unwrap();
        assert!(sliced.output().iter().any(|logit| *logit != 0.0));
        assert_eq!(sliced.output(), extracted.output(), "{}", subnet.text());
        check_session(&network, batch, extracted.output());
        check_quantised_session(&network, batch, extracted.output());
    }
}

/// A prepared network gives the logits that it gives unprepared, and each image those that it has
/// alone, bit for bit.
fn check_session(network: &Network, batch: Images, expected: &[f32]) {
    let largest = expected
        .iter()
        .fold(0.0f32, |most, logit| most.max(logit.abs()));
    for cpu in Cpu::available() {
        let session = Session::on(cpu, network).unwrap();
        let together = session.run(batch).unwrap();
        for (logit, expected) in together.iter().zip(expected) {
            assert!(
                (logit - expected).abs() < 1e-4 * largest,
                "{logit} {expected}"
            );
        }
        let image = batch.data.len() / batch.count;
        let alone: Vec<f32> = batch
            .data
            .chunks(image)
            .flat_map(|data| session.run(Images { data, count: 1 }).unwrap())
            .collect();
        assert_eq!(together, alone);
        check_blocks(cpu, network, batch, &together);
        let error = session.run(Images {
            data: &batch.data[1..],
            count: batch.count,
        });
        assert!(error.unwrap_err().to_string().contains("image batch"));
    }
    let uncalibrated = Network {
        calibration: Calibration::None,
        ..network.clone()
    };
    assert!(
        Session::new(&uncalibrated)
            .unwrap_err()
            .to_string()
            .contains("not calibrated")
    );
}

/// With blocks as one operation a network gives the bits that its layers give; returns how many there are.
fn check_blocks(cpu: Cpu, network: &Network, batch: Images, expected: &[f32]) -> usize {
    let layers = Session::with_blocks(cpu, network, Blocks::Never).unwrap();
    assert_eq!(layers.blocks(), 0);
    assert_eq!(layers.run(batch).unwrap(), expected);
    let blocks = Session::with_blocks(cpu, network, Blocks::Always).unwrap();
    assert_eq!(blocks.run(batch).unwrap(), expected);
    blocks.blocks()
}

/// Random subnets of every family give the same bits in blocks, and those with inverted residuals or
/// bottlenecks have blocks.
#[test]
fn blocks_of_every_family_are_their_layers() {
    for name in Space::builtin_names() {
        let space = Space::builtin(name).unwrap();
        let supernet = supernet(&space);
        let mut draws = Draws::new(17, "subnets", 0, 0);
        let subnets = [space.smallest().unwrap(), space.sample(&mut draws).unwrap()];
        for subnet in &subnets {
            let data = images(subnet, 40);
            let image = subnet.graph().input_shape().len();
            let batch = Images {
                data: &data[..2 * image],
                count: 2,
            };
            let plan = supernet.plan(subnet).unwrap();
            let calibration = Executor::default()
                .calibrate(&plan, &supernet.parameters, [batch])
                .unwrap();
            let network = supernet.extract(subnet, &calibration).unwrap();
            let expected = Session::new(&network).unwrap().run(batch).unwrap();
            assert!(expected.iter().all(|logit| logit.is_finite()), "{name}");
            let blocks = check_blocks(Cpu::detect(), &network, batch, &expected);
            // A cell of nasnet-nano may happen to hold one; the others here are made without.
            match name {
                "vgg-nano" | "densenet-nano" | "genetic-nano" => assert_eq!(blocks, 0, "{name}"),
                "nasnet-nano" => {}
                _ => assert!(blocks > 0, "{name}"),
            }
        }
    }
}

/// In eight bits a network gives nearly its logits, on every processor the same up to single steps,
/// and each image those that it has alone, bit for bit.
fn check_quantised_session(network: &Network, batch: Images, expected: &[f32]) {
    let ranges = ActivationRanges::measure(network, batch).unwrap();
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values
            .map(|value| f64::from(value).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let size = norm(&mut expected.iter().copied());
    for cpu in Cpu::available() {
        let session = QuantisedSession::on(cpu, network, &ranges).unwrap();
        let together = session.run(batch).unwrap();
        let differences = together.iter().zip(expected);
        let error = norm(&mut differences.map(|(found, wanted)| found - wanted)) / size;
        assert!(
            error > 0.0 && error < 0.3,
            "{cpu:?}: a relative error of {error}"
        );
        let image = batch.data.len() / batch.count;
        let alone: Vec<f32> = batch
            .data
            .chunks(image)
            .flat_map(|data| session.run(Images { data, count: 1 }).unwrap())
            .collect();
        assert_eq!(together, alone);
    }
    let mut broken = network.clone();
    let weight = broken.parameters.iter_mut().next().expect("a parameter");
    weight.data[0] = f32::NAN;
    let error = ActivationRanges::measure(&broken, batch).unwrap_err();
    assert!(error.to_string().contains("NaN"), "{error}");
}

#[test]
fn a_network_without_its_calibration_is_not_evaluated() {
    let space = nano();
    let supernet = supernet(&space);
    let (large, small) = (space.largest().unwrap(), space.smallest().unwrap());
    let data = images(&large, 1);
    let batch = Images {
        data: &data,
        count: COUNT,
    };
    let mut executor = Executor::default();
    let plan = supernet.plan(&large).unwrap();
    let own = executor
        .calibrate(&plan, &supernet.parameters, [batch])
        .unwrap();
    let message = |calibration: &Calibration| {
        let mode = Mode::Evaluate(calibration);
        Executor::default()
            .forward(&plan, &supernet.parameters, batch, mode)
            .err()
            .map(|error| error.to_string())
    };
    assert_eq!(message(&own), None);
    assert!(
        message(&Calibration::None)
            .unwrap()
            .contains("not calibrated")
    );
    let small_plan = supernet.plan(&small).unwrap();
    let data = images(&small, 1);
    let other = executor
        .calibrate(
            &small_plan,
            &supernet.parameters,
            [Images {
                data: &data,
                count: COUNT,
            }],
        )
        .unwrap();
    assert!(message(&other).unwrap().contains("belong to network"));
    assert!(supernet.extract(&large, &other).is_err());
    let none: [Images; 0] = [];
    assert!(
        executor
            .calibrate(&plan, &supernet.parameters, none)
            .is_err()
    );
}

/// Calibration is the average, weighted by batch size, of the batches' statistics.
#[test]
fn calibration_averages_batches() {
    let space = nano();
    let supernet = supernet(&space);
    let subnet = space.smallest().unwrap();
    let plan = supernet.plan(&subnet).unwrap();
    let data = images(&subnet, 4);
    let image = subnet.graph().input_shape().len();
    let batches = [
        Images {
            data: &data[..2 * image],
            count: 2,
        },
        Images {
            data: &data[2 * image..],
            count: COUNT - 2,
        },
    ];
    let mut executor = Executor::default();
    let of = |executor: &mut Executor, batches: &[Images]| {
        let batches = batches.iter().copied();
        let found = executor
            .calibrate(&plan, &supernet.parameters, batches)
            .unwrap();
        found.of("stem.batch_norm").unwrap().clone()
    };
    let (one, two) = (
        of(&mut executor, &batches[..1]),
        of(&mut executor, &batches[1..]),
    );
    let both = of(&mut executor, &batches);
    for channel in 0..both.mean.len() {
        let expected = (2.0 * one.mean[channel] + 4.0 * two.mean[channel]) / 6.0;
        assert!((both.mean[channel] - expected).abs() < 1e-6);
        let expected = (2.0 * one.variance[channel] + 4.0 * two.variance[channel]) / 6.0;
        assert!((both.variance[channel] - expected).abs() < 1e-6);
    }
    // Pooled, the first batch-norm sees what it sees in one batch of all images.
    let whole = [Images {
        data: &data,
        count: COUNT,
    }];
    let whole = of(&mut executor, &whole);
    let pooled = executor
        .calibrate_with(&plan, &supernet.parameters, batches, Variances::Pooled)
        .unwrap();
    let pooled = pooled.of("stem.batch_norm").unwrap();
    for channel in 0..whole.mean.len() {
        assert!((pooled.mean[channel] - whole.mean[channel]).abs() < 1e-5);
        assert!((pooled.variance[channel] - whole.variance[channel]).abs() < 1e-5);
    }
    assert_ne!(pooled.variance, both.variance);
}

#[test]
fn sorting_channels_keeps_the_full_width_function_and_improves_order() {
    let space = nano();
    let mut supernet = supernet(&space);
    let envelope = space.envelope().unwrap();
    let subnet = space.largest().unwrap();
    let data = images(&subnet, 8);
    let (loss, mut gradients) = pass(&supernet, &subnet, &data);
    let before = supernet.parameters.clone();
    let order = sort_channels(&mut supernet.parameters, &envelope, Tiers::Global);
    assert_ne!(supernet.parameters, before);
    let (sorted_loss, sorted_gradients) = pass(&supernet, &subnet, &data);
    assert!((loss - sorted_loss).abs() < 1e-5, "{loss} {sorted_loss}");

    // The momentum is permuted along: gradients of the sorted network are the permuted gradients.
    let mut as_parameters = before.clone();
    for (position, parameter) in as_parameters.iter_mut().enumerate() {
        parameter.data.copy_from_slice(gradients.at(position));
    }
    order.apply(&mut as_parameters);
    for position in 0..as_parameters.len() {
        gradients
            .at_mut(position)
            .copy_from_slice(&as_parameters.at(position).data);
    }
    let scale = gradients.norm();
    gradients.axpy(-1.0, &sorted_gradients);
    assert!(
        gradients.norm() < 1e-4 * scale,
        "{} of {scale}",
        gradients.norm()
    );

    // Columns of the projection fall in importance; squeezed channels do so too.
    for name in [
        "unit2[0].project.conv.weight",
        "unit3[2].squeeze.restore.weight",
    ] {
        let weight = supernet.parameters.get(name).unwrap();
        let inputs = weight.shape[3];
        let mut importance = vec![0.0; inputs];
        for row in weight.data.chunks(inputs) {
            row.iter()
                .zip(&mut importance)
                .for_each(|(w, sum)| *sum += w.abs());
        }
        assert!(
            importance.is_sorted_by(|left, right| left >= right),
            "{name}: {importance:?}"
        );
    }
    // Sorting again changes nothing.
    let once = supernet.parameters.clone();
    sort_channels(&mut supernet.parameters, &envelope, Tiers::Global);
    assert_eq!(supernet.parameters, once);
}

/// Channels that reach a concatenation are sorted within their part of it, wherever it is read.
#[test]
fn sorting_channels_before_a_concat_keeps_the_function() {
    let space = tiny_densenet();
    let mut supernet = supernet(&space);
    let envelope = space.envelope().unwrap();
    let subnet = space.largest().unwrap();
    let data = images(&subnet, 8);
    let before = supernet.parameters.clone();
    let (loss, _) = pass(&supernet, &subnet, &data);
    sort_channels(&mut supernet.parameters, &envelope, Tiers::Global);
    let (after, _) = pass(&supernet, &subnet, &data);
    assert!((loss - after).abs() < 1e-5, "{loss} {after}");
    for name in [
        "block1[0].grow.conv.weight",
        "mixed.conv.weight",
        "mixed.conv_2.weight",
    ] {
        let changed = supernet.parameters.get(name).unwrap();
        assert_ne!(changed, before.get(name).unwrap(), "{name}");
    }
    // What each layer adds is sorted by all that read it.
    let mut importance = vec![0.0f32; 5];
    let readers = [
        "block1[1].reduce.conv",
        "block1[2].reduce.conv",
        "transition.conv",
    ];
    for reader in readers {
        let weight = supernet
            .parameters
            .get(&format!("{reader}.weight"))
            .unwrap();
        for row in weight.data.chunks(weight.shape[3]) {
            for (sum, weight) in importance.iter_mut().zip(&row[6..]) {
                *sum += weight.abs();
            }
        }
    }
    assert!(
        importance.is_sorted_by(|left, right| left >= right),
        "{importance:?}"
    );
    // Networks between two trained widths stay what they are.
    let space = tiny_densenet();
    let mut supernet = self::supernet(&space);
    let trained = space
        .restrict("growth", &[3.into_value(), 5.into_value()])
        .unwrap();
    let choose = |slot: &oncefit_space::DecisionSlot| match slot.name.as_str() {
        "growth" => slot.domain.position(&3.into_value()).unwrap(),
        _ => slot.domain.values.len() - 1,
    };
    let subnet = space.build(&mut { choose }).unwrap();
    let (loss, _) = pass(&supernet, &subnet, &data);
    let tiers = trained.envelope().unwrap();
    let order = sort_channels(&mut supernet.parameters, &envelope, Tiers::Between(&tiers));
    assert_ne!(order, ChannelOrder::default());
    let (after, _) = pass(&supernet, &subnet, &data);
    assert!((loss - after).abs() < 1e-5, "{loss} {after}");
}

/// A linear layer reads a channel once for each pixel.
#[test]
fn sorting_channels_before_a_linear_layer_on_a_map_keeps_the_function() {
    let space = tiny_alexnet();
    let mut supernet = supernet(&space);
    let envelope = space.envelope().unwrap();
    let subnet = space.largest().unwrap();
    let data = images(&subnet, 8);
    let before = supernet.parameters.clone();
    // Dropout does not know where a unit has gone.
    let mode = Mode::Train { dropout: None };
    let (loss, _) = pass_in(&supernet, &subnet, &data, mode);
    sort_channels(&mut supernet.parameters, &envelope, Tiers::Global);
    let (after, _) = pass_in(&supernet, &subnet, &data, mode);
    assert!((loss - after).abs() < 1e-5, "{loss} {after}");
    let weight = supernet.parameters.get("hidden.linear.weight").unwrap();
    assert_eq!(weight.shape, [12, 5, 5, 9]);
    assert_ne!(
        weight,
        before.get("hidden.linear.weight").unwrap(),
        "channels of the map"
    );
    // Channels that only this layer reads are sorted by all of its columns.
    let mut importance = vec![0.0f32; 4];
    for pixel in weight.data.chunks(9) {
        for (sum, weight) in importance.iter_mut().zip(&pixel[5..]) {
            *sum += weight.abs();
        }
    }
    assert!(
        importance.is_sorted_by(|left, right| left >= right),
        "{importance:?}"
    );
}

/// A linear layer on a map is a matrix times the image's values, row by row of pixels.
#[test]
fn a_linear_layer_on_the_image_is_a_matrix() {
    let text = "space mlp\ninput(2, 3, 2)\nhidden: linear(4)\nrelu\nlinear(10)\n";
    let space = Space::parse(text, "mlp.space").unwrap();
    let (supernet, subnet) = (supernet(&space), space.largest().unwrap());
    let data = images(&subnet, 1);
    let batch = Images {
        data: &data,
        count: COUNT,
    };
    let plan = supernet.plan(&subnet).unwrap();
    let mode = Mode::Evaluate(&Calibration::None);
    let tape = Executor::default()
        .forward(&plan, &supernet.parameters, batch, mode)
        .unwrap();
    let layer = |name: &str, input: &[f32]| -> Vec<f32> {
        let weight = supernet.parameters.get(&format!("{name}.weight")).unwrap();
        let bias = supernet.parameters.get(&format!("{name}.bias")).unwrap();
        let rows = weight.data.chunks(input.len()).zip(&bias.data);
        rows.map(|(row, bias)| row.iter().zip(input).map(|(w, x)| w * x).sum::<f32>() + bias)
            .collect()
    };
    for (image, found) in data.chunks(12).zip(tape.output().chunks(10)) {
        let hidden: Vec<f32> = layer("hidden", image).iter().map(|x| x.max(0.0)).collect();
        for (found, expected) in found.iter().zip(layer("linear", &hidden)) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }
}

/// Sorting in the middle of a run, the optimiser's buffers with it, and then a step is a step and then
/// sorting.
#[test]
fn a_step_after_sorting_is_the_step_sorted() {
    let space = nano();
    let subnet = space.largest().unwrap();
    let data = images(&subnet, 8);
    let envelope = space.envelope().unwrap();
    for rule in [
        UpdateRule::Sgd {
            momentum: 0.9,
            nesterov: true,
        },
        UpdateRule::RmsProp {
            smoothing: 0.9,
            epsilon: 1e-2,
            momentum: 0.9,
        },
    ] {
        let mut first = supernet(&space);
        let mut optimiser = Optimiser::new(&first.parameters, rule, 1e-2, TransformDecay::Zero);
        let step = |supernet: &mut Supernet, optimiser: &mut Optimiser| {
            let (_, mut gradients) = pass(supernet, &subnet, &data);
            let parameters = &mut supernet.parameters;
            optimiser.step(Cpu::detect(), parameters, &mut gradients, 0.01);
        };
        step(&mut first, &mut optimiser);
        let (mut second, mut sorted_optimiser) = (first.clone(), optimiser.clone());
        // One steps and is sorted by the other's order; the other is sorted and steps.
        step(&mut first, &mut optimiser);
        let order = sort_channels(&mut second.parameters, &envelope, Tiers::Global);
        for buffers in &mut sorted_optimiser.buffers {
            order.apply(buffers);
        }
        step(&mut second, &mut sorted_optimiser);
        order.apply(&mut first.parameters);
        for (one, other) in first.parameters.iter().zip(second.parameters.iter()) {
            for (left, right) in one.data.iter().zip(&other.data) {
                assert!((left - right).abs() < 1e-4, "{rule:?} {}", one.name);
            }
        }
        order.apply(&mut optimiser.buffers[0]);
        let momentum = optimiser.buffers[0]
            .iter()
            .zip(sorted_optimiser.buffers[0].iter());
        for (one, other) in momentum {
            for (left, right) in one.data.iter().zip(&other.data) {
                let scale = left.abs().max(1.0);
                assert!((left - right).abs() < 1e-2 * scale, "{rule:?} {}", one.name);
            }
        }
    }
}

#[test]
fn sorting_between_trained_widths_keeps_their_networks() {
    let space = nano();
    let mut supernet = supernet(&space);
    let trained = space
        .restrict("expand", &[4.into_value(), 6.into_value()])
        .unwrap();
    let subnet = space
        .parse_subnet("resolution=28:depth=3:kernel=5:expand=4")
        .unwrap();
    let data = images(&subnet, 8);
    let before = supernet.parameters.clone();
    let (loss, _) = pass(&supernet, &subnet, &data);
    let envelope = space.envelope().unwrap();
    sort_channels(
        &mut supernet.parameters,
        &envelope,
        Tiers::Between(&trained.envelope().unwrap()),
    );
    assert_ne!(supernet.parameters, before);
    let (after, _) = pass(&supernet, &subnet, &data);
    assert!((loss - after).abs() < 1e-5, "{loss} {after}");
}

trait IntoValue {
    fn into_value(self) -> oncefit_space::Value;
}

impl IntoValue for i64 {
    fn into_value(self) -> oncefit_space::Value {
        oncefit_space::Value::Int(self)
    }
}

#[test]
fn fresh_kernel_transforms_are_exact_centre_crops() {
    let space = nano();
    let supernet = Supernet::initialise(&space, 1).unwrap();
    let mut cropped = supernet.clone();
    let subnet = space
        .parse_subnet("resolution=20:depth=2:kernel=3:expand=4")
        .unwrap();
    let data = images(&subnet, 3);
    let (loss, _) = pass(&supernet, &subnet, &data);
    // The outer ring of a stored kernel is of no consequence to a smaller one.
    for parameter in cropped.parameters.iter_mut() {
        if parameter.kind == ParameterKind::DepthwiseWeight && parameter.shape[0] == 7 {
            let channels = parameter.shape[2];
            for (tap, values) in parameter.data.chunks_mut(channels).enumerate() {
                let (row, column) = (tap / 7, tap % 7);
                if !(2..5).contains(&row) || !(2..5).contains(&column) {
                    values.fill(100.0);
                }
            }
        }
    }
    assert_eq!(loss, pass(&cropped, &subnet, &data).0);
}

#[test]
fn optimiser_leaves_absent_parameters_alone() {
    let space = nano();
    let mut supernet = supernet(&space);
    let subnet = space.smallest().unwrap();
    let (_, mut gradients) = pass(&supernet, &subnet, &images(&subnet, 1));
    let rule = UpdateRule::Sgd {
        momentum: 0.9,
        nesterov: true,
    };
    let mut optimiser = Optimiser::new(&supernet.parameters, rule, 1e-2, TransformDecay::Zero);
    let before = supernet.parameters.clone();
    optimiser.step(Cpu::detect(), &mut supernet.parameters, &mut gradients, 0.1);
    let changed = |name: &str| supernet.parameters.get(name).unwrap() != before.get(name).unwrap();
    assert!(changed("unit1[0].expand.conv.weight") && changed("linear.bias"));
    assert!(
        !changed("unit1[2].expand.conv.weight"),
        "a block that did not run"
    );
    assert!(changed("unit1[0].depthwise.depthwise.transform_7_5"));
}

/// What a subnet reads is where its gradient can be other than zero, and nowhere else.
#[test]
fn coverage_is_where_gradients_are() {
    all_kinds()
        .iter()
        .for_each(check_coverage_is_where_gradients_are);
}

fn check_coverage_is_where_gradients_are(space: &Space) {
    let supernet = supernet(space);
    for subnet in some_subnets(space) {
        let (_, gradients) = pass(&supernet, &subnet, &images(&subnet, 3));
        let mut coverage = Gradients::zeros(&supernet.parameters);
        let plan = supernet.plan(&subnet).unwrap();
        plan.add_coverage(0.5, &mut coverage);
        for (position, parameter) in supernet.parameters.iter().enumerate() {
            assert_eq!(
                gradients.is_present(position),
                coverage.is_present(position),
                "{}",
                parameter.name
            );
            let (mut covered, mut moved) = (0, 0);
            for (gradient, weight) in gradients.at(position).iter().zip(coverage.at(position)) {
                assert!(*weight == 0.5 || *gradient == 0.0, "{}", parameter.name);
                covered += usize::from(*weight > 0.0);
                moved += usize::from(*gradient != 0.0);
            }
            // A dead rectifier makes some gradients zero.
            assert!(
                3 * moved >= covered && (moved > 0 || covered == 0),
                "{} {moved} {covered}",
                parameter.name
            );
        }
    }
}

#[test]
fn training_passes_give_the_same_bits_with_any_number_of_threads() {
    all_kinds()
        .iter()
        .for_each(check_training_passes_give_the_same_bits_with_any_number_of_threads);
}

fn check_training_passes_give_the_same_bits_with_any_number_of_threads(space: &Space) {
    let supernet = supernet(space);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            some_subnets(space)
                .iter()
                .map(|subnet| pass(&supernet, subnet, &images(subnet, 2)))
                .collect::<Vec<_>>()
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(4));
}

#[test]
fn bad_batches_and_weights_are_errors() {
    let space = nano();
    let mut supernet = supernet(&space);
    let subnet = space.largest().unwrap();
    let plan = supernet.plan(&subnet).unwrap();
    let batch = Images {
        data: &[0.0; 10],
        count: 1,
    };
    let mode = Mode::Train { dropout: None };
    let error = Executor::default()
        .forward(&plan, &supernet.parameters, batch, mode)
        .unwrap_err();
    assert!(error.to_string().contains("1 images of 28×28×1"), "{error}");
    let mut parameters = Parameters::default();
    supernet
        .parameters
        .iter()
        .skip(1)
        .for_each(|parameter| parameters.insert(parameter.clone()));
    let error = Supernet::with_parameters(&space, parameters).unwrap_err();
    assert!(
        error.to_string().contains("`stem.conv.weight` is missing"),
        "{error}"
    );
    supernet.parameters.at_mut(0).shape = vec![8, 3, 3, 2];
    let error = Supernet::with_parameters(&space, supernet.parameters).unwrap_err();
    assert!(error.to_string().contains("needs [8, 3, 3, 1]"), "{error}");
}

/// Bottlenecks have two permutations of their own, stages one that their shortcuts share: the
/// full-width function does not change.
#[test]
fn sorting_a_resnet_keeps_its_full_width_function() {
    let space = tiny_resnet();
    let mut supernet = supernet(&space);
    let envelope = space.envelope().unwrap();
    let subnet = space.largest().unwrap();
    let data = images(&subnet, 8);
    let before = supernet.parameters.clone();
    // Without dropout, whose mask is not permuted.
    let logits = |supernet: &Supernet| {
        let plan = supernet.plan(&subnet).unwrap();
        let batch = Images {
            data: &data,
            count: COUNT,
        };
        let mode = Mode::BatchStatistics;
        let mut executor = Executor::default();
        let tape = executor
            .forward(&plan, &supernet.parameters, batch, mode)
            .unwrap();
        tape.output().to_vec()
    };
    let old = logits(&supernet);
    sort_channels(&mut supernet.parameters, &envelope, Tiers::Global);
    for (new, old) in logits(&supernet).iter().zip(&old) {
        assert!((new - old).abs() < 1e-4, "{new} {old}");
    }
    let moved = |name: &str| supernet.parameters.get(name).unwrap() != before.get(name).unwrap();
    let names: Vec<&str> = before
        .iter()
        .map(|parameter| parameter.name.as_str())
        .collect();
    let of = |part: &str| names.iter().filter(move |name| name.contains(part)).count();
    assert!(of("spatial") > 0 && of("shortcut") > 0, "{names:?}");
    for part in [
        "reduce.conv",
        "spatial.conv",
        "restore.conv",
        "shortcut.conv",
    ] {
        let mut weights = names.iter().filter(|name| name.contains(part));
        assert!(weights.any(|name| moved(name)), "{part}");
    }
}

/// A file in torchvision's layout with the weights of a supernet, and statistics.
fn torchvision_file(family: &str, supernet: &Supernet) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let map = NameMap::built_in(family).unwrap();
    let mut file = Vec::new();
    for parameter in supernet.parameters.iter() {
        let (path, role) = parameter.name.rsplit_once('.').unwrap();
        let Some(theirs) = map.theirs(path) else {
            continue;
        };
        if parameter.kind == ParameterKind::KernelTransform {
            continue;
        }
        let (shape, data) = (&parameter.shape, &parameter.data);
        let at = |index: usize| data[index];
        let (shape, data) = match parameter.kind {
            ParameterKind::ConvolutionWeight => {
                let [out, k, inputs] = [shape[0], shape[1], shape[3]];
                let values = (0..out * inputs * k * k).map(|index| {
                    let (o, rest) = (index / (inputs * k * k), index % (inputs * k * k));
                    at((o * k * k + rest % (k * k)) * inputs + rest / (k * k))
                });
                (vec![out, inputs, k, k], values.collect())
            }
            ParameterKind::DepthwiseWeight => {
                let [k, channels] = [shape[0], shape[2]];
                let values = (0..channels * k * k)
                    .map(|index| at(index % (k * k) * channels + index / (k * k)));
                (vec![channels, 1, k, k], values.collect())
            }
            _ => (shape.clone(), data.clone()),
        };
        if parameter.kind == ParameterKind::NormScale {
            let count = shape[0];
            let mean: Vec<f32> = (0..count).map(|index| index as f32 * 0.01).collect();
            file.push((format!("{theirs}.running_mean"), shape.clone(), mean));
            file.push((
                format!("{theirs}.running_var"),
                shape.clone(),
                vec![1.5; count],
            ));
        }
        file.push((format!("{theirs}.{role}"), shape, data));
    }
    file
}

fn safetensors_bytes(file: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<u8> {
    use safetensors::tensor::{Dtype, TensorView};
    let bytes: Vec<Vec<u8>> = file
        .iter()
        .map(|(_, _, data)| data.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let views = file.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (
            name.as_str(),
            TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
        )
    });
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn torchvisions_layouts_become_supernets() {
    for family in NameMap::built_in_names() {
        let space =
            Space::builtin_with(family, &[("classes", oncefit_space::Value::Int(7))]).unwrap();
        let original = supernet(&space);
        let file = torchvision_file(family, &original);
        let settings = ImportSettings::default();
        let found = import_weights(&space, &safetensors_bytes(&file), "f", &settings).unwrap();
        for (found, original) in found.parameters.iter().zip(original.parameters.iter()) {
            if original.kind == ParameterKind::KernelTransform {
                let area = found.shape[0] + 1;
                assert!(found.data.iter().step_by(area).all(|value| *value == 1.0));
            } else {
                assert!(found == original, "{family}: {}", original.name);
            }
        }
        assert_eq!(found.unused, Vec::<String>::new());
        assert!(found.calibration.is_some());
        // Another number of classes keeps the fresh classifier.
        let other =
            Space::builtin_with(family, &[("classes", oncefit_space::Value::Int(5))]).unwrap();
        let bytes = safetensors_bytes(&file);
        let error = import_weights(&other, &bytes, "f", &settings)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("fresh classifier") && error.contains("[7"),
            "{error}"
        );
        let settings = ImportSettings {
            fresh_classifier: true,
            ..ImportSettings::default()
        };
        let found = import_weights(&other, &bytes, "f", &settings).unwrap();
        assert!(found.fresh.iter().any(|name| name == "linear.weight"));
        assert_eq!(found.unused.len(), 2);
    }
}

#[test]
fn weights_that_do_not_fit_are_told() {
    let space = Space::builtin("mobilenet-v2").unwrap();
    let original = supernet(&space);
    let file = torchvision_file("mobilenet-v2", &original);
    let error = |file: &[(String, Vec<usize>, Vec<f32>)], space: &Space| {
        let bytes = safetensors_bytes(file);
        import_weights(space, &bytes, "w.safetensors", &ImportSettings::default())
            .unwrap_err()
            .to_string()
    };
    let other = Space::builtin("resnet50").unwrap();
    let said = error(&file, &other);
    assert!(
        said.contains("`conv1.weight`") && said.contains("another family"),
        "{said}"
    );
    let said = error(&file, &nano());
    assert!(
        said.contains("stem.conv.weight") && said.contains("another family"),
        "{said}"
    );
    let mut less = file.clone();
    less.retain(|(name, ..)| name != "features.3.conv.1.0.weight");
    let said = error(&less, &space);
    assert!(
        said.contains("1 of") && said.contains("features.3.conv.1.0.weight"),
        "{said}"
    );
    let mut wrong = file.clone();
    wrong[0].2[5] = f32::NAN;
    let said = error(&wrong, &space);
    assert!(said.contains("NaN at index 5"), "{said}");
    let bytes = safetensors_bytes(&file);
    for length in [0, 7, 1000, bytes.len() - 1] {
        let settings = ImportSettings::default();
        let said = import_weights(&space, &bytes[..length], "w.safetensors", &settings);
        let said = said.unwrap_err().to_string();
        assert!(
            said.contains("w.safetensors") && said.contains("cut short"),
            "{said}"
        );
    }
}

#[test]
fn our_own_names_are_read_as_they_are() {
    let space = nano();
    let original = supernet(&space);
    let file: Vec<_> = original
        .parameters
        .iter()
        .map(|parameter| {
            (
                parameter.name.clone(),
                parameter.shape.clone(),
                parameter.data.clone(),
            )
        })
        .collect();
    let bytes = safetensors_bytes(&file);
    let found = import_weights(&space, &bytes, "f", &ImportSettings::default()).unwrap();
    assert_eq!(found.parameters, original.parameters);
    assert_eq!(found.calibration, None);
}
