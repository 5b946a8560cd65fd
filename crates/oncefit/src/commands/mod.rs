//! The commands: each says what it does, does it, and says what it did.

mod compare;
mod data;
mod evaluate;
mod fit;
mod front;
mod learn;
mod learn_estimate;
mod predict;
mod profile;
mod quickstart;
mod report;
mod reproduce;
mod runs;
mod show;
mod space;
mod stream;
mod study;
mod targets;
mod train;

use std::io::{ErrorKind, Write};

pub use compare::{Compared, compare};
pub use data::data_show;
pub use evaluate::evaluate;
pub use fit::{export, fit};
pub use front::front;
pub(crate) use front::{metric_name, shown};
pub use learn::learn;
pub use predict::predict;
pub(crate) use profile::measured as measured_target;
pub use profile::profile;
pub use quickstart::quickstart;
pub use report::report;
pub use reproduce::reproduce;
pub use runs::{RunSummary, runs_compare, runs_list};
pub(crate) use show::operation_name;
pub use show::show;
pub use space::space;
pub use stream::data_stream;
pub use study::study;
pub use targets::targets;
pub use train::train;
pub(crate) use train::train_run;

use std::path::Path;

use oncefit_space::Space;

use crate::error::{Error, Result};
use crate::fit::Fitted;
use crate::format::{bytes, count, percent, table};
use crate::loaded::{LoadedRun, WhichCheckpoint};

/// A folder that is missing is better known before long work than after it.
fn check_folder(file: &Path) -> Result<()> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => Err(Error::Request(
            format!("{} is no folder to write to", folder.display()),
        )),
        _ => Ok(()),
    }
}

/// Prints a line on standard output; a reader that has gone away ends the program quietly.
fn print(line: &str) {
    let mut output = std::io::stdout().lock();
    if let Err(error) = writeln!(output, "{line}").and_then(|()| output.flush()) {
        let code = if error.kind() == ErrorKind::BrokenPipe {
            0
        } else {
            1
        };
        std::process::exit(code);
    }
}

/// Prints a value as JSON.
fn print_json<T: serde::Serialize>(value: &T) {
    print(&serde_json::to_string_pretty(value).expect("what is printed is plain data"));
}

/// The space that a word names: a run folder's, a `.space` file's, a family.
pub(crate) fn space_of(word: &str) -> Result<Space> {
    let path = Path::new(word);
    if path.is_dir() {
        return Ok(LoadedRun::open(path, WhichCheckpoint::Newest)?.space);
    }
    if path
        .extension()
        .is_some_and(|extension| extension == "space")
    {
        let text = std::fs::read_to_string(path).map_err(|source| Error::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        return Ok(Space::parse(&text, word)?);
    }
    let there = match path.exists() {
        true => "is no run folder, and its name does not end in .space",
        false => "is no file or folder",
    };
    Space::builtin(word)
        .map_err(|error| Error::Request(format!("`{word}` {there}; as a family: {error}")))
}

/// The command line as it was typed.
fn command_line() -> String {
    let mut words = std::env::args();
    let program = words.next().unwrap_or_default();
    let name = std::path::Path::new(&program)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let quote = |word: String| {
        if word.contains([' ', '*', '?']) {
            format!("'{word}'")
        } else {
            word
        }
    };
    std::iter::once(name.into_owned())
        .chain(words.map(quote))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The table of fitted networks.
fn fitted_table(fitted: &[Fitted]) -> String {
    let header = [
        "file",
        "test",
        "validation",
        "MACs",
        "parameters",
        "peak activations",
        "file size",
        "engine difference",
        "predicted, measured latency",
    ];
    let has_latency = fitted.iter().any(|one| latency(one).is_some());
    let rows = fitted.iter().map(|one| {
        vec![
            one.file.display().to_string(),
            percent(one.test_accuracy),
            percent(one.validation_accuracy),
            count(one.macs),
            count(one.parameters),
            bytes(one.peak_activation_bytes),
            bytes(one.file_bytes),
            format!("{:.0e} of the largest logit", one.relative_difference),
            latency(one).unwrap_or_default(),
        ]
    });
    match has_latency {
        true => table(&header, rows),
        false => {
            let rows = rows.map(|mut row| {
                row.pop();
                row
            });
            table(&header[..header.len() - 1], rows)
        }
    }
}

/// `0.052 ms, 0.055 ms on this machine (tract)`.
fn latency(fitted: &Fitted) -> Option<String> {
    let found = fitted.expected.as_ref()?.latency.as_ref()?;
    let mark = if found.is_estimated { "≈" } else { "" };
    let measured = found.measured_ms.map_or("not measured".into(), |measured| {
        format!("{measured:.3} ms")
    });
    Some(format!(
        "{mark}{:.3} ms, {measured} on {} ({})",
        found.predicted_ms, found.device, found.engine
    ))
}
