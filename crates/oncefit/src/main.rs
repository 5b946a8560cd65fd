//! The `oncefit` program.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = oncefit::Cli::parse();
    match oncefit::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oncefit: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
