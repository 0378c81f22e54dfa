//! Deploy: brings the image that the gate allowed, or the zip package with the same files, to the function, tries the new version, and moves traffic to it in steps.
//!
//! Reads gate.json and everything that it rests on, and recomputes every digest; in an environment that promotes another, that
//! one's deploy.json too; where the environment asks for it, the approval. Writes `deploy.json`, also when the new version
//! failed and the old one has all traffic again, and `artifact.txt`, the report's link.

pub mod alias;
mod evidence;
mod health;
pub mod kept;
mod publication;
mod rollout;
mod smoke;
mod version;

use anyhow::{Context as _, Result, bail};
use aws_sdk_lambda::types::PackageType;
use chrono::{DateTime, Utc};
use clap::Args;
use serde::{Deserialize, Serialize};

pub use evidence::verified_gate;
pub use publication::{
    addresses, key_beside_report, live_description, publish_report, publish_web_configuration, restore_report,
};
pub use rollout::{Step, deployer_name};
pub use smoke::{SmokeResult, failed, smoke_tests};

use crate::approval::{self, Approval};
use crate::cloud::{Cloud, service_error};
use crate::config::{Environment, Package};
use crate::context::Context;
use crate::records::{Digests, Record, Stage};
use crate::registry::Repository;
use crate::rollback;
use crate::stages::{build, gate};
use crate::terminal::{Progress, bytes, note};
use crate::{digest, exit, function, github, package, process};

use alias::{Alias, Ledger, Position};
use rollout::Deployer;
pub use version::{kind, same_kind};

/// Options of `deploy`.
#[derive(Args, Default)]
pub struct Options {
    /// Print what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Deploy a run again that was rolled back.
    #[arg(long)]
    pub again: bool,
}

/// What was deployed, and the way there; of a dry run, what would be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Content {
    /// Whether this is a plan: nothing was changed, and no record was written.
    #[serde(default)]
    pub dry_run: bool,
    pub function: String,
    pub alias: String,
    /// The version that has all traffic now; none if there is none, or while it is only planned.
    pub version: Option<String>,
    /// The version that had it before, if another one did.
    pub previous_version: Option<String>,
    pub image: String,
    /// What the function is made of.
    #[serde(default)]
    pub package: Package,
    /// Digest of the zip package with the image's files; none where the image itself is deployed.
    #[serde(default)]
    pub zip: Option<String>,
    pub model: String,
    pub verdict: gate::Verdict,
    pub approval: Option<Approval>,
    pub function_url: String,
    /// None where the environment is not public.
    pub web_url: Option<String>,
    pub report_url: String,
    /// When the signed link in artifact.txt ends; none where the report is public.
    pub report_link_expires_at: Option<DateTime<Utc>>,
    pub smoke_tests: Vec<SmokeResult>,
    /// How traffic moved before all of it did.
    pub rollout: Vec<Step>,
    /// What was done, step by step.
    pub decisions: Vec<String>,
    /// Why the new version has no traffic; none if it has all of it.
    pub failure: Option<String>,
}

/// Runs the stage.
///
/// # Errors
/// Exit code 3 if the gate denied or the run was rolled back, 5 if an approval is missing.
pub fn run(context: &Context, options: &Options) -> Result<Record<Content>> {
    let gate = verified_gate(context)?;
    let build: Record<build::Content> = context.read(Stage::Build)?;
    let environment = &context.environment;
    let mut inputs = Digests::from([
        ("gate.json".to_string(), context.record_digest(Stage::Gate)?),
        ("web".to_string(), digest::of_tree(&context.root.join("web"))?),
        ("configuration".to_string(), context.configuration_digest(&(environment, &context.config.smoke_tests))?),
    ]);
    if let Some(promoted) = evidence::verified_promotion(context, &build.content)? {
        inputs.insert("deploy.json of the promoted environment".to_string(), promoted);
    }
    let cloud = context.cloud()?;
    let current = context.block_on(alias::read(cloud, environment))?;
    if options.dry_run {
        let plan = context.block_on(plan(context, cloud, &gate, &build.content, current.as_ref()))?;
        if !context.json {
            print_plan(&plan);
        }
        return context.planned(Stage::Deploy, inputs, plan);
    }
    if let Some(mut record) = context.unchanged::<Content>(Stage::Deploy, &inputs)
        && record.content.failure.is_none()
        && context.block_on(is_live(cloud, environment, &record.content))?
    {
        context.skipped(Stage::Deploy);
        // Again, for the case that the last attempt ended before it.
        context.block_on(kept::upload(context, cloud, &record, &build.content.image.repository))?;
        record.content.report_link_expires_at = context.block_on(publication::hand_out(context, cloud))?;
        set_outputs(&record)?;
        return Ok(record);
    }
    if !options.again {
        refuse_rolled_back(context, current.as_ref())?;
    }
    let approval = approval::require(context, &gate)?;
    let work = context.begin(Stage::Deploy)?;
    context.block_on(code_is_there(cloud, environment, &build.content))?;
    // Set while traffic moves: Ctrl-C is then answered by giving it back, and kept from ending this process before the record
    // is written.
    let mut held = None;
    let mut content = context.block_on(deploy(context, cloud, &build.content, &work.run, &mut held))?;
    content.verdict = gate.content.verdict;
    content.approval = approval;
    if content.failure.is_none() {
        rollback::forget(&context.record_folder(Stage::Deploy)?)?;
        content.report_link_expires_at = context.block_on(publication::hand_out(context, cloud))?;
    }
    let record = work.finish(inputs, &[], content)?;
    if record.content.failure.is_none() {
        context.block_on(kept::upload(context, cloud, &record, &build.content.image.repository))?;
    }
    for decision in &record.content.decisions {
        note(decision);
    }
    set_outputs(&record)?;
    match (&record.content.failure, &record.content.version) {
        (Some(failure), None) => bail!("{failure}; nothing is live"),
        (Some(failure), Some(version)) => bail!("{failure}; version {version} keeps answering"),
        (None, _) => Ok(record),
    }
}

