//! DepS (Annavajjala et al., 2024) beside progressive shrinking and training all from the start, on
//! fm-nano with kernel 5 and resolution 28.

use std::collections::BTreeMap;

use super::supernets::{
    Arm, Measured, difference, mean_cost, measure, network_with, test_accuracies,
};
use super::{Claim, Paper, Request, Tried, Verdict, all_of, holds};
use crate::error::Result;
use crate::loaded::LoadedRun;

pub const PAPER: Paper = Paper {
    name: NAME,
    title: "DepS: delayed shrinking",
    about: "fm-nano with kernel 5 at 28×28, 4,000 images, 20 epochs. All arms have one learning rate, 0.05; none was tuned. Until 29 November 2026 progressive shrinking trained its largest network with dropout, which the paper's does not have; it was run again on the same seeds.",
    claims: &CLAIMS,
    first_seed: 1000,
    first_seeds_of: &[],
    seeds: (5, 5),
    run,
};

const NAME: &str = "deps";

const CLAIMS: [Claim; 8] = [
    Claim {
        id: "deps.1",
        claim: "as good as progressive shrinking for a fraction of its cost (2.1 times by arithmetic)",
        setting: "mean of six uniform networks, DepS − progressive + 0.5 points; train-MACs at most 0.65 of it",
    },
    Claim {
        id: "deps.2",
        claim: "small networks are better than with progressive shrinking (by 1.3 to 2.1 points)",
        setting: "the smallest network, DepS − progressive",
    },
    Claim {
        id: "deps.3",
        claim: "the ramp protects the largest network when shrinking begins",
        setting: "its loss of accuracy over the epoch in which shrinking begins, half of that without ramp − with ramp of one epoch",
    },
    Claim {
        id: "deps.4",
        claim: "delay is good for the largest network and cheap",
        setting: "largest network, delay 0.5 − 0, threshold 0.5 points; smallest network, delay 0.5 − 0.75; train-MACs at most 0.8",
    },
    Claim {
        id: "deps.5",
        claim: "soft labels of the largest network are good for the small ones",
        setting: "mean of six uniform networks, soft − hard labels + 0.2 points",
    },
    Claim {
        id: "deps.6",
        claim: "the smallest network in every step is good for it",
        setting: "smallest network, with − without",
    },
    Claim {
        id: "deps.7",
        claim: "how gradients are aggregated",
        setting: "mean of six uniform networks, sum − avg and sum − avg_sqrt: told, no claim",
    },
    Claim {
        id: "deps.8",
        claim: "27 networks whose widths follow their depths lose nothing (CompOFA)",
        setting: "mean of six of the 27 networks at about equal train-MACs, those 27 − all + 0.3 points",
    },
];

/// Uniform networks: name, depth, expansion.
const UNIFORM: [(&str, i64, i64); 6] = [
    ("D1 E3", 1, 3),
    ("D2 E3", 2, 3),
    ("D3 E3", 3, 3),
    ("D2 E6", 2, 6),
    ("D3 E4", 3, 4),
    ("D3 E6", 3, 6),
];
const SMALLEST: &str = "D1 E3";
const LARGEST: &str = "D3 E6";
/// Networks whose expansion follows the depth, unit by unit: 1 → 3, 2 → 4, 3 → 6.
const COMPOUND: [(&str, [i64; 3]); 6] = [
    ("compound 111", [1, 1, 1]),
    ("compound 222", [2, 2, 2]),
    ("compound 333", [3, 3, 3]),
    ("compound 123", [1, 2, 3]),
    ("compound 321", [3, 2, 1]),
    ("compound 213", [2, 1, 3]),
];

/// DepS, and what is varied in it.
const SETTINGS: [(&str, &str); 10] = [
    ("deps", "delay = 0.5\nramp_epochs = 1"),
    ("deps-no-ramp", "delay = 0.5\nramp_epochs = 0"),
    ("deps-delay-0", "delay = 0.0\nramp_epochs = 0"),
    ("deps-delay-25", "delay = 0.25\nramp_epochs = 1"),
    ("deps-delay-75", "delay = 0.75\nramp_epochs = 1"),
    ("deps-hard-labels", "distillation = \"none\""),
    ("deps-no-smallest", "smallest = false"),
    ("deps-avg", "aggregation = \"avg\""),
    ("deps-avg_sqrt", "aggregation = \"avg_sqrt\""),
    ("deps-compound", "sampler = \"compound\""),
];

fn names() -> [&'static str; 6] {
    UNIFORM.map(|(name, ..)| name)
}

/// The plan's scale: epochs, and where images come from.
struct Scale {
    epochs: u32,
    data: &'static str,
}

