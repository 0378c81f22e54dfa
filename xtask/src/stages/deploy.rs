//! Deploy: brings the image that the gate allowed to the function, tries the new version, and only then moves the alias.
//!
//! Reads gate.json and everything that it rests on, and recomputes every digest. Writes `deploy.json`, also when the new
//! version failed its smoke test and the old one keeps answering.

use std::fs;

use anyhow::{Context as _, Result, bail};
use aws_sdk_lambda::client::Waiters;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::State;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cloud::{Cloud, service_error};
use crate::config::{Environment, SmokeTest};
use crate::context::Context;
use crate::records::{Digests, Record, Stage};
use crate::registry::Repository;
use crate::stages::{build, gate, scan, test};
use crate::terminal::{Progress, note};
use crate::{digest, function, github};

/// Options of `deploy`.
#[derive(Args, Default)]
pub struct Options {
    /// Print what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// What was deployed, and the way there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Content {
    pub function: String,
    pub alias: String,
    /// The version that answers now.
    pub version: String,
    /// The version that answered before, if another one did.
    pub previous_version: Option<String>,
    pub image: String,
    pub model: String,
    pub verdict: gate::Verdict,
    pub function_url: String,
    pub web_url: String,
    pub report_url: String,
    pub smoke_tests: Vec<SmokeResult>,
    /// What was done, step by step.
    pub decisions: Vec<String>,
    /// Why the new version does not answer; none if it does.
    pub failure: Option<String>,
}

/// How a version answered an event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SmokeResult {
    pub name: String,
    pub passed: bool,
    pub answer: String,
}

/// Runs the stage.
pub fn run(context: &Context, options: &Options) -> Result<Option<Record<Content>>> {
    let gate = verified_gate(context)?;
    let build: Record<build::Content> = context.read(Stage::Build)?;
    let report: Record<test::Content> = context.read(Stage::Test)?;
    let environment = &context.environment;
    let inputs = Digests::from([
        ("gate.json".to_string(), context.record_digest(Stage::Gate)?),
        ("web".to_string(), digest::of_tree(&context.root.join("web"))?),
        ("configuration".to_string(), context.configuration_digest(&(environment, &context.config.smoke_tests))?),
    ]);
    let cloud = context.cloud()?;
    if options.dry_run {
        let plan = context.block_on(plan(cloud, environment, &build.content))?;
        println!("{}", serde_json::to_string_pretty(&plan)?);
        return Ok(None);
    }
    if let Some(record) = context.unchanged::<Content>(Stage::Deploy, &inputs)
        && record.content.failure.is_none()
        && context.block_on(is_live(cloud, environment, &record.content))?
    {
        context.skipped(Stage::Deploy);
        set_outputs(&record)?;
        return Ok(Some(record));
    }
    let work = context.begin(Stage::Deploy)?;
    context.block_on(image_is_there(cloud, &build.content))?;
    let mut content = {
        let _progress = Progress::start("deploy the new version", None);
        context.block_on(deploy(cloud, context, &build.content, &work.run))?
    };
    content.verdict = gate.content.verdict;
    content.report_url = report.content.report_url.clone();
    if content.failure.is_none() {
        context.block_on(publish_web_page(context, cloud, &content.function_url, &content.model))?;
    }
    let record = work.finish(inputs, &[], content)?;
    for decision in &record.content.decisions {
        note(decision);
    }
    set_outputs(&record)?;
    match &record.content.failure {
        Some(failure) => bail!("{failure}; {} keeps answering with what it had", environment.alias),
        None => Ok(Some(record)),
    }
}

