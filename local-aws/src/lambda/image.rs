//! From an image's address to a directory that its program can run from.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
    sync::Mutex,
};

use anyhow::{Context, bail, ensure};
use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tar::EntryType;

use super::{
    invalid,
    model::{Code, ImageCode},
    package,
};
use crate::{
    disk::{self, lock},
    ecr::repositories::{DOCKER_MANIFEST, OCI_MANIFEST, Repositories},
    server::Cloud,
    wire::{ApiError, digest_hex, uuid},
};

const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYERS: &[&str] = &[
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar",
];

/// What an image says about its program.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Program {
    /// The program and its first arguments.
    pub entrypoint: Option<Vec<String>>,
    /// More arguments, or the program if there is no entry point.
    pub cmd: Option<Vec<String>>,
    /// `NAME=value`
    pub env: Option<Vec<String>>,
    /// Where it starts.
    pub working_dir: Option<String>,
}

/// An unpacked image or zip package.
#[derive(Debug, Clone)]
pub struct Unpacked {
    /// The directory that stands for `/`.
    pub root: PathBuf,
    /// What to run.
    pub program: Program,
}

/// Finds the image of an address and checks that it is one that functions can have.
///
/// # Errors
/// `InvalidParameterValueException`, as AWS answers.
pub fn resolve(cloud: &Cloud, uri: &str, architecture: &str) -> Result<ImageCode, ApiError> {
    let not_valid = || invalid(format!("Source image {uri} is not valid. Provide a valid source image."));
    let (host, rest) = uri.split_once('/').ok_or_else(not_valid)?;
    // Any loopback port: addresses that were recorded while another was used still mean this registry.
    let known = host
        .rsplit_once(':')
        .is_some_and(|(name, port)| (name == "127.0.0.1" || name == "localhost") && port.parse::<u16>().is_ok());
    if !known {
        return Err(not_valid());
    }
    let (repository, reference) = match rest.split_once('@') {
        Some((name, digest)) => (name.split_once(':').map_or(name, |(name, _)| name), digest),
        None => rest.split_once(':').unwrap_or((rest, "latest")),
    };
    let missing = || invalid(format!("Source image {uri} does not exist. Provide a valid source image."));
    let stored = cloud.repositories.get(repository).ok_or_else(missing)?;
    let digest = stored.resolve(reference).ok_or_else(missing)?.to_owned();
    let separator = if reference.contains(':') { '@' } else { ':' };
    let code = ImageCode { repository: repository.to_owned(), reference: format!("{separator}{reference}"), digest };
    check(cloud, &code, uri, &stored.images[&code.digest].media_type, architecture)?;
    Ok(code)
}

fn check(cloud: &Cloud, code: &ImageCode, uri: &str, media_type: &str, architecture: &str) -> Result<(), ApiError> {
    let unsupported = || {
        invalid(format!("The image manifest, config or layer media type for the source image {uri} is not supported."))
    };
    if media_type != DOCKER_MANIFEST && media_type != OCI_MANIFEST {
        return Err(unsupported());
    }
    let (manifest, config) = documents(&cloud.repositories, &code.digest)?;
    let layers = manifest["layers"].as_array().ok_or_else(unsupported)?;
    let kind = |descriptor: &Value| descriptor["mediaType"].as_str().unwrap_or_default().to_owned();
    let config_known = [DOCKER_CONFIG, OCI_CONFIG].contains(&kind(&manifest["config"]).as_str());
    if !config_known || !layers.iter().all(|layer| LAYERS.contains(&kind(layer).as_str())) {
        return Err(unsupported());
    }
    let wanted = if architecture == "x86_64" { "amd64" } else { architecture };
    let actual = config["architecture"].as_str().unwrap_or_default();
    if actual != wanted {
        return Err(invalid(format!(
            "Source image {uri} is not valid. Its architecture is '{actual}', the function's is {architecture} ('{wanted}')."
        )));
    }
    let history = config["history"].as_array().into_iter().flatten();
    let documented = history.filter(|entry| entry["empty_layer"] != true).count();
    if documented != layers.len() || config["rootfs"]["diff_ids"].as_array().map(Vec::len) != Some(layers.len()) {
        return Err(invalid(format!(
            "Source image {uri} is not valid. UnsupportedImageLayerDetected: its history and diff_ids must have one entry for each of \
             its {} layers.",
            layers.len()
        )));
    }
    Ok(())
}

