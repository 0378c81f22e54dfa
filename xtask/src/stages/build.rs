//! Build: trains and exports the model, compiles the predictor, assembles the inference image and pushes it, and a
//! zip package where the environment deploys one; has the
//! training image built where the environment wants one.
//!
//! Reads the sources and the data. Writes `build.json`, beside it the model as `model.joblib` and `model.bin`, the rows
//! that it was trained on as `train_split.csv` and those that it was not as `test_split.csv`, and how it was trained as
//! `training.json`; and `bootstrap`, the program that ships, with `made.json`, which says what all of them were made from. A
//! build that ended between making and pushing is taken up there: the same sources are not trained and compiled twice because
//! a registry was busy.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Inference, Package};
use crate::context::{Context, Work};
use crate::image::Image;
use crate::package::{self, PackageRecord};
use crate::process::Program;
use crate::records::{Digests, Record, Stage};
use crate::registry::Repository;
use crate::terminal::{bytes, note};
use crate::training_image::{self, TrainingImage};
use crate::{dependencies, digest, git, github, image, paths, terminal, tools};

/// What was built.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Content {
    /// Commit of the sources, if git knows it.
    pub commit: Option<String>,
    /// Whether the sources differ from the commit.
    pub dirty: Option<bool>,
    pub dataset: Value,
    pub model: ModelFile,
    pub program: ProgramFile,
    pub image: ImageRecord,
    /// The same program and model as a zip; none where the environment deploys images.
    #[serde(default)]
    pub package: Option<PackageRecord>,
    pub training_image: TrainingImage,
    /// Versions of the compilers and libraries that made it.
    pub toolchain: Value,
}

/// The model that ships.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelFile {
    pub digest: String,
    pub bytes: u64,
    /// Accuracy on the rows that it was trained on, as training measured it.
    pub train: Value,
}

/// The predictor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProgramFile {
    pub digest: String,
    pub bytes: u64,
    pub target: String,
}

/// The image in the registry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageRecord {
    pub repository: String,
    pub tag: String,
    pub digest: String,
    pub layers: Vec<LayerRecord>,
    pub bytes: u64,
    pub uncompressed_bytes: u64,
}

/// A layer of the image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LayerRecord {
    pub content: String,
    pub digest: String,
    pub bytes: u64,
    /// Whether the registry did not have it yet.
    pub pushed: bool,
}

/// Files that training leaves in the run's folder.
const FILES: [&str; 5] = ["model.joblib", "model.bin", "train_split.csv", "test_split.csv", "training.json"];
/// The program that ships, in the run's folder.
const PROGRAM: &str = "bootstrap";
/// What a denial says of features, as training reads it.
const REASONS: &str = "reasons.json";
/// Says that everything was made that the image is assembled from.
const MADE: &str = "made.json";

/// What lies in a run's folder before it is pushed, and what it was made from.
#[derive(Serialize, Deserialize)]
struct Made {
    inputs: Digests,
    files: Digests,
}

/// Runs the stage.
pub fn run(context: &Context) -> Result<Record<Content>> {
    if let Some(record) = context.taken_over::<Content>(Stage::Build)? {
        set_outputs(&record)?;
        return Ok(record);
    }
    let inputs = inputs(context)?;
    if let Some(record) = reusable(context, &inputs)? {
        context.skipped(Stage::Build);
        set_outputs(&record)?;
        return Ok(record);
    }
    let unpushed = unpushed(context, &inputs);
    let made = unpushed.is_some();
    let run = unpushed.or_else(|| context.named_run()).unwrap_or_else(|| context.new_run_id());
    context.select_run(&run)?;
    let work = context.begin(Stage::Build)?;
    note(&format!("run {run}"));

    // First, because only it can find that something must be installed.
    let training_image = training_image::provide(context, &run, &work.log("training-image"))?;
    if made {
        note("trained and compiled from these sources already, going on with the push");
    } else {
        make(context, &work, &inputs)?;
    }
    let training = read_training(&work.folder)?;
    let read = |name: &str| fs::read(work.folder.join(name)).with_context(|| format!("read {name}"));
    let (program, model) = (read(PROGRAM)?, read("model.bin")?);
    let model_digest = digest::of_bytes(&model);
    if training["model"]["sha256"] != model_digest.as_str() {
        bail!("training.json says the model is {}, model.bin is {model_digest}", training["model"]["sha256"]);
    }

    let image = image::assemble(&program, &model, context.config.inference.architecture.image_architecture())?;
    let image_record = push(context, &image, &run)?;
    let package = match context.environment.package {
        Package::Image => None,
        Package::Zip => Some(store_package(context, &program, &model)?),
    };
    // The sources could have been edited while they were built; then the record would speak of other bytes.
    if self::inputs(context)? != inputs {
        bail!("the sources changed while they were built: run `cargo xtask build` again");
    }
    let content = Content {
        commit: git::commit(&context.root),
        dirty: git::dirty(&context.root),
        dataset: training["dataset"].clone(),
        model: ModelFile { digest: model_digest, bytes: model.len() as u64, train: training["train"].clone() },
        program: ProgramFile {
            digest: digest::of_bytes(&program),
            bytes: program.len() as u64,
            target: context.config.inference.architecture.rust_target().to_string(),
        },
        image: image_record,
        package,
        training_image,
        toolchain: serde_json::json!({"rustc": rustc_version()?, "python": training["versions"]}),
    };
    let record = work.finish(inputs, &FILES, content)?;
    report(&record);
    set_outputs(&record)?;
    Ok(record)
}

