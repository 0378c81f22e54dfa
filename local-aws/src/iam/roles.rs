//! Roles: who may take them, and the policies inside them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    Answer, Iam, State, already_exists, invalid, name, no_entity, page, required, statements, time, unique_id,
};
use crate::{
    ACCOUNT_ID,
    query_api::Call,
    wire::{ApiError, encode, escape_xml},
};

/// Characters of all inline policies of a role together, spaces not counted.
const LONGEST_POLICIES: usize = 10_240;

/// A role.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Role {
    id: String,
    created: DateTime<Utc>,
    description: String,
    /// Who may take it, as put.
    trust: String,
    /// Inline policies by name, as put.
    policies: BTreeMap<String, String>,
}

fn role_xml(name: &str, role: &Role) -> String {
    let description = match role.description.as_str() {
        "" => String::new(),
        text => format!("<Description>{}</Description>", escape_xml(text)),
    };
    format!(
        "<Path>/</Path><RoleName>{name}</RoleName><RoleId>{}</RoleId><Arn>arn:aws:iam::{ACCOUNT_ID}:role/{name}</Arn>\
         <CreateDate>{}</CreateDate><AssumeRolePolicyDocument>{}</AssumeRolePolicyDocument>{description}\
         <MaxSessionDuration>3600</MaxSessionDuration>",
        role.id,
        time(role.created),
        encode(&role.trust),
    )
}

fn role_name(call: &Call) -> Result<&str, ApiError> {
    name(call, "RoleName", 64)
}

fn policy_name(call: &Call) -> Result<&str, ApiError> {
    name(call, "PolicyName", 128)
}

fn no_role(name: &str) -> ApiError {
    no_entity(format!("The role with name {name} cannot be found."))
}

fn no_policy(name: &str) -> ApiError {
    no_entity(format!("The role policy with name {name} cannot be found."))
}

fn role<'a>(state: &'a State, name: &str) -> Result<&'a Role, ApiError> {
    state.roles.get(name).ok_or_else(|| no_role(name))
}

fn role_mut<'a>(state: &'a mut State, name: &str) -> Result<&'a mut Role, ApiError> {
    state.roles.get_mut(name).ok_or_else(|| no_role(name))
}

/// `CreateRole`
pub fn create(iam: &Iam, call: &Call) -> Answer {
    call.refuse_unknown(&["RoleName", "AssumeRolePolicyDocument", "Description"])?;
    let (name, trust) = (role_name(call)?, required(call, "AssumeRolePolicyDocument")?);
    statements::check_trust(trust)?;
    let role = Role {
        id: unique_id("AROA"),
        created: Utc::now(),
        description: call.get("Description").unwrap_or_default().to_owned(),
        trust: trust.to_owned(),
        policies: BTreeMap::new(),
    };
    iam.change(|state| {
        // Names that differ by case alone are the same name.
        if state.roles.keys().any(|known| known.eq_ignore_ascii_case(name)) {
            return Err(already_exists(format!("Role with name {name} already exists.")));
        }
        state.roles.insert(name.to_owned(), role.clone());
        Ok(format!("<Role>{}</Role>", role_xml(name, &role)))
    })
}

/// `GetRole`
pub fn get(iam: &Iam, call: &Call) -> Answer {
    let name = role_name(call)?;
    iam.read(|state| Ok(format!("<Role>{}</Role>", role_xml(name, role(state, name)?))))
}

/// `ListRoles`
pub fn list(iam: &Iam, call: &Call) -> Answer {
    call.refuse_unknown(&["Marker", "MaxItems"])?;
    let roles =
        iam.read(|state| Ok(state.roles.iter().map(|(name, role)| role_xml(name, role)).collect::<Vec<_>>()))?;
    page(call, "Roles", &roles)
}

/// `UpdateAssumeRolePolicy`
pub fn update_trust(iam: &Iam, call: &Call) -> Answer {
    let (name, trust) = (role_name(call)?, required(call, "PolicyDocument")?);
    statements::check_trust(trust)?;
    iam.change(|state| {
        trust.clone_into(&mut role_mut(state, name)?.trust);
        Ok(String::new())
    })
}

/// `DeleteRole`
pub fn delete(iam: &Iam, call: &Call) -> Answer {
    let name = role_name(call)?;
    iam.change(|state| {
        if !role(state, name)?.policies.is_empty() {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                "DeleteConflict",
                "Cannot delete entity, must delete policies first.",
            ));
        }
        state.roles.remove(name);
        Ok(String::new())
    })
}

/// `PutRolePolicy`
pub fn put_policy(iam: &Iam, call: &Call) -> Answer {
    let (name, policy, document) = (role_name(call)?, policy_name(call)?, required(call, "PolicyDocument")?);
    statements::check_identity(document)?;
    iam.change(|state| {
        let role = role_mut(state, name)?;
        role.policies.insert(policy.to_owned(), document.to_owned());
        let length = |text: &String| text.chars().filter(|letter| !letter.is_whitespace()).count();
        if role.policies.values().map(length).sum::<usize>() > LONGEST_POLICIES {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                "LimitExceeded",
                format!("Maximum policy size of {LONGEST_POLICIES} bytes exceeded for role {name}"),
            ));
        }
        Ok(String::new())
    })
}

/// `GetRolePolicy`
pub fn get_policy(iam: &Iam, call: &Call) -> Answer {
    let (name, policy) = (role_name(call)?, policy_name(call)?);
    iam.read(|state| {
        let document = role(state, name)?.policies.get(policy).ok_or_else(|| no_policy(policy))?;
        Ok(format!(
            "<RoleName>{name}</RoleName><PolicyName>{policy}</PolicyName><PolicyDocument>{}</PolicyDocument>",
            encode(document)
        ))
    })
}

/// `ListRolePolicies`
pub fn list_policies(iam: &Iam, call: &Call) -> Answer {
    let name = role_name(call)?;
    let names = iam.read(|state| Ok(role(state, name)?.policies.keys().cloned().collect::<Vec<_>>()))?;
    page(call, "PolicyNames", &names)
}

/// `DeleteRolePolicy`
pub fn delete_policy(iam: &Iam, call: &Call) -> Answer {
    let (name, policy) = (role_name(call)?, policy_name(call)?);
    iam.change(|state| {
        role_mut(state, name)?.policies.remove(policy).map(|_| String::new()).ok_or_else(|| no_policy(policy))
    })
}

/// `ListAttachedRolePolicies`; there are none, because attaching one is refused.
pub fn list_attached(iam: &Iam, call: &Call) -> Answer {
    if call.get("PathPrefix").is_some_and(|prefix| !prefix.starts_with('/')) {
        return Err(invalid("The specified value for pathPrefix is invalid."));
    }
    let name = role_name(call)?;
    iam.read(|state| role(state, name).map(|_| ()))?;
    page(call, "AttachedPolicies", &[])
}
