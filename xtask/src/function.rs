//! The function, its address and who may call it: as `deploy` makes them on the first run and `provision` keeps them.

use anyhow::{Context as _, Result, bail};
use aws_sdk_lambda::operation::get_function_url_config::GetFunctionUrlConfigOutput;
use aws_sdk_lambda::types::{Cors, FunctionCode, FunctionUrlAuthType, PackageType, Runtime};
use aws_sdk_s3::error::ProvideErrorMetadata;
use serde_json::{Value, json};

use crate::cloud::{Cloud, service_error, unless};
use crate::config::{Architecture, CloudKind, Environment};
use crate::patience;

/// It exists already, or another update of the function runs.
const CONFLICT: &str = "ResourceConflictException";

/// What a zip package runs on: an operating system, and the program in the package.
pub const RUNTIME: Runtime = Runtime::Providedal2023;
/// The runtime's word for the program; there is nothing else that it could call.
pub const HANDLER: &str = "bootstrap";

/// What a function is made of.
pub enum Code<'a> {
    /// `registry/repository@sha256:…`
    Image { uri: &'a str },
    /// An object that is named by its digest.
    Zip { bucket: &'a str, key: &'a str },
}

/// Makes the function from an image that is in the registry, or from a zip package that is in a bucket.
pub async fn create(
    cloud: &Cloud,
    environment: &Environment,
    architecture: Architecture,
    code: &Code<'_>,
) -> Result<()> {
    let architecture = match architecture {
        Architecture::X86_64 => aws_sdk_lambda::types::Architecture::X8664,
        Architecture::Arm64 => aws_sdk_lambda::types::Architecture::Arm64,
    };
    let request = cloud.lambda.create_function().function_name(&environment.function);
    let request = match code {
        Code::Image { uri } => {
            request.package_type(PackageType::Image).code(FunctionCode::builder().image_uri(*uri).build())
        }
        Code::Zip { bucket, key } => request
            .package_type(PackageType::Zip)
            .runtime(RUNTIME)
            .handler(HANDLER)
            .code(FunctionCode::builder().s3_bucket(*bucket).s3_key(*key).build()),
    };
    request
        .role(environment.role_arn())
        .architectures(architecture)
        .memory_size(environment.memory_mb)
        .timeout(environment.timeout_seconds)
        .send()
        .await
        .map_err(service_error)
        .with_context(|| format!("create the function {}", environment.function))?;
    Ok(())
}

/// The alias's address; made, or brought to what the environment says, together with who may call it.
///
/// Every attempt begins by reading what is there: a change whose answer was lost is found done, and one that was refused
/// because another update ran is made later.
pub async fn ensure_url(cloud: &Cloud, environment: &Environment) -> Result<String> {
    let mut pause = patience::first_pause();
    for _ in 0..patience::ATTEMPTS {
        if let Some(url) = set_address(cloud, environment).await?
            && set_permissions(cloud, environment).await?
        {
            return Ok(url);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(patience::LONGEST_PAUSE);
    }
    bail!("set the URL of {}: it is busy with other updates, try again later", environment.function)
}

/// Brings the alias's address to what the environment says; none if that was refused for now.
async fn set_address(cloud: &Cloud, environment: &Environment) -> Result<Option<String>> {
    let (function, alias) = (&environment.function, &environment.alias);
    let (auth, cors) = (auth_type(environment), cors(cloud, environment)?);
    match address(cloud, environment).await? {
        Some(found) if address_differences(&found, &auth, &cors).is_empty() => Ok(Some(found.function_url)),
        Some(_) => {
            let request = cloud.lambda.update_function_url_config().function_name(function).qualifier(alias);
            let changed = unless(request.auth_type(auth).cors(cors).send().await, CONFLICT);
            Ok(changed.context("change the function's URL")?.map(|changed| changed.function_url))
        }
        None => {
            let request = cloud.lambda.create_function_url_config().function_name(function).qualifier(alias);
            let made = unless(request.auth_type(auth).cors(cors).send().await, CONFLICT);
            Ok(made.context("create the function's URL")?.map(|made| made.function_url))
        }
    }
}

/// Lets in who may call the function, and nobody else; whether that is so now.
async fn set_permissions(cloud: &Cloud, environment: &Environment) -> Result<bool> {
    let mut all = true;
    for change in permission_changes(&permissions(cloud, environment).await?, environment.public) {
        all &= change.make(cloud, environment).await?;
    }
    Ok(all)
}

/// What [`ensure_url`] would change.
pub async fn url_differences(cloud: &Cloud, environment: &Environment) -> Result<Vec<String>> {
    let mut differences = match address(cloud, environment).await? {
        None => vec![format!("alias {} has no URL", environment.alias)],
        Some(found) => address_differences(&found, &auth_type(environment), &cors(cloud, environment)?),
    };
    let changes = permission_changes(&permissions(cloud, environment).await?, environment.public);
    differences.extend(changes.iter().map(PermissionChange::text));
    Ok(differences)
}

async fn address(cloud: &Cloud, environment: &Environment) -> Result<Option<GetFunctionUrlConfigOutput>> {
    let request = cloud.lambda.get_function_url_config().function_name(&environment.function);
    match request.qualifier(&environment.alias).send().await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => Ok(None),
        Err(error) => Err(service_error(error)).context("ask for the function's URL"),
    }
}

