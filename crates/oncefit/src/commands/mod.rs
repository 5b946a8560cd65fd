//! The commands: each says what it does, does it, and says what it did.

mod compare;
mod data;
mod quickstart;
mod runs;
mod show;
mod train;

use std::io::{ErrorKind, Write};

pub use compare::{RunSummary, runs_compare, runs_list};
pub use data::data_show;
pub use quickstart::quickstart;
pub use runs::{evaluate, export, fit, report};
pub use show::show;
pub use train::train;

use crate::fit::Fitted;
use crate::format::{bytes, count, percent, table};

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
    ];
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
        ]
    });
    table(&header, rows)
}
