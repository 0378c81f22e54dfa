//! Zip packages: fetched when a function gets one, checked, kept by digest, and unpacked to run.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Cursor, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::StatusCode;
use serde_json::Value;
use zip::{ZipArchive, read::ZipFile};

use super::{
    Call,
    image::{Program, inside, remove, restrict},
    invalid,
    model::ZipCode,
};
use crate::{
    disk,
    server::Cloud,
    wire::{ApiError, Response, digest, digest_hex, empty_reply, set_header},
};

/// What a package may unpack to, in bytes.
const MAX_UNPACKED: u64 = 262_144_000;
/// The longest target of a link.
const MAX_LINK: u64 = 4096;

/// Whether a request names a package, in any of the ways.
pub fn is_named(source: &Value) -> bool {
    ["ZipFile", "S3Bucket", "S3Key", "S3ObjectVersion"].iter().any(|name| !source[name].is_null())
}

/// Fetches the package that a request names, checks it, and keeps it.
///
/// # Errors
/// `InvalidParameterValueException`, as AWS answers.
pub async fn load(call: &Call<'_>, source: &Value) -> Result<ZipCode, ApiError> {
    let bytes = content(call, source)?;
    let root = call.cloud.root.clone();
    let kept = tokio::task::spawn_blocking(move || {
        check(&bytes)?;
        let code = ZipCode { digest: digest(&bytes), size: bytes.len() as u64 };
        let path = path(&root, &code.digest).context("a malformed digest")?;
        if !path.is_file() {
            fs::create_dir_all(root.join("packages")).context("creating the packages' directory")?;
            disk::write_atomic(&path, &bytes).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(code)
    });
    kept.await.map_err(ApiError::internal)?
}

fn content(call: &Call, source: &Value) -> Result<Vec<u8>, ApiError> {
    let text = |name: &str| source[name].as_str();
    match (text("ZipFile"), text("S3Bucket"), text("S3Key")) {
        (Some(encoded), None, None) => {
            STANDARD.decode(encoded).map_err(|_| invalid("Could not decode ZipFile: it is not base64"))
        }
        (Some(_), ..) => Err(invalid("Please provide either ZipFile or S3Bucket and S3Key, not both.")),
        (None, Some(bucket), Some(key)) => {
            let read = call.cloud.buckets.read(bucket, key, text("S3ObjectVersion"), MAX_UNPACKED);
            read.map_err(|error| match error.code().as_str() {
                "InternalError" => ApiError::internal(error),
                "EntityTooLarge" => too_large(),
                code => invalid(format!(
                    "Error occurred while GetObject. S3 Error Code: {code}. S3 Error Message: {}",
                    error.message().unwrap_or_default()
                )),
            })
        }
        (None, None, None) => Err(invalid("Please provide a source for function code.")),
        (None, ..) => Err(invalid("Please provide S3Bucket and S3Key.")),
    }
}

fn too_large() -> ApiError {
    invalid(format!("Unzipped size must be smaller than {MAX_UNPACKED} bytes"))
}

fn unreadable() -> ApiError {
    invalid("Could not unzip uploaded file. Please check your file, then try to upload again.")
}

/// Reads a package whole: what its directory says of sizes is believed of nobody.
fn check(bytes: &[u8]) -> Result<(), ApiError> {
    if bytes.is_empty() {
        return Err(invalid("Uploaded file must be a non-empty zip"));
    }
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|_| unreadable())?;
    if archive.is_empty() {
        return Err(invalid("Uploaded file must be a non-empty zip"));
    }
    let mut left = MAX_UNPACKED;
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|_| unreadable())?;
        // A path that leaves the package, or a link too long to be one.
        if entry.enclosed_name().is_none() || (entry.is_symlink() && entry.size() > MAX_LINK) {
            return Err(unreadable());
        }
        let read = io::copy(&mut entry.take(left + 1), &mut io::sink()).map_err(|_| unreadable())?;
        left = left.checked_sub(read).ok_or_else(too_large)?;
    }
    Ok(())
}

/// Where a package is kept.
fn path(root: &Path, digest: &str) -> Option<PathBuf> {
    digest_hex(digest).map(|hex| root.join("packages").join(format!("{hex}.zip")))
}

/// Unpacks a package as Lambda does, below `/var/task`.
///
/// # Errors
/// When it is damaged or there is no space.
pub fn unpack(root: &Path, code: &ZipCode, to: &Path) -> anyhow::Result<()> {
    let path = path(root, &code.digest).context("a malformed digest")?;
    let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    ensure!(digest(&bytes) == code.digest, "InvalidZipFile: {} is damaged", path.display());
    let image = to.join("root");
    for directory in ["tmp", "var/task"] {
        fs::create_dir_all(image.join(directory)).with_context(|| format!("creating {}", to.display()))?;
    }
    let mut archive = ZipArchive::new(Cursor::new(bytes)).context("InvalidZipFile")?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).context("InvalidZipFile")?;
        let name = entry.enclosed_name().context("InvalidZipFile: a path leaves the package")?;
        unpack_entry(&mut entry, &Path::new("var/task").join(&name), &image)
            .with_context(|| format!("unpacking {}", name.display()))?;
    }
    let program = Program {
        entrypoint: Some(vec!["/var/task/bootstrap".to_owned()]),
        env: Some(vec!["LANG=en_US.UTF-8".to_owned(), "PATH=/usr/local/bin:/usr/bin:/bin:/opt/bin".to_owned()]),
        working_dir: Some("/var/task".to_owned()),
        cmd: None,
    };
    disk::write_json(&to.join("program.json"), &program)
}

