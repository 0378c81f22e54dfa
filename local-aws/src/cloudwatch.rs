//! CloudWatch: what Lambda counts about its invocations, and the one operation that reads it.
//!
//! Counts are kept by the minute, as AWS keeps them for the first fifteen days, and written to disk when a few seconds
//! have passed: a killed cloud forgets those.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{
    disk::{self, lock},
    query_api::{self, Call},
    server::Cloud,
    wire::{ApiError, Response, escape_xml},
};

const NAMESPACE: &str = "http://monitoring.amazonaws.com/doc/2010-08-01/";
/// How long a minute's counts are kept.
const KEPT_MINUTES: i64 = 15 * 24 * 60;
/// How often changed counts are written.
const FLUSH: Duration = Duration::from_secs(5);
/// The most datapoints that one call gives.
const MOST_DATAPOINTS: i64 = 1440;

/// Who ran: the function, what was called (`function` or `function:qualifier`), the version that answered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Series {
    /// The function's name.
    pub function: String,
    /// As the dimension `Resource` has it.
    pub resource: String,
    /// The version's number or `$LATEST`.
    pub executed_version: String,
}

/// What became of a call.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// It ran, for this long, and failed or not.
    Ran {
        /// Whether the function failed.
        error: bool,
        /// Without the start of the process.
        duration: Duration,
    },
    /// It was turned away.
    Throttled,
}

/// Values of one metric in one span of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Statistic {
    count: f64,
    sum: f64,
    minimum: f64,
    maximum: f64,
}

impl Default for Statistic {
    fn default() -> Self {
        Self { count: 0.0, sum: 0.0, minimum: f64::INFINITY, maximum: f64::NEG_INFINITY }
    }
}

impl Statistic {
    fn add(&mut self, value: f64) {
        self.merge(&Self { count: 1.0, sum: value, minimum: value, maximum: value });
    }

    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.minimum = self.minimum.min(other.minimum);
        self.maximum = self.maximum.max(other.maximum);
    }
}

/// The metrics, and the unit of each.
const METRICS: [(&str, &str); 4] =
    [("Invocations", "Count"), ("Errors", "Count"), ("Throttles", "Count"), ("Duration", "Milliseconds")];

/// One minute of one series, by the place in [`METRICS`]; none where nothing was counted.
type Minute = [Option<Statistic>; METRICS.len()];

type Counts = BTreeMap<Series, BTreeMap<i64, Minute>>;

/// All counts.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    changed: bool,
}

/// As it lies on disk.
#[derive(Serialize, Deserialize)]
struct Row {
    #[serde(flatten)]
    series: Series,
    minutes: BTreeMap<i64, Minute>,
}

impl Metrics {
    /// Reads the counts.
    ///
    /// # Errors
    /// When the state file is damaged.
    pub fn load(root: &Path) -> anyhow::Result<Self> {
        let path = root.join("cloudwatch.json");
        let rows: Vec<Row> = disk::read_json(&path)?.unwrap_or_default();
        let counts = rows.into_iter().map(|row| (row.series, row.minutes)).collect();
        Ok(Self { path, state: Mutex::new(State { counts, changed: false }) })
    }

    /// Counts a call that ended now.
    pub fn record(&self, series: Series, event: Event) {
        let now = Utc::now().timestamp() / 60;
        let mut state = lock(&self.state);
        state.changed = true;
        let minutes = state.counts.entry(series).or_default();
        while minutes.first_key_value().is_some_and(|(minute, _)| *minute < now - KEPT_MINUTES) {
            minutes.pop_first();
        }
        let minute = minutes.entry(now).or_default();
        let [invocations, errors, throttles, durations] = minute;
        match event {
            Event::Ran { error, duration } => {
                invocations.get_or_insert_default().add(1.0);
                errors.get_or_insert_default().add(f64::from(u8::from(error)));
                throttles.get_or_insert_default().add(0.0);
                durations.get_or_insert_default().add(duration.as_secs_f64() * 1000.0);
            }
            Event::Throttled => throttles.get_or_insert_default().add(1.0),
        }
    }

    /// Writes what changed. A disk that refuses costs counts, not the cloud.
    pub fn flush(&self) {
        let mut state = lock(&self.state);
        if !state.changed {
            return;
        }
        let rows: Vec<Row> = state
            .counts
            .iter()
            .map(|(series, minutes)| Row { series: series.clone(), minutes: minutes.clone() })
            .collect();
        match disk::write_json(&self.path, &rows) {
            Ok(()) => state.changed = false,
            Err(error) => eprintln!("local-aws: {error:#}"),
        }
    }