/// An image's manifest and configuration.
fn documents(repositories: &Repositories, digest: &str) -> anyhow::Result<(Value, Value)> {
    let manifest: Value = serde_json::from_slice(&repositories.manifest(digest)?).context("reading the manifest")?;
    let config = manifest["config"]["digest"].as_str().unwrap_or_default();
    let config = repositories.manifest(config).context("reading the image's configuration")?;
    Ok((manifest, serde_json::from_slice(&config).context("reading the image's configuration")?))
}

fn directory(root: &Path, digest: &str) -> Option<PathBuf> {
    digest_hex(digest).map(|hex| root.join("rootfs").join(hex))
}

/// The unpacked image or zip package, unpacked now if it is not yet.
///
/// # Errors
/// When it is damaged, would leave its directory, or there is no space.
pub async fn unpacked(cloud: &std::sync::Arc<Cloud>, code: &Code) -> anyhow::Result<Unpacked> {
    let directory = directory(&cloud.root, code.digest()).context("a malformed digest")?;
    let read = |directory: &Path| -> anyhow::Result<Option<Unpacked>> {
        let program = disk::read_json(&directory.join("program.json"))?;
        Ok(program.map(|program| Unpacked { root: directory.join("root"), program }))
    };
    if let Some(unpacked) = read(&directory)? {
        return Ok(unpacked);
    }
    let (cloud, code) = (cloud.clone(), code.clone());
    tokio::task::spawn_blocking(move || {
        // One at a time: two functions with one image would unpack it twice, and the disk gains nothing from two at once.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = lock(&ONE);
        if let Some(unpacked) = read(&directory)? {
            return Ok(unpacked);
        }
        let temporary = cloud.root.join("rootfs").join(format!(".tmp-{}", uuid()));
        let result = match &code {
            Code::Image(image) => unpack(&cloud.repositories, &image.digest, &temporary),
            Code::Zip(zip) => package::unpack(&cloud.root, zip, &temporary),
        };
        let result = result.and_then(|()| {
            fs::rename(&temporary, &directory).context("moving the unpacked code to its place")?;
            read(&directory)?.context("the unpacked code vanished")
        });
        if result.is_err() {
            let _ = fs::remove_dir_all(&temporary);
        }
        result
    })
    .await
    .context("unpacking the code")?
}

fn unpack(repositories: &Repositories, digest: &str, to: &Path) -> anyhow::Result<()> {
    let (manifest, config) = documents(repositories, digest)?;
    let root = to.join("root");
    fs::create_dir_all(&root).with_context(|| format!("creating {}", root.display()))?;
    let layers = manifest["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (index, layer) in layers.iter().enumerate() {
        let digest = layer["digest"].as_str().unwrap_or_default();
        let path = repositories.blob_path(digest).context("a malformed digest")?;
        let file = io::BufReader::new(fs::File::open(&path).with_context(|| format!("layer {digest}"))?);
        let plain = layer["mediaType"].as_str().is_some_and(|kind| kind.ends_with(".tar"));
        let content: Box<dyn io::Read> = if plain { Box::new(file) } else { Box::new(MultiGzDecoder::new(file)) };
        let mut content = Hashing { content, hash: Sha256::new() };
        unpack_layer(&mut content, &root).with_context(|| format!("layer {digest}"))?;
        // What follows the archive's end belongs to the layer's identity, too.
        io::copy(&mut content, &mut io::sink()).with_context(|| format!("layer {digest}"))?;
        let actual = format!("sha256:{}", hex::encode(content.hash.finalize()));
        ensure!(
            config["rootfs"]["diff_ids"][index] == actual,
            "InvalidImage: layer {digest} unpacks to {actual}, the configuration says {}",
            config["rootfs"]["diff_ids"][index]
        );
    }
    for directory in ["tmp", "var/task"] {
        let inside = inside(&root, Path::new(directory))?;
        fs::create_dir_all(&inside).with_context(|| format!("creating {}", inside.display()))?;
    }
    let program: Program = match &config["config"] {
        Value::Null => Program::default(),
        config => serde_json::from_value(config.clone()).context("reading the image's configuration")?,
    };
    disk::write_json(&to.join("program.json"), &program)
}

