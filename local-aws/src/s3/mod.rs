//! S3: the protocol layer is s3s, which also checks signatures; storage, access and operations are here.

mod access;
mod checksums;
mod multipart;
mod objects;
mod operations;
mod policy;
mod store;

use std::{path::Path, sync::Arc};

use axum::body::Body;
use http::header;

use s3s::{
    S3Error, S3ErrorCode, S3Result,
    auth::{S3Auth, SecretKey},
    service::{S3Service, S3ServiceBuilder},
};

use crate::{
    ACCESS_KEY_ID, SECRET_ACCESS_KEY,
    wire::{Request, Response, escape_xml, set_header, uuid},
};

/// All buckets.
pub struct Buckets(Arc<store::Store>);

impl Buckets {
    /// Reads what there is.
    ///
    /// # Errors
    /// When a state file is damaged or the directory cannot be written.
    pub fn load(root: &Path, region: &str) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(store::Store::load(root, region)?)))
    }

    /// An object's content, for services that read on somebody's behalf.
    ///
    /// # Errors
    /// As `GetObject`; `EntityTooLarge` where it has more than `limit` bytes.
    pub fn read(&self, bucket: &str, key: &str, version: Option<&str>, limit: u64) -> S3Result<Vec<u8>> {
        objects::check_version(version)?;
        let object = self.0.object(bucket, key)?;
        if object.size > limit {
            return Err(error(S3ErrorCode::EntityTooLarge, format!("the object has {} bytes", object.size)));
        }
        std::fs::read(self.0.data(bucket).join(object.data)).map_err(internal)
    }
}

/// The service for all S3 requests.
pub fn service(buckets: &Buckets) -> S3Service {
    let store = buckets.0.clone();
    let mut builder = S3ServiceBuilder::new(operations::Operations(store.clone()));
    builder.set_auth(Credentials);
    builder.set_access(access::Access(store));
    builder.build()
}

/// The one pair of credentials.
struct Credentials;

#[async_trait::async_trait]
impl S3Auth for Credentials {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match access_key {
            ACCESS_KEY_ID => Ok(SecretKey::from(SECRET_ACCESS_KEY)),
            _ => Err(S3ErrorCode::InvalidAccessKeyId.into()),
        }
    }
}

/// Answers one request; `None` when the protocol layer gives up on it.
pub async fn respond(service: &S3Service, request: Request) -> Option<Response> {
    let asked = format!("{} {}", request.method(), request.uri());
    let (parts, body) = request.into_parts();
    let request = http::Request::from_parts(parts, s3s::Body::http_body_unsync(body));
    let response = service.call(request).await.ok()?;
    let id = uuid();
    let failed = response.status().is_client_error() || response.status().is_server_error();
    let xml = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/xml");
    let (parts, body) = response.into_parts();
    let mut body = Body::new(body);
    if failed && xml {
        let text = axum::body::to_bytes(body, 64 << 10).await.ok()?;
        let text = complete_error(&String::from_utf8_lossy(&text), &asked, &id);
        body = Body::from(text);
    }
    let mut response = Response::from_parts(parts, body);
    if failed && xml {
        // It was of the shorter text.
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    set_header(response.headers_mut(), "x-amz-request-id", &id);
    Some(response)
}

/// The protocol layer's own errors leave out what S3's have: a message for people, and the request's id.
fn complete_error(xml: &str, asked: &str, id: &str) -> String {
    let mut xml = xml.replace("<Message>Unknown operation</Message>", "");
    let code = xml.split("<Code>").nth(1).and_then(|rest| rest.split('<').next()).unwrap_or_default();
    if !xml.contains("<Message>") {
        let message = match code {
            "SignatureDoesNotMatch" => {
                "The request signature we calculated does not match the signature you provided. Check your key and signing method."
                    .to_owned()
            }
            "InvalidAccessKeyId" => "The AWS Access Key Id you provided does not exist in our records.".to_owned(),
            "InvalidBucketName" => "The specified bucket is not valid.".to_owned(),
            "NotImplemented" => not_implemented(format!("S3 request {asked}")).message().unwrap_or_default().to_owned(),
            code => format!("{asked}: {code}"),
        };
        xml = xml.replace("</Code>", &format!("</Code><Message>{}</Message>", escape_xml(&message)));
    }
    xml.replace("</Error>", &format!("<RequestId>{id}</RequestId></Error>"))
}

fn error(code: S3ErrorCode, message: impl Into<String>) -> S3Error {
    S3Error::with_message(code, message.into())
}

fn internal(cause: impl std::fmt::Display) -> S3Error {
    error(S3ErrorCode::InternalError, format!("internal error: {cause:#}"))
}

/// What this cloud does not do, by name.
fn not_implemented(what: impl std::fmt::Display) -> S3Error {
    error(S3ErrorCode::NotImplemented, format!("{what} is not implemented by the embedded cloud"))
}