/// A run that somebody took out of use must not come back because a pipeline runs again.
fn refuse_rolled_back(context: &Context, current: Option<&Alias>) -> Result<()> {
    let run = context.run()?;
    let recorded = rollback::of_folder(&context.record_folder(Stage::Deploy)?)?;
    let remembered = current.and_then(|alias| alias.position.ledger.rolled_back.as_ref());
    if recorded.is_some() || remembered.is_some_and(|taken_back| taken_back.run == run) {
        return Err(exit::denied(format!(
            "run {run} was rolled back in `{0}`: start a new run, or `cargo xtask deploy --env {0} --run {run} --again`",
            context.environment_name
        )));
    }
    Ok(())
}

/// Looks for the image, and for the zip package where that is deployed.
async fn code_is_there(cloud: &Cloud, environment: &Environment, build: &build::Content) -> Result<()> {
    if environment.package == Package::Zip {
        package::verified(cloud, build).await?;
    }
    let uri = cloud.ensure_repository(&build.image.repository).await?;
    match Repository::open(cloud, &uri).await?.manifest(&build.image.digest).await? {
        Some(_) => Ok(()),
        None => bail!("the registry has no image {}: run `cargo xtask build`", build.image.digest),
    }
}

/// Whether the alias gives all traffic to the record's version, and that version is made of the record's code.
async fn is_live(cloud: &Cloud, environment: &Environment, content: &Content) -> Result<bool> {
    let Some(alias) = alias::read(cloud, environment).await? else { return Ok(false) };
    let Some(live) = live_version(cloud, environment).await? else { return Ok(false) };
    Ok(alias.position.weight.is_none() && Some(&live.version) == content.version.as_ref() && live.is(content))
}

/// A version of the function.
#[derive(Debug, Clone)]
pub struct Live {
    pub version: String,
    pub package: Package,
    /// Digest of its image or of its zip package.
    pub code: String,
    /// Digest of its image; of one with a zip package, of the image with the same files, and empty if the pipeline did not
    /// publish it.
    pub image: String,
    /// When the version was published.
    pub published_at: Option<String>,
    pub description: String,
}

impl Live {
    /// What Lambda says of a version.
    pub fn new(
        version: &str,
        package_type: Option<&PackageType>,
        code_sha256: Option<&str>,
        published_at: Option<&str>,
        description: Option<&str>,
    ) -> Live {
        let description = description.unwrap_or_default().to_string();
        let package = kind(package_type);
        let (code, image) = match package {
            Package::Image => {
                let digest = format!("sha256:{}", code_sha256.unwrap_or_default());
                (digest.clone(), digest)
            }
            Package::Zip => {
                let said =
                    description.split_once(" image ").map(|(_, rest)| rest.split(' ').next().unwrap_or_default());
                (package::digest_of_code(code_sha256.unwrap_or_default()), said.unwrap_or_default().to_string())
            }
        };
        Live {
            version: version.to_string(),
            package,
            code,
            image,
            published_at: published_at.map(String::from),
            description,
        }
    }

    /// Whether it is made of what was deployed.
    fn is(&self, content: &Content) -> bool {
        self.package == content.package && self.code == *content.zip.as_ref().unwrap_or(&content.image)
    }

