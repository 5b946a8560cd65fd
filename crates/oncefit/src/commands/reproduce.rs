//! `oncefit reproduce`: what holds of the papers, at small scale.

use std::path::PathBuf;

use oncefit_train::write_atomically;

use super::{command_line, print};
use crate::cli::ReproduceArgs;
use crate::error::{Error, Result};
use crate::format::{duration, table};
use crate::reproduce::{Finding, PAPERS, Paper, Request, Verdict, known, try_claim};
use crate::stop;

/// Where NAS tables are, if no option says so.
const NAS_VARIABLE: &str = "ONCEFIT_NAS";

/// Seeds below are for calibration.
const FIRST_FRESH_SEED: u64 = 1000;

pub fn reproduce(args: &ReproduceArgs) -> Result<()> {
    if args.list {
        return list(args);
    }
    let Some(name) = &args.paper else {
        return Err(Error::Request(format!(
            "a paper is needed: {}; or `table`, or --list",
            names().join(", ")
        )));
    };
    if name == "table" {
        return write_table(args);
    }
    let paper = PAPERS
        .iter()
        .find(|paper| paper.name == name)
        .ok_or_else(|| {
            Error::Request(format!(
                "`{name}` is none of: {}, table",
                names().join(", ")
            ))
        })?;
    let wanted = |id: &str| {
        args.claim
            .as_ref()
            .is_none_or(|claim| id == claim || id.rsplit('.').next() == Some(claim.as_str()))
    };
    let claims: Vec<_> = paper
        .claims
        .iter()
        .filter(|claim| wanted(claim.id))
        .collect();
    if claims.is_empty() {
        let ids: Vec<&str> = paper.claims.iter().map(|claim| claim.id).collect();
        return Err(Error::Request(format!(
            "{} has no such claim; it has {}",
            paper.name,
            ids.join(", ")
        )));
    }
    let stop = stop::stop_flag()?;
    // Quick findings do not take the place of others.
    let folder = match args.quick {
        true => args.out.join("quick"),
        false => args.out.clone(),
    };
    let (full, quick) = paper.seeds;
    let request = Request {
        first_seed: FIRST_FRESH_SEED,
        seeds: args.seeds.unwrap_or(if args.quick { quick } else { full }),
        nas: args
            .nas
            .clone()
            .or_else(|| std::env::var_os(NAS_VARIABLE).map(PathBuf::from)),
        folder: &folder,
        is_quick: args.quick,
        stop: &stop,
    };
    if request.seeds < 5 {
        return Err(Error::Request("--seeds must be at least 5".into()));
    }
    for claim in claims {
        if let Some(found) = known(&folder, claim.id)?
            && found.seeds == (request.first_seed, request.seeds)
        {
            tell(&found, "kept from before");
            continue;
        }
        eprintln!("{}: {} ({})", claim.id, claim.claim, claim.setting);
        let found = try_claim(paper, claim, &request, &command_line())?;
        tell(&found, &duration(found.seconds));
    }
    print(&format!("numbers by seed: {}", folder.display()));
    Ok(())
}

fn names() -> Vec<&'static str> {
    PAPERS.iter().map(|paper| paper.name).collect()
}

fn tell(found: &Finding, when: &str) {
    print(&format!("{}: {} ({when})", found.id, found.verdict.name()));
    for comparison in &found.comparisons {
        print(&format!(
            "  {}: {:+.4} ± {:.4}",
            comparison.what, comparison.mean, comparison.half_width
        ));
    }
    for note in &found.notes {
        print(&format!("  {note}"));
    }
}

/// Each claim with its state.
fn rows<'p>(
    args: &ReproduceArgs,
    papers: impl Iterator<Item = &'p Paper>,
) -> Result<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    for claim in papers.flat_map(|paper| paper.claims) {
        let found = known(&args.out, claim.id)?;
        let differences = found
            .iter()
            .flat_map(|found| &found.comparisons)
            .map(|one| format!("{}: {:+.4} ± {:.4}", one.what, one.mean, one.half_width));
        let notes = found.iter().flat_map(|found| found.notes.iter().cloned());
        let of = |of: &dyn Fn(&Finding) -> String| found.as_ref().map_or("–".into(), of);
        rows.push(vec![
            claim.id.to_owned(),
            claim.claim.to_owned(),
            claim.setting.to_owned(),
            of(&|found| match found.verdict {
                Verdict::Fact | Verdict::Violated if found.comparisons.is_empty() => "–".into(),
                _ => format!("{} from {}", found.seeds.1, found.seeds.0),
            }),
            differences.chain(notes).collect::<Vec<_>>().join("; "),
            found
                .as_ref()
                .map_or("not yet run".into(), |found| found.verdict.name().into()),
            of(&|found| duration(found.seconds)),
        ]);
    }
    Ok(rows)
}

fn list(args: &ReproduceArgs) -> Result<()> {
    let rows = rows(args, PAPERS.iter())?
        .into_iter()
        .map(|row| vec![row[0].clone(), row[5].clone(), row[1].clone()]);
    print(&table(&["claim", "state", "what"], rows));
    Ok(())
}

fn write_table(args: &ReproduceArgs) -> Result<()> {
    let mut text = String::from(
        "# Claims\n\nMade by `oncefit reproduce table` from the files beside this page. Differences are paired by seed, with\n95 % intervals.\n\n| claim | the paper's | setting | seeds | found | verdict | time |\n|---|---|---|---|---|---|---|\n",
    );
    for row in rows(args, PAPERS.iter())? {
        text += &format!("| {} |\n", row.join(" | "));
    }
    text += "\nAgain: `oncefit reproduce PAPER`; deep-architect needs `--nas DIR`, the folder that has `nas-bench-macro.json`,
the others Fashion-MNIST (Debian's `dataset-fashion-mnist`).\n";
    let path = args.out.join("README.md");
    write_atomically(&path, text.as_bytes())?;
    print(&format!("table: {}", path.display()));
    Ok(())
}
