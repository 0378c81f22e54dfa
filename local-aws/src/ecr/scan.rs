//! Scan findings. There is no scanner here, and the answers say so: an image without an operating system is unsupported, as
//! ECR's own scanners find, and any other has no findings *available*, which is not the same as having none.
//!
//! For tests of what reads findings, `findings/<digest hex>.json` in the state directory holds the answer to give: an object
//! with `imageScanFindings`, and `imageScanStatus` if that is not `COMPLETE`.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use serde_json::{Value, json};

use super::{Answer, error, images::find, invalid, page, repositories::Repository, repository, with_token};
use crate::{
    ACCOUNT_ID, disk,
    server::Cloud,
    wire::{ApiError, digest_hex},
};

/// `DescribeImageScanFindings`
pub async fn describe_findings(cloud: &Cloud, input: &Value) -> Answer {
    let repository = repository(cloud, input)?;
    let digest = find(&repository, &input["imageId"])?;
    let mut output = json!({
        "registryId": ACCOUNT_ID,
        "repositoryName": repository.name,
        "imageId": input["imageId"],
    });
    output["imageId"]["imageDigest"] = json!(digest);
    if let Some(injected) = injected(cloud, digest)? {
        output["imageScanStatus"] = injected
            .get("imageScanStatus")
            .cloned()
            .unwrap_or_else(|| json!({ "status": "COMPLETE", "description": "The scan was completed successfully." }));
        let mut findings = injected["imageScanFindings"].clone();
        let mut next = None;
        for kind in ["findings", "enhancedFindings"] {
            if let Some(all) = injected["imageScanFindings"][kind].as_array() {
                let (items, token) = page(all, input, 100)?;
                findings[kind] = json!(items);
                next = next.or(token);
            }
        }
        if !findings.is_null() {
            output["imageScanFindings"] = findings;
        }
        return Ok(with_token(output, next));
    }
    if !repository.scan_on_push && !started(cloud, digest).is_some_and(|path| path.exists()) {
        return Err(error(
            "ScanNotFoundException",
            format!(
                "Image scan does not exist for the image with '{{imageDigest:'{digest}'}}' in the repository with name '{}' in the \
                 registry with id '{ACCOUNT_ID}'",
                repository.name
            ),
        ));
    }
    output["imageScanStatus"] = status(cloud, &repository, digest).await?;
    Ok(output)
}

/// `StartImageScan`: for an image whose repository does not scan on push, once.
pub fn start(cloud: &Cloud, input: &Value) -> Answer {
    let repository = repository(cloud, input)?;
    let digest = find(&repository, &input["imageId"])?;
    let started = started(cloud, digest).ok_or_else(|| invalid(format!("`{digest}` is no digest")))?;
    if repository.scan_on_push || started.exists() {
        return Err(error(
            "LimitExceededException",
            "The scan quota per image has been exceeded. Wait and try again.".to_owned(),
        ));
    }
    disk::write_json(&started, &true)?;
    let mut output = json!({
        "registryId": ACCOUNT_ID,
        "repositoryName": repository.name,
        "imageId": input["imageId"],
        "imageScanStatus": { "status": "IN_PROGRESS" },
    });
    output["imageId"]["imageDigest"] = json!(digest);
    Ok(output)
}

/// The file that says that a scan of the image was asked for.
fn started(cloud: &Cloud, digest: &str) -> Option<PathBuf> {
    Some(cloud.root.join("findings").join(format!("{}.started", digest_hex(digest)?)))
}

/// The status that `DescribeImages` shows, where it takes no reading of layers to know it.
pub fn known_status(cloud: &Cloud, repository: &Repository, digest: &str) -> Option<Value> {
    if let Ok(Some(injected)) = injected(cloud, digest) {
        return Some(injected.get("imageScanStatus").cloned().unwrap_or_else(|| json!({ "status": "COMPLETE" })));
    }
    if !repository.scan_on_push && !started(cloud, digest)?.exists() {
        return None;
    }
    let verdict = cloud.root.join("findings").join(format!("{}.os", digest_hex(digest)?));
    let verdict: Option<bool> = disk::read_json(&verdict).ok().flatten();
    Some(match verdict {
        Some(has_system) => describe(has_system),
        None => json!({ "status": "PENDING" }),
    })
}

fn injected(cloud: &Cloud, digest: &str) -> Result<Option<Value>, ApiError> {
    let Some(hex) = digest_hex(digest) else { return Ok(None) };
    Ok(disk::read_json(&cloud.root.join("findings").join(format!("{hex}.json")))?)
}

fn describe(has_system: bool) -> Value {
    if has_system {
        json!({ "status": "FINDINGS_UNAVAILABLE", "description": "the embedded cloud has no scanner" })
    } else {
        json!({
            "status": "UNSUPPORTED_IMAGE",
            "description": "UnsupportedImageError: The operating system and/or package manager are not supported.",
        })
    }
}

async fn status(cloud: &Cloud, repository: &Repository, digest: &str) -> Answer {
    let Some(image) = repository.images.get(digest) else { return Ok(describe(true)) };
    if !image.manifests.is_empty() || image.blobs.is_empty() {
        return Ok(describe(true));
    }
    let remembered = cloud.root.join("findings").join(format!("{}.os", digest_hex(digest).unwrap_or_default()));
    if let Some(has_system) = disk::read_json::<bool>(&remembered)? {
        return Ok(describe(has_system));
    }
    // The first blob is the configuration, the others are layers.
    let layers: Vec<_> = image.blobs[1..].iter().filter_map(|digest| cloud.repositories.blob_path(digest)).collect();
    let search = tokio::task::spawn_blocking(move || layers.iter().any(|layer| has_operating_system(layer)));
    let has_system = search.await.map_err(ApiError::internal)?;
    disk::write_json(&remembered, &has_system)?;
    Ok(describe(has_system))
}

/// Whether a layer names an operating system. A layer that cannot be read counts as one that does: "unsupported" is only
/// claimed of images that were seen to be bare.
fn has_operating_system(layer: &Path) -> bool {
    let search = || -> io::Result<bool> {
        let mut file = File::open(layer)?;
        let mut magic = [0_u8; 2];
        let compressed = io::Read::read(&mut file, &mut magic)? == 2 && magic == [0x1f, 0x8b];
        let file = io::BufReader::new(File::open(layer)?);
        let content: Box<dyn io::Read> = if compressed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        for entry in tar::Archive::new(content).entries()? {
            let path = entry?.path()?.into_owned();
            let path = path.strip_prefix("/").or_else(|_| path.strip_prefix("./")).unwrap_or(&path);
            if path == Path::new("etc/os-release") || path == Path::new("usr/lib/os-release") {
                return Ok(true);
            }
        }
        Ok(false)
    };
    search().unwrap_or(true)
}
