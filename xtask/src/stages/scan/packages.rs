//! Known vulnerabilities of what was linked and installed: the crates inside the program, and the locked Python packages.
//!
//! A scan that could not be done, or that looked at nothing, is said as such and never counts as clean.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::advisories::{self, Finding};
use crate::context::{Context, Work};
use crate::dependencies::LinkedCrate;
use crate::process::Program;
use crate::terminal::{note, warning};
use crate::{process, tools};

/// A scan of packages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PackagesScan {
    /// `done`, `not_done`, or `off` where pipeline.toml does not ask for it.
    pub status: String,
    /// Why it was not done.
    pub reason: String,
    pub packages: usize,
    pub vulnerabilities: Vec<Finding>,
    pub notices: Vec<Finding>,
}

impl PackagesScan {
    fn done(packages: usize, vulnerabilities: Vec<Finding>, notices: Vec<Finding>) -> PackagesScan {
        PackagesScan { status: "done".to_string(), reason: String::new(), packages, vulnerabilities, notices }
    }

    fn without(status: &str, reason: String, packages: usize) -> PackagesScan {
        let (vulnerabilities, notices) = (Vec::new(), Vec::new());
        PackagesScan { status: status.to_string(), reason, packages, vulnerabilities, notices }
    }

    /// The result, said; why there is none, if there is none.
    fn told(what: &str, packages: usize, result: Result<PackagesScan>) -> PackagesScan {
        match result {
            Ok(scan) => {
                note(&format!("{what}: {} looked up, {} vulnerabilities", scan.packages, scan.vulnerabilities.len()));
                scan
            }
            Err(error) => {
                // The first line says what; a program's whole output stays in its log.
                let reason = format!("{error:#}").lines().next().unwrap_or_default().to_string();
                warning(&format!("the scan of {packages} {what} was not done: {reason}"));
                PackagesScan::without("not_done", reason, packages)
            }
        }
    }

    /// Whether there is nothing left to do.
    pub fn is_settled(&self) -> bool {
        self.status != "not_done"
    }

    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.vulnerabilities.iter().chain(&self.notices)
    }
}

/// Looks the crates of the program up.
pub fn scan_crates(context: &Context, linked: &[LinkedCrate]) -> PackagesScan {
    let result = advisories::database_folder(&context.root, &context.config.scan.advisory_database)
        .and_then(|folder| advisories::look_up(&folder, linked))
        .map(|(vulnerabilities, notices)| PackagesScan::done(linked.len(), vulnerabilities, notices));
    PackagesScan::told("crates", linked.len(), result)
}

/// Looks the packages of the model's uv.lock up.
pub fn scan_python(context: &Context, work: &Work) -> PackagesScan {
    let Some(service) = &context.config.scan.python_advisories else {
        let reason = "pipeline.toml has no python_advisories under [scan]";
        return PackagesScan::without("off", reason.to_string(), 0);
    };
    let project = context.root.join(&context.config.model.directory);
    let packages = match locked_packages(&project.join("uv.lock")) {
        Ok(packages) => packages.len(),
        Err(error) => return PackagesScan::told("Python packages", 0, Err(error)),
    };
    let result = audit(context, work, &project, service).and_then(|report| understand(&report, packages));
    PackagesScan::told("Python packages", packages, result)
}

/// The packages of a lock file that come from an index; the project itself does not.
fn locked_packages(lock: &Path) -> Result<BTreeSet<(String, String)>> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        #[serde(default)]
        version: String,
        source: toml::Table,
    }
    let text = fs::read_to_string(lock).with_context(|| format!("read {}", lock.display()))?;
    let lock: Lock = toml::from_str(&text).with_context(|| format!("understand {}", lock.display()))?;
    let from_index = lock.package.into_iter().filter(|package| package.source.contains_key("registry"));
    Ok(from_index.map(|package| (package.name, package.version)).collect())
}

