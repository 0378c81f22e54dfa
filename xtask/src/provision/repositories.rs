//! The image repositories: tags that never move, a scan on every push, old images removed where nothing can need them.

use anyhow::{Context as _, Result};
use aws_sdk_ecr::types::{ImageScanningConfiguration, ImageTagMutability, Repository};
use serde_json::Value;

use super::{Action, Resource, Work, policies};
use crate::cloud::{service_error, unless};
use crate::iam_document;

const KIND: &str = "image repository";

/// The repository of the images that train and test.
pub async fn ensure_training(work: &Work<'_>) -> Result<Resource> {
    ensure(work, &work.environment().training_repository, policies::training_lifecycle(), None).await
}

/// The repository of the function's images, which Lambda reads.
pub async fn ensure_inference(work: &Work<'_>) -> Result<Resource> {
    let environment = work.environment();
    let policy = policies::inference_repository_policy(environment);
    ensure(work, &environment.inference_repository, policies::inference_lifecycle(), Some(policy)).await
}

async fn ensure(work: &Work<'_>, name: &str, lifecycle: Value, policy: Option<Value>) -> Result<Resource> {
    let differences = match describe(work, name).await? {
        None => None,
        Some(found) => Some(differences(work, &found, name, &lifecycle, policy.as_ref()).await?),
    };
    let resource = Resource::compared(KIND, name, differences);
    if work.touches(&resource) {
        work.cloud.ensure_repository(name).await?;
        set(work, name, &lifecycle, policy.as_ref())
            .await
            .with_context(|| format!("set up the image repository `{name}`"))?;
    }
    Ok(resource)
}

async fn describe(work: &Work<'_>, name: &str) -> Result<Option<Repository>> {
    let answer = work.cloud.ecr.describe_repositories().repository_names(name).send().await;
    let found = unless(answer, "RepositoryNotFoundException");
    let found = found.with_context(|| format!("describe the image repository `{name}`"))?;
    Ok(found.and_then(|answer| answer.repositories.unwrap_or_default().into_iter().next()))
}

async fn differences(
    work: &Work<'_>,
    found: &Repository,
    name: &str,
    lifecycle: &Value,
    policy: Option<&Value>,
) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    if found.image_tag_mutability() != Some(&ImageTagMutability::Immutable) {
        differences.push("tags can be moved".to_string());
    }
    if !found.image_scanning_configuration().is_some_and(ImageScanningConfiguration::scan_on_push) {
        differences.push("pushed images are not scanned".to_string());
    }
    let ecr = &work.cloud.ecr;
    let rules =
        unless(ecr.get_lifecycle_policy().repository_name(name).send().await, "LifecyclePolicyNotFoundException");
    let rules = rules.with_context(|| format!("read the lifecycle rules of `{name}`"))?;
    let rules = parse(rules.as_ref().and_then(|answer| answer.lifecycle_policy_text()))?;
    let lines = iam_document::differences(&rules, lifecycle);
    differences.extend(lines.into_iter().map(|line| format!("lifecycle: {line}")));
    if let Some(policy) = policy {
        let answer = ecr.get_repository_policy().repository_name(name).send().await;
        let found = unless(answer, "RepositoryPolicyNotFoundException");
        let found = found.with_context(|| format!("read the policy of `{name}`"))?;
        let found = parse(found.as_ref().and_then(|answer| answer.policy_text()))?;
        let lines = iam_document::differences(&found, policy);
        differences.extend(lines.into_iter().map(|line| format!("policy: {line}")));
    }
    Ok(differences)
}

fn parse(text: Option<&str>) -> Result<Value> {
    serde_json::from_str(text.unwrap_or("null")).context("understand the registry's answer")
}

async fn set(work: &Work<'_>, name: &str, lifecycle: &Value, policy: Option<&Value>) -> Result<()> {
    let ecr = &work.cloud.ecr;
    let request = ecr.put_image_tag_mutability().repository_name(name);
    request.image_tag_mutability(ImageTagMutability::Immutable).send().await.map_err(service_error)?;
    let scan = ImageScanningConfiguration::builder().scan_on_push(true).build();
    let request = ecr.put_image_scanning_configuration().repository_name(name);
    request.image_scanning_configuration(scan).send().await.map_err(service_error)?;
    let request = ecr.put_lifecycle_policy().repository_name(name);
    request.lifecycle_policy_text(lifecycle.to_string()).send().await.map_err(service_error)?;
    if let Some(policy) = policy {
        let request = ecr.set_repository_policy().repository_name(name);
        request.policy_text(policy.to_string()).send().await.map_err(service_error)?;
    }
    Ok(())
}

/// Removes a repository that no other environment uses; one with images only when told to.
pub async fn remove(work: &Work<'_>, name: &str, users: &[String], force: bool) -> Result<Resource> {
    if describe(work, name).await?.is_none() {
        return Ok(Resource::skipped(KIND, name, "is not there"));
    }
    if !users.is_empty() {
        return Ok(Resource::new(KIND, name, Action::Keep, vec![format!("{} uses it, too", users.join(", "))]));
    }
    let listed = work.cloud.ecr.list_images().repository_name(name).send().await.map_err(service_error);
    let images = listed.with_context(|| format!("list the images of `{name}`"))?.image_ids().len();
    let details = if images > 0 {
        vec![format!("has images ({images} or more), which only --force removes")]
    } else {
        Vec::new()
    };
    let action = if images > 0 && !force { Action::Refuse } else { Action::Delete };
    let resource = Resource::new(KIND, name, action, details);
    if work.touches(&resource) {
        let request = work.cloud.ecr.delete_repository().repository_name(name).force(force);
        let removed = unless(request.send().await, "RepositoryNotFoundException");
        removed.with_context(|| format!("remove the image repository `{name}`"))?;
    }
    Ok(resource)
}
