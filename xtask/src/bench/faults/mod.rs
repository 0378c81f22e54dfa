//! What the pipeline does when the network and the services fail it: a fault at every call, a kill at every boundary of a
//! deployment, and two deployers at once.
//!
//! A command runs as a process of its own, and a [`proxy`] on loopback stands between it and an embedded cloud. A case has
//! *survived* if the command ended well, or with an error that is named while the old version serves; if no alias is half moved,
//! no tag is without its image and no record says what is not so; and if the same command afterwards ends well.

mod calls;
mod cases;
mod fixtures;
mod kills;
mod proxy;
mod races;
mod sandbox;
mod scenarios;
mod verify;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::{Figure, Measured, Options};
use crate::cloud::Cloud;
use crate::config::{self, Environment};
use crate::exit;
use crate::terminal::{note, seconds};
use fixtures::Fixtures;
use local_aws::LocalCloud;
use sandbox::{ENVIRONMENT, Sandbox};
use verify::Truth;

/// How much is tried.
#[derive(Debug, Clone, Copy)]
struct Extent {
    /// Every call with every fault, or every second call with one of them.
    all_faults: bool,
    kills: usize,
    races: usize,
}

/// Everything.
const WHOLE: Extent = Extent { all_faults: true, kills: usize::MAX, races: 100 };
/// What fits into a check.
const QUICK: Extent = Extent { all_faults: false, kills: 20, races: 10 };

impl Extent {
    /// The faults to try at the call with this index: they take turns where not all of them are tried.
    fn sample<T: Clone>(&self, index: usize, mut faults: Vec<T>, sampled: bool) -> Vec<T> {
        let length = faults.len();
        match (self.all_faults, sampled) {
            (true, false) => faults,
            (true, true) => {
                // The last one is the one that lasts.
                let last = faults.pop();
                faults.into_iter().nth(index % (length - 1)).into_iter().chain(last).collect()
            }
            (false, _) if index.is_multiple_of(2) => vec![faults.swap_remove((index / 2) % length)],
            (false, _) => Vec::new(),
        }
    }
}

/// Commands mostly wait, so more of them than there are processors.
const WORKERS: usize = 6;

/// What all cases share.
struct Bench {
    root: std::path::PathBuf,
    environment: Environment,
    event: Value,
    fixtures: Fixtures,
    /// What the name of everything that is tried contains.
    only: String,
}

/// How many of a kind were tried, and why some did not hold.
struct Tally {
    tried: usize,
    failures: Vec<String>,
}

impl Tally {
    fn held(&self) -> f64 {
        (self.tried - self.failures.len()) as f64
    }
}

/// Tries faults, kills and races.
///
/// # Errors
/// The cases could not be made; a case that fails is part of the report.
pub(super) fn measure(root: &Path, options: &Options) -> Result<Measured> {
    let extent = if options.quick { QUICK } else { WHOLE };
    let only = options.only.clone().unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(try_all(root, extent, only))
}

async fn try_all(root: &Path, extent: Extent, only: String) -> Result<Measured> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = config::read(root)?;
    let environment = config.environment(ENVIRONMENT)?.clone();
    let event =
        config.smoke_tests.first().context("pipeline.toml has no smoke test to ask the function")?.event.clone();
    let parent = root.join("target/bench");
    std::fs::create_dir_all(&parent).with_context(|| format!("make {}", parent.display()))?;
    let folder =
        tempfile::Builder::new().prefix("faults-").tempdir_in(&parent).context("make a folder for the cases")?;
    let begun = Instant::now();
    let fixtures = Fixtures::prepare(root, folder.path()).await?;
    note(&format!("prepared in {}", seconds(begun.elapsed())));
    let bench = Arc::new(Bench { root: root.to_path_buf(), environment, event, fixtures, only });
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        workers.push(Sandbox::new(root, &folder.path().join(format!("worker-{number}")))?);
    }
    let workers = Workers(Arc::new(Mutex::new(workers)));
    let cases = timed("cases", cases::run(&bench, &workers, extent)).await?;
    let kills = timed("kills", kills::run(&bench, &workers, extent)).await?;
    let races = timed("races", races::run(&bench, folder.path(), extent)).await?;
    if cases.tried + kills.tried + races.tried == 0 {
        return Err(exit::nothing_checked("no case has this text in its name"));
    }
    let figures = vec![
        Figure::new("cases", cases.tried as f64, "cases"),
        Figure::new("survived", cases.held(), "cases"),
        Figure::new("kill_points", kills.tried as f64, "kills"),
        Figure::new("converged", kills.held(), "kills"),
        Figure::new("races", races.tried as f64, "races"),
        Figure::new("lost_updates", races.failures.len() as f64, "races"),
    ];
    let failures = [cases.failures, kills.failures, races.failures].concat();
    Ok(Measured { figures, failures })
}

