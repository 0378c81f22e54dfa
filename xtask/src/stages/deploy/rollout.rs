//! Moving traffic to a new version, step by step, and back with one call when anything goes wrong.
//!
//! The alias names the old version until the very end, and the new one only by weight. A process that is killed in between
//! leaves an alias whose ledger says who was moving it and until when it counts as alive; whoever deploys next puts the old
//! version back first. Ctrl-C puts it back before the process ends.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::alias::{self, Alias, Ledger, Moving, Position};
use super::health::{self, Observed};
use super::smoke;
use crate::cloud::Cloud;
use crate::config::SmokeTest;
use crate::context::Context;
use crate::records;
use crate::terminal::{Progress, note, warning};
use crate::{digest, github, paths, process};

/// A step's checks may take this long, beyond its pause, before the rollout counts as dead.
const GRACE: Duration = Duration::from_secs(300);
/// How often health is judged within a step.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long putting the old version back is tried.
const BACK_LIMIT: Duration = Duration::from_secs(120);

/// A step of the rollout: planned, and once it was watched, what was seen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    /// Share of the traffic that the new version got.
    pub percent: u32,
    pub pause_seconds: u64,
    pub observed: Option<Observed>,
}

/// The process that moves traffic, told from every other one.
pub struct Deployer {
    pub name: String,
    /// Names of this deployer that are certainly dead: a killed process of this clone, whose lock we hold now.
    dead: Vec<String>,
    mark: PathBuf,
}

/// A name for this process. Attempts of the same workflow run share one: they follow each other, so an earlier one is dead.
pub fn deployer_name(context: &Context) -> String {
    let unique = match std::env::var("GITHUB_RUN_ID") {
        Ok(run) if github::active() => {
            format!("{} {run} {}", std::env::var("GITHUB_REPOSITORY").unwrap_or_default(), context.environment_name)
        }
        _ => format!("{} {:?} {}", std::process::id(), Utc::now(), context.root.display()),
    };
    digest::short(&digest::of_bytes(unique.as_bytes())).to_string()
}

impl Deployer {
    /// Finds out who we are, and whether a predecessor in this clone was killed while it moved traffic.
    pub fn new(context: &Context) -> Deployer {
        let mark = paths::deployer(&context.root, &context.environment_name);
        let mut dead: Vec<String> = fs::read_to_string(&mark).into_iter().map(|name| name.trim().to_string()).collect();
        let name = deployer_name(context);
        if github::active() {
            dead.push(name.clone());
        }
        Deployer { name, dead, mark }
    }

    /// Leaves a mark on disk for as long as traffic is between two versions.
    fn leave_mark(&self) -> Result<()> {
        records::write_atomically(&self.mark, format!("{}\n", self.name).as_bytes())
    }

    /// Traffic is where it belongs.
    pub fn remove_mark(&self) {
        let _ = fs::remove_file(&self.mark);
    }
}

/// Whether a weighted alias belongs to a rollout that may still be alive; until when, then.
fn alive_until(ledger: &Ledger, dead: &[String], now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let moving = ledger.moving.as_ref()?;
    let is_dead = ledger.deployer.as_ref().is_some_and(|deployer| dead.contains(deployer));
    (!is_dead && moving.until > now).then_some(moving.until)
}

/// Gives all traffic back to the alias's version, if a rollout that died left some of it on another one.
///
/// # Errors
/// The rollout may still be alive: who it is, and until when.
pub async fn settle(
    cloud: &Cloud,
    context: &Context,
    deployer: &Deployer,
    alias: Alias,
    decisions: &mut Vec<String>,
) -> Result<Alias> {
    let Some((other, share)) = alias.position.weight.clone() else { return Ok(alias) };
    if let Some(until) = alive_until(&alias.position.ledger, &deployer.dead, Utc::now()) {
        bail!(
            "{}; nothing was changed here: wait for its end (it counts as dead after {}), or end it with `cargo xtask rollback --env {}`",
            alias.in_words(),
            until.format("%H:%M:%S UTC"),
            context.environment_name
        );
    }
    let ledger =
        Ledger { run: None, deployer: Some(deployer.name.clone()), moving: None, ..alias.position.ledger.clone() };
    let version = alias.position.version.clone();
    let settled = Position { version: version.clone(), weight: None, ledger };
    let alias = alias::point(cloud, &context.environment, &alias, &settled).await?;
    let percent = share * 100.0;
    let said = format!(
        "an earlier rollout had left {percent:.0} % on version {other}: version {version} has all traffic again"
    );
    warning(&said);
    decisions.push(said);
    deployer.remove_mark();
    Ok(alias)
}

/// A new version on its way to all traffic.
pub struct Rollout<'a> {
    pub cloud: &'a Cloud,
    pub context: &'a Context,
    pub deployer: &'a Deployer,
    pub run: &'a str,
    pub version: &'a str,
    pub model: &'a str,
    pub smoke_tests: &'a [SmokeTest],
}