    /// Digest of its model; empty if it was not published by the pipeline.
    pub fn model(&self) -> &str {
        self.description.rsplit_once("model ").map_or("", |(_, model)| model)
    }

    /// The run that published it.
    pub fn run(&self) -> Option<&str> {
        let (run, _) = self.description.strip_prefix("run ")?.split_once(' ')?;
        Some(run)
    }
}

/// What a version says of itself, for [`Live`]; of a zip package also the image that was judged in its place.
fn description(run: &str, package: Package, build: &build::Content) -> String {
    let model = &build.model.digest;
    match package {
        Package::Image => format!("run {run} model {model}"),
        Package::Zip => format!("run {run} image {} model {model}", build.image.digest),
    }
}

/// The version behind the alias, if the function and the alias exist.
pub async fn live_version(cloud: &Cloud, environment: &Environment) -> Result<Option<Live>> {
    let Some(alias) = alias::read(cloud, environment).await? else { return Ok(None) };
    let version = alias.position.version;
    match describe(cloud, environment, &version).await? {
        Some(live) => Ok(Some(live)),
        None => bail!("alias {} names version {version} of {}, which is gone", environment.alias, environment.function),
    }
}

/// A version by its number, if it exists.
pub async fn describe(cloud: &Cloud, environment: &Environment, version: &str) -> Result<Option<Live>> {
    let function = &environment.function;
    let answer = cloud.lambda.get_function_configuration().function_name(function).qualifier(version).send().await;
    let configuration = match answer {
        Ok(configuration) => configuration,
        Err(error) if alias::has_code(&error, "ResourceNotFoundException") => return Ok(None),
        Err(error) => {
            return Err(service_error(error)).with_context(|| format!("ask for version {version} of {function}"));
        }
    };
    Ok(Some(Live::new(
        version,
        configuration.package_type(),
        configuration.code_sha256(),
        configuration.last_modified(),
        configuration.description(),
    )))
}

/// What would be done.
async fn plan(
    context: &Context,
    cloud: &Cloud,
    gate: &Record<gate::Content>,
    build: &build::Content,
    current: Option<&Alias>,
) -> Result<Content> {
    let environment = &context.environment;
    let live = live_version(cloud, environment).await?;
    let mut content = empty(context, cloud, build)?;
    content.dry_run = true;
    content.verdict = gate.content.verdict;
    content.previous_version = live.as_ref().map(|live| live.version.clone());
    let is_live = live.as_ref().is_some_and(|live| live.is(&content));
    let say = &mut content.decisions;
    say.push(match &build.package {
        Some(package) if environment.package == Package::Zip => {
            format!("package: zip {} ({})", package.digest, bytes(package.bytes))
        }
        _ => format!("package: {}", environment.package.name()),
    });
    if let Some(live) = &live
        && let Err(error) = same_kind(environment, live.package)
    {
        say.push(format!("{error:#}"));
    }
    if let Some(alias) = current.filter(|alias| alias.position.weight.is_some()) {
        say.push(format!("traffic is between two versions: {}", alias.in_words()));
    }
    if let Err(error) = refuse_rolled_back(context, current) {
        say.push(format!("{error:#}"));
    }
    if environment.approval {
        say.push(format!("approval: {}", approval::state(context)));
    }
    match live {
        None => {
            content.rollout.clear();
            say.push(format!("would publish a version, test it, and point alias {} at it", environment.alias));
        }
        Some(live) if is_live => {
            content.rollout.clear();
            let package = environment.package.in_words();
            say.push(format!("version {} has this {package} and all traffic already", live.version));
            content.version = Some(live.version);
        }
        Some(live) => {
            say.push(format!("would publish a new version and test it while version {} answers", live.version));
            say.push(format!("would move traffic: {}", environment.rollout.plan()?.in_words()));
        }
    }
    if !environment.public {
        say.push("the web page stays away: the environment is not public".to_string());
    }
    Ok(content)
}

fn print_plan(content: &Content) {
    println!("{}:{} with image {}, model {}", content.function, content.alias, content.image, content.model);
    for decision in &content.decisions {
        println!("  {decision}");
    }
    println!("nothing was changed");
}

