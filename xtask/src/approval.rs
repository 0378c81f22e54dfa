//! Approval: somebody's yes to exactly one verdict, valid for a day.
//!
//! On a developer's machine it is `approval.json` beside gate.json, written by `cargo xtask approve` and bound to the digest of
//! gate.json. In GitHub Actions it is the review of the environment that the job runs in: GitHub is asked who gave it, and
//! `GATE_DIGEST`, which the workflow hands on from the gate's job, ties it to the verdict.

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::records::{self, Digests, Record, Stage};
use crate::stages::gate;
use crate::{digest, exit, github};

/// How long an approval, and in GitHub Actions the verdict that was approved, is good for.
pub fn lifetime() -> Duration {
    Duration::hours(24)
}

/// Who approved what, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Version of the record's form.
    pub schema: u32,
    pub environment: String,
    pub run: String,
    /// Digest of the gate.json that was approved.
    pub gate: String,
    /// `user@host`, or logins of GitHub.
    pub approved_by: Vec<String>,
    /// `approve` or `github`.
    pub through: String,
    pub comment: Option<String>,
    /// GitHub does not say when.
    pub approved_at: Option<DateTime<Utc>>,
    pub expires_at: DateTime<Utc>,
    /// Digests of everything that the approved verdict rests on.
    pub evidence: Digests,
}

/// Where the approval of the current run lies.
pub fn path(context: &Context) -> Result<PathBuf> {
    Ok(context.record_folder(Stage::Gate)?.join("approval.json"))
}

/// The evidence behind a verdict, by name.
pub fn evidence(gate: &Record<gate::Content>) -> Digests {
    let mut evidence = gate.inputs.clone();
    evidence.insert("image".to_string(), gate.content.image.clone());
    evidence.insert("model".to_string(), gate.content.model.clone());
    evidence
}

/// The approval that a deployment of this verdict rests on; none where the environment asks for none.
///
/// # Errors
/// Exit code 5 if there is none, or not one of exactly this verdict, or an old one.
pub fn require(context: &Context, gate: &Record<gate::Content>) -> Result<Option<Approval>> {
    if !context.environment.approval {
        return Ok(None);
    }
    if github::active() {
        return context.block_on(by_reviewers(context, gate)).map(Some);
    }
    match read(context)? {
        None => Err(missing(context, "nobody has approved this deployment")),
        Some(approval) => match refusal(&approval, context, gate)? {
            Some(reason) => Err(missing(context, &reason)),
            None => Ok(Some(approval)),
        },
    }
}

/// In one line, for people: whether the current run may be deployed as far as approval goes.
pub fn state(context: &Context) -> String {
    if !context.environment.approval {
        return "not asked for".to_string();
    }
    if github::active() {
        return format!("by the reviewers of GitHub's environment `{}`", github_environment(context));
    }
    let look = || -> Result<String> {
        let Some(approval) = read(context)? else { return Ok("missing".to_string()) };
        Ok(match refusal(&approval, context, &context.read(Stage::Gate)?)? {
            Some(reason) => reason,
            None => format!("by {} until {}", approval.approved_by.join(", "), approval.expires_at.format("%F %R UTC")),
        })
    };
    look().unwrap_or_else(|error| format!("{error:#}"))
}

