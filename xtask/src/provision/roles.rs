//! The two roles of an environment, and the provider whose tokens the deploy role trusts.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::policies::{self, GITHUB_AUDIENCE, GITHUB_ISSUER};
use super::{Action, Resource, Work, github_environment, neighbours, without_github};
use crate::account::{IAM, text_of, texts_of, unless};
use crate::config::CloudKind;
use crate::iam_document;

/// What a role is for.
struct Purpose {
    kind: &'static str,
    /// Name of its one inline policy.
    policy: &'static str,
}

const EXECUTION: Purpose = Purpose { kind: "execution role", policy: "write-own-log" };
const DEPLOY: Purpose = Purpose { kind: "deploy role", policy: "deploy" };
const MONITOR: Purpose = Purpose { kind: "monitor role", policy: "monitor" };

const PROVIDER: &str = "identity provider";

/// A role as it should be.
struct Role {
    purpose: Purpose,
    name: String,
    description: String,
    trust: Value,
    permissions: Value,
}

/// A role as it is.
struct Found {
    trust: Value,
    /// The inline policy of our name, if there is one.
    policy: Option<Value>,
    /// What somebody else gave it.
    others: Vec<String>,
}

/// The role that the function runs as.
pub async fn ensure_execution(work: &Work<'_>) -> Result<Resource> {
    let environment = work.environment();
    let wanted = Role {
        purpose: EXECUTION,
        name: environment.role.clone(),
        description: format!("What the function {} runs as", environment.function),
        trust: policies::execution_trust(environment),
        permissions: policies::execution_permissions(environment),
    };
    ensure(work, &wanted).await
}

/// The role that the workflows deploy with.
pub async fn ensure_deploy(work: &Work<'_>) -> Result<Resource> {
    let environment = work.environment();
    let name = environment.deploy_role.as_deref().unwrap_or_default();
    let permissions = policies::deploy_permissions(environment);
    ensure_for_jobs(work, DEPLOY, name, github_environment(work.context), permissions).await
}

/// The role that the workflows monitor all environments of the account with.
pub async fn ensure_monitor(work: &Work<'_>) -> Result<Resource> {
    let Some(job) = work.context.config.github.as_ref().and_then(|github| github.monitor.as_ref()) else {
        return Ok(Resource::skipped(MONITOR.kind, "", "[github] of pipeline.toml names no monitor"));
    };
    let environments = neighbours(work.context).map(|(_, environment)| environment);
    let permissions = policies::monitor_permissions(environments);
    ensure_for_jobs(work, MONITOR, &job.role, &job.environment, permissions).await
}

/// A role that jobs of one environment of GitHub may take.
async fn ensure_for_jobs(
    work: &Work<'_>,
    purpose: Purpose,
    name: &str,
    github_environment: &str,
    permissions: Value,
) -> Result<Resource> {
    if let Some(reason) = without_github(work.context) {
        return Ok(Resource::skipped(purpose.kind, name, reason));
    }
    let github = work.context.config.github.as_ref().context("pipeline.toml has no [github]")?;
    let wanted = Role {
        purpose,
        name: name.to_string(),
        description: format!("For jobs of environment {github_environment} of {}", github.repository),
        trust: policies::github_trust(work.environment(), github, github_environment),
        permissions,
    };
    ensure(work, &wanted).await
}

async fn ensure(work: &Work<'_>, wanted: &Role) -> Result<Resource> {
    let found = describe(work, &wanted.purpose, &wanted.name).await?;
    let differences = found.as_ref().map(|found| differences(found, wanted));
    let mut resource = Resource::compared(wanted.purpose.kind, &wanted.name, differences);
    if work.touches(&resource) {
        set(work, found.as_ref(), wanted).await.with_context(|| format!("set up the role {}", wanted.name))?;
    }
    for other in found.iter().flat_map(|found| &found.others) {
        resource.details.push(format!("has also {other}, which widens what it may do: not ours, left"));
    }
    Ok(resource)
}

fn differences(found: &Found, wanted: &Role) -> Vec<String> {
    let trust = iam_document::differences(&found.trust, &wanted.trust);
    let mut differences: Vec<_> = trust.into_iter().map(|line| format!("trust: {line}")).collect();
    match &found.policy {
        None => differences.push(format!("policy {} is missing", wanted.purpose.policy)),
        Some(policy) => {
            let lines = iam_document::differences(policy, &wanted.permissions);
            differences.extend(lines.into_iter().map(|line| format!("policy {}: {line}", wanted.purpose.policy)));
        }
    }
    differences
}

