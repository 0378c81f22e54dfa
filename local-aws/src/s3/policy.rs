//! Bucket policies, as far as they decide about anonymous reading. What cannot be decided here is refused when it is put, so
//! that a stored policy means what it says.

use s3s::{S3Error, S3ErrorCode, S3Result};
use serde_json::{Value, json};

use super::{error, not_implemented};

fn malformed(reason: &str) -> S3Error {
    error(S3ErrorCode::MalformedPolicy, reason.to_owned())
}

/// A value or a list of values, as texts.
fn texts(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(text) => Some(vec![text]),
        Value::Array(items) => items.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

fn is_everyone(principal: &Value) -> bool {
    principal == "*" || texts(&principal["AWS"]).is_some_and(|names| names.contains(&"*"))
}

fn statements(policy: &Value) -> Vec<&Value> {
    match &policy["Statement"] {
        Value::Array(statements) => statements.iter().collect(),
        statement @ Value::Object(_) => vec![statement],
        _ => Vec::new(),
    }
}

/// Whether `text` matches a pattern with `*` and `?`.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || *wanted == text[from] => {
                at += 1;
                from += 1;
            }
            _ => match &mut star {
                // Let the last star take one character more and go on from there.
                Some((star_at, taken)) => {
                    *taken += 1;
                    (at, from) = (*star_at + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

/// Whether a condition holds for unencrypted connections alone. Here none does: there is nobody to listen on loopback.
fn is_insecure_transport(condition: &Value) -> bool {
    ["false", "False"].iter().any(|no| *condition == json!({ "Bool": { "aws:SecureTransport": no } }))
        || *condition == json!({ "Bool": { "aws:SecureTransport": false } })
}

/// Checks a policy that is to be put on a bucket.
///
/// # Errors
/// `MalformedPolicy`, or `NotImplemented` for what cannot be decided here.
pub fn check(text: &str, bucket: &str) -> S3Result<()> {
    let policy: Value = serde_json::from_str(text)
        .map_err(|_| malformed("Policies must be valid JSON and the first byte must be '{'"))?;
    if !policy.is_object() {
        return Err(malformed("Policies must be valid JSON and the first byte must be '{'"));
    }
    if !matches!(policy["Version"].as_str(), None | Some("2012-10-17" | "2008-10-17")) {
        return Err(malformed("The policy must contain a valid version string"));
    }
    let statements = statements(&policy);
    if statements.is_empty() {
        return Err(malformed("Missing required field Statement"));
    }
    for statement in statements {
        for key in ["NotPrincipal", "NotAction", "NotResource"] {
            if !statement[key].is_null() {
                return Err(not_implemented(format!("PutBucketPolicy with {key}")));
            }
        }
        match (statement["Effect"].as_str(), &statement["Condition"]) {
            (Some("Allow"), Value::Null) => {}
            (Some("Deny"), condition) if is_insecure_transport(condition) => {}
            (Some("Allow"), _) => return Err(not_implemented("PutBucketPolicy with Condition")),
            (Some("Deny"), _) => return Err(not_implemented("PutBucketPolicy with Effect Deny")),
            _ => return Err(malformed("Invalid effect")),
        }
        let principal = &statement["Principal"];
        if principal != "*" && !principal.is_object() {
            return Err(malformed("Invalid principal in policy"));
        }
        let actions = texts(&statement["Action"]).ok_or_else(|| malformed("Missing required field Action"))?;
        if actions.is_empty() || !actions.iter().all(|action| *action == "*" || action.starts_with("s3:")) {
            return Err(malformed("Policy has invalid action"));
        }
        let resources = texts(&statement["Resource"]).ok_or_else(|| malformed("Missing required field Resource"))?;
        let own = |resource: &&str| {
            let name = resource.strip_prefix("arn:aws:s3:::").map(|rest| rest.split('/').next().unwrap_or(rest));
            name == Some(bucket)
        };
        if resources.is_empty() || !resources.iter().all(own) {
            return Err(malformed("Policy has invalid resource"));
        }
    }
    Ok(())
}

/// Whether a policy grants anything to everybody.
pub fn is_public(text: &str) -> bool {
    let policy: Value = serde_json::from_str(text).unwrap_or_default();
    statements(&policy).iter().any(|statement| statement["Effect"] == "Allow" && is_everyone(&statement["Principal"]))
}

/// Whether a policy lets everybody read an object.
pub fn allows_read(text: &str, bucket: &str, key: &str) -> bool {
    let policy: Value = serde_json::from_str(text).unwrap_or_default();
    let resource = format!("arn:aws:s3:::{bucket}/{key}");
    statements(&policy).iter().any(|statement| {
        let any = |member: &str, wanted: &str, fold: bool| {
            texts(&statement[member]).is_some_and(|patterns| {
                patterns.iter().any(|pattern| {
                    if fold {
                        matches(&pattern.to_lowercase(), &wanted.to_lowercase())
                    } else {
                        matches(pattern, wanted)
                    }
                })
            })
        };
        statement["Effect"] == "Allow"
            && is_everyone(&statement["Principal"])
            && any("Action", "s3:GetObject", true)
            && any("Resource", &resource, false)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(principal: Value, action: Value, resource: Value) -> String {
        json!({ "Version": "2012-10-17", "Statement": [
            { "Effect": "Allow", "Principal": principal, "Action": action, "Resource": resource },
        ] })
        .to_string()
    }

    #[test]
    fn patterns() {
        for (pattern, text) in
            [("*", ""), ("a*c", "abc"), ("a*c", "ac"), ("a?c", "abc"), ("*b*", "abc"), ("a*b*c", "axbxbxc")]
        {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("a?c", "ac"), ("a*c", "abd"), ("a", "ab"), ("*b", "abc")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn only_what_is_granted_to_everybody_is_readable() {
        let web = policy(json!("*"), json!("s3:GetObject"), json!("arn:aws:s3:::site/web/*"));
        assert!(check(&web, "site").is_ok() && is_public(&web));
        assert!(allows_read(&web, "site", "web/index.html"));
        assert!(
            !allows_read(&web, "site", "private/x")
                && !allows_read(&web, "site", "web")
                && !allows_read(&web, "other", "web/x")
        );
        let someone =
            policy(json!({ "AWS": "arn:aws:iam::000000000000:root" }), json!("s3:*"), json!("arn:aws:s3:::site/*"));
        assert!(!is_public(&someone) && !allows_read(&someone, "site", "x"));
        let put = policy(json!({ "AWS": ["*"] }), json!(["s3:PutObject"]), json!("arn:aws:s3:::site/*"));
        assert!(is_public(&put) && !allows_read(&put, "site", "x"));
    }

    #[test]
    fn what_cannot_be_decided_is_refused() {
        let code = |text: &str| check(text, "site").expect_err(text).code().clone();
        for text in ["", "[]", "{", "{}", r#"{"Statement": []}"#, r#"{"Statement": [{"Effect": "Maybe"}]}"#] {
            assert_eq!(code(text), S3ErrorCode::MalformedPolicy, "{text}");
        }
        assert_eq!(
            code(&policy(json!("*"), json!("s3:*"), json!("arn:aws:s3:::other/*"))),
            S3ErrorCode::MalformedPolicy
        );
        assert_eq!(code(r#"{"Statement": [{"Effect": "Deny"}]}"#), S3ErrorCode::NotImplemented);
        let deny = |condition: Value| {
            let resource = ["arn:aws:s3:::site", "arn:aws:s3:::site/*"];
            json!({ "Statement": [{ "Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": resource,
                "Condition": condition }] })
            .to_string()
        };
        let tls_only = deny(json!({ "Bool": { "aws:SecureTransport": "false" } }));
        assert!(check(&tls_only, "site").is_ok() && !is_public(&tls_only));
        assert_eq!(code(&deny(json!({ "Bool": { "aws:SecureTransport": "true" } }))), S3ErrorCode::NotImplemented);
        assert_eq!(
            code(&deny(json!({ "StringEquals": { "aws:SecureTransport": "false" } }))),
            S3ErrorCode::NotImplemented
        );
        assert_eq!(
            code(r#"{"Statement": [{"Effect": "Allow", "Condition": {"Bool": {}}}]}"#),
            S3ErrorCode::NotImplemented
        );
    }
}
