//! The inference image, assembled without a container engine: the same program and model give the same bytes.
//!
//! A Docker image manifest (version 2, schema 2) on an empty base with two layers, the program below and the model on
//! top, so that a retrained model costs one small layer. Lambda refuses layers that it cannot match with the history, so every
//! layer has an entry there.

use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::digest;

/// Media type of the manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// Where Lambda expects the program.
pub const PROGRAM_PATH: &str = "var/task/bootstrap";
/// Where the program looks for its model: beside itself.
pub const MODEL_PATH: &str = "var/task/model.bin";
/// Where it looks for the model's digest, so that it need not compute it at every start.
pub const MODEL_DIGEST_PATH: &str = "var/task/model.bin.sha256";

/// A layer: its compressed bytes, their digest, and the size before compression.
pub struct Layer {
    /// What it holds, for people.
    pub content: &'static str,
    pub digest: String,
    pub bytes: Vec<u8>,
    pub uncompressed: u64,
}

/// An image, ready to be pushed.
pub struct Image {
    pub manifest: Vec<u8>,
    /// Digest of the manifest: the image's identity.
    pub digest: String,
    pub config: Vec<u8>,
    pub config_digest: String,
    /// Program first, model last.
    pub layers: Vec<Layer>,
}

/// Assembles the image.
///
/// `architecture` is the image configuration's word (`amd64`, `arm64`).
pub fn assemble(program: &[u8], model: &[u8], architecture: &str) -> Result<Image> {
    let (program_layer, program_diff) = layer("program", &[(PROGRAM_PATH, program, 0o755)])?;
    let digest = digest_file(model);
    let model_files = [(MODEL_PATH, model, 0o644), (MODEL_DIGEST_PATH, digest.as_bytes(), 0o644)];
    let (model_layer, model_diff) = layer("model", &model_files)?;
    // No date: the same content is the same image, whenever it was made.
    let config = serde_json::to_vec(&json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Entrypoint": [format!("/{PROGRAM_PATH}")],
            "WorkingDir": "/var/task",
            "Env": ["PATH=/var/task"],
        },
        "rootfs": {"type": "layers", "diff_ids": [program_diff, model_diff]},
        "history": [
            {"created": "1970-01-01T00:00:00Z", "created_by": format!("add /{PROGRAM_PATH}")},
            {"created": "1970-01-01T00:00:00Z", "created_by": format!("add /{MODEL_PATH}")},
        ],
    }))?;
    let config_digest = digest::of_bytes(&config);
    let layers = vec![program_layer, model_layer];
    let described: Vec<_> = layers
        .iter()
        .map(|layer| json!({"mediaType": LAYER_TYPE, "size": layer.bytes.len(), "digest": layer.digest}))
        .collect();
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "size": config.len(), "digest": config_digest},
        "layers": described,
    }))?;
    Ok(Image { digest: digest::of_bytes(&manifest), manifest, config, config_digest, layers })
}

/// What lies beside a model, as `sha256sum` prints and checks it.
pub fn digest_file(model: &[u8]) -> String {
    let digest = digest::of_bytes(model);
    format!("{}  model.bin\n", digest.strip_prefix("sha256:").unwrap_or(&digest))
}

/// A layer with files of `/var/task` (path, bytes, mode), and the digest of its uncompressed bytes.
fn layer(content: &'static str, files: &[(&str, &[u8], u32)]) -> Result<(Layer, String)> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut folder = std::path::PathBuf::new();
    for part in Path::new(PROGRAM_PATH).parent().into_iter().flat_map(Path::components) {
        folder.push(part);
        let mut header = header(0o755, 0);
        header.set_entry_type(tar::EntryType::Directory);
        archive.append_data(&mut header, format!("{}/", folder.display()), std::io::empty())?;
    }
    for (path, bytes, mode) in files {
        archive.append_data(&mut header(*mode, bytes.len() as u64), path, *bytes)?;
    }
    let archive = archive.into_inner()?;
    let mut compressed = flate2::GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::best());
    compressed.write_all(&archive)?;
    let compressed = compressed.finish()?;
    let layer =
        Layer { content, digest: digest::of_bytes(&compressed), bytes: compressed, uncompressed: archive.len() as u64 };
    Ok((layer, digest::of_bytes(&archive)))
}

/// A header without owner and time. Lambda runs the program as an unprivileged user, so the mode lets everybody read.
fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// The digests that a manifest names: its configuration and its layers, top last.
pub struct Described {
    pub layers: Vec<String>,
}

/// Reads a manifest of this form.
pub fn describe(manifest: &[u8]) -> Result<Described> {
    let layers = layers(manifest)?;
    if layers.len() != 2 {
        bail!("the image's manifest does not have a program layer and a model layer");
    }
    Ok(Described { layers })
}

/// Digests of the layers that a manifest names, whatever it is of.
pub fn layers(manifest: &[u8]) -> Result<Vec<String>> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).context("understand the image's manifest")?;
    let layers = manifest["layers"].as_array().context("the image's manifest has no layers")?;
    Ok(layers.iter().filter_map(|layer| layer["digest"].as_str().map(String::from)).collect())
}

/// The file at `path` in a compressed layer.
pub fn file_in_layer(layer: &[u8], path: &str) -> Result<Vec<u8>> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer));
    for entry in archive.entries().context("open the layer")? {
        let mut entry = entry.context("read the layer")?;
        if entry.path().context("read the layer")?.as_ref() == Path::new(path) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).context("read the layer")?;
            return Ok(bytes);
        }
    }
    bail!("the layer has no /{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_is_the_same_image() {
        let first = assemble(b"program", b"model", "amd64").unwrap();
        let second = assemble(b"program", b"model", "amd64").unwrap();
        assert_eq!(first.digest, second.digest);
        assert_ne!(first.digest, assemble(b"program", b"model", "arm64").unwrap().digest);
    }

    #[test]
    fn a_new_model_changes_only_the_top_layer() {
        let first = assemble(b"program", b"model", "amd64").unwrap();
        let second = assemble(b"program", b"another", "amd64").unwrap();
        assert_eq!(first.layers[0].digest, second.layers[0].digest);
        assert_ne!(first.layers[1].digest, second.layers[1].digest);
        assert_eq!(file_in_layer(&second.layers[1].bytes, MODEL_PATH).unwrap(), b"another");
        let digest = String::from_utf8(file_in_layer(&second.layers[1].bytes, MODEL_DIGEST_PATH).unwrap()).unwrap();
        assert_eq!(digest, format!("{}  model.bin\n", &digest::of_bytes(b"another")[7..]));
        assert!(file_in_layer(&second.layers[0].bytes, MODEL_PATH).is_err());
        assert!(file_in_layer(&second.layers[1].bytes[..20], MODEL_PATH).is_err());
    }

    #[test]
    fn the_manifest_fits_its_parts_and_history_has_an_entry_a_layer() {
        let image = assemble(b"program", b"model", "amd64").unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
        assert_eq!(manifest["config"]["digest"], image.config_digest);
        assert_eq!(manifest["layers"][0]["size"], image.layers[0].bytes.len());
        let config: serde_json::Value = serde_json::from_slice(&image.config).unwrap();
        assert_eq!(config["history"].as_array().unwrap().len(), 2);
        assert_eq!(config["config"]["Entrypoint"][0], "/var/task/bootstrap");
        assert_eq!(describe(&image.manifest).unwrap().layers[1], image.layers[1].digest);
        assert!(describe(b"{}").is_err());
    }
}
