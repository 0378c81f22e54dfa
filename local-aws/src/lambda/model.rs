//! Functions as they are stored, and as the API shows them.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    ACCOUNT_ID,
    server::Cloud,
    wire::{ApiError, uuid},
};

use super::not_found;

/// The name of the version that changes.
pub const LATEST: &str = "$LATEST";

/// What a version runs, by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Code {
    /// An image of the registry.
    Image(ImageCode),
    /// A zip package, kept beside the functions.
    Zip(ZipCode),
}

impl Code {
    /// `sha256:` of the image's manifest, or of the zip.
    pub fn digest(&self) -> &str {
        match self {
            Self::Image(image) => &image.digest,
            Self::Zip(zip) => &zip.digest,
        }
    }

    /// `CodeSha256`: hexadecimal of an image, base64 of a zip.
    pub fn sha256(&self) -> String {
        let hex = self.digest().trim_start_matches("sha256:");
        match self {
            Self::Image(_) => hex.to_owned(),
            Self::Zip(_) => STANDARD.encode(hex::decode(hex).unwrap_or_default()),
        }
    }

    /// `PackageType`
    pub fn package_type(&self) -> &'static str {
        match self {
            Self::Image(_) => "Image",
            Self::Zip(_) => "Zip",
        }
    }

    /// `StateReasonCode` of code that cannot be unpacked.
    fn damaged(&self) -> &'static str {
        match self {
            Self::Image(_) => "InvalidImage",
            Self::Zip(_) => "InvalidZipFileException",
        }
    }
}

/// A zip package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZipCode {
    /// `sha256:` of the file.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
}

/// An image by content; the registry's host is left out because the port may be another tomorrow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageCode {
    /// The repository's name.
    pub repository: String,
    /// What the caller wrote after the repository's name, `:tag` or `@digest`.
    pub reference: String,
    /// The manifest's digest.
    pub digest: String,
}

/// Overrides of the image's own configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// Instead of the image's entry point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry_point: Option<Vec<String>>,
    /// Instead of the image's command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Instead of the image's working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
}

/// What a version freezes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The program and what lies beside it.
    pub code: Code,
    /// What a zip package runs on.
    #[serde(default)]
    pub runtime: Option<String>,
    /// What the runtime is told to call.
    #[serde(default)]
    pub handler: Option<String>,
    /// The role's ARN; nothing here checks what it may do.
    pub role: String,
    /// For people.
    pub description: String,
    /// Seconds an invocation may take.
    pub timeout: u64,
    /// Told to the program, not enforced.
    pub memory: u64,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// The function's own environment variables.
    pub environment: BTreeMap<String, String>,
    /// Overrides of the image's configuration.
    pub image_config: Option<ImageConfig>,
    /// Megabytes of `/tmp`, as asked for.
    pub ephemeral_storage: u64,
}

/// A configuration with what belongs to one version of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Version {
    /// What it runs.
    pub config: Config,
    /// When it became this.
    pub last_modified: DateTime<Utc>,
    /// Changes with every change.
    pub revision_id: String,
}

/// Where a function is between a request and its effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Being created.
    Pending,
    /// Ready.
    Active,
    /// An update is being applied; invocations still get what was before.
    Updating,
    /// Creation failed, for this reason.
    Failed(String),
    /// The last update failed, for this reason; what was before still serves.
    UpdateFailed(String),
}

/// An alias.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Alias {
    /// The version it names.
    pub version: String,
    /// For people.
    pub description: String,
    /// A second version and the share of invocations it gets.
    pub weights: BTreeMap<String, f64>,
    /// Changes with every change.
    pub revision_id: String,
}

/// A function URL's cross-origin rules.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct Cors {
    /// Whether credentials may be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_credentials: Option<bool>,
    /// Request headers that may be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_headers: Option<Vec<String>>,
    /// Methods that may be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_methods: Option<Vec<String>>,
    /// Origins that may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_origins: Option<Vec<String>>,
    /// Response headers that pages may read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expose_headers: Option<Vec<String>>,
    /// Seconds a browser may remember the preflight's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
}

/// A function URL's configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Url {
    /// `NONE` or `AWS_IAM`.
    pub auth_type: String,
    /// Cross-origin rules, if the cloud is to answer for the function.
    pub cors: Option<Cors>,
    /// When it was made.
    pub created: DateTime<Utc>,
    /// When it was changed.
    pub modified: DateTime<Utc>,
}

/// A function.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Function {
    /// Differs between a function and its namesake after deletion.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Resource tags.
    pub tags: BTreeMap<String, String>,
    /// Where it is between a request and its effect.
    pub state: State,
    /// `$LATEST`
    pub latest: Version,
    /// What `$LATEST` runs while an update is applied or after it failed.
    pub serving: Option<Config>,
    /// Counts applied updates, so that processes of an older `$LATEST` are known.
    pub generation: u64,
    /// Published versions.
    pub versions: BTreeMap<u64, Version>,
    /// The number of the next version; numbers are never used twice.
    pub next_version: u64,
    /// Aliases by name.
    pub aliases: BTreeMap<String, Alias>,
    /// URL configurations by qualifier.
    pub urls: BTreeMap<String, Url>,
    /// Policy statements by qualifier.
    pub policies: BTreeMap<String, Vec<Value>>,
}

