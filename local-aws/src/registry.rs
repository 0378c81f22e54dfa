//! The image registry: `/v2/` of the OCI distribution specification, as ECR serves it.

use std::{
    collections::{BTreeMap, HashMap},
    io::SeekFrom,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use axum::body::{Body, BodyDataStream};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::StreamExt;
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    fs,
    io::{AsyncSeekExt, AsyncWriteExt},
};

use crate::{
    disk::{self, lock},
    ecr::repositories::{OCI_INDEX, PushError},
    server::Cloud,
    wire::{
        ApiError, Request, Response, digest_hex, empty_reply, encode, file_body, header_text, json_reply, query,
        read_body, set_header, uuid,
    },
};

/// Larger manifests are refused, as by other registries.
const MAX_MANIFEST: usize = 4 << 20;

/// Blob uploads in progress. They are of one process: what a killed one left is removed at the next start.
pub struct Uploads {
    directory: PathBuf,
    open: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Upload>>>>,
}

struct Upload {
    repository: String,
    path: PathBuf,
    file: fs::File,
    hash: Sha256,
    length: u64,
}

impl Uploads {
    /// Starts with none.
    ///
    /// # Errors
    /// When the directory cannot be emptied.
    pub fn new(root: &Path) -> anyhow::Result<Self> {
        let directory = root.join("uploads");
        disk::fresh_directory(&directory)?;
        Ok(Self { directory, open: Mutex::default() })
    }

    async fn begin(&self, repository: &str) -> Result<(String, Arc<tokio::sync::Mutex<Upload>>), RegistryError> {
        let id = uuid();
        let path = self.directory.join(&id);
        let file = fs::File::create(&path).await?;
        let upload = Upload { repository: repository.to_owned(), path, file, hash: Sha256::new(), length: 0 };
        let upload = Arc::new(tokio::sync::Mutex::new(upload));
        lock(&self.open).insert(id.clone(), upload.clone());
        Ok((id, upload))
    }

    fn get(&self, id: &str) -> Result<Arc<tokio::sync::Mutex<Upload>>, RegistryError> {
        let upload = lock(&self.open).get(id).cloned();
        upload.ok_or_else(|| {
            RegistryError::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        })
    }

    async fn discard(&self, id: &str) {
        let upload = lock(&self.open).remove(id);
        if let Some(upload) = upload {
            let _ = fs::remove_file(&upload.lock().await.path).await;
        }
    }
}

impl Upload {
    /// Appends a body as it arrives. What arrived before a broken connection stays, and `length` says how much that was.
    async fn append(&mut self, mut body: BodyDataStream) -> Result<(), RegistryError> {
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|_| {
                RegistryError::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", "the body broke off before its end")
            })?;
            self.file.write_all(&chunk).await?;
            self.hash.update(&chunk);
            self.length += chunk.len() as u64;
        }
        self.file.flush().await?;
        Ok(())
    }
}

/// An error in the registry's own form.
#[derive(Debug)]
struct RegistryError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl RegistryError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    fn no_repository(name: &str) -> Self {
        let message =
            format!("The repository with name '{name}' does not exist in the registry with id '{}'", crate::ACCOUNT_ID);
        Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message)
    }
}

impl From<std::io::Error> for RegistryError {
    fn from(error: std::io::Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", format!("internal error: {error}"))
    }
}

