//! Every path that the pipeline knows, in one place.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The clone's root: the nearest folder above the current one that holds pipeline.toml and xtask.
///
/// # Errors
/// Outside a clone, naming what was looked for.
pub fn root() -> Result<PathBuf> {
    let start = env::current_dir().context("find the current folder")?;
    match start.ancestors().find(|folder| folder.join("pipeline.toml").is_file() && folder.join("xtask").is_dir()) {
        Some(root) => Ok(root.to_path_buf()),
        None => bail!(
            "no pipeline.toml with an xtask folder beside it in {} or above: change into the clone first (cd <clone>)",
            start.display()
        ),
    }
}

/// Where all runs lie.
pub fn runs(root: &Path) -> PathBuf {
    root.join("target/pipeline")
}

/// One run's folder.
pub fn run(root: &Path, run: &str) -> PathBuf {
    runs(root).join(run)
}

/// The link that names the newest run.
pub fn latest(root: &Path) -> PathBuf {
    runs(root).join("latest")
}

/// The lock that one command at a time holds.
pub fn lock(root: &Path) -> PathBuf {
    runs(root).join("lock")
}

/// The process of this clone that moves an environment's traffic, for as long as it does.
pub fn deployer(root: &Path, environment: &str) -> PathBuf {
    runs(root).join(format!("deployer-{environment}"))
}

/// One row for every monitoring.
pub fn monitor_history(root: &Path) -> PathBuf {
    runs(root).join("monitor-history.ndjson")
}

/// The embedded cloud's state.
pub fn local_state(root: &Path) -> PathBuf {
    root.join(".local")
}

/// Mail of the local environment.
pub fn outbox(root: &Path) -> PathBuf {
    local_state(root).join("outbox")
}

/// MLflow's store, where no server is named.
pub fn tracking(root: &Path) -> PathBuf {
    root.join("target/mlflow")
}

/// Programs that the project installs for itself.
pub fn tools(root: &Path) -> PathBuf {
    root.join("target/tools")
}

/// Where cargo builds, as cargo itself decides it.
pub fn cargo_target(root: &Path) -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root.join(folder),
        None => root.join("target"),
    }
}

/// The advisory database as last fetched.
pub fn advisory_database(root: &Path) -> PathBuf {
    tools(root).join("advisory-db")
}