    /// The values of a metric from `start` to `end` in spans of `period` seconds, over all series that `wanted` takes.
    fn statistics(&self, metric: usize, query: &Query, wanted: impl Fn(&Series) -> bool) -> BTreeMap<i64, Statistic> {
        let mut spans: BTreeMap<i64, Statistic> = BTreeMap::new();
        let state = lock(&self.state);
        let minutes = state.counts.iter().filter(|(series, _)| wanted(series)).flat_map(|(_, minutes)| {
            minutes.range(query.start.div_euclid(60)..).take_while(|(minute, _)| *minute * 60 < query.end)
        });
        for (minute, values) in minutes {
            if let Some(value) = &values[metric] {
                let span = query.start + (minute * 60 - query.start).div_euclid(query.period) * query.period;
                spans.entry(span).or_default().merge(value);
            }
        }
        spans
    }
}

/// Writes changed counts from time to time.
pub fn flush_regularly(cloud: &Arc<Cloud>) {
    let cloud = Arc::downgrade(cloud);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(FLUSH).await;
            let Some(cloud) = cloud.upgrade() else { return };
            cloud.metrics.flush();
        }
    });
}

/// Answers one operation.
///
/// # Errors
/// The exception that AWS answers.
pub fn call(cloud: &Cloud, call: &Call) -> Result<Response, ApiError> {
    match call.action() {
        "GetMetricStatistics" => {
            let inner = get_metric_statistics(&cloud.metrics, call)?;
            Ok(query_api::xml_reply(StatusCode::OK, NAMESPACE, "GetMetricStatistics", &inner))
        }
        other => Err(ApiError::not_implemented(format!("monitoring: {other}"))),
    }
}

fn invalid(code: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, code, message)
}

fn required<'a>(call: &'a Call, name: &str) -> Result<&'a str, ApiError> {
    call.get(name)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| invalid("MissingParameter", format!("The parameter {name} is required.")))
}

/// Seconds since 1970, rounded down to the minute.
fn minute_of(call: &Call, name: &str) -> Result<i64, ApiError> {
    let text = required(call, name)?;
    let time = DateTime::parse_from_rfc3339(text)
        .map_err(|_| invalid("InvalidParameterValue", format!("The parameter {name} must be a timestamp.")))?;
    Ok(time.timestamp().div_euclid(60) * 60)
}

/// The span that is asked for, in seconds.
struct Query {
    start: i64,
    end: i64,
    period: i64,
}

impl Query {
    fn read(call: &Call) -> Result<Self, ApiError> {
        let period = required(call, "Period")?.parse::<i64>().ok().filter(|period| *period > 0 && period % 60 == 0);
        let period =
            period.ok_or_else(|| invalid("InvalidParameterValue", "The parameter Period must be a multiple of 60."))?;
        let query = Self { start: minute_of(call, "StartTime")?, end: minute_of(call, "EndTime")?, period };
        if query.start >= query.end {
            let message = "The parameter StartTime must be less than the parameter EndTime.";
            return Err(invalid("InvalidParameterValue", message));
        }
        let datapoints = (query.end - query.start).div_euclid(period);
        if datapoints > MOST_DATAPOINTS {
            let message = format!(
                "You have requested up to {datapoints} datapoints, which exceeds the limit of {MOST_DATAPOINTS}. You may reduce the \
                 datapoints requested by increasing Period, or decreasing the time range."
            );
            return Err(invalid("InvalidParameterCombination", message));
        }
        Ok(query)
    }
}

/// `GetMetricStatistics` of Lambda's own metrics.
fn get_metric_statistics(metrics: &Metrics, call: &Call) -> Result<String, ApiError> {
    let refused = |what: String| ApiError::not_implemented(format!("monitoring: GetMetricStatistics of {what}"));
    let namespace = required(call, "Namespace")?;
    if namespace != "AWS/Lambda" {
        return Err(refused(format!("namespace {namespace}")));
    }
    let name = required(call, "MetricName")?;
    let metric = METRICS.iter().position(|(known, _)| *known == name);
    let metric = metric.ok_or_else(|| refused(format!("metric {name}")))?;
    let query = Query::read(call)?;
    if !call.list("ExtendedStatistics").is_empty() {
        return Err(refused("percentiles".to_owned()));
    }
    let statistics = call.list("Statistics");
    if statistics.is_empty() {
        let message = "At least one of the parameters Statistics and ExtendedStatistics must be specified.";
        return Err(invalid("InvalidParameterCombination", message));
    }
    for statistic in &statistics {
        if value_of(&Statistic::default(), statistic).is_none() {
            return Err(invalid("InvalidParameterValue", format!("The parameter Statistics has no {statistic}.")));
        }
    }
    let unit = METRICS[metric].1;
    let spans = if call.get("Unit").is_some_and(|asked| asked != unit) {
        BTreeMap::new()
    } else {
        let wanted = Dimensions::read(call).map_err(refused)?;
        metrics.statistics(metric, &query, |series| wanted.takes(series))
    };
    let datapoints: String = spans.iter().map(|(span, value)| datapoint(*span, value, &statistics, unit)).collect();
    Ok(format!("<Datapoints>{datapoints}</Datapoints><Label>{}</Label>", escape_xml(name)))
}

