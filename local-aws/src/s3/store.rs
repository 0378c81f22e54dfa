//! Buckets and objects on disk.
//!
//! ```text
//! s3/<bucket>/bucket.json                   settings
//! s3/<bucket>/objects/<SHA-256 of key>.json what is known of an object, and which file holds it
//! s3/<bucket>/data/<uuid>                   content; written before, removed after the file above
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::Context;
use chrono::{DateTime, Utc};
use s3s::{S3Error, S3ErrorCode, S3Result};
use serde::{Deserialize, Serialize};

use super::{checksums::Checksums, error, internal, multipart::Upload, policy};
use crate::{
    disk::{self, lock},
    wire::digest,
};

/// What a bucket refuses to make public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Refuse public access lists.
    pub block_acls: bool,
    /// Refuse policies that grant something to everybody.
    pub block_policy: bool,
    /// Disregard public access lists.
    pub ignore_acls: bool,
    /// Disregard what policies grant to everybody.
    pub restrict: bool,
}

/// A bucket's settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: DateTime<Utc>,
    /// Its policy, as put.
    pub policy: Option<String>,
    /// New buckets block everything, as in AWS.
    pub block: Option<Block>,
}

/// What is known of an object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// The file in `data` that holds its content.
    pub data: String,
    /// Its size in bytes.
    pub size: u64,
    /// MD5 of the content, or of the parts' MD5s and their number.
    pub etag: String,
    /// When it was put.
    pub modified: DateTime<Utc>,
    /// The `x-amz-meta-` headers.
    pub metadata: BTreeMap<String, String>,
    /// Headers to give back.
    pub headers: Headers,
    /// The checksums that its owner sent.
    pub checksums: Checksums,
}

/// Headers that an object is given back with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headers {
    /// `Content-Type`
    pub content_type: Option<String>,
    /// `Cache-Control`
    pub cache_control: Option<String>,
    /// `Content-Disposition`
    pub content_disposition: Option<String>,
    /// `Content-Encoding`
    pub content_encoding: Option<String>,
    /// `Content-Language`
    pub content_language: Option<String>,
}

/// A bucket in memory.
pub struct Bucket {
    /// Its settings.
    pub settings: Settings,
    /// Its objects by key.
    pub objects: BTreeMap<String, Object>,
}

/// A condition on what is there before a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// None.
    Always,
    /// There must be no such object.
    Absent,
    /// The object must have this tag.
    Matches(String),
}

/// All buckets.
pub struct Store {
    root: PathBuf,
    /// The region that buckets are in.
    pub region: String,
    buckets: Mutex<BTreeMap<String, Bucket>>,
    /// Multipart uploads in progress; they are of one process.
    pub uploads: Mutex<HashMap<String, Upload>>,
}

impl Store {
    /// Reads the buckets and removes content that no object names.
    ///
    /// # Errors
    /// When a state file is damaged or the directory cannot be written.
    pub fn load(root: &Path, region: &str) -> anyhow::Result<Self> {
        let this = Self {
            root: root.join("s3"),
            region: region.to_owned(),
            buckets: Mutex::default(),
            uploads: Mutex::default(),
        };
        fs::create_dir_all(&this.root).with_context(|| format!("creating {}", this.root.display()))?;
        for entry in fs::read_dir(&this.root)? {
            let directory = entry?.path();
            let Some(settings) = disk::read_json::<Settings>(&directory.join("bucket.json"))? else {
                // Without its settings, which come first and go first, there is no bucket.
                fs::remove_dir_all(&directory).with_context(|| format!("removing {}", directory.display()))?;
                continue;
            };
            let mut objects = BTreeMap::new();
            for entry in fs::read_dir(directory.join("objects"))? {
                let path = entry?.path();
                if path.extension().is_none_or(|extension| extension != "json") {
                    disk::remove_file(&path)?;
                } else if let Some(object) = disk::read_json::<Object>(&path)? {
                    objects.insert(object.key.clone(), object);
                }
            }
            let known: BTreeSet<&str> = objects.values().map(|object| object.data.as_str()).collect();
            for entry in fs::read_dir(directory.join("data"))? {
                let entry = entry?;
                if !entry.file_name().to_str().is_some_and(|name| known.contains(name)) {
                    disk::remove_file(&entry.path())?;
                }
            }
            lock(&this.buckets).insert(settings.name.clone(), Bucket { settings, objects });
        }
        Ok(this)
    }

    fn directory(&self, bucket: &str) -> PathBuf {
        self.root.join(bucket)
    }

    /// Where a bucket's content lies, and where new content is written before it has a name.
    pub fn data(&self, bucket: &str) -> PathBuf {
        self.directory(bucket).join("data")
    }

    fn object_path(&self, bucket: &str, key: &str) -> PathBuf {
        // Keys are longer and freer than file names; their digests are neither.
        let name = digest(key.as_bytes()).replace("sha256:", "");
        self.directory(bucket).join("objects").join(format!("{name}.json"))
    }

    /// Reads from all buckets.
    pub fn buckets<T>(&self, read: impl Fn(&Bucket) -> T) -> Vec<T> {
        lock(&self.buckets).values().map(read).collect()
    }

