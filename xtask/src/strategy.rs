//! How traffic moves to a new version: in which steps, how long each is watched, and what the new version may cost.

use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// `[environments.NAME.rollout]` of pipeline.toml: a preset's name, or steps of one's own. All at once unless either is given.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rollout {
    /// A preset of CodeDeploy, with or without the prefix `CodeDeployDefault.Lambda`, such as `Canary10Percent5Minutes`.
    pub strategy: Option<String>,
    /// Percent of the traffic that the new version gets, step by step, before it gets all of it.
    pub steps: Vec<u32>,
    /// How long each step is watched.
    pub pause_seconds: Option<u64>,
    /// The greatest share of failed invocations of the new version.
    pub max_error_rate: f64,
    /// The greatest mean duration of the new version's invocations; not judged unless given.
    pub max_duration_ms: Option<f64>,
}

impl Default for Rollout {
    fn default() -> Rollout {
        Rollout { strategy: None, steps: Vec::new(), pause_seconds: None, max_error_rate: 0.01, max_duration_ms: None }
    }
}

/// Steps before all traffic moves, and the pause after each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Percent of the traffic, each more than the one before and less than 100.
    pub steps: Vec<u32>,
    pub pause: Duration,
}

impl Plan {
    /// For people.
    pub fn in_words(&self) -> String {
        if self.steps.is_empty() {
            return "all traffic at once".to_string();
        }
        let steps: Vec<_> = self.steps.iter().map(|percent| format!("{percent} %")).collect();
        format!("{}, each watched for {} s, then all traffic", steps.join(", "), self.pause.as_secs())
    }
}

impl Rollout {
    /// The steps that the settings mean.
    ///
    /// # Errors
    /// Settings that contradict each other, an unknown preset, a share or limit that is none.
    pub fn plan(&self) -> Result<Plan> {
        if !(0.0..=1.0).contains(&self.max_error_rate) {
            bail!("max_error_rate is {}, expected a share from 0 to 1", self.max_error_rate);
        }
        if let Some(limit) = self.max_duration_ms.filter(|limit| !limit.is_finite() || *limit <= 0.0) {
            bail!("max_duration_ms is {limit}, expected a number above 0");
        }
        match (&self.strategy, self.steps.is_empty(), self.pause_seconds) {
            (Some(name), true, None) => preset(name),
            (Some(_), ..) => bail!("`strategy` says all: leave `steps` and `pause_seconds` out, or `strategy`"),
            (None, true, None) => Ok(Plan { steps: Vec::new(), pause: Duration::ZERO }),
            (None, false, Some(seconds)) => {
                let rising = self.steps.windows(2).all(|pair| pair[0] < pair[1]);
                if !rising || self.steps.iter().any(|percent| !(1..100).contains(percent)) {
                    bail!("steps are {:?}, expected rising percentages from 1 to 99", self.steps);
                }
                Ok(Plan { steps: self.steps.clone(), pause: Duration::from_secs(seconds) })
            }
            (None, ..) => bail!("`steps` and `pause_seconds` are only understood together"),
        }
    }
}

/// The preset of that name.
fn preset(name: &str) -> Result<Plan> {
    let short = name.strip_prefix("CodeDeployDefault.Lambda").unwrap_or(name);
    match parse(short) {
        Some(plan) => Ok(plan),
        None => bail!(
            "`{name}` is no preset: expected AllAtOnce, or a name like Canary10Percent5Minutes or \
             Linear10PercentEvery1Minute, with or without the prefix CodeDeployDefault.Lambda"
        ),
    }
}

fn parse(name: &str) -> Option<Plan> {
    if name == "AllAtOnce" {
        return Some(Plan { steps: Vec::new(), pause: Duration::ZERO });
    }
    let canary = name.strip_prefix("Canary").and_then(|rest| rest.split_once("Percent"));
    let linear = name.strip_prefix("Linear").and_then(|rest| rest.split_once("PercentEvery"));
    let (percent, minutes) = canary.or(linear)?;
    let percent: u32 = percent.parse().ok().filter(|percent| (1..100).contains(percent))?;
    let minutes = minutes.strip_suffix("Minutes").or(minutes.strip_suffix("Minute"))?;
    let minutes: u32 = minutes.parse().ok().filter(|minutes| (1..=24 * 60).contains(minutes))?;
    let steps = match canary {
        Some(_) => vec![percent],
        None => (1..).map(|step| step * percent).take_while(|percent| *percent < 100).collect(),
    };
    Some(Plan { steps, pause: Duration::from_secs(u64::from(minutes) * 60) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Result<Plan> {
        Rollout { strategy: Some(name.to_string()), ..Rollout::default() }.plan()
    }

    #[test]
    fn presets_are_understood_with_and_without_their_prefix() {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let linear: Vec<u32> = vec![10, 20, 30, 40, 50, 60, 70, 80, 90];
        for (name, steps, pause) in [
            ("AllAtOnce", vec![], Duration::ZERO),
            ("Canary10Percent5Minutes", vec![10], minutes(5)),
            ("Canary10Percent10Minutes", vec![10], minutes(10)),
            ("Canary10Percent15Minutes", vec![10], minutes(15)),
            ("Canary10Percent30Minutes", vec![10], minutes(30)),
            ("Linear10PercentEvery1Minute", linear.clone(), minutes(1)),
            ("Linear10PercentEvery2Minutes", linear.clone(), minutes(2)),
            ("Linear10PercentEvery3Minutes", linear.clone(), minutes(3)),
            ("Linear10PercentEvery10Minutes", linear, minutes(10)),
        ] {
            let expected = Plan { steps, pause };
            assert_eq!(named(name).unwrap(), expected, "{name}");
            assert_eq!(named(&format!("CodeDeployDefault.Lambda{name}")).unwrap(), expected, "{name}");
        }
        for wrong in [
            "",
            "Canary",
            "Canary0Percent5Minutes",
            "Canary100Percent5Minutes",
            "Canary10Percent0Minutes",
            "Linear10Percent1Minutes",
            "CodeDeployDefault.ECSAllAtOnce",
            "canary10percent5minutes",
        ] {
            assert!(named(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn own_steps_rise_and_settings_do_not_contradict() {
        let own = |steps: &[u32], pause| Rollout { steps: steps.to_vec(), pause_seconds: pause, ..Rollout::default() };
        let plan = own(&[10, 50], Some(60)).plan().unwrap();
        assert_eq!(plan, Plan { steps: vec![10, 50], pause: Duration::from_secs(60) });
        assert_eq!(plan.in_words(), "10 %, 50 %, each watched for 60 s, then all traffic");
        assert!(own(&[], None).plan().unwrap().steps.is_empty());
        for wrong in
            [own(&[50, 10], Some(1)), own(&[0], Some(1)), own(&[100], Some(1)), own(&[10], None), own(&[], Some(1))]
        {
            assert!(wrong.plan().is_err(), "{wrong:?}");
        }
        assert!(Rollout { strategy: Some("AllAtOnce".into()), ..own(&[10], Some(1)) }.plan().is_err());
        assert!(Rollout { max_error_rate: f64::NAN, ..Rollout::default() }.plan().is_err());
        assert!(Rollout { max_duration_ms: Some(0.0), ..Rollout::default() }.plan().is_err());
    }
}
