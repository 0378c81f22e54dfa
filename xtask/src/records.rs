//! Records: what each stage leaves behind, and how the next one trusts it.
//!
//! A record is one JSON file in the run's folder, written last and atomically. It names the digests of what the stage
//! read (`inputs`) and of the files that it made (`files`), so that a later stage can tell whether it reads the bytes
//! that were judged. Nothing is trusted by its name or its time.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest;

/// The six stages, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Build,
    Scan,
    Test,
    Gate,
    Deploy,
    Monitor,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Stage; 6] = [Stage::Build, Stage::Scan, Stage::Test, Stage::Gate, Stage::Deploy, Stage::Monitor];

    /// The command's name.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Build => "build",
            Stage::Scan => "scan",
            Stage::Test => "test",
            Stage::Gate => "gate",
            Stage::Deploy => "deploy",
            Stage::Monitor => "monitor",
        }
    }

    /// Whether each environment makes this record itself. The others speak of bytes, which are the same everywhere.
    pub fn is_of_environment(self) -> bool {
        matches!(self, Stage::Gate | Stage::Deploy | Stage::Monitor)
    }

    /// The record's file name.
    pub fn file(self) -> &'static str {
        match self {
            Stage::Build => "build.json",
            Stage::Scan => "scan.json",
            Stage::Test => "test.json",
            Stage::Gate => "gate.json",
            Stage::Deploy => "deploy.json",
            Stage::Monitor => "monitor.json",
        }
    }

    /// The stages whose records rest on this one's. `scan` and `test` both rest on `build` alone, so that a new scan does
    /// not throw the test's evidence away.
    fn rests_on_this(self) -> &'static [Stage] {
        match self {
            Stage::Build => &[Stage::Scan, Stage::Test, Stage::Gate, Stage::Deploy, Stage::Monitor],
            Stage::Scan | Stage::Test => &[Stage::Gate, Stage::Deploy, Stage::Monitor],
            Stage::Gate => &[Stage::Deploy, Stage::Monitor],
            Stage::Deploy => &[Stage::Monitor],
            Stage::Monitor => &[],
        }
    }
}

/// Name of an input or a file, to its digest.
pub type Digests = BTreeMap<String, String>;

/// What every record has in common, around the stage's own content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record<T> {
    /// Version of the records' form.
    pub schema: u32,
    pub stage: Stage,
    pub run: String,
    pub environment: String,
    pub started_at: DateTime<Utc>,
    pub finished_at: DateTime<Utc>,
    /// Digests of everything that the answer depends on.
    pub inputs: Digests,
    /// Digests of the files beside the record that the stage made.
    pub files: Digests,
    #[serde(flatten)]
    pub content: T,
}

/// Version of the records' form.
pub const SCHEMA: u32 = 1;

/// Reads a record and checks that it is what its name says.
///
/// # Errors
/// Missing, not JSON, of another form, stage or version; the message names the file and the command that makes it anew.
pub fn read<T: DeserializeOwned>(folder: &Path, stage: Stage) -> Result<Record<T>> {
    let path = folder.join(stage.file());
    let fix = format!("run `cargo xtask {}` to make it anew", stage.name());
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("{} is missing: {fix}", path.display()),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let record: Record<T> =
        serde_json::from_slice(&bytes).with_context(|| format!("{} is corrupted: {fix}", path.display()))?;
    if record.schema != SCHEMA || record.stage != stage {
        bail!(
            "{} is a record of stage {} in form {}, expected {} in form {SCHEMA}: {fix}",
            path.display(),
            record.stage.name(),
            record.schema,
            stage.name()
        );
    }
    Ok(record)
}

/// Reads a record and recomputes the digest of every file that it names.
pub fn read_verified<T: DeserializeOwned>(folder: &Path, stage: Stage) -> Result<Record<T>> {
    let record = read(folder, stage)?;
    verify_files(folder, &record)?;
    Ok(record)
}

