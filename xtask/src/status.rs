//! Status: the newest run's records, and what is deployed.

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::records::{self, Stage};
use crate::stages::deploy;
use crate::terminal;

/// Prints the state of the newest (or named) run and of the function.
pub fn run(context: &Context) -> Result<()> {
    let run = context.named_run().or_else(|| context.latest_run());
    let mut stages = Map::new();
    if run.is_some() {
        for stage in Stage::ALL {
            let folder = context.record_folder(stage)?;
            let state = match records::read_verified::<Value>(&folder, stage) {
                Ok(record) => json!({
                    "state": "done",
                    "finished_at": record.finished_at,
                    "result": result(stage, &record.content),
                }),
                Err(_) if !folder.join(stage.file()).exists() => json!({"state": "not run"}),
                Err(error) => json!({"state": "unusable", "result": format!("{error:#}")}),
            };
            stages.insert(stage.name().to_string(), state);
        }
    }
    let cloud = context.cloud()?;
    let live = context.block_on(deploy::live_version(cloud, &context.environment))?;
    let live = live.map(|live| {
        json!({
            "version": live.version,
            "image": live.image,
            "published_at": live.published_at,
            "description": live.description,
        })
    });
    if context.json {
        println!("{}", json!({"run": run, "stages": stages, "live": live}));
        return Ok(());
    }
    match &run {
        None => println!("there is no run yet: `cargo xtask pipeline`"),
        Some(run) => println!("{}", terminal::bold(&format!("run {run}"))),
    }
    for (name, state) in &stages {
        let text = |key: &str| state[key].as_str().unwrap_or_default().to_string();
        println!("  {name:<8} {:<9} {}", text("state"), text("result"));
    }
    match live {
        None => println!("nothing is deployed as {}:{}", context.environment.function, context.environment.alias),
        Some(live) => println!(
            "live: {}:{} is version {}, image {}, {}",
            context.environment.function,
            context.environment.alias,
            live["version"].as_str().unwrap_or_default(),
            live["image"].as_str().unwrap_or_default(),
            live["description"].as_str().unwrap_or_default()
        ),
    }
    Ok(())
}

/// One line of what a stage found.
fn result(stage: Stage, content: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from);
    match stage {
        Stage::Build => format!("model {}", text(&content["model"]["digest"])),
        Stage::Scan => format!(
            "image {}, crates {}, {} issues",
            text(&content["registry"]["status"]),
            text(&content["crates"]["status"]),
            text(&content["summary"]["issuesCount"])
        ),
        Stage::Test => format!(
            "accuracy {}, equal opportunity difference {} points",
            text(&content["metrics"]["accuracy"]),
            text(&content["metrics"]["fairnessScoreEqualOpportunity"])
        ),
        Stage::Gate => text(&content["verdict"]),
        Stage::Deploy => match content["failure"].as_str() {
            Some(failure) => failure.to_string(),
            None => format!("version {}", text(&content["version"])),
        },
        Stage::Monitor => format!("stale {}, healthy {}", text(&content["model_stale"]), text(&content["healthy"])),
    }
}
