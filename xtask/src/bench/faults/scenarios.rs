//! The commands that faults are done to, where each begins, and what must hold after it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::fixtures::{Candidate, Fixtures, Progress, State, read};
use super::sandbox::Sandbox;
use super::verify::{self, Serving, Truth};
use crate::records::Stage;
use crate::{artifact, digest, evidence, rollback};

/// A command at work in a certain state.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub command: &'static [&'static str],
    pub cloud: State,
    pub progress: Progress,
    /// Whether one fault and one lasting fault at every call suffice: its calls are like those of another scenario, or read only.
    pub sampled: bool,
    check: Check,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Build,
    Scan,
    Deploy,
    Provision,
    Rollback,
    Monitor,
}

pub const SCENARIOS: [Scenario; 9] = [
    Scenario {
        name: "first provision",
        command: &["provision"],
        cloud: State::Empty,
        progress: Progress::Made,
        sampled: true,
        check: Check::Provision,
    },
    Scenario {
        name: "provision",
        command: &["provision"],
        cloud: State::Live,
        progress: Progress::Made,
        sampled: true,
        check: Check::Provision,
    },
    Scenario {
        name: "monitor",
        command: &["monitor"],
        cloud: State::Live,
        progress: Progress::Judged,
        sampled: true,
        check: Check::Monitor,
    },
    Scenario {
        name: "rollback",
        command: &["rollback"],
        cloud: State::Replaced,
        progress: Progress::Deployed,
        sampled: false,
        check: Check::Rollback,
    },
    Scenario {
        name: "first build",
        command: &["build"],
        cloud: State::Empty,
        progress: Progress::Made,
        sampled: true,
        check: Check::Build,
    },
    Scenario {
        name: "build",
        command: &["build"],
        cloud: State::Old,
        progress: Progress::Made,
        sampled: false,
        check: Check::Build,
    },
    Scenario {
        name: "scan",
        command: &["scan"],
        cloud: State::Findings,
        progress: Progress::Built,
        sampled: false,
        check: Check::Scan,
    },
    Scenario {
        name: "first deploy",
        command: &["deploy"],
        cloud: State::Pushed,
        progress: Progress::Judged,
        sampled: true,
        check: Check::Deploy,
    },
    Scenario {
        name: "deploy",
        command: &["deploy"],
        cloud: State::Live,
        progress: Progress::Judged,
        sampled: false,
        check: Check::Deploy,
    },
];

impl Scenario {
    /// The scenario that kills and races are made of.
    pub fn deploy() -> Scenario {
        SCENARIOS[SCENARIOS.len() - 1]
    }

    /// What must hold after the command, `done` if it says that it did its work.
    pub async fn check(
        &self,
        truth: &Truth<'_>,
        sandbox: &Sandbox,
        done: bool,
        expected: Option<&Value>,
    ) -> Result<()> {
        let new = &truth.fixtures.new;
        verify::no_rests(&sandbox.runs())?;
        let nothing_live = matches!(self.cloud, State::Empty | State::Pushed);
        let allowed: &[&Candidate] = match self.check {
            Check::Deploy if done => &[new],
            Check::Deploy if nothing_live => &[new],
            Check::Deploy => &[&truth.fixtures.old, new],
            Check::Rollback if !done => &[&truth.fixtures.old, new],
            _ => &[&truth.fixtures.old],
        };
        let serving = truth.serving(allowed, done || !nothing_live).await?;
        ensure!(serving.is_some() || nothing_live, "nothing is live any more");
        match self.check {
            Check::Build => check_build(sandbox, new, &truth.tags().await?, done),
            Check::Scan => check_scan(sandbox, new, done, expected),
            Check::Deploy if done => {
                check_deploy(sandbox, new, serving.as_ref(), done)?;
                check_evidence(sandbox, new, &truth.tags().await?)
            }
            Check::Deploy => check_deploy(sandbox, new, serving.as_ref(), done),
            Check::Provision if done => check_provision(truth, sandbox).await,
            Check::Monitor => check_monitor(sandbox, new, done),
            Check::Rollback => check_rollback(truth, sandbox, serving.as_ref(), done).await,
            Check::Provision => Ok(()),
        }
    }

    /// The same command once more, without a fault: it ends well. Of a rollback that took effect nothing is left to do, and it
    /// says so.
    pub async fn repeat(&self, truth: &Truth<'_>, sandbox: &Sandbox) -> Result<()> {
        let Fixtures { old, new, .. } = truth.fixtures;
        if self.check == Check::Rollback
            && truth.serving(&[old, new], true).await?.is_some_and(|serving| serving.image == old.image)
        {
            let ended = sandbox.run(self.command, truth.proxy_url).await?;
            ensure!(
                ended.code == Some(1) && ended.errors.contains("does not remember what was live before"),
                "a second rollback ended with {:?}: {}",
                ended.code,
                ended.errors.trim()
            );
            return Ok(());
        }
        sandbox.must(self.command, truth.proxy_url).await.map(|_| ())
    }

    /// What the scan found without a fault: any other finding would be a lie.
    pub fn expected(&self, sandbox: &Sandbox, new: &Candidate) -> Result<Option<Value>> {
        if self.check != Check::Scan {
            return Ok(None);
        }
        Ok(verify::record(&sandbox.runs(), &new.run, Stage::Scan)?.map(found))
    }
}

