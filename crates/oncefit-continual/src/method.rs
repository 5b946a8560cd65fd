//! A method as a value: the terms of one objective, and the few parts that are no terms.
//!
//! `weight·CE(h(x), y) + Σ α·D_Φ(h(x'), z) + Σ β·½ Σ_k F_k (θ_k − θ*_k)²`
//!
//! Weights are in this convention; [`Convention`] converts those of other code bases (unified
//! framework, sections 2.2 and 2.3).

mod convention;
mod presets;

use serde::{Deserialize, Serialize};

pub use self::convention::Convention;
use crate::angles::Angles;
use crate::contrastive::Contrastive;
use crate::divergence::Divergence;
use crate::importance::FisherEstimator;
use crate::learner::Classifier;
use crate::memory::MemoryPolicy;
use crate::onpro::OnPro;
use crate::refresh::Refresh;

/// The classes that the softmax of the new images' cross-entropy ranges over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchClasses {
    /// All outputs of the head.
    All,
    /// The classes seen so far, this batch's too.
    Seen,
    /// The classes of the batch (ER-ACE's asymmetric cross-entropy).
    OfBatch,
}

/// The images a term is evaluated on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Images {
    /// The new batch.
    Current,
    /// A draw from the memory; terms with the same `draw` share it and its forward pass.
    Memory {
        /// Which independent draw of the step.
        draw: u64,
        /// Images drawn.
        count: usize,
    },
}

/// What outputs are compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// Labels: `D(one-hot, softmax h)` is the cross-entropy; with
    /// [`Divergence::BinaryKullbackLeibler`] the binary one, class by class.
    Labels,
    /// Logits stored with the image.
    StoredLogits,
    /// Logits of the network at the end of the previous task; no term in the first task.
    PreviousNetwork,
    /// The uniform distribution.
    Uniform,
}

/// The classes that a divergence ranges over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassRange {
    /// All outputs of the head.
    All,
    /// Classes of earlier tasks.
    Old,
    /// Classes seen in this task and in none before.
    New,
}

/// `weight · mean over images of D_Φ`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OutputTerm {
    /// α; a term of weight 0 is not executed.
    pub weight: f64,
    /// On which images.
    pub images: Images,
    /// Against what.
    pub reference: Reference,
    /// Which divergence.
    pub divergence: Divergence,
    /// Over which classes.
    pub classes: ClassRange,
}

/// F of a weight-space term.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Importance {
    /// 1 everywhere: stay close.
    Identity,
    /// Diagonal of the Fisher information at the end of each task.
    Fisher {
        /// How it is estimated.
        estimator: FisherEstimator,
        /// Training images of the task it is estimated on, at most.
        examples: usize,
        /// `None`: one penalty for every task (EWC), summed into one quadratic form of the same
        /// gradient, so the work does not grow. `Some(γ)`: F ← γF + F_new around the last weights
        /// (online EWC).
        decay: Option<f64>,
    },
    /// Synaptic intelligence: Ω += ω / ((θ − θ*)² + ξ) with ω the path integral of the task loss.
    PathIntegral {
        /// ξ
        damping: f64,
    },
    /// Memory-aware synapses: mean of |∂‖h‖²/∂θ|, summed over tasks.
    OutputSensitivity {
        /// Training images of the task it is estimated on, at most.
        examples: usize,
    },
}

/// `weight · ½ Σ_k F_k (θ_k − θ*_k)²`, from the second task on.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WeightTerm {
    /// β; a term of weight 0 is not executed.
    pub weight: f64,
    /// F.
    pub importance: Importance,
}

/// BiC's correction of the newest task's logits.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct BiasCorrection {
    /// Share of a class's places in the memory that is held out to fit it; as many images of each
    /// new class are held out of training.
    pub held_out: f64,
}

impl BiasCorrection {
    /// Images of each class that are held out of a task, from the places of the memory and the
    /// number of classes before it; none in the first task.
    pub fn images_of_class(&self, capacity: usize, old: usize) -> usize {
        match old {
            0 => 0,
            _ => (((capacity / old) as f64 * self.held_out).round() as usize).max(1),
        }
    }
}

/// A continual-learning method.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Method {
    /// Its name in reports.
    pub name: String,
    /// Weight of the new images' cross-entropy.
    pub cross_entropy: f64,
    /// Over which classes it ranges.
    pub batch_classes: BatchClasses,
    /// Output-space terms.
    pub outputs: Vec<OutputTerm>,
    /// Weight-space terms.
    pub weights: Vec<WeightTerm>,
    /// A-GEM: images drawn for the reference gradient g_r; where g·g_r < 0 the step is
    /// g − (g·g_r / g_r·g_r) g_r.
    pub projection: Option<usize>,
    /// A contrastive loss on views of new and replayed images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contrastive: Option<Contrastive>,
    /// OnPro's losses instead of all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prototypes: Option<OnPro>,
    /// How test images are classified.
    pub classifier: Classifier,
    /// Which examples the memory keeps.
    pub memory: Option<MemoryPolicy>,
    /// Whether means over the new and the replayed images are one mean over all of them, not one
    /// each.
    #[serde(default, skip_serializing_if = "is_false")]
    pub joint_mean: bool,
    /// Whether terms of labels have the weight new / all classes, and those of the previous network
    /// old / all (BiC, section 3.2).
    #[serde(default, skip_serializing_if = "is_false")]
    pub shares_by_classes: bool,
    /// LUCIR's terms; they need a cosine head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub angles: Option<Angles>,
    /// BiC's correction at the end of each task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<BiasCorrection>,
    /// Unlearning before each step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Refresh>,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Method {
    /// This method as the host of refresh learning.
    #[must_use]
    pub fn refreshed(self, refresh: Refresh) -> Self {
        Self {
            name: format!("{} with refresh", self.name),
            refresh: Some(refresh),
            ..self
        }
    }

    /// Whether the memory must keep logits.
    pub fn stores_logits(&self) -> bool {
        self.outputs
            .iter()
            .any(|term| term.reference == Reference::StoredLogits && term.weight != 0.0)
    }

    /// Whether the network at the end of the previous task is kept.
    pub fn needs_previous(&self) -> bool {
        let by_term = self
            .outputs
            .iter()
            .any(|term| term.weight != 0.0 && term.reference == Reference::PreviousNetwork);
        by_term || self.angles.is_some_and(|angles| angles.less_forget != 0.0)
    }

    /// Images of the largest draw from the memory.
    pub fn largest_draw(&self) -> usize {
        let counts = self.outputs.iter().map(|term| match term.images {
            Images::Memory { count, .. } => count,
            Images::Current => 0,
        });
        let contrastive = self.contrastive.as_ref().map(|settings| settings.replay);
        let prototypes = self.prototypes.as_ref().map(|settings| settings.replay);
        counts
            .chain(self.projection)
            .chain(contrastive)
            .chain(prototypes)
            .max()
            .unwrap_or(0)
    }
}
