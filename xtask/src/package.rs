//! The zip package: the same program and model as in the image, in the form that Lambda starts sooner.
//!
//! Assembled from the same bytes, the same package for the same content, and kept in the bucket of the environment that
//! built it, under its own digest. It is written once and never over another: what lies there is read back and compared. The
//! image stays what is scanned, tested and judged, so a package is only deployed when its files are the image's.

use std::io::{Cursor, Read, Write};

use anyhow::{Context as _, Result, bail, ensure};
use aws_sdk_s3::error::ProvideErrorMetadata;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter, write::SimpleFileOptions};

use crate::cloud::{Cloud, service_error};
use crate::config::{self, Environment};
use crate::digest;
use crate::image::{self, MODEL_PATH, PROGRAM_PATH};
use crate::stages::build;
use crate::stages::scan::file_of;

/// The program, at the package's root: Lambda unpacks it to `/var/task`.
const PROGRAM: &str = "bootstrap";
/// The model, beside it.
const MODEL: &str = "model.bin";
/// The model's digest, which the program reads there.
const MODEL_DIGEST: &str = "model.bin.sha256";
/// Names and modes, in the package's order.
const FILES: [(&str, u32); 3] = [(PROGRAM, 0o755), (MODEL, 0o644), (MODEL_DIGEST, 0o644)];

/// A package, ready to be stored.
pub struct Package {
    /// Digest of its bytes: the package's identity.
    pub digest: String,
    pub bytes: Vec<u8>,
    /// Of its files together.
    pub uncompressed: u64,
}

/// The package in the bucket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PackageRecord {
    pub bucket: String,
    /// Named by the digest.
    pub key: String,
    pub digest: String,
    pub bytes: u64,
    pub uncompressed_bytes: u64,
}

/// Assembles the package: no date, no owner, a fixed order.
pub fn assemble(program: &[u8], model: &[u8]) -> Result<Package> {
    let digest_file = image::digest_file(model);
    let contents = [program, model, digest_file.as_bytes()];
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for ((name, mode), content) in FILES.into_iter().zip(contents) {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(9))
            .last_modified_time(DateTime::default())
            .unix_permissions(mode);
        writer.start_file(name, options).and_then(|()| Ok(writer.write_all(content)?))?;
    }
    let bytes = writer.finish().context("assemble the zip package")?.into_inner();
    let uncompressed = contents.map(<[u8]>::len).iter().sum::<usize>() as u64;
    Ok(Package { digest: digest::of_bytes(&bytes), bytes, uncompressed })
}

/// Program and model of a package that holds exactly them, and the model's digest.
fn contents(package: &[u8]) -> Result<[Vec<u8>; 2]> {
    let mut archive = ZipArchive::new(Cursor::new(package)).context("open the zip package")?;
    ensure!(archive.len() == FILES.len(), "the zip package has {} files, not {}", archive.len(), FILES.len());
    let mut read = |index: usize| -> Result<Vec<u8>> {
        let (name, mode) = FILES[index];
        let mut entry = archive.by_index(index).context("read the zip package")?;
        let found = (entry.name().context("read the zip package")?, entry.unix_mode().unwrap_or_default());
        if found != (name.into(), 0o100_000 | mode) {
            bail!("the zip package has {} with mode {:o} where {name} with mode {mode:o} belongs", found.0, found.1);
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).context("read the zip package")?;
        Ok(bytes)
    };
    let (program, model, named) = (read(0)?, read(1)?, read(2)?);
    // The function names the model by what is written there.
    ensure!(
        named == image::digest_file(&model).as_bytes(),
        "{MODEL_DIGEST} of the zip package is not the model's digest"
    );
    Ok([program, model])
}

/// Where a package is kept, from its bucket's root.
fn key(digest: &str) -> String {
    format!("{}{}.zip", config::PACKAGES, digest.trim_start_matches("sha256:"))
}

/// `CodeSha256` that Lambda gives for a package of this digest.
pub fn code_sha256(digest: &str) -> String {
    STANDARD.encode(hex::decode(digest.trim_start_matches("sha256:")).unwrap_or_default())
}

/// The digest behind a package's `CodeSha256`; empty if it is none.
pub fn digest_of_code(code_sha256: &str) -> String {
    match STANDARD.decode(code_sha256) {
        Ok(bytes) if bytes.len() == 32 => format!("sha256:{}", hex::encode(bytes)),
        _ => String::new(),
    }
}

/// Puts the package into the environment's bucket, unless it is there already.
///
/// # Errors
/// Something else lies under its name, or it cannot be stored.
pub async fn store(cloud: &Cloud, environment: &Environment, package: &Package) -> Result<PackageRecord> {
    cloud.ensure_bucket(environment).await?;
    let record = PackageRecord {
        bucket: environment.bucket.clone(),
        key: key(&package.digest),
        digest: package.digest.clone(),
        bytes: package.bytes.len() as u64,
        uncompressed_bytes: package.uncompressed,
    };
    let request = cloud.s3.put_object().bucket(&record.bucket).key(&record.key).content_type("application/zip");
    // Refused where there is one: an object under a digest's name never changes.
    let answer = request.if_none_match("*").body(package.bytes.clone().into()).send().await;
    match answer {
        Ok(_) => {}
        // Of a run before, of an attempt whose answer was lost, or of somebody who stores the same at this moment.
        Err(error) if ["PreconditionFailed", "ConditionalRequestConflict"].map(Some).contains(&error.code()) => {
            fetch(cloud, &record).await?;
        }
        Err(error) => {
            return Err(service_error(error))
                .with_context(|| format!("store the zip package as s3://{}/{}", record.bucket, record.key));
        }
    }
    Ok(record)
}

