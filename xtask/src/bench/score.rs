//! Scoring: one row and a row of a batch, the predictor beside the libraries that trained the models and beside programs that
//! compile or convert such models.
//!
//! tests/bench/score trains the models and makes of each what the peers need: generated C, compiled; object files, linked; ONNX. That
//! takes minutes and is kept in target/bench/score for as long as nothing that it is made of changes. Peers that C can call are called
//! from C (drive.c), the others from Python, which costs them some microseconds for a single row and nothing to speak of in a batch.
//! All sides run in this one run, in turns, with one thread, held on one processor where `taskset` is there. Every answer is compared
//! with the library's, bit for bit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Figure, Measured, Options, batch};
use crate::process::{Program, tail};
use crate::terminal::{note, warning};
use crate::{digest, paths, tools};

/// The uv project with the peers.
pub(super) const PROJECT: &str = "tests/bench/score";
/// The processor that everything is held on: the first one serves the rest of the system.
const PROCESSOR: &str = "1";
/// The processors of two threads.
const TWO_PROCESSORS: &str = "0,1";
/// How often each program that is called from C, and the predictor, measures; the quietest time counts.
const ROUNDS: usize = 3;
/// An answer is far from the library's above this difference in probability, which no rounding explains.
const FAR: f64 = 0.01;
/// The model whose rows a table of cells answers, so that reading them from memory is what remains.
const FEW_FEATURES: &str = "few4";

/// What was prepared: peers.json.
#[derive(Deserialize)]
struct Prepared {
    /// Numbers of a row, by model.
    widths: BTreeMap<String, usize>,
    peers: Vec<Call>,
}

/// How C calls a peer, or why it cannot.
#[derive(Deserialize)]
struct Call {
    model: String,
    peer: String,
    kind: Option<String>,
    library: Option<PathBuf>,
    file: Option<PathBuf>,
    error: Option<String>,
}

/// What a peer that is called from Python took.
#[derive(Deserialize)]
struct FromPython {
    model: String,
    peer: String,
    #[serde(flatten)]
    times: Option<Times>,
    error: Option<String>,
}

/// Nanoseconds a row.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(super) struct Times {
    pub one_row: f64,
    pub batch: f64,
}

impl Times {
    pub fn least(self, other: Times) -> Times {
        Times { one_row: self.one_row.min(other.one_row), batch: self.batch.min(other.batch) }
    }
}

/// A peer of one model.
struct Peer {
    name: String,
    from_c: bool,
    /// Its times, or why there are none.
    times: Result<Times, String>,
    /// Rows whose answer is not the library's, where it has been looked at.
    differing: Option<usize>,
}

/// Times of a row, and answers that differ from the library's.
pub(super) fn measure(root: &Path, options: &Options) -> Result<Measured> {
    let environment = tools::python_environment(root, Path::new(PROJECT))?;
    let only = options.only.as_deref().unwrap_or_default();
    let prepared = prepare(root, &environment.python, only)?;
    let text = fs::read(prepared.join("peers.json")).context("read what was prepared")?;
    let Prepared { widths, peers: calls } = serde_json::from_slice(&text).context("understand what was prepared")?;
    let wanted = |model: &str| model.contains(only);
    if !widths.keys().any(|model| wanted(model)) {
        bail!("no model's name contains {only:?}");
    }
    let folder = tempfile::tempdir().context("make a folder for what is measured")?;
    let bench = Bench { root, prepared: &prepared, folder: folder.path() };
    let python = |task: &str, program: Program, log: &str| {
        let arguments = [root.join(PROJECT).join("peers.py"), task.into(), prepared.clone(), folder.path().into()];
        let log = folder.path().join(log);
        in_python(program.args(arguments), root).run(&log).map(|()| log)
    };
    python("export", Program::new("export the models", &environment.python, root), "export.log")?;
    let predictor = bench.compile_predictor()?;
    let driver = bench.compile_driver();
    let log = python("measure", held("measure the peers that Python calls", &environment.python, root), "python.log")?;
    let from_python: Vec<FromPython> = last_line(&log)?;

    let mut measured = Measured::from(Vec::new());
    for (model, width) in widths.iter().filter(|(model, _)| wanted(model)) {
        note(&format!("measuring {model}"));
        let (ours, differing, peers) = bench.model(model, *width, &predictor, &driver, &calls, &from_python)?;
        if differing > 0 {
            measured.failures.push(format!("{model}: {differing} rows differ from what the library answers"));
        }
        measured.figures.extend(figures(model, ours, differing, &peers));
        measured.figures.extend(bench.on_two_processors(model, &predictor)?);
        if model == FEW_FEATURES {
            measured.figures.extend(bench.beside_memory(model, &predictor)?);
        }
    }
    if options.only.is_none() {
        measured.figures.extend(batch::measure(root)?);
    }
    Ok(measured)
}

