//! Signals: a request to stop, and a full disk that should be an error instead of a death.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::{Error, Result};

/// A flag that Ctrl-C, SIGTERM and SIGHUP set. A second signal ends the program at once.
///
/// # Errors
/// If the system refuses the handlers.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The first handler ends the program only when the flag is set already.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
            .map_err(refused)?;
    }
    Ok(flag)
}

/// Makes a write beyond the file-size limit fail with an error that can be told.
///
/// # Errors
/// If the system refuses the handler.
pub fn ignore_file_size_signal() -> Result<()> {
    #[cfg(unix)]
    signal_hook::flag::register(
        signal_hook::consts::signal::SIGXFSZ,
        Arc::new(AtomicBool::new(false)),
    )
    .map_err(refused)?;
    Ok(())
}

fn refused(source: std::io::Error) -> Error {
    Error::Request(format!("the system refuses a signal handler: {source}"))
}
