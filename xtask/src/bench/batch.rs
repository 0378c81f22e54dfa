//! Batch scoring: a million rows of CSV, NDJSON and Parquet through the scorer with one and with two threads, beside a program that
//! reads the same file with pandas, predicts with scikit-learn and writes the same columns.
//!
//! Both sides start as processes and write a file; the peer's time leaves its imports out. The predictions are compared. Peak memory is
//! that of the scorer on a CSV of a gigabyte.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::score::{PROJECT, last_line};
use super::{Figure, minimum};
use crate::process::Program;
use crate::{paths, tools};

const FORMATS: [&str; 3] = ["csv", "ndjson", "parquet"];
const ROWS: f64 = 1e6;
/// Runs of which the quickest counts: what else the machine does only ever adds time.
const RUNS: usize = 5;
/// Size of the large CSV, in bytes.
const LARGE: usize = 1 << 30;

/// Times of a row in every format, the gain of a second thread, and the memory of a large file.
pub(super) fn measure(root: &Path) -> Result<Vec<Figure>> {
    let environment = tools::python_environment(root, Path::new(PROJECT))?;
    let folder = tempfile::tempdir().context("make a folder for what is measured")?;
    let folder = folder.path();
    let peer = |task: &[&str]| {
        let program = Program::new("run the peer of batches", &environment.python, folder);
        let program = program.arg(root.join(PROJECT).join("batch_peers.py")).arg(task[0]).arg(folder).args(&task[1..]);
        program.env("PYTHONPATH", root.join("model")).env("PYTHONDONTWRITEBYTECODE", "1")
    };
    let log = folder.join("batch.log");
    peer(&["prepare"]).run(&log)?;
    let scorer = compile(root, &log)?;
    let mut figures = Vec::new();
    for format in FORMATS {
        let (input, output) = (folder.join(format!("rows.{format}")), folder.join("ours.csv"));
        let (mut one, mut two) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            for (threads, times) in [("1", &mut one), ("2", &mut two)] {
                times.push(timed(&scorer, folder, &input, &output, threads)?);
            }
        }
        let (one, two) = (minimum(&one)?, minimum(&two)?);
        let theirs = folder.join("theirs.csv");
        peer(&["score", format, &theirs.to_string_lossy()]).run(&log)?;
        let measured: serde_json::Value = last_line(&log)?;
        let seconds = measured["seconds"].as_f64().context("the peer gives no seconds")?;
        for (threads, time) in [("one thread", one), ("two threads", two)] {
            let figure = Figure::new(format!("{format}, row with {threads}"), time * 1e9 / ROWS, "ns");
            figures.push(figure.beside("pandas and scikit-learn", seconds * 1e9 / ROWS));
        }
        figures.push(Figure::new(format!("{format}, two threads over one"), one / two, "times"));
        figures.push(Figure::new(format!("{format}, rows that differ"), differing(&output, &theirs)?, "rows"));
    }
    figures.push(Figure::new("csv of 1 GiB, peak memory", peak_of_large(&scorer, folder)?, "MiB"));
    Ok(figures)
}

/// The scorer with Parquet, in a folder of its own: another set of features would build the usual one anew.
fn compile(root: &Path, log: &Path) -> Result<std::path::PathBuf> {
    let target = paths::cargo_target(root).join("bench");
    Program::new("compile the scorer for measuring", "cargo", root)
        .args(["build", "--locked", "--release", "-p", "lambda-inference", "--bin", "score", "--features", "parquet"])
        .arg("--target-dir")
        .arg(&target)
        .limit(Duration::from_secs(20 * 60))
        .run(log)?;
    Ok(target.join("release/score"))
}

/// Seconds of one run.
fn timed(scorer: &Path, folder: &Path, input: &Path, output: &Path, threads: &str) -> Result<f64> {
    let begun = Instant::now();
    let program = duct::cmd!(
        scorer,
        "--model",
        folder.join("model.bin"),
        "--input",
        input,
        "--output",
        output,
        "--threads",
        threads
    );
    program.run().with_context(|| format!("score {}", input.display()))?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Lines of two outputs whose class differs, or whose probability does in any bit.
fn differing(ours: &Path, theirs: &Path) -> Result<f64> {
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
    let (ours, theirs) = (read(ours)?, read(theirs)?);
    if ours.lines().count() != theirs.lines().count() || ours.lines().next() != theirs.lines().next() {
        bail!("the outputs have {} and {} lines", ours.lines().count(), theirs.lines().count());
    }
    let same = |line: &(&str, &str)| match (line.0.split_once(','), line.1.split_once(',')) {
        (Some(one), Some(other)) => one.0 == other.0 && one.1.parse::<f64>().ok() == other.1.parse::<f64>().ok(),
        _ => false,
    };
    Ok(ours.lines().zip(theirs.lines()).skip(1).filter(|line| !same(line)).count() as f64)
}

/// Peak memory of the scorer on a large file, in MiB, as the system tells it.
fn peak_of_large(scorer: &Path, folder: &Path) -> Result<f64> {
    let large = folder.join("large.csv");
    let rows = fs::read(folder.join("rows.csv")).context("read the rows")?;
    let header = rows.iter().position(|byte| *byte == b'\n').context("the rows have no header")? + 1;
    let mut file = File::create(&large)?;
    file.write_all(&rows)?;
    for _ in 0..LARGE / rows.len() {
        file.write_all(&rows[header..])?;
    }
    drop(file);
    let command = duct::cmd!(scorer, "--model", folder.join("model.bin"), "--input", &large, "--output", "/dev/null");
    let running = command.start().context("score the large file")?;
    let status = format!("/proc/{}/status", running.pids().first().context("the scorer has no process")?);
    let mut peak = 0.0_f64;
    while running.try_wait()?.is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let kibibytes =
            text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(kibibytes.unwrap_or(0.0) / 1024.0);
        std::thread::sleep(Duration::from_millis(20));
    }
    if peak == 0.0 { bail!("the system does not tell the memory of a process") } else { Ok(peak) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_compared_by_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        };
        let ours = write("ours", "prediction,probability\n1,1.0\n0,0.00001\n0,0.5\n");
        assert_eq!(differing(&ours, &write("same", "prediction,probability\n1,1\n0,1e-05\n0,0.5\n")).unwrap(), 0.0);
        let other = write("other", "prediction,probability\n0,1\n0,1.1e-5\n0,0.5\n");
        assert_eq!(differing(&ours, &other).unwrap(), 2.0);
        assert!(differing(&ours, &write("short", "prediction,probability\n1,1\n")).is_err());
    }
}
