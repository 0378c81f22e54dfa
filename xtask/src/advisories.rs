//! Known vulnerabilities of the crates inside the program, by the RustSec advisory database.
//!
//! A scan that could not be done is said as such and never counts as clean.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use rustsec::advisory::Severity;
use rustsec::database::Query;
use rustsec::{Database, package};
use serde::{Deserialize, Serialize};

use crate::dependencies::LinkedCrate;
use crate::process::Program;
use crate::{paths, terminal};

/// How old a fetched database may be before it is fetched again.
const FRESH_FOR: Duration = Duration::from_secs(24 * 3600);
/// How old it may be when it cannot be fetched again.
const USABLE_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// An advisory that concerns a crate of the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub id: String,
    pub package: String,
    pub version: String,
    /// In the scan's words: Critical, High, Medium, Low, Info or Unassigned.
    pub severity: String,
    pub title: String,
}

/// The database as a folder: `RUSTSEC_ADVISORY_DB` if set, the configured folder, or a clone of the configured address.
///
/// # Errors
/// It cannot be had, or only in a state that is too old to be relied on.
pub fn database_folder(root: &Path, configured: &str) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("RUSTSEC_ADVISORY_DB") {
        return Ok(PathBuf::from(folder));
    }
    if !configured.contains("://") {
        return Ok(root.join(configured));
    }
    let clone = paths::advisory_database(root);
    let fetched = clone.join(".fetched");
    let age = |path: &Path| {
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
        SystemTime::now().duration_since(modified).ok()
    };
    if age(&fetched).is_some_and(|age| age < FRESH_FOR) {
        return Ok(clone);
    }
    match fetch(root, configured, &clone) {
        Ok(()) => Ok(clone),
        Err(error) => match age(&fetched) {
            Some(age) if age < USABLE_FOR => {
                let hours = age.as_secs() / 3600;
                terminal::warning(&format!("the advisory database is {hours} hours old and could not be fetched anew"));
                Ok(clone)
            }
            _ => Err(error),
        },
    }
}

/// Clones beside the old copy and replaces it whole.
fn fetch(root: &Path, address: &str, clone: &Path) -> Result<()> {
    let fresh = clone.with_extension(format!("new-{}", std::process::id()));
    let result = Program::new("fetch the advisory database", "git", root)
        .args(["clone", "--quiet", "--depth", "1", address])
        .arg(&fresh)
        .env("GIT_TERMINAL_PROMPT", "0")
        .limit(Duration::from_secs(120))
        .run(&paths::tools(root).join("advisory-db.log"))
        .and_then(|()| {
            let replace = || -> std::io::Result<()> {
                fs::write(fresh.join(".fetched"), "")?;
                if clone.exists() {
                    fs::remove_dir_all(clone)?;
                }
                fs::rename(&fresh, clone)
            };
            replace().with_context(|| format!("replace {}", clone.display()))
        });
    if result.is_err() {
        let _ = fs::remove_dir_all(&fresh);
    }
    result.with_context(|| {
        format!("fetch {address}: connect, or name a copy with RUSTSEC_ADVISORY_DB=/path/to/advisory-db")
    })
}

/// What the database says of the program's crates: vulnerabilities, and notices (unmaintained, unsound).
///
/// Crates that only took part in building are looked up too, for their code ran on the machine that built.
///
/// # Errors
/// The folder is no advisory database, or an empty one.
pub fn look_up(folder: &Path, crates: &[LinkedCrate]) -> Result<(Vec<Finding>, Vec<Finding>)> {
    let database = Database::open(folder)
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(|| format!("open the advisory database in {}", folder.display()))?;
    if database.iter().next().is_none() {
        bail!("the advisory database in {} has no advisory", folder.display());
    }
    let mut vulnerabilities = Vec::new();
    let mut notices = Vec::new();
    for linked in crates.iter().filter(|linked| linked.from_crates_io) {
        let name: package::Name = linked.name.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
        let version = linked.version.parse().with_context(|| format!("understand the version of {}", linked.name))?;
        let query = Query::new().package_name(name).package_version(version).withdrawn(false);
        for advisory in database.query(&query) {
            let notice = advisory.metadata.informational.is_some();
            let finding = Finding {
                id: advisory.id().to_string(),
                package: linked.name.clone(),
                version: linked.version.clone(),
                severity: if notice { "Info" } else { severity(advisory.severity()) }.to_string(),
                title: advisory.title().to_string(),
            };
            if notice { notices.push(finding) } else { vulnerabilities.push(finding) }
        }
    }
    Ok((vulnerabilities, notices))
}

fn severity(severity: Option<Severity>) -> &'static str {
    match severity {
        Some(Severity::Critical) => "Critical",
        Some(Severity::High) => "High",
        Some(Severity::Medium) => "Medium",
        Some(Severity::Low) => "Low",
        Some(Severity::None) => "Info",
        None => "Unassigned",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(advisory: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("crates/example")).unwrap();
        fs::write(folder.path().join("crates/example/RUSTSEC-2020-0001.md"), advisory).unwrap();
        folder
    }

    const ADVISORY: &str = "```toml\n[advisory]\nid = \"RUSTSEC-2020-0001\"\npackage = \"example\"\ndate = \"2020-01-01\"\n\
        cvss = \"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H\"\n\n[versions]\npatched = [\">= 1.2.0\"]\n```\n\n\
        # A made-up fault\n\nIt does not exist.\n";

    fn example(version: &str) -> LinkedCrate {
        let (name, version) = ("example".to_string(), version.to_string());
        LinkedCrate { name, version, runtime: true, from_crates_io: true, dependencies: Vec::new() }
    }

    #[test]
    fn only_the_versions_concerned_are_found() {
        let folder = database(ADVISORY);
        let (vulnerabilities, notices) = look_up(folder.path(), &[example("1.1.9"), example("1.2.0")]).unwrap();
        assert_eq!(vulnerabilities.len(), 1);
        assert_eq!((vulnerabilities[0].version.as_str(), vulnerabilities[0].severity.as_str()), ("1.1.9", "Critical"));
        assert!(notices.is_empty());
    }

    #[test]
    fn a_notice_is_no_vulnerability() {
        let text = ADVISORY.replace("date =", "informational = \"unmaintained\"\ndate =");
        let (vulnerabilities, notices) = look_up(database(&text).path(), &[example("1.0.0")]).unwrap();
        assert!(vulnerabilities.is_empty());
        assert_eq!(notices[0].severity, "Info");
    }

    #[test]
    fn no_database_and_an_empty_one_are_errors() {
        assert!(look_up(Path::new("/nonexistent"), &[]).is_err());
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("crates")).unwrap();
        assert!(look_up(folder.path(), &[]).is_err());
    }
}
