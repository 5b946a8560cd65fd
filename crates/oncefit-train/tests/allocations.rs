//! What a training step asks of the allocator once its buffers are there: nothing that grows with the
//! batch, with the weights or with a layer's output.

use std::sync::atomic::AtomicBool;

use oncefit_kernels::NotingAllocator;
use oncefit_nn::*;
use oncefit_random::Draws;
use oncefit_space::{Space, Subnet, Value};
use oncefit_train::{Event, Recipe, Run, RunData, Trainer};

#[global_allocator]
static ALLOCATOR: NotingAllocator = NotingAllocator::new();

/// Bytes of a request that a steady step may make.
const LIMIT: usize = 64 << 10;

/// A supernet in training.
struct Training {
    supernet: Supernet,
    executor: Executor,
    gradients: Gradients,
    optimiser: Optimiser,
    images: Vec<f32>,
    labels: Vec<u32>,
}

impl Training {
    fn new(space: &Space, count: usize, recomputes: bool) -> Self {
        let supernet = Supernet::initialise(space, 0).unwrap();
        let largest = space.largest().unwrap();
        let (shape, output) = (
            largest.graph().input_shape(),
            largest.graph().output_shape(),
        );
        let mut executor = Executor::default();
        executor.recompute(recomputes);
        let rule = UpdateRule::Sgd {
            momentum: 0.9,
            nesterov: true,
        };
        Self {
            gradients: Gradients::zeros(&supernet.parameters),
            optimiser: Optimiser::new(&supernet.parameters, rule, 1e-4, TransformDecay::Zero),
            executor,
            supernet,
            images: (0..count * shape.len())
                .map(|index| (index % 13) as f32 / 6.0 - 1.0)
                .collect(),
            labels: (0..count)
                .map(|index| (index % output.channels) as u32)
                .collect(),
        }
    }

    fn step(&mut self, networks: &[Subnet]) {
        self.gradients.clear();
        for (index, subnet) in networks.iter().enumerate() {
            let parameters = &self.supernet.parameters;
            let plan = self.supernet.plan(subnet).unwrap();
            let batch = Images {
                data: &self.images,
                count: self.labels.len(),
            };
            let dropout = Some(DropoutDraws {
                seed: 0,
                step: 0,
                network: index as u64,
            });
            let tape = self
                .executor
                .forward(&plan, parameters, batch, Mode::Train { dropout })
                .unwrap();
            let mut gradient = vec![0.0; tape.output().len()];
            let classes = plan.output_shape().channels;
            let target = Target::Labels {
                labels: &self.labels,
                smoothing: 0.1,
            };
            softmax_cross_entropy(tape.output(), classes, target, &mut gradient, 1.0);
            let gradients = &mut self.gradients;
            self.executor
                .backward(&plan, parameters, tape, &gradient, gradients)
                .unwrap();
        }
        let cpu = self.executor.cpu();
        let parameters = &mut self.supernet.parameters;
        self.optimiser
            .step(cpu, parameters, &mut self.gradients, 0.01);
    }
}

/// Bytes of the largest request of `work`.
fn largest_request(work: impl FnOnce()) -> usize {
    ALLOCATOR.reset();
    work();
    ALLOCATOR.largest()
}

fn on_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.unwrap().install(work)
}

/// A network whose layers read concatenated channels with room between them, and smaller kernels than
/// the stored ones: such weights are gathered, here 400 KB of them for one layer.
const WIDE_DENSE: &str = r#"
space wide-dense(channels = 3, classes = 10)

define layer() {
  decide growth in (24, 32)
  decide kernel in (3, 5)
  dense { batch_norm; relu; conv(growth, kernel = kernel) }
}

decide resolution in (16, 20)
input(resolution, resolution, channels)
stem: conv(64, kernel = 3, stride = 2)
block: repeat depth in (2, 3) { layer() }
batch_norm; relu
global_average_pool
linear(classes)
"#;