/// Whether the bucket has something under the package's name.
pub async fn is_there(cloud: &Cloud, record: &PackageRecord) -> Result<bool> {
    let answer = cloud.s3.get_object().bucket(&record.bucket).key(&record.key).range("bytes=0-0").send().await;
    match answer {
        Ok(_) => Ok(true),
        Err(error) if ["NoSuchKey", "NoSuchBucket"].map(Some).contains(&error.code()) => Ok(false),
        Err(error) => Err(service_error(error)).context("look for the zip package"),
    }
}

/// The package out of the bucket; its bytes are checked against the digest.
async fn fetch(cloud: &Cloud, record: &PackageRecord) -> Result<Vec<u8>> {
    let place = format!("s3://{}/{}", record.bucket, record.key);
    let context = || format!("read the zip package {place}");
    let answer = cloud.s3.get_object().bucket(&record.bucket).key(&record.key).send().await;
    let bytes =
        answer.map_err(service_error).with_context(context)?.body.collect().await.with_context(context)?.to_vec();
    let found = digest::of_bytes(&bytes);
    if found != record.digest {
        bail!("{place} was altered: its digest is {found}: remove the object and run `cargo xtask build`");
    }
    Ok(bytes)
}

/// The package of a run, once it is certain that its program and its model are those of the image that was judged.
///
/// # Errors
/// There is no package, or a digest on the way is another one; the message says which.
pub async fn verified<'a>(cloud: &Cloud, build: &'a build::Content) -> Result<&'a PackageRecord> {
    let Some(record) = &build.package else {
        bail!("build.json names no zip package, pipeline.toml asks for one: run `cargo xtask build`");
    };
    let [program, model] = contents(&fetch(cloud, record).await?)?.map(|bytes| digest::of_bytes(&bytes));
    let image = &build.image;
    let layer = |layer, path| file_of(cloud, &image.repository, &image.digest, layer, path);
    let (of_image, model_of_image) =
        (digest::of_bytes(&layer(0, PROGRAM_PATH).await?), digest::of_bytes(&layer(1, MODEL_PATH).await?));
    let chain = [
        ("the program in the zip package", &program, "build.json", &build.program.digest),
        ("the model in the zip package", &model, "build.json", &build.model.digest),
        ("the program in the zip package", &program, "the image", &of_image),
        ("the model in the zip package", &model, "the image", &model_of_image),
    ];
    for (what, found, whose, expected) in chain {
        if found != expected {
            bail!("{what} is {found}, {whose} has {expected}: run the pipeline again");
        }
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, mode, content) in files {
            writer.start_file(*name, SimpleFileOptions::default().unix_permissions(*mode)).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    #[test]
    fn the_same_content_is_the_same_package() {
        let first = assemble(b"program", b"model").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2100));
        assert_eq!(first.bytes, assemble(b"program", b"model").unwrap().bytes, "dates of a zip have steps of 2 s");
        assert_eq!(first.digest, "sha256:807504b773bff8398f3b241d75d14529e148d15e3ce2c29f3dae85d915899dbe");
        assert_ne!(first.digest, assemble(b"program", b"another").unwrap().digest);
        assert_eq!(contents(&first.bytes).unwrap(), [b"program".to_vec(), b"model".to_vec()]);
    }

    #[test]
    fn a_package_of_another_form_is_refused() {
        let named = image::digest_file(b"m");
        let last = ("model.bin.sha256", 0o644, named.as_bytes());
        let good: [(&str, u32, &[u8]); 3] = [("bootstrap", 0o755, b"p"), ("model.bin", 0o644, b"m"), last];
        contents(&written(&good)).unwrap();
        let refused = |files: &[(&str, u32, &[u8])]| contents(&written(files)).unwrap_err().to_string();
        assert!(refused(&good[..1]).contains("1 files"));
        assert!(refused(&[good[0], good[1], last, ("more", 0o644, b"")]).contains("4 files"));
        assert!(refused(&[good[1], good[0], last]).contains("model.bin with mode"));
        assert!(refused(&[("bootstrap", 0o644, b"p"), good[1], last]).contains("100644"));
        assert!(refused(&[good[0], ("model.bin", 0o666, b"m"), last]).contains("100666"));
        assert!(refused(&[good[0], ("model.bin", 0o644, b"other"), last]).contains("not the model's digest"));
        let whole = assemble(b"p", b"m").unwrap().bytes;
        assert!(contents(&whole[..whole.len() - 1]).is_err() && contents(b"").is_err());
    }

    #[test]
    fn lambda_writes_digests_in_base64() {
        let digest = digest::of_bytes(b"");
        assert_eq!(code_sha256(&digest), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        assert_eq!(digest_of_code(&code_sha256(&digest)), digest);
        assert_eq!(digest_of_code("none"), "");
        assert_eq!(key(&digest), format!("packages/{}.zip", &digest[7..]));
    }
}