/// What takes minutes to make, made once for what it is made of: of the models whose names contain a text, where those of all are not
/// there already.
fn prepare(root: &Path, python: &Path, only: &str) -> Result<PathBuf> {
    let home = root.join("target/bench/score");
    let folder = |only| Ok::<_, anyhow::Error>(home.join(&identity(root, only)?[.."0123456789abcdef".len()]));
    let ready = folder(only)?;
    if let Some(kept) = [folder("")?, ready.clone()].into_iter().find(|folder| folder.join("peers.json").is_file()) {
        return Ok(kept);
    }
    note("training the models and compiling the peers' programs: some minutes, this once");
    let fresh = home.join(format!("new-{}", std::process::id()));
    fs::create_dir_all(&fresh).with_context(|| format!("make the folder {}", fresh.display()))?;
    let log = home.join("prepare.log");
    let made = in_python(Program::new("make the peers", python, root), root)
        .args([root.join(PROJECT).join("peers.py"), "prepare".into(), fresh.clone(), only.into()])
        .limit(Duration::from_secs(60 * 60))
        .run(&log)
        .and_then(|()| fs::rename(&fresh, &ready).with_context(|| format!("keep {}", ready.display())));
    if made.is_err() {
        let _ = fs::remove_dir_all(&fresh);
    }
    made.map(|()| ready)
}

/// Names what the peers' programs are made of, and the machine that they are made for.
fn identity(root: &Path, only: &str) -> Result<String> {
    let file = |path: &str| digest::of_file(&root.join(path));
    let parts = [
        file("tests/bench/score/peers.py")?,
        file("tests/bench/score/uv.lock")?,
        file("model/data/credit_card_approval.csv.xz")?,
        duct::cmd("cc", ["--version"]).stderr_null().read().unwrap_or_default(),
        processor_features(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        // The environment's libraries are named by their place.
        root.display().to_string(),
        only.to_string(),
    ];
    Ok(digest::of_bytes(parts.join("\n").as_bytes()).trim_start_matches("sha256:").to_string())
}

/// What the first processor can do: some peers compile for exactly that.
fn processor_features(information: &str) -> String {
    let named = |line: &&str| line.starts_with("model name") || line.starts_with("flags");
    information.lines().filter(named).take(2).collect()
}

/// With the exporter within reach, and no bytecode left beside the sources.
pub(super) fn in_python(program: Program, root: &Path) -> Program {
    program.env("PYTHONPATH", root.join("model")).env("PYTHONDONTWRITEBYTECODE", "1")
}

/// A program held on one processor, where the system has the means.
pub(super) fn held(what: &str, program: &Path, folder: &Path) -> Program {
    held_on(PROCESSOR, what, program, folder)
}

fn held_on(processors: &str, what: &str, program: &Path, folder: &Path) -> Program {
    let there = duct::cmd("taskset", ["-c", processors, "true"]).stdout_null().stderr_null().run().is_ok();
    let limit = Duration::from_secs(20 * 60);
    if there {
        Program::new(what, "taskset", folder).args(["-c", processors]).arg(program).limit(limit)
    } else {
        warning("`taskset` cannot hold programs on a processor here: times vary more");
        Program::new(what, program, folder).limit(limit)
    }
}

/// One run of the benchmark.
struct Bench<'a> {
    root: &'a Path,
    /// What was made once.
    prepared: &'a Path,
    /// What is made in this run.
    folder: &'a Path,
}

