//! `oncefit reproduce`: what holds of the papers, at small scale.

use std::path::PathBuf;

use oncefit_train::write_atomically;

use super::{command_line, print};
use crate::cli::ReproduceArgs;
use crate::error::{Error, Result};
use crate::format::{duration, table, with_interval};
use crate::reproduce::{Finding, HEADING, PAPERS, Page, Request, known, make_folder, try_claim};
use crate::stop;

/// Where NAS tables are, if no option says so.
const NAS_VARIABLE: &str = "ONCEFIT_NAS";

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
        true => args.claims().join("quick"),
        false => args.claims(),
    };
    let (full, quick) = paper.seeds;
    let mut request = Request {
        first_seed: paper.first_seed,
        seeds: args.seeds.unwrap_or(if args.quick { quick } else { full }),
        nas: args
            .nas
            .clone()
            .or_else(|| std::env::var_os(NAS_VARIABLE).map(PathBuf::from)),
        folder: &folder,
        is_quick: args.quick,
        stop: &stop,
        cost: Default::default(),
    };
    if request.seeds < 5 {
        return Err(Error::Request("--seeds must be at least 5".into()));
    }
    for claim in claims {
        request.first_seed = paper.first_seed(claim.id);
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
            "  {}: {}",
            comparison.what,
            with_interval(comparison.mean, comparison.half_width)
        ));
    }
    for note in &found.notes {
        print(&format!("  {note}"));
    }
}

fn list(args: &ReproduceArgs) -> Result<()> {
    let mut rows = Vec::new();
    for claim in PAPERS.iter().flat_map(|paper| paper.claims) {
        let found = known(&args.claims(), claim.id)?;
        let state = found.map_or("not yet run", |found| found.verdict.name());
        rows.push([claim.id, state, claim.claim].map(String::from).to_vec());
    }
    print(&table(&["claim", "state", "what"], rows));
    Ok(())
}

fn write_table(args: &ReproduceArgs) -> Result<()> {
    if args.claim.is_some() || args.quick || args.seeds.is_some() {
        return Err(Error::Request(
            "`reproduce table` shows all that was found in full form: it takes no --claim, --quick or --seeds".into(),
        ));
    }
    let path = args.out.join("README.md");
    if std::fs::read_to_string(&path).is_ok_and(|text| !text.starts_with(HEADING)) {
        return Err(Error::Request(format!(
            "{} is no page of `oncefit reproduce table`; it is left as it is: give another --out, or move it",
            path.display()
        )));
    }
    let folder = args.claims();
    let mut page = Page::default();
    for paper in &PAPERS {
        page.add(paper, &folder)?;
    }
    let pictures = folder.join("pictures");
    make_folder(&pictures)?;
    for (id, picture) in &page.pictures {
        write_atomically(&pictures.join(format!("{id}.svg")), picture.as_bytes())?;
    }
    write_atomically(&path, page.text().as_bytes())?;
    print(&format!(
        "table: {}; {} pictures: {}",
        path.display(),
        page.pictures.len(),
        pictures.display()
    ));
    Ok(())
}