/// Has uv ask the advisory service about every package of the lock file; gives its report.
fn audit(context: &Context, work: &Work, project: &Path, service: &str) -> Result<String> {
    let log = work.log("scan-python");
    let report = log.with_extension("json");
    let _ = fs::remove_file(&report);
    // The report goes to the program's standard output, like what it says; so a shell keeps it apart.
    let ended = Program::new("look the locked Python packages up", "sh", &context.root)
        .args(["-c", "exec \"$@\" > \"$REPORT\"", "sh"])
        .arg(tools::uv(&context.root)?)
        .args(["audit", "--locked", "--output-format", "json"])
        // Their form is settled by the version of uv, which is locked.
        .args(["--preview-features", "audit-command,json-output", "--service-url", service, "--project"])
        .arg(project)
        .env("REPORT", &report)
        .env("UV_HTTP_RETRIES", "1")
        .env("UV_PYTHON_DOWNLOADS", "never")
        .env_remove("VIRTUAL_ENV")
        .limit(Duration::from_secs(120))
        .run_to_end(&log)?;
    // 0: nothing found, 1: something found, anything else: not done.
    if !matches!(ended.code, Some(0 | 1)) {
        let said = process::tail(&ended.log, 50);
        let reason =
            said.lines().map(str::trim).find(|line| line.starts_with("error:")).unwrap_or("it did not say why");
        bail!("ask {service} about them: {reason}");
    }
    fs::read_to_string(&report).with_context(|| format!("read {}", report.display()))
}

/// Reads uv's report, which has to be about all `packages`.
fn understand(report: &str, packages: usize) -> Result<PackagesScan> {
    #[derive(Deserialize)]
    struct Report {
        summary: Summary,
        vulnerabilities: Vec<Vulnerability>,
        adverse_statuses: Vec<serde_json::Value>,
    }
    #[derive(Deserialize)]
    struct Summary {
        audited_packages: usize,
        vulnerabilities: usize,
    }
    #[derive(Deserialize)]
    struct Vulnerability {
        dependency: Dependency,
        id: String,
        summary: Option<String>,
    }
    #[derive(Deserialize)]
    struct Dependency {
        name: String,
        version: String,
    }
    let report: Report = serde_json::from_str(report).context("understand the report of `uv audit`")?;
    let looked_up = report.summary.audited_packages;
    if looked_up != packages || packages == 0 {
        bail!("`uv audit` looked {looked_up} packages up, uv.lock has {packages}");
    }
    if report.summary.vulnerabilities != report.vulnerabilities.len() {
        bail!(
            "`uv audit` counts {} vulnerabilities and names {}",
            report.summary.vulnerabilities,
            report.vulnerabilities.len()
        );
    }
    let finding = |vulnerability: Vulnerability| Finding {
        id: vulnerability.id,
        package: vulnerability.dependency.name,
        version: vulnerability.dependency.version,
        // The report has no severities.
        severity: "Unassigned".to_string(),
        title: vulnerability.summary.unwrap_or_default(),
    };
    // Projects that are archived or quarantined by the index: to be known, as crates that nobody maintains.
    let notice = |status: serde_json::Value| Finding {
        id: status["status"].as_str().unwrap_or("adverse status").to_string(),
        package: status["name"].as_str().unwrap_or_default().to_string(),
        version: String::new(),
        severity: "Info".to_string(),
        title: status["reason"].as_str().unwrap_or_default().to_string(),
    };
    let vulnerabilities = report.vulnerabilities.into_iter().map(finding).collect();
    Ok(PackagesScan::done(packages, vulnerabilities, report.adverse_statuses.into_iter().map(notice).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(audited: usize, counted: usize, vulnerabilities: &str) -> String {
        format!(
            "{{\"summary\": {{\"audited_packages\": {audited}, \"vulnerabilities\": {counted}}}, \
             \"vulnerabilities\": [{vulnerabilities}], \"adverse_statuses\": []}}"
        )
    }

    const ONE: &str = r#"{"dependency": {"name": "pillow", "version": "1"}, "id": "GHSA-1", "summary": null}"#;

    #[test]
    fn a_report_about_all_packages_is_understood() {
        let scan = understand(&report(65, 1, ONE), 65).unwrap();
        assert_eq!((scan.status.as_str(), scan.packages), ("done", 65));
        assert_eq!(
            (scan.vulnerabilities[0].package.as_str(), scan.vulnerabilities[0].id.as_str()),
            ("pillow", "GHSA-1")
        );
        assert!(understand(&report(65, 0, ""), 65).unwrap().vulnerabilities.is_empty());
    }

    #[test]
    fn packages_that_were_not_looked_up_are_not_clean() {
        for text in [report(0, 0, ""), report(64, 0, ""), report(65, 1, ""), report(65, 0, ONE), "{}".into(), "".into()]
        {
            assert!(understand(&text, 65).is_err(), "{text}");
        }
        assert!(understand(&report(0, 0, ""), 0).is_err());
    }

    #[test]
    fn the_project_itself_is_not_looked_up() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let packages = locked_packages(&root.join("model/uv.lock")).unwrap();
        assert!(packages.iter().any(|(name, _)| name == "scikit-learn"));
        assert!(!packages.iter().any(|(name, _)| name == "ccapproval"));
    }
}
