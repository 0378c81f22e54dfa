//! Lambda: the REST control plane, function URLs, and the functions themselves.

mod aliases;
mod functions;
mod image;
mod invoke;
mod model;
mod operations;
mod package;
mod permissions;
mod pool;
mod runtime_api;
mod settings;
mod url_http;
mod urls;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, request::Parts};
use serde_json::{Value, json};
use tokio::task::JoinSet;

pub use functions::resume;
use model::Function;
pub use package::download;
pub use url_http::url_request;

use crate::{
    ACCOUNT_ID,
    disk::{self, lock},
    server::Cloud,
    wire::{ApiError, Response, decode, digest_hex, empty_reply, json_reply, query},
};

/// The protocol's content type.
pub const CONTENT_TYPE: &str = "application/json";
/// Bodies above this are refused before they are read whole; an invocation's own limit is lower.
pub const MAX_BODY: usize = 8 << 20;
/// The same for requests that may carry a zip package.
const MAX_CODE_BODY: usize = 70_167_211;

/// How long a request's body may be, and what answers a longer one.
pub fn body_limit(parts: &Parts) -> (usize, ApiError) {
    let path = parts.uri.path().trim_end_matches('/');
    let operation = match parts.method {
        Method::POST if path.ends_with("/functions") => "CreateFunction",
        Method::PUT if path.ends_with("/code") => "UpdateFunctionCode",
        _ => return (MAX_BODY, too_large()),
    };
    let message = format!("Request must be smaller than {MAX_CODE_BODY} bytes for the {operation} operation");
    (MAX_CODE_BODY, ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLargeException", message))
}

/// All functions and their processes.
pub struct Lambda {
    root: PathBuf,
    functions: Mutex<BTreeMap<String, Function>>,
    pool: pool::Pool,
    // What goes on after its request was answered; ended before the state is released.
    tasks: Mutex<JoinSet<()>>,
}

impl Lambda {
    /// Reads the functions and removes packages, and unpacked images and packages, that none of them uses.
    ///
    /// # Errors
    /// When a state file is damaged or the directory cannot be written.
    pub fn load(root: &Path) -> anyhow::Result<Self> {
        let directory = root.join("lambda");
        std::fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
        let mut functions = BTreeMap::new();
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                // What a killed process left of a write.
                disk::remove_file(&path)?;
                continue;
            }
            if let Some(function) = disk::read_json::<Function>(&path)? {
                functions.insert(function.name.clone(), function);
            }
        }
        let used: BTreeSet<String> = functions
            .values()
            .flat_map(|function| {
                let versions = function.versions.values().chain([&function.latest]).map(|version| &version.config);
                versions
                    .chain(&function.serving)
                    .filter_map(|config| digest_hex(config.code.digest()))
                    .map(str::to_owned)
            })
            .collect();
        image::sweep(root, &used)?;
        package::sweep(root, &used)?;
        Ok(Self {
            root: root.to_owned(),
            functions: Mutex::new(functions),
            pool: pool::Pool::default(),
            tasks: Mutex::default(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join("lambda").join(format!("{name}.json"))
    }

    /// Reads from a function.
    fn read<T>(
        &self,
        cloud: &Cloud,
        name: &str,
        read: impl FnOnce(&Function) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        match lock(&self.functions).get(name) {
            Some(function) => read(function),
            None => Err(not_found(&model::arn(cloud, name, None))),
        }
    }

    /// Changes a function: on disk first, in memory only when that worked.
    fn change<T>(
        &self,
        cloud: &Cloud,
        name: &str,
        change: impl FnOnce(&mut Function) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let mut functions = lock(&self.functions);
        let Some(function) = functions.get_mut(name) else {
            return Err(not_found(&model::arn(cloud, name, None)));
        };
        let mut changed = function.clone();
        let value = change(&mut changed)?;
        disk::write_json(&self.path(name), &changed)?;
        *function = changed;
        Ok(value)
    }

    /// Runs something that does not end with the request it belongs to.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Ends all functions' processes, waits for them, and takes no more invocations.
    pub async fn stop(&self) {
        self.pool.stop().await;
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.shutdown().await;
    }

    /// Ends all functions' processes without waiting.
    pub fn kill(&self) {
        self.pool.kill();
        lock(&self.tasks).abort_all();
    }
}

/// Whether a path is of Lambda's API: they all begin with the date of their version.
pub fn is_api_path(path: &str) -> bool {
    let date = path.as_bytes();
    date.len() > 11
        && date[0] == b'/'
        && date[11] == b'/'
        && date[1..11]
            .iter()
            .enumerate()
            .all(|(at, byte)| if at == 4 || at == 7 { *byte == b'-' } else { byte.is_ascii_digit() })
}

/// The exception for a body that is too large.
pub fn too_large() -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "RequestTooLargeException",
        "Request must be smaller than 6291456 bytes",
    )
}

fn not_found(arn: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "ResourceNotFoundException", format!("Function not found: {arn}"))
}