impl Function {
    /// The function's ARN, with a qualifier unless that is `$LATEST`'s.
    pub fn arn(&self, cloud: &Cloud, qualifier: Option<&str>) -> String {
        arn(cloud, &self.name, qualifier)
    }

    /// A version by number, `$LATEST` or an alias's name; the alias's main version, then.
    ///
    /// # Errors
    /// `ResourceNotFoundException`
    pub fn version(&self, cloud: &Cloud, qualifier: Option<&str>) -> Result<(String, &Version), ApiError> {
        let qualifier = qualifier.unwrap_or(LATEST);
        let number = self.aliases.get(qualifier).map_or(qualifier, |alias| alias.version.as_str());
        if number == LATEST {
            return Ok((LATEST.to_owned(), &self.latest));
        }
        let version = number.parse().ok().and_then(|number: u64| self.versions.get(&number));
        version.map(|version| (number.to_owned(), version)).ok_or_else(|| not_found(&self.arn(cloud, Some(qualifier))))
    }

    /// Sets a new revision on what a permission or URL belongs to.
    pub fn touch(&mut self, qualifier: Option<&str>) {
        let alias = qualifier.and_then(|qualifier| self.aliases.get_mut(qualifier));
        *alias.map_or(&mut self.latest.revision_id, |alias| &mut alias.revision_id) = uuid();
    }

    /// `FunctionConfiguration` of a version.
    pub fn configuration(&self, cloud: &Cloud, number: &str, version: &Version) -> Value {
        let config = &version.config;
        let latest = number == LATEST;
        let mut json = json!({
            "FunctionName": self.name,
            "FunctionArn": self.arn(cloud, (!latest).then_some(number)),
            "Role": config.role,
            "CodeSize": match &config.code { Code::Image(_) => 0, Code::Zip(zip) => zip.size },
            "Description": config.description,
            "Timeout": config.timeout,
            "MemorySize": config.memory,
            "LastModified": version.last_modified.format("%Y-%m-%dT%H:%M:%S%.3f+0000").to_string(),
            "CodeSha256": config.code.sha256(),
            "Version": number,
            "TracingConfig": { "Mode": "PassThrough" },
            "RevisionId": version.revision_id,
            "State": "Active",
            "LastUpdateStatus": "Successful",
            "PackageType": config.code.package_type(),
            "Architectures": [config.architecture],
            "EphemeralStorage": { "Size": config.ephemeral_storage },
            "LoggingConfig": { "LogFormat": "Text", "LogGroup": format!("/aws/lambda/{}", self.name) },
        });
        for (key, value) in [("Runtime", &config.runtime), ("Handler", &config.handler)] {
            if let Some(value) = value {
                json[key] = json!(value);
            }
        }
        if !config.environment.is_empty() {
            json["Environment"] = json!({ "Variables": config.environment });
        }
        if let Some(image_config) = &config.image_config {
            json["ImageConfigResponse"] = json!({ "ImageConfig": image_config });
        }
        let mut set = |pairs: &[(&str, &str)]| {
            for (key, value) in pairs {
                json[key] = json!(value);
            }
        };
        match &self.state {
            _ if !latest => {}
            State::Active => {}
            State::Pending => set(&[
                ("State", "Pending"),
                ("StateReason", "The function is being created."),
                ("StateReasonCode", "Creating"),
            ]),
            State::Updating => {
                set(&[("LastUpdateStatus", "InProgress"), ("LastUpdateStatusReason", "The function is being created.")])
            }
            State::Failed(reason) => set(&[
                ("State", "Failed"),
                ("StateReason", reason),
                ("StateReasonCode", config.code.damaged()),
                ("LastUpdateStatus", "Failed"),
            ]),
            State::UpdateFailed(reason) => set(&[
                ("LastUpdateStatus", "Failed"),
                ("LastUpdateStatusReason", reason),
                ("LastUpdateStatusReasonCode", config.code.damaged()),
            ]),
        }
        json
    }

    /// `AliasConfiguration`
    pub fn alias_json(&self, cloud: &Cloud, name: &str, alias: &Alias) -> Value {
        let mut json = json!({
            "AliasArn": self.arn(cloud, Some(name)),
            "Name": name,
            "FunctionVersion": alias.version,
            "Description": alias.description,
            "RevisionId": alias.revision_id,
        });
        if !alias.weights.is_empty() {
            json["RoutingConfig"] = json!({ "AdditionalVersionWeights": alias.weights });
        }
        json
    }
}

/// A function's ARN.
pub fn arn(cloud: &Cloud, name: &str, qualifier: Option<&str>) -> String {
    let arn = format!("arn:aws:lambda:{}:{ACCOUNT_ID}:function:{name}", cloud.region);
    qualifier.map_or(arn.clone(), |qualifier| format!("{arn}:{qualifier}"))
}
