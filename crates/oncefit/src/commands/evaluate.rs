//! `oncefit evaluate`

use oncefit_random::Draws;
use oncefit_space::Subnet;
use oncefit_train::{Accuracy, Split};
use serde::Serialize;

use super::{print, print_json};
use crate::cli::EvaluateArgs;
use crate::error::Result;
use crate::format::{count, percent, table};
use crate::loaded::{EvaluationRow, LoadedRun};
use crate::progress::Progress;

/// A row of the JSON.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    row: EvaluationRow,
    #[serde(skip_serializing_if = "Option::is_none")]
    int8: Option<&'a Accuracy>,
}

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
    let mut quantised = Vec::new();
    if args.int8 {
        for subnet in &subnets {
            quantised.push(run.evaluate_quantised(subnet, split)?);
        }
    }
    if args.json {
        let rows = rows.into_iter().enumerate().map(|(index, row)| Shown {
            row,
            int8: quantised.get(index),
        });
        print_json(&rows.collect::<Vec<_>>());
        return Ok(());
    }
    if args.classes {
        for subnet in &subnets {
            print_classes(&mut run, subnet, split)?;
        }
    }
    let mut header = vec!["subnet", &args.split, "loss", "MACs", "parameters"];
    if args.int8 {
        header.insert(2, "int8");
    }
    let cells = rows.iter().enumerate().map(|(index, row)| {
        let mut cells = vec![
            row.subnet.clone(),
            percent(row.accuracy),
            format!("{:.4}", row.loss),
            count(row.macs),
            count(row.parameters),
        ];
        if let Some(found) = quantised.get(index) {
            cells.insert(2, percent(found.accuracy));
        }
        cells
    });
    print(&table(&header, cells));
    let calibration = run.run.recipe().evaluation.calibration_images;
    print(&format!("each calibrated on {calibration} training images"));
    print(&run.origin()?);
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
