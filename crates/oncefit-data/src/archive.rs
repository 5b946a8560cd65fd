//! The files in a folder or an archive (`.tar`, `.tar.gz`, `.tgz`, `.zip`), without unpacking it to
//! disk.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::error::{DataError, Result};

/// A file of a folder or archive.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its path in the folder or archive, with `/`.
    pub name: String,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl Entry {
    /// A file on disk under another name.
    pub fn file(path: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            content: Content::File(path.to_owned()),
        }
    }

    /// Its bytes.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&self) -> Result<std::borrow::Cow<'_, [u8]>> {
        match &self.content {
            Content::Bytes(bytes) => Ok(bytes.into()),
            Content::File(file) => match std::fs::read(file) {
                Ok(bytes) => Ok(bytes.into()),
                Err(source) => Err(read_error(file, source)),
            },
        }
    }

    /// The parts of its path.
    pub fn parts(&self) -> Vec<&str> {
        self.name
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .collect()
    }
}

/// What a folder or archive holds, sorted by path; hidden files are left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listing {
    pub files: Vec<Entry>,
    /// Paths of folders.
    pub folders: Vec<String>,
}

impl Listing {
    /// Lists a folder or reads an archive.
    ///
    /// # Errors
    /// If it is neither, cannot be read, is damaged or cut short.
    pub fn open(path: &Path) -> Result<Self> {
        let mut listing = Self::default();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_lowercase();
        if path.is_dir() {
            listing.walk(path, "")?;
        } else if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
            let file = BufReader::new(open(path)?);
            listing.read_tar(path, MultiGzDecoder::new(file))?;
        } else if name.ends_with(".tar") {
            check_tar_end(path)?;
            listing.read_tar(path, BufReader::new(open(path)?))?;
        } else if name.ends_with(".zip") {
            listing.read_zip(path)?;
        } else {
            // Says that it is missing, if it is.
            open(path)?;
            return Err(DataError::Archive {
                file: path.to_owned(),
                reason: "expected a folder or a .tar, .tar.gz, .tgz or .zip file".into(),
            });
        }
        listing.files.retain(|entry| !is_hidden(&entry.name));
        listing.folders.retain(|name| !is_hidden(name));
        listing
            .files
            .sort_by(|left, right| left.name.cmp(&right.name));
        listing.folders.sort();
        Ok(listing)
    }

    fn walk(&mut self, folder: &Path, name: &str) -> Result<()> {
        let fails = |source| read_error(folder, source);
        for entry in std::fs::read_dir(folder).map_err(fails)? {
            let path = entry.map_err(fails)?.path();
            let own = path.file_name().unwrap_or_default().to_string_lossy();
            let name = match name.is_empty() {
                true => own.into_owned(),
                false => format!("{name}/{own}"),
            };
            if path.is_dir() {
                self.walk(&path, &name)?;
                self.folders.push(name);
            } else {
                let content = Content::File(path);
                self.files.push(Entry { name, content });
            }
        }
        Ok(())
    }

    fn read_tar(&mut self, path: &Path, source: impl Read) -> Result<()> {
        let damaged = |reason: String| DataError::Archive {
            file: path.to_owned(),
            reason: format!("it is damaged or cut short ({reason})"),
        };
        let mut archive = tar::Archive::new(source);
        for entry in archive
            .entries()
            .map_err(|error| damaged(error.to_string()))?
        {
            let mut entry = entry.map_err(|error| damaged(error.to_string()))?;
            let name = entry.path().map_err(|error| damaged(error.to_string()))?;
            let name = name.to_string_lossy().into_owned();
            if entry.header().entry_type().is_dir() {
                self.folders.push(name.trim_end_matches('/').to_owned());
            } else if entry.header().entry_type().is_file() {
                let mut bytes = Vec::new();
                let read = entry.read_to_end(&mut bytes);
                read.map_err(|error| damaged(format!("`{name}`: {error}")))?;
                if bytes.len() as u64 != entry.size() {
                    let (found, size) = (bytes.len(), entry.size());
                    return Err(damaged(format!("`{name}`: {found} of {size} bytes")));
                }
                let content = Content::Bytes(bytes);
                self.files.push(Entry { name, content });
            }
        }
        // A gzip stream is checked at its very end.
        let rest = std::io::copy(&mut archive.into_inner(), &mut std::io::sink());
        rest.map_err(|error| damaged(error.to_string()))?;
        Ok(())
    }

    fn read_zip(&mut self, path: &Path) -> Result<()> {
        let damaged = |reason: String| DataError::Archive {
            file: path.to_owned(),
            reason: format!("it is damaged or cut short ({reason})"),
        };
        let mut archive = zip::ZipArchive::new(BufReader::new(open(path)?))
            .map_err(|error| damaged(error.to_string()))?;
        for index in 0..archive.len() {
            let mut entry = archive
                .by_index(index)
                .map_err(|error| damaged(error.to_string()))?;
            let name = entry.name().map_err(|error| damaged(error.to_string()))?;
            let name = name.trim_end_matches('/').to_owned();
            if entry.is_dir() {
                self.folders.push(name);
                continue;
            }
            let mut bytes = Vec::new();
            let read = entry.read_to_end(&mut bytes);
            read.map_err(|error| damaged(format!("`{name}`: {error}")))?;
            let content = Content::Bytes(bytes);
            self.files.push(Entry { name, content });
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|source| read_error(path, source))
}

fn read_error(file: &Path, source: std::io::Error) -> DataError {
    DataError::Read {
        file: file.to_owned(),
        source,
    }
}

/// A tar file ends with blocks of zeros; one that was cut between two files does not.
fn check_tar_end(path: &Path) -> Result<()> {
    const BLOCK: u64 = 512;
    let mut file = open(path)?;
    let mut block = Vec::new();
    let length = file
        .metadata()
        .map_err(|error| read_error(path, error))?
        .len();
    let start = length.saturating_sub(BLOCK);
    file.seek(SeekFrom::Start(start))
        .and_then(|_| file.read_to_end(&mut block))
        .map_err(|error| read_error(path, error))?;
    if length < BLOCK || length % BLOCK != 0 || block.iter().any(|byte| *byte != 0) {
        return Err(DataError::Archive {
            file: path.to_owned(),
            reason: "it is damaged or cut short (it has no end mark)".into(),
        });
    }
    Ok(())
}

fn is_hidden(name: &str) -> bool {
    name.split('/')
        .any(|part| (part.starts_with('.') && part != ".") || part == "__MACOSX")
}
