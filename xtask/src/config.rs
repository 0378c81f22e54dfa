//! pipeline.toml, the only place that names things.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::strategy::Rollout;
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

/// Policies that are judged together.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySet {
    pub name: String,
    /// The Rego package whose `deny`, `violation` and `warn` are asked.
    pub package: String,
    pub policies: Vec<PathBuf>,
    pub on_failure: Consequence,
}

/// What a denial does, everywhere or by environment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Consequence {
    Everywhere(OnFailure),
    /// By the environment's name; `default` for all others.
    ByEnvironment(BTreeMap<String, OnFailure>),
}

impl Consequence {
    /// What a denial does in an environment; where nothing is said, it stops.
    pub fn in_environment(&self, environment: &str) -> OnFailure {
        match self {
            Consequence::Everywhere(on_failure) => *on_failure,
            Consequence::ByEnvironment(by_name) => {
                let said = by_name.get(environment).or_else(|| by_name.get("default"));
                said.copied().unwrap_or(OnFailure::Error)
            }
        }
    }
}

/// What a denial does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Say so and go on.
    Warn,
    /// Stop with exit code 3.
    Error,
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

/// Where the workflows run.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GitHub {
    /// `owner/name`.
    pub repository: String,
    /// How the subject of the repository's tokens begins, where it is not `repo:owner/name`: GitHub writes ids beside the
    /// names of repositories that were made, renamed or transferred after 18 June 2026.
    #[serde(default)]
    pub subject: Option<String>,
    /// Who looks after what is deployed.
    #[serde(default)]
    pub monitor: Option<MonitorJob>,
}

/// The jobs that monitor, and what they may do it with.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorJob {
    /// Their environment of GitHub.
    pub environment: String,
    /// Name of a role that may ask all functions and change none.
    pub role: String,
}

/// Whether a name can stand in a token's subject and in a policy as it is.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
}

/// What stands in pipeline.toml until somebody writes the repository's name there.
const UNNAMED_REPOSITORY: &str = "owner/name";

impl GitHub {
    /// Whether the repository was not written down yet.
    pub fn is_unnamed(&self) -> bool {
        self.repository == UNNAMED_REPOSITORY
    }

    /// The subject of a token that a job of this environment of GitHub gets.
    pub fn subject_of(&self, environment: &str) -> String {
        let repository = format!("repo:{}", self.repository);
        format!("{}:environment:{environment}", self.subject.as_ref().unwrap_or(&repository))
    }

    fn check(&self) -> Result<()> {
        if !self.repository.split_once('/').is_some_and(|(owner, name)| is_word(owner) && is_word(name)) {
            bail!("[github]: repository `{}` is not of the form owner/name", self.repository);
        }
        if let Some(odd) = self.monitor.as_ref().map(|job| &job.environment).filter(|name| !is_word(name)) {
            bail!("[github]: environment `{odd}` of the monitoring is more than letters, digits, `-`, `_` and `.`");
        }
        if let Some(subject) = &self.subject
            && !subject.strip_prefix("repo:").is_some_and(|rest| !rest.is_empty() && !rest.contains([':', '*', '?']))
        {
            bail!("[github]: subject `{subject}` does not begin with `repo:` or goes on after the repository");
        }
        Ok(())
    }
}

/// Which cloud an environment lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CloudKind {
    /// The embedded cloud on loopback.
    Embedded,
    /// An AWS account, reached with the ordinary credentials of the AWS tools.
    Aws,
}

impl CloudKind {
    /// As the policies know it.
    pub fn name(self) -> &'static str {
        match self {
            CloudKind::Embedded => "embedded",
            CloudKind::Aws => "aws",
        }
    }
}

/// When the training image is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainingImage {
    /// Never: training and tests run in the locked Python environment.
    Off,
    /// Where a container engine answers.
    WherePossible,
    /// Always; without a container engine `build` fails.
    Required,
}

