//! All six stages in order, and the frame around each: the lock, the heading, the time taken.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::context::Context;
use crate::records::Stage;
use crate::stages::{build, deploy, gate, monitor, scan, test};
use crate::{Common, digest, exit, github, lock, terminal};

/// Options of `pipeline`.
#[derive(Args)]
pub struct Options {
    /// After the run, wait until the sources change and run again; ends with Ctrl-C.
    #[arg(long)]
    watch: bool,
}

/// Runs the whole pipeline.
pub fn run(context: &Context, common: &Common, options: &Options) -> Result<()> {
    if !options.watch {
        return once(context);
    }
    loop {
        // A fresh context each time: pipeline.toml may be what changed.
        let context = Context::new(common)?;
        let seen = watched(&context)?;
        if let Err(error) = once(&context) {
            terminal::failure(&error);
        }
        drop(context);
        terminal::note("waiting for a change of the sources (Ctrl-C ends)");
        while watched(&Context::new(common)?)? == seen {
            sleep(Duration::from_secs(1));
        }
    }
}

fn once(context: &Context) -> Result<()> {
    context.end_with_children();
    let _lock = lock::acquire(&context.root)?;
    let begun = Instant::now();
    let mut records = Map::new();
    let mut keep = |stage: Stage, record: Value| {
        records.insert(stage.name().to_string(), record);
    };
    keep(Stage::Build, framed(Stage::Build, || build::run(context))?);
    keep(Stage::Scan, framed(Stage::Scan, || scan::run(context))?);
    keep(Stage::Test, framed(Stage::Test, || test::run(context))?);
    keep(Stage::Gate, framed(Stage::Gate, || gate::run(context, None))?);
    keep(Stage::Deploy, framed(Stage::Deploy, || deploy::run(context, &deploy::Options::default()))?);
    keep(Stage::Monitor, framed(Stage::Monitor, || monitor::run(context, &monitor::Options::default()))?);
    if context.json {
        println!("{}", serde_json::to_string(&records)?);
        return Ok(());
    }
    let text = |key: &str| records["deploy"][key].as_str().unwrap_or_default().to_string();
    println!(
        "run {} done in {}: version {} answers",
        context.run()?,
        terminal::seconds(begun.elapsed()),
        text("version")
    );
    for (name, key) in [("function", "function_url"), ("web page", "web_url"), ("report", "report_url")] {
        if !text(key).is_empty() {
            println!("  {name:<8}  {}", text(key));
        }
    }
    if context.cloud()?.embedded.is_some() {
        println!("`cargo xtask local` serves them on this machine.");
    }
    Ok(())
}

/// Runs one stage as a command of its own.
pub fn stage<T: Serialize>(context: &Context, stage: Stage, run: impl FnOnce() -> Result<T>) -> Result<()> {
    let record = alone(context, stage, run)?;
    if context.json {
        println!("{}", serde_json::to_string(&record)?);
    }
    Ok(())
}

/// Runs one stage and leaves it to the caller to print what came out.
pub fn alone<T: Serialize>(context: &Context, stage: Stage, run: impl FnOnce() -> Result<T>) -> Result<Value> {
    context.end_with_children();
    let _lock = lock::acquire(&context.root)?;
    framed(stage, run)
}

/// Runs a stage between a heading and the time it took.
fn framed<T: Serialize>(stage: Stage, run: impl FnOnce() -> Result<T>) -> Result<Value> {
    eprintln!("{}", terminal::bold(stage.name()));
    github::group(stage.name());
    let begun = Instant::now();
    let result = run();
    github::end_group();
    let word = match &result {
        Ok(_) => "done",
        Err(error) if exit::answer_of(error) == Some(exit::Answer::Denied) => "denied",
        Err(_) => "failed",
    };
    eprintln!("  {word} in {}", terminal::seconds(begun.elapsed()));
    Ok(serde_json::to_value(result?)?)
}

/// Digest of everything that a run depends on.
fn watched(context: &Context) -> Result<String> {
    let mut inputs = build::inputs(context)?;
    for name in ["policies", "web", "pipeline.toml"] {
        inputs.insert(name.to_string(), digest::of_tree(&context.root.join(name))?);
    }
    context.configuration_digest(&inputs)
}
