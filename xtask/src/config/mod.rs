//! pipeline.toml, the only place that names things.

mod checks;
mod environment;
mod github;
mod policy_sets;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::environment::*;
pub use self::github::*;
pub use self::policy_sets::*;
use crate::waivers::Waiver;
use crate::{mail, waivers};

/// The whole file.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub model: Model,
    pub inference: Inference,
    /// What a denial says where a feature decided, by feature. Training refuses those that the model does not have.
    #[serde(default)]
    pub reasons: BTreeMap<String, String>,
    #[serde(default)]
    pub smoke_tests: Vec<SmokeTest>,
    /// Seed and limits of the metrics; the Python package reads and checks them.
    #[serde(default)]
    pub metrics: Value,
    /// How the model has to behave; read and checked there, too.
    #[serde(default)]
    pub behaviour: Value,
    pub scan: Scan,
    #[serde(default)]
    pub policy_sets: Vec<PolicySet>,
    #[serde(default)]
    pub waivers: Vec<Waiver>,
    pub tracking: Tracking,
    pub monitor: Monitor,
    #[serde(default)]
    pub github: Option<GitHub>,
    pub environments: BTreeMap<String, Environment>,
}

/// What is trained.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The uv project, relative to the root.
    pub directory: PathBuf,
    /// The notebook whose cells tagged `train` make the model.
    pub notebook: PathBuf,
    /// Python package with the modules `train`, `metrics` and `export`.
    pub package: String,
}

impl Model {
    /// The notebook's path from the uv project.
    pub fn notebook_in_directory(&self) -> &Path {
        self.notebook.strip_prefix(&self.directory).unwrap_or(&self.notebook)
    }
}

/// What predicts.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Inference {
    /// Workspace member with the binaries `bootstrap` and `score`.
    #[serde(rename = "crate")]
    pub package: String,
    pub architecture: Architecture,
}

/// Processor that the function runs on, in Lambda's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    X86_64,
    Arm64,
}

impl Architecture {
    /// Rust's target triple for a static program.
    pub fn rust_target(self) -> &'static str {
        match self {
            Architecture::X86_64 => "x86_64-unknown-linux-gnu",
            Architecture::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// The image configuration's word.
    pub fn image_architecture(self) -> &'static str {
        match self {
            Architecture::X86_64 => "amd64",
            Architecture::Arm64 => "arm64",
        }
    }
}

/// An event with the prediction that every deployed version must give.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SmokeTest {
    pub name: String,
    pub event: Value,
    pub prediction: i64,
}

/// What a scan is called and where advisories come from.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    pub target: String,
    /// A git URL, or a folder.
    pub advisory_database: String,
    /// Address of a service in the form of OSV, asked about the locked Python packages; nobody is asked if there is none.
    #[serde(default)]
    pub python_advisories: Option<String>,
    /// How long the registry may take for a scan.
    pub limit_seconds: u64,
}

/// What MLflow calls the runs.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tracking {
    pub experiment: String,
    pub run_name: String,
}

/// When a model is stale, and who hears of it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Monitor {
    pub stale_after_days: u32,
    #[serde(default)]
    pub mail_to: Vec<String>,
    pub mail_from: String,
}

/// The file's name, in the root.
pub const FILE: &str = "pipeline.toml";

/// Reads and checks pipeline.toml.
pub fn read(root: &Path) -> Result<Config> {
    let path = root.join(FILE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| format!("understand {}", path.display()))
}

/// Understands the file's text.
pub fn parse(text: &str) -> Result<Config> {
    let mut config: Config = toml::from_str(text)?;
    if config.environments.is_empty() {
        bail!("no [environments.NAME] is named");
    }
    checks::policy_sets(&config.policy_sets, &config.environments)?;
    waivers::check(&config.waivers)?;
    for (name, environment) in &mut config.environments {
        environment.bucket = environment.bucket.replace("{account}", &environment.account);
        checks::alone(name, environment)?;
    }
    if let Some(github) = &config.github {
        github.check()?;
    }
    let buckets: BTreeMap<_, _> =
        config.environments.iter().map(|(name, environment)| (name.clone(), environment.bucket.clone())).collect();
    for (name, environment) in &mut config.environments {
        let built_by = environment.promotes.as_ref().unwrap_or(name);
        environment.package_bucket = buckets.get(built_by).cloned().unwrap_or_default();
    }
    for (name, environment) in &config.environments {
        checks::among(&config, name, environment)?;
    }
    for address in config.monitor.mail_to.iter().chain([&config.monitor.mail_from]) {
        mail::address(address).context("[monitor]")?;
    }
    Ok(config)
}

impl Config {
    /// The named environment.
    pub fn environment(&self, name: &str) -> Result<&Environment> {
        match self.environments.get(name) {
            Some(environment) => Ok(environment),
            None => {
                let known: Vec<_> = self.environments.keys().map(String::as_str).collect();
                bail!("pipeline.toml has no environment `{name}`; it has: {}", known.join(", "))
            }
        }
    }
}

#[cfg(test)]
const SHIPPED: &str = include_str!("../../../pipeline.toml");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_is_understood() {
        let config = parse(SHIPPED).unwrap();
        assert_eq!(config.environment("local").unwrap().function, "creditcardapplicationlambda");
        let error = config.environment("staging").unwrap_err().to_string();
        assert!(error.contains("staging") && error.contains("local"), "{error}");
    }

    #[test]
    fn a_misspelt_key_and_a_doubled_set_are_refused() {
        let misspelt = SHIPPED.replace("stale_after_days", "stale_after_day");
        assert!(format!("{:#}", parse(&misspelt).unwrap_err()).contains("stale_after_day"));
        let unknown = SHIPPED.replacen("strategy = \"Canary10Percent5Minutes\"", "strategy = \"Canary\"", 1);
        assert!(format!("{:#}", parse(&unknown).unwrap_err()).contains("environment `production`: rollout: `Canary`"));
        let elsewhere = SHIPPED.replacen("promotes = \"preprod\"", "promotes = \"local\"", 1);
        assert!(parse(&elsewhere).unwrap_err().to_string().contains("promotes `local`"));
        for public in ["", "e", "evidence/", "evidence/web/"] {
            let open = SHIPPED.replacen("web_prefix = \"web/\"", &format!("web_prefix = \"{public}\""), 1);
            let error = format!("{:#}", parse(&open).unwrap_err());
            assert!(error.contains("environment `local`: web_prefix publishes"), "{error}");
        }
        let open = SHIPPED.replacen("harness/output/model", "evidence/model", 1);
        assert!(format!("{:#}", parse(&open).unwrap_err()).contains("report_key publishes `evidence/*`"));
        let shared = SHIPPED.replace("lambda-production-deploy", "lambda-deploy");
        assert!(parse(&shared).unwrap_err().to_string().contains("both name the role"));
        let retention = SHIPPED.replacen("log_retention_days = 30", "log_retention_days = 31", 1);
        assert!(parse(&retention).unwrap_err().to_string().contains("31 days"));
        let doubled = SHIPPED.replace("Security Policy Set", "Credit Card Approval Policy Set");
        assert!(parse(&doubled).unwrap_err().to_string().contains("twice"));
    }
}
