//! Heartbeat: whether the daily monitoring runs at all. A watcher that has died reports nothing, so somebody else must look.
//!
//! Asks GitHub when the workflow last gave an answer. Writes nothing but the job's summary.

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::stages::monitor::age_in_words;
use crate::{exit, github, http, terminal};

/// The workflow that watches.
const WORKFLOW: &str = "monitor.yml";

/// One page of GitHub's answer.
#[derive(Deserialize)]
struct Runs {
    workflow_runs: Vec<Run>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
struct Run {
    /// `success`, `failure`, or why there is no answer.
    conclusion: Option<String>,
    updated_at: DateTime<Utc>,
    html_url: String,
}

/// Fails if the monitoring has not given an answer for longer than `limit`.
///
/// # Errors
/// Exit code 3 if it has not; 1 if GitHub cannot be asked.
pub async fn check(limit: Duration, as_json: bool) -> Result<()> {
    let last = last_answer(runs().await?);
    let now = Utc::now();
    let age = last.as_ref().map(|run| now - run.updated_at);
    let alive = age.is_some_and(|age| age <= limit);
    if as_json {
        println!("{}", json!({"workflow": WORKFLOW, "alive": alive, "last_run": last}));
    }
    let said = match (&last, age) {
        (Some(run), Some(age)) => format!("{WORKFLOW} last ran {} ago: {}", age_in_words(age), run.html_url),
        _ => format!("{WORKFLOW} never ran to an end"),
    };
    github::summary(&format!("### Monitoring {}\n\n{said}", if alive { "is alive" } else { "has stopped" }))?;
    if !alive {
        return Err(exit::denied(format!(
            "nobody watches the deployed model: {said}. GitHub switches schedules off where nothing happens for 60 days: \
             `gh workflow enable {WORKFLOW} && gh workflow run {WORKFLOW}` starts it again"
        )));
    }
    terminal::note(&said);
    Ok(())
}

/// The newest run that looked at the model, whatever it saw: a failed one has told somebody itself. One that was cancelled,
/// skipped or cut off has not looked.
fn last_answer(runs: Vec<Run>) -> Option<Run> {
    let answered = |run: &Run| matches!(run.conclusion.as_deref(), Some("success" | "failure"));
    runs.into_iter().filter(answered).max_by_key(|run| run.updated_at)
}

/// The workflow's newest finished runs.
async fn runs() -> Result<Vec<Run>> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some(repository) = variable("GITHUB_REPOSITORY") else {
        bail!("which repository? Set GITHUB_REPOSITORY=owner/name, and GITHUB_TOKEN where it is private");
    };
    let api = variable("GITHUB_API_URL").unwrap_or_else(|| "https://api.github.com".to_string());
    let url = format!("{api}/repos/{repository}/actions/workflows/{WORKFLOW}/runs?status=completed&per_page=100");
    let mut request = http::client()?.get(&url).header("accept", "application/vnd.github+json");
    if let Some(token) = variable("GITHUB_TOKEN") {
        request = request.bearer_auth(token);
    }
    let asking = || format!("ask GitHub when {WORKFLOW} last ran ({url})");
    let answer = request.send().await.map_err(|error| anyhow::anyhow!(http::error(&error))).with_context(asking)?;
    let status = answer.status();
    if !status.is_success() {
        bail!("{}: status {status}; the token needs `actions: read`", asking());
    }
    let bytes = answer.bytes().await.map_err(|error| anyhow::anyhow!(http::error(&error))).with_context(asking)?;
    let runs: Runs = serde_json::from_slice(&bytes).with_context(|| format!("understand the answer: {}", asking()))?;
    Ok(runs.workflow_runs)
}

/// Reads a length of time such as `2d` or `36h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wanted = || format!("`{text}` is no length of time: write days or hours, such as 2d or 36h");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wanted)?;
    let number: i64 = number.parse().ok().filter(|number| (1..=10_000).contains(number)).ok_or_else(wanted)?;
    match unit {
        "d" => Ok(Duration::days(number)),
        "h" => Ok(Duration::hours(number)),
        _ => Err(wanted()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(conclusion: Option<&str>, hours_ago: i64) -> Run {
        Run {
            conclusion: conclusion.map(String::from),
            updated_at: Utc::now() - Duration::hours(hours_ago),
            html_url: format!("https://example.com/{hours_ago}"),
        }
    }

    #[test]
    fn only_a_run_with_an_answer_counts() {
        let runs = vec![
            run(Some("cancelled"), 1),
            run(Some("skipped"), 2),
            run(None, 3),
            run(Some("timed_out"), 4),
            run(Some("success"), 90),
            run(Some("failure"), 80),
        ];
        assert_eq!(last_answer(runs).unwrap().html_url, "https://example.com/80");
        assert!(last_answer(vec![run(Some("startup_failure"), 1)]).is_none());
    }

    #[test]
    fn lengths_of_time() {
        assert_eq!(parse_duration("2d"), Ok(Duration::days(2)));
        assert_eq!(parse_duration("36h"), Ok(Duration::hours(36)));
        for wrong in ["", "d", "2", "0d", "-1d", "2w", "2 d", "99999999999d", "2é"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