fn value_of(statistic: &Statistic, name: &str) -> Option<f64> {
    match name {
        "SampleCount" => Some(statistic.count),
        "Sum" => Some(statistic.sum),
        "Average" => Some(statistic.sum / statistic.count),
        "Minimum" => Some(statistic.minimum),
        "Maximum" => Some(statistic.maximum),
        _ => None,
    }
}

fn datapoint(span: i64, value: &Statistic, statistics: &[&str], unit: &str) -> String {
    let time = DateTime::from_timestamp(span, 0).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true);
    let values: String = statistics
        .iter()
        .filter_map(|name| value_of(value, name).map(|value| format!("<{name}>{value:?}</{name}>")))
        .collect();
    format!("<member><Timestamp>{time}</Timestamp>{values}<Unit>{unit}</Unit></member>")
}

/// The dimensions that a call names.
#[derive(Debug, Default, PartialEq)]
struct Dimensions {
    function: Option<String>,
    resource: Option<String>,
    executed_version: Option<String>,
}

impl Dimensions {
    /// Reads them; a name that no metric here has is the error.
    fn read(call: &Call) -> Result<Self, String> {
        let mut dimensions = Self::default();
        for place in 1.. {
            let Some(name) = call.get(&format!("Dimensions.member.{place}.Name")) else { break };
            let value = call.get(&format!("Dimensions.member.{place}.Value")).unwrap_or_default().to_owned();
            match name {
                "FunctionName" => dimensions.function = Some(value),
                "Resource" => dimensions.resource = Some(value),
                "ExecutedVersion" => dimensions.executed_version = Some(value),
                other => return Err(format!("dimension {other}")),
            }
        }
        Ok(dimensions)
    }

    /// Whether a series counts. Metrics exist with the first none, one, two or all three dimensions; asked for with others
    /// of them, nothing is found, as in AWS.
    fn takes(&self, series: &Series) -> bool {
        let exists = matches!(
            (&self.function, &self.resource, &self.executed_version),
            (None, None, None) | (Some(_), _, None) | (Some(_), Some(_), Some(_))
        );
        let fits = |asked: &Option<String>, own: &str| asked.as_ref().is_none_or(|asked| asked == own);
        exists
            && fits(&self.function, &series.function)
            && fits(&self.resource, &series.resource)
            && fits(&self.executed_version, &series.executed_version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(resource: &str, version: &str) -> Series {
        Series { function: "f".to_owned(), resource: resource.to_owned(), executed_version: version.to_owned() }
    }

    #[test]
    fn counts_outlive_a_restart_and_are_found_by_their_dimensions() {
        let folder = tempfile::tempdir().expect("a folder");
        let metrics = Metrics::load(folder.path()).expect("empty counts");
        let ran = |error| Event::Ran { error, duration: Duration::from_millis(4) };
        metrics.record(series("f:live", "1"), ran(false));
        metrics.record(series("f:live", "2"), ran(true));
        metrics.record(series("f:2", "2"), ran(false));
        metrics.record(series("f:live", "2"), Event::Throttled);
        metrics.flush();
        let metrics = Metrics::load(folder.path()).expect("counts");
        let now = Utc::now().timestamp();
        let query = Query { start: now.div_euclid(60) * 60 - 120, end: now + 60, period: 300 };
        let sum = |metric, dimensions: &Dimensions| {
            let spans = metrics.statistics(metric, &query, |series| dimensions.takes(series));
            spans.values().map(|value| value.sum).sum::<f64>()
        };
        let asked = |function: &str, resource: Option<&str>, version: Option<&str>| Dimensions {
            function: Some(function.to_owned()),
            resource: resource.map(str::to_owned),
            executed_version: version.map(str::to_owned),
        };
        assert_eq!(sum(0, &asked("f", None, None)), 3.0);
        assert_eq!(sum(0, &asked("f", Some("f:live"), Some("2"))), 1.0);
        assert_eq!(sum(1, &asked("f", Some("f:live"), Some("2"))), 1.0);
        assert_eq!(sum(2, &asked("f", Some("f:live"), None)), 1.0);
        assert_eq!(sum(3, &asked("f", Some("f:2"), None)), 4.0);
        assert_eq!(sum(0, &asked("other", None, None)), 0.0);
        assert_eq!(sum(0, &asked("f", None, Some("2"))), 0.0, "no metric has only these dimensions");
    }
}
