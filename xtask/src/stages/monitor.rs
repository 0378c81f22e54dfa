//! Monitor: is the notebook stale, is the deployed model stale, does it answer; and tells somebody.
//!
//! Reads git's history and the function's state. Writes `monitor.json`, one row of history, and in the local environment the
//! mail as a file in the outbox. What cannot be known counts as stale, never as fresh.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Duration, Utc};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::config::Monitor;
use crate::context::Context;
use crate::git::{self, LastCommit};
use crate::records::{Digests, Record, Stage};
use crate::stages::deploy;
use crate::terminal::{note, warning};
use crate::{exit, github, heartbeat, paths, records};

/// Options of `monitor`.
#[derive(Args, Default)]
pub struct Options {
    /// End with exit code 3 if the model is stale.
    #[arg(long)]
    pub fail: bool,
    /// Look at no model, but at the workflow that does: exit code 3 if it has not run for so long (2d, 36h).
    #[arg(long, value_name = "TIME", value_parser = heartbeat::parse_duration, conflicts_with = "fail")]
    pub last_run_within: Option<Duration>,
}

/// What was seen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Content {
    /// Whether the notebook or the deployed model is stale.
    pub model_stale: bool,
    pub notebook: Staleness,
    pub deployed: Staleness,
    /// Whether the deployed version answers the smoke tests as it should.
    pub healthy: bool,
    pub stale_after_days: u32,
    /// The mail that was written, if one was due.
    pub mail: Option<PathBuf>,
}

/// The age of something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Staleness {
    pub stale: bool,
    /// When it last changed, if that is known.
    pub changed_at: Option<DateTime<Utc>>,
    /// For people: the age, or why it is unknown.
    pub reason: String,
}

const SUBJECT: &str = "Credit card approval ML model has not been updated in a week.";
const BODY: &str = "It has been 7 days since the credit card approval ML model was updated. Please update the model.";

/// Runs the stage.
pub fn run(context: &Context, options: &Options) -> Result<Record<Content>> {
    let config = &context.config.monitor;
    let now = Utc::now();
    let notebook = match git::last_commit(&context.root, &context.config.model.notebook) {
        LastCommit::At(date) => staleness(Some(date), now, config, "the notebook's last commit"),
        LastCommit::Unknown(reason) => Staleness {
            stale: true,
            changed_at: None,
            reason: format!("the date of the notebook's last commit is unknown: {reason}"),
        },
    };
    let cloud = context.cloud()?;
    let environment = &context.environment;
    let live = context.block_on(deploy::live_version(cloud, environment))?;
    let (deployed, healthy) = match &live {
        None => {
            let reason = format!("nothing is deployed as {}:{}", environment.function, environment.alias);
            (Staleness { stale: true, changed_at: None, reason }, false)
        }
        Some(live) => {
            let date = live.published_at.as_deref().and_then(lambda_date);
            let model = live.model();
            let tests = &context.config.smoke_tests;
            let answers = deploy::smoke_tests(cloud, &environment.function, &live.version, tests, model);
            let healthy = context.block_on(answers)?.iter().all(|result| result.passed);
            (staleness(date, now, config, "the deployed version's publication"), healthy)
        }
    };

    context.run_or_own()?;
    let work = context.begin(Stage::Monitor)?;
    let model_stale = notebook.stale || deployed.stale;
    let mail = if model_stale { Some(write_mail(context, config, now)?) } else { None };
    let content = Content {
        model_stale,
        notebook,
        deployed,
        healthy,
        stale_after_days: config.stale_after_days,
        mail: mail.as_ref().map(|path| path.strip_prefix(&context.root).unwrap_or(path).to_path_buf()),
    };
    let record = work.finish(Digests::new(), &[], content)?;
    append_history(context, &record)?;
    report(&record)?;
    if options.fail && (record.content.model_stale || !record.content.healthy) {
        return Err(exit::denied("the model is stale or does not answer"));
    }
    Ok(record)
}

