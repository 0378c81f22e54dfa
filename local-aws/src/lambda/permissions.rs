//! Resource policies of functions, and what they allow anonymous callers of a function URL.

use serde_json::{Map, Value, json};

use super::{Call, check_revision, conflict, invalid, model::Function, no_resource, valid_word, validation};
use crate::wire::ApiError;

/// The key of a policy: the qualifier, empty for the unqualified function.
fn key(call: &Call, function: &Function) -> Result<String, ApiError> {
    match call.qualifier.as_deref() {
        None => Ok(String::new()),
        Some("$LATEST") => Err(invalid("We currently do not support adding policies for $LATEST.")),
        Some(qualifier) => function.version(call.cloud, Some(qualifier)).map(|_| qualifier.to_owned()),
    }
}

fn revision_id(function: &Function, key: &str) -> String {
    let of_alias = function.aliases.get(key).map(|alias| &alias.revision_id);
    let of_version =
        || key.parse().ok().and_then(|number: u64| function.versions.get(&number)).map(|version| &version.revision_id);
    of_alias.or_else(of_version).unwrap_or(&function.latest.revision_id).clone()
}

/// `AddPermission`
pub fn add(call: &Call) -> Result<Value, ApiError> {
    call.refuse_unknown(
        "AddPermission",
        &[
            "StatementId",
            "Action",
            "Principal",
            "SourceArn",
            "SourceAccount",
            "FunctionUrlAuthType",
            "InvokedViaFunctionUrl",
            "PrincipalOrgID",
            "RevisionId",
        ],
    )?;
    let (id, action, principal) =
        (call.required("StatementId")?, call.required("Action")?, call.required("Principal")?);
    if !valid_word(id, 100) {
        return Err(validation(format!(
            "1 validation error detected: Value '{id}' at 'statementId' failed to satisfy constraint"
        )));
    }
    let known = action == "*"
        || action.strip_prefix("lambda:").is_some_and(|name| {
            name == "*" || (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic()))
        });
    if !known {
        return Err(validation(format!(
            "1 validation error detected: Value '{action}' at 'action' failed to satisfy constraint"
        )));
    }
    let principal = match principal {
        "*" => json!("*"),
        service if service.contains(".amazonaws.com") => json!({ "Service": service }),
        arn if arn.starts_with("arn:") => json!({ "AWS": arn }),
        account if account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit()) => {
            json!({ "AWS": format!("arn:aws:iam::{account}:root") })
        }
        _ => return Err(invalid("The provided principal was invalid. Please check the principal and try again.")),
    };
    let mut conditions: Map<String, Value> = Map::new();
    let mut condition = |operator: &str, name: &str, value: Value| {
        let entry = conditions.entry(operator).or_insert_with(|| json!({}));
        entry[name] = value;
    };
    if let Some(kind) = call.text("FunctionUrlAuthType")? {
        if action != "lambda:InvokeFunctionUrl" {
            return Err(invalid("FunctionUrlAuthType is only supported for lambda:InvokeFunctionUrl action"));
        }
        if kind != "NONE" && kind != "AWS_IAM" {
            return Err(validation(
                "1 validation error detected: Value at 'functionUrlAuthType' is one of [NONE, AWS_IAM]",
            ));
        }
        condition("StringEquals", "lambda:FunctionUrlAuthType", json!(kind));
    }
    match &call.input["InvokedViaFunctionUrl"] {
        Value::Null => {}
        Value::Bool(via) => {
            if action != "lambda:InvokeFunction" {
                return Err(invalid("InvokedViaFunctionUrl is only supported for lambda:InvokeFunction action"));
            }
            condition("Bool", "lambda:InvokedViaFunctionUrl", json!(via.to_string()));
        }
        _ => return Err(validation("InvokedViaFunctionUrl is a boolean")),
    }
    if let Some(arn) = call.text("SourceArn")? {
        condition("ArnLike", "AWS:SourceArn", json!(arn));
    }
    if let Some(account) = call.text("SourceAccount")? {
        condition("StringEquals", "AWS:SourceAccount", json!(account));
    }
    if let Some(organization) = call.text("PrincipalOrgID")? {
        condition("StringEquals", "aws:PrincipalOrgID", json!(organization));
    }
    let revision = call.text("RevisionId")?;
    call.cloud.lambda.change(call.cloud, &call.name, |function| {
        let key = key(call, function)?;
        check_revision(revision, &revision_id(function, &key))?;
        let qualifier = (!key.is_empty()).then_some(key.as_str());
        let mut statement = json!({
            "Sid": id,
            "Effect": "Allow",
            "Principal": principal,
            "Action": action,
            "Resource": function.arn(call.cloud, qualifier),
        });
        if !conditions.is_empty() {
            statement["Condition"] = Value::Object(conditions);
        }
        let statements = function.policies.entry(key.clone()).or_default();
        if statements.iter().any(|statement| statement["Sid"] == id) {
            return Err(conflict(format!(
                "The statement id ({id}) provided already exists. Please provide a new statement id, or remove the existing statement."
            )));
        }
        statements.push(statement.clone());
        function.touch(call.qualifier.as_deref());
        Ok(json!({ "Statement": statement.to_string() }))
    })
}