fn check_build(sandbox: &Sandbox, new: &Candidate, tags: &[(String, String)], done: bool) -> Result<()> {
    let tagged = tags.iter().find(|(tag, _)| *tag == new.run);
    if let Some((tag, digest)) = tagged {
        ensure!(*digest == new.image, "tag {tag} names {digest}");
    }
    let Some(record) = verify::record(&sandbox.runs(), &new.run, Stage::Build)? else {
        ensure!(!done, "build ended well without a record");
        return Ok(());
    };
    tagged.context("build.json is there, and the registry has no such tag")?;
    ensure!(record["image"]["digest"] == new.image.as_str(), "build.json names {}", record["image"]["digest"]);
    Ok(())
}

fn check_scan(sandbox: &Sandbox, new: &Candidate, done: bool, expected: Option<&Value>) -> Result<()> {
    let Some(record) = verify::record(&sandbox.runs(), &new.run, Stage::Scan)? else {
        ensure!(!done, "scan ended well without a record");
        return Ok(());
    };
    if let Some(expected) = expected {
        let found = found(record);
        ensure!(found == *expected, "scan.json is not what the scanner found: {}", found["summary"]);
    }
    Ok(())
}

/// What a scan's record says about the image.
fn found(mut record: Value) -> Value {
    let mut kept = serde_json::Map::new();
    for key in ["image", "registry", "crates", "summary"] {
        kept.insert(key.to_string(), record[key].take());
    }
    Value::Object(kept)
}

fn check_deploy(sandbox: &Sandbox, new: &Candidate, serving: Option<&Serving>, done: bool) -> Result<()> {
    verify::deployment_is_true(&sandbox.runs(), new, serving)?;
    if done {
        let record = verify::record(&sandbox.runs(), &new.run, Stage::Deploy)?.context("deploy left no record")?;
        ensure!(record["failure"].is_null(), "deploy ended well, and deploy.json says {}", record["failure"]);
        ensure!(
            serving.is_some_and(|serving| serving.image == new.image),
            "deploy ended well, and the old one is live"
        );
    }
    Ok(())
}

/// The evidence lies beside the image.
fn check_evidence(sandbox: &Sandbox, new: &Candidate, tags: &[(String, String)]) -> Result<()> {
    let wanted = artifact::tag(&digest::of_file(&sandbox.runs().join(&new.run).join(evidence::FILE))?);
    let attached = tags.iter().any(|(tag, digest)| *tag == wanted && *digest != new.image);
    ensure!(attached, "deploy ended well, and the registry has no {wanted} beside the image");
    Ok(())
}

/// Nothing of the network makes a model that answers one that does not.
fn check_monitor(sandbox: &Sandbox, new: &Candidate, done: bool) -> Result<()> {
    let Some(record) = verify::record(&sandbox.runs(), &new.run, Stage::Monitor)? else {
        ensure!(!done, "monitor ended well without a record");
        return Ok(());
    };
    ensure!(record["healthy"] == true, "the old version answers, and monitor.json says that it does not");
    ensure!(record["deployed"]["stale"] == false, "monitor.json says {}", record["deployed"]["reason"]);
    Ok(())
}

/// Who was taken out of use does not come back by itself, whatever became of the command.
async fn check_rollback(truth: &Truth<'_>, sandbox: &Sandbox, serving: Option<&Serving>, done: bool) -> Result<()> {
    let Fixtures { old, new, .. } = truth.fixtures;
    let path = sandbox.runs().join(&new.run).join(rollback::FILE);
    let record = if path.exists() { Some(read(&path)?) } else { None };
    if serving.is_none_or(|serving| serving.image != old.image) {
        ensure!(record.is_none(), "rollback.json is there, and the new version still is live");
        return Ok(());
    }
    if done {
        let record = record.context("rollback ended well without a record")?;
        ensure!(
            record["image"] == old.image.as_str() && record["from_run"] == new.run.as_str(),
            "rollback.json names {} and run {}",
            record["image"],
            record["from_run"]
        );
    }
    let ended = sandbox.run(&["deploy", "--run", &new.run], truth.proxy_url).await?;
    ensure!(ended.code == Some(3), "deploying the run again ended with {:?}: {}", ended.code, ended.errors.trim());
    Ok(())
}

/// Asked again, it would change nothing.
async fn check_provision(truth: &Truth<'_>, sandbox: &Sandbox) -> Result<()> {
    let left = planned(truth, sandbox, &["provision", "--dry-run", "--json"], &["create", "update"]).await?;
    ensure!(left.is_empty(), "provision ended well and left something to do: {}", left.join(", "));
    Ok(())
}

/// What a plan would do of the named actions.
async fn planned(truth: &Truth<'_>, sandbox: &Sandbox, command: &[&str], actions: &[&str]) -> Result<Vec<String>> {
    let planned = sandbox.must(command, truth.proxy_url).await?;
    let report: Value = serde_json::from_str(&planned.output).context("understand the plan")?;
    let resources = report["resources"].as_array().context("the plan names no resources")?;
    let left = resources.iter().filter(|resource| actions.iter().any(|action| resource["action"] == *action));
    Ok(left.map(|resource| format!("{} {}", resource["kind"], resource["details"])).collect())
}
