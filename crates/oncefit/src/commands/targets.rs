//! `oncefit targets`: vectors of class names.

use std::path::Path;
use std::time::Instant;

use oncefit_text::{BuildSettings, NameList, TargetTable, TextEncoder};
use oncefit_train::write_atomically;
use serde::Serialize;

use super::{print, print_json};
use crate::cli::targets::{TargetsBuildArgs, TargetsCommand, TargetsShowArgs};
use crate::error::{Error, Result};
use crate::format::{duration, table};

pub fn targets(command: &TargetsCommand) -> Result<()> {
    match command {
        TargetsCommand::Build(args) => build(args),
        TargetsCommand::Show(args) => show(args),
    }
}

fn build(args: &TargetsBuildArgs) -> Result<()> {
    let list = names(&args.names)?;
    let started = Instant::now();
    let encoder = TextEncoder::load(&args.model)?;
    let loaded = started.elapsed().as_secs_f64();
    eprintln!("{}: read in {}", encoder.name(), duration(loaded));
    let settings = BuildSettings {
        template: args.template.clone(),
        centre: args.centre,
        rotate: args.rotate.map(|width| (width, args.seed)),
        licence: args.licence.clone(),
    };
    let made = TargetTable::build(&list, &encoder, &settings)?;
    let encoded = started.elapsed().as_secs_f64() - loaded;
    eprintln!(
        "{} classes encoded in {}",
        made.classes.len(),
        duration(encoded)
    );
    write_atomically(&args.out, made.to_json().as_bytes())?;
    describe(&made, 3)?;
    print(&format!("targets: {}", args.out.display()));
    Ok(())
}

/// A shipped list, or a file's.
fn names(word: &str) -> Result<NameList> {
    if let Some(list) = NameList::builtin(word) {
        return Ok(list);
    }
    let path = Path::new(word);
    let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::Request(format!(
            "`{word}` is neither a file nor a shipped list of names: {}",
            NameList::BUILTIN.join(", ")
        )),
        _ => Error::File {
            action: "read",
            path: path.to_owned(),
            source,
        },
    })?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(NameList::parse(&name, &text)?)
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    hash: &'a str,
    template: &'a str,
    model: &'a oncefit_text::Source,
    transforms: &'a [String],
    width: usize,
    classes: Vec<&'a str>,
    quality: Option<oncefit_text::Quality>,
}

fn show(args: &TargetsShowArgs) -> Result<()> {
    let found = TargetTable::open(&args.targets)?;
    if !args.json {
        return describe(&found, args.neighbours);
    }
    print_json(&Shown {
        name: &found.name,
        hash: found.hash(),
        template: &found.template,
        model: &found.model,
        transforms: &found.transforms,
        width: found.width,
        classes: found
            .classes
            .iter()
            .map(|class| class.name.as_str())
            .collect(),
        quality: found.quality()?,
    });
    Ok(())
}

fn describe(found: &TargetTable, neighbours: usize) -> Result<()> {
    print(&format!(
        "{}: {} classes, {} values each; template `{}`; {}",
        found.name,
        found.classes.len(),
        found.width,
        found.template,
        match found.transforms.is_empty() {
            true => "as the model gives them".into(),
            false => found.transforms.join(", "),
        }
    ));
    let model = &found.model;
    print(&format!(
        "model {} (licence {}, blake3 {})",
        model.name, model.licence, model.hash
    ));
    print(&format!("hash {}", found.hash()));
    let Some(quality) = found.quality()? else {
        return Ok(());
    };
    let rows = found.classes.iter().zip(&quality.neighbours);
    let rows = rows.map(|(class, near)| {
        let near = near.iter().take(neighbours);
        let near: Vec<String> = near
            .map(|(other, cosine)| format!("{} {cosine:.2}", found.classes[*other].name))
            .collect();
        vec![class.name.clone(), class.texts.join(" | "), near.join(", ")]
    });
    print(&table(&["class", "text", "nearest, with cosine"], rows));
    let (left, right) = quality.nearest_pair;
    print(&format!(
        "mean cosine {:.3}; smallest angle {:.1}°, between {} and {}",
        quality.mean_cosine,
        quality.smallest_angle,
        found.classes[left].name,
        found.classes[right].name
    ));
    if quality.mean_cosine > 0.5 {
        print("the vectors are much alike: give the head a larger scale, or build with --centre");
    }
    Ok(())
}
