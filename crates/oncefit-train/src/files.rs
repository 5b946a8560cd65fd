//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::error::{Result, TrainError};

/// Writes `contents` to `path` so that a reader, at any moment and after any crash, finds either
/// the old file or the new one: temporary file in the same folder, fsync, rename, fsync of the
/// folder.
///
/// # Errors
/// If the folder is missing or the disk is full; the old file stays, and no temporary one.
pub fn write_atomically(path: &Path, contents: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new()
        .prefix(TEMPORARY_PREFIX)
        .tempfile_in(folder)
        .map_err(TrainError::file("create a file in", folder))?;
    temporary
        .write_all(contents)
        .map_err(TrainError::file("write", path))?;
    temporary
        .as_file()
        .sync_all()
        .map_err(TrainError::file("write", path))?;
    // Temporary files are private to their owner; what a run leaves should be readable.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let readable = fs::Permissions::from_mode(0o644);
        temporary
            .as_file()
            .set_permissions(readable)
            .map_err(TrainError::file("write", path))?;
    }
    temporary
        .persist(path)
        .map_err(|error| TrainError::file("write", path)(error.error))?;
    sync_folder(folder)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    File::open(folder)
        .and_then(|handle| handle.sync_all())
        .map_err(TrainError::file("write", folder))
}

/// What the names of unfinished files begin with.
pub const TEMPORARY_PREFIX: &str = ".unfinished-";

/// Removes what a killed process left unfinished in a folder.
pub(crate) fn remove_unfinished(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(TrainError::file("read", folder))?;
    for entry in entries.flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(TEMPORARY_PREFIX)
        {
            fs::remove_file(entry.path()).map_err(TrainError::file("remove", &entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write_atomically(&path, b"old").unwrap();
        write_atomically(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = write_atomically(Path::new("/nonexistent-folder/a.txt"), b"").unwrap_err();
        assert!(error.to_string().contains("/nonexistent-folder"), "{error}");
    }
}
