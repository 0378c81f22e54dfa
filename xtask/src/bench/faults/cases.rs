//! A fault at every call of every command.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::fixtures::serve;
use super::proxy::{Fault, Place, Plan, Proxy, Seen};
use super::sandbox::Sandbox;
use super::scenarios::{SCENARIOS, Scenario};
use super::{Bench, Extent, Tally, Workers, outcome, tally, verify};
use crate::patience;
use crate::terminal::note;

/// One fault at one call.
#[derive(Debug, Clone)]
struct Case {
    scenario: Scenario,
    place: Place,
    fault: Fault,
    times: usize,
    expected: Arc<Option<Value>>,
}

/// How often a case is begun anew because its call was not made: what waits for an update asks as often as that takes.
const MEETINGS: usize = 4;

impl Case {
    fn name(&self) -> String {
        let Place { call, occurrence } = &self.place;
        let times = if self.times == 1 { String::new() } else { format!(", {} times", self.times) };
        format!("{}: {call} #{occurrence}: {}{times}", self.scenario.name, self.fault.name())
    }
}

impl Case {
    /// Whether the next attempt of the same call works.
    fn passes(&self) -> bool {
        let once = [Fault::Throttled, Fault::Failed, Fault::Reset, Fault::Slow, Fault::Truncated, Fault::Lost];
        self.times == 1 && once.contains(&self.fault)
    }
}

/// As often as a call is tried, so that one operation fails for good and the next one works.
const FOR_GOOD: usize = patience::ATTEMPTS as usize;

/// Runs all cases.
pub async fn run(bench: &Arc<Bench>, workers: &Workers, extent: Extent) -> Result<Tally> {
    let mut cases = Vec::new();
    for scenario in SCENARIOS {
        let name = scenario.name;
        let (calls, expected) =
            record(bench, workers, scenario).await.with_context(|| format!("{name} without a fault"))?;
        let before = cases.len();
        let expected = Arc::new(expected);
        for (index, call) in calls.iter().enumerate() {
            for (fault, times) in extent.sample(index, faults_of(call, index), scenario.sampled) {
                let place = Place { call: call.call.name.clone(), occurrence: call.occurrence };
                let case = Case { scenario, place, fault, times, expected: expected.clone() };
                if bench.wants(&case.name()) {
                    cases.push(case);
                }
            }
        }
        note(&format!("{name}: {} calls, {} cases", calls.len(), cases.len() - before));
    }
    let bench = bench.clone();
    let results = workers.each(cases, |case, sandbox| {
        let bench = bench.clone();
        async move { outcome(case.name(), try_case(&bench, &case, &sandbox).await) }
    });
    Ok(tally(results.await?))
}

/// The calls of a command without a fault, and what it recorded.
pub(super) async fn record(
    bench: &Arc<Bench>,
    workers: &Workers,
    scenario: Scenario,
) -> Result<(Vec<Seen>, Option<Value>)> {
    let bench = bench.clone();
    let mut results = workers
        .each(vec![()], |(), sandbox| {
            let bench = bench.clone();
            async move {
                let new = &bench.fixtures.new;
                sandbox.restore(&bench.fixtures.runs(new, scenario.progress), &bench.fixtures.cloud(scenario.cloud))?;
                let cloud = serve(&sandbox.cloud).await?;
                let proxy = Proxy::start(cloud.endpoint_url(), Plan::Pass).await?;
                sandbox.must(scenario.command, &proxy.url()).await?;
                let seen = proxy.seen();
                let expected = scenario.expected(&sandbox, new)?;
                let direct = bench.direct(&cloud).await;
                scenario.check(&bench.truth(&direct, &proxy.url()), &sandbox, true, None).await?;
                cloud.shutdown().await;
                anyhow::Ok((seen, expected))
            }
        })
        .await?;
    results.pop().context("nothing was recorded")?
}

/// The faults that make sense for a call, and how often each is repeated.
fn faults_of(seen: &Seen, index: usize) -> Vec<(Fault, usize)> {
    let mut faults =
        vec![(Fault::Throttled, 1), (Fault::Failed, 1), (Fault::Reset, 1), (Fault::Slow, 1), (Fault::Lost, 1)];
    if seen.answer > 1 {
        faults.push((Fault::Truncated, 1));
    }
    if seen.call.conflicts() {
        faults.extend([(Fault::Conflict, 2), (Fault::Conflict, 4 * FOR_GOOD)]);
    }
    if seen.call.conditional {
        faults.push((Fault::Precondition, 1));
    }
    if seen.paged {
        faults.push((Fault::MissingPage, 1));
    }
    if seen.call.name == "ecr DescribeImageScanFindings" && seen.occurrence > 1 {
        faults.push((Fault::RepeatedPage, 1));
    }
    // Until every attempt is used up; all kinds would fail alike, so they take turns.
    let lasting = [Fault::Throttled, Fault::Failed, Fault::Reset, Fault::Lost];
    faults.push((lasting[index % lasting.len()], FOR_GOOD));
    faults
}

async fn try_case(bench: &Bench, case: &Case, sandbox: &Sandbox) -> Result<()> {
    for _ in 0..MEETINGS {
        if inject(bench, case, sandbox).await? {
            return Ok(());
        }
    }
    bail!("the call was not made")
}

/// Whether the command made the call, with everything that had to hold then.
async fn inject(bench: &Bench, case: &Case, sandbox: &Sandbox) -> Result<bool> {
    let scenario = case.scenario;
    let runs = bench.fixtures.runs(&bench.fixtures.new, scenario.progress);
    sandbox.restore(&runs, &bench.fixtures.cloud(scenario.cloud))?;
    let cloud = serve(&sandbox.cloud).await?;
    let plan = Plan::Inject { place: case.place.clone(), fault: case.fault, times: case.times };
    let proxy = Proxy::start(cloud.endpoint_url(), plan).await?;
    let ended = sandbox.run(scenario.command, &proxy.url()).await?;
    if proxy.pass() == 0 {
        ensure!(ended.code == Some(0), "it ended with {:?} without a fault: {}", ended.code, ended.errors.trim());
        cloud.shutdown().await;
        return Ok(false);
    }
    let direct = bench.direct(&cloud).await;
    let url = proxy.url();
    let truth = bench.truth(&direct, &url);
    let context = || format!("it ended with {:?}: {}", ended.code, ended.errors.trim());
    match ended.code {
        Some(0) => {}
        Some(1) if case.passes() => {
            bail!("a single fault that passes is no reason to give up: {}", ended.errors.trim())
        }
        Some(1) => verify::is_named_error(&ended.errors)?,
        _ => bail!("{}", context()),
    }
    let expected = case.expected.as_ref().as_ref();
    let done = ended.code == Some(0);
    scenario.check(&truth, sandbox, done, expected).await.with_context(context)?;
    scenario.repeat(&truth, sandbox).await.context("the same command without the fault")?;
    scenario.check(&truth, sandbox, true, expected).await.context("after the same command without the fault")?;
    cloud.shutdown().await;
    Ok(true)
}
