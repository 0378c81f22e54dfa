//! The alias that traffic goes through, and the ledger in its description.
//!
//! What was live before, what was rolled back and who is moving traffic right now stand in the alias itself, so that any
//! machine can go on where another one was killed. It is only ever changed against the revision that was read. When the
//! answer to a change is lost, reading the alias again tells whether the change was made: no two deployers write the same
//! ledger.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aws_sdk_lambda::types::AliasRoutingConfiguration;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use chrono::{DateTime, SecondsFormat, Utc};

use crate::cloud::{Cloud, service_error};
use crate::config::Environment;

/// How often a change is tried when nothing tells that it was refused for good.
const TRIES: u32 = 6;
/// Most characters of a description.
const LONGEST_DESCRIPTION: usize = 256;
/// Name of the version that is not published.
const LATEST: &str = "$LATEST";

/// Where an alias points.
#[derive(Debug, Clone, PartialEq)]
pub struct Position {
    pub version: String,
    /// A second version, and the share of the traffic that it gets.
    pub weight: Option<(String, f64)>,
    pub ledger: Ledger,
}

impl Position {
    /// Whether two positions are the same once written: a long history is cut off when it is.
    pub fn is(&self, other: &Position) -> bool {
        self.version == other.version && self.weight == other.weight && self.ledger.text() == other.ledger.text()
    }
}

/// An alias as it was read.
#[derive(Debug, Clone)]
pub struct Alias {
    pub position: Position,
    revision: Option<String>,
}

/// What an alias's description remembers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    /// The run that moved the alias last.
    pub run: Option<String>,
    /// The process that did.
    pub deployer: Option<String>,
    /// Versions that were live before, the newest first.
    pub before: Vec<String>,
    pub rolled_back: Option<RolledBack>,
    pub moving: Option<Moving>,
}

/// A version that was taken out of use.
#[derive(Debug, Clone, PartialEq)]
pub struct RolledBack {
    pub version: String,
    /// The run that had deployed it.
    pub run: String,
}

/// A rollout in progress.
#[derive(Debug, Clone, PartialEq)]
pub struct Moving {
    pub to: String,
    /// A rollout that has not gone on by then is a dead one.
    pub until: DateTime<Utc>,
}

impl Ledger {
    /// Reads a description; one that is not ours says nothing.
    pub fn parse(description: &str) -> Ledger {
        let mut ledger = Ledger::default();
        for part in description.split("; ") {
            let words: Vec<&str> = part.split(' ').collect();
            match words[..] {
                ["run", run] => ledger.run = Some(run.to_string()),
                ["deployer", deployer] => ledger.deployer = Some(deployer.to_string()),
                ["before", ref versions @ ..] => ledger.before = versions.iter().map(ToString::to_string).collect(),
                ["rolled", "back", version, "of", run] => {
                    ledger.rolled_back = Some(RolledBack { version: version.to_string(), run: run.to_string() });
                }
                ["moving", "to", to, "until", until] => {
                    let until = DateTime::parse_from_rfc3339(until).map_or(DateTime::UNIX_EPOCH, |at| at.to_utc());
                    ledger.moving = Some(Moving { to: to.to_string(), until });
                }
                _ => {}
            }
        }
        ledger
    }

    /// As it is written: the oldest history gives way when there is not enough room.
    pub fn text(&self) -> String {
        let mut parts = Vec::new();
        let run = self.run.as_ref().map(|run| format!("run {run}"));
        let deployer = self.deployer.as_ref().map(|deployer| format!("deployer {deployer}"));
        let moving = self.moving.as_ref().map(|Moving { to, until }| {
            format!("moving to {to} until {}", until.to_rfc3339_opts(SecondsFormat::Secs, true))
        });
        parts.extend([run, deployer, moving].into_iter().flatten());
        let room = |parts: &[String]| LONGEST_DESCRIPTION.saturating_sub(parts.join("; ").len());
        if let Some(RolledBack { version, run }) = &self.rolled_back {
            let part = format!("rolled back {version} of {run}");
            // One version of history at least is worth more.
            if room(&parts) > part.len() + 24 {
                parts.push(part);
            }
        }
        let mut before = "before".to_string();
        for version in self.before.iter().take_while(|version| !version.is_empty()) {
            if before.len() + version.len() + 3 > room(&parts) {
                break;
            }
            before = format!("{before} {version}");
        }
        if before != "before" {
            parts.push(before);
        }
        parts.join("; ")
    }

