//! Health of a version between the steps of its rollout: what CloudWatch counted, and the smoke tests.

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Duration, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::account::CLOUDWATCH;
use crate::cloud::Cloud;
use crate::config::Environment;
use crate::strategy::Rollout;

/// What was counted of a version's invocations through the alias.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    pub invocations: f64,
    pub errors: f64,
    /// None where nothing was invoked.
    pub mean_duration_ms: Option<f64>,
}

impl Observed {
    /// For people.
    pub fn in_words(&self) -> String {
        match self.mean_duration_ms {
            Some(mean) => format!("{} invocations, {} errors, {mean:.1} ms on average", self.invocations, self.errors),
            None => format!("{} invocations counted so far", self.invocations),
        }
    }
}

/// Why a version must not get more traffic, if so.
///
/// No traffic proves nothing and stops nothing: the smoke tests ask the version themselves.
pub fn verdict(observed: &Observed, limits: &Rollout) -> Option<String> {
    let Observed { invocations, errors, mean_duration_ms } = *observed;
    // Errors may be counted before the invocations that they belong to.
    let rate = if errors > 0.0 { errors / invocations.max(errors) } else { 0.0 };
    if rate > limits.max_error_rate {
        return Some(format!(
            "{errors} of {} invocations failed, more than max_error_rate = {} allows",
            invocations.max(errors),
            limits.max_error_rate
        ));
    }
    match (mean_duration_ms, limits.max_duration_ms) {
        (Some(mean), Some(limit)) if mean > limit => {
            Some(format!("invocations take {mean:.1} ms on average, more than max_duration_ms = {limit} allows"))
        }
        _ => None,
    }
}

/// Asks CloudWatch for what a version did through the alias since a point in time.
///
/// # Errors
/// It cannot be asked or understood: what is not known is not healthy.
pub async fn observe(
    cloud: &Cloud,
    environment: &Environment,
    version: &str,
    since: DateTime<Utc>,
) -> Result<Observed> {
    let (invocations, _) = metric(cloud, environment, version, since, "Invocations").await?;
    let (errors, _) = metric(cloud, environment, version, since, "Errors").await?;
    let (milliseconds, count) = metric(cloud, environment, version, since, "Duration").await?;
    let mean_duration_ms = (count > 0.0).then(|| milliseconds / count);
    Ok(Observed { invocations, errors, mean_duration_ms })
}

/// Sum and number of a metric's values.
async fn metric(
    cloud: &Cloud,
    environment: &Environment,
    version: &str,
    since: DateTime<Utc>,
    name: &str,
) -> Result<(f64, f64)> {
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let (start, end) = (time(since), time(Utc::now() + Duration::minutes(1)));
    let resource = format!("{}:{}", environment.function, environment.alias);
    let parameters = [
        ("Namespace", "AWS/Lambda"),
        ("MetricName", name),
        ("Dimensions.member.1.Name", "FunctionName"),
        ("Dimensions.member.1.Value", &environment.function),
        ("Dimensions.member.2.Name", "Resource"),
        ("Dimensions.member.2.Value", &resource),
        ("Dimensions.member.3.Name", "ExecutedVersion"),
        ("Dimensions.member.3.Value", version),
        ("StartTime", &start),
        ("EndTime", &end),
        ("Period", "60"),
        ("Statistics.member.1", "Sum"),
        ("Statistics.member.2", "SampleCount"),
    ];
    let answer = cloud.query(&CLOUDWATCH, "GetMetricStatistics", &parameters).await;
    let answer = answer.with_context(|| format!("ask for the {name} of version {version}"))?;
    totals(&answer).with_context(|| format!("understand the {name} of version {version}"))
}

/// Sum and number of values in an answer.
fn totals(xml: &str) -> Result<(f64, f64)> {
    let document = roxmltree::Document::parse(xml).context("read CloudWatch's answer")?;
    let named = |name: &'static str| document.descendants().filter(move |node| node.tag_name().name() == name);
    if named("Datapoints").count() != 1 {
        bail!("CloudWatch's answer has no list of datapoints");
    }
    let total = |name: &'static str| -> Result<f64> {
        let mut total = 0.0;
        for node in named(name) {
            let text = node.text().unwrap_or_default();
            let value: f64 = text.parse().with_context(|| format!("`{text}` is no number"))?;
            if !value.is_finite() || value < 0.0 {
                bail!("`{text}` is no count");
            }
            total += value;
        }
        Ok(total)
    };
    Ok((total("Sum")?, total("SampleCount")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Rollout {
        Rollout { max_error_rate: 0.1, max_duration_ms: Some(100.0), ..Rollout::default() }
    }

    #[test]
    fn limits_are_inclusive_and_no_traffic_stops_nothing() {
        let observed = |invocations, errors, mean_duration_ms| Observed { invocations, errors, mean_duration_ms };
        assert_eq!(verdict(&observed(0.0, 0.0, None), &limits()), None);
        assert_eq!(verdict(&observed(10.0, 1.0, Some(100.0)), &limits()), None);
        assert!(verdict(&observed(10.0, 2.0, Some(1.0)), &limits()).unwrap().contains("2 of 10 invocations failed"));
        assert!(verdict(&observed(10.0, 0.0, Some(100.1)), &limits()).unwrap().contains("100.1 ms"));
        assert!(verdict(&observed(0.0, 1.0, None), &limits()).is_some(), "errors that came before their invocations");
        let unlimited = Rollout { max_duration_ms: None, ..limits() };
        assert_eq!(verdict(&observed(1.0, 0.0, Some(1e9)), &unlimited), None);
        let none = Rollout { max_error_rate: 0.0, ..limits() };
        assert!(verdict(&observed(1e6, 1.0, None), &none).is_some());
    }

    #[test]
    fn what_cannot_be_understood_is_an_error_and_never_zero() {
        let answer = |points: &str| format!("<R><Datapoints>{points}</Datapoints><Label>Errors</Label></R>");
        let two = "<member><Sum>1.5</Sum><SampleCount>2.0</SampleCount></member>";
        assert_eq!(totals(&answer(&two.repeat(2))).unwrap(), (3.0, 4.0));
        assert_eq!(totals(&answer("")).unwrap(), (0.0, 0.0));
        for wrong in [
            "",
            "<R/>",
            "{}",
            &answer("<member><Sum>NaN</Sum></member>"),
            &answer("<member><Sum>-1</Sum></member>"),
            &answer("<member><Sum>many</Sum></member>"),
            &answer(two)[..60],
        ] {
            assert!(totals(wrong).is_err(), "{wrong}");
        }
    }
}