async fn describe(work: &Work<'_>, purpose: &Purpose, name: &str) -> Result<Option<Found>> {
    let policy = purpose.policy;
    let role = [("RoleName", name)];
    let Some(answer) = unless(work.cloud.query(&IAM, "GetRole", &role).await, "NoSuchEntity")? else {
        return Ok(None);
    };
    let trust = document(&answer, "AssumeRolePolicyDocument")?;
    let inline = texts_of(&work.cloud.query(&IAM, "ListRolePolicies", &role).await?, "member");
    let attached = work.cloud.query(&IAM, "ListAttachedRolePolicies", &role).await?;
    let inline_others =
        inline.iter().filter(|known| *known != policy).map(|known| format!("the inline policy {known}"));
    let attached = texts_of(&attached, "PolicyName").into_iter().map(|known| format!("the attached policy {known}"));
    let others = inline_others.chain(attached).collect();
    let policy = if inline.iter().any(|known| known == policy) {
        let answer = work.cloud.query(&IAM, "GetRolePolicy", &[role[0], ("PolicyName", policy)]).await?;
        Some(document(&answer, "PolicyDocument")?)
    } else {
        None
    };
    Ok(Some(Found { trust, policy, others }))
}

/// A policy in an answer, where it is percent-encoded JSON.
fn document(answer: &str, element: &str) -> Result<Value> {
    let encoded = text_of(answer, element).with_context(|| format!("the answer has no {element}"))?;
    let text = percent_encoding::percent_decode_str(&encoded).decode_utf8_lossy();
    serde_json::from_str(&text).with_context(|| format!("understand the {element}"))
}

async fn set(work: &Work<'_>, found: Option<&Found>, wanted: &Role) -> Result<()> {
    let name = ("RoleName", wanted.name.as_str());
    let (trust, permissions) = (wanted.trust.to_string(), wanted.permissions.to_string());
    let create = [name, ("AssumeRolePolicyDocument", trust.as_str()), ("Description", wanted.description.as_str())];
    let made = match found {
        // It is there already where a first call worked and its answer was lost.
        None => unless(work.cloud.query(&IAM, "CreateRole", &create).await, "EntityAlreadyExists")?.is_some(),
        Some(_) => false,
    };
    if !made {
        work.cloud.query(&IAM, "UpdateAssumeRolePolicy", &[name, ("PolicyDocument", trust.as_str())]).await?;
    }
    let parameters = [name, ("PolicyName", wanted.purpose.policy), ("PolicyDocument", permissions.as_str())];
    work.cloud.query(&IAM, "PutRolePolicy", &parameters).await?;
    Ok(())
}

/// The provider of GitHub's tokens; one account has one, whoever uses it.
pub async fn ensure_provider(work: &Work<'_>) -> Result<Resource> {
    if let Some(reason) = without_github(work.context) {
        return Ok(Resource::skipped(PROVIDER, GITHUB_ISSUER, reason));
    }
    let arn = policies::provider_arn(work.environment());
    let differences = audiences(work).await?.map(|found| match found.iter().any(|known| known == GITHUB_AUDIENCE) {
        true => Vec::new(),
        false => vec![format!("takes no tokens for {GITHUB_AUDIENCE}")],
    });
    let resource = Resource::compared(PROVIDER, GITHUB_ISSUER, differences);
    if work.touches(&resource) {
        let url = format!("https://{GITHUB_ISSUER}");
        let create = [("Url", url.as_str()), ("ClientIDList.member.1", GITHUB_AUDIENCE)];
        let add = [("OpenIDConnectProviderArn", arn.as_str()), ("ClientID", GITHUB_AUDIENCE)];
        let made = match resource.action {
            Action::Create => {
                let answer = work.cloud.query(&IAM, "CreateOpenIDConnectProvider", &create).await;
                unless(answer, "EntityAlreadyExists")?.is_some()
            }
            _ => false,
        };
        if !made {
            work.cloud.query(&IAM, "AddClientIDToOpenIDConnectProvider", &add).await?;
        }
    }
    Ok(resource)
}

/// Whom the provider's tokens are for, if there is a provider.
async fn audiences(work: &Work<'_>) -> Result<Option<Vec<String>>> {
    let arn = policies::provider_arn(work.environment());
    let parameters = [("OpenIDConnectProviderArn", arn.as_str())];
    let answer = work.cloud.query(&IAM, "GetOpenIDConnectProvider", &parameters).await;
    Ok(unless(answer, "NoSuchEntity")?.map(|answer| texts_of(&answer, "member")))
}

/// Whether the account has this role.
pub async fn exists(work: &Work<'_>, name: &str) -> Result<bool> {
    let answer = work.cloud.query(&IAM, "GetRole", &[("RoleName", name)]).await;
    Ok(unless(answer, "NoSuchEntity")?.is_some())
}