fn auth_type(environment: &Environment) -> FunctionUrlAuthType {
    if environment.public { FunctionUrlAuthType::None } else { FunctionUrlAuthType::AwsIam }
}

/// Pages that a browser lets ask the function: the environment's own and no other.
fn cors(cloud: &Cloud, environment: &Environment) -> Result<Cors> {
    let origin = match environment.cloud {
        // Its port changes from start to start, and page and function share it: there is no other origin to keep out.
        CloudKind::Embedded => "*".to_string(),
        CloudKind::Aws => {
            let page = cloud.object_url(&environment.bucket, &environment.web_prefix);
            let page = reqwest::Url::parse(&page).with_context(|| format!("understand the page's address {page}"))?;
            page.origin().ascii_serialization()
        }
    };
    Ok(Cors::builder().allow_origins(origin).allow_methods("POST").allow_headers("content-type").build())
}

fn address_differences(found: &GetFunctionUrlConfigOutput, auth: &FunctionUrlAuthType, cors: &Cors) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, found: String, wanted: String| {
        if found != wanted {
            differences.push(format!("URL: {what} is {found}, should be {wanted}"));
        }
    };
    let list = |values: &[String]| if values.is_empty() { "none".to_string() } else { values.join(", ") };
    let nothing = Cors::builder().build();
    let now = found.cors().unwrap_or(&nothing);
    compare("authorization", found.auth_type().to_string(), auth.to_string());
    compare("pages that may ask", list(now.allow_origins()), list(cors.allow_origins()));
    compare("methods", list(now.allow_methods()), list(cors.allow_methods()));
    compare("headers", list(now.allow_headers()), list(cors.allow_headers()));
    compare("allow credentials", now.allow_credentials().unwrap_or(false).to_string(), false.to_string());
    differences
}

/// A statement of the alias's policy that a public URL needs.
#[derive(Debug, PartialEq)]
struct Permission {
    id: &'static str,
    action: &'static str,
    /// Operator, key and value.
    condition: (&'static str, &'static str, &'static str),
}

/// Since November 2026 a URL answers 403 with the first alone; the second lets nobody in by another way.
const PUBLIC: [Permission; 2] = [
    Permission {
        id: "public-url",
        action: "lambda:InvokeFunctionUrl",
        condition: ("StringEquals", "lambda:FunctionUrlAuthType", "NONE"),
    },
    Permission {
        id: "public-invoke",
        action: "lambda:InvokeFunction",
        condition: ("Bool", "lambda:InvokedViaFunctionUrl", "true"),
    },
];

impl Permission {
    fn is(&self, statement: &Value) -> bool {
        let (operator, key, value) = self.condition;
        statement["Effect"] == "Allow"
            && is_everyone(&statement["Principal"])
            && statement["Action"] == self.action
            && statement["Condition"] == json!({operator: {key: value}})
    }
}

fn is_everyone(principal: &Value) -> bool {
    principal == "*" || principal["AWS"] == "*"
}

#[derive(Debug, PartialEq)]
enum PermissionChange {
    Add(&'static Permission),
    Remove(String),
}

impl PermissionChange {
    fn text(&self) -> String {
        match self {
            PermissionChange::Add(permission) => format!("the public lacks {}", permission.action),
            PermissionChange::Remove(id) => format!("statement {id} lets the public in"),
        }
    }

