//! Test: the notebook's tests, the metrics of the very model in the image, and the parity of Python and Rust.
//!
//! Reads build.json and the image in the registry. Writes `test.json`, beside it `report.xml`, `metrics.json`,
//! `behaviour.json`, `model_metrics.html`, `shared_env_variables.txt` and `predictions.csv`. It only measures; the gate
//! judges. At the end the run is logged to MLflow.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::context::{Context, Work};
use crate::notebook::{Cases, Place};
use crate::process::Program;
use crate::records::{Digests, Record, Stage};
use crate::stages::{build, deploy, scan};
use crate::terminal::{Progress, note};
use crate::{config, digest, github, image, notebook, report, tools, tracking};

/// What was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Content {
    /// The model that was taken out of the image and measured.
    pub model: String,
    /// The image that it was taken from.
    pub image: String,
    pub cases: Cases,
    /// Where the notebook's tests ran.
    pub notebook: Place,
    /// The content of metrics.json.
    pub metrics: Value,
    /// The content of behaviour.json.
    #[serde(default)]
    pub behaviour: Value,
    /// Digest of the report without the verdict that the gate writes into it.
    #[serde(default)]
    pub report: String,
    /// Where the report can be read.
    pub report_url: String,
    pub report_key: String,
}

const FILES: [&str; 5] =
    ["report.xml", "metrics.json", "behaviour.json", "shared_env_variables.txt", "predictions.csv"];

/// The owners' part of the model card, beside the notebook.
const CARD: &str = "model_card.toml";

/// Runs the stage.
pub fn run(context: &Context) -> Result<Record<Content>> {
    if let Some(record) = context.taken_over::<Content>(Stage::Test)? {
        set_outputs(context, &record)?;
        return Ok(record);
    }
    let build: Record<build::Content> = context.read(Stage::Build)?;
    build::sources_unchanged(context, &build)?;
    let environment = &context.environment;
    let inputs = Digests::from([
        ("build.json".to_string(), context.record_digest(Stage::Build)?),
        (
            "configuration".to_string(),
            context.configuration_digest(&(&environment.bucket, &environment.report_key, &context.config.metrics))?,
        ),
    ]);
    if let Some(record) = context.unchanged::<Content>(Stage::Test, &inputs) {
        context.skipped(Stage::Test);
        set_outputs(context, &record)?;
        tracking::log(context, &build, &record);
        return Ok(record);
    }
    let work = context.begin(Stage::Test)?;
    for file in FILES.iter().chain([&report::FILE]) {
        let _ = fs::remove_file(work.folder.join(file));
    }
    // A bucket that cannot be had is better known before minutes of measuring than after.
    context.block_on(context.cloud()?.ensure_bucket(environment))?;
    let model = model_of_image(context, &work, &build)?;
    let python = tools::python_environment(&context.root, &context.config.model.directory)?;
    let (cases, place) = notebook::run_tests(context, &work, &python, &build.content.training_image)?;
    let programs = build::compile(&context.root, &context.config.inference, &work.log("compile"))?;
    let measuring = Measuring {
        root: &context.root,
        config: &context.config.model,
        python: &python,
        score: &programs.score,
        folder: &work.folder,
        model: &model,
        log: &|name| work.log(name),
    };
    measuring.run()?;
    let digest = &build.content.model.digest;
    let metrics = read_of_model(&work, "metrics.json", digest)?;
    let behaviour = read_of_model(&work, "behaviour.json", digest)?;
    let page = draw_report(context, &work, &measuring)?;
    let report_url = upload_report(context, &work, &page)?;
    let content = Content {
        model: build.content.model.digest.clone(),
        image: build.content.image.digest.clone(),
        cases,
        notebook: place,
        metrics,
        behaviour,
        report: report::digest_without_verdict(&page)?,
        report_url,
        report_key: environment.report_key.clone(),
    };
    let record = work.finish(inputs, &FILES, content)?;
    say(&record);
    set_outputs(context, &record)?;
    // The record is whole by now: whatever happens to the tracking, the measuring is not done again.
    tracking::log(context, &build, &record);
    Ok(record)
}

/// Takes the model out of the image in the registry and checks that it is the one that build.json names.
fn model_of_image(context: &Context, work: &Work, build: &Record<build::Content>) -> Result<PathBuf> {
    let image = &build.content.image;
    let cloud = context.cloud()?;
    let file = |path| context.block_on(scan::file_of(cloud, &image.repository, &image.digest, 1, path));
    let bytes = file(image::MODEL_PATH)?;
    let found = digest::of_bytes(&bytes);
    if found != build.content.model.digest {
        bail!(
            "the model in image {} is {found}, build.json says {}",
            build.content.image.digest,
            build.content.model.digest
        );
    }
    // The function names the model by what is written there.
    if file(image::MODEL_DIGEST_PATH)? != image::digest_file(&bytes).as_bytes() {
        bail!("/{} in image {} is not the model's digest", image::MODEL_DIGEST_PATH, build.content.image.digest);
    }
    let path = work.folder.join("model-of-image.bin");
    crate::records::write_atomically(&path, &bytes)?;
    Ok(path)
}

