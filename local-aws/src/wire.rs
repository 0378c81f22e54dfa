//! What all services share on the wire: replies, errors, ids, times, percent coding.

use std::collections::BTreeMap;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};

/// A request as the server hands it on.
pub type Request = http::Request<Body>;
/// A reply as the server sends it.
pub type Response = http::Response<Body>;

/// The characters that URIs leave alone; everything else is percent-encoded.
pub const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An error as AWS's JSON protocols give it.
#[derive(Debug)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// The exception's name.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// Further members of the exception.
    pub extra: Option<Value>,
}

impl ApiError {
    /// An error with a status that is known to be valid.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), extra: None }
    }

    /// What this cloud does not do, by name.
    pub fn not_implemented(what: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            "NotImplemented",
            format!("{what} is not implemented by the embedded cloud"),
        )
    }

    /// A failure of our own, a full disk for example.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "ServiceException", format!("internal error: {error:#}"))
    }

    /// The reply of a JSON protocol; `__type` and the header name the exception for either kind of client.
    pub fn into_response(self, content_type: &'static str) -> Response {
        // Lambda's older exceptions spell the member `Message`, its newer ones and ECR's `message`.
        let key = match self.code {
            "ResourceNotFoundException" | "ServiceException" | "AccessDeniedException" => "Message",
            _ => "message",
        };
        let mut body =
            json!({ "__type": self.code, "Type": if self.status.is_server_error() { "Service" } else { "User" } });
        body[key] = Value::String(self.message);
        if let (Some(Value::Object(extra)), Some(body)) = (self.extra, body.as_object_mut()) {
            body.extend(extra);
        }
        let mut response = json_reply(self.status, content_type, &body);
        response.headers_mut().insert(HeaderName::from_static("x-amzn-errortype"), HeaderValue::from_static(self.code));
        response
    }
}

impl From<anyhow::Error> for ApiError {
    fn from(error: anyhow::Error) -> Self {
        Self::internal(format!("{error:#}"))
    }
}

/// A JSON reply.
pub fn json_reply(status: StatusCode, content_type: &'static str, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A reply without a body.
pub fn empty_reply(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Sets a header; a value that HTTP cannot carry is left out rather than failing the reply.
pub fn set_header(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// A header as text.
pub fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Reads a whole body up to `limit` bytes; `None` when it is larger or breaks off. Of a larger one the rest is read, too, within
/// reason: a client that is still sending would not see the answer.
pub async fn read_body(body: Body, limit: usize) -> Option<Bytes> {
    let mut stream = body.into_data_stream();
    let mut content = BytesMut::new();
    let mut length = 0_usize;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.ok()?;
        length = length.saturating_add(chunk.len());
        if length <= limit {
            content.extend_from_slice(&chunk);
        } else if length > limit.saturating_add(64 << 20) {
            return None;
        }
    }
    (length <= limit).then(|| content.freeze())
}

/// Percent-encodes one path segment or query part.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// Decodes percent escapes.
pub fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The query's parameters, decoded; the last of a repeated name wins.
pub fn query(uri: &http::Uri) -> BTreeMap<String, String> {
    query_pairs(uri.query().unwrap_or_default()).into_iter().collect()
}

/// The query's parameters in order, decoded.
pub fn query_pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
        })
        .collect()
}

/// Text for the inside of an XML element.
pub fn escape_xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A random UUID.
pub fn uuid() -> String {
    let mut bytes = [0_u8; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // Ids need to differ, not to be secret: the clock and a counter do when the system has no randomness.
        use std::sync::atomic::{AtomicU64, Ordering};
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let nanos = chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default().to_le_bytes();
        bytes[..8].copy_from_slice(&nanos);
        bytes[8..].copy_from_slice(&COUNTER.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    }
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Seconds since 1970, as AWS's JSON protocols write times.
pub fn epoch_seconds() -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let seconds = chrono::Utc::now().timestamp_millis() as f64 / 1000.0;
    seconds
}

/// `sha256:<hex>` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

/// The hex part of a well-formed `sha256:` digest. Everything that becomes a file name passes through here.
pub fn digest_hex(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    let valid = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    valid.then_some(hex)
}

/// Streams the next `length` bytes of a file.
pub fn file_body(file: tokio::fs::File, length: u64) -> Body {
    use tokio::io::AsyncReadExt;
    let stream = futures_util::stream::try_unfold(file.take(length), |mut file| async move {
        let mut buffer = Vec::with_capacity(64 << 10);
        let read = (&mut file).take(64 << 10).read_to_end(&mut buffer).await?;
        Ok::<_, std::io::Error>((read > 0).then_some((Bytes::from(buffer), file)))
    });
    Body::from_stream(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_that_are_no_file_names_are_refused() {
        assert!(digest_hex(&digest(b"x")).is_some());
        for bad in ["", "sha256:", "sha256:../../../../etc/passwd", "md5:00", &format!("sha256:{}", "A".repeat(64))] {
            assert!(digest_hex(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn uuids_differ_and_have_their_shape() {
        let (one, two) = (uuid(), uuid());
        assert_ne!(one, two);
        assert_eq!(one.len(), 36);
        assert_eq!(one.as_bytes()[14], b'4');
    }

    #[test]
    fn queries_decode() {
        let pairs = query_pairs("a=1&b=%24LATEST&c&d=x+y&a=2");
        assert_eq!(pairs[1], ("b".into(), "$LATEST".into()));
        assert_eq!(pairs[2], ("c".into(), String::new()));
        assert_eq!(pairs[3].1, "x y");
    }
}
