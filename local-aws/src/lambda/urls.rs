//! Configurations of function URLs.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::{
    Call, METHODS, conflict, invalid,
    model::{Cors, Function, LATEST, Url},
    no_resource, page, validation,
};
use crate::{server::Cloud, wire::ApiError};

/// The URL of a function or one of its aliases, at the current port.
fn url(cloud: &Cloud, function: &Function, qualifier: &str) -> String {
    format!("http://{}/_url/{}/{qualifier}/", cloud.host, function.name)
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn url_json(cloud: &Cloud, function: &Function, qualifier: &str, config: &Url) -> Value {
    let mut json = json!({
        "FunctionUrl": url(cloud, function, qualifier),
        "FunctionArn": function.arn(cloud, (qualifier != LATEST).then_some(qualifier)),
        "AuthType": config.auth_type,
        "CreationTime": time(config.created),
        "LastModifiedTime": time(config.modified),
        "InvokeMode": "BUFFERED",
    });
    if let Some(cors) = &config.cors {
        json["Cors"] = json!(cors);
    }
    json
}

fn qualifier<'a>(call: &'a Call, function: &Function) -> Result<&'a str, ApiError> {
    let Some(qualifier) = call.qualifier.as_deref() else { return Ok(LATEST) };
    if qualifier == LATEST || qualifier.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(validation(format!(
            "1 validation error detected: Value '{qualifier}' at 'qualifier' failed to satisfy constraint: Member must satisfy regular \
             expression pattern: ((?!^\\d+$)^[0-9a-zA-Z-_]+$)"
        )));
    }
    function.version(call.cloud, Some(qualifier))?;
    Ok(qualifier)
}

fn auth_type<'a>(call: &'a Call) -> Result<Option<&'a str>, ApiError> {
    match call.text("AuthType")? {
        None => Ok(None),
        Some(kind @ ("NONE" | "AWS_IAM")) => Ok(Some(kind)),
        Some(other) => Err(validation(format!(
            "1 validation error detected: Value '{other}' at 'authType' failed to satisfy constraint: Member must satisfy enum value \
             set: [NONE, AWS_IAM]"
        ))),
    }
}

fn cors(call: &Call) -> Result<Option<Cors>, ApiError> {
    if call.input["Cors"].is_null() {
        return Ok(None);
    }
    let cors: Cors =
        serde_json::from_value(call.input["Cors"].clone()).map_err(|error| validation(format!("Cors: {error}")))?;
    for method in cors.allow_methods.iter().flatten() {
        if method != "*" && !METHODS.iter().any(|known| known.as_str() == method) {
            return Err(invalid(format!("Cors: {method} is not a method")));
        }
    }
    if cors.max_age.is_some_and(|age| age > 86_400) {
        return Err(validation("1 validation error detected: Value at 'cors.maxAge' is at most 86400"));
    }
    Ok(Some(cors))
}

fn check_mode(call: &Call) -> Result<(), ApiError> {
    call.refuse_unknown("function URL configuration", &["AuthType", "Cors", "InvokeMode"])?;
    match call.text("InvokeMode")? {
        None | Some("BUFFERED") => Ok(()),
        Some(mode) => Err(ApiError::not_implemented(format!("function URL with InvokeMode {mode}"))),
    }
}

/// `CreateFunctionUrlConfig`
pub fn create(call: &Call) -> Result<Value, ApiError> {
    check_mode(call)?;
    call.required("AuthType")?;
    let auth_type = auth_type(call)?.unwrap_or("AWS_IAM").to_owned();
    let cors = cors(call)?;
    call.cloud.lambda.change(call.cloud, &call.name, |function| {
        let qualifier = qualifier(call, function)?;
        if function.urls.contains_key(qualifier) {
            return Err(conflict(format!(
                "Failed to create function url config for [functionArn = {}]. Error message:  FunctionUrlConfig exists for this Lambda \
                 function",
                function.arn(call.cloud, (qualifier != LATEST).then_some(qualifier))
            )));
        }
        let now = Utc::now();
        let config = Url { auth_type, cors, created: now, modified: now };
        function.urls.insert(qualifier.to_owned(), config.clone());
        let mut made = url_json(call.cloud, function, qualifier, &config);
        // What is new has no time of its last change.
        if let Some(members) = made.as_object_mut() {
            members.remove("LastModifiedTime");
        }
        Ok(made)
    })
}

/// `GetFunctionUrlConfig`
pub fn get(call: &Call) -> Result<Value, ApiError> {
    call.cloud.lambda.read(call.cloud, &call.name, |function| {
        let qualifier = qualifier(call, function)?;
        let config = function.urls.get(qualifier).ok_or_else(no_resource)?;
        Ok(url_json(call.cloud, function, qualifier, config))
    })
}

/// `UpdateFunctionUrlConfig`
pub fn update(call: &Call) -> Result<Value, ApiError> {
    check_mode(call)?;
    let (auth_type, cors) = (auth_type(call)?, cors(call)?);
    call.cloud.lambda.change(call.cloud, &call.name, |function| {
        let qualifier = qualifier(call, function)?;
        let mut config = function.urls.get(qualifier).cloned().ok_or_else(no_resource)?;
        if let Some(auth_type) = auth_type {
            config.auth_type = auth_type.to_owned();
        }
        if let Some(cors) = cors {
            config.cors = (cors != Cors::default()).then_some(cors);
        }
        config.modified = Utc::now();
        function.urls.insert(qualifier.to_owned(), config.clone());
        Ok(url_json(call.cloud, function, qualifier, &config))
    })
}

/// `DeleteFunctionUrlConfig`
pub fn delete(call: &Call) -> Result<(), ApiError> {
    call.cloud.lambda.change(call.cloud, &call.name, |function| {
        let qualifier = qualifier(call, function)?;
        function.urls.remove(qualifier).map(|_| ()).ok_or_else(no_resource)
    })
}

/// `ListFunctionUrlConfigs`
pub fn list(call: &Call) -> Result<Value, ApiError> {
    let items = call.cloud.lambda.read(call.cloud, &call.name, |function| {
        Ok(function.urls.iter().map(|(qualifier, config)| url_json(call.cloud, function, qualifier, config)).collect())
    })?;
    page(call, "FunctionUrlConfigs", items)
}
