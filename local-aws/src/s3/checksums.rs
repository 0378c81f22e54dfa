//! Receiving content: written to disk as it arrives, hashed on the way, compared with what the sender says it is.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::StreamExt;
use http::HeaderMap;
use s3s::{
    S3ErrorCode, S3Result, TrailingHeaders,
    checksum::ChecksumHasher,
    crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256},
    dto::StreamingBlob,
};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use super::{error, internal};
use crate::wire::{header_text, uuid};

/// Checksums of some content, base64.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksums {
    /// CRC-32
    pub crc32: Option<String>,
    /// CRC-32C
    pub crc32c: Option<String>,
    /// CRC-64/NVME
    pub crc64nvme: Option<String>,
    /// SHA-1
    pub sha1: Option<String>,
    /// SHA-256
    pub sha256: Option<String>,
}

const NAMES: [&str; 5] = ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"];

impl Checksums {
    fn fields(&mut self) -> [&mut Option<String>; 5] {
        [&mut self.crc32, &mut self.crc32c, &mut self.crc64nvme, &mut self.sha1, &mut self.sha256]
    }

    /// Takes the checksums that headers (or trailers) state.
    fn read(&mut self, headers: &HeaderMap) {
        for (field, name) in self.fields().into_iter().zip(NAMES) {
            if let Some(value) = header_text(headers, &format!("x-amz-checksum-{name}")) {
                *field = Some(value.to_owned());
            }
        }
    }
}

/// Content that arrived and is durable under a name of its own.
#[derive(Debug)]
pub struct Received {
    /// The file's name.
    pub name: String,
    /// Its size.
    pub size: u64,
    /// Its MD5.
    pub md5: Vec<u8>,
    /// The checksums that were stated, which are right.
    pub checksums: Checksums,
    path: PathBuf,
    keep: bool,
}

impl Received {
    /// The content has an owner now and stays.
    pub fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Receives a body into a new file in `directory`.
///
/// # Errors
/// `BadDigest` when it is not what was stated, `IncompleteBody` when it breaks off.
pub async fn receive(
    directory: &Path,
    body: Option<StreamingBlob>,
    headers: &HeaderMap,
    trailers: Option<TrailingHeaders>,
) -> S3Result<Received> {
    let mut stated = Checksums::default();
    stated.read(headers);
    let announced = header_text(headers, "x-amz-trailer").unwrap_or_default().to_ascii_lowercase();
    let wanted = |at: usize, stated: &mut Checksums| {
        stated.fields()[at].is_some()
            || announced.split(',').any(|name| name.trim() == format!("x-amz-checksum-{}", NAMES[at]))
    };
    let mut hasher = ChecksumHasher {
        crc32: wanted(0, &mut stated).then(Crc32::new),
        crc32c: wanted(1, &mut stated).then(Crc32c::new),
        crc64nvme: wanted(2, &mut stated).then(Crc64Nvme::new),
        sha1: wanted(3, &mut stated).then(Sha1::new),
        sha256: wanted(4, &mut stated).then(Sha256::new),
    };
    let mut md5 = Md5::new();
    let name = uuid();
    let path = directory.join(&name);
    let mut file = tokio::fs::File::create(&path).await.map_err(internal)?;
    let mut received = Received { name, size: 0, md5: Vec::new(), checksums: Checksums::default(), path, keep: false };
    if let Some(mut body) = body {
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|cause| match cause.downcast::<s3s::S3Error>() {
                // The protocol layer's own verdicts, a wrong chunk signature for example.
                Ok(verdict) => *verdict,
                Err(cause) => broken(&cause.to_string()),
            })?;
            hasher.update(&chunk);
            md5.update(&chunk);
            received.size += chunk.len() as u64;
            file.write_all(&chunk).await.map_err(internal)?;
        }
    }
    if let Some(trailers) = trailers {
        trailers.read(|trailers| stated.read(trailers));
    }
    let actual = hasher.finalize();
    let mut actual = Checksums {
        crc32: actual.checksum_crc32,
        crc32c: actual.checksum_crc32c,
        crc64nvme: actual.checksum_crc64nvme,
        sha1: actual.checksum_sha1,
        sha256: actual.checksum_sha256,
    };
    for ((stated, actual), name) in stated.fields().into_iter().zip(actual.fields()).zip(NAMES) {
        if stated.is_some() && stated != actual {
            let name = name.to_uppercase();
            return Err(error(
                S3ErrorCode::BadDigest,
                format!("The {name} you specified did not match the calculated checksum."),
            ));
        }
    }
    received.checksums = stated;
    received.md5 = md5.finalize().as_ref().to_vec();
    if let Some(stated) = header_text(headers, "content-md5")
        && STANDARD.decode(stated).ok().as_deref() != Some(&received.md5)
    {
        return Err(error(S3ErrorCode::BadDigest, "The Content-MD5 you specified did not match what we received."));
    }
    file.sync_all().await.map_err(internal)?;
    Ok(received)
}

fn broken(cause: &str) -> s3s::S3Error {
    // The layer that checks the body's hash reports a mismatch by its own error type, which is not public.
    if cause.contains("Mismatch") {
        let code = S3ErrorCode::from_bytes(b"XAmzContentSHA256Mismatch").unwrap_or(S3ErrorCode::BadDigest);
        let mut mismatch = error(code, "The provided 'x-amz-content-sha256' header does not match what was computed.");
        mismatch.set_status_code(http::StatusCode::BAD_REQUEST);
        return mismatch;
    }
    error(
        S3ErrorCode::IncompleteBody,
        format!("You did not provide the number of bytes specified by the Content-Length HTTP header ({cause})"),
    )
}
