//! Fairness: how often the interval of a gap covers the truth, and how far the figures are from Fairlearn's and scikit-learn's.
//!
//! Models whose gap is known are simulated (1,000 rows, a minority of 20 %), so that an interval of 95 % can be held to its word.
//! The figures of random tables, edges included, are computed by the Python package and by the judges.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use super::{Figure, Measured};
use crate::process::Program;
use crate::{config, tools};

/// Scripts of the model's tests, which print one line of JSON.
const COVERAGE: &str = "tests/fairness_coverage.py";
const TABLES: &str = "tests/fairness_tables.py";
/// What the fair case is called.
const FAIR: &str = "coverage";
/// What the coverage of fair models has to be.
const COVERED: std::ops::RangeInclusive<f64> = 0.93..=0.97;
/// How far a figure may be from the judges'.
const TOLERANCE: f64 = 1e-12;

/// Coverage of the intervals, and differences from the judges.
pub(super) fn measure(root: &Path) -> Result<Measured> {
    let directory = config::read(root)?.model.directory;
    let environment = tools::python_environment(root, &directory)?;
    let model = root.join(directory);
    let folder = tempfile::tempdir().context("make a folder for what is measured")?;
    let run = |script: &str| -> Result<Map<String, Value>> {
        let log = folder.path().join(format!("{}.log", script.replace('/', "-")));
        Program::new(&format!("run {script}"), &environment.python, &model)
            .arg(script)
            .env("PYTHONPYCACHEPREFIX", &environment.bytecode)
            .limit(Duration::from_secs(60 * 60))
            .run(&log)?;
        super::score::last_line(&log)
    };
    let (tables, coverage) = thread::scope(|scope| {
        let coverage = scope.spawn(|| run(COVERAGE));
        (run(TABLES), coverage.join())
    });
    let coverage = coverage.map_err(|_| anyhow::anyhow!("the thread that ran {COVERAGE} panicked"))?;
    judge(tables?, coverage?)
}

fn judge(tables: Map<String, Value>, coverage: Map<String, Value>) -> Result<Measured> {
    let mut figures = Vec::new();
    for (name, value) in coverage.iter().chain(&tables) {
        let value = value.as_f64().with_context(|| format!("{name} is {value}, not a number"))?;
        let unit = if coverage.contains_key(name) { "share" } else { "" };
        figures.push(Figure::new(name.clone(), value, unit));
    }
    let found = |name: &str| figures.iter().find(|figure| figure.name == name).map_or(f64::NAN, |figure| figure.value);
    let mut failures = Vec::new();
    let covered = found(FAIR);
    if !COVERED.contains(&covered) {
        failures.push(format!("the interval of a fair model's gap covers the truth in a share of {covered}"));
    }
    let difference = found("largest_difference");
    if difference.is_nan() || difference > TOLERANCE {
        failures.push(format!("a figure is {difference:e} from the judges'"));
    }
    Ok(Measured { figures, failures })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(coverage: Value, tables: Value) -> Measured {
        judge(tables.as_object().unwrap().clone(), coverage.as_object().unwrap().clone()).unwrap()
    }

    #[test]
    fn intervals_that_promise_too_much_and_figures_that_differ_fail() {
        let tables = json!({"tables_compared": 10, "largest_difference": 1e-16});
        let good = judged(json!({"coverage": 0.95}), tables.clone());
        assert_eq!((good.figures.len(), good.failures.len()), (3, 0));
        for coverage in [json!({"coverage": 0.9}), json!({"coverage": 0.99}), json!({})] {
            assert_eq!(judged(coverage.clone(), tables.clone()).failures.len(), 1, "{coverage}");
        }
        for tables in [json!({"largest_difference": 1e-9}), json!({})] {
            assert_eq!(judged(json!({"coverage": 0.95}), tables.clone()).failures.len(), 1, "{tables}");
        }
    }
}
