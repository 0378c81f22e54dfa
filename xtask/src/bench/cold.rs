//! From a process's start to its first answer, and what it takes once it runs: the predictor that ships beside a Python
//! handler in the usual style, beside an empty handler of AWS's Rust runtime, and beside a program that does nothing.
//!
//! All functions speak to a stand-in Runtime API on loopback, are fed the first smoke test of pipeline.toml, and must, but for the
//! empty one, answer it with the prediction that stands there. The page cache is warm: the first run of each is not counted. What is
//! compared closely runs in turns, so that whatever else the machine does meets all of it.
//!
//! On a busy machine the clock is not fair: a start of a millisecond fits between two turns of the scheduler, a start of
//! half a second is interrupted many times, and the ratio flatters us. So the time that each had a processor is measured
//! too, and the share that it waited for one is shown; a warning says when that share spoils the clock's figures.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::runtime_api::RuntimeApi;
use super::{Figure, median, minimum};
use crate::config::{self, SmokeTest};
use crate::process::{Program, tail};
use crate::stages::build;
use crate::terminal::{note, warning};
use crate::{image, paths, tools};

/// The uv project with the Python handler.
pub(super) const PEER_PROJECT: &str = "tests/bench";
/// The handler's file in it.
pub(super) const HANDLER: &str = "handler.py";

const PEER: &str = "Python handler";
const RUNTIME: &str = "empty lambda_runtime handler";
const NOTHING: &str = "empty static program";
/// Trains the model of 300 trees, with the environment of model/.
const BOOSTED: &str = "boosted.py";
/// Counted starts, and counted invocations of one process.
const OURS: Counts = Counts { starts: 200, invocations: 1_000 };
/// Processes of ours that are invoked, in turns with the empty handler's.
const WARM_ROUNDS: usize = 5;
const PEERS: Counts = Counts { starts: 8, invocations: 500 };
/// Share of a start spent waiting for a processor, in percent, above which the clock's figures are not to be trusted.
const GREATEST_WAIT: f64 = 5.0;
/// The Python handler's first start compiles bytecode, and machines that others use too are slow.
const LIMIT: Duration = Duration::from_secs(180);

struct Counts {
    starts: usize,
    invocations: usize,
}

