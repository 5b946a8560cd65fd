//! An encoder with a head, compiled: from images to logits and back.

use oncefit_nn::{
    Calibration, Executor, Gradients, Images, Mode, Parameter, ParameterKind, Parameters, Plan,
    Tape,
};
use oncefit_random::Draws;
use oncefit_space::{Activation, FeatureShape, Graph, GraphNode, Op};

use crate::error::{Result, setting};
use crate::head::{Head, HeadPass, HeadSettings, OutputGradients};

const NECK: &str = "neck";

/// A network as classifiers of a stream need it: an encoder, all up to the features, and a head.
#[derive(Clone, Debug)]
pub struct Model {
    /// With the network's own head the whole network, otherwise the encoder.
    graph: Graph,
    plan: Plan,
    encoder: Plan,
    head: Option<Head>,
    ending: Ending,
    classes: usize,
}

/// How an encoder ends, where the head is not the network's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Ending {
    /// Width of a linear layer without bias.
    neck: Option<usize>,
    drops_last_activation: bool,
}

impl Ending {
    /// The network of `graph` without its classifier, and with this end.
    fn encoder(self, graph: &Graph) -> Result<Graph> {
        let mut encoder = graph.clone();
        let last = encoder.nodes.pop();
        if !last.is_some_and(|node| matches!(node.op, Op::Linear { .. })) {
            let legal = "a linear layer, which the head replaces";
            return Err(setting(
                "the network's last layer",
                "of another kind",
                legal,
            ));
        }
        if self.drops_last_activation {
            drop_last_activation(&mut encoder)?;
        }
        if let Some(width) = self.neck {
            encoder.nodes.push(GraphNode {
                path: NECK.into(),
                op: Op::Linear {
                    out_features: width,
                    bias: false,
                },
                inputs: vec![encoder.nodes.len() - 1],
                shape: FeatureShape {
                    height: 1,
                    width: 1,
                    channels: width,
                },
            });
        }
        Ok(encoder)
    }
}

/// What a forward pass gives.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    tape: Tape<'a>,
    head: Option<HeadPass>,
}

impl Output<'_> {
    /// N × classes.
    pub fn logits(&self) -> &[f32] {
        match &self.head {
            Some(pass) => &pass.logits,
            None => self.tape.output(),
        }
    }

    /// What a cosine head compares, N × width and N × classes; empty with another head.
    pub fn unit_features_and_cosines(&self) -> (&[f32], &[f32]) {
        match &self.head {
            Some(pass) => (&pass.features, &pass.products),
            None => (&[], &[]),
        }
    }
}

impl Model {
    /// The network of `graph` with the head that `settings` describe, and its parameters: those
    /// given without the network's own classifier's, and the head's, which `seed` draws. They may be a
    /// supernet's whose largest member the network is.
    ///
    /// # Errors
    /// If the settings are not legal or do not fit the network.
    pub fn new(
        graph: &Graph,
        settings: &HeadSettings,
        parameters: Parameters,
        seed: u64,
    ) -> Result<(Self, Parameters)> {
        settings.check()?;
        if settings.is_network() {
            return Ok((Self::of_graph(graph, &parameters)?, parameters));
        }
        let ending = Ending {
            neck: settings.neck,
            drops_last_activation: settings.drops_last_activation,
        };
        let encoder = ending.encoder(graph)?;
        let of_encoder = encoder.parameter_specs();
        let mut classifier = graph.parameter_specs();
        classifier.retain(|spec| of_encoder.iter().all(|other| other.name != spec.name));
        let mut kept = Parameters::default();
        for parameter in parameters.iter() {
            if classifier.iter().all(|spec| spec.name != parameter.name) {
                kept.insert(parameter.clone());
            }
        }
        let width = encoder.output_shape().len();
        if settings.neck.is_some() {
            let map = graph.nodes[graph.nodes.len() - 2].shape;
            let from = map.len();
            let reach = 1.0 / (from as f32).sqrt();
            let mut draws = Draws::new(seed, "neck", 0, 0);
            kept.insert(Parameter {
                name: format!("{NECK}.weight"),
                kind: ParameterKind::LinearWeight,
                shape: map.linear_weight(width),
                data: (0..width * from)
                    .map(|_| draws.uniform_f32(-reach, reach))
                    .collect(),
            });
        }
        let classes = graph.output_shape().len();
        let head = Head::new(settings, width, classes, &mut kept, seed)?;
        let plan = Plan::new(&encoder, &kept)?;
        let model = Self {
            encoder: plan.clone(),
            plan,
            graph: encoder,
            head: Some(head),
            ending,
            classes,
        };
        Ok((model, kept))
    }

    /// The network of `graph` with its own head, on weights that may be a supernet's.
    fn of_graph(graph: &Graph, parameters: &Parameters) -> Result<Self> {
        let mut encoder = graph.clone();
        encoder.nodes.pop();
        Ok(Self {
            plan: Plan::new(graph, parameters)?,
            encoder: Plan::new(&encoder, parameters)?,
            graph: graph.clone(),
            head: None,
            ending: Ending::default(),
            classes: graph.output_shape().len(),
        })
    }

