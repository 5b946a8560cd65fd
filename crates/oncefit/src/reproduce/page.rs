//! All claims as a page: what is claimed, how it was tried, what came of it and what it cost.

use std::fmt::Write;
use std::path::Path;

use super::picture::picture;
use super::{Claim, Finding, Paper, Verdict, known};
use crate::error::Result;
use crate::format::{count, duration};

const HEAD: &str = "| claim | the paper's | setting | seeds | found | verdict | train-MACs | time |\n\
                    |---|---|---|---|---|---|---|---|\n";

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
            "\n## {}\n`oncefit reproduce {}{nas}`\n\n{HEAD}",
            paper.title, paper.name
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
            "# What holds of the papers, at small scale\n\n\
             Written by `oncefit reproduce table` from the numbers by seed in [claims](claims). Settings were fixed on\n\
             seeds below 1000; verdicts are on fresh ones. Differences are paired by seed, with 95 % intervals: above\n\
             zero (a claim's threshold is subtracted) reproduced, below it not reproduced, across it inconclusive. What\n\
             holds by arithmetic or exactly is listed apart. Times are those of the runs on two virtual cores, with\n\
             other work beside them; train-MACs do not depend on that. A claim's name leads to its picture.\n\n\
             In all: {}. Speed, memory and other measurements: [measurements.md](measurements.md).\n{}\n\
             ## Facts\n{HEAD}{}\n\
             Each command goes on from what is there: remove `claims/ID.json` to try a claim again, and a file in\n\
             `claims/arms` or `claims/PAPER.runs` to run its training again. `deep-architect` needs the folder of\n\
             `nas-bench-macro.json`, the others Fashion-MNIST (Debian's `dataset-fashion-mnist`). `--quick` tries all on\n\
             the embedded images in minutes.\n",
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
            .map(|one| format!("{}: {:+.4} ± {:.4}", one.what, one.mean, one.half_width));
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