/// Cold start, round trip and memory.
pub(super) fn measure(root: &Path) -> Result<Vec<Figure>> {
    if std::env::consts::OS != "linux" {
        bail!("the predictor that ships is a Linux program: run this benchmark on Linux");
    }
    let config = config::read(root)?;
    let Some(test) = config.smoke_tests.first() else { bail!("pipeline.toml has no smoke test to answer") };
    let [model, peer_model] = ["model.bin", "model.joblib"].map(|name| paths::latest(root).join(name));
    for file in [&model, &peer_model] {
        if !file.is_file() {
            bail!("{} is missing: `cargo xtask pipeline` makes it", file.display());
        }
    }
    let folder = tempfile::tempdir().context("make a folder for what is measured")?;
    let program = build::compile_bootstrap(root)?;
    let [handler, runtime] = build::compile_examples(root, ["handler", "empty_handler"])?;
    let boosted = train_boosted(root, &config.model.directory, folder.path())?;
    let ours = rust_function("predictor", &program, folder.path(), &model, Some(test.prediction))?;
    let large = rust_function("predictor-of-300-trees", &program, folder.path(), &boosted, Some(test.prediction))?;
    let runtime = rust_function("empty-handler", &runtime, folder.path(), &model, None)?;
    let peer = python_handler(root, folder.path(), peer_model, test.prediction)?;
    let empty = compile_empty_program(folder.path())?;

    note(&format!("starting the predictor with both models and an empty program {} times", OURS.starts));
    let (mut cold, mut large_cold, mut nothing) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=OURS.starts {
        cold.push(ours.invoke(test, 1)?);
        nothing.push(milliseconds(start_to_exit(&empty)?));
        large_cold.push(large.invoke(test, 1)?);
    }
    note(&format!("starting the Python handler {} times", PEERS.starts));
    let mut peer_cold = Vec::new();
    for _ in 0..=PEERS.starts {
        peer_cold.push(peer.invoke(test, 1)?);
    }
    let large_peak = large_cold.iter().filter_map(|outcome| outcome.peak).max();
    let (cold, large_cold) = (Starts::of(&cold[1..]), Starts::of(&large_cold[1..]));
    let (nothing, peer_cold) = (&nothing[1..], Starts::of(&peer_cold[1..]));
    note(&format!("invoking them {} and {} times", WARM_ROUNDS * OURS.invocations, PEERS.invocations));
    let (mut round_trips, mut runtime_round_trips, mut peak_of_ours) = (Vec::new(), Vec::new(), None);
    for _ in 0..WARM_ROUNDS {
        let warm = ours.invoke(test, 1 + OURS.invocations)?;
        round_trips.extend(warm.round_trips);
        peak_of_ours = peak_of_ours.max(warm.peak);
        runtime_round_trips.extend(runtime.invoke(test, 1 + OURS.invocations)?.round_trips);
    }
    let peer_warm = peer.invoke(test, 1 + PEERS.invocations)?;
    let mut own = Vec::new();
    for test in &config.smoke_tests {
        let name = format!("handler's own time, `{}`, median", test.name);
        own.push(Figure::new(&name, own_time(&handler, &model, test, folder.path())?, "µs"));
    }

    let (typical, empty_typical) = (median(&cold.clock)?, median(nothing)?);
    let (least, empty_least) = (minimum(&cold.clock)?, minimum(nothing)?);
    let round_trip = median(&round_trips)?;
    let mut figures = vec![
        Figure::new("cold start, median", typical, "ms").beside(PEER, median(&peer_cold.clock)?),
        Figure::new("cold start, minimum", least, "ms").beside(PEER, minimum(&peer_cold.clock)?),
        Figure::new("cold start, median", typical, "ms").beside(NOTHING, empty_typical),
        Figure::new("cold start, minimum", least, "ms").beside(NOTHING, empty_least),
        Figure::new("cold start above the empty program", typical - empty_typical, "ms"),
        Figure::new("cold start, 300 trees above the one, median", median(&large_cold.clock)? - typical, "ms"),
        Figure::new("cold start, 300 trees above the one, minimum", minimum(&large_cold.clock)? - least, "ms"),
        Figure::new("warm round trip, median", round_trip, "µs").beside(PEER, median(&peer_warm.round_trips)?),
        Figure::new("warm round trip, median", round_trip, "µs").beside(RUNTIME, median(&runtime_round_trips)?),
    ];
    figures.extend(own);
    if let (Some(peak), Some(peer_peak)) = (peak_of_ours, peer_warm.peak) {
        figures.push(Figure::new("peak memory", peak as f64, "kB").beside(PEER, peer_peak as f64));
    }
    figures.extend(large_peak.map(|peak| Figure::new("peak memory, 300 trees", peak as f64, "kB")));
    if cold.ran.is_empty() || peer_cold.ran.is_empty() {
        warning(
            "this system does not tell how long a process waited for a processor: the clock's figures are unchecked",
        );
        return Ok(figures);
    }
    figures.push(
        Figure::new("cold start, processor time, median", median(&cold.ran)?, "ms")
            .beside(PEER, median(&peer_cold.ran)?),
    );
    let (waited, peer_waited) = (median(&cold.waited)?, median(&peer_cold.waited)?);
    figures.push(Figure::new("waiting for a processor, predictor", waited, "%"));
    figures.push(Figure::new("waiting for a processor, Python handler", peer_waited, "%"));
    if waited.max(peer_waited) > GREATEST_WAIT {
        warning(&format!(
            "other work kept the processors busy: the predictor waited {waited:.0} % of its start for one, the Python \
             handler {peer_waited:.0} %. Compare processor times, or measure again on a quiet machine: the clock's \
             ratios are not to be quoted"
        ));
    }
    Ok(figures)
}

/// The counted starts of one function.
struct Starts {
    /// By the clock, in ms.
    clock: Vec<f64>,
    /// With a processor, in ms; empty where the system does not tell.
    ran: Vec<f64>,
    /// Share of the time ready to run that went by without one, in percent.
    waited: Vec<f64>,
}

impl Starts {
    fn of(outcomes: &[Outcome]) -> Starts {
        let turns: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.turns).collect();
        Starts {
            clock: outcomes.iter().map(|outcome| milliseconds(outcome.first)).collect(),
            ran: turns.iter().map(|turns| turns.ran as f64 / 1e6).collect(),
            waited: turns.iter().map(|turns| turns.share_waited()).collect(),
        }
    }
}

