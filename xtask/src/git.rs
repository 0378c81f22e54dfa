//! What git knows of the sources. Without git, or without a clone, the answer is "unknown", never a guess.

use std::path::Path;

use chrono::{DateTime, Utc};
use xshell::{Shell, cmd};

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let shell = Shell::new().ok()?;
    shell.change_dir(root);
    let output = cmd!(shell, "git {arguments...}").quiet().ignore_stderr().read().ok()?;
    Some(output.trim().to_string())
}

/// The commit that is checked out.
pub fn commit(root: &Path) -> Option<String> {
    git(root, &["rev-parse", "HEAD"]).filter(|commit| !commit.is_empty())
}

/// Whether tracked or untracked files differ from the commit.
pub fn dirty(root: &Path) -> Option<bool> {
    git(root, &["status", "--porcelain"]).map(|lines| !lines.is_empty())
}

/// When a file last changed, by the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastCommit {
    /// The committer's date.
    At(DateTime<Utc>),
    /// Why it cannot be known.
    Unknown(String),
}

/// Date of the last commit that touched `path`.
///
/// A shallow clone ends the history early and would name the boundary commit for every file, so its answer is not used.
pub fn last_commit(root: &Path, path: &Path) -> LastCommit {
    let unknown = |reason: &str| LastCommit::Unknown(reason.to_string());
    match git(root, &["rev-parse", "--is-shallow-repository"]).as_deref() {
        Some("false") => {}
        Some(_) => return unknown("the clone is shallow: fetch the history with `git fetch --unshallow`"),
        None => return unknown("this is no git clone, or git is not installed"),
    }
    let path = path.to_string_lossy();
    match git(root, &["log", "-1", "--format=%cI", "--", &path]) {
        Some(date) if !date.is_empty() => match DateTime::parse_from_rfc3339(&date) {
            Ok(date) => LastCommit::At(date.to_utc()),
            Err(_) => unknown("git gave a date that is none"),
        },
        Some(_) => unknown("no commit touches it yet"),
        None => unknown("git log failed"),
    }
}
