//! LingoCL on Split-Fashion-MNIST. L9 needs the images of MNIST and is not tried.

use super::arms::{
    Arm, Measured, accuracy, best_of, mean, measure, of_tasks, over_the_stream, plus,
};
use super::{Claim, Comparison, Paper, Request, Tried, Verdict, all_of};
use crate::error::Result;

pub const PAPER: Paper = Paper {
    name: "lingocl",
    title: "LingoCL",
    about: "1,000 images a class. L1 to L4 and L6 to L8 have learning rates of five from 0.01 to 0.2 that are best under replay on images held out from training, on seeds 0 and 1: one for rows that stay, one for rows that are learnt. Seeds of earlier forms of these claims are not used again: 1000 to 1004 (6,000 images a class, rates chosen on test images) and 2000 to 2004 (rates up to 0.05, which was best for rows that stay). Five seeds from 3000, in the present form, left L2, L5, L6 and L8 undecided; so all claims were tried again with twenty others, a number that was fixed before.",
    claims: &CLAIMS,
    first_seed: 4000,
    first_seeds_of: &[],
    run,
    seeds: (20, 5),
};

const CLAIMS: [Claim; 8] = [
    Claim {
        id: "lingocl.L1",
        claim: "a frozen head of class names beats an ordinary head under replay by 2 points",
        setting: "er, M = 200, 4 epochs a task, small CNN with batch-norm; final accuracy of frozen MiniLM rows against random rows that are learnt, the same neck, cosine and scale",
    },
    Claim {
        id: "lingocl.L2",
        claim: "freezing is what matters first",
        setting: "as L1: frozen MiniLM against learnt from MiniLM; frozen orthogonal against learnt from random",
    },
    Claim {
        id: "lingocl.L3",
        claim: "meaning matters",
        setting: "as L1: frozen MiniLM against the same vectors of other names, at the end and over the stream; plus 1 point against frozen orthogonal",
    },
    Claim {
        id: "lingocl.L4",
        claim: "features drift less",
        setting: "lucir; drift over 8 directions of the first task's test images from its end to the stream's; random learnt less frozen MiniLM, each with its own rate of L1, and both with the rate of the frozen",
    },
    Claim {
        id: "lingocl.L5",
        claim: "regularising hosts gain, by 1 point one of them, and none loses as much",
        setting: "online-ewc (penalty 10) and si without memory, small CNN without batch-norm, learning rate 0.01 for both heads; task-incremental accuracy",
    },
    Claim {
        id: "lingocl.L6",
        claim: "the upper bound stays within 0.7 points",
        setting: "all classes at once, frozen MiniLM and random learnt, both ways round",
    },
    Claim {
        id: "lingocl.L7",
        claim: "classes of few shots gain 3 points",
        setting: "6 classes, then 2 and 2 with 16 images each; final accuracy on these, frozen MiniLM against random learnt",
    },
    Claim {
        id: "lingocl.L8",
        claim: "longer sequences gain more",
        setting: "the gain of L1 with 10 tasks of a class against that with 5 of 2",
    },
];

/// How the head's rows come about.
#[derive(Clone, Copy)]
enum Rows {
    Trainable,
    Frozen,
    Learnt,
    Orthogonal,
    Shuffled,
}

impl Rows {
    fn name(self) -> &'static str {
        match self {
            Self::Trainable => "trainable",
            Self::Frozen => "frozen",
            Self::Learnt => "learnt-from-names",
            Self::Orthogonal => "orthogonal",
            Self::Shuffled => "shuffled",
        }
    }

    fn section(self) -> &'static str {
        match self {
            Self::Trainable => "[head]\nkind = \"cosine\"\nneck = 384\nonly_seen = true\n",
            Self::Frozen => "[head]\ntargets = \"fashion-mnist\"\n",
            Self::Learnt => "[head]\ntargets = \"fashion-mnist\"\nrows = \"learnt\"\n",
            Self::Orthogonal => "[head]\ntargets = \"fashion-mnist\"\ncontrol = \"orthogonal\"\n",
            Self::Shuffled => "[head]\ntargets = \"fashion-mnist\"\ncontrol = \"shuffled\"\n",
        }
    }
}

/// What learns beside the head.
#[derive(Clone, Copy)]
enum Host {
    Replay,
    Lucir,
    OnlineEwc,
    Si,
    Joint,
    FewShot,
    TenTasks,
}

