//! Gate: builds one input document from the records and judges it by the policy sets.
//!
//! Reads build.json, scan.json, test.json and policies/. Writes `gate.json`: the verdict, every rule's outcome, the input and the
//! policies' digests; beside it the same as `gate.sarif` for code scanning and as `gate.junit.xml`. Every decision is also one line
//! of `target/pipeline/decisions.ndjson`. Evidence that is missing, corrupted or of other bytes is a denial with the file's name,
//! never a pass.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::OnFailure;
use crate::context::Context;
use crate::decisions::Decision;
use crate::policy::{self, Outcome};
use crate::records::{Digests, Record, Stage};
use crate::stages::deploy::{self, kept};
use crate::stages::{build, scan, test};
use crate::terminal::{note, warning};
use crate::training_image::TrainingImage;
use crate::waivers::{self, Remarks};
use crate::{decisions, digest, evidence, exit, github, pipeline, records, report, sarif, verdict_output};

/// What was decided, and on what.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Content {
    pub verdict: Verdict,
    pub model: String,
    pub image: String,
    /// Evidence that could not be used, each with its file; any is a denial.
    pub evidence: Vec<String>,
    pub outcomes: Vec<Outcome>,
    /// Waivers that have expired, each a denial, and waivers that nobody needs.
    #[serde(default)]
    pub waivers: Remarks,
    /// The document that the policies judged.
    pub input: Value,
}

/// The decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Allow,
    /// Denied by a policy set that only warns.
    Warn,
    Deny,
}

impl Verdict {
    /// As it stands in the record.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Allow => "allow",
            Verdict::Warn => "warn",
            Verdict::Deny => "deny",
        }
    }
}

/// The verdict for code scanning.
const SARIF: &str = "gate.sarif";
/// The verdict as a test report.
const JUNIT: &str = "gate.junit.xml";

/// Forms of the verdict on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Every rule and what it said, for people.
    Table,
    /// The record, gate.json, on one line.
    Json,
    /// A test suite for each policy set, a case for each rule.
    Junit,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// Annotations of GitHub Actions.
    Github,
}

/// Severities of the registry, all of which have a number once it has counted.
const SEVERITIES: [&str; 6] = ["CRITICAL", "HIGH", "MEDIUM", "LOW", "INFORMATIONAL", "UNDEFINED"];

