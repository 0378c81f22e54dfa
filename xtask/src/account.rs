//! Calls of an account's services that have no SDK here: IAM, CloudWatch and its logs.
//!
//! Their three SDKs would take longer to compile than everything else together, for a dozen calls that are made once. A call is
//! signed by the SDK's own signer and sent to the environment's endpoint; throttling and failures of the service are tried
//! again.

use std::fmt;
use std::time::SystemTime;

use anyhow::{Context, Result};
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use serde_json::Value;

use crate::cloud::Cloud;
use crate::patience;

/// A service and how it is spoken to.
pub struct Service {
    /// Its name in a signature.
    name: &'static str,
    /// Its host's name before the region.
    host: &'static str,
    /// Whether one endpoint serves all regions.
    global: bool,
    protocol: Protocol,
}

enum Protocol {
    /// Form in, XML out; with the version of the interface.
    Query(&'static str),
    /// JSON both ways; with the prefix of the operations' names.
    Json(&'static str),
}

/// Roles, policies and identity providers.
pub const IAM: Service = Service { name: "iam", host: "iam", global: true, protocol: Protocol::Query("2010-05-08") };
/// Metrics.
pub const CLOUDWATCH: Service =
    Service { name: "monitoring", host: "monitoring", global: false, protocol: Protocol::Query("2010-08-01") };
/// Log groups.
pub const LOGS: Service =
    Service { name: "logs", host: "logs", global: false, protocol: Protocol::Json("Logs_20140328") };

/// What a service answered instead of a result.
#[derive(Debug)]
pub struct Fault {
    /// The exception's name, such as `NoSuchEntity`.
    pub code: String,
    pub message: String,
    status: u16,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Fault {}

/// Whether an error is the service's exception `code`.
pub fn is_fault(error: &anyhow::Error, code: &str) -> bool {
    error.downcast_ref::<Fault>().is_some_and(|fault| fault.code == code)
}

/// The answer, or none where the service answered with the exception `code`.
pub fn unless<T>(answer: Result<T>, code: &str) -> Result<Option<T>> {
    match answer {
        Err(error) if is_fault(&error, code) => Ok(None),
        answer => answer.map(Some),
    }
}

/// The text of the first element `name`, wherever it stands.
pub fn text_of(xml: &str, name: &str) -> Option<String> {
    let document = roxmltree::Document::parse(xml).ok()?;
    let found = document.descendants().find(|node| node.tag_name().name() == name)?;
    Some(found.text().unwrap_or_default().to_string())
}

/// The texts of all elements `name` that hold nothing but text, in order.
pub fn texts_of(xml: &str, name: &str) -> Vec<String> {
    let Ok(document) = roxmltree::Document::parse(xml) else { return Vec::new() };
    let named = document.descendants().filter(|node| node.tag_name().name() == name);
    let leaves = named.filter(|node| !node.children().any(|child| child.is_element()));
    leaves.map(|node| node.text().unwrap_or_default().to_string()).collect()
}

impl Cloud {
    /// Calls an operation of a service that speaks XML; gives the answer's text.
    ///
    /// # Errors
    /// A [`Fault`] where the service answered with one.
    pub async fn query(&self, service: &Service, action: &str, parameters: &[(&str, &str)]) -> Result<String> {
        let Protocol::Query(version) = service.protocol else { unreachable!("{} speaks JSON", service.name) };
        let mut form = vec![("Action", action), ("Version", version)];
        form.extend_from_slice(parameters);
        let pairs = form.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value)));
        let body = pairs.collect::<Vec<_>>().join("&");
        self.send(service, action, "application/x-www-form-urlencoded; charset=utf-8", None, body).await
    }