/// Spaces at one resolution with a batch, and whether their wide tensors are made again.
fn cases() -> Vec<(Space, usize, bool)> {
    let family = |name: &str| Space::builtin(name).unwrap();
    let only = |space: Space, decision: &str, values: &[i64]| {
        let values: Vec<Value> = values.iter().map(|value| Value::Int(*value)).collect();
        space.restrict(decision, &values).unwrap()
    };
    let at = |name: &str, resolution| only(family(name), "resolution", &[resolution]);
    let dense = Space::parse(WIDE_DENSE, "wide-dense.space").unwrap();
    vec![
        (at("fm-nano", 28), 32, false),
        (at("cifar-nano", 32), 32, true),
        (at("vgg-nano", 28), 32, false),
        (at("densenet-nano", 28), 32, false),
        (only(dense, "resolution", &[20]), 16, false),
        (at("genetic-nano", 28), 32, false),
        (
            only(at("ofa-mobilenet-v3", 128), "depth", &[2, 3]),
            2,
            false,
        ),
        (only(at("ofa-resnet50d", 128), "depth", &[2, 4]), 2, false),
    ]
}

/// Steps of `networks` until one asks for nothing large, `most` at most: what it asked for.
fn steady_request(training: &mut Training, networks: &[Subnet], most: usize) -> usize {
    let requests = (0..most).map(|_| largest_request(|| training.step(networks)));
    let mut least = usize::MAX;
    for request in requests {
        least = least.min(request);
        if least <= LIMIT {
            break;
        }
    }
    least
}

// One test: what is noted is noted of all threads of the process.
#[test]
fn a_steady_training_step_makes_no_large_allocation() {
    for (space, count, recomputes) in cases() {
        let random = |index| space.sample(&mut Draws::new(0, "step", index, 0)).unwrap();
        let sandwich = [
            space.largest().unwrap(),
            space.smallest().unwrap(),
            random(0),
            random(1),
        ];
        let mut training = Training::new(&space, count, recomputes);
        for (threads, networks) in [(1, &sandwich[..1]), (2, &sandwich[..])] {
            let name = format!(
                "{}, {} networks, {threads} threads",
                space.name(),
                networks.len()
            );
            on_threads(threads, || {
                training.executor = Executor::default();
                training.executor.recompute(recomputes);
                let first = largest_request(|| training.step(networks));
                assert!(first > LIMIT, "{name}: {first} bytes in the first step");
                // On one thread the second step is steady. Which of two takes which chunk is open,
                // and each has buffers of its own to make.
                let most = if threads == 1 { 1 } else { 10 };
                let steady = steady_request(&mut training, networks, most);
                println!("{name}: {first} bytes at first, {steady} in a steady step");
                assert!(steady <= LIMIT, "{name}: {steady} bytes at once");
            });
        }
    }
    check_a_trainer();
}

/// A whole training: batches are loaded and augmented beside the steps, networks are drawn.
fn check_a_trainer() {
    let text = r#"
name = "steady"
[data]
source = "embedded"
validation = 1000
[space]
family = "fm-nano"
[schedule]
kind = "sandwich"
epochs = 2
[augmentation]
crop_padding = 2
horizontal_flip = true
random_erasing = 0.25
mixup = 0.2
[training]
batch_size = 64
[evaluation]
every_epochs = 2
[checkpoint]
every_seconds = 3600
"#;
    let recipe = Recipe::parse(text, "steady.toml").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let run = Run::create(&folder.path().join("run"), &recipe).unwrap();
    let data = RunData::load(&recipe).unwrap();
    let mut trainer = Trainer::new(&run, &data).unwrap();
    let mut requests = Vec::new();
    let mut note = |event: Event| {
        if let Event::Step { .. } = event {
            requests.push(ALLOCATOR.largest());
            ALLOCATOR.reset();
        }
    };
    trainer
        .train_until(80, &AtomicBool::new(false), &mut note)
        .unwrap();
    // Batches are made ahead until step 80; by then every size of network and image was there.
    println!("trainer: {requests:?}");
    let late = &requests[40..];
    assert!(requests[0] > LIMIT);
    let steady = late.iter().filter(|request| **request <= LIMIT).count();
    assert!(2 * steady >= late.len(), "{late:?}");
}
