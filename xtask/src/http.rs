//! The HTTP client of everything that is no AWS SDK: the registry, GitHub, published files.

use anyhow::{Context as _, Result};

use crate::patience;

/// A client with time limits.
pub fn client() -> Result<reqwest::Client> {
    // Once a process; whoever was first chose the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().connect_timeout(patience::CONNECT_TIMEOUT);
    builder.timeout(patience::attempt_timeout()).user_agent("cargo-xtask").build().context("make an HTTP client")
}

/// The causes of a failed call in one line; reqwest's own text hides the one that matters.
pub fn error(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
