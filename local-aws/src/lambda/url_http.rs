//! Function URLs: HTTP in, payload format 2.0 to the function, its answer back as HTTP.

use std::{collections::BTreeMap, sync::Arc};

use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chrono::Utc;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use serde_json::{Map, Value, json};

use super::{
    invoke::{self, MAX_PAYLOAD, Outcome},
    model::{Cors, LATEST},
    permissions::allows_everyone,
};
use crate::{
    ACCOUNT_ID,
    server::Cloud,
    sigv4::{self, Authorization},
    wire::{Request, Response, decode, header_text, json_reply, query_pairs, read_body, set_header},
};

fn message(status: StatusCode, text: &str, kind: &'static str) -> Response {
    let mut response = json_reply(status, "application/json", &json!({ "Message": text }));
    set_header(response.headers_mut(), "x-amzn-errortype", kind);
    response
}

/// Answers a request at `/_url/<function>/<alias or $LATEST>/…`.
pub async fn url_request(cloud: &Arc<Cloud>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().strip_prefix("/_url/").unwrap_or_default();
    let mut segments = path.splitn(3, '/');
    let name = decode(segments.next().unwrap_or_default());
    let qualifier = decode(segments.next().unwrap_or_default());
    let raw_path = format!("/{}", segments.next().unwrap_or_default());
    let found = cloud.lambda.read(cloud, &name, |function| {
        let key = if qualifier == LATEST { "" } else { qualifier.as_str() };
        let public = function.policies.get(key).is_some_and(|statements| allows_everyone(statements));
        Ok(function.urls.get(&qualifier).cloned().map(|url| (url, public)))
    });
    let Ok(Some((url, public))) = found else {
        return message(StatusCode::NOT_FOUND, "Not Found", "ResourceNotFoundException");
    };
    let origin = header_text(&parts.headers, "origin").map(str::to_owned);
    if let (Some(cors), Some(origin)) = (&url.cors, &origin)
        && parts.method == Method::OPTIONS
        && parts.headers.contains_key("access-control-request-method")
    {
        return preflight(cors, origin);
    }
    let mut response = if url.auth_type == "NONE" && !public {
        forbidden()
    } else {
        answer(cloud, &parts, body, &url.auth_type, (&name, &qualifier), &raw_path).await
    };
    if let (Some(cors), Some(origin)) = (&url.cors, &origin) {
        let headers = response.headers_mut();
        // The configuration's headers replace those of the function.
        let own: Vec<HeaderName> =
            headers.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
        for name in own {
            headers.remove(name);
        }
        allow_origin(cors, origin, headers);
        if let Some(names) = cors.expose_headers.as_ref().filter(|names| !names.is_empty()) {
            set_header(headers, "access-control-expose-headers", &names.join(","));
        }
    }
    response
}

fn forbidden() -> Response {
    message(StatusCode::FORBIDDEN, "Forbidden", "AccessDeniedException")
}

async fn answer(
    cloud: &Arc<Cloud>,
    parts: &Parts,
    body: Body,
    auth_type: &str,
    (name, qualifier): (&str, &str),
    raw_path: &str,
) -> Response {
    let Some(body) = read_body(body, MAX_PAYLOAD).await else {
        return message(StatusCode::PAYLOAD_TOO_LARGE, "Request Too Long", "RequestTooLargeException");
    };
    if auth_type == "AWS_IAM" {
        let signed = Authorization::read(&parts.headers).is_some_and(|authorization| authorization.service == "lambda");
        if !signed || sigv4::verify(parts, &body).is_err() {
            return forbidden();
        }
    }
    let event = Bytes::from(event(cloud, parts, &body, auth_type, (name, qualifier), raw_path).to_string());
    let qualifier = Some(qualifier).filter(|qualifier| *qualifier != LATEST);
    let target = cloud.lambda.read(cloud, name, |function| invoke::target(cloud, function, qualifier));
    let result = match target {
        Ok(target) => invoke::run(cloud, target, event, None).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(outcome) if !outcome.error => {
            let mapped = map_answer(&outcome.payload);
            let mut response = mapped.unwrap_or_else(bad_gateway);
            request_id(&mut response, &outcome);
            response
        }
        Ok(outcome) => {
            let mut response = bad_gateway();
            request_id(&mut response, &outcome);
            response
        }
        Err(error) if error.status == StatusCode::TOO_MANY_REQUESTS => {
            message(error.status, "Rate Exceeded.", "TooManyRequestsException")
        }
        Err(error) if error.status.is_client_error() => message(error.status, &error.message, error.code),
        Err(_) => message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error", "ServiceException"),
    }
}

