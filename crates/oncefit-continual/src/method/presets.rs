//! The methods as values, and their presets by name.

use super::{
    BatchClasses, BiasCorrection, ClassRange, Convention, Images, Importance, Method, OutputTerm,
    Reference, WeightTerm,
};
use crate::angles::{Angles, Growth};
use crate::contrastive::Contrastive;
use crate::divergence::Divergence;
use crate::error::{ContinualError, Result};
use crate::importance::FisherEstimator;
use crate::learner::Classifier;
use crate::memory::MemoryPolicy;
use crate::onpro::OnPro;

fn replay_labels(weight: f64, draw: u64, count: usize) -> OutputTerm {
    OutputTerm {
        weight,
        images: Images::Memory { draw, count },
        reference: Reference::Labels,
        divergence: Divergence::KullbackLeibler { temperature: 1.0 },
        classes: ClassRange::All,
    }
}

fn replay_logits(weight: f64, draw: u64, count: usize) -> OutputTerm {
    OutputTerm {
        reference: Reference::StoredLogits,
        divergence: Divergence::SquaredDistance,
        ..replay_labels(weight, draw, count)
    }
}

impl Method {
    /// Cross-entropy of the new images alone.
    pub fn fine_tune() -> Self {
        Self {
            name: "fine-tune".into(),
            cross_entropy: 1.0,
            batch_classes: BatchClasses::All,
            outputs: Vec::new(),
            weights: Vec::new(),
            projection: None,
            contrastive: None,
            prototypes: None,
            classifier: Classifier::Head,
            memory: None,
            joint_mean: false,
            shares_by_classes: false,
            angles: None,
            correction: None,
            refresh: None,
        }
    }

    fn with_outputs(name: &str, outputs: Vec<OutputTerm>) -> Self {
        Self {
            name: name.into(),
            outputs,
            memory: Some(MemoryPolicy::Reservoir),
            ..Self::fine_tune()
        }
    }

    fn with_importance(name: &str, weight: f64, importance: Importance) -> Self {
        Self {
            name: name.into(),
            weights: vec![WeightTerm { weight, importance }],
            ..Self::fine_tune()
        }
    }

    /// Experience replay: `CE(new) + weight · CE(replay)`, a mean for each.
    pub fn er(weight: f64, replay: usize) -> Self {
        Self::with_outputs("er", vec![replay_labels(weight, 0, replay)])
    }

    /// ER with the new images' cross-entropy over the classes of the batch (Caccia et al. 2022).
    pub fn er_ace(weight: f64, replay: usize) -> Self {
        Self {
            name: "er-ace".into(),
            batch_classes: BatchClasses::OfBatch,
            ..Self::er(weight, replay)
        }
    }

    /// Dark experience replay: `CE(new) + α ‖h − stored logits‖²` (Buzzega et al. 2020).
    pub fn der(alpha: f64, replay: usize) -> Self {
        Self::with_outputs("der", vec![replay_logits(alpha, 0, replay)])
    }

    /// DER and `beta · CE` of a second, independent draw.
    pub fn der_plus_plus(alpha: f64, beta: f64, replay: usize) -> Self {
        let terms = vec![
            replay_logits(alpha, 0, replay),
            replay_labels(beta, 1, replay),
        ];
        Self::with_outputs("der++", terms)
    }

    /// Learning without forgetting: KL to the previous network's old classes on the new images.
    pub fn lwf(alpha: f64, temperature: f32) -> Self {
        Self {
            name: "lwf".into(),
            batch_classes: BatchClasses::Seen,
            outputs: vec![OutputTerm {
                weight: alpha,
                images: Images::Current,
                reference: Reference::PreviousNetwork,
                divergence: Divergence::KullbackLeibler { temperature },
                classes: ClassRange::Old,
            }],
            ..Self::fine_tune()
        }
    }

    /// Classifier-projection regularisation: KL of the outputs to the uniform distribution.
    pub fn cpr(alpha: f64) -> Self {
        Self {
            name: "cpr".into(),
            outputs: vec![OutputTerm {
                weight: alpha,
                images: Images::Current,
                reference: Reference::Uniform,
                divergence: Divergence::ToUniform,
                classes: ClassRange::All,
            }],
            ..Self::fine_tune()
        }
    }

    /// Stay close to the weights of the previous task.
    pub fn l2(beta: f64) -> Self {
        Self::with_importance("l2", beta, Importance::Identity)
    }