/// A deployment at its beginning.
fn empty(context: &Context, cloud: &Cloud, build: &build::Content) -> Result<Content> {
    let environment = &context.environment;
    let addresses = addresses(cloud, environment);
    let plan = environment.rollout.plan()?;
    let step = |percent: &u32| Step { percent: *percent, pause_seconds: plan.pause.as_secs(), observed: None };
    Ok(Content {
        dry_run: false,
        function: environment.function.clone(),
        alias: environment.alias.clone(),
        version: None,
        previous_version: None,
        image: build.image.digest.clone(),
        package: environment.package,
        zip: match environment.package {
            Package::Image => None,
            Package::Zip => build.package.as_ref().map(|package| package.digest.clone()),
        },
        model: build.model.digest.clone(),
        verdict: gate::Verdict::Deny,
        approval: None,
        function_url: String::new(),
        web_url: addresses.web_url,
        report_url: addresses.report_url,
        report_link_expires_at: None,
        smoke_tests: Vec::new(),
        rollout: plan.steps.iter().map(step).collect(),
        decisions: Vec::new(),
        failure: None,
    })
}

/// Update by digest, publish, smoke test of the new version itself, traffic step by step.
async fn deploy(
    context: &Context,
    cloud: &Cloud,
    build: &build::Content,
    run: &str,
    held: &mut Option<process::Held>,
) -> Result<Content> {
    let environment = &context.environment;
    let mut content = empty(context, cloud, build)?;
    let deployer = Deployer::new(context);
    let mut current = alias::read(cloud, environment).await?;
    if current.is_some() {
        // Its permissions belong to the alias and change its revision, so the alias is read once more.
        content.function_url = function::ensure_url(cloud, environment).await?;
        current = alias::read(cloud, environment).await?;
    }
    if let Some(alias) = current {
        current = Some(rollout::settle(cloud, context, &deployer, alias, &mut content.decisions).await?);
    }

    let uri = cloud.ensure_repository(&build.image.repository).await?;
    let image_uri = format!("{uri}@{}", build.image.digest);
    let (code, digest) = match (environment.package, &build.package) {
        (Package::Image, _) => (function::Code::Image { uri: &image_uri }, &build.image.digest),
        (Package::Zip, Some(package)) => {
            (function::Code::Zip { bucket: &package.bucket, key: &package.key }, &package.digest)
        }
        (Package::Zip, None) => bail!("build.json names no zip package: run `cargo xtask build`"),
    };
    let wanted = version::Wanted {
        code,
        digest,
        repository: &build.image.repository,
        description: &description(run, environment.package, build),
        architecture: context.config.inference.architecture,
    };
    let version = version::publish(cloud, environment, &wanted, &mut content.decisions).await?;
    let way = Way { context, cloud, deployer: &deployer, run, version: &version };
    let tested = try_out(context, cloud, &version, &mut content).await;
    let old = current.as_ref().map(|alias| alias.position.version.clone());
    let moved = match (tested, current) {
        (Err(error), _) => Err(error),
        (Ok(()), Some(alias)) => {
            *held = Some(process::hold());
            way.take_over(alias, &mut content).await
        }
        // There is no old version to go back to: what is missing after an error here is made by the next deploy.
        (Ok(()), None) => Ok(way.first(&mut content).await?),
    };
    match moved {
        Ok(()) => {
            deployer.remove_mark();
            content.version = Some(version);
        }
        Err(error) => {
            content.failure = Some(format!("{error:#}"));
            // Another deployer may have moved it, so the alias has the last word.
            let now = alias::read(cloud, environment).await.ok().flatten();
            content.version = now.map(|alias| alias.position.version).or(old);
            content.previous_version = None;
        }
    }
    if content.failure.is_none() && !environment.public {
        content.decisions.push("the web page was not uploaded: the environment is not public".to_string());
    }
    Ok(content)
}

/// Smoke tests of the new version itself, before it sees traffic.
async fn try_out(context: &Context, cloud: &Cloud, version: &str, content: &mut Content) -> Result<()> {
    let _progress = Progress::start(&format!("test version {version}"), None);
    let tests = &context.config.smoke_tests;
    content.smoke_tests = smoke_tests(cloud, &content.function, version, tests, &content.model).await?;
    match failed(version, &content.smoke_tests) {
        Some(failure) => bail!("{failure}"),
        None => {
            content.decisions.push(format!("{} smoke tests passed", content.smoke_tests.len()));
            Ok(())
        }
    }
}

/// A tested version on its way to the traffic.
struct Way<'a> {
    context: &'a Context,
    cloud: &'a Cloud,
    deployer: &'a Deployer,
    run: &'a str,
    version: &'a str,
}