/// Removes the role that the function runs as.
pub async fn remove_execution(work: &Work<'_>) -> Result<Resource> {
    remove(work, &EXECUTION, &work.environment().role).await
}

/// Removes the role that the workflows deploy with.
pub async fn remove_deploy(work: &Work<'_>) -> Result<Resource> {
    match &work.environment().deploy_role {
        Some(name) if work.environment().cloud == CloudKind::Aws => remove(work, &DEPLOY, name).await,
        name => Ok(Resource::skipped(DEPLOY.kind, name.as_deref().unwrap_or_default(), "this environment has none")),
    }
}

/// Removes the role that the workflows monitor with, unless there is something else to monitor.
pub async fn remove_monitor(work: &Work<'_>, users: &[String]) -> Result<Resource> {
    let job = work.context.config.github.as_ref().and_then(|github| github.monitor.as_ref());
    match job {
        Some(job) if work.environment().cloud == CloudKind::Aws => {
            if !users.is_empty() && exists(work, &job.role).await? {
                let details = vec![format!("{} uses it, too", users.join(", "))];
                return Ok(Resource::new(MONITOR.kind, &job.role, Action::Keep, details));
            }
            remove(work, &MONITOR, &job.role).await
        }
        job => Ok(Resource::skipped(MONITOR.kind, job.map_or("", |job| &job.role), "this environment has none")),
    }
}

async fn remove(work: &Work<'_>, purpose: &Purpose, name: &str) -> Result<Resource> {
    let (kind, policy) = (purpose.kind, purpose.policy);
    let Some(found) = describe(work, purpose, name).await? else {
        return Ok(Resource::skipped(kind, name, "is not there"));
    };
    if !found.others.is_empty() {
        let details = found.others.iter().map(|other| format!("has also {other}: remove that first")).collect();
        return Ok(Resource::new(kind, name, Action::Refuse, details));
    }
    let resource = Resource::new(kind, name, Action::Delete, Vec::new());
    if work.touches(&resource) {
        if found.policy.is_some() {
            let parameters = [("RoleName", name), ("PolicyName", policy)];
            unless(work.cloud.query(&IAM, "DeleteRolePolicy", &parameters).await, "NoSuchEntity")?;
        }
        unless(work.cloud.query(&IAM, "DeleteRole", &[("RoleName", name)]).await, "NoSuchEntity")?;
    }
    Ok(resource)
}

/// Removes the provider, unless a role trusts it that is not `going`: of another environment, or of another project in the
/// account.
pub async fn remove_provider(work: &Work<'_>, going: &[String]) -> Result<Resource> {
    let arn = policies::provider_arn(work.environment());
    if audiences(work).await?.is_none() {
        return Ok(Resource::skipped(PROVIDER, GITHUB_ISSUER, "is not there"));
    }
    let users: Vec<_> = trusting(work, &arn).await?.into_iter().filter(|role| !going.contains(role)).collect();
    if !users.is_empty() {
        let details = vec![format!("role {} trusts it, too", users.join(", "))];
        return Ok(Resource::new(PROVIDER, GITHUB_ISSUER, Action::Keep, details));
    }
    let resource = Resource::new(PROVIDER, GITHUB_ISSUER, Action::Delete, Vec::new());
    if work.touches(&resource) {
        let parameters = [("OpenIDConnectProviderArn", arn.as_str())];
        work.cloud.query(&IAM, "DeleteOpenIDConnectProvider", &parameters).await?;
    }
    Ok(resource)
}

/// The account's roles whose trust names the provider.
async fn trusting(work: &Work<'_>, provider: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut marker: Option<String> = None;
    loop {
        let parameters: Vec<_> = marker.iter().map(|marker| ("Marker", marker.as_str())).collect();
        let page = work.cloud.query(&IAM, "ListRoles", &parameters).await?;
        let documents = texts_of(&page, "AssumeRolePolicyDocument");
        for (name, trust) in texts_of(&page, "RoleName").into_iter().zip(documents) {
            let trust = percent_encoding::percent_decode_str(&trust).decode_utf8_lossy().into_owned();
            if trust.contains(provider) {
                found.push(name);
            }
        }
        marker = text_of(&page, "Marker").filter(|_| text_of(&page, "IsTruncated").as_deref() == Some("true"));
        if marker.is_none() {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_decoded() {
        let answer = "<R><PolicyDocument>%7B%22Version%22%3A%222012-10-17%22%7D</PolicyDocument></R>";
        assert_eq!(document(answer, "PolicyDocument").unwrap()["Version"], "2012-10-17");
        assert!(document("<R/>", "PolicyDocument").is_err());
    }
}
