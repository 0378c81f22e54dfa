//! Operations on objects.

use std::{collections::BTreeMap, io::SeekFrom, time::SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderMap;
use s3s::{S3ErrorCode, S3Request, S3Response, S3Result, dto::*};
use tokio::io::AsyncSeekExt;

use super::{
    checksums, error, internal, not_implemented,
    store::{Condition, Headers, Object, Store},
};
use crate::wire::{encode, file_body, header_text};

/// The headers that an object is given back with.
pub fn headers(headers: &HeaderMap) -> Headers {
    let text = |name: &str| header_text(headers, name).map(str::to_owned);
    // `aws-chunked` says how the body is sent, not what the object is.
    let encoding = text("content-encoding").map(|value| {
        value
            .split(',')
            .map(str::trim)
            .filter(|part| *part != "aws-chunked" && !part.is_empty())
            .collect::<Vec<_>>()
            .join(",")
    });
    Headers {
        content_type: text("content-type").filter(|value| !value.is_empty()),
        cache_control: text("cache-control"),
        content_disposition: text("content-disposition"),
        content_encoding: encoding.filter(|value| !value.is_empty()),
        content_language: text("content-language"),
    }
}

/// The `x-amz-meta-` headers.
pub fn metadata(metadata: Option<Metadata>) -> BTreeMap<String, String> {
    metadata.unwrap_or_default().into_iter().collect()
}

/// The condition of a conditional write.
pub fn condition(if_match: Option<&ETagCondition>, if_none_match: Option<&ETagCondition>) -> S3Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::Always),
        (None, Some(ETagCondition::Any)) => Ok(Condition::Absent),
        (Some(ETagCondition::ETag(etag)), None) => Ok(Condition::Matches(etag.value().to_owned())),
        _ => Err(not_implemented("a write with this combination of If-Match and If-None-Match")),
    }
}

fn timestamp(time: chrono::DateTime<chrono::Utc>) -> Timestamp {
    Timestamp::from(SystemTime::from(time))
}

/// A time as HTTP headers carry it, in whole seconds.
fn seconds(time: chrono::DateTime<chrono::Utc>) -> Timestamp {
    timestamp(chrono::DateTime::from_timestamp(time.timestamp(), 0).unwrap_or(time))
}

/// `PutObject`
pub async fn put(store: &Store, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
    let input = req.input;
    let refused = [
        (
            "acl",
            input.acl.as_ref().is_some_and(|acl| !["private", "bucket-owner-full-control"].contains(&acl.as_str())),
        ),
        ("customer-provided encryption keys", input.sse_customer_algorithm.is_some()),
        ("KMS encryption", input.server_side_encryption.as_ref().is_some_and(|kind| kind.as_str() != "AES256")),
        ("object lock", input.object_lock_mode.is_some() || input.object_lock_legal_hold_status.is_some()),
        ("a storage class", input.storage_class.as_ref().is_some_and(|class| class.as_str() != "STANDARD")),
        ("tagging", input.tagging.is_some()),
        ("a website redirect", input.website_redirect_location.is_some()),
        ("a write offset", input.write_offset_bytes.is_some()),
    ];
    if let Some((what, _)) = refused.iter().find(|(_, set)| *set) {
        return Err(not_implemented(format!("PutObject with {what}")));
    }
    let condition = condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
    store.bucket(&input.bucket, |_| ())?;
    if input.key.len() > 1024 {
        return Err(error(S3ErrorCode::KeyTooLongError, "Your key is too long"));
    }
    let received =
        checksums::receive(&store.data(&input.bucket), input.body, &req.headers, req.trailing_headers).await?;
    let sums = received.checksums.clone();
    let etag = hex::encode(&received.md5);
    let object = Object {
        key: input.key,
        data: received.name.clone(),
        size: received.size,
        etag: etag.clone(),
        modified: chrono::Utc::now(),
        metadata: metadata(input.metadata),
        headers: headers(&req.headers),
        checksums: sums.clone(),
    };
    store.put(&input.bucket, object, &condition)?;
    received.keep();
    Ok(S3Response::new(PutObjectOutput {
        e_tag: Some(ETag::Strong(etag)),
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        server_side_encryption: Some(ServerSideEncryption::from_static(ServerSideEncryption::AES256)),
        ..PutObjectOutput::default()
    }))
}

/// Conditions of a read.
struct Conditions<'a> {
    if_match: Option<&'a ETagCondition>,
    if_none_match: Option<&'a ETagCondition>,
    if_modified_since: Option<&'a Timestamp>,
    if_unmodified_since: Option<&'a Timestamp>,
}