/// The gate's record, if it allows this and rests on exactly the records that lie beside it.
fn verified_gate(context: &Context) -> Result<Record<gate::Content>> {
    let gate: Record<gate::Content> = context.read(Stage::Gate)?;
    if gate.content.verdict == gate::Verdict::Deny {
        return Err(crate::exit::denied("gate.json says deny: nothing is deployed"));
    }
    for stage in [Stage::Build, Stage::Scan, Stage::Test] {
        let found = context.record_digest(stage)?;
        if gate.inputs.get(stage.file()) != Some(&found) {
            bail!("{} is not the one that the gate judged: run `cargo xtask gate` again", stage.file());
        }
    }
    // The policies that judged must still be the ones in the clone, or the verdict is an old one.
    for outcome in &gate.content.outcomes {
        for policy in &outcome.policies {
            if digest::of_file(&context.root.join(&policy.path))? != policy.digest {
                bail!("{} changed since the gate judged by it: run `cargo xtask gate` again", policy.path);
            }
        }
    }
    let build: Record<build::Content> = context.read(Stage::Build)?;
    let scan: Record<scan::Content> = context.read(Stage::Scan)?;
    let test: Record<test::Content> = context.read(Stage::Test)?;
    let image = &build.content.image.digest;
    let model = &build.content.model.digest;
    let chain = [
        ("gate.json", &gate.content.image, image),
        ("scan.json", &scan.content.image, image),
        ("test.json", &test.content.image, image),
        ("gate.json", &gate.content.model, model),
        ("test.json", &test.content.model, model),
    ];
    for (file, found, expected) in chain {
        if found != expected {
            bail!("{file} speaks of {found}, build.json of {expected}: run the pipeline again");
        }
    }
    Ok(gate)
}

async fn image_is_there(cloud: &Cloud, build: &build::Content) -> Result<()> {
    let uri = cloud.ensure_repository(&build.image.repository).await?;
    match Repository::open(cloud, &uri).await?.manifest(&build.image.digest).await? {
        Some(_) => Ok(()),
        None => bail!("the registry has no image {}: run `cargo xtask build`", build.image.digest),
    }
}

/// Whether the alias gives all traffic to the record's version, and that version is the record's image.
async fn is_live(cloud: &Cloud, environment: &Environment, content: &Content) -> Result<bool> {
    let Some(live) = live_version(cloud, environment).await? else { return Ok(false) };
    Ok(live.version == content.version && live.image == content.image)
}

/// What the alias names.
pub struct Live {
    pub version: String,
    pub image: String,
    /// When the version was published.
    pub published_at: Option<String>,
    pub description: String,
}

/// The version behind the alias, if the function and the alias exist.
pub async fn live_version(cloud: &Cloud, environment: &Environment) -> Result<Option<Live>> {
    let alias = cloud.lambda.get_alias().function_name(&environment.function).name(&environment.alias).send().await;
    let alias = match alias {
        Ok(alias) => alias,
        Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
            return Ok(None);
        }
        Err(error) => return Err(service_error(error)).context("ask for the function's alias"),
    };
    let version = alias.function_version().unwrap_or_default().to_string();
    let configuration = cloud
        .lambda
        .get_function_configuration()
        .function_name(&environment.function)
        .qualifier(&version)
        .send()
        .await
        .map_err(service_error)
        .with_context(|| format!("ask for version {version} of the function"))?;
    Ok(Some(Live {
        version,
        image: format!("sha256:{}", configuration.code_sha256().unwrap_or_default()),
        published_at: configuration.last_modified().map(String::from),
        description: configuration.description().unwrap_or_default().to_string(),
    }))
}

/// What `--dry-run` prints, in the shape of the record.
async fn plan(cloud: &Cloud, environment: &Environment, build: &build::Content) -> Result<Value> {
    let live = live_version(cloud, environment).await?;
    let same = live.as_ref().is_some_and(|live| live.image == build.image.digest);
    let decisions = match (&live, same) {
        (None, _) => vec!["would create the function, publish version 1 and point the alias at it".to_string()],
        (Some(live), true) => vec![format!("nothing to do: version {} has this image", live.version)],
        (Some(live), false) => {
            vec![format!("would publish a new version, test it, and move the alias from version {}", live.version)]
        }
    };
    Ok(json!({
        "dry_run": true,
        "function": environment.function,
        "alias": environment.alias,
        "previous_version": live.map(|live| live.version),
        "image": build.image.digest,
        "model": build.model.digest,
        "decisions": decisions,
    }))
}

