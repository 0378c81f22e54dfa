//! ECR's control plane: JSON 1.1 with the operation in `X-Amz-Target`.

mod images;
pub mod repositories;
mod scan;

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::StatusCode;
use serde_json::{Value, json};

pub use repositories::Repositories;

use crate::{
    ACCOUNT_ID,
    ecr::repositories::Repository,
    server::Cloud,
    wire::{ApiError, Response, epoch_seconds, json_reply},
};

/// What `X-Amz-Target` begins with.
pub const TARGET_PREFIX: &str = "AmazonEC2ContainerRegistry_V20150921.";
/// The protocol's content type.
pub const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

type Answer = Result<Value, ApiError>;

/// Answers one operation.
///
/// # Errors
/// The exception that AWS answers.
pub async fn call(cloud: &Cloud, target: &str, body: &[u8]) -> Result<Response, ApiError> {
    let operation = target.strip_prefix(TARGET_PREFIX).unwrap_or(target);
    let input: Value = match body {
        b"" => json!({}),
        body => serde_json::from_slice(body).map_err(|_| error("SerializationException", "the body is not JSON"))?,
    };
    if !input.is_object() {
        return Err(error("SerializationException", "the body is not an object"));
    }
    if input["registryId"].as_str().is_some_and(|id| id != ACCOUNT_ID) {
        return Err(invalid(format!("the registry {} is not served here", input["registryId"])));
    }
    let output = match operation {
        "GetAuthorizationToken" => Ok(authorization_token(cloud)),
        "CreateRepository" => create_repository(cloud, &input),
        "DescribeRepositories" => describe_repositories(cloud, &input),
        "DeleteRepository" => delete_repository(cloud, &input),
        "PutImageTagMutability" => put_tag_mutability(cloud, &input),
        "PutImageScanningConfiguration" => put_scanning_configuration(cloud, &input),
        "PutLifecyclePolicy" | "GetLifecyclePolicy" | "DeleteLifecyclePolicy" => {
            stored_text(cloud, &input, operation, &LIFECYCLE_POLICY)
        }
        "SetRepositoryPolicy" | "GetRepositoryPolicy" | "DeleteRepositoryPolicy" => {
            stored_text(cloud, &input, operation, &REPOSITORY_POLICY)
        }
        "ListTagsForResource" => list_tags(cloud, &input),
        "DescribeImages" => images::describe(cloud, &input),
        "ListImages" => images::list(cloud, &input),
        "BatchGetImage" => images::batch_get(cloud, &input),
        "BatchDeleteImage" => images::batch_delete(cloud, &input),
        "PutImage" => images::put(cloud, &input),
        "DescribeImageScanFindings" => scan::describe_findings(cloud, &input).await,
        "StartImageScan" => scan::start(cloud, &input),
        _ => Err(ApiError::new(
            StatusCode::NOT_IMPLEMENTED,
            "UnknownOperationException",
            format!("ECR operation {operation} is not implemented by the embedded cloud"),
        )),
    }?;
    Ok(json_reply(StatusCode::OK, CONTENT_TYPE, &output))
}

/// An ECR exception; they all have status 400.
fn error(code: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, code, message)
}

fn invalid(message: impl Into<String>) -> ApiError {
    error("InvalidParameterException", message)
}

fn no_repository(name: &str) -> ApiError {
    error(
        "RepositoryNotFoundException",
        format!("The repository with name '{name}' does not exist in the registry with id '{ACCOUNT_ID}'"),
    )
}

/// A required string member.
fn text<'a>(input: &'a Value, name: &str) -> Result<&'a str, ApiError> {
    input[name].as_str().ok_or_else(|| {
        invalid(format!("Invalid parameter at '{name}' failed to satisfy constraint: 'Member must not be null'"))
    })
}

/// The repository an operation names.
fn repository(cloud: &Cloud, input: &Value) -> Result<Repository, ApiError> {
    let name = text(input, "repositoryName")?;
    cloud.repositories.get(name).ok_or_else(|| no_repository(name))
}

fn change<T>(
    cloud: &Cloud,
    name: &str,
    change: impl FnOnce(&mut Repository) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    cloud.repositories.change(name, change).unwrap_or_else(|| Err(no_repository(name)))
}

/// Whether a text may be an image's tag.
pub fn valid_tag(tag: &str) -> bool {
    let bytes = tag.as_bytes();
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    (1..=128).contains(&bytes.len()) && word(&bytes[0]) && bytes.iter().all(|byte| word(byte) || b".-".contains(byte))
}

/// `(?:[a-z0-9]+(?:[._-][a-z0-9]+)*/)*[a-z0-9]+(?:[._-][a-z0-9]+)*` with 2 to 256 characters.
fn valid_name(name: &str) -> bool {
    let part = |part: &str| {
        part.split(['.', '_', '-'])
            .all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()))
    };
    (2..=256).contains(&name.len()) && name.split('/').all(part)
}