fn no_resource() -> ApiError {
    let message = "The resource you requested does not exist.";
    ApiError::new(StatusCode::NOT_FOUND, "ResourceNotFoundException", message)
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "InvalidParameterValueException", message)
}

fn validation(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "ValidationException", message)
}

fn conflict(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "ResourceConflictException", message)
}

/// Checks an optional `RevisionId` against the current one.
fn check_revision(given: Option<&str>, current: &str) -> Result<(), ApiError> {
    match given {
        Some(given) if given != current => Err(ApiError::new(
            StatusCode::PRECONDITION_FAILED,
            "PreconditionFailedException",
            "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve the \
             latest Revision Id",
        )),
        _ => Ok(()),
    }
}

/// What an operation is called with.
struct Call<'a> {
    cloud: &'a Arc<Cloud>,
    /// The function's name, empty for operations without one.
    name: String,
    /// From the name's suffix or the query.
    qualifier: Option<String>,
    /// The path's last segment, an alias's name for example.
    item: String,
    query: BTreeMap<String, String>,
    headers: &'a HeaderMap,
    /// The JSON body, `{}` when there is none.
    input: Value,
    /// The body as sent.
    body: Bytes,
}

impl Call<'_> {
    /// An optional string member; of another type it is an error.
    fn text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        match &self.input[name] {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            _ => Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                "InvalidRequestContentException",
                format!("Could not parse request body into json: {name} is not a string"),
            )),
        }
    }

    /// A required string member.
    fn required(&self, name: &str) -> Result<&str, ApiError> {
        self.text(name)?.ok_or_else(|| {
            validation(format!(
                "1 validation error detected: Value null at '{name}' failed to satisfy constraint: Member must not be null"
            ))
        })
    }

    /// An optional number between bounds.
    fn number(&self, name: &str, low: u64, high: u64) -> Result<Option<u64>, ApiError> {
        match &self.input[name] {
            Value::Null => Ok(None),
            value => value.as_u64().filter(|number| (low..=high).contains(number)).map(Some).ok_or_else(|| {
                validation(format!(
                    "1 validation error detected: Value '{value}' at '{name}' failed to satisfy constraint: Member must be between \
                     {low} and {high}"
                ))
            }),
        }
    }

    /// Refuses members that are set and that nothing here would act on.
    fn refuse_unknown(&self, operation: &str, known: &[&str]) -> Result<(), ApiError> {
        let members = self.input.as_object().into_iter().flatten();
        for (name, value) in members {
            let empty = value.is_null() || value == &json!({}) || value == &json!([]) || value == "";
            if !known.contains(&name.as_str()) && !empty {
                return Err(ApiError::not_implemented(format!("{operation} with {name}")));
            }
        }
        Ok(())
    }
}

/// Answers one operation of the REST API.
///
/// # Errors
/// The exception that AWS answers.
pub async fn call(cloud: &Arc<Cloud>, parts: &Parts, body: Bytes) -> Result<Response, ApiError> {
    let segments: Vec<String> = parts.uri.path().trim_matches('/').split('/').map(decode).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let unknown = || ApiError::not_implemented(operations::name(&parts.method, &segments));
    let [date, "functions", path @ ..] = &segments[..] else { return Err(unknown()) };
    let (name, sub, item) = match path {
        [] => ("", "", ""),
        [name] => (*name, "", ""),
        [name, sub] => (*name, *sub, ""),
        [name, sub, item] => (*name, *sub, *item),
        _ => return Err(unknown()),
    };
    let operation =
        operations::find(&parts.method, date, !name.is_empty(), sub, !item.is_empty()).ok_or_else(unknown)?;
    let query = query(&parts.uri);
    let (name, derived) = if name.is_empty() { (String::new(), None) } else { parse_name(cloud, name)? };
    let stated = query.get("Qualifier").filter(|qualifier| !qualifier.is_empty()).cloned();
    if let (Some(derived), Some(stated)) = (&derived, &stated)
        && derived != stated
    {
        return Err(invalid("The derived qualifier from the function name does not match the specified qualifier."));
    }
    let input = if operation == "Invoke" || body.is_empty() {
        json!({})
    } else {
        serde_json::from_slice(&body).ok().filter(Value::is_object).ok_or_else(|| {
            ApiError::new(
                StatusCode::BAD_REQUEST,
                "InvalidRequestContentException",
                "Could not parse request body into json: the body is not a JSON object",
            )
        })?
    };
    let headers = &parts.headers;
    let call = Call { cloud, name, qualifier: derived.or(stated), item: item.to_owned(), query, headers, input, body };
    let ok = |value: Value| Ok(json_reply(StatusCode::OK, CONTENT_TYPE, &value));
    let created = |value: Value| Ok(json_reply(StatusCode::CREATED, CONTENT_TYPE, &value));
    let gone = |()| Ok(empty_reply(StatusCode::NO_CONTENT));
    match operation {
        "CreateFunction" => functions::create(&call).await.and_then(created),
        "ListFunctions" => functions::list(&call).and_then(ok),
        "GetFunction" => functions::get(&call).and_then(ok),
        "GetFunctionConfiguration" => functions::get_configuration(&call).and_then(ok),
        "DeleteFunction" => functions::delete(&call).and_then(gone),
        "UpdateFunctionCode" => functions::update_code(&call).await.and_then(ok),
        "UpdateFunctionConfiguration" => functions::update_configuration(&call).and_then(ok),
        "PublishVersion" => functions::publish(&call).and_then(created),
        "ListVersionsByFunction" => functions::list_versions(&call).and_then(ok),
        "CreateAlias" => aliases::create(&call).and_then(created),
        "GetAlias" => aliases::get(&call).and_then(ok),
        "UpdateAlias" => aliases::update(&call).and_then(ok),
        "DeleteAlias" => aliases::delete(&call).and_then(gone),
        "ListAliases" => aliases::list(&call).and_then(ok),
        "CreateFunctionUrlConfig" => urls::create(&call).and_then(created),
        "GetFunctionUrlConfig" => urls::get(&call).and_then(ok),
        "UpdateFunctionUrlConfig" => urls::update(&call).and_then(ok),
        "DeleteFunctionUrlConfig" => urls::delete(&call).and_then(gone),
        "ListFunctionUrlConfigs" => urls::list(&call).and_then(ok),
        "AddPermission" => permissions::add(&call).and_then(created),
        "GetPolicy" => permissions::get(&call).and_then(ok),
        "RemovePermission" => permissions::remove(&call).and_then(gone),
        "Invoke" => invoke::invoke(&call).await,
        _ => Err(unknown()),
    }
}