impl Bench<'_> {
    /// The measuring program, compiled as the function that ships.
    fn compile_predictor(&self) -> Result<PathBuf> {
        Program::new("compile the predictor for measuring", "cargo", self.root)
            .args(["build", "--locked", "--profile", "lambda", "-p", "lambda-inference", "--example", "measure"])
            .run(&self.folder.join("compile.log"))?;
        Ok(paths::cargo_target(self.root).join("lambda/examples/measure"))
    }

    /// The program that calls the peers from C, or why there is none.
    fn compile_driver(&self) -> Result<PathBuf, String> {
        let (source, driver) = (self.root.join(PROJECT).join("drive.c"), self.folder.join("drive"));
        Program::new("compile what calls the peers from C", "cc", self.root)
            .args(["-O2", "-std=c11", "-o"])
            .args([&driver, &source])
            .arg("-ldl")
            .run(&self.folder.join("driver.log"))
            .map(|()| driver)
            .map_err(|error| one_line(&format!("{error:#}")))
    }

    fn rows(&self, model: &str) -> PathBuf {
        self.prepared.join(format!("{model}.rows.f64"))
    }

    /// Our times and differing rows, and the peers.
    fn model(
        &self,
        model: &str,
        width: usize,
        predictor: &Path,
        driver: &Result<PathBuf, String>,
        calls: &[Call],
        from_python: &[FromPython],
    ) -> Result<(Times, usize, Vec<Peer>)> {
        let expected = self.prepared.join(format!("{model}.expected.f64"));
        let calls: Vec<_> = calls.iter().filter(|call| call.model == model).collect();
        let answers = |name: &str| self.folder.join(format!("{model}.{name}.f64"));
        let mut ours: Option<Times> = None;
        let mut theirs: Vec<Option<Result<Times, String>>> = calls.iter().map(|_| None).collect();
        for _ in 0..ROUNDS {
            let arguments = [self.folder.join(format!("{model}.bin")), self.rows(model), answers("ours")];
            let log = self.folder.join("predictor.log");
            held("measure the predictor", predictor, self.folder).args(arguments).run(&log)?;
            let times: Times = last_line(&log)?;
            ours = Some(ours.map_or(times, |before| before.least(times)));
            for (call, before) in calls.iter().zip(&mut theirs) {
                *before = Some(match before.take() {
                    Some(Err(error)) => Err(error),
                    Some(Ok(before)) => {
                        self.drive(call, width, driver, &answers(&call.peer)).map(|now| before.least(now))
                    }
                    None => self.drive(call, width, driver, &answers(&call.peer)),
                });
            }
        }
        let judged = |name: &str, from_c: bool, times: Result<Times, String>| -> Result<Peer> {
            let (times, differing) = match times {
                Ok(times) => judge(times, compare(&answers(name), &expected)?),
                Err(error) => (Err(error), None),
            };
            let how = if from_c { "C" } else { "Python" };
            Ok(Peer { name: format!("{name}, from {how}"), from_c, times, differing })
        };
        let mut peers = Vec::new();
        for (call, times) in calls.iter().zip(theirs) {
            peers.push(judged(&call.peer, true, times.context("a peer was never called")?)?);
        }
        for peer in from_python.iter().filter(|peer| peer.model == model) {
            let times = match (peer.times, &peer.error) {
                (Some(times), _) => Ok(times),
                (None, error) => Err(error.clone().unwrap_or_default()),
            };
            peers.push(judged(&peer.peer, false, times)?);
        }
        let ours = ours.context("the predictor was never called")?;
        Ok((ours, compare(&answers("ours"), &expected)?.differing, peers))
    }

    /// Calls a peer from C, once.
    fn drive(
        &self,
        call: &Call,
        width: usize,
        driver: &Result<PathBuf, String>,
        answers: &Path,
    ) -> Result<Times, String> {
        if let Some(error) = &call.error {
            return Err(error.clone());
        }
        let (Some(kind), Some(library)) = (&call.kind, &call.library) else {
            return Err("peers.json does not say how to call it".to_string());
        };
        let mut program = held(&format!("measure {}", call.peer), driver.as_ref()?, self.folder)
            .arg(kind)
            .arg(self.prepared.join(library))
            .arg(self.rows(&call.model))
            .arg(width.to_string())
            .arg(answers);
        if let Some(file) = &call.file {
            program = program.arg(self.prepared.join(file));
        }
        let log = self.folder.join("driven.log");
        let measured = program.run_to_end(&log).and_then(|ended| match ended.code {
            Some(0) => last_line(&log),
            Some(code) => bail!("exit code {code}: {}", tail(&log, 1)),
            None => bail!("it was stopped by a signal: {}", tail(&log, 1)),
        });
        measured.map_err(|error| one_line(&format!("{error:#}")))
    }

    /// Blocks on two threads beside one.
    fn on_two_processors(&self, model: &str, predictor: &Path) -> Result<Option<Figure>> {
        #[derive(Deserialize)]
        struct Threads {
            one_thread: f64,
            two_threads: f64,
        }
        if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
            warning(&format!("{model}: two threads were not compared with one, there is one processor"));
            return Ok(None);
        }
        let log = self.folder.join("threads.log");
        held_on(TWO_PROCESSORS, "measure two threads", predictor, self.folder)
            .args([self.folder.join(format!("{model}.bin")), self.rows(model), "--threads".into()])
            .run(&log)?;
        let Threads { one_thread, two_threads } = last_line(&log)?;
        let figure = Figure::new(format!("{model}, row of a batch, two threads"), two_threads, "ns");
        Ok(Some(figure.beside("one thread", one_thread)))
    }

    /// Rows that come from memory, beside reading them.
    fn beside_memory(&self, model: &str, predictor: &Path) -> Result<[Figure; 2]> {
        #[derive(Deserialize)]
        struct Memory {
            batch: f64,
            read: f64,
            gigabytes_a_second: f64,
        }
        let log = self.folder.join("memory.log");
        held("measure against memory", predictor, self.folder)
            .args([self.folder.join(format!("{model}.bin")), self.rows(model), "--memory".into()])
            .run(&log)?;
        let Memory { batch, read, gigabytes_a_second } = last_line(&log)?;
        Ok([
            Figure::new(format!("{model}, row of a batch out of memory"), batch, "ns").beside("reading the row", read),
            Figure::new("memory, reading in order", gigabytes_a_second, "GB/s"),
        ])
    }
}

