//! All claims as a page: what is claimed, how it was tried, what came of it and what it cost.

use std::fmt::Write;
use std::path::Path;

use super::picture::picture;
use super::{Claim, Finding, Paper, Verdict, known};
use crate::error::Result;
use crate::format::{count, duration, with_interval};

const HEAD: &str = "| claim | the paper's | setting | seeds | found | verdict | train-MACs | time |\n\
                    |---|---|---|---|---|---|---|---|\n";

/// The page's first line.
pub const HEADING: &str = "# What holds of the papers, at small scale";

/// The page in the making.
#[derive(Debug, Default)]
pub struct Page {
    claims: String,
    facts: String,
    /// How many claims came to each verdict, in the order of their first appearance.
    verdicts: Vec<(&'static str, usize)>,
    /// The pictures of claims by their names.
    pub pictures: Vec<(&'static str, String)>,
}

impl Page {
    /// Adds a paper's claims, with what `folder` has of them.
    ///
    /// # Errors
    /// If a file is damaged.
    pub fn add(&mut self, paper: &Paper, folder: &Path) -> Result<()> {
        let nas = match paper.name {
            "deep-architect" => " --nas DIR",
            _ => "",
        };
        let _ = write!(
            self.claims,
            "\n## {}\n`oncefit reproduce {}{nas}`\n\n{}\n\n{HEAD}",
            paper.title, paper.name, paper.about
        );
        for claim in paper.claims {
            let found = known(folder, claim.id)?;
            let name = found
                .as_ref()
                .map_or("not yet run", |found| found.verdict.name());
            match self.verdicts.iter_mut().find(|(known, _)| *known == name) {
                Some((_, number)) => *number += 1,
                None => self.verdicts.push((name, 1)),
            }
            let picture = found.as_ref().and_then(picture);
            let row = row(claim, found.as_ref(), picture.is_some());
            match found.map(|found| found.verdict) {
                Some(Verdict::Fact | Verdict::Violated) => self.facts += &row,
                _ => self.claims += &row,
            }
            self.pictures
                .extend(picture.map(|picture| (claim.id, picture)));
        }
        Ok(())
    }

    /// The page as Markdown.
    pub fn text(&self) -> String {
        let verdicts = self.verdicts.iter();
        let verdicts: Vec<String> = verdicts
            .map(|(name, number)| format!("{name} {number}"))
            .collect();
        format!(
            "{HEADING}\n\n\
             Written by `oncefit reproduce table` from the numbers by seed in [claims](claims). Verdicts are on fresh\n\
             seeds; where a setting was chosen by results, it was on other seeds. What was corrected after its seeds had\n\
             been run stands under the paper's heading. Differences are paired by seed, with 95 % intervals: above\n\
             zero (a claim's threshold is subtracted) reproduced, below it not reproduced, across it inconclusive; a\n\
             claim of several parts needs all of them. What holds by arithmetic or exactly is listed apart. Times\n\
             are those of the runs on two virtual cores, with other work beside them; claims that rest on the same\n\
             runs each show the time of all of them, and a training that was interrupted counts with its last part.\n\
             Train-MACs do not depend on that. A claim's name leads to its picture.\n\n\
             In all: {}. Speed, memory and other measurements: [measurements.md](measurements.md).\n{}\n\
             ## Facts\n{HEAD}{}\n\
             Each command goes on from what is there: remove `claims/ID.json` to try a claim again, and a file in\n\
             `claims/arms` or `claims/PAPER.runs` to run its training again. `deep-architect` needs the folder of\n\
             `nas-bench-macro.json`, the others Fashion-MNIST (Debian's `dataset-fashion-mnist`). `--quick` tries less in\n\
             some 20 minutes a paper or less; for Once-for-All, DepS, refresh learning, LingoCL and the supernet that keeps\n\
             learning the embedded images are enough.\n",
            verdicts.join(", "),
            self.claims,
            self.facts
        )
    }
}

fn row(claim: &Claim, found: Option<&Finding>, has_picture: bool) -> String {
    let name = match has_picture {
        true => format!("[{0}](claims/pictures/{0}.svg)", claim.id),
        false => claim.id.into(),
    };
    let of = |of: &dyn Fn(&Finding) -> String| found.map_or("–".into(), of);
    let seeds = of(&|found| match found.comparisons.is_empty() {
        true => "–".into(),
        false => format!("{} from {}", found.seeds.1, found.seeds.0),
    });
    let what = of(&|found| {
        let differences = found
            .comparisons
            .iter()
            .map(|one| format!("{}: {}", one.what, with_interval(one.mean, one.half_width)));
        let all: Vec<String> = differences.chain(found.notes.iter().cloned()).collect();
        all.join("<br>")
    });
    let macs = of(&|found| match found.runs.train_macs {
        0 => "–".into(),
        macs => count(macs),
    });
    // Runs that several claims rest on were run for one of them.
    let time = of(&|found| duration(found.runs.seconds.max(found.seconds)));
    let verdict = found.map_or("not yet run", |found| found.verdict.name());
    format!(
        "| {name} | {} | {} | {seeds} | {what} | {verdict} | {macs} | {time} |\n",
        claim.claim, claim.setting
    )
}
