//! OnPro on Split-Fashion-MNIST, the lite profile (brief `onpro` §5).

use super::arms::{Arm, Measured, Prototypes, accuracy, measure, over_the_stream, plus};
use super::{Claim, Paper, Request, Tried};
use crate::error::Result;

pub const PAPER: Paper = Paper {
    name: "onpro",
    title: "OnPro",
    claims: &CLAIMS,
    run,
    seeds: (5, 5),
};

const CLAIMS: [Claim; 7] = [
    Claim {
        id: "onpro.O1",
        claim: "OnPro beats plain replay online by 3 points",
        setting: "lite profile, M = 100; final accuracy against ER, memory batch 32; each at the best of three learning rates on calibration seeds",
    },
    Claim {
        id: "onpro.O2",
        claim: "the gain is not only more compute",
        setting: "against ER with the same views and as many images in a step (13 memory batches)",
    },
    Claim {
        id: "onpro.O3",
        claim: "the equilibrium loss separates classes",
        setting: "test images, mean over pairs of classes of 1 − cosine of their mean projections; with against without the loss",
    },
    Claim {
        id: "onpro.O4",
        claim: "the equilibrium loss helps accuracy",
        setting: "final accuracy with against without the loss",
    },
    Claim {
        id: "onpro.O5",
        claim: "feedback goes to the pairs of classes that are confused",
        setting: "rank correlation over pairs of classes of the feedback's probability and the test images' confusions at the end, less 0.2, against 0",
    },
    Claim {
        id: "onpro.O6",
        claim: "feedback does not hurt",
        setting: "final accuracy, plus 1 point, against pairs of classes that are all alike",
    },
    Claim {
        id: "onpro.O7",
        claim: "OnPro is better at any time by 2 points",
        setting: "mean accuracy over the stream, against ER as in O1",
    },
];

const VIEWS: &str = "[augmentation]\nresized_crop = 0.5\nhorizontal_flip = true\n";

/// Methods of the claims, with what their recipes say beside the profile.
#[derive(Clone, Copy, PartialEq)]
enum Learning {
    Er,
    /// With OnPro's views and number of images.
    ErOfEqualCost,
    OnPro,
    WithoutEquilibrium,
    UniformPairs,
}

impl Learning {
    fn name(self) -> &'static str {
        match self {
            Self::Er => "er",
            Self::ErOfEqualCost => "er-equal-cost",
            Self::OnPro => "onpro",
            Self::WithoutEquilibrium => "onpro-without-equilibrium",
            Self::UniformPairs => "onpro-uniform-pairs",
        }
    }

    fn sections(self) -> String {
        let er = "[training]\nreplay_batch = 32\n[method]\nname = \"er\"\n";
        let onpro = format!("{VIEWS}[method]\nname = \"onpro-lite\"\n");
        match self {
            Self::Er => er.into(),
            Self::ErOfEqualCost => format!("{VIEWS}{er}draws = 13\n"),
            Self::OnPro => onpro,
            Self::WithoutEquilibrium => format!("{onpro}[onpro]\nequilibrium = 0.0\n"),
            Self::UniformPairs => format!("{onpro}[onpro]\npairs = \"uniform\"\n"),
        }
    }

    /// Whose learning rate it has.
    fn tuned_as(self) -> Self {
        match self {
            Self::Er | Self::ErOfEqualCost => self,
            _ => Self::OnPro,
        }
    }
}

/// The authors' Adam with another rate; 400 images of each class in the quick form, 6,000 in the full.
fn arm(request: &Request, learning: Learning, rate: f64) -> Arm {
    let limit = match request.is_quick {
        true => "train_limit = 4000\n",
        false => "",
    };
    Arm {
        name: format!("{}-{rate:e}", learning.name()),
        recipe: format!(
            "[data]\nsource = \"fashion-mnist\"\n{limit}\
             [network]\nkind = \"small-cnn-norms\"\ncalibration = \"balanced\"\ninitialisation = \"pytorch\"\n\
             [memory]\ncapacity = 100\n\
             [optimiser]\nkind = \"adam\"\nlearning_rate = {rate:e}\nbeta2 = 0.99\nweight_decay = 1e-4\n{}",
            learning.sections()
        ),
    }
}

/// The learning rate with the best final accuracy on a seed that no claim uses.
fn tuned(request: &Request, learning: Learning) -> Result<f64> {
    let mut best = (f64::NEG_INFINITY, 0.0);
    for rate in [5e-4, 2e-3, 5e-3] {
        let found = measure(request, &arm(request, learning, rate), 0..1)?;
        let accuracy = accuracy(&found)[0];
        if accuracy > best.0 {
            best = (accuracy, rate);
        }
    }
    Ok(best.1)
}

fn of_prototypes(found: &[Measured], value: fn(&Prototypes) -> f64) -> Vec<f64> {
    let all = found.iter().filter_map(|one| one.prototypes.as_ref());
    all.map(value).collect()
}

fn mean_percent(values: &[f64]) -> f64 {
    100.0 * values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn run(id: &str, request: &Request) -> Result<Tried> {
    let mut notes = Vec::new();
    let mut of = |learning: Learning| -> Result<Vec<Measured>> {
        let rate = tuned(request, learning.tuned_as())?;
        let found = measure(request, &arm(request, learning, rate), request.seeds())?;
        notes.push(format!(
            "{}: {:.2} % at the end, {:.2} % over the stream, rate {rate:e}",
            learning.name(),
            mean_percent(&accuracy(&found)),
            mean_percent(&over_the_stream(&found)),
        ));
        Ok(found)
    };
    let onpro = of(Learning::OnPro)?;
    let (what, one, other) = match id {
        "onpro.O1" => (
            "onpro − 3 points − er",
            plus(accuracy(&onpro), -0.03),
            accuracy(&of(Learning::Er)?),
        ),
        "onpro.O2" => (
            "onpro − er of equal cost",
            accuracy(&onpro),
            accuracy(&of(Learning::ErOfEqualCost)?),
        ),
        "onpro.O3" => (
            "separation, with − without",
            of_prototypes(&onpro, |found| found.separation),
            of_prototypes(&of(Learning::WithoutEquilibrium)?, |found| found.separation),
        ),
        "onpro.O4" => (
            "with − without",
            accuracy(&onpro),
            accuracy(&of(Learning::WithoutEquilibrium)?),
        ),
        "onpro.O5" => {
            let found = of_prototypes(&onpro, |found| found.correlation);
            let none = vec![0.0; found.len()];
            ("correlation − 0.2", plus(found, -0.2), none)
        }
        "onpro.O6" => (
            "near pairs + 1 point − uniform pairs",
            plus(accuracy(&onpro), 0.01),
            accuracy(&of(Learning::UniformPairs)?),
        ),
        _ => (
            "over the stream: onpro − 2 points − er",
            plus(over_the_stream(&onpro), -0.02),
            over_the_stream(&of(Learning::Er)?),
        ),
    };
    Tried::compared(vec![(what, one, other)], notes)
}