impl TrainingImage {
    /// As pipeline.toml and the policies know it.
    pub fn name(self) -> &'static str {
        match self {
            TrainingImage::Off => "off",
            TrainingImage::WherePossible => "where_possible",
            TrainingImage::Required => "required",
        }
    }
}

/// Below what name in a bucket the zip packages are kept.
pub const PACKAGES: &str = "packages/";

/// What a function is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Package {
    /// The image in the registry.
    #[default]
    Image,
    /// A zip with the image's program and model.
    Zip,
}

impl Package {
    /// For people.
    pub fn in_words(self) -> &'static str {
        match self {
            Package::Image => "image",
            Package::Zip => "zip package",
        }
    }

    /// As pipeline.toml knows it.
    pub fn name(self) -> &'static str {
        match self {
            Package::Image => "image",
            Package::Zip => "zip",
        }
    }
}

/// Where to.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub cloud: CloudKind,
    /// Port of the embedded cloud; 0 takes a free one.
    #[serde(default)]
    pub port: u16,
    /// The account's twelve digits; a command that is given another account's credentials refuses to work.
    pub account: String,
    pub region: String,
    /// The environment whose runs this one takes over: build, scan and test are made there, once, and only what it
    /// deployed may be deployed here.
    #[serde(default)]
    pub promotes: Option<String>,
    /// Whether a deployment needs somebody's approval of exactly this verdict.
    #[serde(default)]
    pub approval: bool,
    /// How traffic moves to a new version.
    #[serde(default)]
    pub rollout: Rollout,
    /// Whether training and tests have an image of their own.
    pub training_image: TrainingImage,
    pub training_repository: String,
    pub inference_repository: String,
    /// `{account}` stands for the account's number: names of buckets are unique in the world.
    pub bucket: String,
    pub report_key: String,
    pub web_prefix: String,
    /// What the function is made of; both carry the same program and model.
    #[serde(default)]
    pub package: Package,
    /// Where its zip packages are: the bucket of the environment that builds them.
    #[serde(skip)]
    pub package_bucket: String,
    pub function: String,
    pub alias: String,
    /// Name of the role that the function runs as.
    pub role: String,
    pub memory_mb: i32,
    pub timeout_seconds: i32,
    /// How long CloudWatch keeps what the function logs.
    pub log_retention_days: u32,
    pub public: bool,
    /// Name of the role that the workflows deploy with; without one they cannot.
    #[serde(default)]
    pub deploy_role: Option<String>,
    /// The environment of GitHub whose jobs may take that role and whose reviewers approve; named as this one unless given.
    #[serde(default)]
    pub github_environment: Option<String>,
    /// Who takes the environment's mail; the embedded cloud has an outbox of its own.
    #[serde(default)]
    pub mail: Option<MailServer>,
}

/// A server that speaks SMTP.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MailServer {
    pub host: String,
    pub port: u16,
    pub tls: MailTls,
}

/// How the conversation with a mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MailTls {
    /// It begins in the open and must change to TLS before anything is said (port 587).
    Starttls,
    /// TLS from the first byte (port 465).
    Implicit,
    /// Not at all: a server on loopback.
    None,
}

