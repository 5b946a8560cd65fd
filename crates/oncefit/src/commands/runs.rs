//! `oncefit evaluate`, `fit`, `export` and `report`: what is done with a run.

use std::path::Path;
use std::time::Instant;

use oncefit_random::Draws;
use oncefit_search::{Count, Limit, Metric};
use oncefit_space::Subnet;
use oncefit_train::{Split, write_atomically};

use super::{command_line, fitted_table, print, print_json};
use crate::cli::{EvaluateArgs, ExportArgs, FitArgs, LimitArgs, ReportArgs};
use crate::error::{Error, Result};
use crate::fit::{self, FitSettings, Fitted};
use crate::format::{count, duration, percent, table};
use crate::loaded::LoadedRun;
use crate::progress::Progress;

pub fn evaluate(args: &EvaluateArgs) -> Result<()> {
    let mut run = LoadedRun::open(&args.run.run, args.run.checkpoint)?;
    let mut subnets: Vec<Subnet> = Vec::new();
    for text in &args.subnet {
        subnets.push(run.space.parse_subnet(text)?);
    }
    if subnets.is_empty() && args.random == 0 {
        subnets.extend([run.space.smallest()?, run.space.largest()?]);
    }
    for index in 0..args.random {
        let mut draws = Draws::new(args.seed, "evaluate", index as u64, 0);
        subnets.push(run.space.sample(&mut draws)?);
    }
    let split = if args.split == "test" {
        Split::Test
    } else {
        Split::Validation
    };
    let mut rows = Vec::with_capacity(subnets.len());
    let mut progress = Progress::new("measuring", 0, subnets.len() as u64);
    for part in subnets.chunks(8) {
        rows.extend(run.evaluate(part, split)?);
        progress.update(rows.len() as u64, String::new);
    }
    progress.finish();
    if args.json {
        print_json(&rows);
        return Ok(());
    }
    if args.classes {
        for subnet in &subnets {
            print_classes(&mut run, subnet, split)?;
        }
    }
    let cells = rows.iter().map(|row| {
        vec![
            row.subnet.clone(),
            percent(row.accuracy),
            format!("{:.4}", row.loss),
            count(row.macs),
            count(row.parameters),
        ]
    });
    print(&table(
        &["subnet", &args.split, "loss", "MACs", "parameters"],
        cells,
    ));
    let calibration = run.run.recipe().evaluation.calibration_images;
    print(&format!("each calibrated on {calibration} training images"));
    Ok(())
}

/// Prints the confusion matrix of a subnet with the accuracy of each class.
fn print_classes(run: &mut LoadedRun, subnet: &Subnet, split: Split) -> Result<()> {
    let confusion = run.confusion(subnet, split)?;
    let names = run.data.train.class_names();
    print(&format!(
        "{}\nimages of each class (row) by what they were taken for (column):",
        subnet.text()
    ));
    let mut header = vec![""];
    header.extend(names.iter().map(String::as_str));
    header.push("accuracy");
    let rows = confusion.counts.iter().zip(confusion.class_accuracies());
    let cells = rows.zip(names).map(|((row, accuracy), name)| {
        let mut cells = vec![name.clone()];
        cells.extend(row.iter().map(u32::to_string));
        cells.push(accuracy.map_or("–".into(), percent));
        cells
    });
    print(&table(&header, cells));
    Ok(())
}

impl LimitArgs {
    fn limits(&self) -> Vec<Limit> {
        [
            (Metric::Macs, self.max_macs),
            (Metric::Parameters, self.max_parameters),
            (Metric::PeakMemory, self.max_peak_memory),
        ]
        .into_iter()
        .filter_map(|(metric, limit)| {
            let Count(at_most) = limit?;
            Some(Limit { metric, at_most })
        })
        .collect()
    }
}

pub fn fit(args: &FitArgs) -> Result<()> {
    let started = Instant::now();
    let mut run = LoadedRun::open(&args.run.run, args.run.checkpoint)?;
    let settings = FitSettings {
        limits: args.limits.limits(),
        searcher: args.searcher,
        evaluations: args.evaluations,
        seed: args.seed,
    };
    check_folder(&args.out)?;
    let mut progress = Progress::new("searching", 0, args.evaluations as u64);
    let (subnet, _) = fit::find(&mut run, &settings, &mut |done, best| {
        progress.update(done as u64, || format!("best {}", percent(best)));
    })?;
    progress.finish();
    let fitted = fit::export(&mut run, &subnet, &args.out)?;
    if args.json {
        print_json(&fitted);
        return Ok(());
    }
    print(&fitted_table(std::slice::from_ref(&fitted)));
    print(&format!("subnet: {}", fitted.subnet));
    let seconds = duration(started.elapsed().as_secs_f64());
    print(&format!(
        "found and checked in {seconds}; again: {}",
        command_line()
    ));
    Ok(())
}

pub fn export(args: &ExportArgs) -> Result<()> {
    let mut run = LoadedRun::open(&args.run.run, args.run.checkpoint)?;
    let subnet = run.space.parse_subnet(&args.subnet)?;
    check_folder(&args.out)?;
    let fitted = fit::export(&mut run, &subnet, &args.out)?;
    print(&fitted_table(std::slice::from_ref(&fitted)));
    Ok(())
}

pub fn report(args: &ReportArgs) -> Result<()> {
    let run = LoadedRun::open(&args.run.run, args.run.checkpoint)?;
    let path = write_report(&run, &[], &command_line())?;
    print(&format!("report: {path}"));
    Ok(())
}

/// Writes a run's `report.html`.
pub(super) fn write_report(run: &LoadedRun, fitted: &[Fitted], command: &str) -> Result<String> {
    let page = crate::report::report(run, fitted, command)?;
    let path = run.run.file("report.html");
    write_atomically(&path, page.as_bytes())?;
    Ok(path.display().to_string())
}

/// A folder that is missing is better known before a search than after it.
fn check_folder(file: &Path) -> Result<()> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => Err(Error::Request(
            format!("{} is no folder to write to", folder.display()),
        )),
        _ => Ok(()),
    }
}