/// Digests of everything that decides what is built.
pub fn inputs(context: &Context) -> Result<Digests> {
    let root = &context.root;
    let config = &context.config;
    let mut inputs = Digests::new();
    for path in [
        &config.model.directory,
        Path::new(&config.inference.package),
        Path::new("Cargo.lock"),
        Path::new("Cargo.toml"),
    ] {
        inputs.insert(path.display().to_string(), digest::of_tree(&root.join(path))?);
    }
    let environment = &context.environment;
    let repositories = (&environment.inference_repository, &environment.training_repository);
    let parts = (&config.model, &config.inference, &config.reasons, repositories, environment.training_image);
    inputs.insert("configuration".into(), context.configuration_digest(&parts)?);
    inputs.insert("rustc".into(), digest::of_bytes(rustc_version()?.as_bytes()));
    Ok(inputs)
}

/// Fails if the sources are no longer those that `record` was built from.
pub fn sources_unchanged(context: &Context, record: &Record<Content>) -> Result<()> {
    let now = inputs(context)?;
    let changed: Vec<_> = now.iter().filter(|(name, digest)| record.inputs.get(*name) != Some(*digest)).collect();
    if let Some((name, _)) = changed.first() {
        bail!("{name} changed since run {} was built: run `cargo xtask build` (or `cargo xtask pipeline`)", record.run);
    }
    Ok(())
}

/// The record of the newest run, if nothing changed and the registry still has its image.
fn reusable(context: &Context, inputs: &Digests) -> Result<Option<Record<Content>>> {
    let Some(run) = context.named_run().or_else(|| context.latest_run()) else { return Ok(None) };
    let folder = paths::run(&context.root, &run);
    if !folder.join(Stage::Build.file()).is_file() {
        return Ok(None);
    }
    let record = match crate::records::read_verified::<Content>(&folder, Stage::Build) {
        Ok(record) => record,
        Err(error) => {
            terminal::warning(&format!("{error:#}; building anew"));
            return Ok(None);
        }
    };
    if record.environment != context.environment_name {
        return Ok(None);
    }
    if let Some((name, _)) = inputs.iter().find(|(name, digest)| record.inputs.get(*name) != Some(*digest)) {
        note(&format!("{name} changed since run {run}"));
        return Ok(None);
    }
    let cloud = context.cloud()?;
    let pushed = context.block_on(async {
        let uri = cloud.ensure_repository(&record.content.image.repository).await?;
        Repository::open(cloud, &uri).await?.manifest(&record.content.image.digest).await
    })?;
    let training = record.content.training_image.image.as_ref();
    let training_is_there = training.map_or(Ok(true), |image| training_image::is_there(context, image))?;
    if pushed.is_none() || !training_is_there {
        note("the registry no longer has the image");
        return Ok(None);
    }
    if context.environment.package == Package::Zip {
        let stored = match &record.content.package {
            Some(package) if package.bucket == context.environment.bucket => {
                context.block_on(package::is_there(cloud, package))?
            }
            _ => false,
        };
        if !stored {
            note(&format!("the bucket does not have the zip package of run {run}"));
            return Ok(None);
        }
    }
    context.select_run(&run)?;
    Ok(Some(record))
}

