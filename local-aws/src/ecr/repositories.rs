//! Image repositories on disk, shared by ECR's control plane, the registry and Lambda.
//!
//! ```text
//! blobs/sha256/<hex>                layers, configurations and manifests, by content
//! ecr/<name>/repository.json        tags, images and settings
//! ecr/<name>/links/<hex>            which blobs this repository may hand out
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    disk::{self, lock},
    wire::{digest, digest_hex, epoch_seconds},
};

/// Docker's manifest type.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's index type.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The OCI manifest type.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The OCI index type.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A repository's state.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Repository {
    /// Its name, which may contain slashes.
    pub name: String,
    /// Seconds since 1970.
    pub created_at: f64,
    /// Whether a tag, once set, stays.
    pub immutable: bool,
    /// Whether a pushed image counts as scanned.
    pub scan_on_push: bool,
    /// Resource tags.
    #[serde(default)]
    pub resource_tags: BTreeMap<String, String>,
    /// Stored as given.
    #[serde(default)]
    pub lifecycle_policy: Option<String>,
    /// Stored as given.
    #[serde(default)]
    pub policy: Option<String>,
    /// Images by digest.
    #[serde(default)]
    pub images: BTreeMap<String, Image>,
    /// Digests by tag.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// An image's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    /// The manifest's media type.
    pub media_type: String,
    /// The configuration's media type.
    pub artifact_media_type: Option<String>,
    /// Bytes of layers and configuration.
    pub size: u64,
    /// Seconds since 1970.
    pub pushed_at: f64,
    /// The blobs it needs.
    pub blobs: Vec<String>,
    /// The manifests an index lists.
    pub manifests: Vec<String>,
    /// The digest of the image that it says something about.
    #[serde(default)]
    pub subject: Option<String>,
}

impl Repository {
    /// The tags of an image.
    pub fn tags_of(&self, digest: &str) -> Vec<&str> {
        self.tags.iter().filter(|(_, of)| *of == digest).map(|(tag, _)| tag.as_str()).collect()
    }

    /// The digest a tag or digest stands for.
    pub fn resolve(&self, reference: &str) -> Option<&str> {
        let digest = if reference.contains(':') { reference } else { self.tags.get(reference)? };
        self.images.get_key_value(digest).map(|(digest, _)| digest.as_str())
    }
}

/// Why a manifest was not stored.
#[derive(Debug)]
pub enum PushError {
    /// No such repository.
    NoRepository,
    /// It is not a manifest that registries take.
    Invalid(String),
    /// It names blobs or manifests that were not pushed.
    Missing(Vec<String>),
    /// The tag exists and may not move.
    TagImmutable,
    /// It has another digest than stated; this is its own.
    DigestMismatch(String),
    /// Our disk.
    Internal(anyhow::Error),
}

impl From<anyhow::Error> for PushError {
    fn from(error: anyhow::Error) -> Self {
        Self::Internal(error)
    }
}

/// A stored manifest.
#[derive(Debug)]
pub struct Pushed {
    /// Its digest.
    pub digest: String,
    /// Whether the same manifest with the same tag was there before.
    pub unchanged: bool,
    /// The digest of the image that it says something about.
    pub subject: Option<String>,
}

/// All repositories.
pub struct Repositories {
    root: PathBuf,
    state: Mutex<BTreeMap<String, Repository>>,
}

impl Repositories {
    /// Reads the repositories and removes blobs that no image needs.
    ///
    /// # Errors
    /// When a state file is damaged or the directory cannot be written.
    pub fn load(root: &Path) -> anyhow::Result<Self> {
        let this = Self { root: root.to_owned(), state: Mutex::default() };
        fs::create_dir_all(this.blobs_directory())?;
        fs::create_dir_all(root.join("ecr"))?;
        let mut needed = BTreeSet::new();
        for entry in fs::read_dir(root.join("ecr"))? {
            let directory = entry?.path();
            let Some(repository) = disk::read_json::<Repository>(&directory.join("repository.json"))? else {
                // Creation writes this file first and deletion removes it first: without it there is no repository.
                fs::remove_dir_all(&directory).with_context(|| format!("removing {}", directory.display()))?;
                continue;
            };
            let digests =
                repository.images.iter().flat_map(|(digest, image)| std::iter::once(digest).chain(&image.blobs));
            let kept: BTreeSet<String> = digests.filter_map(|digest| digest_hex(digest).map(str::to_owned)).collect();
            sweep(&directory.join("links"), &kept)?;
            needed.extend(kept);
            lock(&this.state).insert(repository.name.clone(), repository);
        }
        sweep(&this.blobs_directory(), &needed)?;
        Ok(this)
    }

