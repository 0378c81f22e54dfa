//! Where the output goes. A file takes its place only once it is complete, so that a half-written one is never taken for it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The output of a run.
pub struct Target {
    writer: Box<dyn Write + Send>,
    /// The file that is written, and the one whose place it takes; none where the output is no ordinary file.
    places: Option<(PathBuf, PathBuf)>,
}

impl Target {
    /// Opens a file beside the named one, or what is there if it is a device or a pipe; standard output without a name.
    pub fn open(path: Option<&Path>) -> Result<Target, String> {
        let Some(path) = path else { return Ok(Target { writer: Box::new(io::stdout()), places: None }) };
        let cannot = |error: io::Error| format!("create {}: {error}", path.display());
        // Of a link the file that it leads to is replaced.
        let place = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let present = fs::metadata(&place).ok();
        if present.as_ref().is_some_and(|present| !present.is_file()) {
            let file = File::options().write(true).open(&place).map_err(cannot)?;
            return Ok(Target { writer: Box::new(file), places: None });
        }
        let Some(name) = place.file_name() else { return Err(format!("create {}: it names no file", path.display())) };
        let mut unfinished = name.to_os_string();
        unfinished.push(format!(".{}.part", std::process::id()));
        let unfinished = place.with_file_name(unfinished);
        let file = File::create(&unfinished).map_err(cannot)?;
        let target = Target { writer: Box::new(file), places: Some((unfinished, place)) };
        if let (Some(present), Some((unfinished, _))) = (present, &target.places) {
            fs::set_permissions(unfinished, present.permissions()).map_err(cannot)?;
        }
        Ok(target)
    }

    pub fn writer(&mut self) -> &mut (dyn Write + Send) {
        &mut *self.writer
    }

    /// Puts a complete file in its place.
    pub fn keep(mut self) -> Result<(), String> {
        match self.places.take() {
            None => Ok(()),
            Some((unfinished, place)) => fs::rename(&unfinished, &place).map_err(|error| {
                let _ = fs::remove_file(&unfinished);
                format!("rename {} to {}: {error}", unfinished.display(), place.display())
            }),
        }
    }
}

impl Drop for Target {
    /// Takes away a file that was not kept.
    fn drop(&mut self) {
        if let Some((unfinished, _)) = &self.places {
            let _ = fs::remove_file(unfinished);
        }
    }
}
