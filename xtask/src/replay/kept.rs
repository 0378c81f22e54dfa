//! The verdicts that are kept in an environment's bucket, wherever they were given.
//!
//! Below `evidence/<run>/`, the statement of the deployment names the digest of the run's evidence, and that the digest of the
//! verdict. A denial has its digest in its name. What does not fit is an error with the run's name; what was kept before verdicts were
//! is passed over, with a warning.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cloud::{Cloud, unless};
use crate::config::{EVIDENCE_PREFIX, Environment};
use crate::decisions::Decision;
use crate::stages::deploy::kept::{DECISION, DENIED, STATEMENT, denied_name};
use crate::terminal::{Progress, note, warning};
use crate::{digest, evidence};

/// How many objects one answer lists, which is the most that S3 does.
const PAGE: i32 = 1000;

/// Reads all of them, of the environment `name`.
///
/// # Errors
/// There is no bucket, or it is not to be read; a document was altered.
pub async fn read(cloud: &Cloud, name: &str, environment: &Environment) -> Result<Vec<Decision>> {
    let bucket = &environment.bucket;
    let _progress = Progress::start(&format!("read the verdicts in s3://{bucket}/{EVIDENCE_PREFIX}"), None);
    let mut decisions = Vec::new();
    for (run, files) in runs(cloud, name, environment, PAGE).await? {
        let place = format!("run {run}, kept in s3://{bucket}/{EVIDENCE_PREFIX}{run}/");
        let download = async |file: &str| cloud.download(bucket, &format!("{EVIDENCE_PREFIX}{run}/{file}")).await;
        let (denials, deployment): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.starts_with(DENIED));
        for file in denials {
            decisions.push(denial(file, &download(file).await?, &run).with_context(|| place.clone())?);
        }
        if deployment.is_empty() {
            continue;
        }
        let read = async |file: &str| match files.contains(file) {
            true => download(file).await.map(Some),
            false => Ok(None),
        };
        let documents = Documents {
            statement: read(STATEMENT).await?,
            evidence: read(evidence::FILE).await?,
            decision: read(DECISION).await?,
        };
        match documents.verified(&run).with_context(|| place.clone())? {
            Kept::Whole(decision) => decisions.push(*decision),
            Kept::Without(reason) => warning(&format!("{place}: {reason}, it is not judged")),
        }
    }
    note(&format!("verdicts kept in s3://{bucket}/{EVIDENCE_PREFIX}: {}", decisions.len()));
    Ok(decisions)
}

/// The runs with evidence, each with the names of its documents; an answer lists `page` objects at most.
async fn runs(
    cloud: &Cloud,
    name: &str,
    environment: &Environment,
    page: i32,
) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let bucket = &environment.bucket;
    let mut runs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut next = None;
    loop {
        // Names of buckets are unique in the world, and somebody else's would answer, too.
        let request = cloud.s3.list_objects_v2().bucket(bucket).expected_bucket_owner(&environment.account);
        let request = request.prefix(EVIDENCE_PREFIX).max_keys(page).set_continuation_token(next);
        let answer = unless(request.send().await, "NoSuchBucket");
        let Some(listed) = answer.with_context(|| format!("list s3://{bucket}/{EVIDENCE_PREFIX}"))? else {
            bail!(
                "there is no bucket `{bucket}`: the first `cargo xtask deploy --env {name}` makes it, and keeps its verdict there"
            );
        };
        for key in listed.contents().iter().filter_map(|object| object.key()) {
            if let Some((run, file)) = key.strip_prefix(EVIDENCE_PREFIX).and_then(|rest| rest.split_once('/')) {
                runs.entry(run.to_string()).or_default().insert(file.to_string());
            }
        }
        next = listed.next_continuation_token().map(String::from);
        if next.is_none() {
            return Ok(runs);
        }
    }
}

