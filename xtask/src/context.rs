//! What every command is given: the clone, the configuration, the environment, the run.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cloud::Cloud;
use crate::config::{self, Config, Environment};
use crate::records::{self, Digests, Record, Stage};
use crate::{Common, digest, git, github, paths, process, terminal};

/// The state of one command.
pub struct Context {
    pub root: PathBuf,
    pub config: Config,
    pub environment_name: String,
    pub environment: Environment,
    /// Print results as JSON on standard output.
    pub json: bool,
    requested_run: Option<String>,
    selected_run: OnceCell<String>,
    runtime: tokio::runtime::Runtime,
    cloud: OnceCell<Cloud>,
}

/// A stage at work in its run: where it writes, and since when.
pub struct Work {
    pub run: String,
    pub folder: PathBuf,
    stage: Stage,
    environment: String,
    started_at: DateTime<Utc>,
}

impl Context {
    /// Finds the clone and reads pipeline.toml.
    pub fn new(common: &Common) -> Result<Context> {
        let root = paths::root()?;
        let config = config::read(&root)?;
        let environment = config.environment(&common.environment)?.clone();
        if let Some(run) = &common.run {
            check_run_id(run)?;
        }
        Ok(Context {
            root,
            config,
            environment_name: common.environment.clone(),
            environment,
            json: common.json,
            requested_run: common.run.clone(),
            selected_run: OnceCell::new(),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .context("start the asynchronous runtime")?,
            cloud: OnceCell::new(),
        })
    }

    /// Lets Ctrl-C end the programs that a stage started together with this one.
    pub fn end_with_children(&self) {
        process::end_with_children(&self.runtime);
    }

    /// Waits for a future.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// The environment's cloud; the embedded one is started in this process when none runs.
    pub fn cloud(&self) -> Result<&Cloud> {
        if let Some(cloud) = self.cloud.get() {
            return Ok(cloud);
        }
        let cloud = self.block_on(Cloud::connect(&self.root, &self.environment))?;
        Ok(self.cloud.get_or_init(|| cloud))
    }

