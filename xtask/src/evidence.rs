//! The evidence of a run in one document: an in-toto Statement over the image's digest, in canonical JSON.
//!
//! `bundle.json` beside gate.json names the digests of everything that the verdict rests on: model, image, data, policies, sources,
//! toolchain, every record and every file of a record. It is made from the records alone, so that whoever reads it can make it
//! again from them and compare. What comes later, approval and deployment, has records of its own, which name gate.json.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aws_sdk_ecr::operation::describe_images::DescribeImagesError;
use aws_sdk_ecr::types::ImageIdentifier;
use serde_json::{Map, Value, json};

use crate::cloud::service_error;
use crate::context::Context;
use crate::decisions::Decision;
use crate::records::{self, Record, Stage};
use crate::stages::{build, gate, scan, test};
use crate::{artifact, decisions, digest};

/// The document's name in the folder of gate.json.
pub const FILE: &str = "bundle.json";
/// Form of an in-toto Statement.
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// Meaning of the Statement's predicate, a name of this project's own.
const PREDICATE: &str = "urn:ccapproval:evidence:v1";

/// Writes the run's evidence, or removes an old one where the records do not give one.
pub fn write(context: &Context) -> Result<()> {
    let path = context.record_folder(Stage::Gate)?.join(FILE);
    match statement(context) {
        Ok(statement) => records::write_atomically(&path, &canonical(&statement)?),
        Err(_) if !path.exists() => Ok(()),
        Err(_) => std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display())),
    }
}

/// Makes the evidence again from the records' bytes and compares; gives its digest.
///
/// # Errors
/// It is missing or differs; the message names what differs.
pub fn verify(context: &Context) -> Result<String> {
    let path = context.record_folder(Stage::Gate)?.join(FILE);
    let fix = format!("run `cargo xtask gate --env {}` again", context.environment_name);
    let bytes = std::fs::read(&path).with_context(|| format!("read {}: {fix}", path.display()))?;
    let found: Value =
        serde_json::from_slice(&bytes).with_context(|| format!("{} is corrupted: {fix}", path.display()))?;
    let wanted = statement(context)?;
    if let Some(difference) = difference("", &found, &wanted) {
        bail!("{}: {difference}: {fix}", path.display());
    }
    if bytes != canonical(&wanted)? {
        bail!("{} is not in its canonical form: {fix}", path.display());
    }
    Ok(digest::of_bytes(&bytes))
}

fn statement(context: &Context) -> Result<Value> {
    let build: Record<build::Content> = context.read(Stage::Build)?;
    let scan: Record<scan::Content> = context.read(Stage::Scan)?;
    let test: Record<test::Content> = context.read(Stage::Test)?;
    let gate: Record<gate::Content> = context.read(Stage::Gate)?;
    let mut records = Map::new();
    for stage in [Stage::Build, Stage::Scan, Stage::Test, Stage::Gate] {
        records.insert(stage.file().to_string(), json!(context.record_digest(stage)?));
    }
    let image = &build.content.image;
    let policies = gate.content.outcomes.iter().flat_map(|outcome| &outcome.policies);
    let policies: Map<_, _> = policies.map(|policy| (policy.path.clone(), json!(policy.digest))).collect();
    let metrics = &test.content.metrics;
    let predicate = json!({
        "run": gate.run,
        "environment": gate.environment,
        "model": build.content.model.digest,
        "program": build.content.program.digest,
        "training_image": build.content.training_image,
        "data": build.content.dataset,
        "commit": build.content.commit,
        "dirty": build.content.dirty,
        "sources": build.inputs,
        "toolchain": build.content.toolchain,
        "policies": policies,
        "policy_digest": decisions::policy_digest(&gate.content.outcomes),
        "decision": digest::of_bytes(Decision::of(&gate, None).document()?.as_bytes()),
        "records": records,
        "files": {"build": build.files, "scan": scan.files, "test": test.files, "gate": gate.files},
        "cases": test.content.cases,
        "metrics": {
            "accuracy": metrics["accuracy"],
            "fairnessScoreEqualOpportunity": metrics["fairnessScoreEqualOpportunity"],
            "rows": metrics["rows"],
        },
        "scan": scan.content.summary,
        "verdict": gate.content.verdict,
    });
    statement_about(&image.repository, &image.digest, PREDICATE, &predicate)
}