/// Says how many were tried and how long that took.
async fn timed(name: &str, work: impl Future<Output = Result<Tally>>) -> Result<Tally> {
    let begun = Instant::now();
    let tally = work.await?;
    note(&format!("{} {name} tried in {}, {} failed", tally.tried, seconds(begun.elapsed()), tally.failures.len()));
    Ok(tally)
}

/// Sandboxes that are free; as many jobs run at once.
#[derive(Clone)]
struct Workers(Arc<Mutex<Vec<Sandbox>>>);

impl Workers {
    /// Does every job in a sandbox, several at once; gives what went wrong.
    async fn each<J, F>(&self, jobs: Vec<J>, work: impl Fn(J, Arc<Sandbox>) -> F) -> Result<Vec<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let mut free: Vec<_> = self.0.lock().await.drain(..).map(Arc::new).collect();
        let mut running = JoinSet::new();
        let mut results = Vec::new();
        for job in jobs {
            if free.is_empty() {
                let (sandbox, result) = running.join_next().await.context("no worker is left")??;
                free.push(sandbox);
                results.push(result);
            }
            let Some(sandbox) = free.pop() else { bail!("no worker is left") };
            let future = work(job, sandbox.clone());
            running.spawn(async move { (sandbox, future.await) });
        }
        while let Some(ended) = running.join_next().await {
            let (sandbox, result) = ended?;
            free.push(sandbox);
            results.push(result);
        }
        *self.0.lock().await = free.into_iter().filter_map(Arc::into_inner).collect();
        Ok(results)
    }
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        name.contains(&self.only)
    }

    /// Clients that speak to a cloud without the proxy.
    async fn direct(&self, cloud: &LocalCloud) -> Cloud {
        Cloud::at(cloud.endpoint_url().to_string(), &self.environment, None).await
    }

    fn truth<'a>(&'a self, cloud: &'a Cloud, proxy_url: &'a str) -> Truth<'a> {
        Truth { cloud, environment: &self.environment, fixtures: &self.fixtures, proxy_url, event: &self.event }
    }
}

/// What became of one of many; said at once when it went wrong, because the whole takes minutes.
fn outcome(name: String, result: Result<()>) -> Option<String> {
    let failure = format!("{name}: {:#}", result.err()?);
    note(&format!("FAILED {failure}"));
    Some(failure)
}

/// Sums up.
fn tally(outcomes: Vec<Option<String>>) -> Tally {
    Tally { tried: outcomes.len(), failures: outcomes.into_iter().flatten().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_take_turns_where_not_all_are_tried() {
        let faults = vec!["a", "b", "lasting"];
        let chosen = |extent: Extent, sampled| -> Vec<_> {
            (0..6).map(|index| extent.sample(index, faults.clone(), sampled).concat()).collect()
        };
        assert_eq!(chosen(WHOLE, false)[0], "ablasting");
        assert_eq!(chosen(WHOLE, true)[..3], ["alasting", "blasting", "alasting"]);
        assert_eq!(chosen(QUICK, true), ["a", "", "b", "", "lasting", ""]);
    }
}
