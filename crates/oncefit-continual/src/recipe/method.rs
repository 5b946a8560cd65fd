//! `[method]`: a preset by name and what is changed of it.

use serde::{Deserialize, Serialize};

use super::{LearningRecipe, ReplayMean};
use crate::angles::Growth;
use crate::divergence::Divergence;
use crate::error::{Result, setting};
use crate::importance::FisherEstimator;
use crate::learner::Classifier;
use crate::method::{Convention, Images, Importance, Method, OutputTerm, Reference};

/// Whose definition of a weight is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConventionKind {
    /// That of this crate.
    #[default]
    #[serde(alias = "ours")]
    Oncefit,
    /// Mammoth's and avalanche's.
    Mammoth,
}

/// Estimators of the Fisher information; see [`FisherEstimator`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FisherKind {
    /// The expectation over all classes.
    Exact,
    /// The true label, weighted by its probability (mammoth).
    WeightedLabel,
    /// The true label (the "empirical Fisher").
    TrueLabel,
    /// The square of a mini-batch's mean gradient (avalanche).
    MiniBatch,
}

/// How test images are classified.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassifierKind {
    /// By the largest logit.
    Head,
    /// By the nearest mean feature of the memory's classes.
    NearestMean,
}

/// `[method]`; what is left out is the preset's.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct MethodRecipe {
    /// Its name.
    pub name: String,
    /// Whose definition of `alpha` and `beta` is meant.
    pub convention: ConventionKind,
    /// `er`, `er-ace`, `er-nearest-mean`: weight of the replayed images; `lucir`: of the margin
    /// ranking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// `der`, `der++`, `lwf`, `cpr`, `icarl`: weight of the output-space term; `bic`: the same, τ²
    /// included; `lucir`: λ_base of "less forget".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// `der++`: weight of the second draw's labels; `l2`, `ewc`, `online-ewc`, `si`, `mas`: weight of
    /// the penalty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    /// `lwf`, `bic`, `scr`: temperature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// `si`: ξ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damping: Option<f64>,
    /// `online-ewc`: decay of the Fisher information.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay: Option<f64>,
    /// `ewc`, `online-ewc`: estimator of the Fisher information.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fisher: Option<FisherKind>,
    /// `ewc`, `online-ewc`, `mas`: training images on which importances are estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub importance_images: Option<usize>,
    /// `er`, `er-ace`, `er-nearest-mean`: independent draws from the memory in a step, whose mean loss is
    /// taken; 1 where it is left out. `der++`: 2, one for each term, where it is left out; 1: both terms
    /// share it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draws: Option<usize>,
    /// `gdumb`: passes through the memory at an evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_epochs: Option<usize>,
    /// `lucir`: how λ of "less forget" follows the numbers of classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<Growth>,
    /// `lucir`: margin of the ranking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// `lucir`: new classes that an old one is ranked against.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardest: Option<usize>,
    /// `bic`: share of each class's places in the memory that fits the correction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out: Option<f64>,
    /// Nearest mean: whether mirrored images count in the class means; they do where the augmentation
    /// flips.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirrored_images: Option<bool>,
    /// How test images are classified, instead of the method's own way; `nearest-mean` needs a
    /// memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classifier: Option<ClassifierKind>,
}

impl Default for MethodRecipe {
    fn default() -> Self {
        Self {
            name: "er".into(),
            convention: ConventionKind::Oncefit,
            weight: None,
            alpha: None,
            beta: None,
            temperature: None,
            damping: None,
            decay: None,
            fisher: None,
            importance_images: None,
            draws: None,
            memory_epochs: None,
            growth: None,
            margin: None,
            hardest: None,
            held_out: None,
            mirrored_images: None,
            classifier: None,
        }
    }
}

/// The options that a method has, besides `convention` and `classifier`.
fn options(name: &str) -> &'static [&'static str] {
    match name {
        "er" | "er-ace" | "er-nearest-mean" => &["weight", "draws"],
        "der" | "cpr" | "icarl" => &["alpha"],
        "der++" => &["alpha", "beta", "draws"],
        "lwf" => &["alpha", "temperature"],
        "l2" => &["beta"],
        "ewc" => &["beta", "fisher", "importance_images"],
        "online-ewc" => &["beta", "decay", "fisher", "importance_images"],
        "si" => &["beta", "damping"],
        "mas" => &["beta", "importance_images"],
        "gdumb" => &["memory_epochs"],
        "lucir" => &["alpha", "growth", "weight", "margin", "hardest"],
        "bic" => &["alpha", "temperature", "held_out"],
        "scr" => &["temperature"],
        _ => &[],
    }
}

