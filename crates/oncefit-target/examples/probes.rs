//! Probes for another device: `probes emit FAMILY FOLDER [RESOLUTION]`, then
//! `tools/probes/run_probes.py FOLDER` there, then `probes import FOLDER`, which prints the errors
//! on unseen networks. For fm-nano, emitting takes seconds.

use std::error::Error;
use std::path::Path;

use oncefit_space::{Space, Value};
use oncefit_target::{ImportOptions, ProbeOptions, emit_probes, import_timings};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["emit", family, folder, ref resolution @ ..] => {
            let mut space = Space::builtin(family)?;
            if let [resolution] = resolution {
                space = space.restrict("resolution", &[Value::Int(resolution.parse()?)])?;
            }
            let options = ProbeOptions::default();
            let manifest = emit_probes(&space, Path::new(folder), &options, &mut |_| {})?;
            println!("{} probes", manifest.probes.len());
        }
        ["import", folder] => {
            let options = ImportOptions {
                device: "another device".into(),
                engine_version: "onnxruntime".into(),
                threads: 1,
                allow_incomplete: true,
            };
            let folder = Path::new(folder);
            let manifest = folder.join("manifest.json");
            let target = import_timings(&manifest, &folder.join("timings.csv"), &options)?;
            target.save(&folder.join("target.toml"))?;
            println!("{:#?}\n{:#?}", target.measured, target.validation);
        }
        _ => println!("probes emit FAMILY FOLDER [RESOLUTION] | probes import FOLDER"),
    }
    Ok(())
}
