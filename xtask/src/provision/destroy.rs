//! Removes an environment, after its owner said so by name, in the order in which nothing in use loses its ground.

use std::io::{IsTerminal, Write};

use anyhow::{Context as _, Result, bail};
use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use super::{Action, Options, Resource, Work, function, log_group, neighbours, print, repositories, roles};
use crate::cloud::{service_error, unless};
use crate::config::Environment;
use crate::exit;

/// Runs `provision --destroy`.
pub fn run(work: &Work<'_>, options: &Options) -> Result<()> {
    let context = work.context;
    let name = &context.environment_name;
    if let Some(given) = options.yes.as_ref().filter(|given| *given != name) {
        return Err(exit::usage(format!("--yes {given} does not name the environment: this would destroy `{name}`")));
    }
    let ahead = Work { dry_run: true, ..*work };
    let plan = context.block_on(remove_all(&ahead, options.force))?;
    if work.dry_run {
        return print(work, plan, Vec::new());
    }
    let refused: Vec<_> = plan.iter().filter(|resource| resource.action == Action::Refuse).collect();
    if !refused.is_empty() {
        let texts = refused
            .iter()
            .map(|resource| format!("{} {} {}", resource.kind, resource.name, resource.details.join(", ")));
        bail!("nothing was removed: {}", texts.collect::<Vec<_>>().join("; "));
    }
    if !plan.iter().any(|resource| resource.action.changes()) {
        return print(work, plan, Vec::new());
    }
    if options.yes.is_none() {
        confirm(&ahead, &plan)?;
    }
    let removed = context.block_on(remove_all(work, options.force))?;
    print(work, removed, Vec::new())
}

/// Shows what goes and has the environment's name typed.
fn confirm(work: &Work<'_>, plan: &[Resource]) -> Result<()> {
    let name = &work.context.environment_name;
    if !std::io::stdin().is_terminal() {
        return Err(exit::usage(format!(
            "nobody can be asked here whether to destroy `{name}`: `--yes {name}` confirms, `--dry-run` shows what would go"
        )));
    }
    eprintln!("This removes, for good:");
    for resource in plan.iter().filter(|resource| resource.action == Action::Delete) {
        eprintln!("  {} {} {}", resource.kind, resource.name, resource.details.join(", "));
    }
    eprint!("Type the environment's name, {name}, to go on: ");
    std::io::stderr().flush().context("ask for the environment's name")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("read the answer")?;
    if answer.trim() != name {
        bail!("that is not `{name}`: nothing was removed");
    }
    Ok(())
}

/// First who could still deploy, then what runs, what it runs with, and last what it ran from.
async fn remove_all(work: &Work<'_>, force: bool) -> Result<Vec<Resource>> {
    let environment = work.environment();
    let jobs = [roles::remove_deploy(work).await?, roles::remove_monitor(work, &users(work, |_| true).await?).await?];
    let going: Vec<_> =
        jobs.iter().filter(|role| role.action == Action::Delete).map(|role| role.name.clone()).collect();
    let mut resources = Vec::new();
    let mut keep = |resource: Resource| {
        work.say(&resource);
        resources.push(resource);
    };
    jobs.into_iter().for_each(&mut keep);
    keep(roles::remove_provider(work, &going).await?);
    keep(function::remove(work).await?);
    keep(roles::remove_execution(work).await?);
    keep(log_group::remove(work).await?);
    let users = users(work, |other| other.bucket == environment.bucket).await?;
    keep(remove_bucket(work, &users, force).await?);
    for name in [&environment.inference_repository, &environment.training_repository] {
        let names = |other: &Environment| {
            other.region == environment.region
                && [&other.inference_repository, &other.training_repository].contains(&name)
        };
        let users = self::users(work, names).await?;
        keep(repositories::remove(work, name, &users, force).await?);
    }
    Ok(resources)
}

/// The other environments of pipeline.toml in the same account that use something and are set up: their function
/// has its role.
async fn users(work: &Work<'_>, uses: impl Fn(&Environment) -> bool) -> Result<Vec<String>> {
    let mut users = Vec::new();
    for (name, other) in neighbours(work.context) {
        let another = name != work.context.environment_name;
        if another && uses(other) && roles::exists(work, &other.role).await? {
            users.push(name.to_string());
        }
    }
    Ok(users)
}

async fn remove_bucket(work: &Work<'_>, users: &[String], force: bool) -> Result<Resource> {
    const KIND: &str = "bucket";
    let environment = work.environment();
    let bucket = &environment.bucket;
    if work.cloud.bucket_differences(environment).await?.is_none() {
        return Ok(Resource::skipped(KIND, bucket, "is not there"));
    }
    if !users.is_empty() {
        return Ok(Resource::new(KIND, bucket, Action::Keep, vec![format!("{} uses it, too", users.join(", "))]));
    }
    let objects = !page(work, bucket).await?.is_empty();
    let details = if objects { vec!["has objects, which only --force removes".to_string()] } else { Vec::new() };
    let action = if objects && !force { Action::Refuse } else { Action::Delete };
    let resource = Resource::new(KIND, bucket, action, details);
    if work.touches(&resource) {
        empty(work, bucket).await.with_context(|| format!("remove the objects of the bucket `{bucket}`"))?;
        let removed = unless(work.cloud.s3.delete_bucket().bucket(bucket).send().await, "NoSuchBucket");
        removed.with_context(|| format!("remove the bucket `{bucket}`"))?;
    }
    Ok(resource)
}

/// Keys of some objects of the bucket; none if it is empty.
async fn page(work: &Work<'_>, bucket: &str) -> Result<Vec<String>> {
    let listed = work.cloud.s3.list_objects_v2().bucket(bucket).send().await.map_err(service_error);
    let listed = listed.with_context(|| format!("list the objects of the bucket `{bucket}`"))?;
    Ok(listed.contents().iter().filter_map(|object| object.key().map(String::from)).collect())
}

async fn empty(work: &Work<'_>, bucket: &str) -> Result<()> {
    loop {
        let keys = page(work, bucket).await?;
        if keys.is_empty() {
            return Ok(());
        }
        let objects = keys.iter().map(|key| ObjectIdentifier::builder().key(key).build());
        let delete = Delete::builder().set_objects(Some(objects.collect::<Result<_, _>>()?)).quiet(true).build()?;
        let answer =
            work.cloud.s3.delete_objects().bucket(bucket).delete(delete).send().await.map_err(service_error)?;
        if let Some(error) = answer.errors().first() {
            bail!("{}: {}", error.key().unwrap_or("?"), error.message().unwrap_or("no message"));
        }
    }
}
