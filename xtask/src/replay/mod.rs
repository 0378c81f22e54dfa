//! Replay: what a change would have meant, before anybody relies on it.
//!
//! A candidate model judges the test applications of a run beside that run's own model ([`model`]); changed policies judge every
//! verdict of the past again ([`policies`]). Either is shown on the terminal and as a page that loads nothing.

mod flips;
mod kept;
mod model;
mod page;
mod policies;
mod reasons;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{ArgGroup, Args};

use crate::context::Context;
use crate::records;
use crate::terminal::note;

/// Options of `replay`.
#[derive(Args)]
#[command(group(ArgGroup::new("change").required(true)))]
pub struct Options {
    /// Model file to try on the test applications of a run, beside the run's own model.
    #[arg(long, value_name = "FILE", group = "change")]
    model: Option<PathBuf>,
    /// Folder with the policies to try on past verdicts, named as those of pipeline.toml.
    #[arg(long, value_name = "DIR", group = "change")]
    policy: Option<PathBuf>,
    /// Run with the applications and the model to compare with: the newest one unless given.
    #[arg(long, value_name = "RUN", conflicts_with = "policy")]
    against: Option<String>,
    /// Say why the decisions that change are denied, by the model that denies them: in all, by group and of every example.
    #[arg(long, conflicts_with = "policy")]
    explain: bool,
    /// Judge also the verdicts that the environment's bucket keeps, of what was deployed and denied, wherever they were given.
    #[arg(long, conflicts_with = "model")]
    kept: bool,
    /// Page to write, instead of replay.html in the run's folder.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

/// The page's file in a run's folder.
const PAGE: &str = "replay.html";

/// Runs the command.
///
/// # Errors
/// As [`model::run`] and [`policies::run`].
pub fn run(context: &Context, options: &Options) -> Result<()> {
    match (&options.model, &options.policy) {
        (Some(candidate), _) => model::run(context, candidate, options),
        (None, Some(folder)) => policies::run(context, folder, options),
        (None, None) => Err(crate::exit::usage("name what to try: --model FILE or --policy DIR")),
    }
}

/// Writes the page where it was asked for, or into the folder; says where it is.
fn write_page(page: Option<&Path>, folder: &Path, html: &str) -> Result<()> {
    let path = match page {
        Some(path) => std::path::absolute(path).context("find the page's folder")?,
        None => folder.join(PAGE),
    };
    records::write_atomically(&path, html.as_bytes())?;
    note(&format!("page {}", path.display()));
    Ok(())
}