/// Measures the model of a run's folder, which has the files that the training left.
pub struct Measuring<'a> {
    pub root: &'a Path,
    pub config: &'a config::Model,
    pub python: &'a tools::Environment,
    /// The batch scorer.
    pub score: &'a Path,
    pub folder: &'a Path,
    /// The model file that ships.
    pub model: &'a Path,
    /// Where a step's log is kept, by the step's name.
    pub log: &'a dyn Fn(&str) -> PathBuf,
}

impl Measuring<'_> {
    /// Scores the test split with the Rust program and the model file, and has Python judge the predictions and try how the two
    /// behave.
    pub fn run(&self) -> Result<()> {
        Program::new("score the test split", self.score, self.folder)
            .arg("--model")
            .arg(self.model)
            .args(["--input", "test_split.csv", "--output", "predictions.csv"])
            .run(&(self.log)("score"))?;
        let module = |what: &str, name: &str| {
            self.module(what, name)
                .arg("--predictions")
                .arg(self.folder.join("predictions.csv"))
                .arg("--out")
                .arg(self.folder)
                .arg("--settings")
                .arg(self.root.join(config::FILE))
                .quiet()
        };
        let metrics = module("measure the model", "metrics");
        let behaviour = module("try how the model behaves", "behaviour")
            .arg("--score")
            .arg(self.score)
            .arg("--model")
            .arg(self.model);
        side_by_side((metrics, &(self.log)("metrics")), (behaviour, &(self.log)("behaviour")))
    }

    /// Draws the report of what was measured.
    pub fn drawing(&self) -> Program {
        self.module("draw the report", "report")
            .arg("--card")
            .arg(self.root.join(&self.config.directory).join(CARD))
            .arg("--out")
            .arg(self.folder.join(report::FILE))
    }

    /// A module of the model's package, told which run it works on.
    fn module(&self, what: &str, name: &str) -> Program {
        let name = format!("{}.{name}", self.config.package);
        self.python.module(what, &name, self.folder).arg("--run").arg(self.folder)
    }
}

/// Runs two programs that do not need each other at the same time, each with its log. The first one's error counts before the
/// second one's.
fn side_by_side(first: (Program, &Path), second: (Program, &Path)) -> Result<()> {
    let _progress = Progress::start("measure the model and try how it behaves", None);
    let (one, other) = thread::scope(|scope| {
        let beside = scope.spawn(|| second.0.run(second.1));
        (first.0.run(first.1), beside.join())
    });
    one?;
    other.map_err(|_| anyhow!("a thread of the test stage panicked"))?
}

/// The content of a file that must speak of the model in the image.
fn read_of_model(work: &Work, name: &str, digest: &str) -> Result<Value> {
    let path = work.folder.join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let content: Value = serde_json::from_str(&text).with_context(|| format!("understand {}", path.display()))?;
    if content["model"] != digest {
        bail!("{} speaks of model {}, the image has {digest}", path.display(), content["model"]);
    }
    Ok(content)
}

/// Draws the report of what was measured, beside what is live where something is.
fn draw_report(context: &Context, work: &Work, measuring: &Measuring) -> Result<String> {
    let path = work.folder.join(report::FILE);
    let mut drawing = measuring.drawing();
    match context.block_on(deploy::live_description(context.cloud()?, &context.environment)) {
        Ok(Some(live)) => {
            let file = work.folder.join("live.json");
            crate::records::write_atomically(&file, &live)?;
            drawing = drawing.arg("--live").arg(file);
        }
        Ok(None) => (),
        Err(error) => note(&format!("the report has nothing of the live model: {error:#}")),
    }
    drawing.run(&work.log("report"))?;
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// Publishes the report in the bucket: under its fixed name, and under the run's own for later.
fn upload_report(context: &Context, work: &Work, page: &str) -> Result<String> {
    let environment = &context.environment;
    let cloud = context.cloud()?;
    context.block_on(deploy::publish_report(cloud, environment, &work.run, page.as_bytes()))?;
    let url = deploy::addresses(cloud, environment).report_url;
    // Not evidence: deploy hands out a link of its own, which may be signed anew.
    crate::records::write_atomically(&work.folder.join("artifact.txt"), format!("{url}\n").as_bytes())?;
    Ok(url)
}

/// The variables that the metrics hand on; unknown names are said and ignored.
fn shared_variables(text: &str) -> (BTreeMap<String, String>, Vec<String>) {
    let mut known = BTreeMap::new();
    let mut unknown = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.split_once('=') {
            Some((name @ ("ACCURACY" | "EQUAL_OPPORTUNITY_FAIRNESS_PERCENT"), value)) => {
                known.insert(name.to_string(), value.to_string());
            }
            _ => unknown.push(line.split('=').next().unwrap_or(line).to_string()),
        }
    }
    (known, unknown)
}

