//! Monitor: is the notebook stale, is the deployed model stale, does it answer; and tells somebody.
//!
//! Reads git's history and the function's state. Writes `monitor.json` and one row of history, and sends a mail (in the local
//! environment: writes it to the outbox) when the model is stale, once a day for the same reason. What cannot be known counts as
//! stale, never as fresh. A mail that cannot be sent is kept beside the record and is a warning; with `--fail` it ends the
//! command with exit code 1, after everything else is done.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use chrono::{DateTime, Duration, Utc};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::config::{CloudKind, Monitor, Package};
use crate::context::Context;
use crate::git::{self, LastCommit};
use crate::records::{Digests, Record, Stage};
use crate::stages::deploy;
use crate::terminal::{note, warning};
use crate::{exit, github, heartbeat, mail, paths};

/// Options of `monitor`.
#[derive(Args, Default)]
pub struct Options {
    /// End with exit code 3 if the model is stale or does not answer, with 1 if its owners could not be told.
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
    /// What the deployed version is made of; none if nothing is deployed.
    #[serde(default)]
    pub package: Option<Package>,
    pub stale_after_days: u32,
    /// What became of the mail, if one was due.
    pub mail: Option<Mail>,
}

/// The mail about a stale model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mail {
    pub outcome: Outcome,
    /// Where it lies, relative to the clone: in the outbox, or beside the record if it was not sent.
    pub file: Option<PathBuf>,
    /// Why it was not sent.
    pub reason: Option<String>,
}

/// What became of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Laid into the embedded cloud's outbox.
    Written,
    /// Taken by the mail server.
    Sent,
    /// Not written again: the owners were told the same today.
    AlreadyTold,
    /// Due, but not delivered.
    Unsent,
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

/// The name of a mail that could not be sent, beside the record.
const UNSENT: &str = "unsent-mail.eml";

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
    let mut content = Content {
        model_stale: notebook.stale || deployed.stale,
        notebook,
        deployed,
        healthy,
        package: live.as_ref().map(|live| live.package),
        stale_after_days: config.stale_after_days,
        mail: None,
    };
    content.mail = tell_owners(context, &work.folder, &content, now)?;
    let record = work.finish(Digests::new(), &[], content)?;
    append_history(context, &record)?;
    report(&record)?;
    let content = &record.content;
    if let Some(Mail { outcome: Outcome::Unsent, file, reason }) = &content.mail {
        let text = format!(
            "the model's owners were not told that it is stale: {}; the mail is kept in {}, and `cargo xtask monitor` tries again",
            reason.as_deref().unwrap_or_default(),
            file.as_deref().unwrap_or(Path::new("")).display()
        );
        // At the end of a deployment that went well it is a warning; whoever watches must not miss it.
        if options.fail {
            bail!(text);
        }
        warning(&text);
        github::annotate("warning", "Mail", &text);
    }
    if options.fail && (content.model_stale || !content.healthy) {
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

/// Sends the mail, if one is due. What keeps it from being sent is a part of the answer, not an error.
fn tell_owners(context: &Context, folder: &Path, content: &Content, now: DateTime<Utc>) -> Result<Option<Mail>> {
    let unsent = folder.join(UNSENT);
    match fs::remove_file(&unsent) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", unsent.display()));
        }
        _ => {}
    }
    let Monitor { mail_to, mail_from, .. } = &context.config.monitor;
    if !content.model_stale || mail_to.is_empty() {
        return Ok(None);
    }
    let history = fs::read_to_string(paths::monitor_history(&context.root)).unwrap_or_default();
    if told_today(&history, &context.environment_name, content, now) {
        return Ok(Some(Mail { outcome: Outcome::AlreadyTold, file: None, reason: None }));
    }
    let (subject, body) = words(content.stale_after_days);
    let message = mail::message(mail_from, mail_to, &subject, body, now)?;
    let keep = |path: &Path| -> Result<Option<PathBuf>> {
        mail::write(path, &message)?;
        Ok(Some(path.strip_prefix(&context.root).unwrap_or(path).to_path_buf()))
    };
    if context.environment.cloud == CloudKind::Embedded {
        let file = keep(&mail::outbox_file(&context.root, now, "model-stale"))?;
        return Ok(Some(Mail { outcome: Outcome::Written, file, reason: None }));
    }
    let sent = match &context.environment.mail {
        Some(server) => mail::send(server, &message),
        None => Err(anyhow!("pipeline.toml has no [environments.{}.mail]", context.environment_name)),
    };
    Ok(Some(match sent {
        Ok(()) => Mail { outcome: Outcome::Sent, file: None, reason: None },
        Err(error) => Mail { outcome: Outcome::Unsent, file: keep(&unsent)?, reason: Some(format!("{error:#}")) },
    }))
}