/// The microseconds in which the handler answers the event, without anything that is sent or received.
fn own_time(program: &Path, model: &Path, test: &SmokeTest, folder: &Path) -> Result<f64> {
    let log = folder.join("handler.json");
    let program = Program::new("measure the handler", program, folder).arg(model).arg(test.event.to_string());
    program.limit(LIMIT).run(&log)?;
    let text = fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
    let measured: Value = serde_json::from_str(&text).context("understand the measurement")?;
    let prediction = prediction_of(measured["answer"].to_string().as_bytes())?;
    if prediction != test.prediction {
        bail!("the handler predicts {prediction} for {}, expected {}", test.event, test.prediction);
    }
    Ok(measured["median"].as_f64().context("the measurement has no median")? / 1e3)
}

/// The model of 300 trees.
fn train_boosted(root: &Path, project: &Path, folder: &Path) -> Result<PathBuf> {
    let environment = tools::python_environment(root, project)?;
    let model = folder.join("boosted.bin");
    Program::new("train the model of 300 trees", &environment.python, folder)
        .arg(root.join(PEER_PROJECT).join(BOOSTED))
        .arg(paths::latest(root).join("test_split.csv"))
        .arg(&model)
        .env("PYTHONPATH", root.join(project))
        .env("PYTHONPYCACHEPREFIX", &environment.bytecode)
        .run(&folder.join("boosted.log"))?;
    Ok(model)
}

/// A Rust function, laid out as in the image: the model and its digest beside the program.
fn rust_function(
    name: &'static str,
    program: &Path,
    folder: &Path,
    model: &Path,
    prediction: Option<i64>,
) -> Result<Function> {
    let task = folder.join(name);
    fs::create_dir(&task).with_context(|| format!("make {}", task.display()))?;
    let bytes = fs::read(model).with_context(|| format!("read {}", model.display()))?;
    let placed = task.join("bootstrap");
    fs::copy(program, &placed).with_context(|| format!("copy {}", program.display()))?;
    let model = task.join("model.bin");
    fs::write(task.join("model.bin.sha256"), image::digest_file(&bytes)).context("write the model's digest")?;
    fs::write(&model, bytes).context("write the model")?;
    let log = folder.join(format!("{name}.log"));
    Ok(Function { name, program: placed, arguments: Vec::new(), folder: task, model, prediction, log })
}

/// The peer, laid out as Lambda does it: handler and model in the task's folder, packages beside the interpreter.
fn python_handler(root: &Path, folder: &Path, model: PathBuf, prediction: i64) -> Result<Function> {
    let environment = tools::python_environment(root, Path::new(PEER_PROJECT))?;
    let task = folder.join("task");
    fs::create_dir(&task).with_context(|| format!("make {}", task.display()))?;
    let handler = root.join(PEER_PROJECT).join(HANDLER);
    for (from, name) in [(&handler, HANDLER), (&model, "model.joblib")] {
        fs::copy(from, task.join(name)).with_context(|| format!("copy {}", from.display()))?;
    }
    Ok(Function {
        name: "the Python handler",
        program: environment.python,
        arguments: ["-m", "awslambdaric", "handler.handler"].map(OsString::from).to_vec(),
        model: task.join("model.joblib"),
        folder: task,
        prediction: Some(prediction),
        log: folder.join("handler.log"),
    })
}

/// A program that speaks the Runtime API.
struct Function {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<OsString>,
    folder: PathBuf,
    model: PathBuf,
    /// What it must predict, if it predicts.
    prediction: Option<i64>,
    /// What the newest process printed.
    log: PathBuf,
}

/// What one process did.
struct Outcome {
    /// From its start to its first answer.
    first: Duration,
    /// Of the answers after the first, in microseconds.
    round_trips: Vec<f64>,
    /// Most memory it ever held, in kB, where the system tells.
    peak: Option<u64>,
    /// How it came by the processor, where the system tells.
    turns: Option<Turns>,
}

/// Nanoseconds of a process on a processor, and ready but waiting for one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Turns {
    ran: u64,
    waited: u64,
}

