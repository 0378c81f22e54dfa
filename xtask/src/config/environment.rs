//! Where to: the environments and what they are made of.

use serde::{Deserialize, Serialize};

use crate::strategy::Rollout;

/// Where the evidence of every run is kept in a bucket.
pub const EVIDENCE_PREFIX: &str = "evidence/";

/// Below what name in a bucket the zip packages are kept.
pub const PACKAGES: &str = "packages/";

/// Which cloud an environment lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CloudKind {
    /// The embedded cloud on loopback.
    Embedded,
    /// An AWS account, reached with the ordinary credentials of the AWS tools.
    Aws,
}

impl CloudKind {
    /// As the policies know it.
    pub fn name(self) -> &'static str {
        match self {
            CloudKind::Embedded => "embedded",
            CloudKind::Aws => "aws",
        }
    }
}

/// When the training image is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainingImage {
    /// Never: training and tests run in the locked Python environment.
    Off,
    /// Where a container engine answers.
    WherePossible,
    /// Always; without a container engine `build` fails.
    Required,
}

impl TrainingImage {
    /// As pipeline.toml and the policies know it.
    pub fn name(self) -> &'static str {
        match self {
            TrainingImage::Off => "off",
            TrainingImage::WherePossible => "where_possible",
            TrainingImage::Required => "required",
        }
    }
}

/// What a function is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Package {
    /// The image in the registry.
    #[default]
    Image,
    /// A zip with the image's program and model.
    Zip,
}

impl Package {
    /// For people.
    pub fn in_words(self) -> &'static str {
        match self {
            Package::Image => "image",
            Package::Zip => "zip package",
        }
    }

    /// As pipeline.toml knows it.
    pub fn name(self) -> &'static str {
        match self {
            Package::Image => "image",
            Package::Zip => "zip",
        }
    }
}

/// Where to.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub cloud: CloudKind,
    /// Port of the embedded cloud; 0 takes a free one.
    #[serde(default)]
    pub port: u16,
    /// The account's twelve digits; a command that is given another account's credentials refuses to work.
    pub account: String,
    pub region: String,
    /// The environment whose runs this one takes over: build, scan and test are made there, once, and only what it
    /// deployed may be deployed here.
    #[serde(default)]
    pub promotes: Option<String>,
    /// Whether a deployment needs somebody's approval of exactly this verdict.
    #[serde(default)]
    pub approval: bool,
    /// How traffic moves to a new version.
    #[serde(default)]
    pub rollout: Rollout,
    /// Whether training and tests have an image of their own.
    pub training_image: TrainingImage,
    pub training_repository: String,
    pub inference_repository: String,
    /// `{account}` stands for the account's number: names of buckets are unique in the world.
    pub bucket: String,
    pub report_key: String,
    pub web_prefix: String,
    /// What the function is made of; both carry the same program and model.
    #[serde(default)]
    pub package: Package,
    /// Where its zip packages are: the bucket of the environment that builds them.
    #[serde(skip)]
    pub package_bucket: String,
    pub function: String,
    pub alias: String,
    /// Name of the role that the function runs as.
    pub role: String,
    pub memory_mb: i32,
    pub timeout_seconds: i32,
    /// How long CloudWatch keeps what the function logs.
    pub log_retention_days: u32,
    pub public: bool,
    /// Name of the role that the workflows deploy with; without one they cannot.
    #[serde(default)]
    pub deploy_role: Option<String>,
    /// The environment of GitHub whose jobs may take that role and whose reviewers approve; named as this one unless given.
    #[serde(default)]
    pub github_environment: Option<String>,
    /// Who takes the environment's mail; the embedded cloud has an outbox of its own.
    #[serde(default)]
    pub mail: Option<MailServer>,
}

/// A server that speaks SMTP.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MailServer {
    pub host: String,
    pub port: u16,
    pub tls: MailTls,
}

/// How the conversation with a mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MailTls {
    /// It begins in the open and must change to TLS before anything is said (port 587).
    Starttls,
    /// TLS from the first byte (port 465).
    Implicit,
    /// Not at all: a server on loopback.
    None,
}

impl Environment {
    /// The role that the function runs as.
    pub fn role_arn(&self) -> String {
        self.arn_of_role(&self.role)
    }

    /// A role of the environment's account.
    pub fn arn_of_role(&self, role: &str) -> String {
        format!("arn:{}:iam::{}:role/{role}", self.partition(), self.account)
    }

    /// Something of a service in the environment's account and region.
    pub fn arn(&self, service: &str, resource: &str) -> String {
        format!("arn:{}:{service}:{}:{}:{resource}", self.partition(), self.region, self.account)
    }

    /// The bucket.
    pub fn bucket_arn(&self) -> String {
        format!("arn:{}:s3:::{}", self.partition(), self.bucket)
    }

    /// What the pipeline puts into the bucket: everything below the web page's prefix and in the report's folder.
    pub fn published_objects(&self) -> [String; 2] {
        let report = match self.report_key.rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/*"),
            None => self.report_key.clone(),
        };
        [format!("{}/{}*", self.bucket_arn(), self.web_prefix), format!("{}/{report}", self.bucket_arn())]
    }

    /// The evidence of every run, which is not public.
    pub fn evidence_objects(&self) -> String {
        format!("{}/{EVIDENCE_PREFIX}*", self.bucket_arn())
    }

    /// The zip packages that the function may be made of.
    pub fn packages_arn(&self) -> String {
        format!("arn:{}:s3:::{}/{PACKAGES}*", self.partition(), self.package_bucket)
    }

    /// Where the function's log goes.
    pub fn log_group(&self) -> String {
        format!("/aws/lambda/{}", self.function)
    }

    /// The part of AWS that the region belongs to.
    pub fn partition(&self) -> &'static str {
        match self.region.split('-').next() {
            Some("cn") => "aws-cn",
            _ if self.region.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        }
    }
}
