//! Gate: builds one input document from the records and judges it by the policy sets.
//!
//! Reads build.json, scan.json, test.json and policies/. Writes `gate.json`: the verdict, every rule's outcome, the input and the
//! policies' digests; beside it `gate.sarif`, the same for code scanning. Evidence that is missing, corrupted or of other bytes
//! is a denial with the file's name, never a pass.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::OnFailure;
use crate::context::Context;
use crate::policy::{self, Outcome};
use crate::records::{Digests, Record, Stage};
use crate::stages::{build, scan, test};
use crate::terminal::{note, warning};
use crate::training_image::TrainingImage;
use crate::{digest, exit, github, records, sarif};

/// What was decided, and on what.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Content {
    pub verdict: Verdict,
    pub model: String,
    pub image: String,
    /// Evidence that could not be used, each with its file; any is a denial.
    pub evidence: Vec<String>,
    pub outcomes: Vec<Outcome>,
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

/// Severities of the registry, all of which have a number once it has counted.
const SEVERITIES: [&str; 6] = ["CRITICAL", "HIGH", "MEDIUM", "LOW", "INFORMATIONAL", "UNDEFINED"];

/// Runs the stage.
///
/// # Errors
/// Exit code 3 if denied, 4 if pipeline.toml names no policy set.
pub fn run(context: &Context) -> Result<Record<Content>> {
    let build: Record<build::Content> = context.read(Stage::Build)?;
    let sets = &context.config.policy_sets;
    if sets.is_empty() {
        return Err(exit::nothing_checked("pipeline.toml names no policy set: add [[policy_sets]]"));
    }
    let inputs = inputs(context)?;
    if let Some(record) = context.unchanged::<Content>(Stage::Gate, &inputs) {
        context.skipped(Stage::Gate);
        return conclude(context, record);
    }
    let work = context.begin(Stage::Gate)?;
    let (input, evidence) = input(context, &build);
    let outcomes: Vec<Outcome> = sets.iter().map(|set| policy::judge(&context.root, set, &input)).collect();
    let content = Content {
        verdict: verdict(&evidence, &outcomes),
        model: build.content.model.digest.clone(),
        image: build.content.image.digest.clone(),
        evidence,
        outcomes,
        input,
    };
    let log = sarif::of_gate(&context.environment_name, &content);
    records::write_atomically(&work.folder.join(SARIF), &serde_json::to_vec_pretty(&log)?)?;
    conclude(context, work.finish(inputs, &[SARIF], content)?)
}

/// Digests of everything that decides the verdict.
fn inputs(context: &Context) -> Result<Digests> {
    let mut inputs = Digests::new();
    for stage in [Stage::Build, Stage::Scan, Stage::Test] {
        // With the files that it names: evidence that was changed since must be judged anew, and denied.
        let digest = match context.read::<Value>(stage) {
            Ok(_) => context.record_digest(stage)?,
            Err(error) => format!("unusable: {error:#}"),
        };
        inputs.insert(stage.file().to_string(), digest);
    }
    for path in context.config.policy_sets.iter().flat_map(|set| &set.policies) {
        let full = context.root.join(path);
        let digest = if full.is_file() { digest::of_file(&full)? } else { "absent".to_string() };
        inputs.insert(path.display().to_string(), digest);
    }
    let parts = (&context.config.policy_sets, context.environment.training_image);
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
            for name in ["accuracy", "fairnessScoreEqualOpportunity", "rows", "parity"] {
                input[name] = test.metrics[name].clone();
            }
            input["metrics_model"] = test.metrics["model"].clone();
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

fn verdict(evidence: &[String], outcomes: &[Outcome]) -> Verdict {
    let denied = |on_failure| outcomes.iter().any(|set| set.on_failure == on_failure && !set.denials.is_empty());
    if !evidence.is_empty() || denied(OnFailure::Error) {
        Verdict::Deny
    } else if denied(OnFailure::Warn) {
        Verdict::Warn
    } else {
        Verdict::Allow
    }
}

/// Says what was decided and turns a denial into exit code 3.
fn conclude(context: &Context, record: Record<Content>) -> Result<Record<Content>> {
    let content = &record.content;
    let mut rows = String::new();
    let mut reasons = Vec::new();
    for text in &content.evidence {
        warning(text);
        github::annotate("error", "Evidence", text);
        rows.push_str(&format!("| evidence | denied | {text} |\n"));
        reasons.push(text.clone());
    }
    for outcome in &content.outcomes {
        let word = match (outcome.denials.is_empty(), outcome.on_failure) {
            (true, _) => "passed",
            (false, OnFailure::Warn) => "failed, warning only",
            (false, OnFailure::Error) => "denied",
        };
        note(&format!("{}: {word}", outcome.policy_set));
        for denial in &outcome.denials {
            warning(denial);
            let level = if outcome.on_failure == OnFailure::Error { "error" } else { "warning" };
            github::annotate(level, &outcome.policy_set, denial);
            if outcome.on_failure == OnFailure::Error {
                reasons.push(denial.clone());
            }
        }
        for text in &outcome.warnings {
            warning(text);
            github::annotate("warning", &outcome.policy_set, text);
        }
        let said: Vec<_> = outcome.denials.iter().chain(&outcome.warnings).cloned().collect();
        rows.push_str(&format!("| {} | {word} | {} |\n", outcome.policy_set, said.join("<br>")));
    }
    note(&format!("verdict: {}", content.verdict.name()));
    github::output("verdict", content.verdict.name())?;
    // Whoever approves a deployment approves this file.
    github::output("gate_digest", &context.record_digest(Stage::Gate)?)?;
    github::summary(&format!(
        "### Gate: {}\n\nmodel `{}`, image `{}`\n\n| policy set | result | messages |\n|---|---|---|\n{rows}",
        content.verdict.name(),
        content.model,
        content.image
    ))?;
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
        }
    }

    #[test]
    fn an_error_set_denies_and_a_warning_set_warns() {
        assert_eq!(verdict(&[], &[outcome(OnFailure::Error, &[])]), Verdict::Allow);
        assert_eq!(verdict(&[], &[outcome(OnFailure::Warn, &["low"])]), Verdict::Warn);
        let both = [outcome(OnFailure::Warn, &["low"]), outcome(OnFailure::Error, &["low"])];
        assert_eq!(verdict(&[], &both), Verdict::Deny);
        assert_eq!(verdict(&["test.json is missing".into()], &[outcome(OnFailure::Warn, &[])]), Verdict::Deny);
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
