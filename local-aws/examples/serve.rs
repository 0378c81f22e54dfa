//! Serves the embedded cloud: `serve ROOT [PORT] [REGION]`. Prints the endpoint and runs until it is interrupted or terminated.

use std::path::PathBuf;

use local_aws::{LocalCloud, Options};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let root = PathBuf::from(arguments.next().ok_or("usage: serve ROOT [PORT] [REGION]")?);
    let port = arguments.next().map_or(Ok(0), |port| port.parse())?;
    let region = arguments.next().unwrap_or_else(|| "us-east-1".to_owned());
    let cloud = LocalCloud::start(Options { root, port, region }).await?;
    println!("{}", cloud.endpoint_url());
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = terminate.recv() => {}
    }
    cloud.shutdown().await;
    Ok(())
}