/// The numbers of days that CloudWatch can keep a log.
const LOG_RETENTION_DAYS: [u32; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

/// The file's name, in the root.
pub const FILE: &str = "pipeline.toml";
/// Where the evidence of every run is kept in a bucket.
pub const EVIDENCE_PREFIX: &str = "evidence/";

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
    let mut names: Vec<_> = config.policy_sets.iter().map(|set| &set.name).collect();
    names.sort();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("policy set `{}` is named twice", pair[0]);
    }
    for set in &config.policy_sets {
        if set.policies.is_empty() {
            bail!("policy set `{}` names no policy", set.name);
        }
        if let Consequence::ByEnvironment(by_name) = &set.on_failure {
            let unknown = by_name.keys().find(|name| *name != "default" && !config.environments.contains_key(*name));
            if let Some(name) = unknown {
                bail!("policy set `{}`: on_failure names the environment `{name}`, which there is not", set.name);
            }
        }
    }
    waivers::check(&config.waivers)?;
    for (name, environment) in &mut config.environments {
        environment.bucket = environment.bucket.replace("{account}", &environment.account);
        if environment.account.len() != 12 || !environment.account.bytes().all(|byte| byte.is_ascii_digit()) {
            bail!("environment `{name}`: account `{}` is not twelve digits", environment.account);
        }
        environment.rollout.plan().with_context(|| format!("environment `{name}`: rollout"))?;
        if !LOG_RETENTION_DAYS.contains(&environment.log_retention_days) {
            let known: Vec<_> = LOG_RETENTION_DAYS.iter().map(u32::to_string).collect();
            bail!(
                "environment `{name}`: CloudWatch cannot keep logs for {} days; it can for {}",
                environment.log_retention_days,
                known.join(", ")
            );
        }
        if let Some(odd) = environment.github_environment.as_ref().filter(|name| !is_word(name)) {
            bail!("environment `{name}`: github_environment `{odd}` is more than letters, digits, `-`, `_` and `.`");
        }
        if environment.deploy_role.as_ref() == Some(&environment.role) {
            bail!("environment `{name}`: the function would run as the role that deploys it: name another deploy_role");
        }
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
        check_package(environment).with_context(|| format!("environment `{name}`"))?;
        check_promotion(&config, name, environment)?;
        check_own_names(&config, name, environment)?;
        check_published(environment).with_context(|| format!("environment `{name}`"))?;
        check_mail(environment).with_context(|| format!("[environments.{name}.mail]"))?;
    }
    for address in config.monitor.mail_to.iter().chain([&config.monitor.mail_from]) {
        mail::address(address).context("[monitor]")?;
    }
    Ok(config)
}

/// What an environment takes over must lie where it deploys from: the image is referred to by digest, never copied.
/// What is published can be read by everybody, the evidence by nobody outside.
fn check_published(environment: &Environment) -> Result<()> {
    let folder = environment.report_key.rsplit_once('/').map(|(folder, _)| format!("{folder}/"));
    let report = folder.as_ref().unwrap_or(&environment.report_key);
    for (key, prefix) in [("web_prefix", &environment.web_prefix), ("report_key", report)] {
        if EVIDENCE_PREFIX.starts_with(prefix.as_str()) || prefix.starts_with(EVIDENCE_PREFIX) {
            bail!(
                "{key} publishes `{prefix}*` and with it `{EVIDENCE_PREFIX}`, which is kept closed: name another folder"
            );
        }
    }
    Ok(())
}

fn check_promotion(config: &Config, name: &str, environment: &Environment) -> Result<()> {
    let Some(source_name) = &environment.promotes else { return Ok(()) };
    let source = config.environment(source_name).with_context(|| format!("environment `{name}` promotes it"))?;
    if source.promotes.is_some() {
        bail!("environment `{name}` promotes `{source_name}`, which itself promotes another");
    }
    let place = |environment: &Environment| {
        let Environment { cloud, account, region, inference_repository, .. } = environment;
        (*cloud, account.clone(), region.clone(), inference_repository.clone())
    };
    if place(source) != place(environment) {
        bail!(
            "environment `{name}` promotes `{source_name}`, so cloud, account, region and inference_repository must be the same"
        );
    }
    if source.package != environment.package {
        bail!(
            "environment `{name}` promotes `{source_name}` and would deploy a {}, which that one deploys as {}: write the same package",
            environment.package.in_words(),
            source.package.in_words()
        );
    }
    if source.function == environment.function {
        bail!("environments `{name}` and `{source_name}` both name the function `{}`", source.function);
    }
    Ok(())
}

