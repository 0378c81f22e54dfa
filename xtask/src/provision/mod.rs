//! Provision: everything that an environment needs and no run makes, created once and kept as pipeline.toml says.
//!
//! Each resource is described, compared and, where it differs, created or changed; `--dry-run` stops after comparing, so that
//! its answer has the same shape. The function itself comes with the first deployment, from an image that the gate allowed:
//! until then there is nothing it could run. `--destroy` removes it all again.

mod destroy;
mod function;
mod log_group;
mod policies;
mod repositories;
mod roles;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::cloud::Cloud;
use crate::config::{CloudKind, Environment};
use crate::context::Context;
use crate::lock;
use crate::terminal::{bold, note};

/// Options of `provision`.
#[derive(Args)]
pub struct Options {
    /// Print what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Remove everything of the environment; asks for its name first.
    #[arg(long)]
    destroy: bool,
    /// Confirms --destroy where nobody can be asked: the environment's name.
    #[arg(long, requires = "destroy", value_name = "NAME")]
    yes: Option<String>,
    /// With --destroy: also remove the objects of the bucket and the images of the repositories.
    #[arg(long, requires = "destroy")]
    force: bool,
}

/// What was done, or with `--dry-run` would be.
#[derive(Debug, Serialize)]
struct Report {
    environment: String,
    account: String,
    region: String,
    dry_run: bool,
    resources: Vec<Resource>,
    /// What only the owner can do, outside of the account.
    next_steps: Vec<String>,
}

/// A resource and what becomes of it.
#[derive(Debug, Serialize)]
pub struct Resource {
    kind: &'static str,
    name: String,
    action: Action,
    /// What differs, or why nothing is done.
    details: Vec<String>,
}

/// What becomes of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Create,
    Update,
    /// It is as it should be.
    Keep,
    /// It comes with the first deployment.
    Later,
    /// This environment has none.
    Skip,
    Delete,
    /// It would lose something that cannot be made again.
    Refuse,
}

impl Action {
    fn changes(self) -> bool {
        matches!(self, Action::Create | Action::Update | Action::Delete)
    }

    fn done(self) -> &'static str {
        match self {
            Action::Create => "created",
            Action::Update => "changed",
            Action::Delete => "removed",
            Action::Keep => "left",
            Action::Later => "to come",
            Action::Skip => "skipped",
            Action::Refuse => "refused",
        }
    }

    fn planned(self) -> &'static str {
        match self {
            Action::Create => "create",
            Action::Update => "change",
            Action::Delete => "remove",
            Action::Keep => "leave",
            other => other.done(),
        }
    }
}

impl Resource {
    fn new(kind: &'static str, name: &str, action: Action, details: Vec<String>) -> Resource {
        Resource { kind, name: name.to_string(), action, details }
    }

    /// What a comparison means: nothing there is created, what differs is changed.
    fn compared(kind: &'static str, name: &str, differences: Option<Vec<String>>) -> Resource {
        let action = match &differences {
            None => Action::Create,
            Some(differences) if differences.is_empty() => Action::Keep,
            Some(_) => Action::Update,
        };
        Resource::new(kind, name, action, differences.unwrap_or_default())
    }

    fn skipped(kind: &'static str, name: &str, reason: &str) -> Resource {
        Resource::new(kind, name, Action::Skip, vec![reason.to_string()])
    }
}

/// What every resource is worked on with.
pub struct Work<'a> {
    context: &'a Context,
    cloud: &'a Cloud,
    dry_run: bool,
}

impl Work<'_> {
    fn environment(&self) -> &Environment {
        &self.context.environment
    }

    /// Whether a resource is to be touched now.
    fn touches(&self, resource: &Resource) -> bool {
        !self.dry_run && resource.action.changes()
    }

    /// Says what was done as soon as it is.
    fn say(&self, resource: &Resource) {
        if self.touches(resource) {
            note(&format!("{} {} {}", resource.action.done(), resource.kind, resource.name));
        }
    }
}

/// Runs the command.
pub fn run(context: &Context, options: &Options) -> Result<()> {
    context.end_with_children();
    let _lock = lock::acquire(&context.root)?;
    let cloud = context.cloud()?;
    let work = Work { context, cloud, dry_run: options.dry_run };
    if options.destroy {
        return destroy::run(&work, options);
    }
    let resources = context.block_on(provision(&work))?;
    let next_steps = next_steps(context);
    print(&work, resources, next_steps)
}

async fn provision(work: &Work<'_>) -> Result<Vec<Resource>> {
    let mut resources = Vec::new();
    let mut keep = |resource: Resource| {
        work.say(&resource);
        resources.push(resource);
    };
    keep(repositories::ensure_training(work).await?);
    keep(repositories::ensure_inference(work).await?);
    keep(bucket(work).await?);
    keep(log_group::ensure(work).await?);
    keep(roles::ensure_execution(work).await?);
    keep(function::ensure(work).await?);
    keep(roles::ensure_provider(work).await?);
    keep(roles::ensure_deploy(work).await?);
    keep(roles::ensure_monitor(work).await?);
    Ok(resources)
}

