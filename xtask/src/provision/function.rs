//! The function, once a deployment has made it: its settings, and who may call its URL.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aws_sdk_lambda::client::Waiters;
use aws_sdk_lambda::operation::get_function_configuration::GetFunctionConfigurationOutput;

use super::{Action, Resource, Work};
use crate::cloud::{service_error, unless};
use crate::config::{Environment, Package};
use crate::function;
use crate::stages::deploy;

const KIND: &str = "function";

/// Brings an existing function to what pipeline.toml says. One that does not exist comes with the first deployment: it needs
/// an image, and no image may run that the gate did not allow.
pub async fn ensure(work: &Work<'_>) -> Result<Resource> {
    let environment = work.environment();
    let Some(found) = describe(work).await? else {
        let reason = format!("comes with the first `cargo xtask pipeline --env {}`", work.context.environment_name);
        return Ok(Resource::new(KIND, &environment.function, Action::Later, vec![reason]));
    };
    let settings = setting_differences(&found, environment);
    let has_alias = deploy::live_version(work.cloud, environment).await?.is_some();
    let mut differences = settings.clone();
    if has_alias {
        differences.extend(function::url_differences(work.cloud, environment).await?);
    }
    let mut resource = Resource::compared(KIND, &environment.function, Some(differences));
    if work.touches(&resource) {
        if !settings.is_empty() {
            set(work, &found).await.with_context(|| format!("change the settings of {}", environment.function))?;
        }
        if has_alias {
            function::ensure_url(work.cloud, environment).await?;
        }
    }
    if !settings.is_empty() {
        resource.details.push("new settings answer from the next deployment on".to_string());
    }
    if let Err(error) = deploy::same_kind(environment, deploy::kind(found.package_type())) {
        resource.details.push(format!("{error:#}"));
    }
    if !has_alias {
        resource.details.push(format!("alias {} and its URL come with the next deployment", environment.alias));
    }
    Ok(resource)
}

async fn describe(work: &Work<'_>) -> Result<Option<GetFunctionConfigurationOutput>> {
    let name = &work.environment().function;
    let answer = work.cloud.lambda.get_function_configuration().function_name(name).send().await;
    unless(answer, "ResourceNotFoundException").with_context(|| format!("ask for the function {name}"))
}

fn setting_differences(found: &GetFunctionConfigurationOutput, environment: &Environment) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, found: Option<String>, wanted: String| {
        if found.as_ref() != Some(&wanted) {
            let found = found.unwrap_or_else(|| "unknown".to_string());
            differences.push(format!("{what} is {found}, should be {wanted}"));
        }
    };
    compare("memory in MB", found.memory_size().map(|size| size.to_string()), environment.memory_mb.to_string());
    compare(
        "timeout in seconds",
        found.timeout().map(|time| time.to_string()),
        environment.timeout_seconds.to_string(),
    );
    compare("role", found.role().map(String::from), environment.role_arn());
    if is_zip(found) {
        compare("runtime", found.runtime().map(|runtime| runtime.to_string()), function::RUNTIME.to_string());
        compare("handler", found.handler().map(String::from), function::HANDLER.to_string());
    }
    differences
}

fn is_zip(found: &GetFunctionConfigurationOutput) -> bool {
    deploy::kind(found.package_type()) == Package::Zip
}

async fn set(work: &Work<'_>, found: &GetFunctionConfigurationOutput) -> Result<()> {
    let environment = work.environment();
    let lambda = &work.cloud.lambda;
    let request = lambda.update_function_configuration().function_name(&environment.function);
    let request = request.memory_size(environment.memory_mb).timeout(environment.timeout_seconds);
    let request = if is_zip(found) { request.runtime(function::RUNTIME).handler(function::HANDLER) } else { request };
    request.role(environment.role_arn()).send().await.map_err(service_error)?;
    let waiter = lambda.wait_until_function_updated_v2().function_name(&environment.function);
    waiter.wait(Duration::from_secs(300)).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(())
}

/// Removes the function with all versions, aliases and URLs.
pub async fn remove(work: &Work<'_>) -> Result<Resource> {
    let name = &work.environment().function;
    if describe(work).await?.is_none() {
        return Ok(Resource::skipped(KIND, name, "is not there"));
    }
    let resource = Resource::new(KIND, name, Action::Delete, Vec::new());
    if work.touches(&resource) {
        let answer = work.cloud.lambda.delete_function().function_name(name).send().await;
        unless(answer, "ResourceNotFoundException").with_context(|| format!("remove the function {name}"))?;
    }
    Ok(resource)
}
