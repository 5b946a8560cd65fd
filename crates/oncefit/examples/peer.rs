//! Our side of `bench/peers/run.py`: reads requests from standard input, one on a line, and answers
//! each with a line of JSON.
//!
//! ```text
//! networks CASE                        the supernet's largest network and those of a step
//! train CASE BATCH REPETITIONS         milliseconds of training steps
//! recompute CASE BATCH REPETITIONS     the same without keeping wide tensors
//! export CASE FILE                     the largest network as an ONNX file
//! infer ENGINE CASE BATCH REPETITIONS  milliseconds of forward passes (oncefit, int8, tract)
//! memory                               most memory that this process ever had, in KiB
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

use oncefit_export::{Metadata, OnnxModel, onnx_bytes};
use oncefit_nn::{
    ActivationRanges, Executor, Gradients, Images, Mode, Network, Optimiser, QuantisedSession,
    Supernet, Target, TransformDecay, UpdateRule, softmax_cross_entropy,
};
use oncefit_random::Draws;
use oncefit_space::{Space, Subnet, Value};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A network, or the networks of a sandwich step.
struct Case {
    space: Space,
    /// For each step in turn, its networks.
    steps: Vec<Vec<Subnet>>,
}

fn main() -> Result<()> {
    let mut state = State::default();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match state.answer(&words) {
            Ok(answer) => answer,
            Err(error) => serde_json::json!({ "error": error.to_string() }),
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

#[derive(Default)]
struct State {
    trainings: HashMap<String, Training>,
    sessions: HashMap<String, Session>,
}

impl State {
    fn answer(&mut self, words: &[&str]) -> Result<serde_json::Value> {
        match words {
            ["networks", case] => {
                let case = load_case(case)?;
                let graphs = |subnets: &[Subnet]| -> Vec<serde_json::Value> {
                    let graphs = subnets.iter().map(|subnet| subnet.graph());
                    graphs.map(|graph| serde_json::json!(graph)).collect()
                };
                let steps: Vec<_> = case.steps.iter().map(|step| graphs(step)).collect();
                let largest = case.space.largest()?;
                Ok(serde_json::json!({ "largest": largest.graph(), "steps": steps }))
            }
            [mode @ ("train" | "recompute"), name, batch, repetitions] => {
                let training = match self.trainings.entry((*name).to_owned()) {
                    std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                    std::collections::hash_map::Entry::Vacant(free) => {
                        free.insert(Training::new(load_case(name)?)?)
                    }
                };
                training.executor.recompute(*mode == "recompute");
                Ok(serde_json::json!(
                    training.run(batch.parse()?, repetitions.parse()?)?
                ))
            }
            ["export", name, file] => {
                let network = network_of(&load_case(name)?)?;
                std::fs::write(file, onnx_bytes(&network, &Metadata::default())?)?;
                Ok(serde_json::json!("written"))
            }
            ["infer", engine, name, batch, repetitions] => {
                let key = format!("{engine} {name} {batch}");
                if !self.sessions.contains_key(&key) {
                    let session = Session::new(engine, name, batch.parse()?)?;
                    self.sessions.insert(key.clone(), session);
                }
                let session = self.sessions.get_mut(&key).ok_or("just inserted")?;
                let times = (0..repetitions.parse()?).map(|_| session.run());
                Ok(serde_json::json!(times.collect::<Result<Vec<f64>>>()?))
            }
            ["memory"] => {
                let status = std::fs::read_to_string("/proc/self/status")?;
                let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                let most: f64 = line
                    .and_then(|text| text.split_whitespace().next()?.parse().ok())
                    .ok_or("the system does not say")?;
                Ok(serde_json::json!(most))
            }
            _ => Err(format!("{words:?} is no request").into()),
        }
    }
}

/// `sandwich` and `quickstart` step through networks of the CIFAR-sized MobileNetV3 and of fm-nano; the
/// others are one network.
fn load_case(name: &str) -> Result<Case> {
    let space = match name {
        "bench-mb" => {
            let text = include_str!("../../../bench/peers/bench-mb.space");
            Space::parse(text, "bench-mb.space")?
        }
        "resnet18" => oncefit_continual::resnet18(32, 3, 20, 10)?,
        "sandwich" => Space::builtin("deps-cifar-mobilenet-v3")?,
        "quickstart" => Space::builtin("fm-nano")?.restrict("resolution", &[Value::Int(28)])?,
        "ofa-mobilenet-v3" => Space::builtin(name)?.restrict("resolution", &[Value::Int(224)])?,
        "ofa-resnet50d" => Space::builtin(name)?.restrict("resolution", &[Value::Int(128)])?,
        _ => return Err(format!("there is no case `{name}`").into()),
    };
    let steps = match name {
        "sandwich" | "quickstart" => {
            let step = |index: u64| {
                let random = |which| space.sample(&mut Draws::new(0, "sandwich", index, which));
                Ok(vec![
                    space.largest()?,
                    space.smallest()?,
                    random(0)?,
                    random(1)?,
                ])
            };
            (0..8).map(step).collect::<Result<_>>()?
        }
        _ => vec![vec![space.largest()?]],
    };
    Ok(Case { space, steps })
}

fn images(length: usize) -> Vec<f32> {
    let mut draws = Draws::new(0, "images", 0, 0);
    (0..length).map(|_| draws.normal() as f32).collect()
}

struct Training {
    case: Case,
    supernet: Supernet,
    executor: Executor,
    gradients: Gradients,
    optimiser: Optimiser,
    steps: usize,
}

impl Training {
    fn new(case: Case) -> Result<Self> {
        let supernet = Supernet::initialise(&case.space, 0)?;
        let rule = UpdateRule::Sgd {
            momentum: 0.9,
            nesterov: false,
        };
        Ok(Self {
            gradients: Gradients::zeros(&supernet.parameters),
            optimiser: Optimiser::new(&supernet.parameters, rule, 3e-5, TransformDecay::None),
            executor: Executor::default(),
            supernet,
            case,
            steps: 0,
        })
    }

    fn run(&mut self, batch: usize, repetitions: usize) -> Result<Vec<f64>> {
        let shape = self.case.steps[0][0].graph().input_shape();
        let classes = self.case.steps[0][0].graph().output_shape().channels;
        let data = images(batch * shape.len());
        let labels: Vec<u32> = (0..batch).map(|index| (index % classes) as u32).collect();
        let mut times = Vec::with_capacity(repetitions);
        for _ in 0..repetitions {
            let start = Instant::now();
            self.gradients.clear();
            let networks = &self.case.steps[self.steps % self.case.steps.len()];
            for subnet in networks {
                let plan = self.supernet.plan(subnet)?;
                let parameters = &self.supernet.parameters;
                let images = Images {
                    data: &data,
                    count: batch,
                };
                let mode = Mode::Train { dropout: None };
                let tape = self.executor.forward(&plan, parameters, images, mode)?;
                let mut gradient = vec![0.0; tape.output().len()];
                let target = Target::Labels {
                    labels: &labels,
                    smoothing: 0.1,
                };
                softmax_cross_entropy(tape.output(), classes, target, &mut gradient, 1.0);
                let gradients = &mut self.gradients;
                self.executor
                    .backward(&plan, parameters, tape, &gradient, gradients)?;
            }
            let cpu = self.executor.cpu();
            let parameters = &mut self.supernet.parameters;
            self.optimiser
                .step(cpu, parameters, &mut self.gradients, 1e-3);
            times.push(start.elapsed().as_secs_f64() * 1e3);
            self.steps += 1;
        }
        Ok(times)
    }
}

/// The largest network, with random weights, calibrated.
fn network_of(case: &Case) -> Result<Network> {
    let supernet = Supernet::initialise(&case.space, 0)?;
    let subnet = case.space.largest()?;
    let mut executor = Executor::default();
    let data = images(4 * subnet.graph().input_shape().len());
    let plan = supernet.plan(&subnet)?;
    let batch = Images {
        data: &data,
        count: 4,
    };
    let calibration = executor.calibrate(&plan, &supernet.parameters, [batch])?;
    Ok(supernet.extract(&subnet, &calibration)?)
}

/// A network ready to run.
enum Session {
    Ours {
        session: Box<oncefit_nn::Session>,
        images: Vec<f32>,
        batch: usize,
    },
    OursInBytes {
        session: Box<QuantisedSession>,
        images: Vec<f32>,
        batch: usize,
    },
    Tract {
        model: OnnxModel,
        images: Vec<f32>,
    },
}

impl Session {
    fn new(engine: &str, name: &str, batch: usize) -> Result<Self> {
        let network = network_of(&load_case(name)?)?;
        let images = images(batch * network.graph.input_shape().len());
        match engine {
            "oncefit" => Ok(Self::Ours {
                session: Box::new(oncefit_nn::Session::new(&network)?),
                images,
                batch,
            }),
            "int8" => {
                let count = batch.min(4);
                let data = &images[..count * network.graph.input_shape().len()];
                let ranges = ActivationRanges::measure(&network, Images { data, count })?;
                Ok(Self::OursInBytes {
                    session: Box::new(QuantisedSession::new(&network, &ranges)?),
                    images,
                    batch,
                })
            }
            "tract" => {
                let file = tempfile::Builder::new().suffix(".onnx").tempfile()?;
                std::fs::write(file.path(), onnx_bytes(&network, &Metadata::default())?)?;
                let model = OnnxModel::load(file.path(), batch)?;
                Ok(Self::Tract { model, images })
            }
            _ => Err(format!("`{engine}` is none of oncefit, int8, tract").into()),
        }
    }

    fn run(&mut self) -> Result<f64> {
        let start = Instant::now();
        match self {
            Self::Ours {
                session,
                images,
                batch,
            } => {
                session.run(Images {
                    data: images,
                    count: *batch,
                })?;
            }
            Self::OursInBytes {
                session,
                images,
                batch,
            } => {
                session.run(Images {
                    data: images,
                    count: *batch,
                })?;
            }
            Self::Tract { model, images } => {
                model.run(images)?;
            }
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }
}
