//! Workers: who holds a claim, and whether they are still alive.
//!
//! A worker holds a lock on its own file for as long as its process lives; the system lets go of it
//! however the process ends. No heartbeats, no clocks.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::study::log::file_error;

/// This process's place among those that share a study.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Its number, from 1.
    pub number: u64,
    folder: PathBuf,
    /// Locked as long as the worker lives.
    _file: File,
}

impl Worker {
    /// A new worker, numbered above those of the log: a log that was copied without its workers
    /// must not make this one the owner of their claims. Must be called with the log's lock held.
    pub fn new(folder: &Path, highest_in_log: u64) -> Result<Self> {
        let folder = folder.join("workers");
        std::fs::create_dir_all(&folder).map_err(file_error("make", &folder))?;
        let mut number = highest_in_log + 1;
        loop {
            let path = lock_path(&folder, number);
            let mut options = OpenOptions::new();
            match options.write(true).create_new(true).open(&path) {
                Ok(file) => {
                    file.lock().map_err(file_error("lock", &path))?;
                    return Ok(Self {
                        number,
                        folder,
                        _file: file,
                    });
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(file_error("make", &path)(error)),
            }
        }
    }

    /// Whether a worker's process has ended.
    pub fn is_dead(&self, number: u64) -> Result<bool> {
        if number == self.number {
            return Ok(false);
        }
        let path = lock_path(&self.folder, number);
        let file = match File::open(&path) {
            Ok(file) => file,
            // Only the living need their files.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(file_error("open", &path)(error)),
        };
        match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(file_error("lock", &path)(error)),
        }
    }
}

fn lock_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number}.lock"))
}