    /// Elastic weight consolidation (Kirkpatrick et al. 2017), exact Fisher.
    pub fn ewc(beta: f64, examples: usize) -> Self {
        let importance = Importance::Fisher {
            estimator: FisherEstimator::Exact,
            examples,
            decay: None,
        };
        Self::with_importance("ewc", beta, importance)
    }

    /// Online EWC (Schwarz et al. 2018), exact Fisher.
    pub fn online_ewc(beta: f64, decay: f64, examples: usize) -> Self {
        let importance = Importance::Fisher {
            estimator: FisherEstimator::Exact,
            examples,
            decay: Some(decay),
        };
        Self::with_importance("online-ewc", beta, importance)
    }

    /// Synaptic intelligence (Zenke et al. 2017); gradients are not clipped.
    pub fn si(beta: f64, damping: f64) -> Self {
        Self::with_importance("si", beta, Importance::PathIntegral { damping })
    }

    /// Memory-aware synapses (Aljundi et al. 2018).
    pub fn mas(beta: f64, examples: usize) -> Self {
        Self::with_importance("mas", beta, Importance::OutputSensitivity { examples })
    }

    /// Averaged gradient episodic memory with a reservoir (A-GEM-R).
    pub fn a_gem(replay: usize) -> Self {
        Self {
            name: "a-gem".into(),
            projection: Some(replay),
            memory: Some(MemoryPolicy::Reservoir),
            ..Self::fine_tune()
        }
    }

    /// iCaRL (Rebuffi et al. 2017, algorithm 3): on new and replayed images, binary cross-entropies of
    /// the new classes' labels and `alpha` times the previous network's for the old classes; a herding
    /// memory, the nearest mean of its features. The two kinds of image are a mean each.
    pub fn icarl(alpha: f64, replay: usize) -> Self {
        let memory = Images::Memory {
            draw: 0,
            count: replay,
        };
        let both = [Images::Current, memory].into_iter();
        let term = |weight, images, reference, classes| OutputTerm {
            weight,
            images,
            reference,
            divergence: Divergence::BinaryKullbackLeibler,
            classes,
        };
        let terms = both.flat_map(|images| {
            [
                term(1.0, images, Reference::Labels, ClassRange::New),
                term(alpha, images, Reference::PreviousNetwork, ClassRange::Old),
            ]
        });
        Self {
            name: "icarl".into(),
            cross_entropy: 0.0,
            outputs: terms.collect(),
            classifier: Classifier::NearestMean,
            memory: Some(MemoryPolicy::Herding),
            ..Self::fine_tune()
        }
    }

    /// LUCIR (Hou et al. 2019): one mean cross-entropy over new and replayed images, "less forget" and
    /// margin ranking on the angles of a cosine head, a herding memory. The fine-tuning on a balanced
    /// set that ends a task in the paper's variant CBF is not done.
    pub fn lucir(angles: Angles, replay: usize) -> Self {
        Self {
            name: "lucir".into(),
            batch_classes: BatchClasses::Seen,
            outputs: vec![replay_labels(1.0, 0, replay)],
            memory: Some(MemoryPolicy::Herding),
            joint_mean: true,
            angles: Some(angles),
            ..Self::fine_tune()
        }
    }

    /// BiC (Wu et al. 2019): cross-entropy and `alpha` times the KL to the previous, corrected
    /// network, on new and replayed images; two scalars that correct the newest task's logits.
    pub fn bic(alpha: f64, temperature: f32, held_out: f64, replay: usize) -> Self {
        let memory = Images::Memory {
            draw: 0,
            count: replay,
        };
        let distilled = |images| OutputTerm {
            weight: alpha,
            images,
            reference: Reference::PreviousNetwork,
            divergence: Divergence::KullbackLeibler { temperature },
            classes: ClassRange::Old,
        };
        Self {
            name: "bic".into(),
            batch_classes: BatchClasses::Seen,
            outputs: vec![
                replay_labels(1.0, 0, replay),
                distilled(Images::Current),
                distilled(memory),
            ],
            memory: Some(MemoryPolicy::Herding),
            joint_mean: true,
            shares_by_classes: true,
            correction: Some(BiasCorrection { held_out }),
            ..Self::fine_tune()
        }
    }

    /// GDumb (Prabhu et al. 2020): a greedy balanced memory; a fresh network learns it at
    /// evaluation.
    pub fn gdumb(epochs: usize) -> Self {
        Self {
            name: "gdumb".into(),
            cross_entropy: 0.0,
            classifier: Classifier::FreshFromMemory { epochs },
            memory: Some(MemoryPolicy::GreedyBalanced),
            ..Self::fine_tune()
        }
    }