/// Reads a function's name or ARN, with or without a qualifier.
fn parse_name(cloud: &Cloud, text: &str) -> Result<(String, Option<String>), ApiError> {
    let parts: Vec<&str> = text.split(':').collect();
    let (account, rest) = match &parts[..] {
        ["arn", _, "lambda", _, account, "function", rest @ ..] | [account, "function", rest @ ..] => (*account, rest),
        ["function", rest @ ..] => (ACCOUNT_ID, rest),
        rest => (ACCOUNT_ID, rest),
    };
    let (name, qualifier) = match rest {
        [name] => (*name, None),
        [name, qualifier] => (*name, Some((*qualifier).to_owned())),
        _ => ("", None),
    };
    if !valid_word(name, 64) {
        return Err(validation(format!(
            "1 validation error detected: Value '{text}' at 'functionName' failed to satisfy constraint: Member must satisfy regular \
             expression pattern: [a-zA-Z0-9-_]+"
        )));
    }
    if account != ACCOUNT_ID {
        return Err(not_found(&model::arn(cloud, name, None)));
    }
    Ok((name.to_owned(), qualifier))
}

/// Letters, digits, hyphens and underscores.
fn valid_word(word: &str, longest: usize) -> bool {
    (1..=longest).contains(&word.len())
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// One page of `items` by the query's `MaxItems` and `Marker`, under `key`.
fn page(call: &Call, key: &str, items: Vec<Value>) -> Result<Value, ApiError> {
    let limit = match call.query.get("MaxItems") {
        None => 50,
        Some(text) => text
            .parse::<usize>()
            .ok()
            .filter(|limit| (1..=10_000).contains(limit))
            .map(|limit| limit.min(50))
            .ok_or_else(|| {
                validation("1 validation error detected: Value at 'maxItems' failed to satisfy constraint")
            })?,
    };
    let start = match call.query.get("Marker") {
        None => 0,
        Some(marker) => marker.parse::<usize>().map_err(|_| invalid("Marker is not one that was given out"))?,
    };
    let total = items.len();
    let items: Vec<Value> = items.into_iter().skip(start).take(limit).collect();
    let end = start.saturating_add(items.len());
    let mut output = json!({ key: items });
    if end < total {
        output["NextMarker"] = json!(end.to_string());
    }
    Ok(output)
}

/// The HTTP methods that function URLs know.
const METHODS: &[Method] =
    &[Method::GET, Method::PUT, Method::HEAD, Method::POST, Method::PATCH, Method::DELETE, Method::OPTIONS];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_paths_begin_with_a_date() {
        assert!(is_api_path("/2015-03-31/functions"));
        for other in ["/", "/bucket/key", "/2015-03-3/functions", "/2015_03_31/functions", "/é015-03-31/x"] {
            assert!(!is_api_path(other), "{other}");
        }
    }

    #[test]
    fn every_operation_is_named_once() {
        assert_eq!(operations::find(&Method::POST, "2015-03-31", false, "", false), Some("CreateFunction"));
        assert_eq!(operations::find(&Method::POST, "2021-10-31", true, "url", false), Some("CreateFunctionUrlConfig"));
        assert_eq!(operations::find(&Method::PATCH, "2015-03-31", true, "", false), None);
        assert_eq!(operations::name(&Method::GET, &["2018-10-31", "layers"]), "ListLayers");
        assert_eq!(operations::name(&Method::PATCH, &["x"]), "PATCH /x");
    }
}
