//! Aliases: a name for a version, or for two of them with weights.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Call, check_revision, conflict, invalid,
    model::{Alias, Function, LATEST},
    no_resource, page, valid_word, validation,
};
use crate::{
    server::Cloud,
    wire::{ApiError, uuid},
};

/// Reads `RoutingConfig`; `None` when it is not given, empty when it is to be removed.
fn weights(input: &Value) -> Result<Option<BTreeMap<String, f64>>, ApiError> {
    if input["RoutingConfig"].is_null() {
        return Ok(None);
    }
    let mut weights = BTreeMap::new();
    for (version, weight) in input["RoutingConfig"]["AdditionalVersionWeights"].as_object().into_iter().flatten() {
        let weight = weight.as_f64().filter(|weight| (0.0..=1.0).contains(weight)).ok_or_else(|| {
            validation(
                "1 validation error detected: Value at 'routingConfig.additionalVersionWeights' is between 0.0 and 1.0",
            )
        })?;
        weights.insert(version.clone(), weight);
    }
    if weights.len() > 1 {
        return Err(invalid("Number of items in AdditionalVersionWeights cannot be greater than 1."));
    }
    Ok(Some(weights))
}

/// Checks that an alias can point where it says.
fn check(cloud: &Cloud, function: &Function, alias: &Alias) -> Result<(), ApiError> {
    for version in std::iter::once(&alias.version).chain(alias.weights.keys()) {
        // An alias cannot name another alias.
        if version != LATEST && version.parse::<u64>().is_err() {
            return Err(validation(format!(
                "1 validation error detected: Value '{version}' at 'functionVersion' failed to satisfy constraint: Member must satisfy \
                 regular expression pattern: (\\$LATEST|[0-9]+)"
            )));
        }
        function.version(cloud, Some(version))?;
    }
    if alias.weights.is_empty() {
        return Ok(());
    }
    if alias.version == LATEST || alias.weights.contains_key(LATEST) {
        return Err(invalid("$LATEST is not supported for an alias pointing to more than 1 version."));
    }
    if alias.weights.contains_key(&alias.version) {
        return Err(invalid(format!(
            "Invalid function version {}. Function version {} is already included in routing configuration.",
            alias.version, alias.version
        )));
    }
    Ok(())
}

/// `CreateAlias`
pub fn create(call: &Call) -> Result<Value, ApiError> {
    let cloud = call.cloud;
    call.refuse_unknown("CreateAlias", &["Name", "FunctionVersion", "Description", "RoutingConfig"])?;
    let name = call.required("Name")?;
    if !valid_word(name, 128) || name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(validation(format!(
            "1 validation error detected: Value '{name}' at 'name' failed to satisfy constraint: Member must satisfy regular expression \
             pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)"
        )));
    }
    let alias = Alias {
        version: call.required("FunctionVersion")?.to_owned(),
        description: call.text("Description")?.unwrap_or_default().to_owned(),
        weights: weights(&call.input)?.unwrap_or_default(),
        revision_id: uuid(),
    };
    cloud.lambda.change(cloud, &call.name, |function| {
        if function.aliases.contains_key(name) {
            return Err(conflict(format!("Alias already exists: {}", function.arn(cloud, Some(name)))));
        }
        check(cloud, function, &alias)?;
        function.aliases.insert(name.to_owned(), alias.clone());
        Ok(function.alias_json(cloud, name, &alias))
    })
}

fn missing(cloud: &Cloud, function: &Function, name: &str) -> ApiError {
    let mut error = no_resource();
    error.message = format!("Cannot find alias arn: {}", function.arn(cloud, Some(name)));
    error
}

/// `GetAlias`
pub fn get(call: &Call) -> Result<Value, ApiError> {
    call.cloud.lambda.read(call.cloud, &call.name, |function| {
        let alias = function.aliases.get(&call.item).ok_or_else(|| missing(call.cloud, function, &call.item))?;
        Ok(function.alias_json(call.cloud, &call.item, alias))
    })
}

/// `UpdateAlias`
pub fn update(call: &Call) -> Result<Value, ApiError> {
    let cloud = call.cloud;
    call.refuse_unknown("UpdateAlias", &["FunctionVersion", "Description", "RoutingConfig", "RevisionId"])?;
    let (revision, version, description) =
        (call.text("RevisionId")?, call.text("FunctionVersion")?, call.text("Description")?);
    let weights = weights(&call.input)?;
    cloud.lambda.change(cloud, &call.name, |function| {
        let mut alias =
            function.aliases.get(&call.item).cloned().ok_or_else(|| missing(cloud, function, &call.item))?;
        check_revision(revision, &alias.revision_id)?;
        if let Some(version) = version {
            alias.version = version.to_owned();
        }
        if let Some(description) = description {
            alias.description = description.to_owned();
        }
        if let Some(weights) = weights {
            alias.weights = weights;
        }
        check(cloud, function, &alias)?;
        alias.revision_id = uuid();
        function.aliases.insert(call.item.clone(), alias.clone());
        Ok(function.alias_json(cloud, &call.item, &alias))
    })
}

/// `DeleteAlias`; what belongs to the alias goes with it.
pub fn delete(call: &Call) -> Result<(), ApiError> {
    call.cloud.lambda.change(call.cloud, &call.name, |function| {
        function.aliases.remove(&call.item);
        function.urls.remove(&call.item);
        function.policies.remove(&call.item);
        Ok(())
    })
}

/// `ListAliases`
pub fn list(call: &Call) -> Result<Value, ApiError> {
    let version = call.query.get("FunctionVersion");
    let items = call.cloud.lambda.read(call.cloud, &call.name, |function| {
        let aliases = function.aliases.iter().filter(|(_, alias)| {
            version.is_none_or(|version| alias.version == *version || alias.weights.contains_key(version))
        });
        Ok(aliases.map(|(name, alias)| function.alias_json(call.cloud, name, alias)).collect())
    })?;
    page(call, "Aliases", items)
}
