//! A kill at every boundary of a deployment: before a call reaches the cloud, and after it did and before the answer came.

use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::fixtures::serve;
use super::proxy::{Place, Plan, Proxy, Seen};
use super::sandbox::{Sandbox, ended};
use super::scenarios::Scenario;
use super::{Bench, Extent, Tally, Workers, outcome, tally};

/// Where the command is killed.
#[derive(Debug, Clone)]
struct Boundary {
    place: Place,
    answered: bool,
}

impl Boundary {
    fn name(&self) -> String {
        let side = if self.answered { "after" } else { "before" };
        format!("kill {side} {} #{}", self.place.call, self.place.occurrence)
    }
}

/// Kills at all boundaries, or at as many as are asked for, spread evenly.
pub async fn run(bench: &Arc<Bench>, workers: &Workers, extent: Extent) -> Result<Tally> {
    let calls = super::cases::record(bench, workers, Scenario::deploy()).await?.0;
    let boundaries = spread(boundaries(&calls), extent.kills).into_iter();
    let boundaries = boundaries.filter(|boundary| bench.wants(&boundary.name())).collect();
    let bench = bench.clone();
    let results = workers.each(boundaries, |boundary, sandbox| {
        let bench = bench.clone();
        async move { outcome(boundary.name(), try_kill(&bench, boundary, &sandbox).await) }
    });
    Ok(tally(results.await?))
}

fn boundaries(calls: &[Seen]) -> Vec<Boundary> {
    let of = |seen: &Seen| Place { call: seen.call.name.clone(), occurrence: seen.occurrence };
    calls.iter().flat_map(|seen| [false, true].map(|answered| Boundary { place: of(seen), answered })).collect()
}

/// `count` of them at even distances.
fn spread<T>(all: Vec<T>, count: usize) -> Vec<T> {
    let length = all.len();
    if count >= length {
        return all;
    }
    let chosen = |index: usize| (index * count) / length != ((index + 1) * count) / length;
    all.into_iter().enumerate().filter(|(index, _)| chosen(*index)).map(|(_, item)| item).collect()
}

async fn try_kill(bench: &Bench, boundary: Boundary, sandbox: &Sandbox) -> Result<()> {
    let scenario = Scenario::deploy();
    let runs = bench.fixtures.runs(&bench.fixtures.new, scenario.progress);
    sandbox.restore(&runs, &bench.fixtures.cloud(scenario.cloud))?;
    let cloud = serve(&sandbox.cloud).await?;
    let plan = Plan::Stop { place: boundary.place, answered: boundary.answered };
    let proxy = Proxy::start(cloud.endpoint_url(), plan).await?;
    let mut child = sandbox.start(scenario.command, &proxy.url())?;
    tokio::select! {
        () = proxy.stopped() => {}
        status = child.wait() => bail!("it ended with {} before the boundary", status.context("wait for the command")?),
    }
    child.kill().await.context("kill the command")?;
    ended(child).await?;
    proxy.pass();
    sandbox.must(scenario.command, &proxy.url()).await.context("the same command after the kill")?;
    let direct = bench.direct(&cloud).await;
    scenario.check(&bench.truth(&direct, &proxy.url()), sandbox, true, None).await.context("after the same command")?;
    cloud.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_of_many_are_spread_from_end_to_end() {
        assert_eq!(spread((0..10).collect(), 5), [1, 3, 5, 7, 9]);
        assert_eq!(spread((0..3).collect(), 20), [0, 1, 2]);
        assert_eq!(spread((0..100).collect::<Vec<_>>(), 20).len(), 20);
    }
}