impl From<anyhow::Error> for RegistryError {
    fn from(error: anyhow::Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", format!("internal error: {error:#}"))
    }
}

type RegistryResult = Result<Response, RegistryError>;

/// Answers a request below `/v2`.
pub async fn respond(cloud: &Cloud, request: Request) -> Response {
    let mut response = match route(cloud, request).await {
        Ok(response) => response,
        Err(error) => {
            let body = json!({ "errors": [{ "code": error.code, "message": error.message }] });
            let mut response = json_reply(error.status, "application/json", &body);
            if error.status == StatusCode::UNAUTHORIZED {
                let realm = format!("Basic realm=\"http://{}/\",service=\"ecr.amazonaws.com\"", cloud.host);
                set_header(response.headers_mut(), "www-authenticate", &realm);
            }
            response
        }
    };
    set_header(response.headers_mut(), "docker-distribution-api-version", "registry/2.0");
    response
}

async fn route(cloud: &Cloud, request: Request) -> RegistryResult {
    let (parts, body) = request.into_parts();
    if !authorized(cloud, &parts.headers) {
        return Err(RegistryError::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "Not Authorized"));
    }
    let path = parts.uri.path().trim_start_matches("/v2").trim_matches('/').to_owned();
    let query = query(&parts.uri);
    let unknown = || {
        let message = ApiError::not_implemented(format!("{} /v2/{path}", parts.method)).message;
        RegistryError::new(StatusCode::NOT_IMPLEMENTED, "UNSUPPORTED", message)
    };
    if path.is_empty() {
        return Ok(json_reply(StatusCode::OK, "application/json", &json!({})));
    }
    let segments: Vec<&str> = path.split('/').collect();
    let (name, rest) = match segments[..] {
        [ref name @ .., "blobs", "uploads"] => (name.join("/"), vec!["uploads"]),
        [ref name @ .., "blobs", "uploads", id] => (name.join("/"), vec!["uploads", id]),
        [ref name @ .., "tags", "list"] => (name.join("/"), vec!["tags"]),
        [ref name @ .., kind @ ("blobs" | "manifests" | "referrers"), reference] => {
            (name.join("/"), vec![kind, reference])
        }
        _ => return Err(unknown()),
    };
    if !cloud.repositories.exists(&name) {
        return Err(RegistryError::no_repository(&name));
    }
    let at = At { cloud, name: &name, headers: &parts.headers, query: &query };
    match (&parts.method, &rest[..]) {
        (&Method::POST, ["uploads"]) => at.begin_upload(body).await,
        (&Method::GET, ["uploads", id]) => at.upload_status(id).await,
        (&Method::PATCH, ["uploads", id]) => at.continue_upload(id, body).await,
        (&Method::PUT, ["uploads", id]) => at.finish_upload(id, body).await,
        (&Method::DELETE, ["uploads", id]) => {
            cloud.uploads.get(id)?;
            cloud.uploads.discard(id).await;
            Ok(empty_reply(StatusCode::NO_CONTENT))
        }
        (&Method::GET | &Method::HEAD, ["blobs", digest]) => at.blob(&parts.method, digest).await,
        (&Method::GET | &Method::HEAD, ["manifests", reference]) => at.manifest(&parts.method, reference),
        (&Method::PUT, ["manifests", reference]) => at.put_manifest(reference, body).await,
        (&Method::DELETE, ["manifests", reference]) => at.delete_manifest(reference),
        (&Method::GET, ["tags"]) => Ok(at.tags()),
        (&Method::GET, ["referrers", digest]) => at.referrers(digest),
        _ => Err(unknown()),
    }
}

fn authorized(cloud: &Cloud, headers: &HeaderMap) -> bool {
    header_text(headers, "authorization")
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, value)| STANDARD.decode(value.trim()).ok())
        .is_some_and(|pair| pair == format!("AWS:{}", cloud.registry_token).into_bytes())
}

/// A request at a repository that exists.
struct At<'a> {
    cloud: &'a Cloud,
    name: &'a str,
    headers: &'a HeaderMap,
    query: &'a BTreeMap<String, String>,
}

/// How an index of referrers lists a manifest: with its annotations, and with what it is.
fn descriptor(digest: &str, media_type: &str, manifest: &[u8]) -> anyhow::Result<Value> {
    let document: Value = serde_json::from_slice(manifest)?;
    let kind =
        if document["artifactType"].is_string() { &document["artifactType"] } else { &document["config"]["mediaType"] };
    let mut descriptor = json!({ "mediaType": media_type, "digest": digest, "size": manifest.len() });
    for (name, value) in [("artifactType", kind), ("annotations", &document["annotations"])] {
        if !value.is_null() {
            descriptor[name] = value.clone();
        }
    }
    Ok(descriptor)
}

