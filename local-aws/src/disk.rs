//! State on disk: every file is written beside its place, synced and renamed, so that a process killed at any point leaves
//! either the old or the new content, never half of one.

use std::{
    fs, io,
    io::Write,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use serde::{Serialize, de::DeserializeOwned};

/// Writes `bytes` to `path` atomically.
///
/// # Errors
/// When the directory cannot be written.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::other("a path without a directory"))?;
    let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_directory(directory)
}

/// Makes a rename or removal in `directory` durable.
///
/// # Errors
/// When the directory cannot be opened.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    // Some file systems refuse to sync a directory handle; the rename itself is atomic without it.
    match fs::File::open(directory)?.sync_all() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

/// Writes `value` as JSON to `path` atomically.
///
/// # Errors
/// When the value cannot be written; the error names the file.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    let text = serde_json::to_vec_pretty(value).with_context(|| format!("encoding {}", path.display()))?;
    write_atomic(path, &text).with_context(|| format!("writing {}", path.display()))
}

/// Reads a JSON file; `None` when there is none.
///
/// # Errors
/// When the file cannot be read or is damaged; the error names the file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let value = serde_json::from_slice(&text)
        .with_context(|| format!("the state file {} is damaged; restore it or delete it", path.display()))?;
    Ok(Some(value))
}

/// Removes a file; that there is none is fine.
///
/// # Errors
/// When the file is there and stays.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Empties (and creates) a directory of things that do not outlive a process.
///
/// # Errors
/// When it cannot be emptied or created.
pub fn fresh_directory(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("emptying {}", path.display()));
        }
        _ => {}
    }
    fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))
}

/// Locks a mutex; a thread that panicked while holding it does not take the others down, because state is replaced whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