/// The JSON at the end of what a program printed.
pub(super) fn last_line<T: for<'a> Deserialize<'a>>(log: &Path) -> Result<T> {
    let text = fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("a measurement was expected, not {line:?}"))
}

/// A reason that fits into a table.
fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().take(160).collect()
}

/// Ours beside each peer, and beside the fastest; then the rows that differ from the library's.
fn figures(model: &str, ours: Times, differing: usize, peers: &[Peer]) -> Vec<Figure> {
    type Value = fn(Times) -> f64;
    let kinds: [(&str, Value, f64, &str, bool); 2] = [
        // From Python the call is most of a single row's time, so only peers that C calls compete.
        ("one row", |times| times.one_row, 1000.0, "µs", true),
        ("row of a batch", |times| times.batch, 1.0, "ns", false),
    ];
    let mut figures = Vec::new();
    for (what, value, scale, unit, only_c) in kinds {
        let figure = |more: &str| Figure::new(format!("{model}, {what}{more}"), value(ours) / scale, unit);
        let mut fastest: Option<(&str, f64)> = None;
        for peer in peers {
            match &peer.times {
                Err(reason) => figures.push(figure("").without(&peer.name, reason)),
                Ok(times) => {
                    let value = value(*times) / scale;
                    figures.push(figure("").beside(&peer.name, value));
                    if (peer.from_c || !only_c) && fastest.is_none_or(|(_, least)| value < least) {
                        fastest = Some((&peer.name, value));
                    }
                }
            }
        }
        if let Some((name, value)) = fastest {
            figures.push(figure(", the fastest peer").beside(name, value));
        }
    }
    let rows = || Figure::new(format!("{model}, rows that differ from the library's"), differing as f64, "rows");
    let compared = peers.iter().filter_map(|peer| Some(rows().beside(&peer.name, peer.differing? as f64)));
    let before = figures.len();
    figures.extend(compared);
    if figures.len() == before {
        figures.push(rows());
    }
    figures
}

/// How answers compare with the library's.
#[derive(Debug, PartialEq)]
struct Compared {
    rows: usize,
    /// Rows that differ in any bit.
    differing: usize,
    /// Rows that are far from what the library says.
    far: usize,
}

fn compare(found: &Path, expected: &Path) -> Result<Compared> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let (found, expected) = (read(found)?, read(expected)?);
    if found.len() != expected.len() || found.is_empty() {
        bail!("{} answers were expected, there are {}", expected.len() / 8, found.len() / 8);
    }
    let mut compared = Compared { rows: 0, differing: 0, far: 0 };
    for (found, expected) in found.as_chunks::<8>().0.iter().zip(expected.as_chunks::<8>().0) {
        let near = (f64::from_le_bytes(*found) - f64::from_le_bytes(*expected)).abs() <= FAR;
        compared.rows += 1;
        compared.differing += usize::from(found != expected);
        compared.far += usize::from(!near);
    }
    Ok(compared)
}

