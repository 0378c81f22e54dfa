//! Two deployers of different images to one function at once: one wins, or one after the other, and nobody's success is
//! undone by somebody who did not see it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::fixtures::{Candidate, Progress, State, serve};
use super::proxy::{Plan, Proxy};
use super::sandbox::{Ended, Sandbox};
use super::verify::{self, Serving};
use super::{Bench, Extent, Tally, outcome, tally};
use crate::records::Stage;

/// Races that run at once: each has two commands.
const LANES: usize = 2;

/// Runs the races.
pub async fn run(bench: &Arc<Bench>, folder: &Path, extent: Extent) -> Result<Tally> {
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..LANES {
        let sandbox = |deployer: usize| Sandbox::new(&bench.root, &folder.join(format!("lane-{lane}-{deployer}")));
        let (first, second) = (sandbox(1)?, sandbox(2)?);
        let bench = bench.clone();
        lanes.spawn(async move {
            let mut results = Vec::new();
            for number in (lane..extent.races).step_by(LANES) {
                let name = format!("race {}", number + 1);
                if !bench.wants(&name) {
                    continue;
                }
                results.push(outcome(name, race(&bench, &first, &second, number).await));
            }
            results
        });
    }
    Ok(tally(lanes.join_all().await.into_iter().flatten().collect()))
}

async fn race(bench: &Bench, first: &Sandbox, second: &Sandbox, number: usize) -> Result<()> {
    let (new, other) = (&bench.fixtures.new, &bench.fixtures.other);
    first.restore(&bench.fixtures.runs(new, Progress::Judged), &bench.fixtures.cloud(State::Live))?;
    super::sandbox::replace(&bench.fixtures.runs(other, Progress::Judged), &second.runs())?;
    let cloud = serve(&first.cloud).await?;
    let proxy = Proxy::start(cloud.endpoint_url(), Plan::Pass).await?;
    let url = proxy.url();
    // The head start wanders over the length of a deployment, so that they meet at every point of it.
    let head_start = std::time::Duration::from_millis((number as u64 * 17) % 300);
    let (one, two) = tokio::join!(first.run(&["deploy"], &url), async {
        tokio::time::sleep(head_start).await;
        second.run(&["deploy"], &url).await
    });
    let direct = bench.direct(&cloud).await;
    let serving = bench.truth(&direct, &proxy.url()).serving(&[new, other], true).await?.context("nothing is live")?;
    let ends = [
        Deployer { candidate: new, runs: first.runs(), ended: one? },
        Deployer { candidate: other, runs: second.runs(), ended: two? },
    ];
    let context = || format!("{serving:?}; {}", ends.iter().map(Deployer::describe).collect::<Vec<_>>().join("; "));
    judge(&ends, &serving).with_context(context)?;
    cloud.shutdown().await;
    Ok(())
}

struct Deployer<'a> {
    candidate: &'a Candidate,
    /// Where its runs lie.
    runs: PathBuf,
    ended: Ended,
}

impl Deployer<'_> {
    fn succeeded(&self) -> bool {
        self.ended.code == Some(0)
    }

    fn record(&self) -> Result<Option<Value>> {
        verify::record(&self.runs, &self.candidate.run, Stage::Deploy)
    }

    fn describe(&self) -> String {
        let last = self.ended.errors.lines().last().unwrap_or_default();
        format!("{} ended with {:?}: {last}", self.candidate.run, self.ended.code)
    }
}

/// No success is lost, and who lost is told by whom.
fn judge(ends: &[Deployer<'_>; 2], serving: &Serving) -> Result<()> {
    let winner = ends.iter().position(|end| end.candidate.image == serving.image).context("a stranger is live")?;
    let (winner, loser) = (&ends[winner], &ends[1 - winner]);
    ensure!(winner.succeeded(), "who is live says that it failed");
    let record = winner.record()?.context("who is live left no record")?;
    ensure!(record["version"] == serving.version.as_str(), "the winner's record says version {}", record["version"]);
    if loser.succeeded() {
        // It was live, and only somebody who saw it there may have replaced it.
        let lost = loser.record()?.context("who succeeded left no record")?;
        ensure!(
            record["previous_version"] == lost["version"],
            "version {} was live and was replaced by somebody who saw {}",
            lost["version"],
            record["previous_version"]
        );
    } else {
        verify::is_named_error(&loser.ended.errors)?;
        // What was live when it gave up: by now the winner may have gone on.
        let lost = loser.record()?.unwrap_or_default();
        ensure!(lost.is_null() || !lost["failure"].is_null(), "who failed left a record of success");
        let known = [&record["version"], &record["previous_version"]];
        ensure!(
            lost.is_null() || known.contains(&&lost["version"]),
            "the loser's record says version {}",
            lost["version"]
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    /// Judges a race in which version 3, of `new`, is live, and `other` ended with `code` and left `record`.
    fn verdict(saw: &str, code: i32, record: &Value) -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let candidate = |name: &str| Candidate { run: name.into(), image: name.into(), model: name.into() };
        let (new, other) = (candidate("new"), candidate("other"));
        let live = json!({"version": "3", "previous_version": saw, "image": "new", "failure": null});
        for (candidate, record) in [(&new, &live), (&other, record)] {
            let home = folder.path().join(&candidate.run);
            fs::create_dir(&home).unwrap();
            fs::write(home.join("deploy.json"), record.to_string()).unwrap();
        }
        let end = |candidate, code| Deployer {
            candidate,
            runs: folder.path().to_path_buf(),
            ended: Ended {
                code: Some(code),
                output: String::new(),
                errors: "error: move the alias: version 3 of run new is there".into(),
            },
        };
        judge(&[end(&new, 0), end(&other, code)], &Serving { version: "3".into(), image: "new".into() })
    }

    #[test]
    fn a_success_that_nobody_saw_is_a_lost_update() {
        let success = json!({"version": "2", "previous_version": "1", "image": "other", "failure": null});
        assert!(verdict("2", 0, &success).is_ok(), "one after the other");
        assert!(verdict("1", 0, &success).is_err(), "version 2 was replaced by somebody who saw version 1");
        let failure = json!({"version": "3", "image": "other", "failure": "somebody else deploys"});
        assert!(verdict("1", 1, &failure).is_ok());
        assert!(verdict("1", 1, &success).is_err(), "it failed and its record says success");
        let stranger = json!({"version": "7", "image": "other", "failure": "somebody else deploys"});
        assert!(verdict("1", 1, &stranger).is_err(), "version 7 was never live");
    }
}
