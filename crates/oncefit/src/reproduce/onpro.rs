//! OnPro on Split-Fashion-MNIST, the lite profile.

use super::arms::{
    Arm, Measured, Prototypes, accuracy, best_of, mean, mean_cost, measure, over_the_stream, plus,
};
use super::{Claim, Paper, Request, Tried};
use crate::error::Result;
use crate::format::count;

pub const PAPER: Paper = Paper {
    name: "onpro",
    title: "OnPro",
    about: "Each side has the learning rate of seven that is best on images held out from training, on seeds 0 and 1. Seeds of earlier forms of these claims are not used again: 1000 to 1004 (6,000 images a class, rates chosen on test images of seed 0) and 2000 to 2004 (three rates, of which the largest was best for all sides). Five seeds from 3000, in the present form, left O1, O2, O4, O6 and O7 undecided; so all claims were tried again with twenty others, a number that was fixed before.",
    claims: &CLAIMS,
    first_seed: 4000,
    first_seeds_of: &[],
    run,
    seeds: (20, 5),
};

const CLAIMS: [Claim; 7] = [
    Claim {
        id: "onpro.O1",
        claim: "OnPro beats plain replay online by 3 points",
        setting: "lite profile: 1,000 images a class, M = 100; final accuracy against ER, memory batch 32",
    },
    Claim {
        id: "onpro.O2",
        claim: "the gain is not only more compute",
        setting: "against ER with the same views and as many images in a step (13 memory batches), at a learning rate of its own",
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

/// The authors' Adam with another rate; 400 images of each class in the quick form, 1,000 in the full.
fn arm(request: &Request, learning: Learning, rate: f64) -> Arm {
    let limit = if request.is_quick { 4000 } else { 10_000 };
    Arm {
        name: format!("{}-{rate:e}", learning.name()),
        recipe: format!(
            "[data]\nsource = \"fashion-mnist\"\ntrain_limit = {limit}\n\
             [network]\nkind = \"small-cnn-norms\"\ncalibration = \"balanced\"\ninitialisation = \"pytorch\"\n\
             [memory]\ncapacity = 100\n\
             [optimiser]\nkind = \"adam\"\nlearning_rate = {rate:e}\nbeta2 = 0.99\nweight_decay = 1e-4\n{}",
            learning.sections()
        ),
    }
}

/// Learning rates that are tried, far enough for the best to lie between others.
const RATES: [f64; 7] = [2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1];

/// Its learning rate.
fn tuned(request: &Request, learning: Learning) -> Result<f64> {
    let candidates = RATES.map(|rate| (rate, arm(request, learning, rate)));
    best_of(request, candidates, 0..2)
}

fn of_prototypes(found: &[Measured], value: fn(&Prototypes) -> f64) -> Vec<f64> {
    let all = found.iter().filter_map(|one| one.prototypes.as_ref());
    all.map(value).collect()
}

fn run(id: &str, request: &Request) -> Result<Tried> {
    let mut notes = Vec::new();
    let mut of = |learning: Learning| -> Result<Vec<Measured>> {
        let rate = tuned(request, learning.tuned_as())?;
        let found = measure(request, &arm(request, learning, rate), request.seeds())?;
        notes.push(format!(
            "{}: {:.2} % at the end, {:.2} % over the stream, rate {rate:e}, {} train-MACs a run",
            learning.name(),
            mean(&accuracy(&found)),
            mean(&over_the_stream(&found)),
            count(mean_cost(&found) as u64),
        ));
        Ok(found)
    };
    let onpro = of(Learning::OnPro)?;
    let (what, one, other) = match id {
        "onpro.O1" => (
            "onpro − 3 − er, points",
            plus(accuracy(&onpro), -3.0),
            accuracy(&of(Learning::Er)?),
        ),
        "onpro.O2" => (
            "onpro − er of equal cost, points",
            accuracy(&onpro),
            accuracy(&of(Learning::ErOfEqualCost)?),
        ),
        "onpro.O3" => (
            "separation, with − without",
            of_prototypes(&onpro, |found| found.separation),
            of_prototypes(&of(Learning::WithoutEquilibrium)?, |found| found.separation),
        ),
        "onpro.O4" => (
            "with − without, points",
            accuracy(&onpro),
            accuracy(&of(Learning::WithoutEquilibrium)?),
        ),
        "onpro.O5" => {
            let found = of_prototypes(&onpro, |found| found.correlation);
            let none = vec![0.0; found.len()];
            ("correlation − 0.2", plus(found, -0.2), none)
        }
        "onpro.O6" => (
            "near pairs + 1 − uniform pairs, points",
            plus(accuracy(&onpro), 1.0),
            accuracy(&of(Learning::UniformPairs)?),
        ),
        _ => (
            "over the stream: onpro − 2 − er, points",
            plus(over_the_stream(&onpro), -2.0),
            over_the_stream(&of(Learning::Er)?),
        ),
    };
    Tried::compared(vec![(what, one, other)], notes)
}