/// Update by digest, publish, smoke test of the new version itself, move the alias.
async fn deploy(cloud: &Cloud, context: &Context, build: &build::Content, run: &str) -> Result<Content> {
    let environment = &context.environment;
    let function = &environment.function;
    let uri = cloud.ensure_repository(&build.image.repository).await?;
    let image_uri = format!("{uri}@{}", build.image.digest);
    let live = live_version(cloud, environment).await?;
    let mut decisions = Vec::new();

    let existing = cloud.lambda.get_function_configuration().function_name(function).send().await;
    let latest = match existing {
        Ok(configuration) => Some(configuration),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => None,
        Err(error) => return Err(service_error(error)).with_context(|| format!("ask for the function {function}")),
    };
    let revision = match latest {
        None => {
            function::create(cloud, environment, context.config.inference.architecture, &image_uri).await?;
            decisions.push(format!("created function {function}"));
            None
        }
        Some(latest) => {
            if latest.state() == Some(&State::Pending) {
                wait_until_updated(cloud, function).await?;
            }
            let wanted = build.image.digest.trim_start_matches("sha256:");
            if latest.code_sha256() == Some(wanted) {
                decisions.push("the function already has this image".to_string());
                latest.revision_id().map(String::from)
            } else {
                let updated = cloud
                    .lambda
                    .update_function_code()
                    .function_name(function)
                    .image_uri(&image_uri)
                    .set_revision_id(latest.revision_id().map(String::from))
                    .send()
                    .await
                    .map_err(service_error)
                    .context("update the function's code")?;
                decisions.push(format!("updated to image {}", digest::short(&build.image.digest)));
                let _ = updated;
                None
            }
        }
    };
    wait_until_updated(cloud, function).await?;
    let _ = revision;

    let published = cloud
        .lambda
        .publish_version()
        .function_name(function)
        // Refused if the code is not, or no longer, the one that was judged.
        .code_sha256(build.image.digest.trim_start_matches("sha256:"))
        .description(format!("run {run} model {}", build.model.digest))
        .send()
        .await
        .map_err(service_error)
        .context("publish a version")?;
    let version = published.version().context("the published version has no number")?.to_string();
    decisions.push(format!("version {version}"));

    let mut content = Content {
        function: function.clone(),
        alias: environment.alias.clone(),
        version: version.clone(),
        previous_version: live.as_ref().map(|live| live.version.clone()).filter(|previous| *previous != version),
        image: build.image.digest.clone(),
        model: build.model.digest.clone(),
        verdict: gate::Verdict::Deny,
        function_url: String::new(),
        web_url: cloud.object_url(&environment.bucket, &format!("{}index.html", environment.web_prefix)),
        report_url: String::new(),
        smoke_tests: smoke_tests(cloud, function, &version, &context.config.smoke_tests, &build.model.digest).await?,
        decisions,
        failure: None,
    };
    if let Some(failed) = content.smoke_tests.iter().find(|test| !test.passed) {
        content.failure =
            Some(format!("version {version} failed smoke test `{}`: it answered {}", failed.name, failed.answer));
        if let Some(live) = live {
            content.version = live.version;
            content.previous_version = None;
        }
        return Ok(content);
    }
    content.decisions.push(format!("{} smoke tests passed", content.smoke_tests.len()));
    move_alias(cloud, environment, &version, &mut content.decisions).await?;
    content.function_url = function::ensure_url(cloud, environment).await?;
    Ok(content)
}

async fn wait_until_updated(cloud: &Cloud, function: &str) -> Result<()> {
    let limit = std::time::Duration::from_secs(300);
    cloud
        .lambda
        .wait_until_function_active_v2()
        .function_name(function)
        .wait(limit)
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(|| format!("wait until {function} is active"))?;
    cloud
        .lambda
        .wait_until_function_updated_v2()
        .function_name(function)
        .wait(limit)
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(|| format!("wait until {function} is updated"))?;
    Ok(())
}

/// Asks a version every configured event and compares the answer, the model's digest included.
pub async fn smoke_tests(
    cloud: &Cloud,
    function: &str,
    qualifier: &str,
    tests: &[SmokeTest],
    model: &str,
) -> Result<Vec<SmokeResult>> {
    let mut results = Vec::new();
    for test in tests {
        let answer = cloud
            .lambda
            .invoke()
            .function_name(function)
            .qualifier(qualifier)
            .payload(Blob::new(serde_json::to_vec(&test.event)?))
            .send()
            .await
            .map_err(service_error)
            .with_context(|| format!("invoke version {qualifier} with `{}`", test.name))?;
        let payload = answer.payload().map(|payload| String::from_utf8_lossy(payload.as_ref()).into_owned());
        let payload = payload.unwrap_or_default();
        let passed = answer.function_error().is_none() && is_expected(&payload, test.prediction, model);
        results.push(SmokeResult { name: test.name.clone(), passed, answer: payload });
    }
    Ok(results)
}

