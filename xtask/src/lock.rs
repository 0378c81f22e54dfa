//! One command at a time works on the runs: a second one waits and says for whom.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use anyhow::{Context, Result};

use crate::{paths, terminal};

/// Held until dropped; the operating system lets go of it even after a kill.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock of the runs under `root`, waiting for whoever holds it.
pub fn acquire(root: &Path) -> Result<Lock> {
    let path = paths::lock(root);
    let context = || format!("lock {}", path.display());
    std::fs::create_dir_all(paths::runs(root)).with_context(context)?;
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).with_context(context)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).with_context(context)?;
            terminal::note(&format!("waiting for {} to finish in this clone", holder.trim()));
            file.lock().with_context(context)?;
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(context),
    }
    let command: Vec<_> = std::env::args().skip(1).collect();
    file.set_len(0).with_context(context)?;
    file.rewind().with_context(context)?;
    write!(file, "`cargo xtask {}` (process {})", command.join(" "), std::process::id()).with_context(context)?;
    Ok(Lock { _file: file })
}