/// Terms of a draw from the memory as the mean of `draws` independent ones.
fn repeated(terms: &[OutputTerm], draws: usize) -> Vec<OutputTerm> {
    let mut found = Vec::new();
    for term in terms {
        match term.images {
            Images::Current => found.push(term.clone()),
            Images::Memory { count, .. } => {
                found.extend((0..draws as u64).map(|draw| OutputTerm {
                    weight: term.weight / draws as f64,
                    images: Images::Memory { draw, count },
                    ..term.clone()
                }))
            }
        }
    }
    found
}

/// Makes all terms of the memory use the same draw.
fn share_draw(terms: &mut [OutputTerm]) {
    for term in terms {
        if let Images::Memory { draw, .. } = &mut term.images {
            *draw = 0;
        }
    }
}

impl LearningRecipe {
    /// The method, for a head of `classes` outputs.
    ///
    /// # Errors
    /// If it is unknown or not available, has no such option, or a value is not legal.
    pub fn build_method(&self, classes: usize) -> Result<Method> {
        let recipe = &self.method;
        let mut method = Method::preset(&recipe.name, classes)?;
        recipe.check_options()?;
        let convention = match recipe.convention {
            ConventionKind::Oncefit => Convention::Oncefit,
            ConventionKind::Mammoth => Convention::Mammoth,
        };
        for term in &mut method.outputs {
            let is_of_labels = term.reference == Reference::Labels;
            let given = match (is_of_labels, recipe.name.as_str()) {
                (true, "der++") => recipe.beta,
                (true, "lucir") => None,
                (true, _) => recipe.weight,
                (false, _) => recipe.alpha,
            };
            if let Some(weight) = given {
                term.weight = match term.divergence {
                    Divergence::SquaredDistance if !is_of_labels => {
                        convention.squared_distance(weight, classes)
                    }
                    _ => weight,
                };
            }
            if let (Divergence::KullbackLeibler { temperature }, Some(given), false) =
                (&mut term.divergence, recipe.temperature, is_of_labels)
            {
                *temperature = given;
            }
            if let (Images::Memory { count, .. }, Some(given)) =
                (&mut term.images, self.training.replay_batch)
            {
                *count = given;
            }
        }
        match (recipe.draws, recipe.name.as_str()) {
            (None, _) | (Some(2), "der++") => {}
            (Some(1), "der++") => share_draw(&mut method.outputs),
            (Some(draws), "der++") => {
                let legal = "1, which both terms share, or 2";
                return Err(setting("`method.draws` of `der++`", draws, legal));
            }
            (Some(draws), _) => method.outputs = repeated(&method.outputs, draws),
        }
        if let (Some(count), Some(given)) = (&mut method.projection, self.training.replay_batch) {
            *count = given;
        }
        if let Some(contrastive) = &mut method.contrastive {
            contrastive.replay = self.training.replay_batch.unwrap_or(contrastive.replay);
            if let Some(given) = recipe.temperature {
                contrastive.temperature = f64::from(given);
            }
        }
        match (&mut method.prototypes, &self.onpro) {
            (Some(onpro), given) => {
                if let Some(given) = given {
                    *onpro = onpro.changed(given)?;
                }
                onpro.replay = self.training.replay_batch.unwrap_or(onpro.replay);
            }
            (None, Some(_)) => {
                let legal = "left out: it belongs to `onpro` and `onpro-lite`";
                return Err(setting("section `onpro`", "given", legal));
            }
            (None, None) => {}
        }
        for term in &mut method.weights {
            if let Some(weight) = recipe.beta {
                term.weight = convention.penalty(weight);
            }
            match &mut term.importance {
                Importance::Identity => {}
                Importance::Fisher {
                    estimator,
                    examples,
                    decay,
                } => {
                    if let Some(kind) = recipe.fisher {
                        *estimator = self.estimator(kind);
                    }
                    *examples = recipe.importance_images.unwrap_or(*examples);
                    if recipe.decay.is_some() {
                        *decay = recipe.decay;
                    }
                }
                Importance::PathIntegral { damping } => {
                    *damping = recipe.damping.unwrap_or(*damping);
                }
                Importance::OutputSensitivity { examples } => {
                    *examples = recipe.importance_images.unwrap_or(*examples);
                }
            }
        }
        if let (Classifier::FreshFromMemory { epochs }, Some(given)) =
            (&mut method.classifier, recipe.memory_epochs)
        {
            *epochs = given;
        }
        if let Some(angles) = &mut method.angles {
            angles.less_forget = recipe.alpha.unwrap_or(angles.less_forget);
            angles.growth = recipe.growth.unwrap_or(angles.growth);
            angles.ranking = recipe.weight.unwrap_or(angles.ranking);
            angles.margin = recipe.margin.unwrap_or(angles.margin);
            angles.hardest = recipe.hardest.unwrap_or(angles.hardest);
        }
        if let Some(correction) = &mut method.correction {
            correction.held_out = recipe.held_out.unwrap_or(correction.held_out);
        }
        if let Some(mean) = self.training.replay_mean {
            method.joint_mean = mean == ReplayMean::Joint;
        }
        match recipe.classifier {
            Some(ClassifierKind::Head) => method.classifier = Classifier::Head,
            Some(ClassifierKind::NearestMean) => method.classifier = Classifier::NearestMean,
            None => {}
        }
        if let Some(policy) = self.memory.policy {
            if method.memory.is_none() {
                return Err(setting(
                    "`memory.policy`",
                    "given",
                    format!("none: `{}` is a method without memory", recipe.name),
                ));
            }
            method.memory = Some(policy.into());
        }
        match &self.refresh {
            Some(refresh) => Ok(method.refreshed(refresh.build(self)?)),
            None => Ok(method),
        }
    }