    fn blobs_directory(&self) -> PathBuf {
        self.root.join("blobs").join("sha256")
    }

    fn directory(&self, name: &str) -> PathBuf {
        // `+` is no character of a repository's name.
        self.root.join("ecr").join(name.replace('/', "+"))
    }

    /// Where a blob's content lies; `None` for a malformed digest.
    pub fn blob_path(&self, digest: &str) -> Option<PathBuf> {
        digest_hex(digest).map(|hex| self.blobs_directory().join(hex))
    }

    /// Where a repository's blob lies, if it has that blob.
    pub fn linked_blob(&self, name: &str, digest: &str) -> Option<PathBuf> {
        let hex = digest_hex(digest)?;
        let linked = self.exists(name) && self.directory(name).join("links").join(hex).exists();
        self.blob_path(digest).filter(|path| linked && path.exists())
    }

    /// Gives a repository a blob that is stored.
    ///
    /// # Errors
    /// When the link cannot be written.
    pub fn link_blob(&self, name: &str, digest: &str) -> anyhow::Result<()> {
        let hex = digest_hex(digest).context("a malformed digest")?;
        let path = self.directory(name).join("links").join(hex);
        fs::write(&path, b"").with_context(|| format!("writing {}", path.display()))
    }

    /// Whether there is such a repository.
    pub fn exists(&self, name: &str) -> bool {
        lock(&self.state).contains_key(name)
    }

    /// A copy of a repository's state.
    pub fn get(&self, name: &str) -> Option<Repository> {
        lock(&self.state).get(name).cloned()
    }

    /// Copies of all repositories' states, by name.
    pub fn all(&self) -> Vec<Repository> {
        lock(&self.state).values().cloned().collect()
    }

