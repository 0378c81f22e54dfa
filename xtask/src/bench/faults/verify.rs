//! What must hold after a command ended, however it ended: looked up at the cloud itself, not through the proxy.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::fixtures::{Candidate, Fixtures, read};
use crate::cloud::{Cloud, service_error};
use crate::config::Environment;
use crate::image;
use crate::records::Stage;
use crate::registry::Repository;
use crate::stages::deploy::live_version;

/// The cloud that is looked at.
pub struct Truth<'a> {
    pub cloud: &'a Cloud,
    pub environment: &'a Environment,
    pub fixtures: &'a Fixtures,
    /// Where the commands were told that it is: the address stands in some settings.
    pub proxy_url: &'a str,
    /// An event that every model answers.
    pub event: &'a Value,
}

/// What the alias names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    pub version: String,
    pub image: String,
}

impl Truth<'_> {
    /// Every tag names an image, or evidence beside one, that is there with all its layers.
    pub async fn tags(&self) -> Result<Vec<(String, String)>> {
        let name = &self.environment.inference_repository;
        let listed = self.cloud.ecr.list_images().repository_name(name).send().await;
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) if error.as_service_error().is_some_and(|error| error.is_repository_not_found_exception()) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(service_error(error)).context("list the images"),
        };
        let uri = self.cloud.ensure_repository(name).await?;
        let repository = Repository::open(self.cloud, &uri).await?;
        let mut tags = Vec::new();
        for id in listed.image_ids() {
            let (Some(tag), Some(digest)) = (id.image_tag(), id.image_digest()) else { continue };
            let manifest = repository.manifest(digest).await?;
            let manifest = manifest.with_context(|| format!("tag {tag} names {digest}, which is not there"))?;
            for layer in image::layers(&manifest)? {
                repository.layer(digest, &layer).await.with_context(|| format!("tag {tag}"))?;
            }
            tags.push((tag.to_string(), digest.to_string()));
        }
        Ok(tags)
    }

    /// The alias names one of the candidates wholly, and where the function was to answer before, it does so with that
    /// candidate's model.
    pub async fn serving(&self, allowed: &[&Candidate], answers: bool) -> Result<Option<Serving>> {
        let Some(live) = live_version(self.cloud, self.environment).await? else { return Ok(None) };
        let Environment { function, alias, .. } = self.environment;
        let found = self.cloud.lambda.get_alias().function_name(function).name(alias).send().await;
        let found = found.map_err(service_error).context("look at the alias")?;
        let weights = found.routing_config().and_then(|routing| routing.additional_version_weights());
        if let Some(weights) = weights.filter(|weights| !weights.is_empty()) {
            bail!("the alias is half moved: version {} and {weights:?}", live.version);
        }
        let candidate = allowed.iter().find(|candidate| candidate.image == live.image);
        let candidate =
            candidate.with_context(|| format!("the alias names version {}, {}", live.version, live.image))?;
        if answers {
            self.answers(candidate).await?;
        }
        Ok(Some(Serving { version: live.version, image: live.image }))
    }

    /// Asks the function by its URL.
    async fn answers(&self, candidate: &Candidate) -> Result<()> {
        let Environment { function, alias, .. } = self.environment;
        let asked = self.cloud.lambda.get_function_url_config().function_name(function).qualifier(alias).send().await;
        let url = asked.map_err(service_error).context("ask for the function's URL")?.function_url;
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().context("make a client")?;
        let request = client.post(url).header("content-type", "application/json");
        let answer = request.body(self.event.to_string()).send().await.context("ask the function")?;
        let (status, text) = (answer.status(), answer.text().await.context("read the function's answer")?);
        let model =
            serde_json::from_str::<Value>(&text).ok().and_then(|answer| answer["model"].as_str().map(String::from));
        ensure!(
            model.as_deref() == Some(&candidate.model),
            "the function answers {status} {text}, the alias names {}",
            candidate.run
        );
        Ok(())
    }
}

/// The record of a stage, if there is one; a half-written file is an error.
pub fn record(runs: &Path, run: &str, stage: Stage) -> Result<Option<Value>> {
    let path = runs.join(run).join(stage.file());
    if path.exists() { read(&path).map(Some) } else { Ok(None) }
}