    pub(super) fn estimator(&self, kind: FisherKind) -> FisherEstimator {
        match kind {
            FisherKind::Exact => FisherEstimator::Exact,
            FisherKind::WeightedLabel => FisherEstimator::WeightedLabel,
            FisherKind::TrueLabel => FisherEstimator::TrueLabel,
            FisherKind::MiniBatch => FisherEstimator::MiniBatch {
                size: self.training.batch_size,
            },
        }
    }
}

impl MethodRecipe {
    fn check_options(&self) -> Result<()> {
        let numbers = [
            ("weight", self.weight),
            ("alpha", self.alpha),
            ("beta", self.beta),
            ("temperature", self.temperature.map(f64::from)),
            ("damping", self.damping),
            ("decay", self.decay),
            (
                "importance_images",
                self.importance_images.map(|n| n as f64),
            ),
            ("draws", self.draws.map(|n| n as f64)),
            ("memory_epochs", self.memory_epochs.map(|n| n as f64)),
            ("fisher", self.fisher.map(|_| 1.0)),
            ("growth", self.growth.map(|_| 1.0)),
            ("margin", self.margin),
            ("hardest", self.hardest.map(|n| n as f64)),
            ("held_out", self.held_out),
        ];
        let legal = options(&self.name);
        for (key, value) in numbers {
            let Some(value) = value else { continue };
            if !legal.contains(&key) {
                let legal = match legal.is_empty() {
                    true => "none of its own".to_owned(),
                    false => legal.join(", "),
                };
                return Err(setting(
                    "an option of the method",
                    format!("`{key}`, which `{}` has not", self.name),
                    format!("its options: {legal}; for all: convention, classifier"),
                ));
            }
            let needs_more = [
                "temperature",
                "damping",
                "importance_images",
                "draws",
                "memory_epochs",
                "hardest",
            ];
            let (is_legal, legal) = match key {
                // All images held out would leave none to learn from.
                "held_out" => (value > 0.0 && value < 1.0, "a share, above 0 and below 1"),
                "decay" => ((0.0..=1.0).contains(&value), "0 to 1"),
                _ if needs_more.contains(&key) => (value > 0.0, "above 0"),
                _ => (value >= 0.0, "0 or more"),
            };
            if !(is_legal && value.is_finite()) {
                return Err(setting(
                    "an option of the method",
                    format!("`{key}` = {value}"),
                    legal,
                ));
            }
        }
        Ok(())
    }
}
