//! What the cases begin with: three candidates for the function, made from the newest run by the pipeline's own stages, and
//! clouds in which one of them is live.
//!
//! Training is the one thing that is not done again: a candidate's model is the newest run's with another number in its
//! metadata, so that it has a digest of its own and answers alike. The record of its tests is taken over with that digest.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use local_aws::{LocalCloud, Options};
use serde_json::{Value, json};

use super::sandbox::{ENVIRONMENT, Sandbox, replace};
use crate::records::Stage;
use crate::{digest, paths, report};

/// A run that could be deployed.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub run: String,
    /// Digest of its image.
    pub image: String,
    /// Digest of its model.
    pub model: String,
}

/// Everything that was prepared.
pub struct Fixtures {
    folder: PathBuf,
    /// Live before a case.
    pub old: Candidate,
    /// What the case brings.
    pub new: Candidate,
    /// What the other deployer of a race brings.
    pub other: Candidate,
}

/// How far a candidate has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Trained and compiled.
    Made,
    /// With the image in the registry.
    Built,
    /// Allowed by the gate.
    Judged,
    /// Live.
    Deployed,
}

/// A cloud's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Empty,
    /// The old candidate's image, and it is live.
    Old,
    /// All images, and the old one is live.
    Live,
    /// All images and no function.
    Pushed,
    /// As `Live`, and the scanner found so much in the new image that it takes two pages.
    Findings,
    /// The new candidate is live, and the old one was before.
    Replaced,
}

/// Findings of the new image: one page holds a hundred.
const FINDINGS: usize = 150;

impl Fixtures {
    /// Prepares everything in `folder`, from the newest run of the clone at `root`.
    ///
    /// # Errors
    /// There is no finished run of these sources.
    pub async fn prepare(root: &Path, folder: &Path) -> Result<Fixtures> {
        let base = paths::latest(root);
        let fix = "run `cargo xtask pipeline` first: the cases are made from its newest run";
        if !base.join("made.json").is_file() || !base.join(Stage::Test.file()).is_file() {
            bail!("{} has no made.json and test.json: {fix}", base.display());
        }
        let sandbox = Sandbox::new(root, &folder.join("preparation"))?;
        fs::create_dir_all(folder.join("empty")).context("make the empty cloud")?;
        let candidate = async |letter: char| {
            prepare(&sandbox, &base, folder, letter).await.with_context(|| format!("prepare candidate {letter}: {fix}"))
        };
        let old = candidate('1').await?;
        let cloud = serve(&sandbox.cloud).await?;
        sandbox.must(&["deploy", "--run", &old.run], cloud.endpoint_url()).await?;
        cloud.shutdown().await;
        replace(&sandbox.cloud, &state(folder, State::Old))?;
        let (new, other) = (candidate('2').await?, candidate('3').await?);
        replace(&sandbox.cloud, &state(folder, State::Live))?;
        replace(&sandbox.cloud, &state(folder, State::Pushed))?;
        fs::remove_dir_all(state(folder, State::Pushed).join("lambda")).context("forget the function")?;
        replace(&sandbox.cloud, &state(folder, State::Findings))?;
        write_findings(&state(folder, State::Findings), &new.image)?;
        let go_on = async |command: &[&str], reached| {
            sandbox.restore(&runs(folder, &new.run, Progress::Judged), &state(folder, State::Live))?;
            let cloud = serve(&sandbox.cloud).await?;
            sandbox.must(command, cloud.endpoint_url()).await?;
            cloud.shutdown().await;
            replace(&sandbox.cloud, &state(folder, reached))
        };
        go_on(&["deploy"], State::Replaced).await?;
        replace(&sandbox.runs(), &runs(folder, &new.run, Progress::Deployed))?;
        Ok(Fixtures { folder: folder.to_path_buf(), old, new, other })
    }

    /// A kept cloud.
    pub fn cloud(&self, wanted: State) -> PathBuf {
        state(&self.folder, wanted)
    }

    /// A candidate's kept runs.
    pub fn runs(&self, candidate: &Candidate, progress: Progress) -> PathBuf {
        runs(&self.folder, &candidate.run, progress)
    }
}

/// Serves a cloud's state on a free port.
pub async fn serve(state: &Path) -> Result<LocalCloud> {
    let options = Options { root: state.to_path_buf(), port: 0, region: "us-east-1".to_string() };
    LocalCloud::start(options).await.context("start a cloud")
}

fn state(folder: &Path, state: State) -> PathBuf {
    folder.join(match state {
        State::Empty => "empty",
        State::Old => "cloud-old",
        State::Live => "cloud-live",
        State::Pushed => "cloud-pushed",
        State::Findings => "cloud-findings",
        State::Replaced => "cloud-replaced",
    })
}

fn runs(folder: &Path, run: &str, progress: Progress) -> PathBuf {
    folder.join(match progress {
        Progress::Made => format!("{run}-made"),
        Progress::Built => format!("{run}-built"),
        Progress::Judged => format!("{run}-judged"),
        Progress::Deployed => format!("{run}-deployed"),
    })
}