impl Scale {
    fn of(request: &Request) -> Self {
        Self::new(request.is_quick)
    }

    fn new(is_quick: bool) -> Self {
        match is_quick {
            true => Self {
                epochs: 6,
                data: "source = \"embedded\"\nvalidation = 1000\ntrain_limit = 2000",
            },
            false => Self {
                epochs: 20,
                data: "source = \"fashion-mnist\"\nvalidation = 1000\ntrain_limit = 4000",
            },
        }
    }

    /// A share of the epochs, at least one.
    fn epochs(&self, share: f64) -> u32 {
        ((f64::from(self.epochs) * share).round() as u32).max(1)
    }

    fn arm(&self, name: &str, schedule: &str) -> Arm {
        let data = self.data;
        Arm {
            name: name.into(),
            recipe: format!(
                "[data]\n{data}\n[space]\nfamily = \"fm-nano\"\nfix = {{ kernel = [5], resolution = [28] }}\n\
                 [optimiser]\nlearning_rate = 0.05\nweight_decay = 3e-5\n[training]\nbatch_size = 64\n\
                 [evaluation]\nevery_epochs = 1\ncalibration_images = 500\n{schedule}"
            ),
        }
    }

    /// One of [`SETTINGS`], by name.
    fn deps(&self, name: &str) -> Arm {
        let epochs = self.epochs;
        let found = SETTINGS.iter().find(|(known, _)| *known == name);
        let (name, settings) = found.expect("a name of the list");
        self.arm(
            name,
            &format!("[schedule]\nkind = \"deps\"\nepochs = {epochs}\nnetworks = 4\n{settings}"),
        )
    }

    /// Progressive shrinking without a kernel phase, in the proportions 12/2/8/2/8 of 20 epochs.
    fn progressive(&self) -> Arm {
        let mut text = "[schedule]\nkind = \"progressive\"\n".to_owned();
        let phases = [
            (0.6, "{ }", 1, 1.0, 0.0),
            (0.1, "{ depth = [2, 3] }", 2, 0.031, 0.0),
            (0.4, "{ depth = \"all\" }", 2, 0.092, 0.16),
            (0.1, "{ depth = \"all\", expand = [4, 6] }", 4, 0.031, 0.0),
            (0.4, "{ depth = \"all\", expand = \"all\" }", 4, 0.092, 0.16),
        ];
        for (share, open, networks, rate, warm_up) in phases {
            let epochs = self.epochs(share);
            text += &format!(
                "[[schedule.phases]]\nepochs = {epochs}\nopen = {open}\nnetworks = {networks}\n\
                 learning_rate = {rate}\nwarm_up_epochs = {warm_up}\ndropout = {}\n",
                networks > 1
            );
        }
        self.arm("progressive", &text)
    }
}

/// All that the claims ask of a trained supernet.
fn values(run: &mut LoadedRun) -> Result<BTreeMap<String, f64>> {
    let mut subnets = Vec::new();
    for (name, depth, expand) in UNIFORM {
        let subnet = network_with(&run.space, |slot| match slot.name.as_str() {
            "depth" => depth,
            _ => expand,
        })?;
        subnets.push((name, subnet));
    }
    for (name, depths) in COMPOUND {
        let unit = |path: &str| {
            let number = path.strip_prefix("unit").and_then(|rest| rest.get(..1));
            number.and_then(|number| number.parse::<usize>().ok())
        };
        let subnet = network_with(&run.space, |slot| {
            let depth = unit(&slot.path).map_or(1, |unit| depths[unit - 1]);
            match slot.name.as_str() {
                "depth" => depth,
                _ => [3, 4, 6][depth as usize - 1],
            }
        })?;
        subnets.push((name, subnet));
    }
    let mut found = test_accuracies(run, &subnets)?;
    // What the largest network lost over the epoch in which others join.
    let settings = &run.run.recipe().schedule;
    let begins = (settings.delay * f64::from(settings.epochs) - settings.ramp_epochs).round();
    let rows = run.run.metrics()?;
    let after = |epoch: f64| {
        let row = rows.iter().rfind(|row| (row.epoch - epoch).abs() < 1e-6)?;
        let largest = row.accuracies.iter().find(|(name, _)| name == "largest");
        largest.map(|(_, accuracy)| *accuracy)
    };
    if let (Some(before), Some(then)) = (after(begins), after(begins + 1.0)) {
        found.insert("lost at shrinking".into(), 100.0 * (before - then));
    }
    Ok(found)
}

