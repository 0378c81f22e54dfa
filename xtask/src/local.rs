//! Local: serves the embedded cloud in the foreground, with what was deployed to it.

use anyhow::{Context as _, Result, bail};
use clap::Args;
use local_aws::{LocalCloud, StartError};
use serde_json::json;

use crate::cloud::{self, Cloud};
use crate::config::CloudKind;
use crate::context::Context;
use crate::stages::deploy;
use crate::{paths, terminal};

/// Options of `local`.
#[derive(Args)]
pub struct Options {
    /// Port to serve on; 0 takes a free one. The environment's port unless given.
    #[arg(long)]
    port: Option<u16>,
}

/// Serves until Ctrl-C.
pub fn run(context: &Context, options: &Options) -> Result<()> {
    if context.environment.cloud != CloudKind::Embedded {
        bail!("environment `{}` is not the embedded cloud's: leave --env out", context.environment_name);
    }
    context.block_on(serve(context, options))
}

async fn serve(context: &Context, options: &Options) -> Result<()> {
    let environment = &context.environment;
    let port = match options.port {
        Some(port) => port,
        None => cloud::port(environment)?,
    };
    let start =
        local_aws::Options { root: paths::local_state(&context.root), port, region: environment.region.clone() };
    let embedded = match LocalCloud::start(start).await {
        Ok(embedded) => embedded,
        Err(StartError::AlreadyRunning { endpoint_url, pid }) => bail!(
            "the embedded cloud of this clone already runs as process {pid} at {endpoint_url}: \
             use it, or end that process first"
        ),
        Err(StartError::PortTaken { port }) => bail!(
            "port {port} is taken by another program: `cargo xtask local --port 0` takes a free one, \
             `port` in pipeline.toml sets another"
        ),
        Err(error) => return Err(error).context("start the embedded cloud"),
    };
    let cloud = Cloud::at(embedded.endpoint_url().to_string(), environment, Some(embedded)).await;
    let urls = urls(&cloud, context).await?;
    if context.json {
        println!("{urls}");
    } else {
        let text =
            |key: &str| urls[key].as_str().unwrap_or("nothing is deployed yet: run `cargo xtask pipeline`").to_string();
        println!("{}", terminal::bold("the embedded cloud serves"));
        println!("  web page  {}", text("web_url"));
        println!("  function  {}", text("function_url"));
        println!("  report    {}", text("report_url"));
        println!("  endpoint  {}", text("endpoint_url"));
        println!("Ctrl-C ends it.");
    }
    until_told_to_end().await?;
    if let Some(embedded) = cloud.embedded {
        embedded.shutdown().await;
    }
    Ok(())
}

/// The addresses, as far as something is deployed. The page is told the function's current one.
async fn urls(cloud: &Cloud, context: &Context) -> Result<serde_json::Value> {
    let environment = &context.environment;
    let mut urls = json!({
        "function_url": null,
        "web_url": null,
        "report_url": null,
        "endpoint_url": cloud.endpoint_url,
    });
    let Some(live) = deploy::live_version(cloud, environment).await? else { return Ok(urls) };
    let configuration = cloud
        .lambda
        .get_function_url_config()
        .function_name(&environment.function)
        .qualifier(&environment.alias)
        .send()
        .await
        .map_err(cloud::service_error)
        .context("ask for the function's URL")?;
    let function_url = configuration.function_url().to_string();
    let model = live.model();
    deploy::publish_web_configuration(cloud, environment, &function_url, model).await?;
    urls["function_url"] = json!(function_url);
    urls["web_url"] = json!(cloud.object_url(&environment.bucket, &format!("{}index.html", environment.web_prefix)));
    urls["report_url"] = json!(cloud.object_url(&environment.bucket, &environment.report_key));
    Ok(urls)
}

async fn until_told_to_end() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .context("listen for the signal to end")?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result.context("listen for Ctrl-C"),
        _ = terminate.recv() => Ok(()),
    }
}