impl Turns {
    /// Of all threads of a process that is still there.
    fn of_process(id: u32) -> Option<Turns> {
        let mut sum = Turns::default();
        for thread in fs::read_dir(format!("/proc/{id}/task")).ok()? {
            let turns = Turns::parse(&fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?)?;
            sum = Turns { ran: sum.ran + turns.ran, waited: sum.waited + turns.waited };
        }
        // A kernel that does not count shows zeros.
        (sum.ran > 0).then_some(sum)
    }

    /// Understands a thread's `schedstat`.
    fn parse(text: &str) -> Option<Turns> {
        let mut numbers = text.split_whitespace().map(|word| word.parse().ok());
        Some(Turns { ran: numbers.next()??, waited: numbers.next()?? })
    }

    fn share_waited(self) -> f64 {
        100.0 * self.waited as f64 / (self.ran + self.waited) as f64
    }
}

impl Function {
    /// Starts a process, has it answer the event `count` times, and ends it.
    fn invoke(&self, test: &SmokeTest, count: usize) -> Result<Outcome> {
        self.try_to_invoke(test, count).with_context(|| match tail(&self.log, 15) {
            printed if printed.is_empty() => format!("measure {}", self.name),
            printed => format!("measure {}, which printed\n{printed}\n", self.name),
        })
    }

    fn try_to_invoke(&self, test: &SmokeTest, count: usize) -> Result<Outcome> {
        // Before the process in its scope, so that the process ends first.
        let api = RuntimeApi::start(&test.event, count)?;
        let mut command = self.command(&api.address())?;
        let started = Instant::now();
        let mut process = Process::start(&mut command)?;
        let answers = api.wait(LIMIT, || process.alive())?;
        let peak = fs::read_to_string(format!("/proc/{}/status", process.0.id())).ok().as_deref().and_then(peak);
        let turns = Turns::of_process(process.0.id());
        drop(process);
        for (answer, expected) in answers.iter().zip(self.prediction.iter().cycle()) {
            let prediction = prediction_of(&answer.body)?;
            if prediction != *expected {
                bail!("it predicts {prediction} for {}, expected {expected}", test.event);
            }
        }
        let Some((first, others)) = answers.split_first() else { bail!("no event was answered") };
        Ok(Outcome {
            first: first.at - started,
            round_trips: others.iter().map(|answer| answer.round_trip.as_secs_f64() * 1e6).collect(),
            peak,
            turns,
        })
    }

    /// With Lambda's variables and nothing of this process's environment but where programs and libraries are found.
    fn command(&self, address: &str) -> Result<Command> {
        let log = File::create(&self.log).with_context(|| format!("write {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(&self.folder).env_clear().stdin(Stdio::null());
        for name in ["PATH", "LD_LIBRARY_PATH", "HOME"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("AWS_LAMBDA_RUNTIME_API", address)
            .env("AWS_LAMBDA_FUNCTION_NAME", "bench")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/bench")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "bench")
            .env("AWS_REGION", "us-east-1")
            .env("LAMBDA_TASK_ROOT", &self.folder)
            .env("LANG", "C.UTF-8")
            .env("TZ", "UTC")
            .env("MODEL_PATH", &self.model)
            .env("_HANDLER", "handler.handler")
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log);
        Ok(command)
    }
}

/// A process that ends with its owner, whatever happens.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Result<Process> {
        match command.spawn() {
            Ok(child) => Ok(Process(child)),
            Err(error) => Err(error).with_context(|| format!("start {}", command.get_program().display())),
        }
    }