impl Conditions<'_> {
    fn check(&self, object: &Object) -> S3Result<()> {
        let same = |condition: &ETagCondition| match condition {
            ETagCondition::Any => true,
            ETagCondition::ETag(etag) => etag.value() == object.etag,
        };
        let modified = seconds(object.modified);
        let failed = match (self.if_match, self.if_unmodified_since) {
            (Some(condition), _) => !same(condition),
            (None, Some(time)) => modified > *time,
            (None, None) => false,
        };
        if failed {
            return Err(error(
                S3ErrorCode::PreconditionFailed,
                "At least one of the pre-conditions you specified did not hold",
            ));
        }
        let unchanged = match (self.if_none_match, self.if_modified_since) {
            (Some(condition), _) => same(condition),
            (None, Some(time)) => modified <= *time,
            (None, None) => false,
        };
        if unchanged { Err(S3ErrorCode::NotModified.into()) } else { Ok(()) }
    }
}

pub fn check_version(version: Option<&str>) -> S3Result<()> {
    match version {
        None | Some("null") => Ok(()),
        Some(_) => Err(error(S3ErrorCode::NoSuchVersion, "The specified version does not exist.")),
    }
}

/// `GetObject`
pub async fn get(store: &Store, input: GetObjectInput) -> S3Result<S3Response<GetObjectOutput>> {
    check_version(input.version_id.as_deref())?;
    if input.part_number.is_some_and(|number| number != 1) {
        return Err(not_implemented("GetObject with partNumber"));
    }
    let (object, mut file) = loop {
        let object = store.object(&input.bucket, &input.key)?;
        match tokio::fs::File::open(store.data(&input.bucket).join(&object.data)).await {
            Ok(file) => break (object, file),
            // Replaced between the two steps: look again. The same file twice is lost.
            Err(_) if store.object(&input.bucket, &input.key)?.data != object.data => {}
            Err(cause) => return Err(internal(cause)),
        }
    };
    Conditions {
        if_match: input.if_match.as_ref(),
        if_none_match: input.if_none_match.as_ref(),
        if_modified_since: input.if_modified_since.as_ref(),
        if_unmodified_since: input.if_unmodified_since.as_ref(),
    }
    .check(&object)?;
    let (mut length, mut content_range) = (object.size, None);
    if let Some(range) = input.range {
        let range = range
            .check(object.size)
            .map_err(|_| error(S3ErrorCode::InvalidRange, "The requested range is not satisfiable"))?;
        file.seek(SeekFrom::Start(range.start)).await.map_err(internal)?;
        length = range.end - range.start;
        content_range = Some(format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), object.size));
    }
    let enabled = input.checksum_mode.as_ref().is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED);
    // A checksum covers the whole object; given with a part of it, clients would compare the two.
    let sums =
        if enabled && content_range.is_none() { object.checksums.clone() } else { checksums::Checksums::default() };
    let body = s3s::Body::http_body_unsync(file_body(file, length));
    let headers = object.headers;
    Ok(S3Response::new(GetObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        body: Some(StreamingBlob::from(body)),
        content_length: i64::try_from(length).ok(),
        content_range,
        content_type: Some(headers.content_type.unwrap_or_else(|| "binary/octet-stream".to_owned())),
        cache_control: headers.cache_control,
        content_disposition: headers.content_disposition,
        content_encoding: headers.content_encoding,
        content_language: headers.content_language,
        e_tag: Some(ETag::Strong(object.etag)),
        last_modified: Some(timestamp(object.modified)),
        metadata: Some(object.metadata.into_iter().collect()),
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        ..GetObjectOutput::default()
    }))
}

/// `HeadObject`
pub fn head(store: &Store, input: &HeadObjectInput) -> S3Result<S3Response<HeadObjectOutput>> {
    check_version(input.version_id.as_deref())?;
    let object = store.object(&input.bucket, &input.key)?;
    Conditions {
        if_match: input.if_match.as_ref(),
        if_none_match: input.if_none_match.as_ref(),
        if_modified_since: input.if_modified_since.as_ref(),
        if_unmodified_since: input.if_unmodified_since.as_ref(),
    }
    .check(&object)?;
    let enabled = input.checksum_mode.as_ref().is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED);
    let sums = if enabled { object.checksums } else { checksums::Checksums::default() };
    let headers = object.headers;
    Ok(S3Response::new(HeadObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        content_length: i64::try_from(object.size).ok(),
        content_type: Some(headers.content_type.unwrap_or_else(|| "binary/octet-stream".to_owned())),
        cache_control: headers.cache_control,
        content_disposition: headers.content_disposition,
        content_encoding: headers.content_encoding,
        content_language: headers.content_language,
        e_tag: Some(ETag::Strong(object.etag)),
        last_modified: Some(timestamp(object.modified)),
        metadata: Some(object.metadata.into_iter().collect()),
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        ..HeadObjectOutput::default()
    }))
}