impl Host {
    fn name(self) -> &'static str {
        match self {
            Self::Replay => "er",
            Self::Lucir => "lucir",
            Self::OnlineEwc => "online-ewc",
            Self::Si => "si",
            Self::Joint => "joint",
            Self::FewShot => "few-shot",
            Self::TenTasks => "ten-tasks",
        }
    }

    fn sections(self) -> &'static str {
        match self {
            Self::Replay => "[method]\nname = \"er\"\n",
            Self::Lucir => "[method]\nname = \"lucir\"\n[metrics]\ndrift = 8\n",
            Self::OnlineEwc => {
                "[method]\nname = \"online-ewc\"\nconvention = \"mammoth\"\nbeta = 10.0\n"
            }
            Self::Si => "[method]\nname = \"si\"\n",
            Self::Joint => "[method]\nname = \"joint\"\n",
            Self::FewShot => {
                "[method]\nname = \"er\"\n[stream]\nbase = 6\nincrement = 2\nlater_shots = 16\n"
            }
            Self::TenTasks => "[method]\nname = \"er\"\n[stream]\nincrement = 1\n",
        }
    }

    /// The network, and where it bears one only, the learning rate.
    fn network(self) -> (&'static str, Option<f64>) {
        match self {
            Self::OnlineEwc | Self::Si => ("kind = \"small-cnn\"\n", Some(0.01)),
            _ => (
                "kind = \"small-cnn-norms\"\ncalibration = \"balanced\"\n",
                None,
            ),
        }
    }
}

fn arm(request: &Request, host: Host, rows: Rows, rate: f64) -> Arm {
    let (network, _) = host.network();
    Arm {
        name: format!("lingocl-{}-{}", host.name(), rows.name()),
        recipe: format!(
            "{}{}{}[network]\n{network}[memory]\ncapacity = 200\n\
             [optimiser]\nlearning_rate = {rate}\nmomentum = 0.9\n\
             [training]\nbatch_size = 32\nreplay_batch = 32\nepochs = 4\n",
            data(request),
            host.sections(),
            rows.section()
        ),
    }
}

/// Learning rates that are tried, far enough for the best to lie between others.
const RATES: [f64; 5] = [0.2, 0.1, 0.05, 0.02, 0.01];

/// The learning rate, for rows that stay and for rows that are learnt.
fn tuned(request: &Request, rows: Rows) -> Result<f64> {
    let like = match rows {
        Rows::Frozen | Rows::Orthogonal | Rows::Shuffled => Rows::Frozen,
        Rows::Trainable | Rows::Learnt => Rows::Trainable,
    };
    let candidates = RATES.map(|rate| (rate, arm(request, Host::Replay, like, rate)));
    best_of(request, candidates, 0..2)
}

/// All of Fashion-MNIST would take two hours on two cores.
fn data(request: &Request) -> &'static str {
    match request.is_quick {
        true => super::arms::data(request),
        false => "[data]\nsource = \"fashion-mnist\"\ntrain_limit = 10000\n",
    }
}

/// Mean accuracy on the tasks after the first, in per cent.
fn of_later_tasks(found: &[Measured]) -> Vec<f64> {
    let of_one = |one: &Measured| {
        let later = one.last.get(1..).unwrap_or_default();
        100.0 * mean(later)
    };
    found.iter().map(of_one).collect()
}

fn drift(found: &[Measured]) -> Vec<f64> {
    found.iter().filter_map(|one| one.drift).collect()
}

fn minus(one: Vec<f64>, other: Vec<f64>) -> Vec<f64> {
    let pairs = one.into_iter().zip(other);
    pairs.map(|(one, other)| one - other).collect()
}

