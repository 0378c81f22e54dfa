//! ECR's operations on images.

use serde_json::{Value, json};

use super::{
    Answer, error, invalid, no_repository, page,
    repositories::{Image, PushError, Repository},
    repository, scan, text, valid_tag, with_token,
};
use crate::{ACCOUNT_ID, server::Cloud, wire::ApiError};

/// The digest an image identifier stands for.
pub fn find<'a>(repository: &'a Repository, id: &Value) -> Result<&'a str, ApiError> {
    let (digest, tag) = (id["imageDigest"].as_str(), id["imageTag"].as_str());
    let Some(reference) = digest.or(tag) else {
        return Err(invalid("Invalid parameter at 'imageId': either imageDigest or imageTag is needed"));
    };
    let found =
        repository.resolve(reference).filter(|found| tag.is_none_or(|tag| repository.resolve(tag) == Some(found)));
    found.ok_or_else(|| {
        error(
            "ImageNotFoundException",
            format!(
                "The image with imageId {{imageDigest:'{}', imageTag:'{}'}} does not exist within the repository with name '{}' in \
                 the registry with id '{ACCOUNT_ID}'",
                digest.unwrap_or("null"),
                tag.unwrap_or("null"),
                repository.name
            ),
        )
    })
}

fn identifiers(input: &Value) -> Option<&Vec<Value>> {
    input["imageIds"].as_array().filter(|ids| !ids.is_empty())
}

/// Images in the order they were pushed, by `filter.tagStatus`.
fn filtered<'a>(repository: &'a Repository, input: &Value) -> Result<Vec<(&'a String, &'a Image)>, ApiError> {
    let wanted = match input["filter"]["tagStatus"].as_str() {
        None | Some("ANY") => None,
        Some("TAGGED") => Some(true),
        Some("UNTAGGED") => Some(false),
        Some(other) => return Err(invalid(format!("Invalid parameter at 'filter.tagStatus': '{other}'"))),
    };
    let mut images: Vec<_> = repository
        .images
        .iter()
        .filter(|(digest, _)| wanted.is_none_or(|wanted| repository.tags_of(digest).is_empty() != wanted))
        .collect();
    images.sort_by(|a, b| a.1.pushed_at.total_cmp(&b.1.pushed_at).then_with(|| a.0.cmp(b.0)));
    Ok(images)
}

/// `DescribeImages`
pub fn describe(cloud: &Cloud, input: &Value) -> Answer {
    let repository = repository(cloud, input)?;
    let detail = |digest: &str, image: &Image| {
        let mut detail = json!({
            "registryId": ACCOUNT_ID,
            "repositoryName": repository.name,
            "imageDigest": digest,
            "imageSizeInBytes": image.size,
            "imagePushedAt": image.pushed_at,
            "imageManifestMediaType": image.media_type,
        });
        let tags = repository.tags_of(digest);
        if !tags.is_empty() {
            detail["imageTags"] = json!(tags);
        }
        if let Some(kind) = &image.artifact_media_type {
            detail["artifactMediaType"] = json!(kind);
        }
        if let Some(status) = scan::known_status(cloud, &repository, digest) {
            detail["imageScanStatus"] = status;
        }
        detail
    };
    if let Some(ids) = identifiers(input) {
        if !input["maxResults"].is_null() || !input["nextToken"].is_null() {
            return Err(invalid("imageIds cannot be given together with maxResults or nextToken"));
        }
        let mut details = Vec::new();
        for id in ids {
            let digest = find(&repository, id)?;
            details.push(detail(digest, &repository.images[digest]));
        }
        return Ok(json!({ "imageDetails": details }));
    }
    let images = filtered(&repository, input)?;
    let (images, next) = page(&images, input, 100)?;
    let details: Vec<Value> = images.iter().map(|(digest, image)| detail(digest, image)).collect();
    Ok(with_token(json!({ "imageDetails": details }), next))
}

/// `ListImages`
pub fn list(cloud: &Cloud, input: &Value) -> Answer {
    let repository = repository(cloud, input)?;
    let mut ids = Vec::new();
    for (digest, _) in filtered(&repository, input)? {
        let tags = repository.tags_of(digest);
        if tags.is_empty() {
            ids.push(json!({ "imageDigest": digest }));
        }
        ids.extend(tags.iter().map(|tag| json!({ "imageDigest": digest, "imageTag": tag })));
    }
    let (ids, next) = page(&ids, input, 100)?;
    Ok(with_token(json!({ "imageIds": ids }), next))
}

fn failure(id: &Value) -> Value {
    let (code, reason) = match (id["imageDigest"].as_str(), id["imageTag"].as_str()) {
        (None, None) => ("MissingDigestAndTag", "Invalid request parameters: both tag and digest cannot be null"),
        (Some(digest), _) if crate::wire::digest_hex(digest).is_none() => (
            "InvalidImageDigest",
            "Invalid request parameters: image digest should satisfy the regex '[a-zA-Z0-9-_+.]+:[a-fA-F0-9]+'",
        ),
        (None, Some(tag)) if !valid_tag(tag) => ("InvalidImageTag", "Invalid request parameters: image tag"),
        _ => ("ImageNotFound", "Requested image not found"),
    };
    json!({ "imageId": id, "failureCode": code, "failureReason": reason })
}