fn run(id: &str, request: &Request) -> Result<Tried> {
    let scale = Scale::of(request);
    let of = |arm: &Arm| measure(request, NAME, arm, &values);
    let deps = of(&scale.deps("deps"))?;
    match id {
        "deps.1" => {
            let other = of(&scale.progressive())?;
            let mut tried = difference(
                "mean of six, DepS − progressive",
                &deps,
                &other,
                -0.5,
                &names(),
            )?;
            let ratio = mean_cost(&deps) / mean_cost(&other);
            tried.notes.push(format!(
                "train-MACs {:.3e} against {:.3e}: {ratio:.3} of it (limit 0.65)",
                mean_cost(&deps),
                mean_cost(&other)
            ));
            tried.verdict = all_of(&[tried.verdict, holds(ratio <= 0.65)]);
            Ok(tried)
        }
        "deps.2" => {
            let other = of(&scale.progressive())?;
            difference(
                "smallest, DepS − progressive",
                &deps,
                &other,
                0.0,
                &[SMALLEST],
            )
        }
        "deps.3" => {
            let abrupt = of(&scale.deps("deps-no-ramp"))?;
            let lost = |all: &[Measured], factor: f64| -> Result<Vec<f64>> {
                let each = all
                    .iter()
                    .map(|one| Ok(factor * one.get("lost at shrinking")?));
                each.collect()
            };
            let what = "half the accuracy lost without ramp − lost with it, points";
            Tried::compared(
                vec![(what, lost(&abrupt, 0.5)?, lost(&deps, 1.0)?)],
                vec!["accuracies on validation images".into()],
            )
        }
        "deps.4" => {
            let at_once = of(&scale.deps("deps-delay-0"))?;
            let late = of(&scale.deps("deps-delay-75"))?;
            let early = of(&scale.deps("deps-delay-25"))?;
            let first = difference("largest, delay 0.5 − 0", &deps, &at_once, 0.5, &[LARGEST])?;
            let second = difference("smallest, delay 0.5 − 0.75", &deps, &late, 0.0, &[SMALLEST])?;
            let ratio = mean_cost(&deps) / mean_cost(&at_once);
            let mut notes = vec![format!(
                "train-MACs: {ratio:.3} of those without delay (limit 0.8)"
            )];
            for (name, arm) in [
                ("0", &at_once),
                ("0.25", &early),
                ("0.5", &deps),
                ("0.75", &late),
            ] {
                notes.push(format!(
                    "delay {name}: largest {:.2} %, smallest {:.2} %",
                    overall(arm, LARGEST)?,
                    overall(arm, SMALLEST)?
                ));
            }
            Ok(Tried {
                verdict: all_of(&[first.verdict, second.verdict, holds(ratio <= 0.8)]),
                comparisons: [first.comparisons, second.comparisons].concat(),
                notes,
            })
        }
        "deps.5" => {
            let hard = of(&scale.deps("deps-hard-labels"))?;
            difference(
                "mean of six, soft − hard labels",
                &deps,
                &hard,
                -0.2,
                &names(),
            )
        }
        "deps.6" => {
            let without = of(&scale.deps("deps-no-smallest"))?;
            difference(
                "smallest, with − without it in every step",
                &deps,
                &without,
                0.0,
                &[SMALLEST],
            )
        }
        "deps.7" => {
            let (mut comparisons, mut notes) = (Vec::new(), Vec::new());
            for mode in ["avg", "avg_sqrt"] {
                let other = of(&scale.deps(&format!("deps-{mode}")))?;
                let what = format!("mean of six, sum − {mode}");
                let tried = difference(&what, &deps, &other, 0.0, &names())?;
                comparisons.extend(tried.comparisons);
                let word = match tried.verdict {
                    Verdict::Reproduced => "better than",
                    Verdict::NotReproduced => "worse than",
                    _ => "not decided beside",
                };
                notes.push(format!("sum is {word} {mode}"));
            }
            Ok(Tried {
                verdict: Verdict::Told,
                comparisons,
                notes,
            })
        }
        _ => {
            let compound = of(&scale.deps("deps-compound"))?;
            let names = COMPOUND.map(|(name, _)| name);
            let what = "mean of six compound networks, trained alone − with all others";
            let mut tried = difference(what, &compound, &deps, -0.3, &names)?;
            tried.notes.push(format!(
                "train-MACs: {:.3} of those of all networks",
                mean_cost(&compound) / mean_cost(&deps)
            ));
            Ok(tried)
        }
    }
}

fn overall(arm: &[Measured], name: &str) -> Result<f64> {
    let mut sum = 0.0;
    for one in arm {
        sum += one.get(name)?;
    }
    Ok(sum / arm.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_of_all_arms_are_legal() {
        for scale in [Scale::new(true), Scale::new(false)] {
            scale.progressive().with_seed(0).unwrap();
            for (name, _) in SETTINGS {
                scale.deps(name).with_seed(0).unwrap();
            }
        }
    }
}