/// One page of `items` by `maxResults` and `nextToken`, and the token of the next one.
fn page<'a, T>(items: &'a [T], input: &Value, default: usize) -> Result<(&'a [T], Option<String>), ApiError> {
    let limit = match &input["maxResults"] {
        Value::Null => default,
        value => value
            .as_u64()
            .filter(|limit| (1..=1000).contains(limit))
            .and_then(|limit| usize::try_from(limit).ok())
            .ok_or_else(|| invalid("maxResults is between 1 and 1000"))?,
    };
    let start = match input["nextToken"].as_str() {
        None => 0,
        Some(token) => STANDARD
            .decode(token)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok()?.strip_prefix("at:")?.parse::<usize>().ok())
            .filter(|start| *start <= items.len())
            .ok_or_else(|| invalid("Invalid nextToken"))?,
    };
    let end = items.len().min(start.saturating_add(limit));
    Ok((&items[start..end], (end < items.len()).then(|| STANDARD.encode(format!("at:{end}")))))
}

fn authorization_token(cloud: &Cloud) -> Value {
    json!({ "authorizationData": [{
        "authorizationToken": STANDARD.encode(format!("AWS:{}", cloud.registry_token)),
        "expiresAt": epoch_seconds() + 12.0 * 3600.0,
        "proxyEndpoint": format!("http://{}", cloud.host),
    }] })
}

fn arn(cloud: &Cloud, name: &str) -> String {
    format!("arn:aws:ecr:{}:{ACCOUNT_ID}:repository/{name}", cloud.region)
}

fn repository_json(cloud: &Cloud, repository: &Repository) -> Value {
    json!({
        "repositoryArn": arn(cloud, &repository.name),
        "registryId": ACCOUNT_ID,
        "repositoryName": repository.name,
        "repositoryUri": format!("{}/{}", cloud.host, repository.name),
        "createdAt": repository.created_at,
        "imageTagMutability": if repository.immutable { "IMMUTABLE" } else { "MUTABLE" },
        "imageScanningConfiguration": { "scanOnPush": repository.scan_on_push },
        "encryptionConfiguration": { "encryptionType": "AES256" },
    })
}

fn mutability(input: &Value) -> Result<bool, ApiError> {
    match input["imageTagMutability"].as_str() {
        None | Some("MUTABLE") => Ok(false),
        Some("IMMUTABLE") => Ok(true),
        Some(other) => Err(ApiError::not_implemented(format!("imageTagMutability {other}"))),
    }
}

fn create_repository(cloud: &Cloud, input: &Value) -> Answer {
    let name = text(input, "repositoryName")?;
    if !valid_name(name) {
        return Err(invalid(format!("Invalid parameter at 'repositoryName' failed to satisfy constraint: '{name}'")));
    }
    if let Some(kind) = input["encryptionConfiguration"]["encryptionType"].as_str().filter(|kind| *kind != "AES256") {
        return Err(ApiError::not_implemented(format!("CreateRepository with encryptionType {kind}")));
    }
    let mut resource_tags = BTreeMap::new();
    for tag in input["tags"].as_array().into_iter().flatten() {
        let (Some(key), value) = (tag["Key"].as_str(), tag["Value"].as_str().unwrap_or_default()) else {
            return Err(error("InvalidTagParameterException", "a tag has no Key"));
        };
        resource_tags.insert(key.to_owned(), value.to_owned());
    }
    let repository = Repository {
        name: name.to_owned(),
        created_at: epoch_seconds(),
        immutable: mutability(input)?,
        scan_on_push: input["imageScanningConfiguration"]["scanOnPush"].as_bool().unwrap_or(false),
        resource_tags,
        ..Repository::default()
    };
    if !cloud.repositories.create(repository.clone())? {
        return Err(error(
            "RepositoryAlreadyExistsException",
            format!("The repository with name '{name}' already exists in the registry with id '{ACCOUNT_ID}'"),
        ));
    }
    Ok(json!({ "repository": repository_json(cloud, &repository) }))
}

fn describe_repositories(cloud: &Cloud, input: &Value) -> Answer {
    let Some(names) = input["repositoryNames"].as_array() else {
        let all = cloud.repositories.all();
        let (page, next) = page(&all, input, 100)?;
        let page: Vec<Value> = page.iter().map(|repository| repository_json(cloud, repository)).collect();
        return Ok(with_token(json!({ "repositories": page }), next));
    };
    let mut found = Vec::new();
    for name in names.iter().map(|name| name.as_str().unwrap_or_default()) {
        let repository = cloud.repositories.get(name).ok_or_else(|| no_repository(name))?;
        found.push(repository_json(cloud, &repository));
    }
    Ok(json!({ "repositories": found }))
}

fn with_token(mut output: Value, next: Option<String>) -> Value {
    if let Some(next) = next {
        output["nextToken"] = Value::String(next);
    }
    output
}

fn delete_repository(cloud: &Cloud, input: &Value) -> Answer {
    let repository = repository(cloud, input)?;
    if !repository.images.is_empty() && input["force"].as_bool() != Some(true) {
        return Err(error(
            "RepositoryNotEmptyException",
            format!(
                "The repository with name '{}' in registry with id '{ACCOUNT_ID}' cannot be deleted because it still contains images",
                repository.name
            ),
        ));
    }
    cloud.repositories.remove(&repository.name)?;
    Ok(json!({ "repository": repository_json(cloud, &repository) }))
}