    /// The history once `live` was replaced by `next`.
    pub fn history_after(&self, live: &str, next: &str) -> Vec<String> {
        let older = self.before.iter().filter(|version| *version != live && *version != next);
        std::iter::once(live.to_string()).chain(older.cloned()).collect()
    }
}

impl Alias {
    fn from(answer: Configuration) -> Alias {
        let weight = answer.weights.into_iter().flatten().next();
        let ledger = Ledger::parse(&answer.description.unwrap_or_default());
        let position = Position { version: answer.version.unwrap_or_default(), weight, ledger };
        Alias { position, revision: answer.revision }
    }

    /// Whether the alias names a published version, which a second one can be weighed against.
    pub fn is_published(&self) -> bool {
        self.position.version != LATEST
    }

    /// Who moved it last and to where, for people.
    pub fn in_words(&self) -> String {
        let Position { version, weight, ledger } = &self.position;
        let run = ledger.run.as_ref().map_or("somebody".to_string(), |run| format!("run {run}"));
        match (weight, &ledger.rolled_back) {
            (Some((other, share)), _) => {
                let percent = share * 100.0;
                format!("{run} is moving traffic from version {version} to {other}, which gets {percent:.0} % now")
            }
            (None, Some(taken_back)) => {
                format!("version {} of run {} was rolled back to version {version}", taken_back.version, taken_back.run)
            }
            (None, None) => format!("{run} made version {version} live"),
        }
    }
}

/// The same members of three answers.
struct Configuration {
    version: Option<String>,
    description: Option<String>,
    revision: Option<String>,
    weights: Option<HashMap<String, f64>>,
}

macro_rules! configuration {
    ($answer:expr) => {{
        let answer = $answer;
        Configuration {
            version: answer.function_version().map(String::from),
            description: answer.description().map(String::from),
            revision: answer.revision_id().map(String::from),
            weights: answer.routing_config().and_then(|routing| routing.additional_version_weights()).cloned(),
        }
    }};
}

/// The environment's alias, if there is one.
pub async fn read(cloud: &Cloud, environment: &Environment) -> Result<Option<Alias>> {
    let (function, name) = (&environment.function, &environment.alias);
    match cloud.lambda.get_alias().function_name(function).name(name).send().await {
        Ok(answer) => Ok(Some(Alias::from(configuration!(answer)))),
        Err(error) if has_code(&error, "ResourceNotFoundException") => Ok(None),
        Err(error) => Err(service_error(error)).with_context(|| format!("ask for alias {name} of {function}")),
    }
}