/// An in-toto Statement about the image with this digest, `sha256:…`.
pub fn statement_about(repository: &str, image: &str, kind: &str, predicate: &Value) -> Result<Value> {
    Ok(json!({
        "_type": STATEMENT,
        "subject": [{
            "name": repository,
            "digest": {"sha256": image.strip_prefix("sha256:").context("the image has no digest")?},
        }],
        "predicateType": kind,
        "predicate": predicate,
    }))
}

/// Sorted keys and no blanks: the same value always has the same bytes.
pub fn canonical(value: &Value) -> Result<Vec<u8>> {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let mut names: Vec<_> = fields.keys().collect();
                names.sort();
                Value::Object(names.into_iter().map(|name| (name.clone(), sorted(&fields[name]))).collect())
            }
            Value::Array(items) => items.iter().map(sorted).collect(),
            other => other.clone(),
        }
    }
    serde_json::to_vec(&sorted(value)).context("turn the evidence into JSON")
}

/// The first place where two documents differ, in words.
fn difference(place: &str, found: &Value, wanted: &Value) -> Option<String> {
    match (found, wanted) {
        (Value::Object(left), Value::Object(right)) => {
            let unknown = left.keys().find(|name| !right.contains_key(*name));
            if let Some(name) = unknown {
                return Some(format!("{place}/{name} is not what the records say: they have nothing of it"));
            }
            right.iter().find_map(|(name, wanted)| {
                difference(&format!("{place}/{name}"), left.get(name).unwrap_or(&Value::Null), wanted)
            })
        }
        (found, wanted) if found == wanted => None,
        (found, wanted) => Some(format!("{place} is {found}, the records say {wanted}")),
    }
}

/// The evidence in words, for people: its digest where it is whole, and the tag that it has beside its image, else what is wrong.
pub fn state(context: &Context) -> String {
    let exists =
        context.record_folder(Stage::Gate).is_ok_and(|folder: std::path::PathBuf| Path::exists(&folder.join(FILE)));
    match verify(context) {
        Ok(digest) => match beside_image(context, &digest) {
            Ok(Some(place)) => format!("{FILE} {digest}, beside the image as {place}"),
            Ok(None) => format!("{FILE} {digest}"),
            Err(error) => format!("{FILE} {digest}, and whether it lies beside the image is not known: {error:#}"),
        },
        Err(_) if !exists => "none".to_string(),
        Err(error) => format!("{error:#}"),
    }
}

/// Repository and tag of the evidence with this digest, if the registry has it.
fn beside_image(context: &Context, digest: &str) -> Result<Option<String>> {
    let build: Record<build::Content> = context.read(Stage::Build)?;
    let (repository, tag) = (build.content.image.repository, artifact::tag(digest));
    let identifier = ImageIdentifier::builder().image_tag(&tag).build();
    let request = context.cloud()?.ecr.describe_images().repository_name(&repository).image_ids(identifier);
    match context.block_on(request.send()) {
        Ok(_) => Ok(Some(format!("{repository}:{tag}"))),
        Err(error) if error.as_service_error().is_some_and(is_absent) => Ok(None),
        Err(error) => Err(service_error(error)).with_context(|| format!("ask the registry for {repository}:{tag}")),
    }
}

fn is_absent(error: &DescribeImagesError) -> bool {
    error.is_image_not_found_exception() || error.is_repository_not_found_exception()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_value_has_the_same_bytes() {
        let one: Value = serde_json::from_str("{\"b\": [1, {\"d\": 0.1, \"c\": null}], \"a\": \"x\"}").unwrap();
        assert_eq!(canonical(&one).unwrap(), b"{\"a\":\"x\",\"b\":[1,{\"c\":null,\"d\":0.1}]}");
    }

    #[test]
    fn a_difference_is_named_by_its_place() {
        let wanted = json!({"predicate": {"model": "sha256:1", "records": {"gate.json": "sha256:2"}}});
        assert_eq!(difference("", &wanted, &wanted), None);
        let other = json!({"predicate": {"model": "sha256:0", "records": {"gate.json": "sha256:2"}}});
        let text = difference("", &other, &wanted).unwrap();
        assert_eq!(text, "/predicate/model is \"sha256:0\", the records say \"sha256:1\"");
        let more = json!({"predicate": {"model": "sha256:1", "records": {"gate.json": "sha256:2", "x": 1}}});
        assert!(difference("", &more, &wanted).unwrap().starts_with("/predicate/records/x"));
        assert!(difference("", &json!({}), &wanted).unwrap().starts_with("/predicate is null"));
    }
}