/// Brings a candidate from its model to the gate's verdict, and keeps the run at every step.
async fn prepare(sandbox: &Sandbox, base: &Path, folder: &Path, letter: char) -> Result<Candidate> {
    let run = format!("candidate-{letter}");
    let home = sandbox.runs().join(&run);
    if sandbox.runs().exists() {
        fs::remove_dir_all(sandbox.runs()).context("remove the runs of the candidate before")?;
    }
    fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
    std::os::unix::fs::symlink(&run, sandbox.runs().join("latest")).context("name the newest run")?;
    let keep = |progress| replace(&sandbox.runs(), &runs(folder, &run, progress));
    let model = write_made(base, &home, letter).context("take over what the newest run made")?;
    keep(Progress::Made)?;

    let cloud = serve(&sandbox.cloud).await?;
    let url = cloud.endpoint_url().to_string();
    let built = sandbox.must(&["build", "--run", &run], &url).await?;
    if !built.errors.contains("going on with the push") {
        bail!("the sources are not those of the newest run");
    }
    keep(Progress::Built)?;
    sandbox.must(&["scan", "--run", &run], &url).await?;
    let image = read(&home.join(Stage::Build.file()))?["image"]["digest"].as_str().unwrap_or_default().to_string();
    write_test(base, &home, &run, &model, &image).context("take over the newest run's tests")?;
    sandbox.must(&["gate", "--run", &run], &url).await?;
    keep(Progress::Judged)?;
    cloud.shutdown().await;
    Ok(Candidate { run, image, model })
}

/// Writes what `build` finds when a run was made and not pushed; gives the model's digest.
fn write_made(base: &Path, home: &Path, letter: char) -> Result<String> {
    let model = variant(&fs::read(base.join("model.bin")).context("read model.bin")?, letter)?;
    let digest = digest::of_bytes(&model);
    let mut training = read(&base.join("training.json"))?;
    training["model"]["sha256"] = json!(digest);
    let mut made = read(&base.join("made.json"))?;
    let files = made["files"].as_object_mut().context("made.json names no files")?;
    for (name, found) in files {
        match name.as_str() {
            "model.bin" => fs::write(home.join(name), &model)?,
            "training.json" => fs::write(home.join(name), training.to_string())?,
            _ => fs::copy(base.join(name), home.join(name)).map(|_| ())?,
        }
        *found = json!(digest::of_file(&home.join(name))?);
    }
    fs::write(home.join("made.json"), made.to_string())?;
    Ok(digest)
}

/// The same model with another number in its metadata, which no answer depends on.
fn variant(model: &[u8], letter: char) -> Result<Vec<u8>> {
    const KEY: &[u8] = b"\"test_rows\":";
    let at = model.windows(KEY.len()).position(|window| window == KEY).context("the model's metadata has no rows")?;
    let mut model = model.to_vec();
    model[at + KEY.len()] = u8::try_from(letter).context("a digit is one byte")?;
    // The header has a check sum of all that follows it.
    let mut sum = flate2::Crc::new();
    sum.update(&model[64..]);
    model[24..28].copy_from_slice(&sum.sum().to_le_bytes());
    Ok(model)
}

/// The newest run's tests, speaking of this model and image.
fn write_test(base: &Path, home: &Path, run: &str, model: &str, image: &str) -> Result<()> {
    let mut record = read(&base.join(Stage::Test.file()))?;
    let (old_model, old_image) = (text(&record["model"])?, text(&record["image"])?);
    let files = record["files"].as_object_mut().context("test.json names no files")?;
    for (name, found) in files {
        let bytes = fs::read(base.join(name)).with_context(|| format!("read {name}"))?;
        match String::from_utf8(bytes) {
            Ok(content) => fs::write(home.join(name), content.replace(&old_model, model))?,
            Err(other) => fs::write(home.join(name), other.into_bytes())?,
        }
        *found = json!(digest::of_file(&home.join(name))?);
    }
    let page = fs::read_to_string(base.join(report::FILE)).context("read the report")?.replace(&old_model, model);
    fs::write(home.join(report::FILE), &page)?;
    record["report"] = json!(report::digest_without_verdict(&page)?);
    record["run"] = json!(run);
    record["environment"] = json!(ENVIRONMENT);
    // The gate takes no tests from before the build, and the newest run may be of last week.
    for time in ["started_at", "finished_at"] {
        record[time] = json!(chrono::Utc::now());
    }
    record["inputs"][Stage::Build.file()] = json!(digest::of_file(&home.join(Stage::Build.file()))?);
    let record = record.to_string().replace(&old_model, model).replace(&old_image, image);
    fs::write(home.join(Stage::Test.file()), record)?;
    Ok(())
}

/// What a scanner found in an image.
fn write_findings(cloud: &Path, image: &str) -> Result<()> {
    let finding = |number: usize| {
        json!({
            "name": format!("CVE-2026-{number:05}"),
            "severity": if number.is_multiple_of(3) { "MEDIUM" } else { "LOW" },
            "description": "made up",
            "attributes": [{"key": "package_name", "value": format!("package-{number}")}, {"key": "package_version", "value": "1"}],
        })
    };
    let medium = FINDINGS.div_ceil(3);
    let findings = json!({"imageScanFindings": {
        "findings": (0..FINDINGS).map(finding).collect::<Vec<_>>(),
        "findingSeverityCounts": {"MEDIUM": medium, "LOW": FINDINGS - medium},
    }});
    let name = format!("{}.json", image.trim_start_matches("sha256:"));
    let folder = cloud.join("findings");
    fs::create_dir_all(&folder).context("make the folder of findings")?;
    fs::write(folder.join(name), findings.to_string()).context("write the findings")
}

/// Reads a JSON file.
pub fn read(path: &Path) -> Result<Value> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("understand {}", path.display()))
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(String::from).context("a record names no digest")
}