/// Times count only if it was this model that was measured: of a peer's answers, one in a hundred may be far off.
fn judge(times: Times, compared: Compared) -> (Result<Times, String>, Option<usize>) {
    let Compared { rows, differing, far } = compared;
    let times = if far * 100 <= rows {
        Ok(times)
    } else {
        Err(format!("{far} of its {rows} answers are far from the library's, so it was another model that ran"))
    };
    (times, Some(differing))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, from_c: bool, times: Result<(f64, f64), &str>) -> Peer {
        let times = times.map(|(one_row, batch)| Times { one_row, batch }).map_err(str::to_string);
        let differing = times.is_ok().then_some(3);
        Peer { name: name.to_string(), from_c, times, differing }
    }

    #[test]
    fn every_peer_gets_its_figures_and_a_failed_one_its_reason() {
        let peers = [
            peer("one, from C", true, Ok((5000.0, 80.0))),
            peer("two, from C", true, Err("no wheel")),
            peer("three, from Python", false, Ok((4000.0, 40.0))),
        ];
        let ours = Times { one_row: 1000.0, batch: 20.0 };
        let (one, batch) = (|| Figure::new("a, one row", 1.0, "µs"), || Figure::new("a, row of a batch", 20.0, "ns"));
        let rows = || Figure::new("a, rows that differ from the library's", 0.0, "rows");
        let expected = [
            one().beside("one, from C", 5.0),
            one().without("two, from C", "no wheel"),
            one().beside("three, from Python", 4.0),
            Figure::new("a, one row, the fastest peer", 1.0, "µs").beside("one, from C", 5.0),
            batch().beside("one, from C", 80.0),
            batch().without("two, from C", "no wheel"),
            batch().beside("three, from Python", 40.0),
            Figure::new("a, row of a batch, the fastest peer", 20.0, "ns").beside("three, from Python", 40.0),
            rows().beside("one, from C", 3.0),
            rows().beside("three, from Python", 3.0),
        ];
        assert_eq!(figures("a", ours, 0, &peers), expected);
        assert_eq!(figures("a", ours, 7, &[]), [Figure::new("a, rows that differ from the library's", 7.0, "rows")]);
    }

    #[test]
    fn answers_are_compared_bit_for_bit_and_missing_ones_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, values: &[f64]| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            fs::write(folder.path().join(name), bytes).unwrap();
            folder.path().join(name)
        };
        let expected = write("expected", &[0.5, 0.0, 1.0]);
        let found = |name: &str, values: &[f64]| {
            let Compared { rows, differing, far } = compare(&write(name, values), &expected).unwrap();
            (rows, differing, far)
        };
        assert_eq!(found("same", &[0.5, 0.0, 1.0]), (3, 0, 0));
        assert_eq!(found("other", &[0.5, -0.0, 1.0_f64.next_down()]), (3, 2, 0));
        assert_eq!(found("far", &[f64::NAN, 0.4, 1.0]), (3, 2, 2));
        assert!(compare(&write("short", &[0.5]), &expected).is_err());
    }

    #[test]
    fn a_peer_that_answers_something_else_has_no_times() {
        let times = Times { one_row: 1.0, batch: 1.0 };
        let judged = |far| judge(times, Compared { rows: 1000, differing: 900, far });
        assert_eq!(judged(10), (Ok(times), Some(900)));
        assert!(judged(11).0.unwrap_err().contains("11 of its 1000 answers"));
    }

    #[test]
    fn what_python_measured_has_times_or_a_reason() {
        let text = r#"[{"model": "a", "peer": "x", "one_row": 2.0, "batch": 1.0}, {"model": "a", "peer": "y", "error": "no"}]"#;
        let read: Vec<FromPython> = serde_json::from_str(text).unwrap();
        assert_eq!(read[0].times, Some(Times { one_row: 2.0, batch: 1.0 }));
        assert_eq!((read[1].times, read[1].error.as_deref()), (None, Some("no")));
    }

    #[test]
    fn the_processor_is_known_by_its_name_and_what_it_can() {
        let text =
            "processor\t: 0\nmodel name\t: X\nflags\t\t: avx\n\nprocessor\t: 1\nmodel name\t: Y\nflags\t\t: sse\n";
        assert_eq!(processor_features(text), "model name\t: Xflags\t\t: avx");
        assert_eq!(processor_features(""), "");
    }
}