    /// Reads from a bucket.
    ///
    /// # Errors
    /// `NoSuchBucket`
    pub fn bucket<T>(&self, name: &str, read: impl FnOnce(&Bucket) -> T) -> S3Result<T> {
        lock(&self.buckets).get(name).map(read).ok_or_else(no_bucket)
    }

    /// What is known of an object.
    ///
    /// # Errors
    /// `NoSuchBucket` or `NoSuchKey`
    pub fn object(&self, bucket: &str, key: &str) -> S3Result<Object> {
        let object = self.bucket(bucket, |bucket| bucket.objects.get(key).cloned())?;
        object.ok_or_else(|| error(S3ErrorCode::NoSuchKey, "The specified key does not exist."))
    }

    /// Whether everybody may read an object.
    ///
    /// # Errors
    /// `NoSuchBucket`
    pub fn anonymous_read(&self, bucket: &str, key: &str) -> S3Result<bool> {
        self.bucket(bucket, |found| {
            let restricted = found.settings.block.is_some_and(|block| block.restrict);
            let granted = found.settings.policy.as_deref().is_some_and(|text| policy::allows_read(text, bucket, key));
            !restricted && granted && found.objects.contains_key(key)
        })
    }

    /// Adds a bucket; `false` when there is one already.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(&self, name: &str) -> S3Result<bool> {
        let mut buckets = lock(&self.buckets);
        if buckets.contains_key(name) {
            return Ok(false);
        }
        let directory = self.directory(name);
        for part in ["objects", "data"] {
            fs::create_dir_all(directory.join(part)).map_err(internal)?;
        }
        let block = Block { block_acls: true, block_policy: true, ignore_acls: true, restrict: true };
        let settings = Settings { name: name.to_owned(), created: Utc::now(), policy: None, block: Some(block) };
        disk::write_json(&directory.join("bucket.json"), &settings).map_err(internal)?;
        buckets.insert(name.to_owned(), Bucket { settings, objects: BTreeMap::new() });
        Ok(true)
    }

    /// Removes an empty bucket.
    ///
    /// # Errors
    /// `NoSuchBucket`, `BucketNotEmpty`
    pub fn delete_bucket(&self, name: &str) -> S3Result<()> {
        let mut buckets = lock(&self.buckets);
        let bucket = buckets.get(name).ok_or_else(no_bucket)?;
        if !bucket.objects.is_empty() {
            return Err(error(S3ErrorCode::BucketNotEmpty, "The bucket you tried to delete is not empty"));
        }
        let directory = self.directory(name);
        disk::remove_file(&directory.join("bucket.json")).map_err(internal)?;
        fs::remove_dir_all(&directory).map_err(internal)?;
        buckets.remove(name);
        Ok(())
    }

    /// Changes a bucket's settings: on disk first, in memory only when that worked.
    ///
    /// # Errors
    /// `NoSuchBucket`, what `change` returns, or when the settings cannot be written.
    pub fn change<T>(&self, name: &str, change: impl FnOnce(&mut Settings) -> S3Result<T>) -> S3Result<T> {
        let mut buckets = lock(&self.buckets);
        let bucket = buckets.get_mut(name).ok_or_else(no_bucket)?;
        let mut settings = bucket.settings.clone();
        let value = change(&mut settings)?;
        disk::write_json(&self.directory(name).join("bucket.json"), &settings).map_err(internal)?;
        bucket.settings = settings;
        Ok(value)
    }

    /// Puts an object whose content is already in `data`.
    ///
    /// # Errors
    /// `NoSuchBucket`, `PreconditionFailed`, or when it cannot be written.
    pub fn put(&self, bucket: &str, object: Object, condition: &Condition) -> S3Result<()> {
        let mut buckets = lock(&self.buckets);
        let found = buckets.get_mut(bucket).ok_or_else(no_bucket)?;
        let before = found.objects.get(&object.key);
        let met = match (condition, before) {
            (Condition::Always, _) | (Condition::Absent, None) => true,
            (Condition::Matches(etag), Some(before)) => before.etag == *etag,
            (Condition::Matches(_), None) => {
                return Err(error(S3ErrorCode::NoSuchKey, "The specified key does not exist."));
            }
            (Condition::Absent, Some(_)) => false,
        };
        if !met {
            return Err(error(
                S3ErrorCode::PreconditionFailed,
                "At least one of the pre-conditions you specified did not hold",
            ));
        }
        disk::write_json(&self.object_path(bucket, &object.key), &object).map_err(internal)?;
        if let Some(before) = found.objects.insert(object.key.clone(), object) {
            // Content that stays by mistake is removed at the next start.
            let _ = fs::remove_file(self.data(bucket).join(before.data));
        }
        Ok(())
    }

    /// Removes an object; that there is none is fine.
    ///
    /// # Errors
    /// `NoSuchBucket`, or when it cannot be removed.
    pub fn delete(&self, bucket: &str, key: &str) -> S3Result<()> {
        let mut buckets = lock(&self.buckets);
        let found = buckets.get_mut(bucket).ok_or_else(no_bucket)?;
        disk::remove_file(&self.object_path(bucket, key)).map_err(internal)?;
        if let Some(before) = found.objects.remove(key) {
            let _ = fs::remove_file(self.data(bucket).join(before.data));
        }
        Ok(())
    }
}

fn no_bucket() -> S3Error {
    error(S3ErrorCode::NoSuchBucket, "The specified bucket does not exist")
}