fn request_id(response: &mut Response, outcome: &Outcome) {
    set_header(response.headers_mut(), "x-amzn-requestid", &outcome.request_id);
}

fn bad_gateway() -> Response {
    message(StatusCode::BAD_GATEWAY, "Internal Server Error", "InternalServerErrorException")
}

/// Whether bodies of a type reach the function as text.
fn is_text(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind.starts_with("text/")
        || kind.ends_with("+json")
        || kind.ends_with("+xml")
        || ["application/json", "application/xml", "application/javascript"].contains(&kind.as_str())
}

/// The request as payload format 2.0.
fn event(
    cloud: &Cloud,
    parts: &Parts,
    body: &Bytes,
    auth_type: &str,
    (name, qualifier): (&str, &str),
    raw_path: &str,
) -> Value {
    let mut headers: BTreeMap<&str, String> = BTreeMap::new();
    let mut cookies = Vec::new();
    for (name, value) in &parts.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        if name == header::COOKIE {
            cookies.extend(value.split(';').map(|cookie| cookie.trim().to_owned()));
            continue;
        }
        headers.entry(name.as_str()).and_modify(|values| *values = format!("{values},{value}")).or_insert(value);
    }
    let query = parts.uri.query().unwrap_or_default();
    let mut parameters: Map<String, Value> = Map::new();
    for (name, value) in query_pairs(query) {
        let joined = match parameters.get(&name).and_then(Value::as_str) {
            Some(before) => format!("{before},{value}"),
            None => value,
        };
        parameters.insert(name, Value::String(joined));
    }
    let now = Utc::now();
    let account = if auth_type == "NONE" { "anonymous" } else { ACCOUNT_ID };
    let domain = headers.get("host").cloned().unwrap_or_else(|| cloud.host.clone());
    let mut event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": raw_path,
        "rawQueryString": query,
        "requestContext": {
            "accountId": account,
            "apiId": name,
            "domainName": domain,
            "domainPrefix": qualifier,
            "http": {
                "method": parts.method.as_str(),
                "path": raw_path,
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": headers.get("user-agent").cloned().unwrap_or_default(),
            },
            "requestId": crate::wire::uuid(),
            "routeKey": "$default",
            "stage": "$default",
            "time": now.format("%d/%b/%Y:%H:%M:%S +0000").to_string(),
            "timeEpoch": now.timestamp_millis(),
        },
        "isBase64Encoded": false,
    });
    if !parameters.is_empty() {
        event["queryStringParameters"] = Value::Object(parameters);
    }
    if !cookies.is_empty() {
        event["cookies"] = json!(cookies);
    }
    if !body.is_empty() {
        let text = std::str::from_utf8(body).ok();
        match text.filter(|_| headers.get("content-type").is_some_and(|kind| is_text(kind))) {
            Some(text) => event["body"] = json!(text),
            None => {
                event["body"] = json!(STANDARD.encode(body));
                event["isBase64Encoded"] = json!(true);
            }
        }
    }
    event["headers"] = json!(headers);
    event
}

