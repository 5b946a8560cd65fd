//! The log of a study: one JSON object a line, only ever appended.
//!
//! ```text
//! {"header":{"format":1,"space":"…","searcher":{…},"objectives":["accuracy"],"constraints":[]}}
//! {"asked":{"count":2,"by":1,"trials":[{"number":0,"subnet":"kernel=3"},{"number":1,"subnet":"kernel=5"}]}}
//! {"told":{"number":0,"by":1,"seconds":0.5,"outcome":{"scored":{"scores":[0.91]}}}}
//! {"claimed":{"number":1,"by":2}}
//! ```
//!
//! A line that was not written to its end, because its process was killed, is cut off by whoever
//! opens the log next.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Result, SearchError};
use crate::outcome::{Outcome, Rung};

/// What a study is about: the first line of its log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format.
    pub format: u32,
    /// Name of the space.
    pub space_name: String,
    /// Content hash of the space.
    pub space: String,
    /// The searcher with its settings, limits and seed.
    pub searcher: serde_json::Value,
    /// Names of the objectives, the main one first.
    pub objectives: Vec<String>,
    /// Names of the constraints.
    pub constraints: Vec<String>,
}

/// A trial in the log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct LoggedTrial {
    pub number: u64,
    pub subnet: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rung: Option<Rung>,
}

/// A line of the log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    Header(Header),
    /// The searcher was asked for `count` trials by worker `by`, who claims them.
    Asked {
        count: usize,
        by: u64,
        trials: Vec<LoggedTrial>,
    },
    /// A trial of a dead worker was claimed by another.
    Claimed {
        number: u64,
        by: u64,
    },
    Told {
        number: u64,
        by: u64,
        seconds: f64,
        outcome: Outcome,
    },
}

/// An open log.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    path: PathBuf,
    /// How much of it was read.
    offset: u64,
    lines: usize,
}

impl Log {
    /// Opens the log of a folder, which is made if there is none.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("study.jsonl");
        std::fs::create_dir_all(folder).map_err(file_error("make", folder))?;
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).open(&path);
        Ok(Self {
            file: file.map_err(file_error("open", &path))?,
            path,
            offset: 0,
            lines: 0,
        })
    }

    /// Waits until no other process holds the log.
    pub fn lock(&self) -> Result<()> {
        self.file.lock().map_err(file_error("lock", &self.path))
    }

    /// Lets others go on.
    pub fn unlock(&self) -> Result<()> {
        self.file.unlock().map_err(file_error("unlock", &self.path))
    }

    /// The events that were appended since the last read, by this process or others. Must be
    /// called with the lock held: an incomplete last line is then nobody's, and cut off.
    pub fn read(&mut self) -> Result<Vec<Event>> {
        let mut bytes = Vec::new();
        let read = self
            .file
            .seek(SeekFrom::Start(self.offset))
            .and_then(|_| self.file.read_to_end(&mut bytes));
        read.map_err(file_error("read", &self.path))?;
        let complete = complete_lines(&bytes);
        if complete < bytes.len() {
            let cut = self.file.set_len(self.offset + complete as u64);
            cut.map_err(file_error("repair", &self.path))?;
        }
        let events = parse(&bytes[..complete], self.lines, &self.path)?;
        self.offset += complete as u64;
        self.lines += events.len();
        Ok(events)
    }

    /// The highest number of a worker in the log. Must be called with the lock held.
    pub fn highest_worker(&mut self) -> Result<u64> {
        let events = self.read()?;
        (self.offset, self.lines) = (0, 0);
        let workers = events.iter().map(|event| match event {
            Event::Header(_) => 0,
            Event::Asked { by, .. } | Event::Claimed { by, .. } | Event::Told { by, .. } => *by,
        });
        Ok(workers.max().unwrap_or(0))
    }

    /// Appends events in one write. Must be called with the lock held and everything read.
    pub fn append(&mut self, events: &[Event]) -> Result<()> {
        let mut bytes = Vec::new();
        for event in events {
            serde_json::to_writer(&mut bytes, event)
                .map_err(std::io::Error::other)
                .map_err(file_error("write", &self.path))?;
            bytes.push(b'\n');
        }
        let written = self.file.write_all(&bytes);
        written.map_err(file_error("write", &self.path))?;
        self.offset += bytes.len() as u64;
        self.lines += events.len();
        Ok(())
    }
}

/// The events of a log, for those who only look: an incomplete last line is ignored.
pub(crate) fn read_events(folder: &Path) -> Result<Vec<Event>> {
    let path = folder.join("study.jsonl");
    let bytes = std::fs::read(&path).map_err(file_error("read", &path))?;
    parse(&bytes[..complete_lines(&bytes)], 0, &path)
}

/// The length of the lines that end.
fn complete_lines(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1)
}

fn parse(bytes: &[u8], lines_before: usize, path: &Path) -> Result<Vec<Event>> {
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(index, line)| {
            serde_json::from_slice(line).map_err(|error| SearchError::Study {
                folder: path.parent().unwrap_or(path).to_owned(),
                message: format!(
                    "line {} of its log is no event: {error}",
                    lines_before + index + 1
                ),
            })
        })
        .collect()
}

/// An error about a file.
pub(crate) fn file_error<'p>(
    action: &'static str,
    path: &'p Path,
) -> impl FnOnce(std::io::Error) -> SearchError + 'p {
    move |source| SearchError::File {
        action,
        path: path.to_owned(),
        source,
    }
}