    /// The newest run's id, if there is a run: the newest of this environment, where there are runs of several.
    pub fn latest_run(&self) -> Option<String> {
        let target = std::fs::read_link(paths::latest(&self.root)).ok()?;
        let newest = target.file_name()?.to_str()?.to_string();
        if !paths::run(&self.root, &newest).is_dir() {
            return None;
        }
        let built = |run: &str| {
            let record = records::read::<serde_json::Value>(&paths::run(&self.root, run), Stage::Build).ok()?;
            Some((record.finished_at, record.environment))
        };
        match built(&newest) {
            Some((_, environment)) if !self.is_own(Stage::Build, &environment) => {}
            _ => return Some(newest),
        }
        let runs = std::fs::read_dir(paths::runs(&self.root)).ok()?.flatten();
        let names = runs.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name != "latest");
        let own = names.filter_map(|run| {
            let (finished_at, environment) = built(&run)?;
            self.is_own(Stage::Build, &environment).then_some((finished_at, run))
        });
        Some(own.max().map_or(newest, |(_, run)| run))
    }

    /// Whether a record that was made for `environment` counts in this one: its own, and those of the stages that it takes
    /// over from the environment that it promotes.
    fn is_own(&self, stage: Stage, environment: &str) -> bool {
        let maker = match &self.environment.promotes {
            Some(source) if !stage.is_of_environment() => source,
            _ => &self.environment_name,
        };
        environment == maker
    }

    /// Where a stage's record lies. An environment that promotes another has a folder of its own for what it decides
    /// itself, inside the run that it takes over.
    fn folder_of(&self, run: &str, stage: Stage) -> PathBuf {
        let folder = paths::run(&self.root, run);
        match self.environment.promotes {
            Some(_) if stage.is_of_environment() => folder.join(&self.environment_name),
            _ => folder,
        }
    }

    /// The record of a stage that another environment makes for this one, if one does.
    ///
    /// # Errors
    /// It has to be there and is not, or not whole.
    pub fn taken_over<T: DeserializeOwned>(&self, stage: Stage) -> Result<Option<Record<T>>> {
        let Some(source) = self.environment.promotes.as_ref().filter(|_| !stage.is_of_environment()) else {
            return Ok(None);
        };
        let record = self
            .read(stage)
            .with_context(|| format!("environment `{}` takes over what `{source}` made", self.environment_name))?;
        terminal::note(&format!("taken over from {source}, run {}", record.run));
        Ok(Some(record))
    }

    /// The run that this command was told to work on, by `--run` or by GitHub Actions.
    pub fn named_run(&self) -> Option<String> {
        self.requested_run.clone().or_else(github::run_id)
    }

    /// The run that a stage after `build` works on.
    ///
    /// # Errors
    /// There is none.
    pub fn run(&self) -> Result<String> {
        if let Some(run) = self.selected_run.get() {
            return Ok(run.clone());
        }
        let run = match self.named_run().or_else(|| self.latest_run()) {
            Some(run) => run,
            None => bail!("there is no run yet: run `cargo xtask build` (or `cargo xtask pipeline`) first"),
        };
        if !paths::run(&self.root, &run).is_dir() {
            bail!(
                "there is no run `{run}` in {}: run `cargo xtask build --run {run}` first",
                paths::runs(&self.root).display()
            );
        }
        Ok(self.selected_run.get_or_init(|| run).clone())
    }

    /// The run that a command works on which needs no earlier stage. A monitoring may come long after its run, before any, or
    /// in a workflow that built nothing: then it has a run of its own.
    pub fn run_or_own(&self) -> Result<()> {
        if self.requested_run.is_some() || self.run().is_ok() {
            return Ok(());
        }
        self.select_run(&github::run_id().unwrap_or_else(|| self.new_run_id()))
    }

    /// Makes `run` the one that this command works on and the newest.
    pub fn select_run(&self, run: &str) -> Result<()> {
        let folder = paths::run(&self.root, run);
        std::fs::create_dir_all(&folder).with_context(|| format!("make the folder {}", folder.display()))?;
        let _ = self.selected_run.set(run.to_string());
        let latest = paths::latest(&self.root);
        if std::fs::read_link(&latest).is_ok_and(|target| target == Path::new(run)) {
            return Ok(());
        }
        // A link is replaced by renaming a new one over it: there is no moment without one.
        let fresh = paths::runs(&self.root).join(format!(".latest-{}", std::process::id()));
        let link = || -> std::io::Result<()> {
            if fresh.symlink_metadata().is_ok() {
                std::fs::remove_file(&fresh)?;
            }
            std::os::unix::fs::symlink(run, &fresh)?;
            std::fs::rename(&fresh, &latest)
        };
        link().with_context(|| format!("point {} at run {run}", latest.display()))
    }

    /// A run id that no run has yet: UTC time and short commit.
    pub fn new_run_id(&self) -> String {
        let time = Utc::now().format("%Y%m%dT%H%M%SZ");
        let base = match git::commit(&self.root) {
            Some(commit) => format!("{time}-{}", commit.get(..7).unwrap_or(&commit)),
            None => format!("{time}-nogit"),
        };
        let taken = |run: &str| paths::run(&self.root, run).exists();
        if !taken(&base) {
            return base;
        }
        (2..).map(|count| format!("{base}-{count}")).find(|run| !taken(run)).unwrap_or(base)
    }

    /// The stage's record, if its inputs are these, its files are untouched and it belongs to this environment.
    pub fn unchanged<T: DeserializeOwned>(&self, stage: Stage, inputs: &Digests) -> Option<Record<T>> {
        let folder = self.folder_of(self.selected_run.get()?, stage);
        let record: Record<T> = records::read_verified(&folder, stage).ok()?;
        (record.inputs == *inputs && self.is_own(stage, &record.environment)).then_some(record)
    }

    /// Begins a stage: removes its record and those that rest on it.
    pub fn begin(&self, stage: Stage) -> Result<Work> {
        let run = self.run()?;
        if !stage.is_of_environment() {
            // Whoever takes this run over decided on evidence that is about to go.
            let followers = self.config.environments.iter().filter(|(_, environment)| {
                environment.promotes.as_ref().is_some_and(|source| *source == self.environment_name)
            });
            for (name, _) in followers {
                records::clear(&paths::run(&self.root, &run).join(name), stage)?;
            }
        }
        let folder = self.folder_of(&run, stage);
        records::clear(&folder, stage)?;
        Ok(Work { run, folder, stage, environment: self.environment_name.clone(), started_at: Utc::now() })
    }

    /// What a stage would record, of a dry run: nothing is written.
    pub fn planned<T>(&self, stage: Stage, inputs: Digests, content: T) -> Result<Record<T>> {
        let now = Utc::now();
        Ok(Record {
            schema: records::SCHEMA,
            stage,
            run: self.run()?,
            environment: self.environment_name.clone(),
            started_at: now,
            finished_at: now,
            inputs,
            files: Digests::new(),
            content,
        })
    }

    /// The folder of what this environment decides itself in a run, which need not be the current one.
    pub fn environment_folder(&self, run: &str) -> PathBuf {
        self.folder_of(run, Stage::Deploy)
    }

    /// The folder of what an environment decides in a run; none if pipeline.toml does not name it.
    pub fn folder_of_environment(&self, run: &str, name: &str) -> Option<PathBuf> {
        check_run_id(run).ok()?;
        let folder = paths::run(&self.root, run);
        Some(match self.config.environments.get(name)?.promotes {
            Some(_) => folder.join(name),
            None => folder,
        })
    }

    /// The current run's folder, where build, scan and test leave their files.
    pub fn folder(&self) -> Result<PathBuf> {
        Ok(paths::run(&self.root, &self.run()?))
    }

    /// The folder of a stage's record in the current run.
    pub fn record_folder(&self, stage: Stage) -> Result<PathBuf> {
        Ok(self.folder_of(&self.run()?, stage))
    }

    /// Reads the record of an earlier stage of this run and recomputes the digests of its files.
    pub fn read<T: DeserializeOwned>(&self, stage: Stage) -> Result<Record<T>> {
        let folder = self.record_folder(stage)?;
        let record: Record<T> = records::read_verified(&folder, stage)?;
        if !self.is_own(stage, &record.environment) {
            let wanted = match &self.environment.promotes {
                Some(source) if !stage.is_of_environment() => source,
                _ => &self.environment_name,
            };
            bail!(
                "{} was made for environment `{}`, not `{wanted}`: run `cargo xtask {} --env {wanted}`",
                folder.join(stage.file()).display(),
                record.environment,
                stage.name(),
            );
        }
        Ok(record)
    }

    /// Digest of a record of this run, as an input of another stage.
    pub fn record_digest(&self, stage: Stage) -> Result<String> {
        records::digest_of(&self.record_folder(stage)?, stage)
    }

    /// Digest of the configuration that a stage depends on.
    pub fn configuration_digest(&self, parts: &impl Serialize) -> Result<String> {
        Ok(digest::of_bytes(&serde_json::to_vec(parts).context("turn the configuration into JSON")?))
    }

    /// Says that a stage has nothing to do.
    pub fn skipped(&self, stage: Stage) {
        terminal::note(&format!("unchanged since {}, skipped", self.run().unwrap_or_default()));
        let _ = stage;
    }
}

