//! Refresh learning ("A Unified and General Framework for Continual Learning", ICLR 2024) on
//! Split-Fashion-MNIST with mammoth's small network. What holds exactly is a test of `oncefit-continual`.

use super::arms::{Arm, Flatness, Measured, accuracy, best_of, data, measure, of_tasks, plus};
use super::{Claim, Paper, Request, Tried};
use crate::error::Result;

pub const PAPER: Paper = Paper {
    name: "refresh",
    title: "Refresh learning",
    about: "Settings are the presets', but for online-ewc's penalty, 10 instead of 90, with which some seeds diverged. The displacement of R2 to R5 is the best of three on images held out from training, on seeds 0 to 2. Ten seeds from 1000, in the same form, left R1 to R4 undecided; so all claims were tried again with twenty others, a number that was fixed before.",
    claims: &CLAIMS,
    first_seed: 2000,
    first_seeds_of: &[],
    run,
    seeds: (20, 5),
};

const CLAIMS: [Claim; 6] = [
    Claim {
        id: "refresh.R1",
        claim: "refresh learning does not hurt its host",
        setting: "final accuracy (oEWC: task-incremental) of der++, er, online-ewc with refresh, plus 1 point, against without; released form, its constants",
    },
    Claim {
        id: "refresh.R2",
        claim: "refresh learning helps",
        setting: "der++, displacement of 1e-5, 1e-4 or 1e-3; final accuracy, against der++ alone and with the released code's weight decay",
    },
    Claim {
        id: "refresh.R3",
        claim: "refresh learning ends in a flatter minimum",
        setting: "der++ as in R2, the first 100 test images of each task: rise of the loss under a random change of 1 %, squared gradient; without less with refresh",
    },
    Claim {
        id: "refresh.R4",
        claim: "the effect is not that of the released code's weight decay",
        setting: "der++ with refresh as in R2 against der++ with weight decay 1e-4",
    },
    Claim {
        id: "refresh.R5",
        claim: "the direction of unlearning matters",
        setting: "der++ with refresh as in R2 against moves of the same length in a random direction",
    },
    Claim {
        id: "refresh.R6",
        claim: "replay beats regularisation by 30 points",
        setting: "worst of er, der, der++ less 30 points against best of fine-tune, online-ewc, si, lwf; final accuracy",
    },
];

fn arm(request: &Request, name: &str, method: &str, sections: &str) -> Arm {
    // The preset's penalty of 90 diverges with some seeds; 10 is the authors' for CIFAR.
    let options = match method {
        "online-ewc" => "convention = \"mammoth\"\nbeta = 10.0\n",
        _ => "",
    };
    let data = data(request);
    Arm {
        name: name.into(),
        recipe: format!("{data}[method]\nname = \"{method}\"\n{options}{sections}"),
    }
}

fn refreshed(displacement: f64) -> String {
    format!("[refresh]\nmode = \"repo\"\ndisplacement = {displacement:e}\n")
}

/// The displacement.
fn tuned(request: &Request) -> Result<f64> {
    let candidates = [1e-5, 1e-4, 1e-3].map(|displacement| {
        let name = format!("der++-refresh-{displacement:e}");
        let arm = arm(request, &name, "der++", &refreshed(displacement));
        (displacement, arm)
    });
    best_of(request, candidates, 0..3)
}

fn run(id: &str, request: &Request) -> Result<Tried> {
    let of = |name: &str, method: &str, sections: &str| {
        measure(
            request,
            &arm(request, name, method, sections),
            request.seeds(),
        )
    };
    match id {
        "refresh.R1" => {
            let mut found = Vec::new();
            for host in ["der++", "er", "online-ewc"] {
                let value = match host {
                    "online-ewc" => of_tasks,
                    _ => accuracy,
                };
                let with = of(&format!("{host}-refresh-1e-5"), host, &refreshed(1e-5))?;
                let without = value(&of(host, host, "")?);
                let what = format!("{host}: with + 1 − without, points");
                found.push((what, plus(value(&with), 1.0), without));
            }
            Tried::compared(found, Vec::new())
        }
        "refresh.R6" => {
            let group = |names: &[&str], pick: fn(f64, f64) -> f64| -> Result<Vec<f64>> {
                let mut picked: Option<Vec<f64>> = None;
                for name in names {
                    let found = accuracy(&of(name, name, "")?);
                    picked = Some(match picked {
                        None => found,
                        Some(before) => {
                            let pairs = before.into_iter().zip(found);
                            pairs.map(|(one, other)| pick(one, other)).collect()
                        }
                    });
                }
                Ok(picked.unwrap_or_default())
            };
            let replay = group(&["er", "der", "der++"], f64::min)?;
            let others = group(&["fine-tune", "online-ewc", "si", "lwf"], f64::max)?;
            let what = "worst replay − 30 − best of the others, points";
            Tried::compared(vec![(what, plus(replay, -30.0), others)], Vec::new())
        }
        _ => {
            let displacement = tuned(request)?;
            let name = format!("der++-refresh-{displacement:e}");
            let with = of(&name, "der++", &refreshed(displacement))?;
            let mut notes = vec![format!("displacement {displacement:e}")];
            let decayed = || -> Result<Vec<f64>> {
                let sections = "[optimiser]\nweight_decay = 1e-4\n";
                Ok(accuracy(&of("der++-decay", "der++", sections)?))
            };
            let against_decay = "refresh − weight decay 1e-4, points".to_owned();
            let found = match id {
                "refresh.R3" => {
                    let without = of("der++", "der++", "")?;
                    let of_all = |found: &[Measured], value: fn(&Flatness) -> f64| {
                        let all = found.iter().filter_map(|one| one.flatness.as_ref());
                        all.map(value).collect::<Vec<f64>>()
                    };
                    let mut both = Vec::new();
                    for (what, value) in [
                        (
                            "rise of the loss",
                            (|flat| flat.rise) as fn(&Flatness) -> f64,
                        ),
                        ("squared gradient", |flat| flat.squared_gradient),
                    ] {
                        let (one, other) = (of_all(&without, value), of_all(&with, value));
                        both.push((format!("{what}: without − with"), one, other));
                    }
                    both
                }
                "refresh.R4" => vec![(against_decay, accuracy(&with), decayed()?)],
                "refresh.R5" => {
                    let sections = format!("{}direction = \"random\"\n", refreshed(displacement));
                    let name = format!("der++-random-{displacement:e}");
                    let random = accuracy(&of(&name, "der++", &sections)?);
                    let what = "up the gradient − in a random direction, points";
                    vec![(what.to_owned(), accuracy(&with), random)]
                }
                _ => {
                    let without = accuracy(&of("der++", "der++", "")?);
                    let with = accuracy(&with);
                    let pairs = with.iter().zip(&without);
                    let better = pairs.filter(|(with, without)| with > without).count();
                    notes.push(format!("better with {better} of {} seeds", with.len()));
                    vec![
                        ("with − without, points".to_owned(), with.clone(), without),
                        (against_decay, with, decayed()?),
                    ]
                }
            };
            Tried::compared(found, notes)
        }
    }
}