/// `DeleteObject`
pub fn delete(store: &Store, input: &DeleteObjectInput) -> S3Result<S3Response<DeleteObjectOutput>> {
    check_version(input.version_id.as_deref())?;
    if input.if_match.is_some() || input.if_match_size.is_some() || input.if_match_last_modified_time.is_some() {
        return Err(not_implemented("DeleteObject with a condition"));
    }
    store.delete(&input.bucket, &input.key)?;
    Ok(S3Response::new(DeleteObjectOutput::default()))
}

/// `DeleteObjects`
pub fn delete_many(store: &Store, input: DeleteObjectsInput) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let quiet = input.delete.quiet == Some(true);
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for object in input.delete.objects {
        match check_version(object.version_id.as_deref()).and_then(|()| store.delete(&input.bucket, &object.key)) {
            Ok(()) => deleted.push(DeletedObject { key: Some(object.key), ..DeletedObject::default() }),
            Err(cause) if *cause.code() == S3ErrorCode::NoSuchBucket => return Err(cause),
            Err(cause) => errors.push(Error {
                code: Some(cause.code().as_str().to_owned()),
                key: Some(object.key),
                message: cause.message().map(str::to_owned),
                version_id: object.version_id,
            }),
        }
    }
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: (!quiet).then_some(deleted),
        errors: (!errors.is_empty()).then_some(errors),
        ..DeleteObjectsOutput::default()
    }))
}

/// One line of a listing.
enum Line {
    Object(Box<Object>),
    Prefix(String),
}

/// `ListObjectsV2`
pub fn list(store: &Store, input: ListObjectsV2Input) -> S3Result<S3Response<ListObjectsV2Output>> {
    let prefix = input.prefix.clone().unwrap_or_default();
    let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
    let limit = usize::try_from(input.max_keys.unwrap_or(1000))
        .map_err(|_| {
            error(S3ErrorCode::InvalidArgument, "Argument maxKeys must be an integer between 0 and 2147483647")
        })?
        .min(1000);
    let after = match &input.continuation_token {
        Some(token) => STANDARD
            .decode(token)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| error(S3ErrorCode::InvalidArgument, "The continuation token provided is incorrect"))?,
        None => input.start_after.clone().unwrap_or_default(),
    };
    let (lines, truncated) = store.bucket(&input.bucket, |bucket| {
        let mut lines: Vec<Line> = Vec::new();
        for (key, object) in bucket.objects.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix)) {
            let common = delimiter.as_ref().and_then(|delimiter| {
                let at = key[prefix.len()..].find(delimiter.as_str())?;
                Some(&key[..prefix.len() + at + delimiter.len()])
            });
            // A common prefix that was listed on an earlier page comes after that page's token together with all its keys.
            if key.as_str() <= after.as_str() || common.is_some_and(|common| common <= after.as_str()) {
                continue;
            }
            if let (Some(common), Some(Line::Prefix(last))) = (common, lines.last())
                && common == last
            {
                continue;
            }
            if lines.len() == limit {
                return (lines, true);
            }
            lines.push(match common {
                Some(common) => Line::Prefix(common.to_owned()),
                None => Line::Object(Box::new(object.clone())),
            });
        }
        (lines, false)
    })?;
    let next = lines.last().filter(|_| truncated).map(|line| match line {
        Line::Object(object) => STANDARD.encode(&object.key),
        Line::Prefix(prefix) => STANDARD.encode(prefix),
    });
    let url = input.encoding_type.as_ref().is_some_and(|kind| kind.as_str() == EncodingType::URL);
    // Encoded keys keep their slashes, as in S3.
    let shown = |key: &str| if url { key.split('/').map(encode).collect::<Vec<_>>().join("/") } else { key.to_owned() };
    let (mut contents, mut prefixes) = (Vec::new(), Vec::new());
    let count = lines.len();
    for line in lines {
        match line {
            Line::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(shown(&prefix)) }),
            Line::Object(object) => contents.push(s3s::dto::Object {
                key: Some(shown(&object.key)),
                size: i64::try_from(object.size).ok(),
                e_tag: Some(ETag::Strong(object.etag)),
                last_modified: Some(timestamp(object.modified)),
                storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                ..s3s::dto::Object::default()
            }),
        }
    }
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(shown(&prefix)),
        delimiter: input.delimiter.as_deref().map(shown),
        start_after: input.start_after.as_deref().map(shown),
        max_keys: i32::try_from(limit).ok(),
        key_count: i32::try_from(count).ok(),
        is_truncated: Some(truncated),
        continuation_token: input.continuation_token,
        next_continuation_token: next,
        encoding_type: input.encoding_type,
        contents: Some(contents),
        common_prefixes: Some(prefixes),
        ..ListObjectsV2Output::default()
    }))
}
