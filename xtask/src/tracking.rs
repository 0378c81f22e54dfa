//! Tracking: logs a measured run to MLflow, once, by `python -m <package>.tracking`.
//!
//! Reads build.json, test.json and the files beside them. Writes `tracking.json`: where the run was logged, or why it was not. No
//! other record rests on that file, and nothing that goes wrong here fails a run: experiments are looked at by people, while
//! what is judged and deployed lies in the records.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::records::{self, Record};
use crate::stages::{build, test};
use crate::terminal::{note, warning};
use crate::{github, paths, process, tools};

/// The variable that names the MLflow server, as MLflow's own programs understand it.
const SERVER: &str = "MLFLOW_TRACKING_URI";
const FILE: &str = "tracking.json";
/// For everything; a server that does not answer is given up earlier.
const LIMIT: Duration = Duration::from_secs(120);

/// The content of tracking.json.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Tracking {
    state: State,
    /// The server, without credentials, or the local store.
    destination: String,
    /// What tells this run from all others.
    tags: BTreeMap<String, String>,
    #[serde(flatten)]
    place: Option<Place>,
    /// Why it was not logged.
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Logged,
    AlreadyLogged,
    NotLogged,
}

/// Where MLflow keeps a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Place {
    experiment_id: String,
    run_id: String,
}

/// What the Python program answers.
#[derive(Deserialize)]
struct Answer {
    state: State,
    #[serde(flatten)]
    place: Place,
}

/// Logs the run, unless it was logged there before.
pub fn log(context: &Context, build: &Record<build::Content>, test: &Record<test::Content>) {
    let result = context.folder().and_then(|folder| log_to(context, &folder, tags(build, test)));
    if let Err(error) = result {
        let text = format!("the run is not logged to MLflow: {error:#}");
        warning(&text);
        github::annotate("warning", "MLflow", &text);
    }
}

/// Where runs are logged: the server, without credentials, or the local store.
pub fn destination(root: &Path) -> String {
    match std::env::var(SERVER) {
        Ok(server) if !server.is_empty() => without_credentials(&server),
        _ => paths::tracking(root).display().to_string(),
    }
}

fn log_to(context: &Context, folder: &Path, tags: BTreeMap<String, String>) -> Result<()> {
    let store = paths::tracking(&context.root);
    let destination = destination(&context.root);
    let path = folder.join(FILE);
    if is_logged(&path, &destination, &tags) {
        return Ok(());
    }
    let answer = run_python(context, folder, &store, &tags);
    let tracking = match &answer {
        Ok(answer) => Tracking {
            state: answer.state,
            destination: destination.clone(),
            tags,
            place: Some(answer.place.clone()),
            reason: None,
        },
        Err(error) => Tracking {
            state: State::NotLogged,
            destination: destination.clone(),
            tags,
            place: None,
            reason: Some(format!("{error:#}")),
        },
    };
    let text = serde_json::to_vec_pretty(&tracking).context("turn tracking.json into JSON")?;
    records::write_atomically(&path, &text)?;
    let Answer { place, .. } = answer?;
    note(&format!("MLflow: run {} in {destination}", place.run_id));
    Ok(())
}

fn run_python(context: &Context, folder: &Path, store: &Path, tags: &BTreeMap<String, String>) -> Result<Answer> {
    let python = tools::python_environment(&context.root, &context.config.model.directory)?;
    let package = &context.config.model.package;
    let tracking = &context.config.tracking;
    let answer = tempfile::NamedTempFile::new().context("make a temporary file")?;
    let ended = python
        .module("log the run to MLflow", &format!("{package}.tracking"), folder)
        .arg("--run")
        .arg(folder)
        .args(["--experiment", tracking.experiment.as_str(), "--run-name", tracking.run_name.as_str()])
        .arg("--store")
        .arg(store)
        .arg("--out")
        .arg(answer.path())
        .args(tags.iter().flat_map(|(name, value)| ["--tag".to_string(), format!("{name}={value}")]))
        .limit(LIMIT)
        .run_to_end(&folder.join("logs/tracking.log"))?;
    match ended.code {
        Some(0) => {}
        // The program explains itself in its last line.
        Some(_) => bail!("{}", process::tail(&ended.log, 1).trim().trim_start_matches("error: ")),
        None => bail!("the tracking program was stopped by a signal; its output is in {}", ended.log.display()),
    }
    let text = fs::read(answer.path()).context("read the answer of the tracking program")?;
    serde_json::from_slice(&text).context("understand the answer of the tracking program")
}

/// The run's identity: a finished MLflow run with all of these is this run.
fn tags(build: &Record<build::Content>, test: &Record<test::Content>) -> BTreeMap<String, String> {
    let unknown = || "unknown".to_string();
    BTreeMap::from([
        ("pipeline_id".to_string(), test.run.clone()),
        ("environment".to_string(), test.environment.clone()),
        ("commit".to_string(), build.content.commit.clone().unwrap_or_else(unknown)),
        ("dirty".to_string(), build.content.dirty.map_or_else(unknown, |dirty| dirty.to_string())),
        ("dataset".to_string(), build.content.dataset["sha256"].as_str().map_or_else(unknown, String::from)),
        ("model".to_string(), test.content.model.clone()),
        ("image".to_string(), test.content.image.clone()),
    ])
}

/// Whether tracking.json says that this run was logged there.
fn is_logged(path: &Path, destination: &str, tags: &BTreeMap<String, String>) -> bool {
    let Ok(text) = fs::read(path) else { return false };
    serde_json::from_slice::<Tracking>(&text)
        .is_ok_and(|found| found.state != State::NotLogged && found.destination == destination && found.tags == *tags)
}

/// A server's address as it may be shown.
fn without_credentials(server: &str) -> String {
    if !server.contains('@') {
        return server.to_string();
    }
    let shown = Url::parse(server).ok().and_then(|mut url| {
        url.set_username("").ok()?;
        url.set_password(None).ok()?;
        Some(url.to_string())
    });
    shown.unwrap_or_else(|| format!("the server in {SERVER}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_address_is_shown_without_its_password() {
        assert_eq!(without_credentials("https://ann:secret@mlflow.example.com/x"), "https://mlflow.example.com/x");
        assert_eq!(without_credentials("postgresql://ann:secret@host:1/db"), "postgresql://host:1/db");
        assert_eq!(without_credentials("databricks"), "databricks");
        assert_eq!(without_credentials("http://ann:secret@"), "the server in MLFLOW_TRACKING_URI");
        assert_eq!(without_credentials("sqlite:////data/mlflow.db"), "sqlite:////data/mlflow.db");
    }

    #[test]
    fn only_the_same_run_at_the_same_place_is_logged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let tags = BTreeMap::from([("model".to_string(), "sha256:1".to_string())]);
        let place = Some(Place { experiment_id: "1".to_string(), run_id: "r".to_string() });
        let logged = Tracking {
            state: State::Logged,
            destination: "there".to_string(),
            tags: tags.clone(),
            place,
            reason: None,
        };
        let write = |tracking: &Tracking| fs::write(&path, serde_json::to_vec(tracking).unwrap()).unwrap();
        assert!(!is_logged(&path, "there", &tags));
        write(&logged);
        assert!(is_logged(&path, "there", &tags));
        assert!(!is_logged(&path, "elsewhere", &tags));
        assert!(!is_logged(&path, "there", &BTreeMap::new()));
        write(&Tracking { state: State::NotLogged, place: None, ..logged });
        assert!(!is_logged(&path, "there", &tags));
        fs::write(&path, "{").unwrap();
        assert!(!is_logged(&path, "there", &tags));
    }
}
