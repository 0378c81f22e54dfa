//! Scoring: one row and a row of a batch, the predictor beside the libraries that trained the models and beside programs that
//! compile or convert such models.
//!
//! tests/bench/score trains the models (300 trees of XGBoost and of LightGBM, 100 of a random forest, 30 features) and
//! measures the peers; all sides run in this one run, with one thread, held on one processor where `taskset` is there. Peers are
//! called from Python, which costs them a microsecond or a few for a single row and nothing to speak of in a batch. The libraries'
//! own answers are compared with the predictor's, bit for bit.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Figure;
use crate::process::Program;
use crate::terminal::{note, warning};
use crate::{paths, tools};

/// The uv project with the peers.
const PROJECT: &str = "tests/bench/score";
/// The processor that everything is held on: the first one serves the rest of the system.
const PROCESSOR: &str = "1";
/// What is measured: the key in the measurements, its name, nanoseconds in its unit, the unit.
const KINDS: [(&str, &str, f64, &str); 2] =
    [("one_row", "one row", 1000.0, "µs"), ("batch", "row of a batch", 1.0, "ns")];

/// Times of a row, and answers that differ from the library's.
pub(super) fn measure(root: &Path) -> Result<Vec<Figure>> {
    let environment = tools::python_environment(root, Path::new(PROJECT))?;
    let folder = tempfile::tempdir().context("make a folder for what is measured")?;
    let folder = folder.path();
    let peers = |task: &str| {
        let arguments = [root.join(PROJECT).join("peers.py"), PathBuf::from(task), folder.to_path_buf()];
        let program = held(&format!("{task} the peers"), &environment.python, folder).args(arguments);
        program.env("PYTHONPATH", root.join("model")).env("PYTHONDONTWRITEBYTECODE", "1")
    };
    let log = |name: &str| folder.join(format!("{name}.log"));
    peers("prepare").run(&log("prepare"))?;
    let program = compile(root, folder)?;
    peers("measure").run(&log("measure"))?;
    let measured = last_line(&log("measure"))?;
    let mut figures = Vec::new();
    for (name, model) in by_model(&measured)? {
        let found = folder.join(format!("{name}.found.f64"));
        let arguments = [folder.join(format!("{name}.bin")), folder.join("rows.f64"), found.clone()];
        held("measure the predictor", &program, folder).args(arguments).run(&log(&name))?;
        let ours = last_line(&log(&name))?;
        figures.extend(beside(&name, &ours, &model)?);
        let rows = format!("{name}, rows that differ from the library's");
        let expected = folder.join(format!("{name}.expected.f64"));
        figures.push(Figure::new(rows, differing(&found, &expected)? as f64, "rows"));
    }
    Ok(figures)
}

/// A program held on one processor, where the system has the means.
fn held(what: &str, program: &Path, folder: &Path) -> Program {
    let there = duct::cmd("taskset", ["-c", PROCESSOR, "true"]).stdout_null().stderr_null().run().is_ok();
    let limit = Duration::from_secs(20 * 60);
    if there {
        Program::new(what, "taskset", folder).args(["-c", PROCESSOR]).arg(program).limit(limit)
    } else {
        warning("`taskset` cannot hold programs on one processor here: times vary more");
        Program::new(what, program, folder).limit(limit)
    }
}

fn compile(root: &Path, folder: &Path) -> Result<PathBuf> {
    Program::new("compile the predictor for measuring", "cargo", root)
        .args(["build", "--locked", "--release", "-p", "lambda-inference", "--example", "measure"])
        .run(&folder.join("compile.log"))?;
    Ok(paths::cargo_target(root).join("release/examples/measure"))
}

/// The JSON at the end of what a program printed.
fn last_line(log: &Path) -> Result<Value> {
    let text = fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("a measurement was expected, not {line:?}"))
}

/// The measurements of the peers of each model, in the order in which they came.
fn by_model(measured: &Value) -> Result<Vec<(String, Vec<Value>)>> {
    let mut models: Vec<(String, Vec<Value>)> = Vec::new();
    for peer in measured.as_array().context("the peers' measurements are no list")? {
        let name = peer["model"].as_str().context("a peer's measurement names no model")?;
        match models.iter_mut().find(|(known, _)| known == name) {
            Some((_, peers)) => peers.push(peer.clone()),
            None => models.push((name.to_string(), vec![peer.clone()])),
        }
    }
    Ok(models)
}

/// One figure for each kind and peer. A peer that could not be measured is said and left out.
fn beside(name: &str, ours: &Value, peers: &[Value]) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for peer in peers {
        let peer_name = peer["peer"].as_str().unwrap_or_default();
        if let Some(error) = peer["error"].as_str() {
            note(&format!("{name}: {peer_name} was not measured: {error}"));
            continue;
        }
        for (key, what, scale, unit) in KINDS {
            let value = |side: &Value| match side[key].as_f64() {
                Some(value) => Ok(value / scale),
                None => bail!("a measurement of {name} has no {key}"),
            };
            let figure = Figure::new(format!("{name}, {what}"), value(ours)?, unit);
            figures.push(figure.beside(format!("{peer_name}, from Python"), value(peer)?));
        }
    }
    Ok(figures)
}

/// How many of two lists of numbers differ in any bit.
fn differing(found: &Path, expected: &Path) -> Result<usize> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let (found, expected) = (read(found)?, read(expected)?);
    if found.len() != expected.len() || found.is_empty() {
        bail!("{} answers were expected, there are {}", expected.len() / 8, found.len() / 8);
    }
    Ok(found.chunks(8).zip(expected.chunks(8)).filter(|(found, expected)| found != expected).count())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_peer_gets_its_figures_and_a_failed_one_none() {
        let measured = json!([
            {"model": "a", "peer": "one", "one_row": 5000.0, "batch": 80.0},
            {"model": "b", "peer": "one", "one_row": 1.0, "batch": 1.0},
            {"model": "a", "peer": "two", "error": "refused"},
        ]);
        let models = by_model(&measured).unwrap();
        assert_eq!(
            models.iter().map(|(name, peers)| (name.as_str(), peers.len())).collect::<Vec<_>>(),
            [("a", 2), ("b", 1)]
        );
        let figures = beside("a", &json!({"one_row": 1000.0, "batch": 20.0}), &models[0].1).unwrap();
        let expected = [
            Figure::new("a, one row", 1.0, "µs").beside("one, from Python", 5.0),
            Figure::new("a, row of a batch", 20.0, "ns").beside("one, from Python", 80.0),
        ];
        assert_eq!(figures, expected);
        assert!(beside("a", &json!({}), &models[0].1).is_err());
        assert!(by_model(&json!({})).is_err());
    }

    #[test]
    fn differing_answers_are_counted_and_missing_ones_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, values: &[f64]| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            fs::write(folder.path().join(name), bytes).unwrap();
            folder.path().join(name)
        };
        let expected = write("expected", &[0.5, 0.0, 1.0]);
        assert_eq!(differing(&write("same", &[0.5, 0.0, 1.0]), &expected).unwrap(), 0);
        assert_eq!(differing(&write("other", &[0.5, -0.0, 1.0_f64.next_down()]), &expected).unwrap(), 2);
        assert!(differing(&write("short", &[0.5]), &expected).is_err());
    }
}
