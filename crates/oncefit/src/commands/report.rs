//! `oncefit report`

use oncefit_train::{read_rows, write_atomically};

use super::{command_line, print};
use crate::cli::ReportArgs;
use crate::error::Result;
use crate::fit::{FITS, Fitted};
use crate::loaded::LoadedRun;

pub fn report(args: &ReportArgs) -> Result<()> {
    let run = LoadedRun::open(&args.run.run, args.run.checkpoint)?;
    // The last fit of each file, of these weights.
    let mut fitted: Vec<Fitted> = Vec::new();
    for row in read_rows::<Fitted>(&run.run.file(FITS))? {
        if row.weights_hash == run.weights_hash() {
            fitted.retain(|other| other.file != row.file);
            fitted.push(row);
        }
    }
    let path = write_report(&run, &fitted, &command_line())?;
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