/// Packages are not for the public.
fn check_package(environment: &Environment) -> Result<()> {
    let folder = environment.report_key.rsplit_once('/').map_or("", |(folder, _)| folder);
    let published = [environment.web_prefix.clone(), format!("{folder}/")];
    if environment.package == Package::Zip
        && let Some(prefix) = published.iter().find(|prefix| *prefix != "/" && PACKAGES.starts_with(prefix.as_str()))
    {
        bail!("everything below `{prefix}` in the bucket is published, and the zip packages lie in `{PACKAGES}`");
    }
    Ok(())
}

/// Passwords and models' names do not cross a network in the open, and no setting is silently without effect.
fn check_mail(environment: &Environment) -> Result<()> {
    let Some(server) = &environment.mail else { return Ok(()) };
    if environment.cloud == CloudKind::Embedded {
        bail!("the embedded cloud keeps its mail in an outbox and sends none: remove the table");
    }
    if server.tls == MailTls::None && !mail::is_loopback(&server.host) {
        bail!(
            "mail to {} must be encrypted: write `tls = \"starttls\"` or `tls = \"implicit\"`; only loopback may do without",
            server.host
        );
    }
    Ok(())
}

/// What is set up for one environment would be set up differently for the next, and removed with the first.
fn check_own_names(config: &Config, name: &str, environment: &Environment) -> Result<()> {
    let place = |environment: &Environment| (environment.cloud, environment.account.clone());
    for (other_name, other) in config.environments.iter().filter(|(_, other)| place(other) == place(environment)) {
        if name >= other_name.as_str() {
            continue;
        }
        let roles = |environment: &Environment| [Some(environment.role.clone()), environment.deploy_role.clone()];
        let shared = roles(environment).into_iter().flatten().find(|role| roles(other).contains(&Some(role.clone())));
        if let Some(role) = shared {
            bail!("environments `{name}` and `{other_name}` both name the role `{role}`: each needs its own");
        }
    }
    Ok(())
}

impl Environment {
    /// The role that the function runs as.
    pub fn role_arn(&self) -> String {
        self.arn_of_role(&self.role)
    }

    /// A role of the environment's account.
    pub fn arn_of_role(&self, role: &str) -> String {
        format!("arn:{}:iam::{}:role/{role}", self.partition(), self.account)
    }

    /// Something of a service in the environment's account and region.
    pub fn arn(&self, service: &str, resource: &str) -> String {
        format!("arn:{}:{service}:{}:{}:{resource}", self.partition(), self.region, self.account)
    }

    /// The bucket.
    pub fn bucket_arn(&self) -> String {
        format!("arn:{}:s3:::{}", self.partition(), self.bucket)
    }

