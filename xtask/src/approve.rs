//! Approve: shows exactly what is to be deployed, and records somebody's yes to it.
//!
//! Reads the run's records and asks the cloud what is live. Writes `approval.json` beside gate.json, bound to the digest of
//! gate.json. In GitHub Actions the reviewers of the environment approve instead.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context as _, Result, bail};
use chrono::Utc;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::approval::{self, Approval};
use crate::config::Package;
use crate::context::Context;
use crate::notebook::Cases;
use crate::package::PackageRecord;
use crate::records::{self, Record, Stage};
use crate::stages::{build, deploy, gate, scan, test};
use crate::training_image::TrainingImage;
use crate::waivers::Waived;
use crate::{digest, evidence, github, lock, paths, terminal, verdict_output};

/// Options of `approve`.
#[derive(Args)]
pub struct Options {
    /// Approve without asking: at least the first 12 hexadecimal digits of the digest of gate.json.
    #[arg(long, value_name = "DIGEST")]
    yes: Option<String>,
    /// Show what is to be approved, and record nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Digits that have to be typed.
const DIGITS: usize = 12;

/// What is approved.
#[derive(Debug, Serialize)]
struct Question {
    environment: String,
    function: String,
    run: String,
    commit: Option<String>,
    dirty: Option<bool>,
    gate: String,
    /// Digest of the document that names all evidence.
    evidence: String,
    verdict: gate::Verdict,
    model: String,
    image: String,
    /// What the function is to be made of: `image`, or the zip package with the image's files.
    package: Package,
    zip: Option<PackageRecord>,
    training_image: TrainingImage,
    figures: Vec<Figure>,
    cases: Cases,
    findings: Value,
    policy_sets: Vec<PolicySet>,
    live: Option<LiveModel>,
    /// How traffic will move.
    rollout: String,
    /// What was recorded; none where nothing was.
    approval: Option<Approval>,
}

/// A figure of the candidate beside that of the live model.
#[derive(Debug, Serialize)]
struct Figure {
    name: &'static str,
    value: Value,
    /// Where the metrics have one.
    interval: Value,
    /// Of the live model; null if it is not known here.
    live: Value,
}

#[derive(Debug, Serialize)]
struct PolicySet {
    name: String,
    outcome: &'static str,
    messages: Vec<String>,
    waived: Vec<Waiver>,
}

/// An objection that somebody answers for.
#[derive(Debug, Serialize)]
struct Waiver {
    id: String,
    message: String,
    #[serde(flatten)]
    by: Waived,
}

#[derive(Debug, Serialize)]
struct LiveModel {
    version: String,
    run: Option<String>,
    model: String,
    image: String,
    package: Package,
    code: String,
}

/// Runs the command.
///
/// # Errors
/// Exit code 3 if the gate denied.
pub fn run(context: &Context, options: &Options) -> Result<()> {
    let name = &context.environment_name;
    if !context.environment.approval {
        bail!("environment `{name}` asks for no approval: `cargo xtask deploy --env {name}` deploys without");
    }
    if github::active() {
        bail!("in GitHub Actions the reviewers of the environment approve, in the workflow run's page");
    }
    context.end_with_children();
    let _lock = lock::acquire(&context.root)?;
    let gate = deploy::verified_gate(context)?;
    let mut question = question(context, &gate)?;
    if !context.json {
        print(&question);
    }
    if !options.dry_run {
        ask(&question.gate, options)?;
        let approval = record(context, &gate, &question.gate)?;
        if !context.json {
            println!(
                "approved until {}: `cargo xtask deploy --env {name} --run {}`",
                approval.expires_at.format("%F %R UTC"),
                question.run
            );
        }
        question.approval = Some(approval);
    }
    if context.json {
        println!("{}", serde_json::to_string(&question)?);
    }
    Ok(())
}

fn question(context: &Context, gate: &Record<gate::Content>) -> Result<Question> {
    let build: Record<build::Content> = context.read(Stage::Build)?;
    let scan: Record<scan::Content> = context.read(Stage::Scan)?;
    let test: Record<test::Content> = context.read(Stage::Test)?;
    let cloud = context.cloud()?;
    let live = context.block_on(deploy::live_version(cloud, &context.environment))?;
    let live = live.map(|live| LiveModel {
        version: live.version.clone(),
        run: live.run().map(String::from),
        model: live.model().to_string(),
        image: live.image.clone(),
        package: live.package,
        code: live.code.clone(),
    });
    let live_metrics = live.as_ref().map_or(Value::Null, |live| metrics_of(context, live));
    let figure = |name| Figure {
        name,
        value: test.content.metrics[name].clone(),
        interval: test.content.metrics["intervals"][name].clone(),
        live: live_metrics[name].clone(),
    };
    Ok(Question {
        environment: context.environment_name.clone(),
        function: context.environment.function.clone(),
        run: context.run()?,
        commit: build.content.commit.clone(),
        dirty: build.content.dirty,
        gate: context.record_digest(Stage::Gate)?,
        evidence: evidence::verify(context)?,
        verdict: gate.content.verdict,
        model: build.content.model.digest.clone(),
        image: build.content.image.digest.clone(),
        package: context.environment.package,
        zip: build.content.package.clone().filter(|_| context.environment.package == Package::Zip),
        training_image: build.content.training_image.clone(),
        figures: vec![figure("accuracy"), figure("fairnessScoreEqualOpportunity")],
        cases: test.content.cases.clone(),
        findings: scan.content.summary.clone(),
        policy_sets: gate.content.outcomes.iter().map(policy_set).collect(),
        live,
        rollout: context.environment.rollout.plan()?.in_words(),
        approval: None,
    })
}

fn policy_set(outcome: &crate::policy::Outcome) -> PolicySet {
    PolicySet {
        name: outcome.policy_set.clone(),
        outcome: verdict_output::word(outcome),
        messages: outcome.denials.iter().chain(&outcome.warnings).cloned().collect(),
        waived: outcome
            .waived()
            .map(|(rule, text, waived)| Waiver { id: rule.id.clone(), message: text.to_string(), by: waived.clone() })
            .collect(),
    }
}

/// The metrics of the live model, if its run is known here; of no other model.
fn metrics_of(context: &Context, live: &LiveModel) -> Value {
    let Some(run) = &live.run else { return Value::Null };
    match records::read_verified::<test::Content>(&paths::run(&context.root, run), Stage::Test) {
        Ok(test) if test.content.model == live.model => test.content.metrics.clone(),
        _ => Value::Null,
    }
}

fn print(question: &Question) {
    let Question { environment, function, run, .. } = question;
    println!("{}", terminal::bold(&format!("deploy run {run} to {environment} ({function})")));
    let row = |name: &str, text: String| println!("  {name:<14} {text}");
    let dirty = match question.dirty {
        Some(false) => "",
        Some(true) => ", with changes that are not committed",
        None => ", whether all is committed is unknown",
    };
    row("commit", format!("{}{dirty}", question.commit.as_deref().unwrap_or("unknown")));
    row("model", question.model.clone());
    row("image", question.image.clone());
    match &question.zip {
        Some(zip) => row("package", format!("zip {} with the image's files", zip.digest)),
        None => row("package", question.package.name().to_string()),
    }
    let training = &question.training_image;
    row(
        "training image",
        if training.built { training.reason.clone() } else { format!("not built: {}", training.reason) },
    );
    for figure in &question.figures {
        row(figure.name, in_words(figure));
    }
    let cases = &question.cases;
    row("notebook", format!("{} cases passed, {} failed, {} skipped", cases.passed, cases.failed, cases.skipped));
    row("findings", findings_in_words(&question.findings));
    for set in &question.policy_sets {
        row("policies", format!("{}: {}", set.name, set.outcome));
        for message in &set.messages {
            row("", message.clone());
        }
        for Waiver { id, message, by } in &set.waived {
            row("", format!("waived by {} until {} ({}): {id}: {message}", by.owner, by.expires, by.reason));
        }
    }
    match &question.live {
        None => row("live now", "nothing".to_string()),
        Some(live) => {
            let same = if live.model == question.model { ", the same model" } else { "" };
            let run = live.run.as_deref().unwrap_or("unknown");
            row("live now", format!("version {} of run {run}, model {}{same}", live.version, live.model));
        }
    }
    row("traffic", question.rollout.clone());
    row("evidence", question.evidence.clone());
    row("verdict", format!("{}, gate.json {}", question.verdict.name(), question.gate));
}

fn in_words(figure: &Figure) -> String {
    let interval = match &figure.interval {
        Value::Null => String::new(),
        interval => format!(", interval {interval}"),
    };
    let live = match &figure.live {
        Value::Null => "unknown".to_string(),
        live => live.to_string(),
    };
    format!("{}{interval} (live: {live})", figure.value)
}

fn findings_in_words(summary: &Value) -> String {
    let counts = summary["issuesBySeverityCount"].as_object().into_iter().flatten();
    let counts: Vec<_> =
        counts.filter(|(_, count)| **count != 0).map(|(name, count)| format!("{count} {name}")).collect();
    let counts = if counts.is_empty() { String::new() } else { format!(": {}", counts.join(", ")) };
    format!("scan {}, {} issues{counts}", summary["status"].as_str().unwrap_or("unknown"), summary["issuesCount"])
}

/// Asks for the beginning of the digest, so that nobody approves by habit.
fn ask(gate: &str, options: &Options) -> Result<()> {
    if let Some(given) = &options.yes {
        if !is_beginning(given, gate) {
            bail!(
                "--yes {given} is not the beginning of the digest of gate.json, {gate} ({DIGITS} digits at least): nothing was approved"
            );
        }
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!(
            "there is no terminal to ask on: look at what is shown, then approve with `--yes {}`",
            digest::short(gate)
        );
    }
    eprint!("Type the first {DIGITS} digits of the digest of gate.json to approve: ");
    std::io::stderr().flush().context("ask on the terminal")?;
    let mut typed = String::new();
    std::io::stdin().lock().read_line(&mut typed).context("read the terminal")?;
    if !is_beginning(typed.trim(), gate) {
        bail!("that is not how the digest begins: nothing was approved");
    }
    Ok(())
}

fn is_beginning(given: &str, digest: &str) -> bool {
    let digits = |text: &str| text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
    let (given, digest) = (digits(given), digits(digest));
    given.len() >= DIGITS && digest.starts_with(&given)
}

fn record(context: &Context, gate: &Record<gate::Content>, shown: &str) -> Result<Approval> {
    if context.record_digest(Stage::Gate)? != shown {
        bail!("gate.json changed while you were asked: run `cargo xtask approve` again");
    }
    let now = Utc::now();
    let approval = Approval {
        schema: records::SCHEMA,
        environment: context.environment_name.clone(),
        run: context.run()?,
        gate: shown.to_string(),
        approved_by: vec![who()?],
        through: "approve".to_string(),
        comment: None,
        approved_at: Some(now),
        expires_at: now + approval::lifetime(),
        evidence: approval::evidence(gate),
    };
    let mut text = serde_json::to_vec_pretty(&approval).context("turn the approval into JSON")?;
    text.push(b'\n');
    records::write_atomically(&approval::path(context)?, &text)?;
    Ok(approval)
}

/// `user@host`, as the operating system knows them; variables could say anything.
fn who() -> Result<String> {
    let read = |program: &str, argument: &str| -> Result<String> {
        let text = duct::cmd(program, [argument]).stderr_null().read();
        let text = text.with_context(|| format!("find out who approves: `{program} {argument}`"))?;
        Ok(text.trim().to_string())
    };
    Ok(format!("{}@{}", read("id", "-un")?, read("uname", "-n")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_approval_names_enough_of_the_digest() {
        let digest = "sha256:0123456789abcdef";
        for enough in ["0123456789ab", "sha256:0123456789ab", "0123456789ABCDEF", digest] {
            assert!(is_beginning(enough, digest), "{enough}");
        }
        for wrong in ["", "0123456789a", "sha256:", "123456789abc", "0123456789abcdef0", "yes"] {
            assert!(!is_beginning(wrong, digest), "{wrong}");
        }
    }
}