/// The function's answer as HTTP; `None` when it cannot be read as one.
fn map_answer(payload: &[u8]) -> Option<Response> {
    let answer: Value = serde_json::from_slice(payload).ok()?;
    let Some(status) = answer.get("statusCode") else {
        // Anything without a status is itself the body of a success.
        let mut response = Response::new(Body::from(match answer {
            Value::String(text) => text.into_bytes(),
            _ => payload.to_vec(),
        }));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return Some(response);
    };
    let status = u16::try_from(status.as_u64()?).ok().filter(|status| (200..=599).contains(status))?;
    let body = match &answer["body"] {
        Value::Null => Vec::new(),
        Value::String(text) if answer["isBase64Encoded"] == true => STANDARD.decode(text).ok()?,
        Value::String(text) => text.clone().into_bytes(),
        _ => return None,
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).ok()?;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in answer["headers"].as_object().into_iter().flatten() {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Null => continue,
            other => other.to_string(),
        };
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        // These belong to the connection, which is the cloud's.
        if ![header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION].contains(&name) {
            headers.insert(name, HeaderValue::from_str(&value).ok()?);
        }
    }
    for cookie in answer["cookies"].as_array().into_iter().flatten() {
        headers.append(header::SET_COOKIE, HeaderValue::from_str(cookie.as_str()?).ok()?);
    }
    Some(response)
}

fn preflight(cors: &Cors, origin: &str) -> Response {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    if !allow_origin(cors, origin, headers) {
        return response;
    }
    let list =
        |names: &Option<Vec<String>>| names.as_ref().filter(|names| !names.is_empty()).map(|names| names.join(","));
    if let Some(methods) = list(&cors.allow_methods) {
        set_header(headers, "access-control-allow-methods", &methods);
    }
    if let Some(names) = list(&cors.allow_headers) {
        set_header(headers, "access-control-allow-headers", &names);
    }
    if let Some(age) = cors.max_age {
        set_header(headers, "access-control-max-age", &age.to_string());
    }
    response
}

/// Says whether an origin may read the answer, and sets the headers that tell the browser.
fn allow_origin(cors: &Cors, origin: &str, headers: &mut HeaderMap) -> bool {
    let mut allowed = cors.allow_origins.iter().flatten();
    if !allowed.any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin)) {
        return false;
    }
    let credentials = cors.allow_credentials == Some(true);
    let any = cors.allow_origins.iter().flatten().any(|allowed| allowed == "*");
    // Browsers refuse `*` together with credentials.
    if any && !credentials {
        set_header(headers, "access-control-allow-origin", "*");
    } else {
        set_header(headers, "access-control-allow-origin", origin);
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
    if credentials {
        set_header(headers, "access-control-allow-credentials", "true");
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_are_no_http_are_bad_gateways() {
        for bad in [
            "not json",
            r#"{"statusCode": "200"}"#,
            r#"{"statusCode": 99}"#,
            r#"{"statusCode": 70000}"#,
            r#"{"statusCode": -1}"#,
            r#"{"statusCode": 200, "body": {"a": 1}}"#,
            r#"{"statusCode": 200, "body": "%", "isBase64Encoded": true}"#,
            r#"{"statusCode": 200, "headers": {"a b": "c"}}"#,
            "{\"statusCode\": 200, \"headers\": {\"a\": \"x\\ny\"}}",
        ] {
            assert!(map_answer(bad.as_bytes()).is_none(), "{bad}");
        }
        for (good, status) in [("{}", 200), ("[1]", 200), ("null", 200), (r#"{"statusCode": 418}"#, 418)] {
            assert_eq!(map_answer(good.as_bytes()).map(|response| response.status().as_u16()), Some(status), "{good}");
        }
    }

    #[test]
    fn text_types() {
        assert!(
            is_text("application/json; charset=utf-8") && is_text("TEXT/csv") && is_text("application/problem+json")
        );
        assert!(!is_text("application/x-www-form-urlencoded") && !is_text("") && !is_text("image/png"));
    }
}