impl Rollout<'_> {
    /// Moves traffic in the configured steps and judges the version's health in each. `publish` is done before the last one.
    ///
    /// # Errors
    /// Why the version does not have the traffic; the old one has all of it again, or the text says that it could not be
    /// given back.
    pub async fn replace<T>(
        &self,
        old: &Alias,
        steps: &mut [Step],
        publish: impl AsyncFnOnce() -> Result<T>,
    ) -> Result<T> {
        self.deployer.leave_mark()?;
        match self.forward(old, steps, publish).await {
            Ok(published) => {
                self.deployer.remove_mark();
                Ok(published)
            }
            Err(error) => match self.back(old).await {
                Ok(()) => {
                    self.deployer.remove_mark();
                    Err(error)
                }
                Err(stuck) => Err(error.context(format!(
                    "traffic could not be given back to version {}: {stuck:#}; run `cargo xtask rollback --env {}`",
                    old.position.version, self.context.environment_name
                ))),
            },
        }
    }

    async fn forward<T>(&self, old: &Alias, steps: &mut [Step], publish: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
        let begun = Utc::now();
        let mut alias = old.clone();
        for step in steps {
            let pause = Duration::from_secs(step.pause_seconds);
            alias = alias::point(self.cloud, &self.context.environment, &alias, &self.between(old, step)).await?;
            note(&format!("version {} gets {} % of the traffic", self.version, step.percent));
            let observed = self.watch(begun, pause).await?;
            note(&observed.in_words());
            step.observed = Some(observed);
        }
        let published = publish().await?;
        if process::is_interrupted() {
            bail!("interrupted before version {} got all traffic", self.version);
        }
        let ledger = Ledger {
            run: Some(self.run.to_string()),
            deployer: Some(self.deployer.name.clone()),
            before: old.position.ledger.history_after(&old.position.version, self.version),
            ..Ledger::default()
        };
        let all = Position { version: self.version.to_string(), weight: None, ledger };
        alias::point(self.cloud, &self.context.environment, &alias, &all).await?;
        Ok(published)
    }

    /// The alias during a step.
    fn between(&self, old: &Alias, step: &Step) -> Position {
        let until = Utc::now() + Duration::from_secs(step.pause_seconds) + GRACE;
        Position {
            version: old.position.version.clone(),
            weight: Some((self.version.to_string(), f64::from(step.percent) / 100.0)),
            ledger: Ledger {
                run: Some(self.run.to_string()),
                deployer: Some(self.deployer.name.clone()),
                moving: Some(Moving { to: self.version.to_string(), until }),
                ..old.position.ledger.clone()
            },
        }
    }

    /// Judges the version's health until the pause is over.
    async fn watch(&self, since: DateTime<Utc>, pause: Duration) -> Result<Observed> {
        let _progress = Progress::start(&format!("watch version {}", self.version), None);
        let end = Instant::now() + pause;
        loop {
            let rest = end.saturating_duration_since(Instant::now());
            tokio::select! {
                () = tokio::time::sleep(rest.min(LOOK_EVERY)) => {}
                () = process::interrupted() => bail!("interrupted while version {} got a part of the traffic", self.version),
            }
            let observed = self.judge(since).await?;
            if Instant::now() >= end {
                return Ok(observed);
            }
        }
    }

    async fn judge(&self, since: DateTime<Utc>) -> Result<Observed> {
        let environment = &self.context.environment;
        let tests = self.smoke_tests;
        let results = smoke::smoke_tests(self.cloud, &environment.function, self.version, tests, self.model).await?;
        if let Some(failed) = smoke::failed(self.version, &results) {
            bail!("{failed}");
        }
        let observed = health::observe(self.cloud, environment, self.version, since).await?;
        match health::verdict(&observed, &environment.rollout) {
            Some(reason) => bail!("version {} is not healthy: {reason}", self.version),
            None => Ok(observed),
        }
    }

    /// Gives the old version all traffic again, with one call.
    async fn back(&self, old: &Alias) -> Result<()> {
        let environment = &self.context.environment;
        let _progress = Progress::start(&format!("give version {} all traffic again", old.position.version), None);
        let deadline = Instant::now() + BACK_LIMIT;
        loop {
            let error = match alias::read(self.cloud, environment).await {
                Ok(None) => bail!("alias {} was deleted meanwhile", environment.alias),
                // Traffic never moved, or somebody else moves it now: theirs is the last word.
                Ok(Some(now)) if now.position.ledger.deployer.as_ref() != Some(&self.deployer.name) => return Ok(()),
                Ok(Some(now)) if now.position.is(&old.position) => return Ok(()),
                Ok(Some(now)) => match alias::point(self.cloud, environment, &now, &old.position).await {
                    Ok(_) => return Ok(()),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return Err(error).context("give the old version all traffic again");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_is_dead_when_its_time_is_over_or_its_process_is() {
        let now = Utc::now();
        let moving = |deployer: &str, until| Ledger {
            deployer: Some(deployer.into()),
            moving: Some(Moving { to: "9".into(), until }),
            ..Ledger::default()
        };
        let soon = now + GRACE;
        let dead = ["killed".to_string()];
        assert_eq!(alive_until(&moving("other", soon), &dead, now), Some(soon));
        assert_eq!(alive_until(&moving("other", now), &dead, now), None);
        assert_eq!(alive_until(&moving("killed", soon), &dead, now), None);
        assert_eq!(alive_until(&Ledger::default(), &dead, now), None, "weights that nobody says to be moving");
    }
}