impl Work {
    /// Where a program's output goes.
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{name}.log"))
    }

    /// Writes the stage's record. `files` are names in the run's folder that the stage made.
    pub fn finish<T: Serialize>(&self, inputs: Digests, files: &[&str], content: T) -> Result<Record<T>> {
        let record = self.record(inputs, files, content)?;
        records::write(&self.folder, &record)?;
        Ok(record)
    }

    /// The stage's record as [`Work::finish`] writes it, for who has something to do before it counts.
    pub fn record<T>(&self, inputs: Digests, files: &[&str], content: T) -> Result<Record<T>> {
        let mut digests = Digests::new();
        for name in files {
            digests.insert(name.to_string(), digest::of_file(&self.folder.join(name))?);
        }
        Ok(Record {
            schema: records::SCHEMA,
            stage: self.stage,
            run: self.run.clone(),
            environment: self.environment.clone(),
            started_at: self.started_at,
            finished_at: Utc::now(),
            inputs,
            files: digests,
            content,
        })
    }
}

/// A run id becomes a folder and an image tag, so it must be fit for both.
///
/// # Errors
/// It is not, naming what a run id is made of.
pub fn check_run_id(run: &str) -> Result<()> {
    let fits = !run.is_empty()
        && run.len() <= 100
        && run.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-".contains(letter))
        && run.starts_with(|letter: char| letter.is_ascii_alphanumeric())
        && run != "latest"
        && run != "lock";
    if !fits {
        bail!("`{run}` is no run id: letters, digits, `.`, `_` and `-`, beginning with a letter or digit, 100 at most");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_ids_cannot_leave_their_folder() {
        for good in ["20261124T031522Z-abc1234", "123-1", "r.1_x"] {
            check_run_id(good).unwrap();
        }
        for bad in ["", "../x", "a/b", ".hidden", "-x", "latest", "a b", &"x".repeat(101)] {
            assert!(check_run_id(bad).is_err(), "{bad}");
        }
    }
}