    /// Adds a repository; `false` when its name is taken.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(&self, repository: Repository) -> anyhow::Result<bool> {
        let mut state = lock(&self.state);
        if state.contains_key(&repository.name) {
            return Ok(false);
        }
        let directory = self.directory(&repository.name);
        fs::create_dir_all(directory.join("links")).with_context(|| format!("creating {}", directory.display()))?;
        disk::write_json(&directory.join("repository.json"), &repository)?;
        state.insert(repository.name.clone(), repository);
        Ok(true)
    }

    /// Removes a repository and returns its last state.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: &str) -> anyhow::Result<Option<Repository>> {
        let mut state = lock(&self.state);
        if state.contains_key(name) {
            let directory = self.directory(name);
            disk::remove_file(&directory.join("repository.json")).context("removing the repository")?;
            fs::remove_dir_all(&directory).with_context(|| format!("removing {}", directory.display()))?;
        }
        Ok(state.remove(name))
    }

    /// Changes a repository: on disk first, in memory only when that worked. `None` when there is none.
    ///
    /// # Errors
    /// What `change` returns, or when the state cannot be written.
    pub fn change<T, E: From<anyhow::Error>>(
        &self,
        name: &str,
        change: impl FnOnce(&mut Repository) -> Result<T, E>,
    ) -> Option<Result<T, E>> {
        let mut state = lock(&self.state);
        let repository = state.get_mut(name)?;
        let mut changed = repository.clone();
        Some(change(&mut changed).and_then(|value| {
            disk::write_json(&self.directory(name).join("repository.json"), &changed)?;
            *repository = changed;
            Ok(value)
        }))
    }

    /// Reads an image's manifest.
    ///
    /// # Errors
    /// When the stored manifest cannot be read.
    pub fn manifest(&self, digest: &str) -> anyhow::Result<Vec<u8>> {
        let path = self.blob_path(digest).context("a malformed digest")?;
        fs::read(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// Stores a manifest, by `tag` or only by digest, after checking that all it names was pushed.
    ///
    /// # Errors
    /// See [`PushError`].
    pub fn push(
        &self,
        name: &str,
        tag: Option<&str>,
        stated_digest: Option<&str>,
        media_type: Option<&str>,
        manifest: &[u8],
    ) -> Result<Pushed, PushError> {
        let digest = digest(manifest);
        if stated_digest.is_some_and(|stated| stated != digest) {
            return Err(PushError::DigestMismatch(digest));
        }
        let repository = self.get(name).ok_or(PushError::NoRepository)?;
        let image = self.check(&repository, media_type, manifest)?;
        let subject = image.subject.clone();
        let path = self.blob_path(&digest).context("a malformed digest")?;
        disk::write_atomic(&path, manifest).context("storing the manifest")?;
        self.link_blob(name, &digest)?;
        let pushed = self.change(name, |repository| {
            let mut unchanged = repository.images.contains_key(&digest);
            if let Some(tag) = tag {
                match repository.tags.get(tag) {
                    Some(current) if *current == digest => {}
                    Some(_) if repository.immutable => return Err(PushError::TagImmutable),
                    _ => {
                        unchanged = false;
                        repository.tags.insert(tag.to_owned(), digest.clone());
                    }
                }
            }
            repository.images.entry(digest.clone()).or_insert(image);
            Ok(Pushed { digest, unchanged, subject })
        });
        pushed.unwrap_or(Err(PushError::NoRepository))
    }

    fn check(&self, repository: &Repository, media_type: Option<&str>, manifest: &[u8]) -> Result<Image, PushError> {
        let invalid = |reason: &str| PushError::Invalid(reason.to_owned());
        let document: Value = serde_json::from_slice(manifest).map_err(|_| invalid("the manifest is not JSON"))?;
        if document["schemaVersion"] != 2 {
            return Err(invalid("only manifests of schema version 2 are taken"));
        }
        let own = document["mediaType"].as_str();
        let media_type = match (media_type, own) {
            (Some(stated), Some(own)) if stated != own => {
                return Err(invalid("the manifest's mediaType differs from the Content-Type"));
            }
            (Some(media_type), _) | (None, Some(media_type)) => media_type,
            (None, None) => return Err(invalid("the manifest has no media type")),
        };
        let mut image = Image {
            media_type: media_type.to_owned(),
            artifact_media_type: None,
            size: 0,
            pushed_at: epoch_seconds(),
            blobs: Vec::new(),
            manifests: Vec::new(),
            subject: None,
        };
        if matches!(media_type, OCI_MANIFEST | OCI_INDEX) && !document["subject"].is_null() {
            // It need not have been pushed yet.
            let digest = document["subject"]["digest"].as_str().filter(|digest| digest_hex(digest).is_some());
            image.subject = Some(digest.ok_or_else(|| invalid("the subject has no valid digest"))?.to_owned());
        }
        let mut missing = Vec::new();
        match media_type {
            DOCKER_MANIFEST | OCI_MANIFEST => {
                let layers = document["layers"].as_array().ok_or_else(|| invalid("the manifest has no layers"))?;
                image.artifact_media_type = document["config"]["mediaType"].as_str().map(str::to_owned);
                for descriptor in std::iter::once(&document["config"]).chain(layers) {
                    let digest = descriptor["digest"].as_str().filter(|digest| digest_hex(digest).is_some());
                    let digest = digest.ok_or_else(|| invalid("a descriptor has no valid digest"))?;
                    let size = descriptor["size"].as_u64().ok_or_else(|| invalid("a descriptor has no size"))?;
                    match self.linked_blob(&repository.name, digest).map(fs::metadata) {
                        Some(Ok(blob)) if blob.len() == size => image.size = image.size.saturating_add(size),
                        Some(Ok(_)) => {
                            return Err(PushError::Invalid(format!("{digest} has another size than stated")));
                        }
                        _ => missing.push(digest.to_owned()),
                    }
                    image.blobs.push(digest.to_owned());
                }
            }
            DOCKER_INDEX | OCI_INDEX => {
                let entries = document["manifests"].as_array().ok_or_else(|| invalid("the index has no manifests"))?;
                for entry in entries {
                    let digest = entry["digest"].as_str().ok_or_else(|| invalid("an entry has no digest"))?;
                    if !repository.images.contains_key(digest) {
                        missing.push(digest.to_owned());
                    }
                    image.manifests.push(digest.to_owned());
                }
            }
            other => return Err(PushError::Invalid(format!("the media type {other} is not supported"))),
        }
        if missing.is_empty() { Ok(image) } else { Err(PushError::Missing(missing)) }
    }
}

/// Removes the files of a directory whose names are not in `kept`.
fn sweep(directory: &Path, kept: &BTreeSet<String>) -> anyhow::Result<()> {
    fs::create_dir_all(directory)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(|name| kept.contains(name)) {
            disk::remove_file(&entry.path()).with_context(|| format!("removing {}", entry.path().display()))?;
        }
    }
    Ok(())
}