/// Hashes what is read through it.
struct Hashing<R> {
    content: R,
    hash: Sha256,
}

impl<R: io::Read> io::Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

fn unpack_layer(content: &mut impl io::Read, root: &Path) -> anyhow::Result<()> {
    let mut archive = tar::Archive::new(content);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if path.components().any(|part| part == Component::ParentDir) {
            bail!("InvalidImage: {} leaves the image", path.display());
        }
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        // Every path is resolved as the image sees it, so that no link leads out of it.
        let parent = inside(root, path.parent().unwrap_or(Path::new("")))?;
        if name == ".wh..wh..opq" {
            for child in fs::read_dir(&parent).into_iter().flatten() {
                remove(&child?.path())?;
            }
            continue;
        }
        if let Some(hidden) = name.strip_prefix(".wh.") {
            ensure!(!["", ".", ".."].contains(&hidden), "InvalidImage: {} hides nothing", path.display());
            remove(&parent.join(hidden))?;
            continue;
        }
        let target = parent.join(&name);
        let kind = entry.header().entry_type();
        if !matches!(kind, EntryType::Directory | EntryType::Symlink | EntryType::Link) && !is_file(kind) {
            // Devices and the like: nothing that a function could have.
            continue;
        }
        // An entry replaces what a lower layer has there; only directories are merged.
        if kind != EntryType::Directory || !target.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
            remove(&target)?;
        }
        fs::create_dir_all(&parent).with_context(|| format!("creating {}", parent.display()))?;
        match kind {
            EntryType::Directory => fs::create_dir_all(&target)?,
            EntryType::Link => {
                let name = entry.link_name()?.context("InvalidImage: a link without a target")?;
                fs::hard_link(inside(root, &name)?, &target)
                    .with_context(|| format!("InvalidImage: {} links to {}", path.display(), name.display()))?;
            }
            _ => {
                let mode = entry.header().mode().unwrap_or(0o644);
                entry.unpack(&target).with_context(|| format!("unpacking {}", path.display()))?;
                if is_file(kind) {
                    restrict(&target, mode)?;
                }
            }
        }
    }
    Ok(())
}

fn is_file(kind: EntryType) -> bool {
    matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse)
}

/// Functions run as a user who owns nothing in the image: the owner's permissions become those of everybody else, so that a file
/// that is not readable in Lambda is not readable here (unless all is, to root).
#[cfg(unix)]
pub fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let others = mode & 0o7;
    fs::set_permissions(path, fs::Permissions::from_mode(others << 6 | others << 3 | others))
}

#[cfg(not(unix))]
pub fn restrict(_path: &Path, _mode: u32) -> io::Result<()> {
    Ok(())
}

/// Removes a file, link or directory; that there is none is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}

/// Resolves a path of the image, links included, as if `root` were `/`.
///
/// # Errors
/// When links go in a circle.
pub fn inside(root: &Path, path: &Path) -> anyhow::Result<PathBuf> {
    let mut pending: Vec<PathBuf> = path.components().rev().map(|part| PathBuf::from(part.as_os_str())).collect();
    let mut resolved = PathBuf::new();
    let mut links = 0;
    while let Some(part) = pending.pop() {
        match part.components().next() {
            Some(Component::RootDir | Component::Prefix(_)) => resolved = PathBuf::new(),
            Some(Component::ParentDir) => {
                resolved.pop();
            }
            Some(Component::Normal(name)) => {
                let candidate = resolved.join(name);
                let full = root.join(&candidate);
                if full.is_symlink() {
                    links += 1;
                    ensure!(links <= 40, "{} has too many links", path.display());
                    let target = fs::read_link(&full)?;
                    pending.extend(target.components().rev().map(|part| PathBuf::from(part.as_os_str())));
                } else {
                    resolved = candidate;
                }
            }
            _ => {}
        }
    }
    Ok(root.join(resolved))
}

/// Removes unpacked images that are not in use, and what a killed process left half unpacked.
///
/// # Errors
/// When the directory cannot be read.
pub fn sweep(root: &Path, used: &BTreeSet<String>) -> anyhow::Result<()> {
    let directory = root.join("rootfs");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    for entry in fs::read_dir(&directory)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(|name| used.contains(name)) {
            // A leftover that cannot be removed costs space and nothing else.
            let _ = remove(&entry.path());
        }
    }
    Ok(())
}