impl Way<'_> {
    /// The first version of all has nothing to be weighed against.
    async fn first(&self, content: &mut Content) -> Result<()> {
        content.rollout.clear();
        let ledger =
            Ledger { run: Some(self.run.to_string()), deployer: Some(self.deployer.name.clone()), ..Ledger::default() };
        let position = Position { version: self.version.to_string(), weight: None, ledger };
        alias::create(self.cloud, &self.context.environment, &position).await?;
        content.decisions.push(format!("created alias {} on version {}", content.alias, self.version));
        content.function_url = function::ensure_url(self.cloud, &self.context.environment).await?;
        self.publish(&content.function_url, &content.model).await
    }

    /// Every later one takes the traffic of the version that has it.
    async fn take_over(&self, alias: Alias, content: &mut Content) -> Result<()> {
        let name = content.alias.clone();
        let old = alias.position.version.clone();
        if old == self.version {
            content.rollout.clear();
            content.previous_version = alias.position.ledger.before.first().cloned();
            content.decisions.push(format!("alias {name} already names version {old}"));
            return self.publish(&content.function_url, &content.model).await;
        }
        if !alias.is_published() {
            // A part of the traffic can only be taken from a published version.
            content.rollout.clear();
        }
        content.previous_version = Some(old.clone());
        self.replace(&alias, content).await?;
        content.decisions.push(format!("moved alias {name} from version {old} to {}", self.version));
        Ok(())
    }

    async fn replace(&self, old: &Alias, content: &mut Content) -> Result<()> {
        let rollout = rollout::Rollout {
            cloud: self.cloud,
            context: self.context,
            deployer: self.deployer,
            run: self.run,
            version: self.version,
            model: &content.model,
            smoke_tests: &self.context.config.smoke_tests,
        };
        let publish = async || self.publish(&content.function_url, &content.model).await;
        let result = rollout.replace(old, &mut content.rollout, publish).await;
        for step in content.rollout.iter().filter(|step| step.observed.is_some()) {
            let observed = step.observed.map(|observed| observed.in_words()).unwrap_or_default();
            content.decisions.push(format!("{} % for {} s: {observed}", step.percent, step.pause_seconds));
        }
        result
    }

    async fn publish(&self, function_url: &str, model: &str) -> Result<()> {
        let _progress = Progress::start("upload the report and the web page", None);
        publication::publish(self.context, self.cloud, function_url, model).await
    }
}

fn set_outputs(record: &Record<Content>) -> Result<()> {
    let content = &record.content;
    let version = content.version.as_deref().unwrap_or_default();
    let web_url = content.web_url.as_deref().unwrap_or_default();
    github::output("function_version", version)?;
    github::output("function_url", &content.function_url)?;
    github::output("web_url", web_url)?;
    let approved =
        content.approval.as_ref().map_or("not asked for".to_string(), |approval| approval.approved_by.join(", "));
    let report = match content.report_link_expires_at {
        None => content.report_url.clone(),
        Some(at) => format!("`{}`, signed link in artifact.txt until {}", content.report_url, at.format("%F %R UTC")),
    };
    let package = match &content.zip {
        Some(zip) => format!("zip `{zip}`"),
        None => content.package.name().to_string(),
    };
    let result = content.failure.as_deref().unwrap_or("all traffic");
    github::summary(&format!(
        "### Deploy\n\n| | |\n|---|---|\n| result | {result} |\n| function | {} |\n| version | {version} |\n| version before | {} |\n\
         | image | `{}` |\n| package | {package} |\n| approved by | {approved} |\n| URL | {} |\n| page | {web_url} |\n| report | {report} |",
        content.function,
        content.previous_version.as_deref().unwrap_or_default(),
        content.image,
        content.function_url,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_remembers_its_run_and_its_model() {
        let zip = package::code_sha256(&digest::of_bytes(b""));
        let image = |said: &str| Live::new("1", Some(&PackageType::Image), Some("0"), None, Some(said));
        let package = |said: &str| Live::new("1", Some(&PackageType::Zip), Some(&zip), None, Some(said));
        let ours = image("run 20261124T031522Z-abc1234 model sha256:1");
        assert_eq!((ours.run(), ours.model()), (Some("20261124T031522Z-abc1234"), "sha256:1"));
        assert_eq!((ours.image.as_str(), ours.code.as_str()), ("sha256:0", "sha256:0"));
        let other = image("made by hand");
        assert_eq!((other.run(), other.model()), (None, ""));
        let ours = package("run 20261124T031522Z-abc1234 image sha256:2 model sha256:1");
        assert_eq!((ours.run(), ours.model()), (Some("20261124T031522Z-abc1234"), "sha256:1"));
        assert_eq!((ours.image.as_str(), ours.code), ("sha256:2", digest::of_bytes(b"")));
        assert_eq!(package("made by hand").image, "");
    }
}
