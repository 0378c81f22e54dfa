//! What a call is named, and how its service says that it failed.

use std::fmt;

use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::json;

/// Who is called. The protocol decides what a failure looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// ECR, logs.
    Json,
    /// STS, IAM, CloudWatch.
    Query,
    Lambda,
    S3,
    Registry,
    /// The function itself, by its URL.
    Function,
}

/// A request, by the names that its documentation uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    protocol: Protocol,
    /// `lambda PublishVersion`, `registry PUT manifest`.
    pub name: String,
    /// Whether it carries the revision that it expects to change.
    pub conditional: bool,
    reads: bool,
}

impl fmt::Display for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

/// An answer that a service gives instead of a result.
pub struct Refusal {
    pub status: StatusCode,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

/// Lambda's operations by method, the part of a function that they are about, and whether they name one item of it.
const LAMBDA: [(&str, &str, bool, &str); 24] = [
    ("POST", "", false, "CreateFunction"),
    ("GET", "", true, "GetFunction"),
    ("DELETE", "", true, "DeleteFunction"),
    ("GET", "configuration", false, "GetFunctionConfiguration"),
    ("PUT", "configuration", false, "UpdateFunctionConfiguration"),
    ("PUT", "code", false, "UpdateFunctionCode"),
    ("POST", "versions", false, "PublishVersion"),
    ("GET", "versions", false, "ListVersionsByFunction"),
    ("POST", "aliases", false, "CreateAlias"),
    ("GET", "aliases", false, "ListAliases"),
    ("GET", "aliases", true, "GetAlias"),
    ("PUT", "aliases", true, "UpdateAlias"),
    ("DELETE", "aliases", true, "DeleteAlias"),
    ("POST", "policy", false, "AddPermission"),
    ("GET", "policy", false, "GetPolicy"),
    ("DELETE", "policy", true, "RemovePermission"),
    ("POST", "invocations", false, "Invoke"),
    ("POST", "url", false, "CreateFunctionUrlConfig"),
    ("GET", "url", false, "GetFunctionUrlConfig"),
    ("PUT", "url", false, "UpdateFunctionUrlConfig"),
    ("DELETE", "url", false, "DeleteFunctionUrlConfig"),
    ("GET", "tags", true, "ListTags"),
    ("POST", "tags", true, "TagResource"),
    ("DELETE", "tags", true, "UntagResource"),
];

impl Call {
    /// Names a request.
    pub fn of(method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Call {
        let path = uri.path();
        let query = uri.query().unwrap_or_default();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        // The credential's scope is `key/date/region/service/aws4_request`.
        let service = text("authorization").split_once("Credential=").and_then(|(_, rest)| rest.split('/').nth(3));
        let (protocol, service, operation) = match service.unwrap_or_default() {
            _ if path == "/v2" || path.starts_with("/v2/") => {
                (Protocol::Registry, "registry", registry_operation(method, path))
            }
            _ if path.starts_with("/_url/") => (Protocol::Function, "function", method.to_string()),
            "lambda" => (Protocol::Lambda, "lambda", lambda_operation(method, path)),
            "s3" => (Protocol::S3, "s3", s3_operation(method, path, query)),
            other => match text("x-amz-target").rsplit_once('.') {
                Some((_, operation)) => (Protocol::Json, other, operation.to_string()),
                None => (Protocol::Query, other, action(body)),
            },
        };
        let conditional = query.contains("RevisionId=") || contains(body, b"\"RevisionId\":\"");
        let reads = *method == Method::GET || *method == Method::HEAD;
        Call { protocol, name: format!("{service} {operation}"), conditional, reads }
    }

    /// Whether it changes something of a function, so that another change under way refuses it.
    pub fn conflicts(&self) -> bool {
        self.protocol == Protocol::Lambda && !self.reads && self.name != "lambda Invoke"
    }

    /// The service wants to be called less often.
    pub fn throttled(&self) -> Refusal {
        let message = "Rate exceeded";
        match self.protocol {
            Protocol::Json => self.refusal(400, "ThrottlingException", message),
            Protocol::Query => self.refusal(400, "Throttling", message),
            Protocol::Lambda | Protocol::Function => self.refusal(429, "TooManyRequestsException", message),
            Protocol::S3 => self.refusal(503, "SlowDown", "Please reduce your request rate."),
            Protocol::Registry => self.refusal(429, "TOOMANYREQUESTS", message),
        }
    }

    /// The service's own failure.
    pub fn failed(&self) -> Refusal {
        let code = match self.protocol {
            Protocol::Json => "ServerException",
            Protocol::Query => "InternalFailure",
            Protocol::Lambda | Protocol::Function => "ServiceException",
            Protocol::S3 => "InternalError",
            Protocol::Registry => "UNKNOWN",
        };
        self.refusal(500, code, "We encountered an internal error. Please try again.")
    }

    /// Another update of the function runs.
    pub fn conflict(&self) -> Refusal {
        self.refusal(
            409,
            "ResourceConflictException",
            "The operation cannot be performed at this time. An update is in progress for resource",
        )
    }

    /// The revision that was named is not the newest.
    pub fn precondition_failed(&self) -> Refusal {
        self.refusal(
            412,
            "PreconditionFailedException",
            "The Revision Id provided does not match the latest Revision Id.",
        )
    }

    fn refusal(&self, status: u16, code: &str, message: &str) -> Refusal {
        let (content_type, body) = match self.protocol {
            Protocol::Json => ("application/x-amz-json-1.1", json!({"__type": code, "message": message}).to_string()),
            Protocol::Lambda | Protocol::Function => {
                ("application/json", json!({"Type": "Service", "message": message}).to_string())
            }
            Protocol::Registry => {
                ("application/json", json!({"errors": [{"code": code, "message": message}]}).to_string())
            }
            Protocol::Query => (
                "text/xml",
                format!(
                    "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
                ),
            ),
            Protocol::S3 => (
                "application/xml",
                format!(
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
                ),
            ),
        };
        let headers = vec![("content-type", content_type.to_string()), ("x-amzn-errortype", code.to_string())];
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Refusal { status, headers, body }
    }
}

fn contains(body: &[u8], wanted: &[u8]) -> bool {
    body.windows(wanted.len()).any(|window| window == wanted)
}

fn lambda_operation(method: &Method, path: &str) -> String {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    // `date/functions/name/part/item`
    let part = segments.get(3).copied().unwrap_or_default();
    let item = segments.get(if part.is_empty() { 2 } else { 4 }).is_some();
    let known = LAMBDA.iter().find(|row| (row.0, row.1, row.2) == (method.as_str(), part, item));
    known.map_or_else(|| format!("{method} {path}"), |row| row.3.to_string())
}

fn s3_operation(method: &Method, path: &str, query: &str) -> String {
    let kind = if path.trim_matches('/').contains('/') { "object" } else { "bucket" };
    let detail = query.split('&').find_map(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        (!name.is_empty() && name != "x-id").then(|| format!(" {name}"))
    });
    format!("{method} {kind}{}", detail.unwrap_or_default())
}

fn registry_operation(method: &Method, path: &str) -> String {
    let kind = [("/manifests/", "manifest"), ("/blobs/uploads/", "upload"), ("/blobs/", "blob")];
    let kind = kind.iter().find(|(part, _)| path.contains(part)).map_or("version", |(_, kind)| kind);
    format!("{method} {kind}")
}

fn action(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let action = text.split('&').find_map(|pair| pair.strip_prefix("Action="));
    action.unwrap_or("unknown").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(method: &str, uri: &str, service: &str, body: &str) -> Call {
        let mut headers = HeaderMap::new();
        if service == "ecr" {
            headers.insert("x-amz-target", "AmazonEC2ContainerRegistry_V20150921.DescribeImages".parse().unwrap());
        }
        let scope =
            format!("AWS4-HMAC-SHA256 Credential=KEY/20261124/us-east-1/{service}/aws4_request, SignedHeaders=a");
        headers.insert("authorization", scope.parse().unwrap());
        Call::of(&method.parse().unwrap(), &uri.parse().unwrap(), &headers, body.as_bytes())
    }

    #[test]
    fn calls_have_their_documented_names() {
        for (method, uri, service, body, expected) in [
            ("POST", "/", "ecr", "{}", "ecr DescribeImages"),
            ("POST", "/", "sts", "Action=GetCallerIdentity&Version=2011-06-15", "sts GetCallerIdentity"),
            ("POST", "/2015-03-31/functions/", "lambda", "{}", "lambda CreateFunction"),
            ("GET", "/2015-03-31/functions/f", "lambda", "", "lambda GetFunction"),
            ("PUT", "/2015-03-31/functions/f/aliases/live", "lambda", "{}", "lambda UpdateAlias"),
            ("GET", "/2015-03-31/functions/f/aliases", "lambda", "", "lambda ListAliases"),
            ("HEAD", "/bucket", "s3", "", "s3 HEAD bucket"),
            ("PUT", "/bucket?policy", "s3", "", "s3 PUT bucket policy"),
            ("PUT", "/bucket/web/a.css?x-id=PutObject", "s3", "", "s3 PUT object"),
            ("PUT", "/v2/r/manifests/t", "", "", "registry PUT manifest"),
            ("PATCH", "/v2/r/blobs/uploads/1?a=b", "", "", "registry PATCH upload"),
            ("POST", "/_url/f/live/", "", "", "function POST"),
        ] {
            assert_eq!(name(method, uri, service, body).name, expected);
        }
    }

    #[test]
    fn only_changes_of_a_function_conflict_and_only_stated_revisions_can_be_stale() {
        let update = name("PUT", "/2015-03-31/functions/f/code", "lambda", r#"{"RevisionId":"1"}"#);
        assert!(update.conflicts() && update.conditional);
        let read = name("GET", "/2015-03-31/functions/f", "lambda", "");
        assert!(!read.conflicts() && !read.conditional);
        assert!(!name("POST", "/2015-03-31/functions/f/invocations", "lambda", "{}").conflicts());
    }
}