/// What is kept of one run, as far as it is there.
struct Documents {
    statement: Option<Vec<u8>>,
    evidence: Option<Vec<u8>>,
    decision: Option<Vec<u8>>,
}

enum Kept {
    Whole(Box<Decision>),
    /// There is no verdict, and why that may be.
    Without(&'static str),
}

impl Documents {
    fn verified(&self, run: &str) -> Result<Kept> {
        let (Some(statement), Some(evidence)) = (&self.statement, &self.evidence) else {
            return Ok(Kept::Without("the deployment did not get as far as to keep it whole"));
        };
        is_named(evidence::FILE, evidence, STATEMENT, &predicate(STATEMENT, statement)?["evidence"])?;
        let named = &predicate(evidence::FILE, evidence)?["decision"];
        if named.is_null() {
            return Ok(Kept::Without("it was kept before verdicts were"));
        }
        let decision = self.decision.as_ref();
        let decision =
            decision.with_context(|| format!("{DECISION} is missing, although {} names it", evidence::FILE))?;
        is_named(DECISION, decision, evidence::FILE, named)?;
        Ok(Kept::Whole(Box::new(parsed(DECISION, decision, run)?)))
    }
}

/// A denial of `run`, which lies in `file`.
fn denial(file: &str, bytes: &[u8], run: &str) -> Result<Decision> {
    if file != denied_name(bytes) {
        bail!("{file} was altered: its digest is {}", digest::of_bytes(bytes));
    }
    parsed(file, bytes, run)
}

fn parsed(file: &str, bytes: &[u8], run: &str) -> Result<Decision> {
    let text = std::str::from_utf8(bytes).with_context(|| format!("{file} is no text"))?;
    let decision = Decision::parse(text).with_context(|| format!("understand {file}"))?;
    if decision.run != run {
        bail!("{file} is of run {}", decision.run);
    }
    Ok(decision)
}

/// What a statement says of its subject.
fn predicate(file: &str, bytes: &[u8]) -> Result<Value> {
    let statement: Value = serde_json::from_slice(bytes).with_context(|| format!("{file} is corrupted"))?;
    Ok(statement.get("predicate").cloned().unwrap_or_default())
}

/// Whether `file` has the digest that another document names.
fn is_named(file: &str, bytes: &[u8], by: &str, named: &Value) -> Result<()> {
    let found = digest::of_bytes(bytes);
    if *named != found {
        bail!("{file} was altered: its digest is {found}, {by} says {named}");
    }
    Ok(())
}

/// The verdicts of the log and those that are kept, each once, oldest first.
///
/// # Errors
/// The same verdict says one thing in the log and another where it is kept.
pub fn merge(log: Vec<Decision>, kept: Vec<Decision>) -> Result<Vec<Decision>> {
    let mut all = log;
    for decision in kept {
        let id = |other: &Decision| (other.decided_at, other.run.clone(), other.environment.clone());
        match all.iter().find(|other| id(other) == id(&decision)) {
            None => all.push(decision),
            Some(other) if other.document()? == decision.document()? => {}
            Some(_) => bail!(
                "run {}: the verdict of {} is one in the log of this clone and another where it is kept",
                decision.run,
                decision.decided_at.format("%F %R UTC")
            ),
        }
    }
    all.sort_by_key(|decision| decision.decided_at);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use chrono::{DateTime, TimeDelta, Utc};
    use local_aws::{LocalCloud, Options};
    use serde_json::json;

    use super::*;
    use crate::config;
    use crate::stages::deploy::kept::upload_denied;
    use crate::stages::gate::Verdict;
    use crate::waivers::Remarks;

    fn decision(run: &str, minute: i64) -> Decision {
        let input = json!({"accuracy": 0.92662});
        Decision {
            schema: 1,
            decided_at: DateTime::<Utc>::UNIX_EPOCH + TimeDelta::minutes(minute),
            run: run.into(),
            environment: "preprod".into(),
            verdict: Verdict::Allow,
            model: "sha256:m".into(),
            image: "sha256:i".into(),
            policy_digest: String::new(),
            input_digest: digest::of_bytes(input.to_string().as_bytes()),
            input,
            evidence: Vec::new(),
            outcomes: Vec::new(),
            waivers: Remarks::default(),
            previous: None,
        }
    }

    fn documents(decision: &Decision) -> Documents {
        let decision = decision.document().unwrap().into_bytes();
        let evidence = json!({"predicate": {"decision": digest::of_bytes(&decision)}}).to_string().into_bytes();
        let statement = json!({"predicate": {"evidence": digest::of_bytes(&evidence)}}).to_string().into_bytes();
        Documents { statement: Some(statement), evidence: Some(evidence), decision: Some(decision) }
    }

    #[test]
    fn whatever_was_altered_is_an_error_and_whatever_is_older_is_not() {
        let whole = || documents(&decision("a", 0));
        let Kept::Whole(found) = whole().verified("a").unwrap() else { panic!("it is whole") };
        assert_eq!(found.document().unwrap(), decision("a", 0).document().unwrap());
        let error = |documents: Documents, run: &str| match documents.verified(run) {
            Ok(_) => panic!("it was altered"),
            Err(error) => format!("{error:#}"),
        };
        let flipped = |bytes: Option<Vec<u8>>| {
            bytes.map(|mut bytes| {
                bytes[20] ^= 1;
                bytes
            })
        };
        let altered = Documents { decision: flipped(whole().decision), ..whole() };
        assert!(error(altered, "a").starts_with("decision.json was altered: its digest is sha256:"));
        let altered = Documents { evidence: flipped(whole().evidence), ..whole() };
        assert!(error(altered, "a").starts_with("bundle.json was altered: its digest is sha256:"));
        let altered = Documents { statement: Some(b"[]".to_vec()), ..whole() };
        assert!(error(altered, "a").ends_with("deployment.json says null"));
        let altered = Documents { statement: Some(b"[".to_vec()), ..whole() };
        assert!(error(altered, "a").starts_with("deployment.json is corrupted"));
        assert!(error(Documents { decision: None, ..whole() }, "a").starts_with("decision.json is missing"));
        assert!(error(whole(), "b").ends_with("is of run a"));
        let other_input = Decision { input: json!({"accuracy": 0.99}), ..decision("a", 0) };
        assert!(error(documents(&other_input), "a").ends_with("the input was changed"));

        let evidence = b"{\"predicate\":{}}".to_vec();
        let statement = json!({"predicate": {"evidence": digest::of_bytes(&evidence)}}).to_string().into_bytes();
        let older = Documents { statement: Some(statement), evidence: Some(evidence), decision: None };
        let unfinished = Documents { statement: None, ..whole() };
        for (documents, reason) in [(older, "before verdicts were"), (unfinished, "did not get as far")] {
            let Ok(Kept::Without(found)) = documents.verified("a") else { panic!("{reason}") };
            assert!(found.contains(reason), "{found}");
        }
    }

    #[test]
    fn each_verdict_is_there_once() {
        let logged = Decision { previous: Some("sha256:0".into()), ..decision("b", 2) };
        let kept = vec![decision("b", 2), decision("a", 1), decision("b", 3)];
        let all = merge(vec![logged.clone()], kept).unwrap();
        let runs: Vec<_> =
            all.iter().map(|decision| (decision.run.as_str(), decision.decided_at.timestamp())).collect();
        assert_eq!(runs, [("a", 60), ("b", 120), ("b", 180)]);
        let other = Decision { verdict: Verdict::Deny, ..decision("b", 2) };
        let error = merge(vec![logged], vec![other]).unwrap_err().to_string();
        assert!(error.starts_with("run b: the verdict of 1970-01-01 00:02 UTC is one in the log"), "{error}");
    }

    #[test]
    fn a_denial_is_of_its_own_name_and_run() {
        let denied = Decision { verdict: Verdict::Deny, ..decision("a", 0) };
        let document = denied.document().unwrap().into_bytes();
        let name = denied_name(&document);
        assert_eq!(denial(&name, &document, "a").unwrap().document().unwrap().into_bytes(), document);
        let error = |name: &str, bytes: &[u8], run: &str| denial(name, bytes, run).unwrap_err().to_string();
        let mut altered = document.clone();
        altered[20] ^= 1;
        assert!(error(&name, &altered, "a").starts_with(&format!("{name} was altered: its digest is sha256:")));
        assert!(error("denied-.json", &document, "a").contains("was altered"));
        assert!(error(&name, &document, "b").ends_with("is of run a"));
        assert!(error(&denied_name(b"{}"), b"{}", "a").starts_with("understand denied-"));
    }

    async fn served(state: &Path) -> (LocalCloud, Cloud, Environment) {
        let options = Options { root: state.to_path_buf(), port: 0, region: "us-east-1".to_string() };
        let served = LocalCloud::start(options).await.unwrap();
        let config = config::parse(include_str!("../../../pipeline.toml")).unwrap();
        let environment = config.environment("preprod").unwrap().clone();
        let cloud = Cloud::at(served.endpoint_url().to_string(), &environment, None).await;
        (served, cloud, environment)
    }

    #[tokio::test]
    async fn a_bucket_is_read_page_by_page() {
        let state = tempfile::tempdir().unwrap();
        let (_served, cloud, environment) = served(state.path()).await;
        let error = read(&cloud, "preprod", &environment).await.unwrap_err().to_string();
        assert!(error.contains("there is no bucket") && error.contains("cargo xtask deploy --env preprod"), "{error}");

        cloud.ensure_bucket(&environment).await.unwrap();
        assert!(read(&cloud, "preprod", &environment).await.unwrap().is_empty());
        let upload = async |key: String, bytes: Vec<u8>| {
            cloud.upload(&environment.bucket, &key, "application/json", bytes).await.unwrap();
        };
        for run in ["a", "b"] {
            let Documents { statement, evidence, decision } = documents(&decision(run, 0));
            for (file, bytes) in [(STATEMENT, statement), (evidence::FILE, evidence), (DECISION, decision)] {
                upload(format!("{EVIDENCE_PREFIX}{run}/{file}"), bytes.unwrap()).await;
            }
        }
        let found = read(&cloud, "preprod", &environment).await.unwrap();
        assert_eq!(found.iter().map(|decision| decision.run.as_str()).collect::<Vec<_>>(), ["a", "b"]);

        for page in [1, 2, 5, 6] {
            let listed = runs(&cloud, "preprod", &environment, page).await.unwrap();
            let listed = listed.iter().map(|(run, files)| (run.as_str(), files.len())).collect::<Vec<_>>();
            assert_eq!(listed, [("a", 3), ("b", 3)], "in pages of {page}");
        }

        let denied = Decision { verdict: Verdict::Deny, ..decision("c", 1) };
        for _ in 0..2 {
            upload_denied(&cloud, &environment, &denied).await.unwrap();
        }
        let again = Decision { verdict: Verdict::Deny, ..decision("a", 2) };
        upload_denied(&cloud, &environment, &again).await.unwrap();
        let found = read(&cloud, "preprod", &environment).await.unwrap();
        let mut found: Vec<_> = found.iter().map(|decision| (decision.run.as_str(), decision.verdict.name())).collect();
        found.sort();
        assert_eq!(found, [("a", "allow"), ("a", "deny"), ("b", "allow"), ("c", "deny")]);

        upload(format!("{EVIDENCE_PREFIX}b/{DECISION}"), b"{}".to_vec()).await;
        let error = format!("{:#}", read(&cloud, "preprod", &environment).await.unwrap_err());
        assert!(error.starts_with("run b, kept in s3://") && error.contains("decision.json was altered"), "{error}");
    }
}