fn run(id: &str, request: &Request) -> Result<Tried> {
    let mut notes = Vec::new();
    let mut at_rate = |host: Host, rows: Rows, rate: f64| -> Result<Vec<Measured>> {
        let arm = arm(request, host, rows, rate);
        let found = measure(request, &arm, request.seeds())?;
        notes.push(format!(
            "{}: {:.2} % at the end, {:.2} % over the stream, rate {rate}",
            arm.name,
            mean(&accuracy(&found)),
            mean(&over_the_stream(&found))
        ));
        Ok(found)
    };
    let mut of = |host: Host, rows: Rows| {
        let rate = match host.network().1 {
            Some(rate) => rate,
            None => tuned(request, rows)?,
        };
        at_rate(host, rows, rate)
    };
    use Host::{FewShot, Joint, Lucir, OnlineEwc, Replay, Si, TenTasks};
    use Rows::{Frozen, Learnt, Orthogonal, Shuffled, Trainable};
    let pairs: Vec<(&str, Vec<f64>, Vec<f64>)> = match id {
        "lingocl.L1" => vec![(
            "frozen − 2 − trainable, points",
            plus(accuracy(&of(Replay, Frozen)?), -2.0),
            accuracy(&of(Replay, Trainable)?),
        )],
        "lingocl.L2" => vec![
            (
                "frozen − learnt from names, points",
                accuracy(&of(Replay, Frozen)?),
                accuracy(&of(Replay, Learnt)?),
            ),
            (
                "frozen orthogonal − trainable, points",
                accuracy(&of(Replay, Orthogonal)?),
                accuracy(&of(Replay, Trainable)?),
            ),
        ],
        "lingocl.L3" => {
            let (frozen, shuffled) = (of(Replay, Frozen)?, of(Replay, Shuffled)?);
            vec![
                (
                    "names − shuffled names, points",
                    accuracy(&frozen),
                    accuracy(&shuffled),
                ),
                (
                    "over the stream: names − shuffled names, points",
                    over_the_stream(&frozen),
                    over_the_stream(&shuffled),
                ),
                (
                    "names + 1 − orthogonal, points",
                    plus(accuracy(&frozen), 1.0),
                    accuracy(&of(Replay, Orthogonal)?),
                ),
            ]
        }
        "lingocl.L4" => {
            let frozen = drift(&of(Lucir, Frozen)?);
            let own = drift(&of(Lucir, Trainable)?);
            // A larger rate alone makes features turn more.
            let rate = tuned(request, Frozen)?;
            vec![
                ("drift, trainable − frozen", own, frozen.clone()),
                (
                    "drift at one rate, trainable − frozen",
                    drift(&at_rate(Lucir, Trainable, rate)?),
                    frozen,
                ),
            ]
        }
        "lingocl.L5" => {
            let (ewc, si) = (
                (
                    of_tasks(&of(OnlineEwc, Frozen)?),
                    of_tasks(&of(OnlineEwc, Trainable)?),
                ),
                (of_tasks(&of(Si, Frozen)?), of_tasks(&of(Si, Trainable)?)),
            );
            vec![
                (
                    "online-ewc: frozen − 1 − trainable, points",
                    plus(ewc.0.clone(), -1.0),
                    ewc.1.clone(),
                ),
                (
                    "si: frozen − 1 − trainable, points",
                    plus(si.0.clone(), -1.0),
                    si.1.clone(),
                ),
                (
                    "online-ewc: frozen + 1 − trainable, points",
                    plus(ewc.0, 1.0),
                    ewc.1,
                ),
                ("si: frozen + 1 − trainable, points", plus(si.0, 1.0), si.1),
            ]
        }
        "lingocl.L6" => {
            let (frozen, trainable) = (
                accuracy(&of(Joint, Frozen)?),
                accuracy(&of(Joint, Trainable)?),
            );
            vec![
                (
                    "frozen + 0.7 − trainable, points",
                    plus(frozen.clone(), 0.7),
                    trainable.clone(),
                ),
                (
                    "trainable + 0.7 − frozen, points",
                    plus(trainable, 0.7),
                    frozen,
                ),
            ]
        }
        "lingocl.L7" => vec![(
            "classes of few shots: frozen − 3 − trainable, points",
            plus(of_later_tasks(&of(FewShot, Frozen)?), -3.0),
            of_later_tasks(&of(FewShot, Trainable)?),
        )],
        _ => {
            let mut gain = |host| -> Result<Vec<f64>> {
                Ok(minus(
                    accuracy(&of(host, Frozen)?),
                    accuracy(&of(host, Trainable)?),
                ))
            };
            vec![(
                "gain of 10 tasks − gain of 5, points",
                gain(TenTasks)?,
                gain(Replay)?,
            )]
        }
    };
    let mut tried = Tried::compared(pairs, notes)?;
    if id == "lingocl.L5" {
        tried.verdict = of_gains_and_losses(&tried.comparisons);
    }
    Ok(tried)
}

/// Of the first two at least one must be above zero, of the others all.
fn of_gains_and_losses(comparisons: &[Comparison]) -> Verdict {
    let of = |one: &Comparison| Verdict::of(one.mean, one.half_width);
    let verdicts: Vec<Verdict> = comparisons.iter().map(of).collect();
    let (gains, losses) = verdicts.split_at(2);
    let gain = match gains {
        some if some.contains(&Verdict::Reproduced) => Verdict::Reproduced,
        none if none.iter().all(|one| *one == Verdict::NotReproduced) => Verdict::NotReproduced,
        _ => Verdict::Inconclusive,
    };
    all_of(&[&[gain], losses].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_gain_is_enough_and_one_loss_too_much() {
        let verdict = |means: [f64; 4]| {
            let comparison = |mean| Comparison {
                what: String::new(),
                one: Vec::new(),
                other: Vec::new(),
                mean,
                half_width: 1.0,
            };
            of_gains_and_losses(&means.map(comparison))
        };
        let (above, around, below) = (2.0, 0.0, -2.0);
        for (means, expected) in [
            ([above, below, above, above], Verdict::Reproduced),
            ([below, around, above, above], Verdict::Inconclusive),
            ([below, below, above, above], Verdict::NotReproduced),
            ([above, above, below, above], Verdict::NotReproduced),
            ([above, above, around, above], Verdict::Inconclusive),
        ] {
            assert_eq!(verdict(means), expected, "{means:?}");
        }
    }
}