impl At<'_> {
    async fn begin_upload(&self, body: Body) -> RegistryResult {
        let repositories = &self.cloud.repositories;
        if let (Some(digest), Some(from)) = (self.query.get("mount"), self.query.get("from")) {
            // A mount that is not possible becomes an ordinary upload, by the specification.
            if repositories.linked_blob(from, digest).is_some() {
                repositories.link_blob(self.name, digest)?;
                return Ok(self.blob_created(digest));
            }
        }
        let (id, upload) = self.cloud.uploads.begin(self.name).await?;
        if self.query.contains_key("digest") {
            drop(upload);
            return self.finish_upload(&id, body).await;
        }
        Ok(self.upload_progress(&id, 0, StatusCode::ACCEPTED))
    }

    async fn upload_status(&self, id: &str) -> RegistryResult {
        let upload = self.cloud.uploads.get(id)?;
        let length = upload.lock().await.length;
        Ok(self.upload_progress(id, length, StatusCode::NO_CONTENT))
    }

    async fn continue_upload(&self, id: &str, body: Body) -> RegistryResult {
        let upload = self.cloud.uploads.get(id)?;
        let mut upload = upload.lock().await;
        self.check_place(&upload)?;
        upload.append(body.into_data_stream()).await?;
        Ok(self.upload_progress(id, upload.length, StatusCode::ACCEPTED))
    }

    async fn finish_upload(&self, id: &str, body: Body) -> RegistryResult {
        let upload = self.cloud.uploads.get(id)?;
        let mut upload = upload.lock().await;
        self.check_place(&upload)?;
        upload.append(body.into_data_stream()).await?;
        let invalid = |message: String| RegistryError::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message);
        let stated = self.query.get("digest").map(String::as_str).unwrap_or_default();
        let actual = format!("sha256:{}", hex::encode(upload.hash.clone().finalize()));
        let stored = self.cloud.repositories.blob_path(stated);
        let result = match stored {
            Some(target) if stated == actual => {
                upload.file.sync_all().await?;
                fs::rename(&upload.path, &target).await?;
                disk::sync_directory(target.parent().unwrap_or(&target))?;
                self.cloud.repositories.link_blob(self.name, stated)?;
                Ok(self.blob_created(stated))
            }
            None => Err(invalid(format!("'{stated}' is not a sha256 digest"))),
            Some(_) => Err(invalid(format!("the content has the digest {actual}, not {stated}"))),
        };
        drop(upload);
        self.cloud.uploads.discard(id).await;
        result
    }

    fn check_place(&self, upload: &Upload) -> Result<(), RegistryError> {
        if upload.repository != self.name {
            return Err(RegistryError::new(
                StatusCode::NOT_FOUND,
                "BLOB_UPLOAD_UNKNOWN",
                "blob upload unknown to registry",
            ));
        }
        let start = header_text(self.headers, "content-range").map(|range| {
            range.trim_start_matches("bytes ").split('-').next().and_then(|start| start.parse::<u64>().ok())
        });
        match start {
            Some(start) if start != Some(upload.length) => Err(RegistryError::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "BLOB_UPLOAD_INVALID",
                format!("the next chunk starts at {}", upload.length),
            )),
            _ => Ok(()),
        }
    }

    fn upload_progress(&self, id: &str, length: u64, status: StatusCode) -> Response {
        let mut response = empty_reply(status);
        let headers = response.headers_mut();
        set_header(headers, "location", &format!("/v2/{}/blobs/uploads/{id}", self.name));
        set_header(headers, "docker-upload-uuid", id);
        set_header(headers, "range", &format!("0-{}", length.saturating_sub(1)));
        response
    }

    fn blob_created(&self, digest: &str) -> Response {
        let mut response = empty_reply(StatusCode::CREATED);
        set_header(response.headers_mut(), "location", &format!("/v2/{}/blobs/{digest}", self.name));
        set_header(response.headers_mut(), "docker-content-digest", digest);
        response
    }

    async fn blob(&self, method: &Method, digest: &str) -> RegistryResult {
        let unknown = || RegistryError::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry");
        let path = self.cloud.repositories.linked_blob(self.name, digest).ok_or_else(unknown)?;
        let mut file = fs::File::open(path).await?;
        let length = file.metadata().await?.len();
        let range = header_text(self.headers, "range").map(s3s::dto::Range::parse);
        let mut response = empty_reply(StatusCode::OK);
        let headers = response.headers_mut();
        set_header(headers, "docker-content-digest", digest);
        set_header(headers, "accept-ranges", "bytes");
        set_header(headers, "content-type", "application/octet-stream");
        let (start, end) = match range {
            // A header that is no range is ignored, as HTTP asks for.
            None | Some(Err(_)) => (0, length),
            Some(Ok(range)) => {
                let range = range.check(length).map_err(|_| {
                    RegistryError::new(
                        StatusCode::RANGE_NOT_SATISFIABLE,
                        "RANGE_INVALID",
                        format!("the blob has {length} bytes"),
                    )
                })?;
                set_header(
                    headers,
                    "content-range",
                    &format!("bytes {}-{}/{length}", range.start, range.end.saturating_sub(1)),
                );
                file.seek(SeekFrom::Start(range.start)).await?;
                (range.start, range.end)
            }
        };
        headers.insert(header::CONTENT_LENGTH, (end - start).into());
        if end - start != length {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        if method == Method::GET {
            *response.body_mut() = file_body(file, end - start);
        }
        Ok(response)
    }

    fn manifest(&self, method: &Method, reference: &str) -> RegistryResult {
        let repositories = &self.cloud.repositories;
        let repository = repositories.get(self.name).ok_or_else(|| RegistryError::no_repository(self.name))?;
        let unknown = || {
            RegistryError::new(
                StatusCode::NOT_FOUND,
                "MANIFEST_UNKNOWN",
                format!("Requested image not found: {reference}"),
            )
        };
        let digest = repository.resolve(reference).ok_or_else(unknown)?;
        let manifest = repositories.manifest(digest)?;
        let mut response = empty_reply(StatusCode::OK);
        let headers = response.headers_mut();
        set_header(headers, "docker-content-digest", digest);
        set_header(headers, "content-type", &repository.images[digest].media_type);
        headers.insert(header::CONTENT_LENGTH, manifest.len().into());
        if method == Method::GET {
            *response.body_mut() = Body::from(manifest);
        }
        Ok(response)
    }

    async fn put_manifest(&self, reference: &str, body: Body) -> RegistryResult {
        let invalid = |message: &str| RegistryError::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message);
        let manifest = read_body(body, MAX_MANIFEST).await.ok_or_else(|| {
            RegistryError::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", "a manifest has at most 4 MiB")
        })?;
        let media_type = header_text(self.headers, "content-type");
        let media_type =
            media_type.and_then(|value| value.split(';').next()).map(str::trim).filter(|value| !value.is_empty());
        let (tag, digest) = if reference.contains(':') {
            if digest_hex(reference).is_none() {
                return Err(RegistryError::new(
                    StatusCode::BAD_REQUEST,
                    "DIGEST_INVALID",
                    "only sha256 digests are taken",
                ));
            }
            (None, Some(reference))
        } else {
            if !crate::ecr::valid_tag(reference) {
                return Err(RegistryError::new(
                    StatusCode::BAD_REQUEST,
                    "TAG_INVALID",
                    format!("'{reference}' is not a tag"),
                ));
            }
            (Some(reference), None)
        };
        let pushed = self.cloud.repositories.push(self.name, tag, digest, media_type, &manifest);
        let pushed = pushed.map_err(|error| match error {
            PushError::NoRepository => RegistryError::no_repository(self.name),
            PushError::Invalid(reason) => invalid(&reason),
            PushError::Missing(digests) => RegistryError::new(
                StatusCode::BAD_REQUEST,
                "MANIFEST_BLOB_UNKNOWN",
                format!("not pushed to this repository: {}", digests.join(", ")),
            ),
            PushError::TagImmutable => RegistryError::new(
                StatusCode::BAD_REQUEST,
                "TAG_INVALID",
                format!(
                    "The image tag '{reference}' already exists in the '{}' repository and cannot be overwritten because the \
                     repository is immutable.",
                    self.name
                ),
            ),
            PushError::DigestMismatch(actual) => {
                RegistryError::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", format!("the manifest has the digest {actual}"))
            }
            PushError::Internal(error) => error.into(),
        })?;
        let mut response = empty_reply(StatusCode::CREATED);
        set_header(response.headers_mut(), "location", &format!("/v2/{}/manifests/{}", self.name, pushed.digest));
        set_header(response.headers_mut(), "docker-content-digest", &pushed.digest);
        if let Some(subject) = &pushed.subject {
            set_header(response.headers_mut(), "oci-subject", subject);
        }
        Ok(response)
    }

    /// An index of the manifests that say something about an image, whether that image is there or not.
    fn referrers(&self, subject: &str) -> RegistryResult {
        if digest_hex(subject).is_none() {
            let message = format!("'{subject}' is not a sha256 digest");
            return Err(RegistryError::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message));
        }
        let repository = self.cloud.repositories.get(self.name).unwrap_or_default();
        let wanted = self.query.get("artifactType");
        let mut descriptors = Vec::new();
        for (digest, image) in repository.images.iter().filter(|(_, image)| image.subject.as_deref() == Some(subject)) {
            let descriptor = descriptor(digest, &image.media_type, &self.cloud.repositories.manifest(digest)?)?;
            if wanted.is_none_or(|wanted| descriptor["artifactType"] == **wanted) {
                descriptors.push(descriptor);
            }
        }
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors });
        let mut response = json_reply(StatusCode::OK, OCI_INDEX, &index);
        if wanted.is_some() {
            set_header(response.headers_mut(), "oci-filters-applied", "artifactType");
        }
        Ok(response)
    }

    fn delete_manifest(&self, reference: &str) -> RegistryResult {
        let removed = self.cloud.repositories.change(self.name, |repository| {
            if reference.contains(':') {
                repository.tags.retain(|_, digest| digest != reference);
                Ok::<_, RegistryError>(repository.images.remove(reference).is_some())
            } else {
                Ok(repository.tags.remove(reference).is_some())
            }
        });
        match removed {
            None => Err(RegistryError::no_repository(self.name)),
            Some(Ok(false)) => {
                Err(RegistryError::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown to registry"))
            }
            Some(Ok(true)) => Ok(empty_reply(StatusCode::ACCEPTED)),
            Some(Err(error)) => Err(error),
        }
    }

    fn tags(&self) -> Response {
        let repository = self.cloud.repositories.get(self.name).unwrap_or_default();
        let last = self.query.get("last").map(String::as_str).unwrap_or_default();
        let limit = self.query.get("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
        let after: Vec<&str> = repository.tags.keys().map(String::as_str).filter(|tag| *tag > last).collect();
        let page = &after[..after.len().min(limit)];
        let mut response = json_reply(StatusCode::OK, "application/json", &json!({ "name": self.name, "tags": page }));
        if let (Some(last), true) = (page.last(), page.len() < after.len()) {
            let next = format!("</v2/{}/tags/list?n={limit}&last={}>; rel=\"next\"", self.name, encode(last));
            set_header(response.headers_mut(), "link", &next);
        }
        response
    }
}