/// Age against the limit; a date in the future or none at all is no proof of freshness.
fn staleness(changed_at: Option<DateTime<Utc>>, now: DateTime<Utc>, config: &Monitor, what: &str) -> Staleness {
    let limit = Duration::days(i64::from(config.stale_after_days));
    match changed_at {
        None => Staleness { stale: true, changed_at, reason: format!("the date of {what} is unknown") },
        // Clocks of two machines may differ a little.
        Some(date) if date - now > Duration::minutes(10) => {
            Staleness { stale: true, changed_at, reason: format!("{what} lies in the future: is the clock right?") }
        }
        Some(date) => {
            let age = (now - date).max(Duration::zero());
            Staleness { stale: age > limit, changed_at, reason: format!("{what} is {} old", age_in_words(age)) }
        }
    }
}

/// An age as people say it.
pub fn age_in_words(age: Duration) -> String {
    match (age.num_days(), age.num_hours()) {
        (0, 0) => "less than an hour".to_string(),
        (0, hours) => format!("{hours} hours"),
        (1, _) => "1 day".to_string(),
        (days, _) => format!("{days} days"),
    }
}

/// Lambda writes dates as `2026-11-24T03:15:22.000+0000`.
fn lambda_date(text: &str) -> Option<DateTime<Utc>> {
    let parsed =
        DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z").or_else(|_| DateTime::parse_from_rfc3339(text));
    parsed.ok().map(|date| date.to_utc())
}

/// Writes the mail to the outbox, where the local environment keeps it.
fn write_mail(context: &Context, config: &Monitor, now: DateTime<Utc>) -> Result<PathBuf> {
    let name = now.format("%Y%m%dT%H%M%S%3fZ-model-stale.eml").to_string();
    let path = paths::outbox(&context.root).join(name);
    let text = format!(
        "From: {}\r\nTo: {}\r\nSubject: {SUBJECT}\r\nDate: {}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{BODY}\r\n",
        config.mail_from,
        config.mail_to.join(", "),
        now.to_rfc2822()
    );
    records::write_atomically(&path, text.as_bytes())?;
    Ok(path)
}

fn append_history(context: &Context, record: &Record<Content>) -> Result<()> {
    let path = paths::monitor_history(&context.root);
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    let append = || OpenOptions::new().create(true).append(true).open(&path)?.write_all(&line);
    append().with_context(|| format!("write {}", path.display()))
}

fn report(record: &Record<Content>) -> Result<()> {
    let content = &record.content;
    for seen in [&content.notebook, &content.deployed] {
        if seen.stale {
            warning(&format!("stale: {}", seen.reason));
        } else {
            note(&seen.reason);
        }
    }
    note(if content.healthy {
        "the deployed version answers"
    } else {
        "the deployed version does not answer as it should"
    });
    if let Some(mail) = &content.mail {
        note(&format!("mail to the model's owners: {}", mail.display()));
    }
    github::output("model_stale", &content.model_stale.to_string())?;
    github::summary(&format!(
        "### Monitor\n\n| | |\n|---|---|\n| model stale | {} |\n| notebook | {} |\n| deployed | {} |\n| healthy | {} |",
        content.model_stale, content.notebook.reason, content.deployed.reason, content.healthy
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Monitor {
        Monitor { stale_after_days: 7, mail_to: Vec::new(), mail_from: String::new() }
    }

    #[test]
    fn older_than_seven_days_is_stale_and_the_unknown_is_never_fresh() {
        let now = Utc::now();
        let at = |age| staleness(Some(now - age), now, &config(), "it").stale;
        assert!(!at(Duration::days(7)));
        assert!(at(Duration::days(7) + Duration::seconds(1)));
        assert!(!at(Duration::minutes(-5)), "a small difference of clocks");
        assert!(at(Duration::hours(-5)), "the future");
        assert!(staleness(None, now, &config(), "it").stale);
    }

    #[test]
    fn lambda_dates_are_read() {
        assert_eq!(lambda_date("2026-11-24T03:15:22.000+0000").unwrap().to_rfc3339(), "2026-11-24T03:15:22+00:00");
        assert!(lambda_date("yesterday").is_none());
    }
}
