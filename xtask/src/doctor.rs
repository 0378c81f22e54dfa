//! Doctor: what the chosen environment needs, whether it is there, and the command that brings it.
//!
//! Changes nothing but for the advisory database, which it fetches as `scan` would.

use std::env;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Serialize;
use serde_json::json;

use crate::config::{self, CloudKind, Package};
use crate::context::Context;
use crate::git::{self, LastCommit};
use crate::{advisories, mail, setup, tools, tracking};

/// One thing that was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    name: &'static str,
    state: State,
    /// What was found, or why it was not.
    detail: String,
    /// What to do about it.
    fix: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Found,
    /// Absent, and nothing that this environment cannot do without.
    Absent,
    /// Absent, and needed.
    Missing,
}

/// Looks for everything and says what is missing.
///
/// # Errors
/// Something that the environment needs is missing.
pub fn run(context: &Context) -> Result<()> {
    let findings = findings(context);
    if context.json {
        println!("{}", json!({"environment": context.environment_name, "findings": findings}));
    } else {
        for Finding { name, state, detail, fix } in &findings {
            let word = match state {
                State::Found => "found",
                State::Absent => "absent",
                State::Missing => "MISSING",
            };
            println!("{word:<8} {name:<18} {detail}");
            if let Some(fix) = fix {
                println!("{:<27} → {fix}", "");
            }
        }
    }
    let missing = findings.iter().filter(|finding| finding.state == State::Missing).map(|finding| finding.name);
    match missing.collect::<Vec<_>>().join(", ").as_str() {
        "" => Ok(()),
        names => bail!("environment `{}` lacks: {names}", context.environment_name),
    }
}

/// What came of one look: found as described, or absent for a reason and brought by a command.
fn finding(name: &'static str, needed: bool, found: Result<String>, fix: impl Into<String>) -> Finding {
    match found {
        Ok(detail) => Finding { name, state: State::Found, detail, fix: None },
        Err(error) => {
            let state = if needed { State::Missing } else { State::Absent };
            let detail = format!("{error:#}").lines().next().unwrap_or_default().to_string();
            Finding { name, state, detail, fix: Some(fix.into()) }
        }
    }
}

fn findings(context: &Context) -> Vec<Finding> {
    let environment = &context.environment;
    let aws = environment.cloud == CloudKind::Aws;
    // Where another environment's runs are taken over, nothing is built.
    let builds = environment.promotes.is_none();
    let target = context.config.inference.architecture.rust_target();
    let mut findings = vec![
        finding("Rust target", builds, rust_target(target), format!("rustup target add {target}")),
        finding(
            "linker",
            builds,
            linker(target),
            "apt-get install gcc, or for another architecture its cross compiler",
        ),
        finding(
            "Python",
            builds,
            tools::python().map(|path| path.display().to_string()),
            "apt-get install python3 python3-venv",
        ),
        finding("Python packages", builds, packages(context), "cargo xtask setup"),
        finding(
            "container engine",
            aws && builds,
            one_of(&["docker", "podman", "buildah"], "info"),
            "apt-get install buildah",
        ),
        finding(
            "advisory database",
            aws && builds,
            advisory_database(context),
            "connect, or name a copy with RUSTSEC_ADVISORY_DB=/path/to/advisory-db",
        ),
        finding("git history", true, history(context), "git fetch --unshallow, in a clone made by git"),
    ];
    let package = match environment.package {
        Package::Image => "image".to_string(),
        Package::Zip => format!("zip, in s3://{}/{}", environment.package_bucket, config::PACKAGES),
    };
    findings.push(finding("package", true, Ok(package), ""));
    if aws {
        let account = context.cloud().map(|_| format!("account {} answers", environment.account));
        findings.push(finding("AWS account", true, account, "aws sso login, or set AWS_PROFILE"));
        let needed = !context.config.monitor.mail_to.is_empty();
        let fix = format!(
            "name the server in [environments.{}.mail] of pipeline.toml, and set SMTP_USERNAME and SMTP_PASSWORD",
            context.environment_name
        );
        findings.push(finding("mail", needed, mail_server(context), fix));
    }
    findings.push(finding("MLflow", false, Ok(tracking::destination(&context.root)), ""));
    findings
}

fn rust_target(target: &str) -> Result<String> {
    if setup::has_rust_target(target) { Ok(target.to_string()) } else { bail!("{target} is not installed") }
}

/// The linker that cargo calls for the target, unless it was told another.
fn linker(target: &str) -> Result<String> {
    let variable = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
    match env::var(&variable) {
        Ok(program) => one_of(&[&program], "--version").with_context(|| variable),
        Err(_) if target.starts_with(env::consts::ARCH) => one_of(&["cc"], "--version"),
        Err(_) => bail!("{variable} is not set, and this machine's own linker makes no programs for {target}"),
    }
}

/// The first of the programs that answers the question.
fn one_of(programs: &[&str], question: &str) -> Result<String> {
    // Docker's program is often there without its engine, which `--version` would not notice.
    let answers = |program: &str| duct::cmd(program, [question]).stdout_null().stderr_null().run().is_ok();
    let found = programs.iter().find(|program| answers(program));
    found
        .map(|program| program.to_string())
        .ok_or_else(|| anyhow!("`{question}` gets no answer from {}", programs.join(", ")))
}

fn packages(context: &Context) -> Result<String> {
    let directory = &context.config.model.directory;
    if tools::is_installed(&context.root, directory)? {
        return Ok(format!("{}/.venv as its lock says", directory.display()));
    }
    bail!("{}/.venv is not what its lock says", directory.display())
}

fn advisory_database(context: &Context) -> Result<String> {
    let folder = advisories::database_folder(&context.root, &context.config.scan.advisory_database)?;
    if folder.join("crates").is_dir() {
        return Ok(folder.display().to_string());
    }
    bail!("{} is no advisory database", folder.display())
}

fn history(context: &Context) -> Result<String> {
    match git::last_commit(&context.root, &context.config.model.notebook) {
        LastCommit::At(date) => Ok(format!("the notebook's last commit is of {}", date.format("%Y-%m-%d"))),
        LastCommit::Unknown(reason) => bail!(reason),
    }
}

fn mail_server(context: &Context) -> Result<String> {
    let server = context.environment.mail.as_ref().context("no mail server is named")?;
    mail::check(server)?;
    Ok(format!("{}:{} (not asked)", server.host, server.port))
}
