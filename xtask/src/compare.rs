//! Compare: how a candidate differs from what is live, as a Markdown table that can be read beside a change.
//!
//! The candidate is the newest (or named) run. What is live describes itself: `deploy` leaves [`FILE`] beside the report, so
//! that a public environment can be compared with from anywhere, without credentials. Writes `comparison.md`. It judges
//! nothing: that is the gate's part.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::config::{CloudKind, Environment};
use crate::context::Context;
use crate::records::{self, Record, Stage};
use crate::stages::{build, deploy, gate, test};
use crate::{digest, github, http};

/// Options of `compare`.
#[derive(Args)]
pub struct Options {
    /// What to compare with: an environment of pipeline.toml, a URL or a file.
    #[arg(long, value_name = "ENV|URL|FILE")]
    with: Option<String>,
}

/// What a deployed model says of itself, beside its report.
pub const FILE: &str = "live.json";

/// A description, or why nothing is known: that is no fault of the candidate.
type Known = Result<Value, String>;

/// A figure of the table: its name, how to read it from a description, and how many digits tell something.
struct Figure {
    name: &'static str,
    read: fn(&Value) -> Option<f64>,
    digits: usize,
}

const FIGURES: [Figure; 13] = [
    Figure { name: "accuracy", read: |of| of["accuracy"].as_f64(), digits: 4 },
    Figure { name: "precision", read: |of| of["overall"]["precision"].as_f64(), digits: 4 },
    Figure { name: "recall", read: |of| of["overall"]["recall"].as_f64(), digits: 4 },
    Figure { name: "share approved", read: |of| of["overall"]["selection_rate"].as_f64(), digits: 4 },
    Figure { name: "accuracy in training", read: |of| of["train"]["accuracy"].as_f64(), digits: 4 },
    Figure {
        name: "equal opportunity difference (points)",
        read: |of| of["fairnessScoreEqualOpportunity"].as_f64(),
        digits: 2,
    },
    Figure {
        name: "demographic parity difference (points)",
        read: |of| widest_gap(of, "demographic_parity_difference"),
        digits: 2,
    },
    Figure {
        name: "equal accuracy difference (points)",
        read: |of| widest_gap(of, "equal_accuracy_difference"),
        digits: 2,
    },
    Figure { name: "rows tested", read: |of| of["rows"].as_f64(), digits: 0 },
    Figure { name: "rows where Python and Rust differ", read: differences, digits: 0 },
    Figure { name: "leaves", read: |of| of["leaves"].as_f64(), digits: 0 },
    Figure { name: "model file (bytes)", read: |of| of["model_bytes"].as_f64(), digits: 0 },
    Figure { name: "image (bytes)", read: |of| of["image_bytes"].as_f64(), digits: 0 },
];

/// Of those that are deployed as a zip package.
const PACKAGE: Figure = Figure { name: "zip package (bytes)", read: |of| of["package_bytes"].as_f64(), digits: 0 };

/// The widest gap over the protected attributes, in points; unknown if one of them has no figure.
fn widest_gap(of: &Value, name: &str) -> Option<f64> {
    let gaps: Option<Vec<f64>> = of["fairness"].as_object()?.values().map(|gaps| gaps[name].as_f64()).collect();
    gaps?.into_iter().reduce(f64::max).map(|gap| 100.0 * gap)
}

fn differences(of: &Value) -> Option<f64> {
    let parity = &of["parity"];
    Some(parity["class_differences"].as_f64()?.max(parity["probability_differences"].as_f64()?))
}

/// Prints the table.
pub fn run(context: &Context, options: &Options) -> Result<()> {
    let candidate = describe(context)?;
    let live = match &options.with {
        Some(with) => live(context, with)?,
        None => Err("nothing to compare with was named (`--with`)".to_string()),
    };
    // A candidate that is not judged yet can be compared all the same.
    let verdict = context.read::<gate::Content>(Stage::Gate).ok().map(|gate| gate.content.verdict.name());
    let text = markdown(&candidate, &live, verdict);
    records::write_atomically(&context.folder()?.join("comparison.md"), text.as_bytes())?;
    github::summary(&text)?;
    if context.json {
        let (live, unknown) = match live {
            Ok(live) => (live, None),
            Err(reason) => (Value::Null, Some(reason)),
        };
        println!("{}", json!({"candidate": candidate, "live": live, "unknown": unknown, "verdict": verdict}));
    } else {
        print!("{text}");
    }
    Ok(())
}

