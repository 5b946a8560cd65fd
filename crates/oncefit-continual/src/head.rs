//! Heads: from features f of an encoder to logits z of classes.
//!
//! ```text
//! network's own     z = W f + b, the last layer of the network
//! inner product     z_c = ⟨f, w_c⟩
//! cosine            z_c = η s_c,  s_c = ⟨f/|f|, w_c/|w_c|⟩          (LUCIR, Hou et al. 2019)
//! ```
//!
//! The rows w_c are learnt, or given: frozen ones are no parameters, so that neither optimiser nor
//! weight decay nor a penalty sees them (LingoCL, section 3).

use oncefit_nn::{Gradients, Parameter, ParameterKind, Parameters};
use oncefit_random::{Draws, fnv1a64};
use serde::{Serialize, Serializer};

use crate::error::{Result, setting};

const ROWS: &str = "head.weight";
const SCALE: &str = "head.scale";

/// How logits are made of features.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// The last linear layer of the network, with its bias.
    #[default]
    Network,
    /// Inner products with the rows, without bias.
    InnerProduct,
    /// The scaled cosine of the angle to each row.
    Cosine {
        /// η at the start.
        scale: f32,
        /// Whether η is learnt; it does not decay.
        learns_scale: bool,
    },
}

/// The rows of a head.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// Learnt, uniform in ±1/√width at the start.
    #[default]
    Learnt,
    /// These at the start.
    Given {
        /// One row a class.
        targets: Targets,
        /// Whether they stay as they are, or are learnt from there on.
        are_frozen: bool,
    },
}

/// A given row for each class: classes × width. In a saved state only its hash stands.
#[derive(Clone, PartialEq, Debug)]
pub struct Targets {
    width: usize,
    values: Vec<f32>,
}

impl Targets {
    /// # Arguments
    /// - `values`: classes × `width`
    ///
    /// # Errors
    /// If the rows are not of that width, or one is 0 or not finite.
    pub fn new(width: usize, values: Vec<f32>) -> Result<Self> {
        if width == 0 || values.is_empty() || !values.len().is_multiple_of(width) {
            let legal = format!("classes × {width}, one or more classes");
            return Err(setting("the values of the targets", values.len(), legal));
        }
        for (class, row) in values.chunks_exact(width).enumerate() {
            let norm = dot(row, row);
            if !(norm > 0.0 && norm.is_finite()) {
                let found = format!("of squared length {norm}");
                let what = "the target of a class";
                return Err(setting(what, format!("{found} (class {class})"), "above 0"));
            }
        }
        Ok(Self { width, values })
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn classes(&self) -> usize {
        self.values.len() / self.width
    }

    /// The rows, classes × width.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// A content hash: a state fits no other targets.
    pub fn hash(&self) -> String {
        let bytes = self.values.iter().flat_map(|value| value.to_le_bytes());
        format!("{:016x}", fnv1a64(&bytes.collect::<Vec<u8>>()))
    }
}

impl Serialize for Targets {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        (self.classes(), self.width, self.hash()).serialize(serializer)
    }
}

/// What a head is made of.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct HeadSettings {
    /// How logits are made.
    pub kind: HeadKind,
    /// Width of a learnt linear layer without bias that ends the encoder.
    pub neck: Option<usize>,
    /// The rows.
    pub rows: Rows,
    /// Whether a class is in no softmax before its first image comes. Given rows must have it:
    /// otherwise the learner would know of later classes.
    pub only_seen: bool,
    /// Whether the encoder ends without its last nonlinearity, so that features have both signs.
    pub drops_last_activation: bool,
}

impl HeadSettings {
    /// A cosine head with learnt rows and scale.
    pub fn cosine(scale: f32) -> Self {
        Self {
            kind: HeadKind::Cosine {
                scale,
                learns_scale: true,
            },
            ..Self::default()
        }
    }

    /// This head with given rows.
    pub fn with_targets(self, targets: Targets, are_frozen: bool) -> Self {
        Self {
            rows: Rows::Given {
                targets,
                are_frozen,
            },
            only_seen: true,
            ..self
        }
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the network's own last layer is the head.
    pub fn is_network(&self) -> bool {
        self.kind == HeadKind::Network
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_network() {
            let extra = [
                ("a neck", self.neck.is_some()),
                ("given rows", self.rows != Rows::Learnt),
                ("a dropped activation", self.drops_last_activation),
            ];
            if let Some((name, _)) = extra.iter().find(|(_, is_there)| *is_there) {
                let legal = "an inner-product or a cosine head, which have that";
                let found = format!("the network's own layer with {name}");
                return Err(setting("the head", found, legal));
            }
        }
        if let HeadKind::Cosine { scale, .. } = self.kind
            && !(scale > 0.0 && scale.is_finite())
        {
            return Err(setting("the scale of the head", scale, "above 0"));
        }
        if self.neck == Some(0) {
            return Err(setting("the width of the head's neck", 0, "1 or more"));
        }
        if self.rows != Rows::Learnt && !self.only_seen {
            let legal = "`only_seen` with given rows";
            return Err(setting("the classes of the head", "all", legal));
        }
        Ok(())
    }
}

/// A head that is not the network's own layer, on features of a width.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    kind: HeadKind,
    width: usize,
    classes: usize,
    /// Rows that are no parameters.
    frozen: Option<Vec<f32>>,
}