/// The run that was made from these inputs and whose files are untouched, if it only lacks being pushed.
fn unpushed(context: &Context, inputs: &Digests) -> Option<String> {
    let run = context.named_run().or_else(|| context.latest_run())?;
    let folder = paths::run(&context.root, &run);
    let of_another = |record: Record<Value>| record.environment != context.environment_name;
    if crate::records::read(&folder, Stage::Build).is_ok_and(of_another) {
        return None;
    }
    let made: Made = serde_json::from_slice(&fs::read(folder.join(MADE)).ok()?).ok()?;
    let untouched = |(name, expected): (&String, &String)| {
        digest::of_file(&folder.join(name)).is_ok_and(|found| found == *expected)
    };
    let whole = FILES.iter().chain([&PROGRAM]).all(|name| made.files.contains_key(*name));
    (made.inputs == *inputs && whole && made.files.iter().all(untouched)).then_some(run)
}

/// Trains and compiles, and says so in the run's folder once all of it is there.
fn make(context: &Context, work: &Work, inputs: &Digests) -> Result<()> {
    let environment = tools::python_environment(&context.root, &context.config.model.directory)?;
    train(context, &environment, &work.folder, &work.log("train"))?;
    let programs = compile(&context.root, &context.config.inference, &work.log("compile"))?;
    let program = fs::read(&programs.bootstrap).with_context(|| format!("read {}", programs.bootstrap.display()))?;
    crate::records::write_atomically(&work.folder.join(PROGRAM), &program)?;
    let mut files = Digests::new();
    for name in FILES.iter().chain([&PROGRAM]) {
        files.insert(name.to_string(), digest::of_file(&work.folder.join(name))?);
    }
    let made =
        serde_json::to_vec_pretty(&Made { inputs: inputs.clone(), files }).context("turn made.json into JSON")?;
    crate::records::write_atomically(&work.folder.join(MADE), &made)
}

/// Trains the model from the notebook's tagged cells.
fn train(context: &Context, environment: &tools::Environment, folder: &Path, log: &Path) -> Result<()> {
    let model = &context.config.model;
    let package = &model.package;
    let reasons = serde_json::to_vec_pretty(&context.config.reasons).context("turn the reasons into JSON")?;
    crate::records::write_atomically(&folder.join(REASONS), &reasons)?;
    environment
        .module("train and export the model", &format!("{package}.train"), &context.root.join(&model.directory))
        .arg("--notebook")
        .arg(context.root.join(&model.notebook))
        .arg("--out")
        .arg(folder)
        .arg("--reasons")
        .arg(folder.join(REASONS))
        .run(log)?;
    for name in FILES {
        if !folder.join(name).is_file() {
            bail!("`python -m {package}.train` ended well without writing {}", folder.join(name).display());
        }
    }
    let training = read_training(folder)?;
    note(&format!("trained on {} rows from {}", training["train_rows"], training["dataset"]["file"]));
    Ok(())
}

/// How the model was trained.
fn read_training(folder: &Path) -> Result<Value> {
    let text = fs::read_to_string(folder.join("training.json")).context("read training.json")?;
    serde_json::from_str(&text).context("understand training.json")
}

/// The compiled programs.
pub struct Programs {
    /// What ships: the function's program.
    pub bootstrap: PathBuf,
    /// The batch scorer, from the same library and with the same flags.
    pub score: PathBuf,
}

/// Compiles the predictor as static programs, the same bytes for the same sources wherever they lie.
pub fn compile(root: &Path, inference: &Inference, log: &Path) -> Result<Programs> {
    let programs = compile_targets(root, inference, &["--bins"], log)?;
    Ok(Programs { bootstrap: programs.join("bootstrap"), score: programs.join("score") })
}