/// The content of [`FILE`] for the model that is about to be live.
pub fn description(context: &Context) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec_pretty(&describe(context)?)?)
}

/// What this run's model is: its metrics, and what the records know besides.
fn describe(context: &Context) -> Result<Value> {
    let build: Record<build::Content> = context.read(Stage::Build)?;
    let test: Record<test::Content> = context.read(Stage::Test)?;
    let path = context.folder()?.join("training.json");
    let training: Value = read_json(&path)?;
    let mut description = test.content.metrics;
    // To be drawn, not compared.
    if let Some(metrics) = description.as_object_mut() {
        metrics.remove("curves");
    }
    description["run"] = json!(build.run);
    description["commit"] = json!(build.content.commit);
    description["estimator"] = training["estimator"].clone();
    description["dataset"] = build.content.dataset["sha256"].clone();
    description["leaves"] = json!(training["leaf_train_rows"].as_array().map(Vec::len));
    description["model_bytes"] = json!(build.content.model.bytes);
    description["package_bytes"] = json!(build.content.package.map(|package| package.bytes));
    description["image_bytes"] = json!(build.content.image.bytes);
    Ok(description)
}

fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))
}

/// The description of what is live, or why there is none.
///
/// # Errors
/// It is there and cannot be understood, or a file that was named is not there.
fn live(context: &Context, with: &str) -> Result<Known> {
    let url = match context.config.environments.get(with) {
        Some(environment) if !environment.public => {
            return Ok(Err(format!("environment `{with}` shows nothing to the public")));
        }
        Some(environment) => address(context, with, environment)?,
        None if with.starts_with("https://") || with.starts_with("http://") => with.to_string(),
        None => {
            let known: Vec<_> = context.config.environments.keys().map(String::as_str).collect();
            let description = read_json(Path::new(with)).with_context(|| {
                format!("`{with}` is no URL and no environment of pipeline.toml ({}), so a file", known.join(", "))
            })?;
            return understood(description, with).map(Ok);
        }
    };
    context.block_on(fetch(&url))
}

/// Where an environment publishes the description of its model.
fn address(context: &Context, name: &str, environment: &Environment) -> Result<String> {
    let key = deploy::key_beside_report(environment, FILE);
    match environment.cloud {
        CloudKind::Embedded if name == context.environment_name => {
            Ok(context.cloud()?.object_url(&environment.bucket, &key))
        }
        CloudKind::Embedded => bail!("`{name}` lives in the embedded cloud: compare with `--env {name}`"),
        CloudKind::Aws => Ok(public_url(environment, &key)),
    }
}

/// The address that asks for no credentials.
fn public_url(environment: &Environment, key: &str) -> String {
    let Environment { bucket, region, .. } = environment;
    match std::env::var("AWS_ENDPOINT_URL").ok().filter(|url| !url.is_empty()) {
        Some(endpoint) => format!("{}/{bucket}/{key}", endpoint.trim_end_matches('/')),
        None => format!("https://{bucket}.s3.{region}.amazonaws.com/{key}"),
    }
}

async fn fetch(url: &str) -> Result<Known> {
    let answer = match http::client()?.get(url).send().await {
        Ok(answer) => answer,
        Err(error) => return Ok(Err(format!("{url} could not be reached: {}", http::error(&error)))),
    };
    // A bucket that lists nothing to the public answers 403 for what is not there.
    if !answer.status().is_success() {
        return Ok(Err(format!("{url} answers {}", answer.status())));
    }
    let bytes = answer.bytes().await.with_context(|| format!("read {url}"))?;
    understood(serde_json::from_slice(&bytes).with_context(|| format!("understand {url}"))?, url).map(Ok)
}

/// Refuses what does not describe a model: an empty table would look like an answer.
fn understood(description: Value, place: &str) -> Result<Value> {
    if !description["model"].is_string() || !description["accuracy"].is_number() {
        bail!("{place} describes no model: it needs `model` and `accuracy`, as metrics.json has them");
    }
    Ok(description)
}