    /// Calls an operation of a service that speaks JSON.
    ///
    /// # Errors
    /// A [`Fault`] where the service answered with one.
    pub async fn json(&self, service: &Service, operation: &str, input: &Value) -> Result<Value> {
        let Protocol::Json(prefix) = service.protocol else { unreachable!("{} speaks XML", service.name) };
        let target = format!("{prefix}.{operation}");
        let text =
            self.send(service, operation, "application/x-amz-json-1.1", Some(&target), input.to_string()).await?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("understand the answer to {operation}"))
    }

    async fn send(
        &self,
        service: &Service,
        operation: &str,
        content_type: &str,
        target: Option<&str>,
        body: String,
    ) -> Result<String> {
        patience::retry(is_worth_another_try, || self.send_once(service, content_type, target, body.clone()))
            .await
            .with_context(|| format!("call {}'s {operation}", service.name))
    }

    async fn send_once(
        &self,
        service: &Service,
        content_type: &str,
        target: Option<&str>,
        body: String,
    ) -> Result<String> {
        let (url, region) = self.place(service);
        let provider = self.settings.credentials_provider().context("there are no credentials")?;
        let identity = provider.provide_credentials().await.context("get credentials")?.into();
        let mut headers = vec![("content-type", content_type)];
        headers.extend(target.map(|target| ("x-amz-target", target)));
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&region)
            .name(service.name)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()?
            .into();
        let signable =
            SignableRequest::new("POST", &url, headers.iter().copied(), SignableBody::Bytes(body.as_bytes()))?;
        let (signature, _) = sign(signable, &parameters)?.into_parts();
        let mut request = self.http()?.post(&url);
        for (name, value) in headers.into_iter().chain(signature.headers()) {
            request = request.header(name, value);
        }
        let answer = request.body(body).send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        if status < 400 {
            return Ok(text);
        }
        Err(fault(status, &text).into())
    }

    /// Where a service answers, and the region that a signature for it names.
    fn place(&self, service: &Service) -> (String, String) {
        let china = self.region().starts_with("cn-");
        let region = match (service.global, china) {
            (true, true) => "cn-north-1",
            (true, false) => "us-east-1",
            (false, _) => self.region(),
        };
        let url = match &self.endpoint_url {
            Some(url) => format!("{url}/"),
            None => {
                let host = if service.global && !china {
                    service.host.to_string()
                } else {
                    format!("{}.{region}", service.host)
                };
                format!("https://{host}.amazonaws.com{}/", if china { ".cn" } else { "" })
            }
        };
        (url, region.to_string())
    }
}

/// The exception in an answer of either protocol.
fn fault(status: u16, text: &str) -> Fault {
    if let Ok(answer) = serde_json::from_str::<Value>(text) {
        let word = |keys: [&str; 2]| keys.iter().find_map(|key| answer[*key].as_str()).unwrap_or_default().to_string();
        let code = word(["__type", "code"]);
        let code = code.rsplit('#').next().unwrap_or_default().to_string();
        return Fault { code, message: word(["message", "Message"]), status };
    }
    Fault {
        code: text_of(text, "Code").unwrap_or_else(|| format!("HTTP {status}")),
        message: text_of(text, "Message").unwrap_or_else(|| text.chars().take(200).collect()),
        status,
    }
}

fn is_worth_another_try(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<Fault>() {
        Some(fault) => {
            (fault.status >= 500 && fault.status != 501) || fault.status == 429 || fault.code.contains("Throttl")
        }
        None => error.downcast_ref::<reqwest::Error>().is_some(),
    }
}

fn escape(text: &str) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    const RESERVED: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        let xml = "<R xmlns='u'><L><member>a</member><member/><member><Name>b</Name></member></L></R>";
        assert_eq!(texts_of(xml, "member"), ["a", ""]);
        assert_eq!(texts_of(xml, "Name"), ["b"]);
    }

    #[test]
    fn faults_of_both_protocols_are_read() {
        let xml = "<ErrorResponse xmlns=\"u\"><Error><Type>Sender</Type><Code>NoSuchEntity</Code>\
                   <Message>no role</Message></Error></ErrorResponse>";
        let gone = fault(404, xml);
        assert_eq!((gone.code.as_str(), gone.message.as_str()), ("NoSuchEntity", "no role"));
        let slow = fault(400, r#"{"__type":"a.b#ThrottlingException","message":"slow down"}"#);
        assert_eq!(slow.code, "ThrottlingException");
        assert!(is_worth_another_try(&slow.into()));
        assert_eq!(fault(502, "<html>").code, "HTTP 502");
        assert!(!is_worth_another_try(&fault(501, "<a/>").into()), "not implemented stays so");
    }
}