/// What a forward pass of a head leaves behind for the backward pass.
#[derive(Clone, Debug)]
pub(crate) struct HeadPass {
    /// N × width, scaled to unit length by a cosine head.
    pub features: Vec<f32>,
    /// Lengths of the features; 1 where they are not scaled.
    lengths: Vec<f32>,
    rows: Vec<f32>,
    row_lengths: Vec<f32>,
    /// N × classes, before the scale.
    pub products: Vec<f32>,
    pub logits: Vec<f32>,
    scale: f32,
}

/// Gradients of a loss with respect to what a model gives; an empty one is 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutputGradients {
    /// N × classes.
    pub logits: Vec<f32>,
    /// N × classes, of the cosines s.
    pub cosines: Vec<f32>,
    /// N × width, of the features at unit length.
    pub unit_features: Vec<f32>,
}

impl Head {
    /// The head on features of `width`; its parameters are added to `parameters`.
    pub fn new(
        settings: &HeadSettings,
        width: usize,
        classes: usize,
        parameters: &mut Parameters,
        seed: u64,
    ) -> Result<Self> {
        let mut frozen = None;
        let rows = match &settings.rows {
            Rows::Learnt => {
                let reach = 1.0 / (width as f32).sqrt();
                let row = |class: usize| {
                    let mut draws = Draws::new(seed, "head-row", class as u64, 0);
                    (0..width).map(move |_| draws.uniform_f32(-reach, reach))
                };
                Some((0..classes).flat_map(row).collect())
            }
            Rows::Given {
                targets,
                are_frozen,
            } => {
                if (targets.classes(), targets.width()) != (classes, width) {
                    return Err(setting(
                        "the targets of the head",
                        format!("{} rows of {}", targets.classes(), targets.width()),
                        format!(
                            "{classes} rows of {width}, the features' width (a neck changes it)"
                        ),
                    ));
                }
                match are_frozen {
                    true => {
                        frozen = Some(targets.values().to_vec());
                        None
                    }
                    false => Some(targets.values().to_vec()),
                }
            }
        };
        let mut insert = |name: &str, kind, shape: Vec<usize>, data| {
            parameters.insert(Parameter {
                name: name.into(),
                kind,
                shape,
                data,
            });
        };
        if let Some(data) = rows {
            insert(
                ROWS,
                ParameterKind::LinearWeight,
                vec![classes, width],
                data,
            );
        }
        if let HeadKind::Cosine {
            scale,
            learns_scale: true,
        } = settings.kind
        {
            insert(SCALE, ParameterKind::Bias, vec![1], vec![scale]);
        }
        Ok(Self {
            kind: settings.kind,
            width,
            classes,
            frozen,
        })
    }

    pub fn macs(&self) -> u64 {
        (self.width * self.classes) as u64
    }

    pub fn is_cosine(&self) -> bool {
        matches!(self.kind, HeadKind::Cosine { .. })
    }

    fn scale(&self, parameters: &Parameters) -> f32 {
        match self.kind {
            HeadKind::Cosine { scale, .. } => {
                let learnt = parameters.position(SCALE);
                learnt.map_or(scale, |at| parameters.at(at).data[0])
            }
            _ => 1.0,
        }
    }

    /// Counts a head's parameters once.
    pub fn add_coverage(parameters: &Parameters, coverage: &mut Gradients) {
        for name in [ROWS, SCALE] {
            if let Some(at) = parameters.position(name) {
                coverage
                    .at_mut(at)
                    .iter_mut()
                    .for_each(|value| *value += 1.0);
            }
        }
    }

    /// Logits of features, N × width.
    pub fn forward(&self, parameters: &Parameters, features: &[f32]) -> HeadPass {
        let learnt = parameters.position(ROWS);
        let stored = learnt.map(|at| &parameters.at(at).data);
        let mut rows = stored.or(self.frozen.as_ref()).cloned().unwrap_or_default();
        let mut features = features.to_vec();
        let (lengths, row_lengths) = match self.is_cosine() {
            true => (
                to_unit_lengths(&mut features, self.width),
                to_unit_lengths(&mut rows, self.width),
            ),
            false => (Vec::new(), Vec::new()),
        };
        let scale = self.scale(parameters);
        let of_image = features.chunks_exact(self.width);
        let products: Vec<f32> = of_image
            .flat_map(|f| rows.chunks_exact(self.width).map(move |row| dot(f, row)))
            .collect();
        HeadPass {
            logits: products.iter().map(|s| scale * s).collect(),
            features,
            lengths,
            rows,
            row_lengths,
            products,
            scale,
        }
    }

