//! IAM: roles with inline policies, and OpenID Connect providers. They are stored and checked, not enforced: whoever has the
//! credentials is the account's owner.

mod providers;
mod roles;
mod statements;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Mutex,
};

use chrono::{DateTime, SecondsFormat, Utc};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{
    disk::{self, lock},
    query_api::{Call, xml_reply},
    wire::{ApiError, Response, uuid},
};

const NAMESPACE: &str = "https://iam.amazonaws.com/doc/2010-05-08/";

/// Everything that IAM knows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    /// By name.
    roles: BTreeMap<String, roles::Role>,
    /// By address, without its scheme.
    providers: BTreeMap<String, providers::Provider>,
}

/// IAM's state, in memory and in `iam.json`.
pub struct Iam {
    path: PathBuf,
    state: Mutex<State>,
}

/// What an operation answers: the inside of its result, or an exception.
type Answer = Result<String, ApiError>;

impl Iam {
    /// Reads the state.
    ///
    /// # Errors
    /// When the state file is damaged.
    pub fn load(root: &Path) -> anyhow::Result<Self> {
        let path = root.join("iam.json");
        let state = disk::read_json(&path)?.unwrap_or_default();
        Ok(Self { path, state: Mutex::new(state) })
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> Result<T, ApiError>) -> Result<T, ApiError> {
        read(&lock(&self.state))
    }

    /// Changes the state: on disk first, in memory only when that worked.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T, ApiError>) -> Result<T, ApiError> {
        let mut state = lock(&self.state);
        let mut changed = state.clone();
        let value = change(&mut changed)?;
        disk::write_json(&self.path, &changed)?;
        *state = changed;
        Ok(value)
    }

    /// Answers one operation.
    ///
    /// # Errors
    /// The exception that AWS answers.
    pub fn call(&self, call: &Call) -> Result<Response, ApiError> {
        let inner = match call.action() {
            "CreateRole" => roles::create(self, call),
            "GetRole" => roles::get(self, call),
            "ListRoles" => roles::list(self, call),
            "UpdateAssumeRolePolicy" => roles::update_trust(self, call),
            "DeleteRole" => roles::delete(self, call),
            "PutRolePolicy" => roles::put_policy(self, call),
            "GetRolePolicy" => roles::get_policy(self, call),
            "ListRolePolicies" => roles::list_policies(self, call),
            "DeleteRolePolicy" => roles::delete_policy(self, call),
            "ListAttachedRolePolicies" => roles::list_attached(self, call),
            "CreateOpenIDConnectProvider" => providers::create(self, call),
            "GetOpenIDConnectProvider" => providers::get(self, call),
            "ListOpenIDConnectProviders" => providers::list(self, call),
            "AddClientIDToOpenIDConnectProvider" => providers::add_client(self, call),
            "DeleteOpenIDConnectProvider" => providers::delete(self, call),
            other => return Err(ApiError::not_implemented(format!("iam: {other}"))),
        }?;
        Ok(xml_reply(StatusCode::OK, NAMESPACE, call.action(), &inner))
    }
}

fn no_entity(message: String) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "NoSuchEntity", message)
}

fn already_exists(message: String) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "EntityAlreadyExists", message)
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "ValidationError", message)
}

/// A required parameter.
fn required<'a>(call: &'a Call, name: &str) -> Result<&'a str, ApiError> {
    call.get(name).filter(|value| !value.is_empty()).ok_or_else(|| {
        invalid(format!(
            "1 validation error detected: Value at '{name}' failed to satisfy constraint: Member must not be null"
        ))
    })
}

/// A required name of a role or a policy.
fn name<'a>(call: &'a Call, parameter: &str, longest: usize) -> Result<&'a str, ApiError> {
    let name = required(call, parameter)?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
    if name.len() > longest || !name.bytes().all(fits) {
        return Err(invalid(format!(
            "The specified value for {parameter} is invalid. It must contain only alphanumeric characters and/or the following: \
             +=,.@_- and be at most {longest} long"
        )));
    }
    Ok(name)
}

/// One page of `items` by `Marker` and `MaxItems`, as the members of `list`.
fn page(call: &Call, list: &str, items: &[String]) -> Answer {
    let limit = match call.get("MaxItems") {
        None => 100,
        Some(text) => text
            .parse::<usize>()
            .ok()
            .filter(|limit| (1..=1000).contains(limit))
            .ok_or_else(|| invalid("MaxItems is between 1 and 1000"))?,
    };
    let start = match call.get("Marker") {
        None => 0,
        Some(marker) => marker.parse::<usize>().map_err(|_| invalid("Invalid Marker."))?,
    };
    let members: String = items.iter().skip(start).take(limit).map(|item| format!("<member>{item}</member>")).collect();
    let end = start.saturating_add(limit);
    let rest = if end < items.len() {
        format!("<IsTruncated>true</IsTruncated><Marker>{end}</Marker>")
    } else {
        "<IsTruncated>false</IsTruncated>".to_owned()
    };
    Ok(format!("<{list}>{members}</{list}>{rest}"))
}

/// An id of IAM's form, which begins with what kind of thing it is of.
fn unique_id(kind: &str) -> String {
    let random = uuid().replace('-', "").to_uppercase();
    format!("{kind}{}", &random[..17])
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
