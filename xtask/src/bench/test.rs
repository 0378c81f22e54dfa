//! The stages test and gate on half a million test rows: how long they take, and how much of a processor.
//!
//! The rows are drawn from the newest run's test split. The notebook's cases, the upload of the report and the tracking are left
//! out: they do not depend on the rows. A machine that others use, too, has longer times; its processor time is about the same.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Figure, Measured, median};
use crate::process::{self, Program};
use crate::records::{self, Stage};
use crate::stages::{build, test};
use crate::{config, paths, tools};

const ROWS: u32 = 500_000;
/// The script of the model's tests that draws the rows.
const SCRIPT: &str = "tests/many_rows.py";
/// What the measuring may take on two processors, and the verdict.
const TEST_SECONDS: f64 = 15.0;
const GATE_SECONDS: f64 = 0.2;
const PROCESSORS: f64 = 2.0;
/// How often the gate is asked.
const VERDICTS: usize = 7;

/// Measures both.
pub(super) fn measure(root: &Path) -> Result<Measured> {
    let run = paths::latest(root);
    let record = records::read_verified::<build::Content>(&run, Stage::Build)
        .context("the benchmark measures the model of the newest run: run `cargo xtask pipeline`")?;
    let folder = tempfile::tempdir().context("make a folder for what is measured")?;
    let (test_seconds, cpu_seconds) = measure_test(root, &run, folder.path())?;
    let gate_seconds = measure_gate(root, &record.run, folder.path())?;
    Ok(judge(test_seconds, cpu_seconds, gate_seconds))
}

/// Elapsed seconds and processor seconds of all that the test stage does with the rows.
fn measure_test(root: &Path, run: &Path, folder: &Path) -> Result<(f64, f64)> {
    let config = config::read(root)?;
    let python = tools::python_environment(root, &config.model.directory)?;
    let log = |name: &str| folder.join(format!("{name}.log"));
    let programs = build::compile(root, &config.inference, &log("compile"))?;
    let many = folder.join("many");
    fs::create_dir(&many).with_context(|| format!("make {}", many.display()))?;
    Program::new("draw the test rows", &python.python, &root.join(&config.model.directory))
        .arg(SCRIPT)
        .args([run, &many])
        .arg(ROWS.to_string())
        .env("PYTHONPYCACHEPREFIX", &python.bytecode)
        .run(&log("rows"))?;
    let measuring = test::Measuring {
        root,
        config: &config.model,
        python: &python,
        score: &programs.score,
        folder: &many,
        model: &many.join("model.bin"),
        log: &log,
    };
    let (began, before) = (Instant::now(), processor_seconds()?);
    measuring.run()?;
    measuring.drawing().run(&log("report"))?;
    Ok((began.elapsed().as_secs_f64(), processor_seconds()? - before))
}

/// Processor seconds of all programs that this one has started and seen end.
fn processor_seconds() -> Result<f64> {
    /// What Linux counts in, on every architecture that this runs on.
    const TICKS: f64 = 100.0;
    let text =
        fs::read_to_string("/proc/self/stat").context("ask Linux for the processor time of programs that ended")?;
    children_ticks(&text).map(|ticks| ticks as f64 / TICKS).context("understand /proc/self/stat")
}

/// The fields `cutime` and `cstime` of a line of /proc/…/stat (proc_pid_stat(5)), added.
fn children_ticks(stat: &str) -> Option<u64> {
    // The second field, the program's name, can hold anything.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(field(16)? + field(17)?)
}

/// The middle of some verdicts on a run, in a clone of links, so that nothing of the real one changes.
fn measure_gate(root: &Path, run: &str, folder: &Path) -> Result<f64> {
    let clone = folder.join("clone");
    let runs = paths::runs(&clone);
    fs::create_dir_all(&runs).with_context(|| format!("make {}", runs.display()))?;
    link_all(root, &clone, &[OsStr::new("target"), OsStr::new(".local")])?;
    fs::create_dir(runs.join(run)).context("make the run's folder")?;
    link_all(&paths::runs(root).join(run), &runs.join(run), &[])?;
    let program = std::env::current_exe().context("find this program")?;
    let log = folder.join("gate.log");
    let mut seconds = Vec::new();
    for _ in 0..VERDICTS {
        for file in ["gate.json", "bundle.json"] {
            let _ = fs::remove_file(runs.join(run).join(file));
        }
        let began = Instant::now();
        let ended = Program::new("judge", &program, &clone)
            .args(["gate", "--run", run, "--env", "local", "--json"])
            .limit(Duration::from_secs(60))
            .run_to_end(&log)?;
        seconds.push(began.elapsed().as_secs_f64());
        // A denial, 3, takes as long.
        if !matches!(ended.code, Some(0 | 3)) {
            bail!("the gate ended with {:?}\n{}", ended.code, process::tail(&log, 10));
        }
    }
    median(&seconds)
}

/// Links everything in a folder into another one, but for some names.
fn link_all(from: &Path, to: &Path, but: &[&OsStr]) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let name = entry.with_context(|| format!("list {}", from.display()))?.file_name();
        if !but.contains(&name.as_os_str()) {
            symlink(from.join(&name), to.join(&name)).with_context(|| format!("link {}", name.display()))?;
        }
    }
    Ok(())
}

fn judge(test_seconds: f64, cpu_seconds: f64, gate_seconds: f64) -> Measured {
    let figures = vec![
        Figure::new("rows", ROWS.into(), "rows"),
        Figure::new("test_seconds", test_seconds, "s"),
        Figure::new("cpu_seconds", cpu_seconds, "s"),
        Figure::new("gate_seconds", gate_seconds, "s"),
    ];
    let mut failures = Vec::new();
    if cpu_seconds / PROCESSORS > TEST_SECONDS {
        failures.push(format!(
            "measuring takes {cpu_seconds:.1} s of a processor: more than {TEST_SECONDS} s on each of {PROCESSORS}"
        ));
    }
    if gate_seconds > GATE_SECONDS {
        failures.push(format!("a verdict takes {gate_seconds:.2} s, {GATE_SECONDS} s at most was the aim"));
    }
    Measured { figures, failures }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_time_of_children_is_found_behind_any_name() {
        let fields: Vec<_> = (3..=52).map(|number| number.to_string()).collect();
        for name in ["(xtask)", "(a) b) (c)"] {
            assert_eq!(children_ticks(&format!("1 {name} {}\n", fields.join(" "))), Some(16 + 17));
        }
        assert_eq!(children_ticks("1 (xtask) 3 4"), None);
    }

    #[test]
    fn what_takes_too_long_fails() {
        assert_eq!(judge(60.0, 29.0, 0.19).failures.len(), 0);
        assert_eq!(judge(10.0, 31.0, 0.1).failures.len(), 1);
        assert_eq!(judge(10.0, 20.0, 0.21).failures.len(), 1);
    }
}
