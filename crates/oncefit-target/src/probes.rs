//! What is measured: random whole networks of a space, and operators alone, all with random
//! weights.

use std::collections::HashSet;

use oncefit_nn::{
    Calibration, Executor, Images, Network, Parameter, ParameterKind, Parameters, Supernet,
};
use oncefit_random::Draws;
use oncefit_space::{Activation, FeatureShape, Graph, GraphNode, Op, Space, Subnet};

use crate::coster::Coster;
use crate::engine::random_images;
use crate::error::Result;
use crate::fusion::{Granularity, operators};
use crate::operator::{Operator, OperatorKind};

/// Makes the networks that are measured.
#[derive(Debug)]
pub(crate) struct Prober {
    supernet: Supernet,
    executor: Executor,
    seed: u64,
    drawn: u64,
    seen: HashSet<String>,
}

impl Prober {
    pub fn new(space: &Space, seed: u64) -> Result<Self> {
        Ok(Self {
            supernet: Supernet::initialise(space, seed)?,
            executor: Executor::default(),
            seed,
            drawn: 0,
            seen: HashSet::new(),
        })
    }

    /// The next random subnet, one that was not drawn before; none if they are hard to find.
    pub fn next_subnet(&mut self) -> Result<Option<Subnet>> {
        const TRIES: usize = 200;
        for _ in 0..TRIES {
            let mut draws = Draws::new(self.seed, "probes", self.drawn, 0);
            self.drawn += 1;
            // Every decision uniform makes networks of middling size, while searches look at all
            // sizes: so every second one is drawn around a size of its own.
            let size = self.drawn.is_multiple_of(2).then(|| draws.unit_f64());
            let subnet = self.supernet.space.build(&mut |slot| {
                let count = slot.domain.values.len();
                match size {
                    Some(size) if slot.domain.ordered => {
                        let position = size + 0.8 * (draws.unit_f64() - 0.5);
                        ((position * count as f64) as usize).min(count - 1)
                    }
                    _ => draws.below(count),
                }
            })?;
            if self.seen.insert(subnet.text()) {
                return Ok(Some(subnet));
            }
        }
        Ok(None)
    }

    /// The network of a subnet.
    pub fn network(&mut self, subnet: &Subnet) -> Result<Network> {
        const CALIBRATED_ON: usize = 2;
        let plan = self.supernet.plan(subnet)?;
        let images = random_images(CALIBRATED_ON * subnet.graph().input_shape().len());
        let batch = Images {
            data: &images,
            count: CALIBRATED_ON,
        };
        let parameters = &self.supernet.parameters;
        let calibration = self.executor.calibrate(&plan, parameters, [batch])?;
        Ok(self.supernet.extract(subnet, &calibration)?)
    }

    /// The operators that can be measured alone, in random order: those of all members, or, of a
    /// space with too many, of a thousand random ones.
    pub fn operators(&self) -> Result<Vec<Operator>> {
        const MOST_CASES: usize = 300_000;
        const SAMPLED: u64 = 1000;
        let space = &self.supernet.space;
        let mut found = match Coster::new(space).explore(MOST_CASES) {
            Ok(found) => found,
            Err(_) => {
                let mut found = Vec::new();
                for index in 0..SAMPLED {
                    let mut draws = Draws::new(self.seed, "operators of probes", index, 0);
                    let subnet = space.sample(&mut draws)?;
                    found.extend(operators(subnet.graph(), Granularity::Operator));
                }
                found.sort_by_cached_key(Operator::to_string);
                found.dedup();
                found
            }
        };
        found.retain(|operator| operator_graph(operator).is_some());
        Draws::new(self.seed, "order of probes", 0, 0).shuffle(&mut found);
        Ok(found)
    }
}

/// An operator that does next to nothing: what remains is the engine's overhead.
pub(crate) fn overhead() -> Operator {
    let shape = FeatureShape {
        height: 1,
        width: 1,
        channels: 1,
    };
    Operator {
        activation: Activation::Relu,
        ..Operator::new(OperatorKind::Activation, shape, shape)
    }
}

/// A network of one operator, if that makes sense.
fn operator_graph(operator: &Operator) -> Option<Graph> {
    let Operator {
        kernel,
        stride,
        input,
        output,
        ..
    } = *operator;
    let (op, inputs) = match operator.kind {
        OperatorKind::Convolution => (
            Op::Convolution {
                out_channels: output.channels,
                kernel,
                stride,
                bias: true,
            },
            vec![0],
        ),
        OperatorKind::Depthwise => (
            Op::Depthwise {
                kernel,
                stride,
                transform: false,
            },
            vec![0],
        ),
        OperatorKind::Linear => (
            Op::Linear {
                out_features: output.channels,
                bias: true,
            },
            vec![0],
        ),
        OperatorKind::GlobalAveragePool => (Op::GlobalAveragePool, vec![0]),
        OperatorKind::AveragePool => (
            Op::AveragePool {
                kernel,
                stride,
                padding: 0,
                ceil: true,
            },
            vec![0],
        ),
        OperatorKind::MaxPool => (
            Op::MaxPool {
                kernel,
                stride,
                padding: kernel / 2,
            },
            vec![0],
        ),
        OperatorKind::Add => (Op::Add, vec![0, 0]),
        OperatorKind::Activation => (Op::Activation(operator.activation), vec![0]),
        // A gate needs two inputs of its own; a batch-norm has no exported form.
        OperatorKind::Multiply
        | OperatorKind::Concat
        | OperatorKind::BatchNorm
        | OperatorKind::InvertedResidual => return None,
    };
    let node = |path: &str, op, inputs, shape| GraphNode {
        path: path.into(),
        op,
        inputs,
        shape,
    };
    let mut nodes = vec![
        node("input", Op::Input, vec![], input),
        node("operator", op, inputs, output),
    ];
    let activates = operator.activation != Activation::Identity;
    if activates && operator.kind != OperatorKind::Activation {
        let activation = Op::Activation(operator.activation);
        nodes.push(node("activation", activation, vec![1], output));
    }
    let graph = Graph { nodes };
    // A pool with another padding than assumed has another output.
    graph.validate().ok()?;
    Some(graph)
}

/// A network of one operator, with random weights.
pub(crate) fn operator_network(operator: &Operator) -> Option<Network> {
    let graph = operator_graph(operator)?;
    let mut parameters = Parameters::default();
    for spec in graph.parameter_specs() {
        let kind = match (spec.name.ends_with(".bias"), operator.kind) {
            (true, _) => ParameterKind::Bias,
            (_, OperatorKind::Depthwise) => ParameterKind::DepthwiseWeight,
            (_, OperatorKind::Linear) => ParameterKind::LinearWeight,
            _ => ParameterKind::ConvolutionWeight,
        };
        let length: usize = spec.shape.iter().product();
        let mut draws = Draws::new(0, "weights of probes", 0, 0);
        let scale = (operator.kernel.pow(2) * operator.input.channels) as f64;
        let data = (0..length)
            .map(|_| (draws.normal() / scale.sqrt()) as f32)
            .collect();
        parameters.insert(Parameter {
            name: spec.name,
            kind,
            shape: spec.shape,
            data,
        });
    }
    Some(Network {
        graph,
        parameters,
        calibration: Calibration::None,
    })
}