fn read(context: &Context) -> Result<Option<Approval>> {
    let path = path(context)?;
    match std::fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(approval) => Ok(Some(approval)),
            Err(error) => Err(missing(context, &format!("{} is corrupted ({error})", path.display()))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn missing(context: &Context, reason: &str) -> anyhow::Error {
    let run = context.run().unwrap_or_default();
    exit::not_approved(format!(
        "{reason}: `cargo xtask approve --env {} --run {run}` shows what is to be approved and asks",
        context.environment_name
    ))
}

/// Why an approval does not count, if so.
fn refusal(approval: &Approval, context: &Context, gate: &Record<gate::Content>) -> Result<Option<String>> {
    let (run, digest) = (context.run()?, context.record_digest(Stage::Gate)?);
    let reason = check(approval, (&context.environment_name, &run, &digest), Utc::now());
    Ok(reason.or_else(|| other_evidence(&approval.evidence, &evidence(gate))))
}

/// What an approval names otherwise than the verdict, if anything.
fn other_evidence(approved: &Digests, judged: &Digests) -> Option<String> {
    let names = approved.keys().chain(judged.keys());
    let name = names.into_iter().find(|name| approved.get(*name) != judged.get(*name))?;
    Some(format!("approval.json was changed: it names another {name} than gate.json"))
}

fn check(approval: &Approval, (environment, run, gate): (&str, &str, &str), now: DateTime<Utc>) -> Option<String> {
    if approval.schema != records::SCHEMA {
        return Some(format!("approval.json has form {}, expected {}", approval.schema, records::SCHEMA));
    }
    if approval.environment != environment || approval.run != run {
        return Some(format!("approval.json is of run {} in {}", approval.run, approval.environment));
    }
    if approval.gate != gate {
        return Some(format!(
            "approval.json is of another verdict: gate.json has digest {}, approved was {}",
            digest::short(gate),
            digest::short(&approval.gate)
        ));
    }
    if approval.approved_by.iter().all(|who| who.trim().is_empty()) {
        return Some("approval.json does not say who approved".to_string());
    }
    match approval.approved_at {
        None => Some("approval.json does not say when".to_string()),
        Some(at) if at - now > Duration::minutes(10) => {
            Some("the approval lies in the future: is the clock right?".into())
        }
        // Counted from when it was given; what the file says of its end is for people.
        Some(at) if now - at > lifetime() => Some(format!("the approval of {} has expired", at.format("%F %R UTC"))),
        Some(_) => None,
    }
}

fn github_environment(context: &Context) -> &str {
    context.environment.github_environment.as_deref().unwrap_or(&context.environment_name)
}

/// One review of a workflow run, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Review {
    state: String,
    #[serde(default)]
    comment: String,
    #[serde(default)]
    environments: Vec<Named>,
    user: Option<User>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

#[derive(Debug, Deserialize)]
struct User {
    login: String,
}

/// Asks GitHub who approved the environment of this workflow run.
async fn by_reviewers(context: &Context, gate: &Record<gate::Content>) -> Result<Approval> {
    let digest = context.record_digest(Stage::Gate)?;
    let handed_on = env::var("GATE_DIGEST").unwrap_or_default();
    let expires_at = gate.finished_at + lifetime();
    if let Some(reason) = unfit(&handed_on, &digest, gate.finished_at, Utc::now()) {
        return Err(exit::not_approved(reason));
    }
    let reviews = reviews().await?;
    let name = github_environment(context);
    let (approved_by, comment) = approvals(&reviews, name);
    if approved_by.is_empty() {
        return Err(exit::not_approved(format!(
            "no reviewer of the environment `{name}` approved this workflow run: add required reviewers in the repository's settings, \
             Environments, {name}, let the job name it (`environment: {name}`), and approve the run there"
        )));
    }
    Ok(Approval {
        schema: records::SCHEMA,
        environment: context.environment_name.clone(),
        run: context.run()?,
        gate: digest,
        approved_by,
        through: "github".to_string(),
        comment,
        approved_at: None,
        expires_at,
        evidence: evidence(gate),
    })
}

/// Why the verdict at hand cannot be the one that the reviewers saw, if so.
fn unfit(handed_on: &str, digest: &str, judged_at: DateTime<Utc>, now: DateTime<Utc>) -> Option<String> {
    if handed_on.is_empty() {
        return Some(
            "GATE_DIGEST is not set: let the workflow hand on the output `gate_digest` of the step `gate`".into(),
        );
    }
    if handed_on != digest {
        return Some(format!(
            "gate.json has digest {digest}, the reviewers were shown {handed_on} (GATE_DIGEST): start the workflow anew"
        ));
    }
    let age = now - judged_at;
    if age > lifetime() || age < -Duration::minutes(10) {
        return Some(format!(
            "the verdict of {} is not from the last 24 hours: start the workflow anew",
            judged_at.format("%F %R UTC")
        ));
    }
    None
}

/// Logins of those who approved the environment, and what they wrote.
fn approvals(reviews: &[Review], environment: &str) -> (Vec<String>, Option<String>) {
    let approved = reviews.iter().filter(|review| {
        review.state == "approved" && review.environments.iter().any(|named| named.name == environment)
    });
    let (mut logins, mut comments) = (Vec::new(), Vec::new());
    for review in approved {
        let Some(user) = &review.user else { continue };
        if !logins.contains(&user.login) {
            logins.push(user.login.clone());
        }
        if !review.comment.is_empty() {
            comments.push(review.comment.clone());
        }
    }
    (logins, (!comments.is_empty()).then(|| comments.join("; ")))
}

/// The reviews of this workflow run.
async fn reviews() -> Result<Vec<Review>> {
    let variable = |name: &str| {
        env::var(name).ok().filter(|value| !value.is_empty()).with_context(|| format!("the variable {name} is not set"))
    };
    let hint = "give the step `GITHUB_TOKEN: ${{ github.token }}` and the job `permissions: actions: read`";
    let url = format!(
        "{}/repos/{}/actions/runs/{}/approvals",
        variable("GITHUB_API_URL")?.trim_end_matches('/'),
        variable("GITHUB_REPOSITORY")?,
        variable("GITHUB_RUN_ID")?
    );
    let token = variable("GITHUB_TOKEN").context(hint)?;
    // Once a process; whoever was first chose the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .connect_timeout(std::time::Duration::from_secs(10))
        .timeout(std::time::Duration::from_secs(30))
        .build()
        .context("make an HTTP client")?;
    let mut pause = std::time::Duration::from_millis(500);
    let mut attempt = 0;
    loop {
        attempt += 1;
        let answer = client
            .get(&url)
            .bearer_auth(&token)
            .header("accept", "application/vnd.github+json")
            .header("x-github-api-version", "2022-11-28")
            .header("user-agent", "cargo-xtask")
            .send()
            .await;
        match answer {
            Ok(answer) if answer.status().is_success() => {
                let text = answer.text().await.context("read GitHub's answer about approvals")?;
                return serde_json::from_str(&text).context("understand GitHub's answer about approvals");
            }
            Ok(answer) if answer.status().as_u16() < 500 && answer.status().as_u16() != 429 => {
                bail!("GitHub answers {} to the question who approved: {hint}", answer.status());
            }
            Ok(answer) if attempt >= 4 => bail!("GitHub answers {} to the question who approved", answer.status()),
            Err(error) if attempt >= 4 => return Err(error).context("ask GitHub who approved"),
            _ => {}
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn approval(at: DateTime<Utc>) -> Approval {
        Approval {
            schema: records::SCHEMA,
            environment: "production".into(),
            run: "r".into(),
            gate: "sha256:1".into(),
            approved_by: vec!["somebody@somewhere".into()],
            through: "approve".into(),
            comment: None,
            approved_at: Some(at),
            expires_at: at + lifetime(),
            evidence: Digests::new(),
        }
    }

    #[test]
    fn an_approval_counts_for_one_verdict_and_one_day() {
        let now = Utc::now();
        let wanted = ("production", "r", "sha256:1");
        let of = |age| check(&approval(now - age), wanted, now);
        assert_eq!(of(Duration::zero()), None);
        assert_eq!(of(Duration::hours(24)), None);
        assert!(of(Duration::hours(24) + Duration::seconds(1)).unwrap().contains("expired"));
        assert!(of(Duration::hours(-1)).unwrap().contains("future"));
        let fresh = approval(now);
        let refused = |wanted| check(&fresh, wanted, now).is_some();
        assert!(refused(("preprod", "r", "sha256:1")) && refused(("production", "q", "sha256:1")));
        assert!(refused(("production", "r", "sha256:2")));
        // What the file says of its own end does not prolong it.
        let forged = Approval { expires_at: now + Duration::days(900), ..approval(now - Duration::hours(25)) };
        assert!(check(&forged, wanted, now).is_some());
        for nobody in [Vec::new(), vec![String::new()]] {
            assert!(check(&Approval { approved_by: nobody, ..approval(now) }, wanted, now).is_some());
        }
        assert!(check(&Approval { approved_at: None, ..approval(now) }, wanted, now).is_some());
    }

    #[test]
    fn an_approval_names_what_the_verdict_rests_on() {
        let digests = |pairs: &[(&str, &str)]| -> Digests {
            pairs.iter().map(|(name, digest)| (name.to_string(), digest.to_string())).collect()
        };
        let judged = digests(&[("image", "sha256:1"), ("test.json", "sha256:2")]);
        assert_eq!(other_evidence(&judged, &judged), None);
        for (approved, name) in [
            (digests(&[("image", "sha256:1"), ("test.json", "sha256:3")]), "another test.json"),
            (digests(&[("image", "sha256:1")]), "another test.json"),
            (digests(&[("image", "sha256:1"), ("test.json", "sha256:2"), ("x", "")]), "another x"),
        ] {
            assert!(other_evidence(&approved, &judged).unwrap().contains(name));
        }
    }

    #[test]
    fn only_approvals_of_this_environment_count() {
        let text = r#"[
            {"state": "rejected", "comment": "no", "environments": [{"name": "production"}], "user": {"login": "a"}},
            {"state": "approved", "comment": "", "environments": [{"name": "staging"}], "user": {"login": "b"}},
            {"state": "approved", "comment": "fine", "environments": [{"name": "x"}, {"name": "production"}], "user": {"login": "c"}},
            {"state": "approved", "comment": "", "environments": [{"name": "production"}], "user": null}]"#;
        let reviews: Vec<Review> = serde_json::from_str(text).unwrap();
        assert_eq!(approvals(&reviews, "production"), (vec!["c".to_string()], Some("fine".to_string())));
        assert_eq!(approvals(&reviews, "preprod"), (Vec::new(), None));
        assert_eq!(approvals(&[], "production"), (Vec::new(), None));
    }

    #[test]
    fn the_verdict_must_be_the_one_that_was_shown() {
        let now = Utc::now();
        assert_eq!(unfit("sha256:1", "sha256:1", now - Duration::hours(23), now), None);
        assert!(unfit("", "sha256:1", now, now).unwrap().contains("GATE_DIGEST"));
        assert!(unfit("sha256:2", "sha256:1", now, now).is_some());
        assert!(unfit("sha256:1", "sha256:1", now - Duration::hours(25), now).is_some());
        assert!(unfit("sha256:1", "sha256:1", now + Duration::hours(1), now).is_some());
    }
}
