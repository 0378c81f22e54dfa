//! What a deployment rests on: the gate's verdict, the records that it judged, and what the promoted environment deployed.

use anyhow::{Context as _, Result, bail};
use chrono::Utc;

use super::Content;
use crate::config::Package;
use crate::context::Context;
use crate::records::{self, Record, Stage};
use crate::rollback;
use crate::stages::{build, gate, scan, test};
use crate::{decisions, digest, evidence, exit, paths};

/// The gate's record, if it allows this and rests on exactly the records that lie beside it.
pub fn verified_gate(context: &Context) -> Result<Record<gate::Content>> {
    let gate: Record<gate::Content> = context.read(Stage::Gate)?;
    if gate.content.verdict == gate::Verdict::Deny {
        return Err(exit::denied("gate.json says deny: nothing is deployed"));
    }
    let again = format!("run `cargo xtask gate --env {} --run {}` again", gate.environment, gate.run);
    for stage in [Stage::Build, Stage::Scan, Stage::Test] {
        let found = context.record_digest(stage)?;
        if gate.inputs.get(stage.file()) != Some(&found) {
            bail!("{} is not the one that the gate judged: {again}", stage.file());
        }
    }
    // The policies that judged must still be the ones in the clone, or the verdict is an old one.
    for outcome in &gate.content.outcomes {
        for policy in &outcome.policies {
            if digest::of_file(&context.root.join(&policy.path))? != policy.digest {
                bail!("{} changed since the gate judged by it: {again}", policy.path);
            }
        }
    }
    // So must the waivers still count.
    let today = Utc::now().date_naive();
    for (rule, _, waived) in gate.content.outcomes.iter().flat_map(|outcome| outcome.waived()) {
        if today > waived.expires {
            return Err(exit::denied(format!(
                "the waiver of {} by {} has expired since the gate judged: {again}",
                rule.id, waived.owner
            )));
        }
    }
    let build: Record<build::Content> = context.read(Stage::Build)?;
    let scan: Record<scan::Content> = context.read(Stage::Scan)?;
    let test: Record<test::Content> = context.read(Stage::Test)?;
    let image = &build.content.image.digest;
    let model = &build.content.model.digest;
    let chain = [
        ("gate.json", &gate.content.image, image),
        ("scan.json", &scan.content.image, image),
        ("test.json", &test.content.image, image),
        ("gate.json", &gate.content.model, model),
        ("test.json", &test.content.model, model),
    ];
    for (file, found, expected) in chain {
        if found != expected {
            bail!("{file} speaks of {found}, build.json of {expected}: run the pipeline again");
        }
    }
    evidence::verify(context)?;
    decisions::verify(&context.root, |run, environment| context.folder_of_environment(run, environment))?;
    Ok(gate)
}

/// Digest of the deploy.json that this environment takes over; none if it promotes no other one.
///
/// # Errors
/// The other environment did not deploy this image, or this zip package, in this run, or took it back.
pub fn verified_promotion(context: &Context, build: &build::Content) -> Result<Option<String>> {
    let Some(source) = &context.environment.promotes else { return Ok(None) };
    let run = context.run()?;
    let folder = paths::run(&context.root, &run);
    let fix = format!("run `cargo xtask deploy --env {source} --run {run}` first");
    let record: Record<Content> = records::read_verified(&folder, Stage::Deploy)
        .with_context(|| format!("`{}` takes over only what `{source}` deployed: {fix}", context.environment_name))?;
    let content = &record.content;
    if record.environment != *source || record.run != run {
        bail!("deploy.json is of run {} in {}, not of run {run} in {source}: {fix}", record.run, record.environment);
    }
    if let Some(failure) = &content.failure {
        bail!("`{source}` could not deploy this run: {failure}");
    }
    let image = &build.image.digest;
    if content.image != *image {
        bail!("`{source}` deployed image {}, this run has {image}: {fix}", content.image);
    }
    let zip = build.package.as_ref().map(|package| &package.digest);
    if context.environment.package == Package::Zip && (content.package != Package::Zip || content.zip.as_ref() != zip) {
        let (deployed, built) = (content.zip.as_deref().unwrap_or("none"), zip.map_or("none", String::as_str));
        bail!("`{source}` deployed zip package {deployed}, this run has {built}: {fix}");
    }
    if let Some(taken_back) = rollback::of_folder(&folder)? {
        bail!(
            "`{source}` was rolled back from this run at {}: it is not promoted",
            taken_back.rolled_back_at.format("%F %R UTC")
        );
    }
    Ok(Some(records::digest_of(&folder, Stage::Deploy)?))
}