fn unpack_entry<R: Read>(entry: &mut ZipFile<'_, R>, name: &Path, image: &Path) -> anyhow::Result<()> {
    // Every path is resolved as the function sees it, so that no link leads out of the package.
    let parent = inside(image, name.parent().unwrap_or(Path::new("")))?;
    let target = parent.join(name.file_name().context("a name")?);
    if entry.is_dir() {
        return Ok(fs::create_dir_all(inside(image, name)?)?);
    }
    fs::create_dir_all(&parent)?;
    remove(&target)?;
    if entry.is_symlink() {
        let mut link = String::new();
        entry.take(MAX_LINK).read_to_string(&mut link)?;
        return symlink(&link, &target);
    }
    io::copy(entry, &mut fs::File::create(&target)?)?;
    // Of a system without modes: readable, and nothing that could be run.
    Ok(restrict(&target, entry.unix_mode().unwrap_or(0o644))?)
}

#[cfg(unix)]
fn symlink(link: &str, target: &Path) -> anyhow::Result<()> {
    Ok(std::os::unix::fs::symlink(link, target)?)
}

#[cfg(not(unix))]
fn symlink(link: &str, _target: &Path) -> anyhow::Result<()> {
    anyhow::bail!("the link to {link} cannot be made on this system")
}

/// Where `GetFunction` says that a package can be had.
pub fn location(cloud: &Cloud, code: &ZipCode) -> String {
    format!("http://{}/_code/{}", cloud.host, code.digest.trim_start_matches("sha256:"))
}

/// Answers [`location`].
pub fn download(cloud: &Cloud, path_of_request: &str) -> Response {
    let hex = path_of_request.trim_start_matches("/_code/");
    let Some(Ok(bytes)) = path(&cloud.root, &format!("sha256:{hex}")).map(fs::read) else {
        return empty_reply(StatusCode::NOT_FOUND);
    };
    let mut response = empty_reply(StatusCode::OK);
    set_header(response.headers_mut(), "content-type", "application/zip");
    *response.body_mut() = bytes.into();
    response
}

/// Removes packages that no function uses.
///
/// # Errors
/// When the directory cannot be read.
pub fn sweep(root: &Path, used: &BTreeSet<String>) -> anyhow::Result<()> {
    let directory = root.join("packages");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        let hex = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if !used.contains(hex) || path.extension().is_none_or(|extension| extension != "zip") {
            // A leftover that cannot be removed costs space and nothing else.
            let _ = remove(&path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;

    fn archive(write: impl FnOnce(&mut ZipWriter<Cursor<Vec<u8>>>)) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        write(&mut writer);
        writer.finish().unwrap().into_inner()
    }

    fn message(bytes: &[u8]) -> String {
        check(bytes).unwrap_err().message
    }

    #[test]
    fn what_is_no_zip_is_refused() {
        assert!(message(b"").contains("non-empty zip"));
        assert!(message(&archive(|_| ())).contains("non-empty zip"));
        assert!(message(b"PK nonsense").contains("Could not unzip"));
        let whole = archive(|writer| {
            writer.start_file("bootstrap", SimpleFileOptions::default()).unwrap();
            writer.write_all(b"program").unwrap();
        });
        check(&whole).unwrap();
        assert!(message(&whole[..whole.len() - 10]).contains("Could not unzip"));
        let mut altered = whole;
        altered[30 + "bootstrap".len() + 2] ^= 1;
        assert!(message(&altered).contains("Could not unzip"), "the checksum does not fit");
    }

    #[test]
    fn no_entry_leaves_the_package() {
        for name in ["../evil", "a/../../evil", "/../evil"] {
            let evil = archive(|writer| writer.start_file(name, SimpleFileOptions::default()).unwrap());
            assert!(message(&evil).contains("Could not unzip"), "{name}");
        }
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        let bomb = archive(|writer| {
            let zeros = vec![0; 1 << 20];
            writer.start_file("bootstrap", SimpleFileOptions::default()).unwrap();
            for _ in 0..=(MAX_UNPACKED >> 20) {
                writer.write_all(&zeros).unwrap();
            }
        });
        assert!(bomb.len() < 1 << 20);
        assert!(message(&bomb).contains("262144000"));
    }
}