/// Options of `gate`.
#[derive(Args)]
pub struct Options {
    /// What to print on standard output.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Runs the stage as a command of its own, and prints the verdict, also when it is a denial.
///
/// # Errors
/// As [`run`].
pub fn command(context: &Context, options: &Options) -> Result<()> {
    let format = if context.json { Format::Json } else { options.output };
    pipeline::alone(context, Stage::Gate, || run(context, Some(format))).map(|_| ())
}

/// Runs the stage; prints the verdict if a format is given.
///
/// # Errors
/// Exit code 3 if denied, 4 if pipeline.toml names no policy set.
pub fn run(context: &Context, print: Option<Format>) -> Result<Record<Content>> {
    let build: Record<build::Content> = context.read(Stage::Build)?;
    let sets = &context.config.policy_sets;
    if sets.is_empty() {
        return Err(exit::nothing_checked("pipeline.toml names no policy set: add [[policy_sets]]"));
    }
    let now = Utc::now();
    let inputs = inputs(context, now)?;
    let record = context.unchanged::<Content>(Stage::Gate, &inputs);
    if let Some(record) = record.filter(|_| evidence::verify(context).is_ok()) {
        context.skipped(Stage::Gate);
        if record.content.verdict == Verdict::Deny {
            keep_denied(context, &record);
        }
        return conclude(context, record, print);
    }
    let work = context.begin(Stage::Gate)?;
    let (input, mut missing) = input(context, &build);
    missing.extend(untimely(context, &build, now));
    let judge = |set| policy::judge(&context.root, &context.environment_name, set, &input);
    let mut outcomes: Vec<Outcome> = sets.iter().map(judge).collect();
    let waivers = waivers::apply(&context.config.waivers, &mut outcomes, now.date_naive());
    let content = Content {
        verdict: verdict(&missing, &waivers, &outcomes),
        model: build.content.model.digest.clone(),
        image: build.content.image.digest.clone(),
        evidence: missing,
        outcomes,
        waivers,
        input,
    };
    let environment = &context.environment_name;
    let write = |name: &str, text: &[u8]| records::write_atomically(&work.folder.join(name), text);
    write(SARIF, &serde_json::to_vec_pretty(&sarif::of_gate(environment, &content))?)?;
    write(JUNIT, verdict_output::junit(environment, &content).as_bytes())?;
    let mut files = vec![SARIF, JUNIT];
    let page = judged_page(context, &content);
    if let Some(page) = &page {
        write(report::FILE, page.as_bytes())?;
        files.push(report::FILE);
    }
    let record = work.record(inputs, &files, content)?;
    // A verdict that the log did not take must not be found by whoever comes next.
    decisions::log(&context.root, &record)?;
    records::write(&work.folder, &record)?;
    evidence::write(context)?;
    if record.content.verdict == Verdict::Deny {
        keep_denied(context, &record);
        if let Some(page) = page {
            publish_denied(context, &record.run, &page);
        }
    }
    conclude(context, record, print)
}

/// Evidence of a time that cannot be: then the clock is wrong, here or where it was made, and no date can be relied on.
fn untimely(context: &Context, build: &Record<build::Content>, now: DateTime<Utc>) -> Vec<String> {
    let others = [Stage::Scan, Stage::Test].into_iter().filter_map(|stage| context.read::<Value>(stage).ok());
    let times = others.map(|record| (record.stage, record.started_at, record.finished_at));
    impossible_times(build.finished_at, &times.collect::<Vec<_>>(), now)
}

/// Clocks of different machines may differ by this much.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::minutes(10);

fn impossible_times(
    built: DateTime<Utc>,
    others: &[(Stage, DateTime<Utc>, DateTime<Utc>)],
    now: DateTime<Utc>,
) -> Vec<String> {
    let mut texts = Vec::new();
    let finished = others.iter().map(|(stage, _, finished)| (*stage, *finished));
    for (stage, finished) in [(Stage::Build, built)].into_iter().chain(finished) {
        if finished - now > CLOCKS_DIFFER {
            texts.push(format!("{} is of {finished}, and it is {now}: set the clock right", stage.file()));
        }
    }
    for (stage, started, _) in others {
        if built - *started > CLOCKS_DIFFER {
            let name = stage.name();
            texts.push(format!("{} is older than build.json: run `cargo xtask {name}` again", stage.file()));
        }
    }
    texts
}

/// The report as the test stage drew it, whatever verdict it has by now.
fn page(context: &Context, test: &test::Content) -> Result<String> {
    let path = context.folder()?.join(report::FILE);
    let page = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let found = report::digest_without_verdict(&page)?;
    if found != test.report {
        bail!("{} is not the page that test.json names: run `cargo xtask test` again", report::FILE);
    }
    Ok(page)
}

/// The report with this verdict; none where there is no page that belongs to the measuring.
fn judged_page(context: &Context, content: &Content) -> Option<String> {
    let test: Record<test::Content> = context.read(Stage::Test).ok()?;
    let page = page(context, &test.content).ok()?;
    report::with_verdict(&page, &test.run, &context.environment_name, content).ok()
}

/// Keeps a denial in the bucket: an allowed one is kept when it is deployed. The verdict stands whether the bucket can be reached or
/// not, and whoever asks for it again has it kept then.
fn keep_denied(context: &Context, record: &Record<Content>) {
    let decision = Decision::of(record, None);
    let kept =
        context.cloud().and_then(|cloud| context.block_on(kept::upload_denied(cloud, &context.environment, &decision)));
    if let Err(error) = kept {
        note(&format!("the denial is not kept: {error:#}"));
    }
}

/// Shows the report of a denied model as it is; that of an allowed one is published when it is deployed. The verdict stands
/// whether the bucket can be reached or not.
fn publish_denied(context: &Context, run: &str, page: &str) {
    let published = context
        .cloud()
        .and_then(|cloud| context.block_on(deploy::publish_report(cloud, &context.environment, run, page.as_bytes())));
    if let Err(error) = published {
        note(&format!("the published report does not show the verdict: {error:#}"));
    }
}

/// Digests of everything that decides the verdict.
fn inputs(context: &Context, now: DateTime<Utc>) -> Result<Digests> {
    let mut inputs = Digests::new();
    for stage in [Stage::Build, Stage::Scan, Stage::Test] {
        // With the files that it names: evidence that was changed since must be judged anew, and denied.
        let digest = match context.read::<Value>(stage) {
            Ok(_) => context.record_digest(stage)?,
            Err(error) => format!("unusable: {error:#}"),
        };
        inputs.insert(stage.file().to_string(), digest);
    }
    let policies = context.config.policy_sets.iter().flat_map(|set| &set.policies);
    for path in policies.flat_map(|path| [path.clone(), policy::tests_beside(path)]) {
        let full = context.root.join(&path);
        let digest = if full.is_file() { digest::of_file(&full)? } else { "absent".to_string() };
        inputs.insert(path.display().to_string(), digest);
    }
    let waivers = &context.config.waivers;
    let expired = waivers::expired(waivers, now.date_naive());
    let parts = (&context.config.policy_sets, context.environment.training_image, waivers, expired);
    inputs.insert("configuration".into(), context.configuration_digest(&parts)?);
    Ok(inputs)
}

/// The input document, and why evidence is missing from it.
fn input(context: &Context, build: &Record<build::Content>) -> (Value, Vec<String>) {
    let mut evidence = Vec::new();
    let mut input = json!({
        "environment": context.environment_name,
        "cloud": context.environment.cloud.name(),
        "image_digest": build.content.image.digest,
        "image_model": build.content.model.digest,
        "training_image": training_image_input(context, &build.content.training_image),
    });
    let build_digest = context.record_digest(Stage::Build).unwrap_or_default();
    let fits = |stage: Stage, inputs: &Digests| match inputs.get(Stage::Build.file()) {
        Some(digest) if *digest == build_digest => Ok(()),
        _ => Err(anyhow::anyhow!(
            "{} rests on another build.json: run `cargo xtask {}` again",
            stage.file(),
            stage.name()
        )),
    };
    match context.read::<scan::Content>(Stage::Scan).and_then(|scan| fits(Stage::Scan, &scan.inputs).map(|()| scan)) {
        Ok(scan) => input["scan"] = scan_input(&scan.content),
        Err(error) => evidence.push(format!("{error:#}")),
    }
    match context.read::<test::Content>(Stage::Test).and_then(|test| fits(Stage::Test, &test.inputs).map(|()| test)) {
        Ok(test) => {
            let test = test.content;
            if let Err(error) = page(context, &test) {
                evidence.push(format!("{error:#}"));
            }
            for name in ["accuracy", "fairnessScoreEqualOpportunity", "rows", "parity"] {
                input[name] = test.metrics[name].clone();
            }
            input["metrics_model"] = test.metrics["model"].clone();
            input["behaviour"] = test.behaviour;
            let cases = &test.cases;
            input["tests"] = json!({
                "total": cases.total, "passed": cases.passed, "failed": cases.failed, "skipped": cases.skipped,
            });
        }
        Err(error) => evidence.push(format!("{error:#}")),
    }
    (input, evidence)
}

/// What the environment wants, and what there is.
fn training_image_input(context: &Context, training: &TrainingImage) -> Value {
    json!({
        "wanted": context.environment.training_image.name(),
        "built": training.built,
        "reason": training.reason,
        "digest": training.image.as_ref().map(|image| &image.digest),
    })
}

fn scan_input(scan: &scan::Content) -> Value {
    json!({
        "digest": scan.image,
        "image": image_scan_input(&scan.registry),
        "training_image": scan.training_image.as_ref().map(|training| {
            json!({"digest": training.image, "image": image_scan_input(&training.registry)})
        }),
        "crates": packages_scan_input(&scan.crates),
        "python": packages_scan_input(&scan.python),
    })
}

fn image_scan_input(scan: &scan::RegistryScan) -> Value {
    // A registry that has counted leaves the severities out that it did not find. One that has not counted at all
    // keeps `null`: that is not zero.
    let counts = scan.counts.as_ref().map(|counts| {
        let number = |severity: &&str| (severity.to_string(), counts.get(*severity).copied().unwrap_or(0));
        let known = SEVERITIES.iter().map(number);
        // A severity that is not known here is for the policy to refuse.
        let unknown = counts.iter().filter(|(severity, _)| !SEVERITIES.contains(&severity.as_str()));
        known.chain(unknown.map(|(severity, count)| (severity.clone(), *count))).collect::<BTreeMap<_, _>>()
    });
    json!({"status": scan.status, "description": scan.description, "counts": counts})
}

fn packages_scan_input(scan: &scan::PackagesScan) -> Value {
    json!({
        "status": scan.status,
        "reason": scan.reason,
        "packages": scan.packages,
        "vulnerabilities": scan.vulnerabilities.len(),
        "warnings": scan.notices.len(),
    })
}

/// The decision on what the policies said, on the waivers, and on evidence that is missing.
pub fn verdict(evidence: &[String], waivers: &Remarks, outcomes: &[Outcome]) -> Verdict {
    let denied = |on_failure| outcomes.iter().any(|set| set.on_failure == on_failure && !set.denials.is_empty());
    if !evidence.is_empty() || !waivers.expired.is_empty() || denied(OnFailure::Error) {
        Verdict::Deny
    } else if denied(OnFailure::Warn) {
        Verdict::Warn
    } else {
        Verdict::Allow
    }
}

/// Says what was decided and turns a denial into exit code 3.
fn conclude(context: &Context, record: Record<Content>, print: Option<Format>) -> Result<Record<Content>> {
    let content = &record.content;
    let mut reasons: Vec<_> = content.evidence.iter().chain(&content.waivers.expired).cloned().collect();
    reasons.iter().chain(&content.waivers.unused).for_each(|text| warning(text));
    for outcome in &content.outcomes {
        note(&format!("{}: {}", outcome.policy_set, verdict_output::word(outcome)));
        outcome.denials.iter().chain(&outcome.warnings).for_each(|text| warning(text));
        for (rule, text, waived) in outcome.waived() {
            note(&format!(
                "waived by {} until {} ({}): {}: {text}",
                waived.owner, waived.expires, waived.reason, rule.id
            ));
        }
        if outcome.on_failure == OnFailure::Error {
            reasons.extend(outcome.denials.iter().cloned());
        }
    }
    note(&format!("verdict: {}", content.verdict.name()));
    let annotations = verdict_output::annotations(content);
    if github::active() && print != Some(Format::Github) {
        print!("{annotations}");
    }
    match print {
        None => {}
        Some(Format::Table) => print!("{}", verdict_output::table(content)),
        Some(Format::Json) => println!("{}", serde_json::to_string(&record)?),
        Some(Format::Junit) => print!("{}", verdict_output::junit(&record.environment, content)),
        Some(Format::Sarif) => println!("{}", serde_json::to_string(&sarif::of_gate(&record.environment, content))?),
        Some(Format::Github) => print!("{annotations}"),
    }
    github::output("verdict", content.verdict.name())?;
    // Whoever approves a deployment approves this file.
    github::output("gate_digest", &context.record_digest(Stage::Gate)?)?;
    github::summary(&verdict_output::markdown(content))?;
    if content.verdict == Verdict::Deny {
        return Err(exit::denied(reasons.join("; "))).context("the gate denied the model, nothing is deployed");
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(on_failure: OnFailure, denials: &[&str]) -> Outcome {
        Outcome {
            policy_set: "set".into(),
            package: "main".into(),
            on_failure,
            policies: Vec::new(),
            denials: denials.iter().map(|text| text.to_string()).collect(),
            warnings: Vec::new(),
            rules: Vec::new(),
        }
    }

    #[test]
    fn an_error_set_denies_and_a_warning_set_warns() {
        let verdict = |evidence: &[String], outcomes: &[Outcome]| verdict(evidence, &Remarks::default(), outcomes);
        assert_eq!(verdict(&[], &[outcome(OnFailure::Error, &[])]), Verdict::Allow);
        assert_eq!(verdict(&[], &[outcome(OnFailure::Warn, &["low"])]), Verdict::Warn);
        let both = [outcome(OnFailure::Warn, &["low"]), outcome(OnFailure::Error, &["low"])];
        assert_eq!(verdict(&[], &both), Verdict::Deny);
        assert_eq!(verdict(&["test.json is missing".into()], &[outcome(OnFailure::Warn, &[])]), Verdict::Deny);
    }

    #[test]
    fn an_expired_waiver_denies_and_an_unused_one_does_not() {
        let clean = [outcome(OnFailure::Warn, &[])];
        let expired = Remarks { expired: vec!["old".into()], unused: Vec::new() };
        assert_eq!(verdict(&[], &expired, &clean), Verdict::Deny);
        let unused = Remarks { expired: Vec::new(), unused: vec!["odd".into()] };
        assert_eq!(verdict(&[], &unused, &clean), Verdict::Allow);
    }

    #[test]
    fn evidence_of_the_future_and_older_than_the_build_is_a_denial() {
        let now = Utc::now();
        let ago = |minutes| now - TimeDelta::minutes(minutes);
        let texts = |built, started, finished| impossible_times(built, &[(Stage::Test, started, finished)], now);
        assert!(texts(ago(9), ago(8), ago(7)).is_empty());
        assert!(texts(ago(9), ago(18), ago(7)).is_empty(), "clocks of two machines");
        assert!(texts(ago(9), ago(20), ago(19))[0].contains("test.json is older than build.json"));
        assert!(texts(ago(-11), ago(-11), ago(0))[0].contains("build.json is of"));
        assert!(texts(ago(9), ago(8), ago(-11))[0].contains("test.json is of"));
    }

    #[test]
    fn every_row_of_the_published_table_names_a_test() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
        let (_, section) = text.split_once("## What the gate does when something fails").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
        assert!(rows.len() >= 30, "{}", rows.len());
        let mut sources = String::new();
        for folder in ["xtask/src", "policies", "tests"] {
            for path in digest::files_of_tree(&root.join(folder)).unwrap() {
                let path = root.join(folder).join(path);
                if path.extension().is_some_and(|end| ["rs", "rego", "py"].iter().any(|known| end == *known)) {
                    sources.push_str(&std::fs::read_to_string(path).unwrap());
                    sources.push('\n');
                }
            }
        }
        for row in rows {
            let test = row.rsplit('`').nth(1).unwrap();
            let forms = [format!("fn {test}()"), format!("\ndef {test}("), format!("\n{test} if")];
            assert!(forms.iter().any(|form| sources.contains(form)), "{test} of the row {row}");
        }
    }

    #[test]
    fn counts_that_are_absent_stay_absent() {
        let mut scan = scan::tests::content();
        assert!(scan_input(&scan)["image"]["counts"].is_null());
        scan.registry.counts = Some(BTreeMap::from([("HIGH".to_string(), 2)]));
        assert_eq!(scan_input(&scan)["image"]["counts"]["HIGH"], 2);
        assert_eq!(scan_input(&scan)["image"]["counts"]["CRITICAL"], 0);
    }
}
