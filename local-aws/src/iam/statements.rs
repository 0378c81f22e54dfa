//! Whether a policy document is one that IAM takes.

use http::StatusCode;
use serde_json::Value;

use crate::wire::ApiError;

fn malformed(reason: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "MalformedPolicyDocument", reason)
}

/// The statements of a document that has the grammar's outline.
fn statements(text: &str) -> Result<Vec<Value>, ApiError> {
    let policy: Value = serde_json::from_str(text).map_err(|_| malformed("This policy contains invalid Json"))?;
    let known = ["Version", "Id", "Statement"];
    if !policy.as_object().is_some_and(|members| members.keys().all(|key| known.contains(&key.as_str()))) {
        return Err(malformed("Syntax errors in policy."));
    }
    if !matches!(policy["Version"].as_str(), Some("2012-10-17" | "2008-10-17")) {
        return Err(malformed("The policy must contain a valid version string"));
    }
    let statements = match &policy["Statement"] {
        Value::Array(statements) if !statements.is_empty() => statements.clone(),
        statement @ Value::Object(_) => vec![statement.clone()],
        _ => return Err(malformed("Syntax errors in policy.")),
    };
    let mut sids: Vec<&str> = statements.iter().filter_map(|statement| statement["Sid"].as_str()).collect();
    let count = sids.len();
    sids.sort_unstable();
    sids.dedup();
    if sids.len() < count {
        return Err(malformed("Statement IDs (SID) in a single policy must be unique."));
    }
    if sids.iter().any(|sid| !sid.bytes().all(|byte| byte.is_ascii_alphanumeric())) {
        return Err(malformed("Statement IDs (SID) must be alpha-numeric."));
    }
    for statement in &statements {
        check_statement(statement)?;
    }
    Ok(statements)
}

fn check_statement(statement: &Value) -> Result<(), ApiError> {
    const KEYS: [&str; 9] =
        ["Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"];
    let syntax = || malformed("Syntax errors in policy.");
    let members = statement.as_object().ok_or_else(syntax)?;
    if !members.keys().all(|key| KEYS.contains(&key.as_str()))
        || !matches!(statement["Effect"].as_str(), Some("Allow" | "Deny"))
    {
        return Err(syntax());
    }
    let actions = texts(&statement["Action"]).or_else(|| texts(&statement["NotAction"]));
    let Some(actions) = actions.filter(|actions| !actions.is_empty()) else {
        return Err(malformed("Policy statement must contain actions."));
    };
    for action in actions {
        let prefixed = action.split_once(':').is_some_and(|(service, name)| {
            let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-*?".contains(&byte);
            !service.is_empty() && service.bytes().all(word) && !name.is_empty() && name.bytes().all(word)
        });
        if action != "*" && !prefixed {
            return Err(malformed("Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc."));
        }
    }
    match &statement["Condition"] {
        Value::Null => Ok(()),
        Value::Object(operators) if operators.values().all(Value::is_object) => Ok(()),
        _ => Err(syntax()),
    }
}

/// A text or a list of texts.
fn texts(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(text) => Some(vec![text]),
        Value::Array(items) => items.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// Checks a policy that says who may take a role.
///
/// # Errors
/// `MalformedPolicyDocument`
pub fn check_trust(text: &str) -> Result<(), ApiError> {
    for statement in statements(text)? {
        for key in ["Resource", "NotResource"] {
            if !statement[key].is_null() {
                return Err(malformed(&format!("Has prohibited field {key}")));
            }
        }
        let principal = &statement["Principal"];
        let named = principal == "*"
            || principal.as_object().is_some_and(|kinds| {
                let known = ["AWS", "Service", "Federated", "CanonicalUser"];
                !kinds.is_empty()
                    && kinds.iter().all(|(kind, names)| known.contains(&kind.as_str()) && texts(names).is_some())
            });
        if !named && statement["NotPrincipal"].is_null() {
            return Err(malformed("Missing required field Principal"));
        }
        let actions = texts(&statement["Action"]).unwrap_or_default();
        if !actions.iter().all(|action| action.starts_with("sts:")) {
            return Err(malformed("AssumeRole policy may only specify STS AssumeRole actions."));
        }
    }
    Ok(())
}

/// Checks a policy that says what a role may do.
///
/// # Errors
/// `MalformedPolicyDocument`
pub fn check_identity(text: &str) -> Result<(), ApiError> {
    for statement in statements(text)? {
        if !statement["Principal"].is_null() || !statement["NotPrincipal"].is_null() {
            return Err(malformed("Policy document should not specify a principal."));
        }
        let resources = texts(&statement["Resource"]).or_else(|| texts(&statement["NotResource"]));
        let Some(resources) = resources.filter(|resources| !resources.is_empty()) else {
            return Err(malformed("Policy statement must contain resources."));
        };
        if let Some(odd) = resources.iter().find(|resource| **resource != "*" && !resource.starts_with("arn:")) {
            return Err(malformed(&format!("Resource {odd} must be in ARN format or \"*\".")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(statement: Value) -> String {
        json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string()
    }

    #[test]
    fn documents_of_the_grammar_are_taken() {
        let trust = json!({ "Sid": "One", "Effect": "Allow", "Principal": { "Service": "lambda.amazonaws.com" },
            "Action": "sts:AssumeRole", "Condition": { "StringEquals": { "aws:SourceAccount": "000000000000" } } });
        check_trust(&policy(trust)).expect("a trust policy");
        let identity = json!({ "Effect": "Allow", "Action": ["logs:PutLogEvents", "ecr:*"], "Resource": "*" });
        check_identity(&policy(identity)).expect("an identity policy");
    }

    #[test]
    fn others_are_refused_with_the_reason() {
        let trust = |statement: Value| check_trust(&policy(statement)).expect_err("malformed").message;
        let identity = |statement: Value| check_identity(&policy(statement)).expect_err("malformed").message;
        let lambda = json!({ "Service": "lambda.amazonaws.com" });
        assert!(trust(json!({ "Effect": "Allow", "Action": "sts:AssumeRole" })).contains("Principal"));
        assert!(trust(json!({ "Effect": "Allow", "Action": "s3:GetObject", "Principal": lambda })).contains("STS"));
        assert!(
            trust(json!({ "Effect": "Allow", "Action": "sts:AssumeRole", "Principal": lambda, "Resource": "*" }))
                .contains("prohibited")
        );
        assert!(identity(json!({ "Effect": "Allow", "Action": "s3:GetObject" })).contains("resources"));
        assert!(identity(json!({ "Effect": "Allow", "Resource": "*" })).contains("actions"));
        assert!(identity(json!({ "Effect": "Allow", "Action": "GetObject", "Resource": "*" })).contains("vendor"));
        assert!(identity(json!({ "Effect": "Allow", "Action": "s3:*", "Resource": "bucket" })).contains("ARN"));
        assert!(
            identity(json!({ "Effect": "Allow", "Action": "s3:*", "Resource": "*", "Principal": "*" }))
                .contains("principal")
        );
        assert!(identity(json!({ "Effect": "Perhaps", "Action": "s3:*", "Resource": "*" })).contains("Syntax"));
        assert!(
            identity(json!({ "Effect": "Allow", "Action": "s3:*", "Resource": "*", "Conditions": {} }))
                .contains("Syntax")
        );
        for text in ["", "[]", "{}", r#"{"Version": "2012-10-17", "Statement": []}"#, r#"{"Statement": [{}]}"#] {
            assert_eq!(check_identity(text).expect_err(text).code, "MalformedPolicyDocument");
        }
    }
}