/// Subject and text of the mail.
fn words(days: u32) -> (String, String) {
    let time = if days == 7 { "a week".to_string() } else { format!("{days} days") };
    (
        format!("Credit card approval ML model has not been updated in {time}."),
        format!(
            "It has been {days} days since the credit card approval ML model was updated. Please update the model."
        ),
    )
}

/// Whether the history has a mail of today (UTC) that said the same of this environment. Rows that are not understood said
/// nothing: rather one mail too many than none.
fn told_today(history: &str, environment: &str, content: &Content, now: DateTime<Utc>) -> bool {
    history.lines().filter_map(|line| serde_json::from_str::<Record<Content>>(line).ok()).any(|row| {
        let delivered = |mail: &Mail| matches!(mail.outcome, Outcome::Sent | Outcome::Written);
        row.environment == environment
            && row.finished_at.date_naive() == now.date_naive()
            && row.content.notebook.stale == content.notebook.stale
            && row.content.deployed.stale == content.deployed.stale
            && row.content.mail.as_ref().is_some_and(delivered)
    })
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
    let version = match content.package {
        Some(Package::Zip) => "the deployed version, a zip package,",
        _ => "the deployed version",
    };
    note(&format!("{version} {}", if content.healthy { "answers" } else { "does not answer as it should" }));
    match &content.mail {
        None if content.model_stale => warning("nobody is told: mail_to in pipeline.toml is empty"),
        None => {}
        Some(Mail { outcome: Outcome::AlreadyTold, .. }) => note("the model's owners were told today"),
        Some(Mail { outcome: Outcome::Sent, .. }) => note("mail to the model's owners sent"),
        // Said at the end, with all about it.
        Some(Mail { outcome: Outcome::Unsent, .. }) => {}
        Some(Mail { outcome: Outcome::Written, file, .. }) => {
            note(&format!("mail to the model's owners: {}", file.as_deref().unwrap_or(Path::new("")).display()));
        }
    }
    github::output("model_stale", &content.model_stale.to_string())?;
    github::summary(&format!(
        "### Monitor\n\n| | |\n|---|---|\n| model stale | {} |\n| notebook | {} |\n| deployed | {} |\n| package | {} |\n| healthy | {} |",
        content.model_stale,
        content.notebook.reason,
        content.deployed.reason,
        content.package.map_or("none", Package::name),
        content.healthy
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

    fn row(environment: &str, finished_at: DateTime<Utc>, deployed: bool, outcome: Option<Outcome>) -> Record<Content> {
        let seen = |stale| Staleness { stale, changed_at: None, reason: String::new() };
        Record {
            schema: 1,
            stage: Stage::Monitor,
            run: "r".to_string(),
            environment: environment.to_string(),
            started_at: finished_at,
            finished_at,
            inputs: Digests::new(),
            files: Digests::new(),
            content: Content {
                model_stale: true,
                notebook: seen(true),
                deployed: seen(deployed),
                healthy: true,
                package: None,
                stale_after_days: 7,
                mail: outcome.map(|outcome| Mail { outcome, file: None, reason: None }),
            },
        }
    }

    #[test]
    fn owners_are_told_once_a_day_and_again_when_something_else_is_stale() {
        let noon: DateTime<Utc> = "2026-11-24T12:00:00Z".parse().unwrap();
        let now = row("preprod", noon, false, None).content;
        let told = |row: Record<Content>| {
            let history = format!("\n{{}}\nnonsense\n{}\n", serde_json::to_string(&row).unwrap());
            told_today(&history, "preprod", &now, noon)
        };
        let earlier = noon - Duration::hours(3);
        assert!(told(row("preprod", earlier, false, Some(Outcome::Sent))));
        assert!(told(row("preprod", earlier, false, Some(Outcome::Written))));
        assert!(!told(row("preprod", earlier, true, Some(Outcome::Sent))), "something else was stale");
        assert!(!told(row("production", earlier, false, Some(Outcome::Sent))), "another environment");
        assert!(!told(row("preprod", noon - Duration::hours(13), false, Some(Outcome::Sent))), "yesterday");
        for nothing in [None, Some(Outcome::Unsent), Some(Outcome::AlreadyTold)] {
            assert!(!told(row("preprod", earlier, false, nothing)), "{nothing:?}");
        }
    }

    #[test]
    fn the_mail_says_how_long_it_has_been() {
        let (subject, body) = words(7);
        assert_eq!(subject, "Credit card approval ML model has not been updated in a week.");
        assert_eq!(
            body,
            "It has been 7 days since the credit card approval ML model was updated. Please update the model."
        );
        assert!(words(30).0.ends_with("in 30 days.") && words(30).1.starts_with("It has been 30 days since"));
    }

    #[test]
    fn lambda_dates_are_read() {
        assert_eq!(lambda_date("2026-11-24T03:15:22.000+0000").unwrap().to_rfc3339(), "2026-11-24T03:15:22+00:00");
        assert!(lambda_date("yesterday").is_none());
    }
}