fn put_tag_mutability(cloud: &Cloud, input: &Value) -> Answer {
    let name = text(input, "repositoryName")?;
    text(input, "imageTagMutability")?;
    let immutable = mutability(input)?;
    change(cloud, name, |repository| {
        repository.immutable = immutable;
        Ok(())
    })?;
    Ok(json!({ "registryId": ACCOUNT_ID, "repositoryName": name, "imageTagMutability": input["imageTagMutability"] }))
}

fn put_scanning_configuration(cloud: &Cloud, input: &Value) -> Answer {
    let name = text(input, "repositoryName")?;
    let scan_on_push = input["imageScanningConfiguration"]["scanOnPush"].as_bool().unwrap_or(false);
    change(cloud, name, |repository| {
        repository.scan_on_push = scan_on_push;
        Ok(())
    })?;
    Ok(json!({
        "registryId": ACCOUNT_ID,
        "repositoryName": name,
        "imageScanningConfiguration": { "scanOnPush": scan_on_push },
    }))
}

/// A document that is stored as given: where it lies, what its member and its exception are called.
struct StoredText {
    field: fn(&mut Repository) -> &mut Option<String>,
    member: &'static str,
    missing: &'static str,
    what: &'static str,
}

const LIFECYCLE_POLICY: StoredText = StoredText {
    field: |repository| &mut repository.lifecycle_policy,
    member: "lifecyclePolicyText",
    missing: "LifecyclePolicyNotFoundException",
    what: "Lifecycle policy",
};

const REPOSITORY_POLICY: StoredText = StoredText {
    field: |repository| &mut repository.policy,
    member: "policyText",
    missing: "RepositoryPolicyNotFoundException",
    what: "Repository policy",
};

fn stored_text(cloud: &Cloud, input: &Value, operation: &str, stored: &StoredText) -> Answer {
    let mut repository = repository(cloud, input)?;
    let name = repository.name.clone();
    let document = if operation.starts_with("Get") || operation.starts_with("Delete") {
        let document = (stored.field)(&mut repository).clone().ok_or_else(|| {
            error(
                stored.missing,
                format!(
                    "{} does not exist for the repository with name '{name}' in the registry with id '{ACCOUNT_ID}'",
                    stored.what
                ),
            )
        })?;
        if operation.starts_with("Delete") {
            change(cloud, &name, |repository| {
                *(stored.field)(repository) = None;
                Ok(())
            })?;
        }
        document
    } else {
        let document = text(input, stored.member)?.to_owned();
        if !serde_json::from_str::<Value>(&document).is_ok_and(|document| document.is_object()) {
            return Err(invalid(format!(
                "Invalid parameter at '{}' failed to satisfy constraint: 'Invalid JSON'",
                stored.member
            )));
        }
        change(cloud, &name, |repository| {
            *(stored.field)(repository) = Some(document.clone());
            Ok(())
        })?;
        document
    };
    let mut output = json!({ "registryId": ACCOUNT_ID, "repositoryName": name });
    output[stored.member] = Value::String(document);
    Ok(output)
}

fn list_tags(cloud: &Cloud, input: &Value) -> Answer {
    let resource = text(input, "resourceArn")?;
    let all = cloud.repositories.all();
    let repository = all
        .iter()
        .find(|repository| arn(cloud, &repository.name) == resource)
        .ok_or_else(|| no_repository(resource.rsplit_once("repository/").map_or(resource, |(_, name)| name)))?;
    let tags: Vec<Value> =
        repository.resource_tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect();
    Ok(json!({ "tags": tags }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tags() {
        for good in ["ab", "ccapproval-deploy", "team/app_1.x"] {
            assert!(valid_name(good), "{good}");
        }
        for bad in ["", "a", "Ab", "a//b", "/ab", "ab/", "a..b", "../ab", "a+b", "a b"] {
            assert!(!valid_name(bad), "{bad}");
        }
        assert!(valid_tag("v1.0-x_Y") && valid_tag("_"));
        assert!(!valid_tag("") && !valid_tag("-a") && !valid_tag("a/b") && !valid_tag(&"a".repeat(129)));
    }

    #[test]
    fn pages_cover_everything_once() {
        let items: Vec<u32> = (0..25).collect();
        let (mut seen, mut token) = (Vec::new(), Value::Null);
        loop {
            let (items, next) = page(&items, &json!({ "maxResults": 10, "nextToken": token }), 100).expect("a page");
            seen.extend_from_slice(items);
            match next {
                Some(next) => token = Value::String(next),
                None => break,
            }
        }
        assert_eq!(seen, items);
        assert!(page(&items, &json!({ "nextToken": "x" }), 1).is_err());
        assert!(page(&items, &json!({ "maxResults": 0 }), 1).is_err());
    }
}
