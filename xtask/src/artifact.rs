//! A document beside an image in its registry: an artifact whose `subject` is the image, as the image specification of the Open
//! Container Initiative has it since version 1.1.
//!
//! It has a tag of its own, named by the document's digest: a registry without the listing of referrers finds it all the same,
//! and what expires images without a tag leaves it alone.

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::digest;

/// Media type of a manifest in the form of the Open Container Initiative.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of in-toto Statements.
const STATEMENT_TYPE: &str = "application/vnd.in-toto+json";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// The configuration of what has none.
pub const EMPTY: &[u8] = b"{}";

/// A document, ready to be pushed.
pub struct Artifact {
    pub manifest: Vec<u8>,
    /// Digest of the manifest.
    pub digest: String,
}

/// Describes an in-toto Statement about the image with the manifest `image`. The same document about the same image is the same
/// artifact.
///
/// `title` is the name of the file that clients make of it.
///
/// # Errors
/// `image` is no manifest.
pub fn about(image: &[u8], title: &str, statement: &[u8]) -> Result<Artifact> {
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": STATEMENT_TYPE,
        "config": {"mediaType": EMPTY_TYPE, "digest": digest::of_bytes(EMPTY), "size": EMPTY.len()},
        "layers": [{
            "mediaType": STATEMENT_TYPE,
            "digest": digest::of_bytes(statement),
            "size": statement.len(),
            "annotations": {"org.opencontainers.image.title": title},
        }],
        "subject": {"mediaType": media_type(image)?, "digest": digest::of_bytes(image), "size": image.len()},
    }))?;
    Ok(Artifact { digest: digest::of_bytes(&manifest), manifest })
}

/// The tag of evidence with this digest.
pub fn tag(evidence: &str) -> String {
    format!("evidence-{}", digest::short(evidence))
}

/// The media type that a manifest says it has; one in the form of the Open Container Initiative need not say it.
///
/// # Errors
/// It is not JSON.
pub fn media_type(manifest: &[u8]) -> Result<String> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).context("understand the image's manifest")?;
    Ok(manifest["mediaType"].as_str().unwrap_or(MANIFEST_TYPE).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image;

    #[test]
    fn the_same_statement_about_the_same_image_is_the_same_artifact() {
        let image = image::assemble(b"program", b"model", "amd64").unwrap();
        let artifact = about(&image.manifest, "bundle.json", b"{\"a\":1}").unwrap();
        assert_eq!(artifact.digest, about(&image.manifest, "bundle.json", b"{\"a\":1}").unwrap().digest);
        assert_ne!(artifact.digest, about(&image.manifest, "bundle.json", b"{\"a\":2}").unwrap().digest);
        let manifest: serde_json::Value = serde_json::from_slice(&artifact.manifest).unwrap();
        let subject = &manifest["subject"];
        assert_eq!(
            (subject["digest"].as_str(), subject["mediaType"].as_str(), subject["size"].as_u64()),
            (Some(image.digest.as_str()), Some(image::MANIFEST_TYPE), Some(image.manifest.len() as u64))
        );
        // What clients choose by, and what they make of it.
        let layer = &manifest["layers"][0];
        assert_eq!(
            (&manifest["artifactType"], &layer["mediaType"]),
            (&json!("application/vnd.in-toto+json"), &json!("application/vnd.in-toto+json"))
        );
        assert_eq!(layer["annotations"]["org.opencontainers.image.title"], "bundle.json");
        assert_eq!(image::layers(&artifact.manifest).unwrap(), [digest::of_bytes(b"{\"a\":1}")]);
        assert!(image::describe(&artifact.manifest).is_err(), "it is no image that could be deployed");
        assert!(about(b"", "bundle.json", b"{}").is_err());
    }

    #[test]
    fn its_tag_is_one_that_no_run_has() {
        let tag = tag(&digest::of_bytes(b""));
        assert_eq!(tag, "evidence-e3b0c44298fc");
    }
}
