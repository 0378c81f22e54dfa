//! Rollback: gives all traffic back to the version that had it before, with one call.
//!
//! Which version that is stands in the alias itself, so that it works from any machine. Writes `rollback.json` beside the
//! deploy.json of the run that was taken out of use; `deploy` refuses that run from then on.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::cloud::Cloud;
use crate::config::Package;
use crate::context::Context;
use crate::records;
use crate::registry::Repository;
use crate::stages::deploy::alias::{self, Alias, Ledger, Position, RolledBack};
use crate::stages::deploy::{self, Live, SmokeResult};
use crate::terminal::{Progress, note, warning};
use crate::{function, github, lock, terminal};

/// Options of `rollback`.
#[derive(Args)]
pub struct Options {
    /// The version to go back to: the one that was live before unless given.
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    /// Print what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What was taken out of use, and what answers instead.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rollback {
    /// Version of the record's form.
    pub schema: u32,
    /// Whether this is a plan: nothing was changed, and no record was written.
    #[serde(default)]
    pub dry_run: bool,
    pub environment: String,
    pub function: String,
    pub alias: String,
    /// The version that had the traffic.
    pub from: String,
    /// The run that had deployed it, if its version says so.
    pub from_run: Option<String>,
    /// The version that has it now.
    pub version: String,
    pub run: Option<String>,
    pub image: String,
    /// What the version is made of.
    #[serde(default)]
    pub package: Package,
    /// Digest of that.
    #[serde(default)]
    pub code: String,
    pub model: String,
    pub smoke_tests: Vec<SmokeResult>,
    pub rolled_back_at: DateTime<Utc>,
    pub decisions: Vec<String>,
}

pub const FILE: &str = "rollback.json";

