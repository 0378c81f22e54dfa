//! CloudWatch Logs: log groups and how long they keep what they get. What a function's program prints goes to the state
//! directory's `logs`, so a group here has no streams.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Mutex,
};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    ACCOUNT_ID,
    disk::{self, lock},
    wire::{ApiError, Response, empty_reply, json_reply},
};

/// What `X-Amz-Target` begins with.
pub const TARGET_PREFIX: &str = "Logs_20140328.";
/// The protocol's content type.
pub const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
/// The numbers of days that a group can keep its events.
const RETENTIONS: [u64; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Group {
    /// Milliseconds since 1970.
    created: i64,
    /// Days; for ever when none.
    retention: Option<u64>,
}

/// All log groups, in memory and in `log-groups.json`.
pub struct Logs {
    path: PathBuf,
    region: String,
    groups: Mutex<BTreeMap<String, Group>>,
}

impl Logs {
    /// Reads the state.
    ///
    /// # Errors
    /// When the state file is damaged.
    pub fn load(root: &Path, region: &str) -> anyhow::Result<Self> {
        let path = root.join("log-groups.json");
        let groups = disk::read_json(&path)?.unwrap_or_default();
        Ok(Self { path, region: region.to_owned(), groups: Mutex::new(groups) })
    }

    fn change(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, Group>) -> Result<(), ApiError>,
    ) -> Result<Response, ApiError> {
        let mut groups = lock(&self.groups);
        let mut changed = groups.clone();
        change(&mut changed)?;
        disk::write_json(&self.path, &changed)?;
        *groups = changed;
        Ok(empty_reply(StatusCode::OK))
    }

    /// Answers one operation.
    ///
    /// # Errors
    /// The exception that AWS answers.
    pub fn call(&self, target: &str, body: &[u8]) -> Result<Response, ApiError> {
        let operation = target.strip_prefix(TARGET_PREFIX).unwrap_or(target);
        let input: Value = serde_json::from_slice(body)
            .ok()
            .filter(Value::is_object)
            .ok_or_else(|| error("SerializationException", "the body is not a JSON object"))?;
        match operation {
            "CreateLogGroup" => {
                refuse_unknown(&input, operation, &["logGroupName"])?;
                let name = name(&input)?;
                self.change(|groups| {
                    if groups.contains_key(name) {
                        return Err(error("ResourceAlreadyExistsException", "The specified log group already exists"));
                    }
                    let created = chrono::Utc::now().timestamp_millis();
                    groups.insert(name.to_owned(), Group { created, retention: None });
                    Ok(())
                })
            }
            "DescribeLogGroups" => self.describe(&input),
            "PutRetentionPolicy" => {
                let name = name(&input)?;
                let days = input["retentionInDays"].as_u64().filter(|days| RETENTIONS.contains(days));
                let days = days.ok_or_else(|| invalid("retentionInDays is not one of the numbers that can be set"))?;
                self.change(|groups| {
                    groups.get_mut(name).ok_or_else(no_group)?.retention = Some(days);
                    Ok(())
                })
            }
            "DeleteLogGroup" => {
                let name = name(&input)?;
                self.change(|groups| groups.remove(name).map(|_| ()).ok_or_else(no_group))
            }
            other => Err(ApiError::not_implemented(format!("logs: {other}"))),
        }
    }

    fn describe(&self, input: &Value) -> Result<Response, ApiError> {
        refuse_unknown(input, "DescribeLogGroups", &["logGroupNamePrefix", "limit", "nextToken"])?;
        let prefix = input["logGroupNamePrefix"].as_str().unwrap_or_default();
        let limit = match &input["limit"] {
            Value::Null => 50,
            value => value
                .as_u64()
                .filter(|limit| (1..=50).contains(limit))
                .and_then(|limit| usize::try_from(limit).ok())
                .ok_or_else(|| invalid("limit is between 1 and 50"))?,
        };
        // The token is the last name of the page before.
        let after = input["nextToken"].as_str().unwrap_or_default();
        let groups = lock(&self.groups);
        let mut found = groups.iter().filter(|(name, _)| name.starts_with(prefix) && name.as_str() > after);
        let page: Vec<(&String, &Group)> = found.by_ref().take(limit).collect();
        let list: Vec<Value> = page.iter().map(|(name, group)| self.json(name, group)).collect();
        let mut output = json!({ "logGroups": list });
        if let (Some(_), Some((last, _))) = (found.next(), page.last()) {
            output["nextToken"] = json!(last);
        }
        Ok(json_reply(StatusCode::OK, CONTENT_TYPE, &output))
    }

    fn json(&self, name: &str, group: &Group) -> Value {
        let arn = format!("arn:aws:logs:{}:{ACCOUNT_ID}:log-group:{name}", self.region);
        let mut json = json!({
            "logGroupName": name,
            "creationTime": group.created,
            "metricFilterCount": 0,
            "arn": format!("{arn}:*"),
            "logGroupArn": arn,
            "logGroupClass": "STANDARD",
            "storedBytes": 0,
        });
        if let Some(days) = group.retention {
            json["retentionInDays"] = json!(days);
        }
        json
    }
}

/// An exception of Logs; they all have status 400.
fn error(code: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, code, message)
}

fn invalid(message: impl Into<String>) -> ApiError {
    error("InvalidParameterException", message)
}

fn no_group() -> ApiError {
    error("ResourceNotFoundException", "The specified log group does not exist.")
}

fn name(input: &Value) -> Result<&str, ApiError> {
    let name = input["logGroupName"].as_str().unwrap_or_default();
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/#".contains(&byte);
    if name.is_empty() || name.len() > 512 || !name.bytes().all(fits) {
        return Err(invalid(format!(
            "1 validation error detected: Value '{name}' at 'logGroupName' failed to satisfy constraint: Member must satisfy \
             regular expression pattern: [\\.\\-_/#A-Za-z0-9]+"
        )));
    }
    Ok(name)
}

fn refuse_unknown(input: &Value, operation: &str, known: &[&str]) -> Result<(), ApiError> {
    let unknown = input
        .as_object()
        .into_iter()
        .flatten()
        .find(|(name, value)| !value.is_null() && !known.contains(&name.as_str()));
    match unknown {
        Some((name, _)) => Err(ApiError::not_implemented(format!("logs: {operation} with {name}"))),
        None => Ok(()),
    }
}
