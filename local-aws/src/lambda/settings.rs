//! What a function is configured with, read from requests and checked.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    Call, invalid,
    model::{Code, Config, ImageConfig},
    validation,
};
use crate::wire::ApiError;

/// Variables that only the service may set.
const RESERVED: &[&str] = &[
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_LAMBDA_RUNTIME_API",
    "LAMBDA_TASK_ROOT",
    "LAMBDA_RUNTIME_DIR",
];

/// Reads `Architectures`.
///
/// # Errors
/// When it is not one that is known.
pub fn architecture(input: &Value) -> Result<Option<String>, ApiError> {
    match input["Architectures"].as_array().map(Vec::as_slice) {
        None if input["Architectures"].is_null() => Ok(None),
        Some([one]) if one == "x86_64" || one == "arm64" => Ok(one.as_str().map(str::to_owned)),
        _ => Err(validation(
            "1 validation error detected: Value at 'architectures' failed to satisfy constraint: [x86_64, arm64]",
        )),
    }
}

fn environment(input: &Value) -> Result<Option<BTreeMap<String, String>>, ApiError> {
    if input["Environment"].is_null() {
        return Ok(None);
    }
    let mut variables = BTreeMap::new();
    for (name, value) in input["Environment"]["Variables"].as_object().into_iter().flatten() {
        let Some(value) = value.as_str() else {
            return Err(validation(format!("the variable {name} is not a string")));
        };
        let named = name.len() >= 2
            && name.as_bytes()[0].is_ascii_alphabetic()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if RESERVED.contains(&name.as_str()) {
            return Err(invalid(format!(
                "Lambda was unable to configure your environment variables because the environment variables you have provided \
                 contains reserved keys that are currently not supported for modification. Reserved keys used in this request: {name}"
            )));
        }
        if !named || value.contains('\0') {
            return Err(validation(format!(
                "1 validation error detected: Value at 'environment.variables' failed to satisfy constraint: Map keys must satisfy \
                 constraint: [a-zA-Z]([a-zA-Z0-9_])+, got '{name}'"
            )));
        }
        variables.insert(name.clone(), value.to_owned());
    }
    if serde_json::to_string(&variables).map_or(0, |text| text.len()) > 4096 {
        return Err(invalid(
            "Lambda was unable to configure your environment variables because the environment variables you have \
             provided exceeded the 4KB limit.",
        ));
    }
    Ok(Some(variables))
}

fn image_config(input: &Value) -> Result<Option<ImageConfig>, ApiError> {
    if input["ImageConfig"].is_null() {
        return Ok(None);
    }
    serde_json::from_value(input["ImageConfig"].clone())
        .map(Some)
        .map_err(|error| validation(format!("ImageConfig: {error}")))
}

fn role(call: &Call) -> Result<Option<String>, ApiError> {
    let role = call.text("Role")?;
    let valid = |role: &str| {
        let rest = role.strip_prefix("arn:").and_then(|rest| rest.split_once(":iam::")).map(|(_, rest)| rest);
        rest.and_then(|rest| rest.split_once(":role/"))
            .is_some_and(|(account, name)| account.len() == 12 && !name.is_empty())
    };
    match role {
        Some(role) if !valid(role) => Err(validation(format!(
            "1 validation error detected: Value '{role}' at 'role' failed to satisfy constraint: Member must satisfy regular \
             expression pattern: arn:(aws[a-zA-Z-]*)?:iam::\\d{{12}}:role/?[a-zA-Z_0-9+=,.@\\-_/]+"
        ))),
        role => Ok(role.map(str::to_owned)),
    }
}

/// The runtimes that run a program of the package's own.
const RUNTIMES: [&str; 2] = ["provided.al2023", "provided.al2"];
/// How the names of the others begin, which bring an interpreter that is not here.
const OTHER_RUNTIMES: [&str; 7] = ["provided", "nodejs", "python", "java", "dotnet", "ruby", "go1."];

fn configure_package(call: &Call, base: &mut Config) -> Result<(), ApiError> {
    if !call.input["ImageConfig"].is_null() && call.input["ImageConfig"] != json!({}) {
        return Err(invalid("Please don't provide ImageConfig when the intended function PackageType is Zip."));
    }
    if call.input["Layers"].as_array().is_some_and(|layers| !layers.is_empty()) {
        return Err(ApiError::not_implemented("a function with Layers"));
    }
    if let Some(runtime) = call.text("Runtime")? {
        if !RUNTIMES.contains(&runtime) {
            if OTHER_RUNTIMES.iter().any(|begin| runtime.starts_with(begin)) {
                return Err(ApiError::not_implemented(format!("a function with Runtime {runtime}")));
            }
            return Err(invalid(format!(
                "Value {runtime} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: [{}] or be a \
                 valid ARN",
                RUNTIMES.join(", ")
            )));
        }
        base.runtime = Some(runtime.to_owned());
    }
    if let Some(handler) = call.text("Handler")? {
        if handler.is_empty() || handler.len() > 128 || handler.contains(char::is_whitespace) {
            return Err(validation(format!(
                "1 validation error detected: Value '{handler}' at 'handler' failed to satisfy constraint: Member must satisfy \
                 regular expression pattern: [^\\s]+"
            )));
        }
        base.handler = Some(handler.to_owned());
    }
    Ok(())
}

/// The members of a configuration that creation and update share, put over `base`.
///
/// # Errors
/// When one is not valid, or not implemented.
pub fn configure(call: &Call, base: &mut Config) -> Result<(), ApiError> {
    match base.code {
        Code::Image(_) => {
            if ["Runtime", "Handler", "Layers"]
                .iter()
                .any(|name| !matches!(&call.input[name], Value::Null) && call.input[name] != json!([]))
            {
                return Err(invalid(
                    "Please don't provide Runtime, Handler or Layer when the intended function PackageType is Image.",
                ));
            }
        }
        Code::Zip(_) => configure_package(call, base)?,
    }
    if let Some(mode) = call.input["TracingConfig"]["Mode"].as_str().filter(|mode| *mode != "PassThrough") {
        return Err(ApiError::not_implemented(format!("TracingConfig {mode}")));
    }
    if let Some(role) = role(call)? {
        base.role = role;
    }
    if let Some(description) = call.text("Description")? {
        base.description = description.to_owned();
    }
    base.timeout = call.number("Timeout", 1, 900)?.unwrap_or(base.timeout);
    base.memory = call.number("MemorySize", 128, 10_240)?.unwrap_or(base.memory);
    if let Some(size) = call.input["EphemeralStorage"]["Size"].as_u64() {
        if !(512..=10_240).contains(&size) {
            return Err(validation(
                "1 validation error detected: Value at 'ephemeralStorage.size' is between 512 and 10240",
            ));
        }
        base.ephemeral_storage = size;
    }
    if let Some(environment) = environment(&call.input)? {
        base.environment = environment;
    }
    if let Some(image_config) = image_config(&call.input)? {
        base.image_config = (image_config != ImageConfig::default()).then_some(image_config);
    }
    Ok(())
}

/// The members that creation and update share.
pub const CONFIGURABLE: &[&str] = &[
    "Role",
    "Description",
    "Timeout",
    "MemorySize",
    "Environment",
    "ImageConfig",
    "EphemeralStorage",
    "TracingConfig",
    "Runtime",
    "Handler",
    "Layers",
    "RevisionId",
];