    /// Makes the change; gives whether it was made, or refused for now.
    async fn make(&self, cloud: &Cloud, environment: &Environment) -> Result<bool> {
        let (function, alias) = (&environment.function, &environment.alias);
        match self {
            PermissionChange::Add(permission) => {
                let request = cloud.lambda.add_permission().function_name(function).qualifier(alias);
                let request = request.statement_id(permission.id).action(permission.action).principal("*");
                let request = match permission.condition.1 {
                    "lambda:FunctionUrlAuthType" => request.function_url_auth_type(FunctionUrlAuthType::None),
                    _ => request.invoked_via_function_url(true),
                };
                let added = unless(request.send().await, CONFLICT);
                Ok(added.with_context(|| format!("allow {} to the public", permission.action))?.is_some())
            }
            PermissionChange::Remove(id) => {
                let request = cloud.lambda.remove_permission().function_name(function).qualifier(alias);
                match request.statement_id(id).send().await {
                    Ok(_) => Ok(true),
                    Err(error) if [Some(CONFLICT), Some("ResourceNotFoundException")].contains(&error.code()) => {
                        Ok(false)
                    }
                    Err(error) => Err(service_error(error)).with_context(|| format!("remove the permission {id}")),
                }
            }
        }
    }
}

/// How to get from the alias's policy to one that lets in the public, or nobody without a signature.
fn permission_changes(policy: &Value, public: bool) -> Vec<PermissionChange> {
    let none = Vec::new();
    let statements = policy["Statement"].as_array().unwrap_or(&none);
    let id = |statement: &Value| statement["Sid"].as_str().unwrap_or_default().to_string();
    if !public {
        let open = statements.iter().filter(|statement| is_everyone(&statement["Principal"]));
        return open.map(|statement| PermissionChange::Remove(id(statement))).collect();
    }
    let mut changes = Vec::new();
    for permission in &PUBLIC {
        match statements.iter().find(|statement| statement["Sid"] == permission.id) {
            Some(statement) if permission.is(statement) => {}
            Some(statement) => {
                changes.extend([PermissionChange::Remove(id(statement)), PermissionChange::Add(permission)]);
            }
            None => changes.push(PermissionChange::Add(permission)),
        }
    }
    changes
}

/// The alias's policy; null if it has none.
async fn permissions(cloud: &Cloud, environment: &Environment) -> Result<Value> {
    let request = cloud.lambda.get_policy().function_name(&environment.function);
    match request.qualifier(&environment.alias).send().await {
        Ok(answer) => serde_json::from_str(answer.policy().unwrap_or("null")).context("understand the alias's policy"),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
            Ok(Value::Null)
        }
        Err(error) => Err(service_error(error)).context("ask who may call the function"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(permission: &Permission) -> Value {
        let (operator, key, value) = permission.condition;
        json!({"Sid": permission.id, "Effect": "Allow", "Principal": "*", "Action": permission.action,
               "Resource": "arn:aws:lambda:us-east-1:1:function:f:live", "Condition": {operator: {key: value}}})
    }

    #[test]
    fn a_public_function_gets_both_permissions_and_a_private_one_loses_them() {
        let both = json!({"Statement": PUBLIC.iter().map(statement).collect::<Vec<_>>()});
        assert_eq!(permission_changes(&both, true), []);
        assert_eq!(permission_changes(&Value::Null, true).len(), 2);
        let one = json!({"Statement": [statement(&PUBLIC[0])]});
        assert_eq!(permission_changes(&one, true), [PermissionChange::Add(&PUBLIC[1])]);
        assert_eq!(permission_changes(&Value::Null, false), []);
        let closed: Vec<_> = PUBLIC.iter().map(|permission| PermissionChange::Remove(permission.id.into())).collect();
        assert_eq!(permission_changes(&both, false), closed);
    }

    #[test]
    fn a_permission_that_says_more_than_it_should_is_replaced() {
        let mut wide = statement(&PUBLIC[1]);
        wide["Condition"] = Value::Null;
        let policy = json!({"Statement": [statement(&PUBLIC[0]), wide]});
        let replaced = [PermissionChange::Remove("public-invoke".into()), PermissionChange::Add(&PUBLIC[1])];
        assert_eq!(permission_changes(&policy, true), replaced);
        let service = json!({"Sid": "events", "Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}});
        assert_eq!(permission_changes(&json!({"Statement": [service]}), false), [], "not the public");
    }

    #[test]
    fn an_open_address_is_seen() {
        let narrow = Cors::builder().allow_origins("https://a").allow_methods("POST").build();
        let found = |auth, cors| {
            let built = GetFunctionUrlConfigOutput::builder().function_url("u").function_arn("a").creation_time("t");
            built.last_modified_time("t").auth_type(auth).cors(cors).build().unwrap()
        };
        let same = found(FunctionUrlAuthType::AwsIam, narrow.clone());
        assert!(address_differences(&same, &FunctionUrlAuthType::AwsIam, &narrow).is_empty());
        let open = found(FunctionUrlAuthType::None, Cors::builder().allow_origins("*").allow_methods("POST").build());
        let differences = address_differences(&open, &FunctionUrlAuthType::AwsIam, &narrow);
        assert_eq!(differences[0], "URL: authorization is NONE, should be AWS_IAM");
        assert_eq!(differences[1], "URL: pages that may ask is *, should be https://a");
    }
}