/// The table, with a sentence for everything that makes its figures incomparable.
fn markdown(candidate: &Value, live: &Known, verdict: Option<&str>) -> String {
    let text = |of: &Value, key: &str| of[key].as_str().map_or("unknown".to_string(), |text| format!("`{text}`"));
    let short = |of: &Value, key: &str| format!("`{}`", digest::short(of[key].as_str().unwrap_or("unknown")));
    let mut lines = vec!["### The candidate beside the live model".to_string(), String::new()];
    lines.push(format!("Gate: {}.", verdict.unwrap_or("not asked yet")));
    match live {
        Err(reason) => lines.push(format!("Nothing is known about the live model: {reason}.")),
        Ok(live) if live["model"] == candidate["model"] => {
            lines.push("The candidate is the live model, byte for byte.".to_string());
        }
        Ok(live) if live["dataset"] != candidate["dataset"] => {
            lines.push("The two were tested on different data: the differences below are also the data's.".to_string());
        }
        Ok(_) => {}
    }
    let absent = Value::Null;
    let live = live.as_ref().unwrap_or(&absent);
    lines.extend([String::new(), "| | live | candidate | difference |".into(), "|---|---:|---:|---:|".into()]);
    lines.push(format!("| model | {} | {} | |", short(live, "model"), short(candidate, "model")));
    lines.push(format!("| estimator | {} | {} | |", text(live, "estimator"), text(candidate, "estimator")));
    let package = (PACKAGE.read)(live).or((PACKAGE.read)(candidate)).map(|_| PACKAGE);
    for Figure { name, read, digits } in FIGURES.into_iter().chain(package) {
        let (old, new) = (read(live), read(candidate));
        let shown = |figure: Option<f64>| figure.map_or("unknown".to_string(), |figure| format!("{figure:.digits$}"));
        let difference = match (old, new) {
            (Some(old), Some(new)) if old == new => "0".to_string(),
            (Some(old), Some(new)) => format!("{:+.digits$}", new - old),
            _ => String::new(),
        };
        lines.push(format!("| {name} | {} | {} | {difference} |", shown(old), shown(new)));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> Value {
        json!({
            "model": format!("sha256:{}", "a".repeat(64)), "accuracy": 0.9267, "fairnessScoreEqualOpportunity": 7.0715,
            "rows": 100_000, "dataset": "sha256:d", "estimator": "DecisionTreeClassifier",
            "fairness": {"Group": {"demographic_parity_difference": 0.28}, "Age": {"demographic_parity_difference": 0.31}},
            "parity": {"class_differences": 0, "probability_differences": 2},
        })
    }

    #[test]
    fn differences_have_a_sign_and_the_unknown_has_none() {
        let mut candidate = description();
        candidate["model"] = json!(format!("sha256:{}", "b".repeat(64)));
        candidate["accuracy"] = json!(0.9367);
        let text = markdown(&candidate, &Ok(description()), Some("allow"));
        for line in [
            "Gate: allow.",
            "| model | `aaaaaaaaaaaa` | `bbbbbbbbbbbb` | |",
            "| accuracy | 0.9267 | 0.9367 | +0.0100 |",
            "| equal opportunity difference (points) | 7.07 | 7.07 | 0 |",
            "| demographic parity difference (points) | 31.00 | 31.00 | 0 |",
            "| rows where Python and Rust differ | 2 | 2 | 0 |",
            "| leaves | unknown | unknown |  |",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("zip package"), "{text}");
        candidate["package_bytes"] = json!(1_000);
        let text = markdown(&candidate, &Ok(description()), None);
        assert!(text.contains("| zip package (bytes) | unknown | 1000 |  |"), "{text}");
        candidate["dataset"] = json!("sha256:e");
        assert!(markdown(&candidate, &Ok(description()), None).contains("different data"));
    }

    #[test]
    fn the_same_and_the_unknown_model_are_said() {
        let same = markdown(&description(), &Ok(description()), None);
        assert!(same.contains("is the live model, byte for byte") && same.contains("Gate: not asked yet."));
        let alone = markdown(&description(), &Err("it answers 403".into()), None);
        assert!(alone.contains("Nothing is known about the live model: it answers 403."), "{alone}");
        assert!(alone.contains("| accuracy | unknown | 0.9267 |  |"), "{alone}");
    }

    #[test]
    fn a_gap_without_a_figure_leaves_the_widest_open() {
        let mut with_hole = description();
        with_hole["fairness"]["Age"] = json!({"demographic_parity_difference": null});
        assert_eq!(widest_gap(&with_hole, "demographic_parity_difference"), None);
    }

    #[test]
    fn what_describes_no_model_is_refused() {
        for wrong in [json!(null), json!({}), json!([]), json!({"model": "sha256:a", "accuracy": "0.9"})] {
            assert!(understood(wrong, "live.json").unwrap_err().to_string().contains("live.json describes no model"));
        }
        assert!(understood(description(), "live.json").is_ok());
    }
}
