//! Uploads in parts. They live as long as the process; a client that meets `NoSuchUpload` begins anew.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use s3s::{
    S3ErrorCode, S3Request, S3Response, S3Result,
    crypto::{Checksum as _, Md5},
    dto::*,
};
use tokio::io::AsyncWriteExt;

use super::{
    checksums::{self, Checksums, Received},
    error, internal,
    objects::{condition, headers, metadata},
    store::{Headers, Object, Store},
};
use crate::{disk::lock, wire::uuid};

/// All parts but the last have at least this.
const MIN_PART: u64 = 5 << 20;

/// An upload in progress.
pub struct Upload {
    bucket: String,
    key: String,
    headers: Headers,
    metadata: BTreeMap<String, String>,
    parts: BTreeMap<i32, Arc<Received>>,
}

fn no_upload() -> s3s::S3Error {
    error(
        S3ErrorCode::NoSuchUpload,
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.",
    )
}

/// `CreateMultipartUpload`
pub fn create(
    store: &Store,
    req: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let headers = headers(&req.headers);
    let input = req.input;
    store.bucket(&input.bucket, |_| ())?;
    let id = uuid().replace('-', "");
    let upload = Upload {
        bucket: input.bucket.clone(),
        key: input.key.clone(),
        headers,
        metadata: metadata(input.metadata),
        parts: BTreeMap::new(),
    };
    lock(&store.uploads).insert(id.clone(), upload);
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(id),
        checksum_algorithm: input.checksum_algorithm,
        checksum_type: input.checksum_type,
        ..CreateMultipartUploadOutput::default()
    }))
}

fn with_upload<T>(store: &Store, id: &str, bucket: &str, key: &str, act: impl FnOnce(&mut Upload) -> T) -> S3Result<T> {
    let mut uploads = lock(&store.uploads);
    let upload = uploads.get_mut(id).filter(|upload| upload.bucket == bucket && upload.key == key);
    upload.map(act).ok_or_else(no_upload)
}

/// `UploadPart`
pub async fn upload_part(store: &Store, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
    let input = req.input;
    if !(1..=10_000).contains(&input.part_number) {
        return Err(error(
            S3ErrorCode::InvalidArgument,
            "Part number must be an integer between 1 and 10000, inclusive",
        ));
    }
    with_upload(store, &input.upload_id, &input.bucket, &input.key, |_| ())?;
    let received =
        checksums::receive(&store.data(&input.bucket), input.body, &req.headers, req.trailing_headers).await?;
    let etag = hex::encode(&received.md5);
    let sums = received.checksums.clone();
    with_upload(store, &input.upload_id, &input.bucket, &input.key, |upload| {
        // A part that is sent again replaces the one before, whose file goes with it.
        upload.parts.insert(input.part_number, Arc::new(received));
    })?;
    Ok(S3Response::new(UploadPartOutput {
        e_tag: Some(ETag::Strong(etag)),
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        ..UploadPartOutput::default()
    }))
}

/// `CompleteMultipartUpload`
pub async fn complete(
    store: &Store,
    req: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let input = req.input;
    let condition = condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
    let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
    if named.is_empty() {
        return Err(error(S3ErrorCode::MalformedXML, "You must specify at least one part"));
    }
    let (parts, headers, metadata) = with_upload(store, &input.upload_id, &input.bucket, &input.key, |upload| {
        let mut chosen: Vec<Arc<Received>> = Vec::new();
        let mut last = 0;
        for part in &named {
            let number = part.part_number.unwrap_or_default();
            if number <= last {
                return Err(error(S3ErrorCode::InvalidPartOrder, "The list of parts was not in ascending order."));
            }
            last = number;
            let stored = upload.parts.get(&number).filter(|stored| {
                part.e_tag.as_ref().is_none_or(|etag| etag.value() == hex::encode(&stored.md5))
                    && part
                        .checksum_crc32
                        .as_ref()
                        .is_none_or(|sum| stored.checksums.crc32.as_ref().is_none_or(|own| own == sum))
            });
            let stored = stored.ok_or_else(|| {
                error(
                    S3ErrorCode::InvalidPart,
                    "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified \
                     entity tag may not match the part's entity tag.",
                )
            })?;
            chosen.push(stored.clone());
        }
        let short = chosen.iter().rev().skip(1).any(|part| part.size < MIN_PART);
        if short {
            return Err(error(
                S3ErrorCode::EntityTooSmall,
                "Your proposed upload is smaller than the minimum allowed size",
            ));
        }
        Ok((chosen, upload.headers.clone(), upload.metadata.clone()))
    })??;
    let joined = join(store.data(&input.bucket), &parts).await?;
    let etag = joined.etag.clone();
    let object = Object {
        key: input.key.clone(),
        data: joined.name.clone(),
        size: joined.size,
        etag: joined.etag.clone(),
        modified: chrono::Utc::now(),
        metadata,
        headers,
        // Sums over a whole upload are not kept: what the parts' own sums covered was checked when they came.
        checksums: Checksums::default(),
    };
    store.put(&input.bucket, object, &condition)?;
    joined.keep();
    lock(&store.uploads).remove(&input.upload_id);
    Ok(S3Response::new(CompleteMultipartUploadOutput {
        bucket: Some(input.bucket.clone()),
        location: Some(format!("/{}/{}", input.bucket, input.key)),
        key: Some(input.key),
        e_tag: Some(ETag::Strong(etag)),
        ..CompleteMultipartUploadOutput::default()
    }))
}

/// Parts put together in one file.
struct Joined {
    path: PathBuf,
    name: String,
    size: u64,
    etag: String,
    keep: bool,
}

impl Joined {
    fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

async fn join(directory: PathBuf, parts: &[Arc<Received>]) -> S3Result<Joined> {
    let name = uuid();
    let path = directory.join(&name);
    let mut file = tokio::fs::File::create(&path).await.map_err(internal)?;
    let mut joined = Joined { path, name, size: 0, etag: String::new(), keep: false };
    let mut md5 = Md5::new();
    for part in parts {
        let mut content = tokio::fs::File::open(directory.join(&part.name)).await.map_err(internal)?;
        joined.size += tokio::io::copy(&mut content, &mut file).await.map_err(internal)?;
        md5.update(&part.md5);
    }
    file.flush().await.map_err(internal)?;
    file.sync_all().await.map_err(internal)?;
    joined.etag = format!("{}-{}", hex::encode(md5.finalize().as_ref() as &[u8]), parts.len());
    Ok(joined)
}

/// `AbortMultipartUpload`
pub fn abort(store: &Store, input: &AbortMultipartUploadInput) -> S3Result<()> {
    with_upload(store, &input.upload_id, &input.bucket, &input.key, |_| ())?;
    lock(&store.uploads).remove(&input.upload_id);
    Ok(())
}