/// The record of a rollback in a folder, if there is one.
///
/// # Errors
/// It cannot be read: whether the run was rolled back is then unknown.
pub fn of_folder(folder: &Path) -> Result<Option<Rollback>> {
    let path = folder.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => {
            let fix = "remove it if the run was not rolled back";
            let record =
                serde_json::from_slice(&bytes).with_context(|| format!("{} is corrupted: {fix}", path.display()));
            record.map(Some)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Forgets that a run was rolled back, because it was deployed again.
pub fn forget(folder: &Path) -> Result<()> {
    let path = folder.join(FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Runs the command.
pub fn run(context: &Context, options: &Options) -> Result<()> {
    context.end_with_children();
    let _lock = lock::acquire(&context.root)?;
    eprintln!("{}", terminal::bold("rollback"));
    let cloud = context.cloud()?;
    let record = context.block_on(roll_back(context, cloud, options))?;
    if !options.dry_run {
        write(context, &record)?;
    }
    for decision in &record.decisions {
        note(decision);
    }
    if context.json {
        println!("{}", serde_json::to_string(&record)?);
    } else if options.dry_run {
        println!("would make version {} of {} live instead of {}", record.version, record.function, record.from);
        println!("nothing was changed");
    } else {
        println!("version {} of {} is live, instead of {}", record.version, record.function, record.from);
    }
    github::output("function_version", &record.version)?;
    github::summary(&format!(
        "### Rollback\n\nversion {} of {} is live instead of {}; {} `{}`",
        record.version,
        record.function,
        record.from,
        record.package.in_words(),
        record.code
    ))
}

/// Where to, and the alias's ledger once it is there.
#[derive(Debug, PartialEq)]
struct Target {
    version: String,
    /// The version that loses its traffic.
    from: String,
    before: Vec<String>,
}

/// Chooses the version to go back to.
///
/// A rollout in progress goes back to the version that it wanted to replace. Otherwise it is the newest of the history.
fn choose(position: &Position, to: Option<&str>) -> Result<Target> {
    let history = &position.ledger.before;
    let rest = |version: &str| {
        let from = history.iter().position(|known| known == version).map_or(0, |place| place + 1);
        history[from..].to_vec()
    };
    match (&position.weight, to) {
        (Some((other, _)), None) => {
            Ok(Target { version: position.version.clone(), from: other.clone(), before: history.clone() })
        }
        (weight, Some(version)) if version == position.version => match weight {
            Some((other, _)) => {
                Ok(Target { version: version.to_string(), from: other.clone(), before: history.clone() })
            }
            None => bail!("version {version} has all traffic already"),
        },
        (_, Some(version)) => {
            Ok(Target { version: version.to_string(), from: position.version.clone(), before: rest(version) })
        }
        (None, None) => match history.first() {
            Some(version) => {
                Ok(Target { version: version.clone(), from: position.version.clone(), before: rest(version) })
            }
            None => bail!(
                "the alias does not remember what was live before version {}: choose with `cargo xtask rollback --to VERSION`",
                position.version
            ),
        },
    }
}

async fn roll_back(context: &Context, cloud: &Cloud, options: &Options) -> Result<Rollback> {
    let environment = &context.environment;
    let (function, name) = (&environment.function, &environment.alias);
    let Some(current) = alias::read(cloud, environment).await? else {
        bail!("{function} has no alias {name}: nothing was deployed in `{}`", context.environment_name);
    };
    let target = choose(&current.position, options.to.as_deref())?;
    // Who moved traffic to the version need not be who published it.
    let from_run = match &current.position.ledger.run {
        Some(run) => Some(run.clone()),
        None => {
            let from = deploy::describe(cloud, environment, &target.from).await?;
            from.as_ref().and_then(Live::run).map(String::from)
        }
    };
    let Some(live) = deploy::describe(cloud, environment, &target.version).await? else {
        bail!("{function} has no version {}: choose another with --to", target.version);
    };
    // Of a zip package Lambda has a copy of its own.
    if live.package == Package::Image {
        image_is_there(cloud, &environment.inference_repository, &live).await?;
    }
    let smoke_tests = try_out(context, cloud, &live).await?;
    let mut record = Rollback {
        schema: records::SCHEMA,
        dry_run: options.dry_run,
        environment: context.environment_name.clone(),
        function: function.clone(),
        alias: name.clone(),
        from: target.from.clone(),
        from_run: from_run.clone(),
        version: live.version.clone(),
        run: live.run().map(String::from),
        image: live.image.clone(),
        package: live.package,
        code: live.code.clone(),
        model: live.model().to_string(),
        decisions: vec![format!("{} smoke tests of version {} passed", smoke_tests.len(), live.version)],
        smoke_tests,
        rolled_back_at: Utc::now(),
    };
    if !options.dry_run {
        move_back(context, cloud, &current, target, &mut record).await?;
    }
    Ok(record)
}

/// One call moves all traffic; what people read follows it.
async fn move_back(
    context: &Context,
    cloud: &Cloud,
    current: &Alias,
    target: Target,
    record: &mut Rollback,
) -> Result<()> {
    let environment = &context.environment;
    let rolled_back = record.from_run.clone().map(|run| RolledBack { version: target.from.clone(), run });
    let ledger = Ledger {
        run: record.run.clone(),
        deployer: Some(deploy::deployer_name(context)),
        before: target.before,
        rolled_back,
        moving: None,
    };
    let position = Position { version: target.version, weight: None, ledger };
    alias::point(cloud, environment, current, &position).await?;
    record.decisions.push(format!("alias {} gives version {} all traffic", record.alias, record.version));
    // The version answers already; what goes wrong from here on is said, and takes nothing back.
    if let Some(run) = &record.run
        && let Err(error) = deploy::restore_report(cloud, environment, run).await
    {
        warning(&format!(
            "the report is still the one of run {}: {error:#}",
            record.from_run.as_deref().unwrap_or("?")
        ));
    }
    if environment.public {
        let page = async {
            let url = function::ensure_url(cloud, environment).await?;
            deploy::publish_web_configuration(cloud, environment, &url, &record.model).await
        };
        if let Err(error) = page.await {
            warning(&format!("the web page still names the other model: {error:#}"));
        }
    }
    Ok(())
}

async fn image_is_there(cloud: &Cloud, repository: &str, live: &Live) -> Result<()> {
    let uri = cloud.ensure_repository(repository).await?;
    match Repository::open(cloud, &uri).await?.manifest(&live.image).await? {
        Some(_) => Ok(()),
        None => bail!(
            "the registry no longer has image {} of version {}: choose another version with --to, nothing was changed",
            live.image,
            live.version
        ),
    }
}

async fn try_out(context: &Context, cloud: &Cloud, live: &Live) -> Result<Vec<SmokeResult>> {
    let _progress = Progress::start(&format!("test version {}", live.version), None);
    let tests = &context.config.smoke_tests;
    if live.model().is_empty() {
        bail!("version {} does not say which model it has: it was not published by this pipeline", live.version);
    }
    let function = &context.environment.function;
    let results = deploy::smoke_tests(cloud, function, &live.version, tests, live.model()).await?;
    match deploy::failed(&live.version, &results) {
        Some(failure) => bail!("{failure}: choose another version with --to, nothing was changed"),
        None => Ok(results),
    }
}

/// Beside the deploy.json of the run that was taken out of use, so that `deploy` finds it there.
fn write(context: &Context, record: &Rollback) -> Result<()> {
    let Some(run) = record.from_run.clone().or_else(|| context.latest_run()) else {
        note("there is no run here to keep rollback.json with: the alias remembers the rollback");
        return Ok(());
    };
    let mut text = serde_json::to_vec_pretty(record).context("turn the record into JSON")?;
    text.push(b'\n');
    records::write_atomically(&context.environment_folder(&run).join(FILE), &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(weight: Option<&str>, before: &[&str]) -> Position {
        let before = before.iter().map(ToString::to_string).collect();
        Position {
            version: "5".into(),
            weight: weight.map(|version| (version.to_string(), 0.1)),
            ledger: Ledger { before, ..Ledger::default() },
        }
    }

    #[test]
    fn history_is_walked_back_and_never_repeated() {
        let target = |version: &str, from: &str, before: &[&str]| Target {
            version: version.into(),
            from: from.into(),
            before: before.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(choose(&position(None, &["4", "2"]), None).unwrap(), target("4", "5", &["2"]));
        assert_eq!(choose(&position(None, &["4", "2"]), Some("2")).unwrap(), target("2", "5", &[]));
        assert_eq!(choose(&position(None, &["4", "2"]), Some("3")).unwrap(), target("3", "5", &["4", "2"]));
        assert!(choose(&position(None, &[]), None).unwrap_err().to_string().contains("--to VERSION"));
        assert!(choose(&position(None, &["4"]), Some("5")).is_err());
        // In the middle of a rollout the version that is to be replaced still is the live one.
        assert_eq!(choose(&position(Some("6"), &["4"]), None).unwrap(), target("5", "6", &["4"]));
        assert_eq!(choose(&position(Some("6"), &["4"]), Some("5")).unwrap(), target("5", "6", &["4"]));
    }
}