    /// Fails once it has ended.
    fn alive(&mut self) -> Result<()> {
        match self.0.try_wait().context("look after the process")? {
            Some(status) => bail!("it ended before it had answered: {status}"),
            None => Ok(()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The least that a static program costs: what no function can be quicker than.
fn compile_empty_program(folder: &Path) -> Result<PathBuf> {
    let source = folder.join("empty.rs");
    fs::write(&source, "fn main() {}\n").with_context(|| format!("write {}", source.display()))?;
    let program = folder.join("empty");
    Program::new("compile an empty program", "rustc", folder)
        .args(["-O", "-Ctarget-feature=+crt-static", "-Crelocation-model=static", "-Cpanic=abort", "-Cstrip=symbols"])
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .limit(Duration::from_secs(120))
        .run(&folder.join("rustc.log"))?;
    // Once with a limit: while the clock runs nothing but the program's end is waited for.
    Program::new("run an empty program", &program, folder)
        .limit(Duration::from_secs(30))
        .run(&folder.join("empty.log"))?;
    Ok(program)
}

fn start_to_exit(program: &Path) -> Result<Duration> {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let started = Instant::now();
    let mut process = Process::start(&mut command)?;
    let status = process.0.wait().context("wait for the empty program")?;
    let taken = started.elapsed();
    if !status.success() {
        bail!("the empty program failed: {status}");
    }
    Ok(taken)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The prediction in a function's answer.
fn prediction_of(answer: &[u8]) -> Result<i64> {
    let wrong = || format!("its answer has no prediction: {}", String::from_utf8_lossy(answer));
    let answer: Value = serde_json::from_slice(answer).with_context(wrong)?;
    let body: Value = serde_json::from_str(answer["body"].as_str().unwrap_or_default()).with_context(wrong)?;
    body["prediction"].as_i64().with_context(wrong)
}

/// `VmHWM` of a process's status, in kB.
fn peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prediction_is_read_from_the_body_or_the_answer_shown() {
        let answer = br#"{"statusCode": 200, "body": "{\"prediction\": 1, \"decision\": \"approved\"}"}"#;
        assert_eq!(prediction_of(answer).unwrap(), 1);
        for answer in ["", "[]", r#"{"body": {}}"#, r#"{"body": "{}"}"#, r#"{"body": "{\"prediction\": 0.5}"}"#] {
            let error = prediction_of(answer.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(&format!("no prediction: {answer}")), "{error:#}");
        }
    }

    #[test]
    fn the_peak_is_read_from_the_status() {
        assert_eq!(peak("Name:\tbootstrap\nVmPeak:\t    9000 kB\nVmHWM:\t    1840 kB\nVmRSS:\t 1 kB\n"), Some(1840));
        assert_eq!(peak("Name:\tbootstrap\n"), None);
        assert_eq!(peak("VmHWM:\tmuch kB\n"), None);
    }

    #[test]
    fn the_scheduler_tells_running_from_waiting() {
        let turns = Turns::parse("1500000 500000 7\n").unwrap();
        assert_eq!(turns, Turns { ran: 1_500_000, waited: 500_000 });
        assert_eq!(turns.share_waited(), 25.0);
        assert_eq!(Turns::parse(""), None);
        assert_eq!(Turns::parse("1 many 2"), None);
    }

    #[test]
    fn a_process_that_ends_early_or_does_not_exist_is_an_error_with_its_output() {
        let folder = tempfile::tempdir().unwrap();
        let function = |program: &str| Function {
            name: "a function",
            program: PathBuf::from(program),
            arguments: ["-c", "echo because; exit 7"].map(OsString::from).to_vec(),
            folder: folder.path().to_path_buf(),
            model: PathBuf::new(),
            prediction: None,
            log: folder.path().join("log"),
        };
        let test = SmokeTest { name: "test".into(), event: Value::Null, prediction: 1 };
        let error = format!("{:#}", function("sh").invoke(&test, 1).err().unwrap());
        assert!(error.contains("because") && error.contains("ended before") && error.contains('7'), "{error}");
        let error = format!("{:#}", function("/no/such/program").invoke(&test, 1).err().unwrap());
        assert!(error.contains("start /no/such/program"), "{error}");
    }

    /// The versions that a lock file gives its packages.
    fn locked(project: &str) -> Vec<(String, String)> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(project).join("uv.lock");
        let lock: toml::Value = toml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let text =
            |package: &toml::Value, key: &str| package.get(key).and_then(toml::Value::as_str).unwrap().to_string();
        let packages = lock["package"].as_array().unwrap();
        packages.iter().map(|package| (text(package, "name"), text(package, "version"))).collect()
    }

    #[test]
    fn the_peer_loads_the_model_with_the_versions_that_trained_it() {
        let model = locked("model");
        let peer = locked(PEER_PROJECT);
        for name in ["joblib", "numpy", "pandas", "scikit-learn", "scipy"] {
            let of = |locked: &[(String, String)]| -> Vec<_> {
                locked.iter().filter(|(package, _)| package == name).cloned().collect()
            };
            assert!(!of(&peer).is_empty(), "{name}");
            assert_eq!(of(&peer), of(&model), "bring tests/bench/pyproject.toml to the versions of model/uv.lock");
        }
    }
}