/// `GetPolicy`
pub fn get(call: &Call) -> Result<Value, ApiError> {
    call.cloud.lambda.read(call.cloud, &call.name, |function| {
        let key = key(call, function)?;
        let statements =
            function.policies.get(&key).filter(|statements| !statements.is_empty()).ok_or_else(no_resource)?;
        let policy = json!({ "Version": "2012-10-17", "Id": "default", "Statement": statements });
        Ok(json!({ "Policy": policy.to_string(), "RevisionId": revision_id(function, &key) }))
    })
}

/// `RemovePermission`
pub fn remove(call: &Call) -> Result<(), ApiError> {
    let revision = call.query.get("RevisionId").map(String::as_str);
    call.cloud.lambda.change(call.cloud, &call.name, |function| {
        let key = key(call, function)?;
        check_revision(revision, &revision_id(function, &key))?;
        let statements = function.policies.entry(key).or_default();
        let before = statements.len();
        statements.retain(|statement| statement["Sid"] != call.item);
        if statements.len() == before {
            let mut error = no_resource();
            error.message = format!("Statement {} is not found in resource policy.", call.item);
            return Err(error);
        }
        function.touch(call.qualifier.as_deref());
        Ok(())
    })
}

/// Whether a policy lets anyone call through a function URL without a signature: it takes both actions, each without a condition
/// that an anonymous call through a URL fails.
pub fn allows_everyone(statements: &[Value]) -> bool {
    let granted = |wanted: &str, fulfilled: &[(&str, &str, &str)]| {
        statements.iter().any(|statement| {
            let action = statement["Action"].as_str().unwrap_or_default();
            let conditions = statement["Condition"].as_object().into_iter().flatten();
            let mut conditions = conditions.flat_map(|(operator, pairs)| {
                pairs
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(move |(name, value)| (operator.as_str(), name.as_str(), value))
            });
            statement["Principal"] == "*"
                && (action == wanted || action == "lambda:*" || action == "*")
                && conditions.all(|(operator, name, value)| {
                    fulfilled.iter().any(|known| (known.0, known.1) == (operator, name) && value == known.2)
                })
        })
    };
    granted("lambda:InvokeFunctionUrl", &[("StringEquals", "lambda:FunctionUrlAuthType", "NONE")])
        && granted("lambda:InvokeFunction", &[("Bool", "lambda:InvokedViaFunctionUrl", "true")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_needs_both_permissions() {
        let url = json!({ "Principal": "*", "Action": "lambda:InvokeFunctionUrl",
            "Condition": { "StringEquals": { "lambda:FunctionUrlAuthType": "NONE" } } });
        let function = json!({ "Principal": "*", "Action": "lambda:InvokeFunction",
            "Condition": { "Bool": { "lambda:InvokedViaFunctionUrl": "true" } } });
        assert!(allows_everyone(&[url.clone(), function.clone()]));
        assert!(!allows_everyone(std::slice::from_ref(&url)));
        assert!(!allows_everyone(std::slice::from_ref(&function)));
        for (pointer, value) in [
            ("/Principal", json!({ "AWS": "arn:aws:iam::000000000000:root" })),
            ("/Condition/Bool/lambda:InvokedViaFunctionUrl", json!("false")),
            ("/Condition", json!({ "StringEquals": { "AWS:SourceAccount": "000000000000" } })),
        ] {
            let mut weaker = function.clone();
            *weaker.pointer_mut(pointer).expect("a member") = value;
            assert!(!allows_everyone(&[url.clone(), weaker]), "{pointer}");
        }
    }
}