/// No file of an interrupted write lies in the runs' folders.
pub fn no_rests(runs: &Path) -> Result<()> {
    for entry in fs::read_dir(runs).context("list the runs")?.flatten() {
        let name = entry.file_name();
        ensure!(!name.to_string_lossy().starts_with(".new-"), "{} was left", entry.path().display());
        if entry.metadata().is_ok_and(|kind| kind.is_dir()) {
            no_rests(&entry.path())?;
        }
    }
    Ok(())
}

/// deploy.json, if there is one, says what the alias says.
pub fn deployment_is_true(runs: &Path, candidate: &Candidate, serving: Option<&Serving>) -> Result<()> {
    let Some(record) = record(runs, &candidate.run, Stage::Deploy)? else { return Ok(()) };
    let said = &record["version"];
    let Some(serving) = serving else {
        ensure!(said.is_null() && !record["failure"].is_null(), "nothing is live, and deploy.json says version {said}");
        return Ok(());
    };
    ensure!(*said == serving.version.as_str(), "deploy.json says version {said}, the alias {}", serving.version);
    if record["failure"].is_null() {
        let image = record["image"].as_str().unwrap_or_default();
        ensure!(image == serving.image, "deploy.json says {image} is live, the alias {}", serving.image);
    } else {
        ensure!(serving.image != candidate.image, "deploy.json says that it failed, and its image is live");
    }
    Ok(())
}

/// An end that is no success says what failed and why.
pub fn is_named_error(errors: &str) -> Result<()> {
    ensure!(!errors.contains("panicked at"), "it panicked:\n{errors}");
    let line = errors.lines().rev().find_map(|line| line.strip_prefix("error: "));
    let line = line.with_context(|| format!("no error is named:\n{errors}"))?;
    // `what was being done: to what: why`
    ensure!(line.contains(": ") && line.len() > 30, "the error says too little: {line}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn candidate() -> Candidate {
        Candidate { run: "r".into(), image: "sha256:new".into(), model: "sha256:m".into() }
    }

    fn truth(record: Value, version: &str, image: &str) -> Result<()> {
        let runs = tempfile::tempdir().unwrap();
        fs::create_dir(runs.path().join("r")).unwrap();
        fs::write(runs.path().join("r/deploy.json"), record.to_string()).unwrap();
        let serving = Serving { version: version.into(), image: image.into() };
        deployment_is_true(runs.path(), &candidate(), Some(&serving))
    }

    #[test]
    fn a_record_that_lies_is_found() {
        let done = json!({"version": "2", "image": "sha256:new", "failure": null});
        assert!(truth(done.clone(), "2", "sha256:new").is_ok());
        assert!(truth(done.clone(), "1", "sha256:old").is_err(), "it is not live");
        assert!(truth(done, "2", "sha256:other").is_err(), "another image is live");
        let failed = json!({"version": "1", "image": "sha256:new", "failure": "a smoke test failed"});
        assert!(truth(failed.clone(), "1", "sha256:old").is_ok());
        assert!(truth(failed.clone(), "1", "sha256:new").is_err(), "it failed and is live");
        let nothing = |record: &Value| {
            let runs = tempfile::tempdir().unwrap();
            fs::create_dir(runs.path().join("r")).unwrap();
            fs::write(runs.path().join("r/deploy.json"), record.to_string()).unwrap();
            deployment_is_true(runs.path(), &candidate(), None)
        };
        assert!(nothing(&failed).is_err(), "version 1 is not there");
        assert!(nothing(&json!({"version": null, "failure": "a smoke test failed"})).is_ok());
    }

    #[test]
    fn rests_of_a_write_are_found() {
        let runs = tempfile::tempdir().unwrap();
        fs::create_dir(runs.path().join("r")).unwrap();
        no_rests(runs.path()).unwrap();
        fs::write(runs.path().join("r/.new-abc"), "{").unwrap();
        assert!(no_rests(runs.path()).is_err());
    }

    #[test]
    fn an_error_says_what_failed_and_why() {
        assert!(is_named_error("deploy\nerror: publish a version: TooManyRequestsException: Rate exceeded\n").is_ok());
        for bad in
            ["", "error: it failed\n", "thread 'main' panicked at src/main.rs:1\nerror: a: b: cccccccccccccccccccccc"]
        {
            assert!(is_named_error(bad).is_err(), "{bad}");
        }
    }
}
