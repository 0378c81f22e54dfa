//! Status: the newest run's records, and what is deployed.

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::records::{self, Stage};
use crate::stages::deploy::{self, alias};
use crate::stages::test;
use crate::{approval, decisions, evidence, terminal};

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
    let position = context.block_on(alias::read(cloud, &context.environment))?.map(|alias| alias.position);
    let live = context.block_on(deploy::live_version(cloud, &context.environment))?;
    let live = live.map(|live| {
        json!({
            "version": live.version,
            "image": live.image,
            "package": live.package,
            "code": live.code,
            "published_at": live.published_at,
            "description": live.description,
            "previous_version": position.as_ref().and_then(|position| position.ledger.before.first()),
            "moving": position.as_ref().and_then(|position| position.weight.as_ref()).map(|(version, share)| {
                json!({"version": version, "weight": share})
            }),
            "rolled_back": position.as_ref().and_then(|position| position.ledger.rolled_back.as_ref()).map(|taken_back| {
                json!({"version": taken_back.version, "run": taken_back.run})
            }),
        })
    });
    let approval = run.as_ref().map(|_| approval::state(context));
    let evidence = run.as_ref().map_or_else(|| "none".to_string(), |_| evidence::state(context));
    let folder_of = |run: &str, environment: &str| context.folder_of_environment(run, environment);
    let decisions = match decisions::verify(&context.root, folder_of) {
        Ok(decisions) => format!("{}, and the log of them is whole", decisions.len()),
        Err(error) => format!("{error:#}"),
    };
    if context.json {
        println!(
            "{}",
            json!({"run": run, "stages": stages, "live": live, "approval": approval, "decisions": decisions, "evidence": evidence})
        );
        return Ok(());
    }
    match &run {
        None => println!("there is no run yet: `cargo xtask pipeline`"),
        Some(run) => println!("{}", terminal::bold(&format!("run {run}"))),
    }
    for (name, state) in Stage::ALL.iter().filter_map(|stage| Some((stage.name(), stages.get(stage.name())?))) {
        let text = |key: &str| state[key].as_str().unwrap_or_default().to_string();
        println!("  {name:<8} {:<9} {}", text("state"), text("result"));
    }
    if let Some(approval) = approval.filter(|_| context.environment.approval) {
        println!("  approval {approval}");
    }
    println!("  verdicts {decisions}");
    println!("  evidence {evidence}");
    let (function, name) = (&context.environment.function, &context.environment.alias);
    let Some(live) = live else {
        println!("nothing is deployed as {function}:{name}");
        return Ok(());
    };
    let text = |key: &str| live[key].as_str().unwrap_or_default().to_string();
    println!(
        "live: {function}:{name} is version {}, {} {}, {}",
        text("version"),
        text("package"),
        text("code"),
        text("description")
    );
    if let Some((version, share)) = live["moving"]["version"].as_str().zip(live["moving"]["weight"].as_f64()) {
        println!("  version {version} gets {:.0} % of the traffic", share * 100.0);
    }
    if let Some(version) = live["previous_version"].as_str() {
        println!("  version {version} was live before: `cargo xtask rollback` goes back to it");
    }
    if let Some((version, run)) = live["rolled_back"]["version"].as_str().zip(live["rolled_back"]["run"].as_str()) {
        println!("  version {version} of run {run} was rolled back");
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
            "accuracy {}, equal opportunity difference {}",
            text(&content["metrics"]["accuracy"]),
            test::points(&content["metrics"])
        ),
        Stage::Gate => text(&content["verdict"]),
        Stage::Deploy => match content["failure"].as_str() {
            Some(failure) => failure.to_string(),
            None => format!("version {}", text(&content["version"])),
        },
        Stage::Monitor => format!("stale {}, healthy {}", text(&content["model_stale"]), text(&content["healthy"])),
    }
}