    /// What the pipeline puts into the bucket: everything below the web page's prefix and in the report's folder.
    pub fn published_objects(&self) -> [String; 2] {
        let report = match self.report_key.rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/*"),
            None => self.report_key.clone(),
        };
        [format!("{}/{}*", self.bucket_arn(), self.web_prefix), format!("{}/{report}", self.bucket_arn())]
    }

    /// The evidence of every run, which is not public.
    pub fn evidence_objects(&self) -> String {
        format!("{}/{EVIDENCE_PREFIX}*", self.bucket_arn())
    }

    /// The zip packages that the function may be made of.
    pub fn packages_arn(&self) -> String {
        format!("arn:{}:s3:::{}/{PACKAGES}*", self.partition(), self.package_bucket)
    }

    /// Where the function's log goes.
    pub fn log_group(&self) -> String {
        format!("/aws/lambda/{}", self.function)
    }

    /// The part of AWS that the region belongs to.
    pub fn partition(&self) -> &'static str {
        match self.region.split('-').next() {
            Some("cn") => "aws-cn",
            _ if self.region.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        }
    }
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
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../pipeline.toml");

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

    #[test]
    fn a_denial_can_do_different_things_in_different_environments() {
        let with = |text: &str| parse(&SHIPPED.replacen("on_failure = \"error\"", text, 1));
        let set = |text: &str| with(text).unwrap().policy_sets[0].on_failure.clone();
        let warns_here = set("on_failure = { default = \"error\", local = \"warn\" }");
        assert_eq!(warns_here.in_environment("local"), OnFailure::Warn);
        assert_eq!(warns_here.in_environment("production"), OnFailure::Error);
        assert_eq!(set("on_failure = { local = \"warn\" }").in_environment("preprod"), OnFailure::Error);
        assert_eq!(set("on_failure = \"warn\"").in_environment("preprod"), OnFailure::Warn);
        assert!(format!("{:#}", with("on_failure = { lokal = \"warn\" }").unwrap_err()).contains("`lokal`"));
        assert!(with("on_failure = \"ignore\"").is_err());
    }

    #[test]
    fn a_package_is_an_image_unless_a_zip_is_asked_for() {
        let config = parse(SHIPPED).unwrap();
        assert!(config.environments.values().all(|environment| environment.package == Package::Image));
        let zip = |environment: &str, text: &str| {
            let table = format!("[environments.{environment}]\n");
            assert!(text.contains(&table));
            text.replacen(&table, &format!("{table}package = \"zip\"\n"), 1)
        };
        let one = format!("{:#}", parse(&zip("preprod", SHIPPED)).unwrap_err());
        assert!(one.contains("`production` promotes `preprod`") && one.contains("the same package"), "{one}");
        let both = zip("production", &zip("preprod", SHIPPED));
        let config = parse(&both).unwrap();
        let production = config.environment("production").unwrap();
        assert_eq!(production.packages_arn(), "arn:aws:s3:::mlopswebapp-000000000000/packages/*");
        for (old, new) in [("web_prefix = \"web/\"", "web_prefix = \"pack\""), ("harness/output/", "packages/")] {
            let public = format!("{:#}", parse(&both.replace(old, new)).unwrap_err());
            assert!(public.contains("is published"), "{public}");
        }
        assert!(parse(&both.replace("\"zip\"", "\"tar\"")).is_err());
    }

    #[test]
    fn a_repository_is_an_owner_and_a_name() {
        let github = |repository: &str, subject: Option<&str>| GitHub {
            repository: repository.into(),
            subject: subject.map(String::from),
            monitor: None,
        };
        assert!(github(UNNAMED_REPOSITORY, None).is_unnamed());
        let plain = github("team/models", None);
        plain.check().unwrap();
        assert_eq!(plain.subject_of("preprod"), "repo:team/models:environment:preprod");
        let numbered = github("team/models", Some("repo:team@12/models@34"));
        numbered.check().unwrap();
        assert_eq!(numbered.subject_of("preprod"), "repo:team@12/models@34:environment:preprod");
        for (repository, subject) in [("team", None), ("team/*", None), ("a/b/c", None), ("a/b", Some("repo:*"))] {
            assert!(github(repository, subject).check().is_err(), "{repository} {subject:?}");
        }
    }

    #[test]
    fn mail_in_the_open_and_addresses_that_are_none_are_refused() {
        let refused = |old: &str, new: &str| {
            assert!(SHIPPED.contains(old), "{old}");
            format!("{:#}", parse(&SHIPPED.replacen(old, new, 1)).unwrap_err())
        };
        let open = refused("tls = \"starttls\"", "tls = \"none\"");
        assert!(open.contains("[environments.preprod.mail]") && open.contains("must be encrypted"), "{open}");
        let address = refused("model-owners@example.com", "model-owners");
        assert!(address.contains("`model-owners` is no mail address"), "{address}");
        let unused = refused("[environments.preprod.mail]", "[environments.local.mail]");
        assert!(unused.contains("outbox"), "{unused}");
        parse(&SHIPPED.replacen("email-smtp.us-east-1.amazonaws.com", "127.0.0.1", 1).replacen("starttls", "none", 1))
            .unwrap();
    }
}