async fn bucket(work: &Work<'_>) -> Result<Resource> {
    let environment = work.environment();
    let found = work.cloud.bucket_differences(environment).await?;
    let differences = found.map(|found| found.into_iter().map(|difference| difference.text).collect());
    let resource = Resource::compared("bucket", &environment.bucket, differences);
    if work.touches(&resource) {
        work.cloud.ensure_bucket(environment).await?;
    }
    Ok(resource)
}

/// Why the environment has nothing to do with GitHub, if it has not.
fn without_github(context: &Context) -> Option<&'static str> {
    if context.environment.cloud == CloudKind::Embedded {
        return Some("the embedded cloud is deployed to from this machine");
    }
    if context.environment.deploy_role.is_none() {
        return Some("the environment has no deploy_role in pipeline.toml");
    }
    match &context.config.github {
        None => Some("pipeline.toml has no [github] with the repository's name"),
        Some(github) if github.is_unnamed() => {
            Some("write your repository into [github] of pipeline.toml and run this again")
        }
        Some(_) => None,
    }
}

/// The environment of GitHub whose jobs deploy to this one.
fn github_environment(context: &Context) -> &str {
    context.environment.github_environment.as_deref().unwrap_or(&context.environment_name)
}

/// The environments of pipeline.toml in the same account, this one included.
fn neighbours(context: &Context) -> impl Iterator<Item = (&str, &Environment)> {
    let Environment { cloud, account, .. } = &context.environment;
    let all = context.config.environments.iter();
    let near = all.filter(move |(_, other)| (&other.cloud, &other.account) == (cloud, account));
    near.map(|(name, other)| (name.as_str(), other))
}

/// What the owner sets in GitHub, as commands that are ready to be run.
fn next_steps(context: &Context) -> Vec<String> {
    let environment = &context.environment;
    let (Some(github), Some(role), None) = (&context.config.github, &environment.deploy_role, without_github(context))
    else {
        return Vec::new();
    };
    let repository = &github.repository;
    // The roles trust an environment of GitHub: which branches and people get that far is for GitHub to keep.
    let protect = |name: &str, approval: bool| {
        let environment = format!("repos/{repository}/environments/{name}");
        let reviewers = match approval {
            true => {
                " -F prevent_self_review=true -F 'reviewers[][type]=User' \
                 -F \"reviewers[][id]=$(gh api users/REVIEWER --jq .id)\""
            }
            false => "",
        };
        [
            format!(
                "gh api --method PUT {environment} -F 'deployment_branch_policy[protected_branches]=false' \
                 -F 'deployment_branch_policy[custom_branch_policies]=true'{reviewers}"
            ),
            format!("gh api --method POST {environment}/deployment-branch-policies -f name=main"),
        ]
    };
    let variable = |name: &str, role: &str| {
        let arn = environment.arn_of_role(role);
        format!("gh variable set AWS_ROLE_ARN --repo {repository} --env {name} --body {arn}")
    };
    let name = github_environment(context);
    let mut steps = Vec::from(protect(name, environment.approval));
    steps.push(variable(name, role));
    if let Some(job) = &github.monitor {
        steps.extend(protect(&job.environment, false));
        steps.push(variable(&job.environment, &job.role));
    }
    steps.push(format!("gh variable set AWS_REGION --repo {repository} --body {}", environment.region));
    steps
}

fn print(work: &Work<'_>, resources: Vec<Resource>, next_steps: Vec<String>) -> Result<()> {
    let environment = work.environment();
    let report = Report {
        environment: work.context.environment_name.clone(),
        account: environment.account.clone(),
        region: environment.region.clone(),
        dry_run: work.dry_run,
        resources,
        next_steps,
    };
    if work.context.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(())
}

fn text(report: &Report) -> String {
    let Report { environment, account, region, .. } = report;
    let mut lines = vec![bold(&format!("environment {environment}: account {account}, {region}"))];
    for resource in &report.resources {
        let word = if report.dry_run { resource.action.planned() } else { resource.action.done() };
        lines.push(format!("  {word:<8} {:<17} {}", resource.kind, resource.name));
        lines.extend(resource.details.iter().map(|detail| format!("             {detail}")));
    }
    let changes = report.resources.iter().filter(|resource| resource.action.changes()).count();
    lines.push(match (changes, report.dry_run) {
        (0, _) => "nothing to do".to_string(),
        (count, true) => format!("{count} of {} would change; nothing was done", report.resources.len()),
        (count, false) => format!("{count} of {} changed", report.resources.len()),
    });
    if !report.next_steps.is_empty() {
        lines.push(bold("set in GitHub, once:"));
        lines.extend(report.next_steps.iter().map(|step| format!("  {step}")));
        lines.push(
            "If GitHub refuses the role: it writes ids into the tokens of repositories made or renamed after 18 June 2026. \
             Set `subject` in [github] of pipeline.toml to what the repository's OIDC settings show, and provision again."
                .to_string(),
        );
    }
    lines.join("\n") + "\n"
}
