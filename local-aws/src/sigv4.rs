//! Signature version 4 as ECR and Lambda check it. (S3 requests are checked by the S3 protocol layer.)
//!
//! The check is not for secrecy, the credentials are public; it keeps pages open in a browser on the same machine from driving
//! the control planes, and shows a client's wrong region, service or body before AWS does.

use http::{HeaderMap, StatusCode, request::Parts};
use sha2::{Digest, Sha256};

use crate::{
    ACCESS_KEY_ID, SECRET_ACCESS_KEY,
    wire::{ApiError, decode, encode, header_text},
};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// The parts of an `Authorization` header.
#[derive(Debug)]
pub struct Authorization<'a> {
    access_key: &'a str,
    date: &'a str,
    region: &'a str,
    /// The service in the credential's scope, `lambda` for example.
    pub service: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    /// Reads the header; `None` when there is none or it is of another kind.
    pub fn read(headers: &'a HeaderMap) -> Option<Self> {
        let rest = header_text(headers, "authorization")?.strip_prefix(ALGORITHM)?;
        let mut parts = [None; 3];
        for part in rest.split(',') {
            let (name, value) = part.trim().split_once('=')?;
            let index = ["Credential", "SignedHeaders", "Signature"].iter().position(|known| *known == name)?;
            parts[index] = Some(value);
        }
        let [Some(credential), Some(signed_headers), Some(signature)] = parts else { return None };
        let scope: Vec<&str> = credential.split('/').collect();
        let [access_key, date, region, service, "aws4_request"] = scope[..] else { return None };
        Some(Self { access_key, date, region, service, signed_headers, signature })
    }
}

/// Checks that a request was signed with the embedded cloud's credentials.
///
/// # Errors
/// The exception that AWS answers.
pub fn verify(parts: &Parts, body: &[u8]) -> Result<(), ApiError> {
    let Some(authorization) = Authorization::read(&parts.headers) else {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "MissingAuthenticationTokenException",
            "Missing Authentication Token",
        ));
    };
    if authorization.access_key != ACCESS_KEY_ID {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        ));
    }
    let time = header_text(&parts.headers, "x-amz-date").unwrap_or_default();
    let age = chrono::NaiveDateTime::parse_from_str(time, "%Y%m%dT%H%M%SZ")
        .map(|time| (chrono::Utc::now().naive_utc() - time).num_seconds().abs());
    if !matches!(age, Ok(age) if age <= 15 * 60) {
        return Err(invalid(format!("Signature expired or not yet current: {time}")));
    }
    let stated = header_text(&parts.headers, "x-amz-content-sha256");
    let actual = hex::encode(Sha256::digest(body));
    let payload = match stated {
        Some("UNSIGNED-PAYLOAD") => "UNSIGNED-PAYLOAD",
        Some(stated) if stated != actual => {
            return Err(invalid("The provided x-amz-content-sha256 header does not match what was computed."));
        }
        _ => actual.as_str(),
    };
    let canonical = canonical_request(parts, authorization.signed_headers, payload);
    let scope = format!("{}/{}/{}/aws4_request", authorization.date, authorization.region, authorization.service);
    let text = format!("{ALGORITHM}\n{time}\n{scope}\n{}", hex::encode(Sha256::digest(canonical.as_bytes())));
    let key = [authorization.region, authorization.service, "aws4_request"]
        .iter()
        .fold(hmac(format!("AWS4{SECRET_ACCESS_KEY}").as_bytes(), authorization.date.as_bytes()), |key, part| {
            hmac(&key, part.as_bytes())
        });
    if hex::encode(hmac(&key, text.as_bytes())) != authorization.signature {
        return Err(invalid(
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key \
             and signing method.",
        ));
    }
    Ok(())
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, "InvalidSignatureException", message)
}

fn canonical_request(parts: &Parts, signed_headers: &str, payload: &str) -> String {
    // All services but S3 encode the path, as it was sent, once more.
    let path = parts.uri.path().split('/').map(encode).collect::<Vec<_>>().join("/");
    let mut query: Vec<(String, String)> = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (encode(&decode(name)), encode(&decode(value)))
        })
        .collect();
    query.sort();
    let query = query.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
    let mut headers = String::new();
    for name in signed_headers.split(';') {
        let values = parts.headers.get_all(name).iter().map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes());
            text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
        });
        headers.push_str(&format!("{name}:{}\n", values.collect::<Vec<_>>().join(",")));
    }
    format!("{}\n{path}\n{query}\n{headers}\n{signed_headers}\n{payload}", parts.method)
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_agrees_with_rfc_4231() {
        assert_eq!(
            hex::encode(hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex::encode(hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn malformed_authorizations_are_none() {
        for text in
            ["", "Basic eA==", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=x, Signature=y"]
        {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", text.parse().expect("a header"));
            assert!(Authorization::read(&headers).is_none(), "{text}");
        }
    }
}
