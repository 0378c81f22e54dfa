//! What is kept of a run beside the cloud's own logs. Of a deployment: the run's verdict, its evidence, the approval and the deployment,
//! each a document of its own below `evidence/<run>/` in the environment's bucket, which nobody may read but the account. The evidence
//! lies beside its image in the registry, too, put there by the environment that may push.
//!
//! Of a run that was denied: the verdict, beside them.
//!
//! Approval and deployment are in-toto Statements about the image, like the evidence, and name its digest.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Content;
use crate::cloud::Cloud;
use crate::config::{EVIDENCE_PREFIX, Environment};
use crate::context::Context;
use crate::decisions::Decision;
use crate::records::{Record, Stage};
use crate::registry::Repository;
use crate::stages::gate;
use crate::terminal::note;
use crate::{digest, evidence};

/// The verdict with its input, as a line of the log of decisions has it: what it takes to judge it again.
pub const DECISION: &str = "decision.json";
/// The statement of the deployment, which names the evidence's digest.
pub const STATEMENT: &str = "deployment.json";
/// What the names of denials begin with.
pub const DENIED: &str = "denied-";

const APPROVAL: &str = "urn:ccapproval:approval:v1";
const DEPLOYMENT: &str = "urn:ccapproval:deployment:v1";

/// Keeps what the deployment in `record` rests on and what came of it. The same record always gives the same bytes.
///
/// # Errors
/// The registry or the bucket does not take it; the same deployment once more goes on from there.
pub async fn upload(context: &Context, cloud: &Cloud, record: &Record<Content>, repository: &str) -> Result<()> {
    let kept = keep(context, cloud, record, repository).await;
    kept.with_context(|| {
        let Record { environment, run, .. } = record;
        format!(
            "the version is live and its evidence is not kept: run `cargo xtask deploy --env {environment} --run {run}` again"
        )
    })
}

async fn keep(context: &Context, cloud: &Cloud, record: &Record<Content>, repository: &str) -> Result<()> {
    let path = context.record_folder(Stage::Gate)?.join(evidence::FILE);
    let bundle = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    if context.environment.promotes.is_none() {
        let uri = cloud.ensure_repository(repository).await?;
        let opened = Repository::open(cloud, &uri).await?;
        let tag = opened.attach(&record.content.image, evidence::FILE, &bundle).await?;
        note(&format!("evidence beside the image: {repository}:{tag}"));
    }
    let names =
        Names { repository, evidence: digest::of_bytes(&bundle), record: context.record_digest(Stage::Deploy)? };
    let gate: Record<gate::Content> = context.read(Stage::Gate)?;
    let decision = Decision::of(&gate, None).document()?;
    // What others name comes before them: whatever is kept without the last one was not kept whole.
    let mut documents = vec![(DECISION, decision.into_bytes()), (evidence::FILE, bundle)];
    for (name, statement) in statements(record, &names)? {
        documents.push((name, evidence::canonical(&statement)?));
    }
    let environment = &context.environment;
    for (name, bytes) in documents {
        let key = format!("{EVIDENCE_PREFIX}{}/{name}", record.run);
        cloud.upload(&environment.bucket, &key, "application/json", bytes).await?;
    }
    Ok(())
}

/// The name of a denial, by its own digest: a run can be denied more than once.
pub fn denied_name(document: &[u8]) -> String {
    format!("{DENIED}{}.json", digest::of_bytes(document).trim_start_matches("sha256:"))
}

/// Keeps a verdict that nothing is deployed on, for whoever judges it again. The same verdict is kept once.
///
/// # Errors
/// The bucket is not there, or does not take it.
pub async fn upload_denied(cloud: &Cloud, environment: &Environment, decision: &Decision) -> Result<()> {
    let document = decision.document()?.into_bytes();
    let key = format!("{EVIDENCE_PREFIX}{}/{}", decision.run, denied_name(&document));
    cloud.upload(&environment.bucket, &key, "application/json", document).await
}

/// What the record itself does not name.
struct Names<'a> {
    /// The image's.
    repository: &'a str,
    /// Digest of bundle.json.
    evidence: String,
    /// Digest of deploy.json.
    record: String,
}

/// The statements of a deployment, each with its file's name: of the approval where there is one, and of the deployment.
fn statements(record: &Record<Content>, names: &Names) -> Result<Vec<(&'static str, Value)>> {
    let content = &record.content;
    let about = |kind: &str, mut predicate: Value| {
        predicate["evidence"] = json!(names.evidence);
        evidence::statement_about(names.repository, &content.image, kind, &predicate)
    };
    let mut statements = Vec::new();
    if let Some(approval) = &content.approval {
        statements.push(("approval.json", about(APPROVAL, json!({"approval": approval}))?));
    }
    let deployment = json!({
        "run": record.run,
        "environment": record.environment,
        "deployed_at": record.finished_at,
        "record": names.record,
        "function": content.function,
        "alias": content.alias,
        "version": content.version,
        "previous_version": content.previous_version,
        "model": content.model,
        "verdict": content.verdict,
    });
    statements.push((STATEMENT, about(DEPLOYMENT, deployment)?));
    Ok(statements)
}
