//! What people read: the report and the web page, in the environment's own bucket.
//!
//! Where the environment is not public, the bucket stays closed. The report is then read through a link that is signed for an
//! hour; it stands in artifact.txt and in the step's outputs, never in a record, a summary or the log.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aws_sdk_s3::presigning::PresigningConfig;
use chrono::{DateTime, Utc};
use serde_json::json;

use crate::cloud::{Cloud, service_error};
use crate::config::Environment;
use crate::context::Context;
use crate::records::{self, Stage};
use crate::{compare, digest, github, report};

/// How long a signed link works.
const LINK_LIFETIME: Duration = Duration::from_secs(3600);
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";

/// Where what is published can be found.
pub struct Addresses {
    /// Readable by everybody where the environment is public, else the object's name.
    pub report_url: String,
    /// None where the environment is not public.
    pub web_url: Option<String>,
}

/// The addresses that an environment publishes under.
pub fn addresses(cloud: &Cloud, environment: &Environment) -> Addresses {
    let Environment { bucket, report_key, web_prefix, public, .. } = environment;
    Addresses {
        report_url: match public {
            true => cloud.object_url(bucket, report_key),
            false => format!("s3://{bucket}/{report_key}"),
        },
        web_url: public.then(|| cloud.object_url(bucket, &format!("{web_prefix}index.html"))),
    }
}

/// Uploads the report with the model's description beside it, and the page where the environment is public.
pub async fn publish(context: &Context, cloud: &Cloud, function_url: &str, model: &str) -> Result<()> {
    let environment = &context.environment;
    cloud.ensure_bucket(environment).await?;
    let path = context.record_folder(Stage::Gate)?.join(report::FILE);
    let report = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let description = compare::description(context)?;
    let run = context.run()?;
    for (name, content_type, bytes) in [(report_name(environment), HTML, report), (compare::FILE, JSON, description)] {
        for key in [key_beside_report(environment, name), key_of_run(environment, &run, name)] {
            cloud.upload(&environment.bucket, &key, content_type, bytes.clone()).await?;
        }
    }
    if environment.public {
        publish_web_page(context, cloud, function_url, model).await?;
    }
    Ok(())
}

fn report_name(environment: &Environment) -> &str {
    environment.report_key.rsplit('/').next().unwrap_or_default()
}

/// Where a file lies that is published with the report.
pub fn key_beside_report(environment: &Environment, name: &str) -> String {
    let folder = environment.report_key.rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{folder}/{name}").trim_start_matches('/').to_string()
}

/// Uploads a run's report: under its fixed name, and under the run's own for later.
pub async fn publish_report(cloud: &Cloud, environment: &Environment, run: &str, page: &[u8]) -> Result<()> {
    for key in [&environment.report_key, &key_of_run(environment, run, report_name(environment))] {
        cloud.upload(&environment.bucket, key, HTML, page.to_vec()).await?;
    }
    Ok(())
}

/// What the live model says of itself; none where nothing was deployed yet.
pub async fn live_description(cloud: &Cloud, environment: &Environment) -> Result<Option<Vec<u8>>> {
    let (bucket, key) = (&environment.bucket, key_beside_report(environment, compare::FILE));
    let answer = match cloud.s3.get_object().bucket(bucket).key(&key).send().await {
        Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => return Ok(None),
        answer => answer.map_err(service_error).with_context(|| format!("read s3://{bucket}/{key}"))?,
    };
    let stored = answer.body.collect().await.with_context(|| format!("read s3://{bucket}/{key}"))?;
    Ok(Some(stored.to_vec()))
}

fn key_of_run(environment: &Environment, run: &str, name: &str) -> String {
    key_beside_report(environment, &format!("{run}/{name}"))
}

/// Hands the report's link to people: in artifact.txt, and as the step's output. Where it has to be signed, says until when.
pub async fn hand_out(context: &Context, cloud: &Cloud) -> Result<Option<DateTime<Utc>>> {
    let environment = &context.environment;
    let path = context.record_folder(Stage::Deploy)?.join("artifact.txt");
    if environment.public {
        let url = cloud.object_url(&environment.bucket, &environment.report_key);
        github::output("report_url", &url)?;
        records::write_atomically(&path, format!("{url}\n").as_bytes())?;
        return Ok(None);
    }
    let expires_at = Utc::now() + LINK_LIFETIME;
    let signing = PresigningConfig::expires_in(LINK_LIFETIME).context("sign the report's link")?;
    let request = cloud.s3.get_object().bucket(&environment.bucket).key(&environment.report_key);
    let link = request.presigned(signing).await.map_err(service_error).context("sign the report's link")?;
    github::output("report_url", link.uri())?;
    github::output("report_url_expires_at", &expires_at.to_rfc3339())?;
    records::write_atomically(&path, format!("{}\n", link.uri()).as_bytes())?;
    Ok(Some(expires_at))
}

/// Makes what an earlier run published the current report again, if the bucket still has it.
pub async fn restore_report(cloud: &Cloud, environment: &Environment, run: &str) -> Result<()> {
    let bucket = &environment.bucket;
    for (name, content_type) in [(report_name(environment), HTML), (compare::FILE, JSON)] {
        let key = key_of_run(environment, run, name);
        let stored = cloud.download(bucket, &key).await?;
        cloud.upload(bucket, &key_beside_report(environment, name), content_type, stored).await?;
    }
    Ok(())
}

/// Uploads the page and, beside it, which function it asks.
async fn publish_web_page(context: &Context, cloud: &Cloud, function_url: &str, model: &str) -> Result<()> {
    let environment = &context.environment;
    let folder = context.root.join("web");
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
    cloud.upload(&environment.bucket, &key, JSON, serde_json::to_vec(&configuration)?).await
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