    /// Supervised contrastive replay (Mai et al. 2021): a contrastive loss of new and drawn images and
    /// a changed view of each, the nearest mean of the memory's features. The views are changed by
    /// [`LearnerSettings::augmentation`](crate::LearnerSettings::augmentation).
    pub fn scr(temperature: f64, replay: usize) -> Self {
        Self {
            name: "scr".into(),
            cross_entropy: 0.0,
            contrastive: Some(Contrastive {
                replay,
                temperature,
                width: 128,
            }),
            classifier: Classifier::NearestMean,
            memory: Some(MemoryPolicy::Reservoir),
            ..Self::fine_tune()
        }
    }

    /// OnPro (Wei et al. 2023): prototypes of classes on turned and changed views of new and replayed
    /// images; the head learns from replayed images that are mixed where prototypes are near. The views
    /// are changed by [`LearnerSettings::augmentation`](crate::LearnerSettings::augmentation).
    pub fn onpro(settings: OnPro) -> Self {
        Self {
            name: "onpro".into(),
            cross_entropy: 0.0,
            prototypes: Some(settings),
            memory: Some(MemoryPolicy::Reservoir),
            ..Self::fine_tune()
        }
    }

    /// The method called `name` with the weights of mammoth's presets for Seq-MNIST and a memory of
    /// 200 (`utils/best_args.py`; where it has none, ours, not tuned).
    ///
    /// # Errors
    /// If the method is not available.
    pub fn preset(name: &str, classes: usize) -> Result<Self> {
        let mammoth = Convention::Mammoth;
        let squared = |alpha| mammoth.squared_distance(alpha, classes);
        Ok(match name {
            "fine-tune" | "joint" => Self::fine_tune(),
            "er" => Self::er(1.0, 10),
            "er-ace" => Self::er_ace(1.0, 10),
            "er-nearest-mean" => Self {
                name: "er-nearest-mean".into(),
                classifier: Classifier::NearestMean,
                ..Self::er(1.0, 10)
            },
            "der" => Self::der(squared(0.2), 10),
            "der++" => Self::der_plus_plus(squared(0.2), 1.0, 128),
            "lwf" => Self::lwf(1.0, 2.0),
            "cpr" => Self::cpr(0.1),
            "l2" => Self::l2(mammoth.penalty(0.01)),
            "ewc" => Self::ewc(mammoth.penalty(90.0), 1000),
            "online-ewc" => Self::online_ewc(mammoth.penalty(90.0), 1.0, 1000),
            "si" => Self::si(mammoth.penalty(1.0), 0.9),
            "mas" => Self::mas(0.1, 1000),
            "a-gem" => Self::a_gem(128),
            "gdumb" => Self::gdumb(30),
            "icarl" => Self::icarl(1.0, 10),
            "lucir" => Self::lucir(
                Angles {
                    less_forget: 5.0,
                    growth: Growth::OldOverNew,
                    ranking: 1.0,
                    margin: 0.5,
                    hardest: 2,
                },
                10,
            ),
            "scr" => Self::scr(0.07, 100),
            "onpro" => Self::onpro(OnPro::default()),
            "onpro-lite" => Self {
                name: "onpro-lite".into(),
                ..Self::onpro(OnPro::lite())
            },
            // τ² = 4
            "bic" => Self::bic(4.0, 2.0, 0.1, 10),
            "gem" | "fdr" | "mir" | "aser" | "dvc" | "ocm" | "vcl" | "ncl" => {
                return Err(ContinualError::NotAvailable {
                    what: format!("method `{name}`"),
                    reason: format!("it is not built yet; methods: {}", Self::NAMES.join(", ")),
                });
            }
            _ => {
                return Err(crate::error::setting(
                    "the method",
                    format!("`{name}`"),
                    format!("one of {}", Self::NAMES.join(", ")),
                ));
            }
        })
    }

    /// The names that [`Method::preset`] knows.
    pub const NAMES: [&str; 22] = [
        "fine-tune",
        "joint",
        "er",
        "er-ace",
        "er-nearest-mean",
        "der",
        "der++",
        "lwf",
        "cpr",
        "l2",
        "ewc",
        "online-ewc",
        "si",
        "mas",
        "a-gem",
        "gdumb",
        "icarl",
        "lucir",
        "bic",
        "scr",
        "onpro",
        "onpro-lite",
    ];
}
