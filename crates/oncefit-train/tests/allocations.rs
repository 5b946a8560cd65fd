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

/// A family at one resolution with a batch, and whether its wide tensors are made again.
const FAMILIES: [(&str, i64, usize, bool); 7] = [
    ("fm-nano", 28, 32, false),
    ("cifar-nano", 32, 32, true),
    ("vgg-nano", 28, 32, false),
    ("densenet-nano", 28, 32, false),
    ("genetic-nano", 28, 32, false),
    ("ofa-mobilenet-v3", 128, 4, false),
    ("ofa-resnet50d", 128, 2, false),
];

// One test: what is noted is noted of all threads of the process.
#[test]
fn a_steady_training_step_makes_no_large_allocation() {
    for (family, resolution, count, recomputes) in FAMILIES {
        let space = Space::builtin(family)
            .unwrap()
            .restrict("resolution", &[Value::Int(resolution)])
            .unwrap();
        let random = |index| space.sample(&mut Draws::new(0, "step", index, 0)).unwrap();
        let sandwich = [
            space.largest().unwrap(),
            space.smallest().unwrap(),
            random(0),
            random(1),
        ];
        for (threads, networks) in [(1, &sandwich[..1]), (1, &sandwich[..]), (2, &sandwich[..])] {
            on_threads(threads, || {
                let mut training = Training::new(&space, count, recomputes);
                let first = largest_request(|| training.step(networks));
                assert!(first > LIMIT, "{family}: {first} bytes in the first step");
                training.step(networks);
                // Which thread takes which chunk is open: each has buffers of its own to make.
                let tries = if threads == 1 { 1 } else { 6 };
                let steady = (0..tries).map(|_| largest_request(|| training.step(networks)));
                let steady = steady.min().unwrap();
                println!(
                    "{family}, {} networks, {threads} threads: {steady} bytes",
                    networks.len()
                );
                assert!(
                    steady <= LIMIT,
                    "{family}, {} networks on {threads} threads: {steady} bytes at once",
                    networks.len()
                );
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
validation = 2000
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
        .train_until(60, &AtomicBool::new(false), &mut note)
        .unwrap();
    println!("{requests:?}");
}