    /// Another member of the supernet whose largest this is, with the same head, on the supernet's
    /// weights.
    ///
    /// # Errors
    /// If its features have another width than the head.
    pub(crate) fn member(&self, graph: &Graph, parameters: &Parameters) -> Result<Self> {
        let Some(head) = &self.head else {
            return Self::of_graph(graph, parameters);
        };
        let encoder = self.ending.encoder(graph)?;
        let (found, width) = (encoder.output_shape().len(), self.feature_width());
        if found != width {
            return Err(setting(
                "the features of a supernet's member",
                found,
                format!("{width}, those of the largest; or a neck (`head.neck`), which all share"),
            ));
        }
        let plan = Plan::new(&encoder, parameters)?;
        Ok(Self {
            encoder: plan.clone(),
            plan,
            graph: encoder,
            head: Some(head.clone()),
            ..*self
        })
    }

    /// Counts which values of `parameters` the network uses.
    pub(crate) fn add_coverage(&self, parameters: &Parameters, coverage: &mut Gradients) {
        self.plan.add_coverage(1.0, coverage);
        if self.head.is_some() {
            Head::add_coverage(parameters, coverage);
        }
    }

    /// Shape of an image.
    pub fn input_shape(&self) -> FeatureShape {
        self.plan.input_shape()
    }

    /// Outputs of the head.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Values of the features.
    pub fn feature_width(&self) -> usize {
        self.encoder.output_shape().len()
    }

    /// The graph that is executed: the whole network, or the encoder where the head is not the
    /// network's own.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Multiply-accumulates of a forward pass of one image, head included.
    pub fn macs(&self) -> u64 {
        self.graph.macs() + self.head.as_ref().map_or(0, Head::macs)
    }

    /// The part of the network up to the features.
    pub(crate) fn encoder(&self) -> &Plan {
        &self.encoder
    }

    /// Whether the head compares angles.
    pub(crate) fn is_cosine(&self) -> bool {
        self.head.as_ref().is_some_and(Head::is_cosine)
    }

    pub(crate) fn forward<'a>(
        &self,
        executor: &mut Executor,
        parameters: &Parameters,
        images: Images<'a>,
        mode: Mode,
    ) -> Result<Output<'a>> {
        let tape = executor.forward(&self.plan, parameters, images, mode)?;
        let head = self.head.as_ref();
        let head = head.map(|head| head.forward(parameters, tape.output()));
        Ok(Output { tape, head })
    }

    /// Adds the gradients of a pass to `gradients`.
    pub(crate) fn backward(
        &self,
        executor: &mut Executor,
        parameters: &Parameters,
        output: Output,
        outputs: &OutputGradients,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let of_features;
        let of_plan = match (&self.head, &output.head) {
            (Some(head), Some(pass)) => {
                of_features = head.backward(parameters, pass, outputs, gradients);
                &of_features
            }
            _ => &outputs.logits,
        };
        executor.backward(&self.plan, parameters, output.tape, of_plan, gradients)?;
        Ok(())
    }

    /// Whether [`Model::backward_of_each`] exists for this network.
    pub(crate) fn separates_images(&self) -> bool {
        self.head.is_none() && self.plan.separates_images()
    }

    /// Adds the sum over images of `f` of each image's gradients, given those of the logits
    /// ([`Executor::backward_of_each`]).
    pub(crate) fn backward_of_each(
        &self,
        executor: &mut Executor,
        parameters: &Parameters,
        output: Output,
        of_logits: &[f32],
        f: fn(f32) -> f32,
        sums: &mut Gradients,
    ) -> Result<()> {
        executor.backward_of_each(&self.plan, parameters, output.tape, of_logits, f, sums)?;
        Ok(())
    }

    /// The plan that gives logits, or with `of_features` the encoder's.
    fn part(&self, of_features: bool) -> &Plan {
        match of_features {
            true => &self.encoder,
            false => &self.plan,
        }
    }

    /// Batch-norm statistics of batches, for [`Model::evaluate`].
    pub(crate) fn calibrate<'a>(
        &self,
        executor: &mut Executor,
        parameters: &Parameters,
        batches: impl IntoIterator<Item = Images<'a>>,
        of_features: bool,
    ) -> Result<Calibration> {
        Ok(executor.calibrate(self.part(of_features), parameters, batches)?)
    }

    /// Logits of a batch, N × classes, or with `of_features` its features, N × width.
    pub(crate) fn evaluate(
        &self,
        executor: &mut Executor,
        parameters: &Parameters,
        batch: Images,
        calibration: &Calibration,
        of_features: bool,
    ) -> Result<Vec<f32>> {
        let mode = Mode::Evaluate(calibration);
        let tape = executor.forward(self.part(of_features), parameters, batch, mode)?;
        let outputs = match &self.head {
            Some(head) if !of_features => head.forward(parameters, tape.output()).logits,
            _ => tape.output().to_vec(),
        };
        executor.recycle(tape);
        Ok(outputs)
    }

    pub(crate) fn recycle(&self, executor: &mut Executor, output: Output) {
        executor.recycle(output.tape);
    }
}

/// Makes the encoder's last nonlinearity the identity; only poolings may come after it.
fn drop_last_activation(encoder: &mut Graph) -> Result<()> {
    let mut at = encoder.nodes.len().saturating_sub(1);
    loop {
        let node = &mut encoder.nodes[at];
        match node.op {
            Op::Activation(_) => {
                node.op = Op::Activation(Activation::Identity);
                return Ok(());
            }
            Op::GlobalAveragePool | Op::AveragePool { .. } | Op::Dropout { .. } => {
                at = node.inputs[0];
            }
            _ => {
                return Err(setting(
                    "the end of the encoder",
                    format!("`{}`", node.path),
                    "a nonlinearity with at most poolings after it; or keep it",
                ));
            }
        }
    }
}