/// Whether an answer is a 200 with this prediction by this model.
fn is_expected(payload: &str, prediction: i64, model: &str) -> bool {
    let Ok(answer) = serde_json::from_str::<Value>(payload) else { return false };
    let Some(body) = answer["body"].as_str().and_then(|body| serde_json::from_str::<Value>(body).ok()) else {
        return false;
    };
    answer["statusCode"] == 200 && body["prediction"] == prediction && body["model"] == model
}

async fn move_alias(
    cloud: &Cloud,
    environment: &Environment,
    version: &str,
    decisions: &mut Vec<String>,
) -> Result<()> {
    let (function, alias) = (&environment.function, &environment.alias);
    match cloud.lambda.get_alias().function_name(function).name(alias).send().await {
        Ok(current) if current.function_version() == Some(version) => {
            decisions.push(format!("alias {alias} already names version {version}"));
        }
        Ok(current) => {
            cloud
                .lambda
                .update_alias()
                .function_name(function)
                .name(alias)
                .function_version(version)
                // Refused if somebody else moved it in between.
                .set_revision_id(current.revision_id().map(String::from))
                .send()
                .await
                .map_err(service_error)
                .with_context(|| format!("move alias {alias} to version {version}"))?;
            let from = current.function_version().unwrap_or("?");
            decisions.push(format!("moved alias {alias} from version {from} to {version}"));
        }
        Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
            cloud
                .lambda
                .create_alias()
                .function_name(function)
                .name(alias)
                .function_version(version)
                .send()
                .await
                .map_err(service_error)
                .with_context(|| format!("create alias {alias}"))?;
            decisions.push(format!("created alias {alias} on version {version}"));
        }
        Err(error) => return Err(service_error(error)).with_context(|| format!("ask for alias {alias}")),
    }
    Ok(())
}

/// Uploads the page and, beside it, which function it asks.
pub async fn publish_web_page(context: &Context, cloud: &Cloud, function_url: &str, model: &str) -> Result<()> {
    let environment = &context.environment;
    let folder = context.root.join("web");
    cloud.ensure_bucket(environment).await?;
    for path in digest::files_of_tree(&folder)? {
        let bytes = fs::read(folder.join(&path)).with_context(|| format!("read web/{}", path.display()))?;
        let key = format!("{}{}", environment.web_prefix, path.display());
        cloud.upload(&environment.bucket, &key, content_type(&path.to_string_lossy()), bytes).await?;
    }
    publish_web_configuration(cloud, environment, function_url, model).await
}

/// Tells the page which function to ask.
pub async fn publish_web_configuration(
    cloud: &Cloud,
    environment: &Environment,
    function_url: &str,
    model: &str,
) -> Result<()> {
    let configuration = json!({"function_url": function_url, "model": model});
    let key = format!("{}config.json", environment.web_prefix);
    cloud.upload(&environment.bucket, &key, "application/json", serde_json::to_vec(&configuration)?).await
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("ico") => "image/x-icon",
        _ => "application/octet-stream",
    }
}

fn set_outputs(record: &Record<Content>) -> Result<()> {
    let content = &record.content;
    github::output("function_version", &content.version)?;
    github::output("function_url", &content.function_url)?;
    github::output("web_url", &content.web_url)?;
    github::output("report_url", &content.report_url)?;
    github::summary(&format!(
        "### Deploy\n\n| | |\n|---|---|\n| function | {} |\n| version | {} |\n| image | `{}` |\n| URL | {} |\n| page | {} |",
        content.function, content.version, content.image, content.function_url, content.web_url
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_prediction_by_the_right_model_passes() {
        let answer = |body: &str| json!({"statusCode": 200, "body": body}).to_string();
        assert!(is_expected(&answer(r#"{"prediction": 1, "model": "sha256:a"}"#), 1, "sha256:a"));
        for wrong in [
            answer(r#"{"prediction": 0, "model": "sha256:a"}"#),
            answer(r#"{"prediction": 1, "model": "sha256:b"}"#),
            answer("no JSON"),
            json!({"statusCode": 400, "body": r#"{"prediction": 1, "model": "sha256:a"}"#}).to_string(),
            json!({"errorMessage": "Task timed out"}).to_string(),
            String::new(),
        ] {
            assert!(!is_expected(&wrong, 1, "sha256:a"), "{wrong}");
        }
    }
}