/// Points the alias somewhere else, provided that nobody did so since it was read.
///
/// # Errors
/// Somebody else moved it, and who; or the change was refused or never answered.
pub async fn point(cloud: &Cloud, environment: &Environment, from: &Alias, to: &Position) -> Result<Alias> {
    let (function, name) = (&environment.function, &environment.alias);
    let mut from = from.clone();
    let mut pause = Duration::from_millis(200);
    let mut attempt = 0;
    loop {
        attempt += 1;
        let weights = to.weight.iter().cloned().collect();
        let routing = AliasRoutingConfiguration::builder().set_additional_version_weights(Some(weights)).build();
        let answer = cloud
            .lambda
            .update_alias()
            .function_name(function)
            .name(name)
            .function_version(&to.version)
            .routing_config(routing)
            .description(to.ledger.text())
            .set_revision_id(from.revision.clone())
            .send()
            .await;
        let error = match answer {
            Ok(answer) => return Ok(Alias::from(configuration!(answer))),
            Err(error) => error,
        };
        let context = || format!("point alias {name} of {function} at version {}", to.version);
        let final_refusal = is_final(&error);
        match read(cloud, environment).await {
            // The change was made, and only its answer was lost.
            Ok(Some(now)) if now.position.is(to) => return Ok(now),
            // Nothing but the revision changed, as when a permission is added.
            Ok(Some(now)) if now.position.is(&from.position) && !final_refusal => from = now,
            Ok(Some(now)) if !now.position.is(&from.position) => {
                bail!("alias {name} was moved by another deployer: {}; it is left as it is", now.in_words());
            }
            Ok(None) => bail!("alias {name} of {function} was deleted meanwhile"),
            _ => {}
        }
        if final_refusal || attempt >= TRIES {
            return Err(service_error(error)).with_context(context);
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// Creates the alias, provided that nobody else did.
///
/// # Errors
/// Somebody else created it, and who; or the change was refused or never answered.
pub async fn create(cloud: &Cloud, environment: &Environment, to: &Position) -> Result<Alias> {
    let (function, name) = (&environment.function, &environment.alias);
    let mut pause = Duration::from_millis(200);
    let mut attempt = 0;
    loop {
        attempt += 1;
        let answer = cloud
            .lambda
            .create_alias()
            .function_name(function)
            .name(name)
            .function_version(&to.version)
            .description(to.ledger.text())
            .send()
            .await;
        let error = match answer {
            Ok(answer) => return Ok(Alias::from(configuration!(answer))),
            Err(error) => error,
        };
        match read(cloud, environment).await {
            Ok(Some(now)) if now.position.is(to) => return Ok(now),
            Ok(Some(now)) => bail!("another deployer was first: {}; nothing was changed here", now.in_words()),
            _ => {}
        }
        if is_final(&error) || attempt >= TRIES {
            return Err(service_error(error)).with_context(|| format!("create alias {name} of {function}"));
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// Whether the service answered with this exception.
pub fn has_code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>, code: &str) -> bool {
    error.as_service_error().and_then(ProvideErrorMetadata::code) == Some(code)
}

/// Whether a refusal stays one however often it is asked: not a conflict, a lost race, throttling or a fault of the service.
pub fn is_final<E: ProvideErrorMetadata>(error: &SdkError<E, aws_sdk_lambda::config::http::HttpResponse>) -> bool {
    error.raw_response().is_some_and(|response| {
        let status = response.status().as_u16();
        (400..500).contains(&status) && ![408, 409, 412, 429].contains(&status)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger {
            run: Some("20261124T031522Z-abc1234".into()),
            deployer: Some("0f1e2d3c".into()),
            before: vec!["7".into(), "5".into()],
            rolled_back: Some(RolledBack { version: "8".into(), run: "123-1".into() }),
            moving: Some(Moving { to: "9".into(), until: DateTime::from_timestamp(1_800_000_000, 0).unwrap() }),
        }
    }

    #[test]
    fn a_ledger_is_read_back_and_other_descriptions_say_nothing() {
        assert_eq!(Ledger::parse(&ledger().text()), ledger());
        assert_eq!(Ledger::parse(""), Ledger::default());
        assert_eq!(Ledger::parse("the live version; do not touch"), Ledger::default());
        assert_eq!(Ledger::default().text(), "");
        let unreadable = Ledger::parse("moving to 9 until tomorrow");
        assert_eq!(unreadable.moving.unwrap().until, DateTime::UNIX_EPOCH, "counts as dead, not as alive");
    }

    #[test]
    fn a_ledger_fits_into_a_description() {
        let long = Ledger {
            run: Some("r".repeat(100)),
            before: (1000..1100).map(|version| version.to_string()).collect(),
            ..ledger()
        };
        let text = long.text();
        assert!(text.len() <= LONGEST_DESCRIPTION, "{}", text.len());
        let read = Ledger::parse(&text);
        assert_eq!(read.run, long.run);
        assert_eq!(read.moving, long.moving);
        assert_eq!(read.before[0], "1000");
        let worst = Ledger { rolled_back: Some(RolledBack { version: "8".into(), run: "q".repeat(100) }), ..long };
        assert!(worst.text().len() <= LONGEST_DESCRIPTION);
        assert_eq!(Ledger::parse(&worst.text()).before[0], "1000");
    }

    #[test]
    fn history_has_every_version_once_and_not_the_live_one() {
        assert_eq!(ledger().history_after("8", "9"), ["8", "7", "5"]);
        assert_eq!(ledger().history_after("7", "5"), ["7"]);
    }
}