/// `BatchGetImage`
pub fn batch_get(cloud: &Cloud, input: &Value) -> Answer {
    let repository = repository(cloud, input)?;
    let (mut images, mut failures) = (Vec::new(), Vec::new());
    for id in identifiers(input).ok_or_else(|| invalid("Invalid parameter at 'imageIds'"))? {
        let Ok(digest) = find(&repository, id) else {
            failures.push(failure(id));
            continue;
        };
        images.push(image_json(cloud, &repository, digest, id["imageTag"].as_str())?);
    }
    Ok(json!({ "images": images, "failures": failures }))
}

fn image_json(cloud: &Cloud, repository: &Repository, digest: &str, tag: Option<&str>) -> Answer {
    let manifest = cloud.repositories.manifest(digest)?;
    let mut id = json!({ "imageDigest": digest });
    if let Some(tag) = tag {
        id["imageTag"] = json!(tag);
    }
    Ok(json!({
        "registryId": ACCOUNT_ID,
        "repositoryName": repository.name,
        "imageId": id,
        "imageManifest": String::from_utf8_lossy(&manifest),
        "imageManifestMediaType": repository.images[digest].media_type,
    }))
}

/// `BatchDeleteImage`
pub fn batch_delete(cloud: &Cloud, input: &Value) -> Answer {
    let name = text(input, "repositoryName")?;
    let ids = identifiers(input).ok_or_else(|| invalid("Invalid parameter at 'imageIds'"))?;
    super::change(cloud, name, |repository| {
        let (mut deleted, mut failures) = (Vec::new(), Vec::new());
        for id in ids {
            let Ok(digest) = find(repository, id).map(str::to_owned) else {
                failures.push(failure(id));
                continue;
            };
            let tag = id["imageTag"].as_str();
            let last_tag = tag.is_some_and(|tag| repository.tags_of(&digest) == [tag]);
            let listed = repository.images.values().any(|image| image.manifests.contains(&digest));
            if (tag.is_none() || last_tag) && listed {
                failures.push(json!({
                    "imageId": id,
                    "failureCode": "ImageReferencedByManifestList",
                    "failureReason": "Requested image referenced by manifest list",
                }));
                continue;
            }
            // A tag goes alone as long as the image has another; a digest takes the image and all its tags.
            match tag {
                Some(tag) if !last_tag => {
                    repository.tags.remove(tag);
                    deleted.push(json!({ "imageDigest": digest, "imageTag": tag }));
                }
                _ => {
                    let tags = repository.tags_of(&digest);
                    if tags.is_empty() {
                        deleted.push(json!({ "imageDigest": digest }));
                    }
                    deleted.extend(tags.iter().map(|tag| json!({ "imageDigest": digest, "imageTag": tag })));
                    repository.tags.retain(|_, of| *of != digest);
                    repository.images.remove(&digest);
                }
            }
        }
        Ok(json!({ "imageIds": deleted, "failures": failures }))
    })
}

/// `PutImage`
pub fn put(cloud: &Cloud, input: &Value) -> Answer {
    let name = text(input, "repositoryName")?;
    let manifest = text(input, "imageManifest")?;
    let tag = input["imageTag"].as_str();
    if tag.is_some_and(|tag| !valid_tag(tag)) {
        return Err(invalid("Invalid parameter at 'imageTag'"));
    }
    let kind = input["imageManifestMediaType"].as_str();
    let pushed = cloud.repositories.push(name, tag, input["imageDigest"].as_str(), kind, manifest.as_bytes());
    let pushed = pushed.map_err(|failure| match failure {
        PushError::NoRepository => no_repository(name),
        PushError::Invalid(reason) => invalid(format!("Invalid parameter at 'imageManifest': {reason}")),
        PushError::Missing(digests) => {
            error("LayersNotFoundException", format!("not pushed to this repository: {}", digests.join(", ")))
        }
        PushError::TagImmutable => error(
            "ImageTagAlreadyExistsException",
            format!(
                "The image tag '{}' already exists in the '{name}' repository and cannot be overwritten because the repository is \
                 immutable.",
                tag.unwrap_or_default()
            ),
        ),
        PushError::DigestMismatch(actual) => {
            error("ImageDigestDoesNotMatchException", format!("the manifest has the digest {actual}"))
        }
        PushError::Internal(error) => error.into(),
    })?;
    if pushed.unchanged {
        return Err(error(
            "ImageAlreadyExistsException",
            format!(
                "Image with digest '{}' and tag '{}' already exists in the repository with name '{name}' in registry with id \
                 '{ACCOUNT_ID}'",
                pushed.digest,
                tag.unwrap_or("null")
            ),
        ));
    }
    let repository = repository(cloud, input)?;
    Ok(json!({ "image": image_json(cloud, &repository, &pushed.digest, tag)? }))
}