/// The equal opportunity difference of metrics, for people.
pub fn points(metrics: &Value) -> String {
    let points = metrics["fairnessScoreEqualOpportunity"].as_f64();
    points.map_or("unknown".to_string(), |points| format!("{points:.2} points"))
}

fn say(record: &Record<Content>) {
    let Content { cases, notebook, metrics, behaviour, report_url, .. } = &record.content;
    note(&format!(
        "notebook: {} cases, {} passed, {} failed, {} skipped, in the {}",
        cases.total, cases.passed, cases.failed, cases.skipped, notebook.kind
    ));
    note(&format!(
        "accuracy {}, equal opportunity difference {} on {} rows",
        metrics["accuracy"],
        points(metrics),
        metrics["rows"]
    ));
    let aware = &metrics["baselines"]["aware"];
    if !aware.is_null() {
        note(&format!("the baseline that sees the sensitive attributes, which does not ship: {}", points(aware)));
    }
    note(&format!(
        "Python and Rust: {} different classes, {} different probabilities in {} rows",
        metrics["parity"]["class_differences"], metrics["parity"]["probability_differences"], metrics["parity"]["rows"]
    ));
    let checks = behaviour["checks"].as_array().map_or(&[][..], Vec::as_slice);
    let passed = checks.iter().filter(|check| check["status"] == "pass").count();
    note(&format!("behaviour: {passed} of {} checks passed, {} generated pairs", checks.len(), behaviour["pairs"]));
    for check in checks.iter().filter(|check| check["status"] != "pass") {
        let text = |key: &str| check[key].as_str().unwrap_or_default();
        note(&format!("  {}: {}: {}", text("status"), text("name"), text("reason")));
    }
    note(&format!("report {report_url}"));
}

fn set_outputs(context: &Context, record: &Record<Content>) -> Result<()> {
    let path = context.folder()?.join("shared_env_variables.txt");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let (known, unknown) = shared_variables(&text);
    for name in unknown {
        note(&format!("Ignoring unknown variable: {name}"));
    }
    for (name, value) in &known {
        github::output(name, value)?;
    }
    github::output("report_url", &record.content.report_url)?;
    let content = &record.content;
    github::summary(&format!(
        "### Test\n\n| | |\n|---|---|\n| model | `{}` |\n| accuracy | {} |\n| equal opportunity difference | {} |\n\
         | test cases | {} passed, {} failed, {} skipped, in the {} |\n| report | {} |",
        content.model,
        content.metrics["accuracy"],
        points(&content.metrics),
        content.cases.passed,
        content.cases.failed,
        content.cases.skipped,
        content.notebook.kind,
        content.report_url
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_variables_are_told_apart() {
        let (known, unknown) =
            shared_variables("ACCURACY=0.9\nOTHER=1\n\nEQUAL_OPPORTUNITY_FAIRNESS_PERCENT=7.0\nnonsense\n");
        assert_eq!(known.len(), 2);
        assert_eq!(unknown, ["OTHER", "nonsense"]);
    }

    #[test]
    fn two_programs_run_at_the_same_time_and_either_can_fail() {
        let folder = tempfile::tempdir().unwrap();
        let log = |name: &str| folder.path().join(name);
        let shell = |what: &str, script: &str| Program::new(what, "sh", folder.path()).args(["-c", script]).quiet();
        let run = |first: &str, second: &str| {
            side_by_side((shell("hop", first), &log("first")), (shell("skip", second), &log("second")))
        };
        // Each waits, for five seconds at most, for what the other does meanwhile.
        let meet = |mine: &str, others: &str| {
            format!("touch {mine}; for _ in $(seq 50); do [ -e {others} ] && exit 0; sleep 0.1; done; exit 1")
        };
        run(&meet("a", "b"), &meet("b", "a")).unwrap();
        let first = run("echo oh; exit 3", "true").unwrap_err().to_string();
        assert!(first.contains("could not hop: it ended with exit code 3") && first.contains("oh"), "{first}");
        let second = run("true", "exit 4").unwrap_err().to_string();
        assert!(second.contains("could not skip: it ended with exit code 4"), "{second}");
    }
}