/// Recomputes the digests of the files beside a record.
pub fn verify_files<T>(folder: &Path, record: &Record<T>) -> Result<()> {
    for (name, expected) in &record.files {
        let path = folder.join(name);
        let Record { stage, environment, run, .. } = record;
        let fix = format!("run `cargo xtask {} --env {environment} --run {run}` to make it anew", stage.name());
        if !path.is_file() {
            bail!("{} is missing, although {} names it: {fix}", path.display(), record.stage.file());
        }
        let found = digest::of_file(&path)?;
        if found != *expected {
            bail!(
                "{} was changed: its digest is {found}, {} says {expected}: {fix}",
                path.display(),
                record.stage.file()
            );
        }
    }
    Ok(())
}

/// Writes `bytes` to `path` so that a reader sees the old file or the whole new one, also after a crash.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file has a folder")?;
    let write = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        }
        file.persist(path).map_err(|error| error.error)?;
        fs::File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("write {}: is the disk full, or the folder read-only?", path.display()))
}

/// Writes a record, whole and last.
pub fn write<T: Serialize>(folder: &Path, record: &Record<T>) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(record).context("turn the record into JSON")?;
    text.push(b'\n');
    write_atomically(&folder.join(record.stage.file()), &text)
}

/// Removes the record of `stage` and of every stage that rests on it, before the stage does anything: an old answer must
/// not outlive the question.
pub fn clear(folder: &Path, stage: Stage) -> Result<()> {
    // Later records first, so that a kill in between never leaves an answer without its evidence.
    for stage in stage.rests_on_this().iter().rev().chain([&stage]) {
        let path = folder.join(stage.file());
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("remove {}", path.display())),
        }
    }
    Ok(())
}

/// Digest of a record's file.
pub fn digest_of(folder: &Path, stage: Stage) -> Result<String> {
    digest::of_file(&folder.join(stage.file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Content {
        answer: u32,
    }

    fn record(files: Digests) -> Record<Content> {
        Record {
            schema: SCHEMA,
            stage: Stage::Test,
            run: "r".into(),
            environment: "local".into(),
            started_at: Utc::now(),
            finished_at: Utc::now(),
            inputs: Digests::new(),
            files,
            content: Content { answer: 42 },
        }
    }

    #[test]
    fn what_was_written_is_read_and_a_changed_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("metrics.json"), "{}").unwrap();
        let files = Digests::from([("metrics.json".to_string(), digest::of_bytes(b"{}"))]);
        write(folder.path(), &record(files)).unwrap();
        let read_back: Record<Content> = read_verified(folder.path(), Stage::Test).unwrap();
        assert_eq!(read_back.content.answer, 42);
        fs::write(folder.path().join("metrics.json"), "{ }").unwrap();
        let error = read_verified::<Content>(folder.path(), Stage::Test).unwrap_err().to_string();
        assert!(error.contains("metrics.json was changed") && error.contains("cargo xtask test"), "{error}");
    }

    #[test]
    fn a_missing_corrupted_or_foreign_record_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let missing = read::<Content>(folder.path(), Stage::Test).unwrap_err();
        assert!(missing.to_string().contains("test.json is missing"));
        for bytes in ["", "{", "null", "{\"schema\":1}"] {
            fs::write(folder.path().join("test.json"), bytes).unwrap();
            let error = read::<Content>(folder.path(), Stage::Test).unwrap_err();
            assert!(error.to_string().contains("test.json is corrupted"), "{error:#}");
        }
        write(folder.path(), &record(Digests::new())).unwrap();
        fs::rename(folder.path().join("test.json"), folder.path().join("scan.json")).unwrap();
        let foreign = read::<Content>(folder.path(), Stage::Scan).unwrap_err().to_string();
        assert!(foreign.contains("record of stage test"), "{foreign}");
    }

    #[test]
    fn clearing_removes_what_rests_on_the_stage_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for stage in Stage::ALL {
            fs::write(folder.path().join(stage.file()), "x").unwrap();
        }
        clear(folder.path(), Stage::Scan).unwrap();
        let left: Vec<_> = Stage::ALL.into_iter().filter(|stage| folder.path().join(stage.file()).exists()).collect();
        assert_eq!(left, [Stage::Build, Stage::Test]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deploy.json");
        fs::create_dir(&path).unwrap();
        assert!(write_atomically(&path, b"new").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