    /// The gradient with respect to the features, N × width; those of the head's own parameters
    /// are added to `gradients`.
    pub fn backward(
        &self,
        parameters: &Parameters,
        pass: &HeadPass,
        outputs: &OutputGradients,
        gradients: &mut Gradients,
    ) -> Vec<f32> {
        let width = self.width;
        let mut of_products: Vec<f32> = outputs.logits.iter().map(|g| pass.scale * g).collect();
        for (sum, g) in of_products.iter_mut().zip(&outputs.cosines) {
            *sum += g;
        }
        if let Some(at) = parameters.position(SCALE) {
            gradients.at_mut(at)[0] += dot(&outputs.logits, &pass.products);
        }
        let mut of_features = match outputs.unit_features.is_empty() {
            true => vec![0.0; pass.features.len()],
            false => outputs.unit_features.clone(),
        };
        let mut of_rows = vec![0.0; pass.rows.len()];
        let images = of_features.chunks_exact_mut(width);
        let images = images.zip(pass.features.chunks_exact(width));
        for ((gradient, f), products) in images.zip(of_products.chunks_exact(self.classes)) {
            for (class, &g) in products.iter().enumerate() {
                if g != 0.0 {
                    let places = class * width..(class + 1) * width;
                    add_scaled(gradient, g, &pass.rows[places.clone()]);
                    add_scaled(&mut of_rows[places], g, f);
                }
            }
        }
        if self.is_cosine() {
            through_unit_length(&mut of_features, &pass.features, &pass.lengths, width);
            through_unit_length(&mut of_rows, &pass.rows, &pass.row_lengths, width);
        }
        if let Some(at) = parameters.position(ROWS) {
            add_scaled(gradients.at_mut(at), 1.0, &of_rows);
        }
        of_features
    }
}

/// Scales each row to unit length; a row of zeros stays. Returns the lengths.
pub(crate) fn to_unit_lengths(rows: &mut [f32], width: usize) -> Vec<f32> {
    let scaled = rows.chunks_exact_mut(width).map(|row| {
        let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|value| *value /= length);
        }
        length
    });
    scaled.collect()
}

/// From the gradient of u = v/|v| to that of v, in place: `(g − ⟨g, u⟩ u) / |v|`, 0 where v is 0.
fn through_unit_length(gradients: &mut [f32], units: &[f32], lengths: &[f32], width: usize) {
    let rows = gradients.chunks_exact_mut(width);
    for ((gradient, unit), &length) in rows.zip(units.chunks_exact(width)).zip(lengths) {
        if length > 0.0 {
            let along = dot(gradient, unit);
            let parts = gradient.iter_mut().zip(unit);
            parts.for_each(|(g, u)| *g = (*g - along * u) / length);
        } else {
            gradient.fill(0.0);
        }
    }
}

fn add_scaled(sums: &mut [f32], factor: f32, values: &[f32]) {
    let pairs = sums.iter_mut().zip(values);
    pairs.for_each(|(sum, value)| *sum += factor * value);
}

/// In eight lanes, so that it is fast and its order fixed.
fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (left, left_rest) = left.as_chunks::<8>();
    let (right, right_rest) = right.as_chunks::<8>();
    for (left, right) in left.iter().zip(right) {
        for lane in 0..8 {
            lanes[lane] += left[lane] * right[lane];
        }
    }
    let rest = left_rest.iter().zip(right_rest).map(|(a, b)| a * b);
    lanes.iter().sum::<f32>() + rest.sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_logits_by_hand() {
        let targets = Targets::new(2, vec![2.0, 0.0, 0.0, 5.0]).unwrap();
        let settings = HeadSettings::cosine(10.0).with_targets(targets, true);
        let mut parameters = Parameters::default();
        let head = Head::new(&settings, 2, 2, &mut parameters, 0).unwrap();
        assert_eq!(parameters.len(), 1, "the scale alone is learnt");
        let pass = head.forward(&parameters, &[3.0, 4.0, 0.0, 0.0]);
        let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(close(pass.logits[0], 6.0) && close(pass.logits[1], 8.0));
        assert_eq!(pass.logits[2..], [0.0, 0.0]);
        let mut gradients = Gradients::zeros(&parameters);
        let outputs = OutputGradients {
            logits: vec![1.0; 4],
            ..OutputGradients::default()
        };
        let of_features = head.backward(&parameters, &pass, &outputs, &mut gradients);
        // A feature of length 0 has no direction: it gets no gradient.
        assert_eq!(of_features[2..], [0.0, 0.0]);
        assert!(of_features[..2].iter().any(|value| *value != 0.0));
    }

    #[test]
    fn illegal_heads_are_refused() {
        assert!(Targets::new(2, vec![1.0, 0.0, 0.0, 0.0]).is_err());
        assert!(Targets::new(2, vec![1.0, f32::NAN]).is_err());
        assert!(Targets::new(2, vec![1.0]).is_err());
        assert!(HeadSettings::cosine(0.0).check().is_err());
        let neck = HeadSettings {
            neck: Some(3),
            ..HeadSettings::default()
        };
        assert!(neck.check().unwrap_err().to_string().contains("a neck"));
        let targets = Targets::new(2, vec![1.0, 0.5]).unwrap();
        let mut all = HeadSettings::cosine(1.0).with_targets(targets, true);
        all.only_seen = false;
        assert!(all.check().is_err());
    }
}