/// Compiles some of the package's programs; gives the folder that they are in.
fn compile_targets(root: &Path, inference: &Inference, targets: &[&str], log: &Path) -> Result<PathBuf> {
    let target = inference.architecture.rust_target();
    let package = &inference.package;
    let folder = paths::cargo_target(root).join("predictor");
    let list = dependencies::write_list(root, &folder, package, target)?;
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut flags = vec![
        // Without a dynamic loader and without relocations there is nothing to do before `main`.
        "-Ctarget-feature=+crt-static".to_string(),
        "-Crelocation-model=static".to_string(),
        format!("--remap-path-prefix={}=/src", root.display()),
    ];
    if let Some(home) = home {
        flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
    }
    Program::new("compile the predictor", "cargo", root)
        .args(["build", "--locked", "--profile", "lambda", "--package", package, "--target", target])
        .args(targets.iter().copied())
        .arg("--target-dir")
        .arg(&folder)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("AUDITABLE_DEPENDENCY_LIST", &list)
        .env_remove("RUSTFLAGS")
        .run(log)
        .with_context(|| format!("compile for {target}: `rustup target add {target}` installs the target"))?;
    Ok(folder.join(target).join("lambda"))
}

/// Pushes the image under the run's tag.
fn push(context: &Context, image: &Image, run: &str) -> Result<ImageRecord> {
    let name = &context.environment.inference_repository;
    let cloud = context.cloud()?;
    let pushed = context.block_on(async {
        let uri = cloud.ensure_repository(name).await?;
        Repository::open(cloud, &uri).await?.push(image, run).await
    })?;
    for layer in &image.layers {
        let done = if pushed.sent.contains(&layer.content) { "pushed" } else { "already there" };
        note(&format!(
            "{} layer {} ({}): {done}",
            layer.content,
            digest::short(&layer.digest),
            bytes(layer.bytes.len() as u64)
        ));
    }
    if pushed.sent_bytes > 0 {
        note(&format!("{} sent to the registry", bytes(pushed.sent_bytes)));
    }
    Ok(ImageRecord {
        repository: name.clone(),
        tag: run.to_string(),
        digest: image.digest.clone(),
        bytes: image.layers.iter().map(|layer| layer.bytes.len() as u64).sum(),
        uncompressed_bytes: image.layers.iter().map(|layer| layer.uncompressed).sum(),
        layers: image
            .layers
            .iter()
            .map(|layer| LayerRecord {
                content: layer.content.to_string(),
                digest: layer.digest.clone(),
                bytes: layer.bytes.len() as u64,
                pushed: pushed.sent.contains(&layer.content),
            })
            .collect(),
    })
}

/// Stores the zip package beside the image.
fn store_package(context: &Context, program: &[u8], model: &[u8]) -> Result<PackageRecord> {
    let package = package::assemble(program, model)?;
    context.block_on(package::store(context.cloud()?, &context.environment, &package))
}

fn rustc_version() -> Result<String> {
    duct::cmd("rustc", ["--version"]).read().context("ask rustc for its version")
}

fn report(record: &Record<Content>) {
    let content = &record.content;
    note(&format!("model {} ({})", digest::short(&content.model.digest), bytes(content.model.bytes)));
    note(&format!(
        "image {} ({} compressed, {} unpacked)",
        digest::short(&content.image.digest),
        bytes(content.image.bytes),
        bytes(content.image.uncompressed_bytes)
    ));
    if let Some(package) = &content.package {
        note(&format!(
            "zip package {} ({} compressed, {} unpacked)",
            digest::short(&package.digest),
            bytes(package.bytes),
            bytes(package.uncompressed_bytes)
        ));
    }
}

fn set_outputs(record: &Record<Content>) -> Result<()> {
    github::output("run", &record.run)?;
    github::output("model_digest", &record.content.model.digest)?;
    github::output("image_digest", &record.content.image.digest)?;
    if let Some(package) = &record.content.package {
        github::output("package_digest", &package.digest)?;
    }
    match &record.content.training_image.image {
        Some(image) => github::output("training_image_digest", &image.digest),
        None => Ok(()),
    }
}

/// The function's program, compiled as `build` compiles it.
pub fn compile_bootstrap(root: &Path) -> Result<PathBuf> {
    let config = crate::config::read(root)?;
    Ok(compile(root, &config.inference, &paths::tools(root).join("compile.log"))?.bootstrap)
}

/// Examples of the predictor's package, compiled in the same way.
pub fn compile_examples<const COUNT: usize>(root: &Path, names: [&str; COUNT]) -> Result<[PathBuf; COUNT]> {
    let config = crate::config::read(root)?;
    let targets: Vec<_> = names.iter().flat_map(|name| ["--example", *name]).collect();
    let log = paths::tools(root).join("compile-examples.log");
    let folder = compile_targets(root, &config.inference, &targets, &log)?.join("examples");
    Ok(names.map(|name| folder.join(name)))
}
