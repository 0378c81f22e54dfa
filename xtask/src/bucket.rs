//! The bucket: encrypted, reached by TLS alone, private but for the two prefixes that the environment publishes.
//!
//! Settings are read first and written only where they differ, so that whoever may not change them can still publish.

use anyhow::{Context, Result};
use aws_sdk_s3::types::{
    BucketLocationConstraint, CreateBucketConfiguration, PublicAccessBlockConfiguration, ServerSideEncryption,
    ServerSideEncryptionByDefault, ServerSideEncryptionConfiguration, ServerSideEncryptionRule,
};
use serde_json::{Value, json};

use crate::cloud::{Cloud, service_error, unless};
use crate::config::Environment;
use crate::iam_document;

/// Something of a bucket that is not as it should be.
pub struct Difference {
    setting: Setting,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Setting {
    Encryption,
    PublicAccess,
    Policy,
}

impl Cloud {
    /// Makes the bucket if it does not exist, and sets what is not as it should be.
    pub async fn ensure_bucket(&self, environment: &Environment) -> Result<()> {
        let differences = match self.bucket_differences(environment).await? {
            Some(differences) => differences,
            None => {
                self.create_bucket(environment).await?;
                self.bucket_differences(environment).await?.unwrap_or_default()
            }
        };
        // The policy comes last: a bucket refuses a public one until public access is allowed.
        for setting in [Setting::Encryption, Setting::PublicAccess, Setting::Policy] {
            if differences.iter().any(|difference| difference.setting == setting) {
                self.set(environment, setting).await?;
            }
        }
        Ok(())
    }

    /// In what the bucket differs from what the environment says; none if there is no bucket.
    pub async fn bucket_differences(&self, environment: &Environment) -> Result<Option<Vec<Difference>>> {
        let bucket = &environment.bucket;
        // Names of buckets are unique in the world, and somebody else's would answer, too.
        let request = self.s3.head_bucket().bucket(bucket).expected_bucket_owner(&environment.account);
        match request.send().await {
            Ok(_) => {}
            Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => return Ok(None),
            Err(error) => return Err(service_error(error)).with_context(|| format!("look for the bucket `{bucket}`")),
        }
        let mut differences = Vec::new();
        let mut add = |setting, text| differences.push(Difference { setting, text });
        if !self.is_encrypted(bucket).await? {
            add(Setting::Encryption, "objects are not encrypted by default".to_string());
        }
        let (found, wanted) = (self.public_access_block(bucket).await?, wanted_block(environment.public));
        let (found, wanted) = (found.as_ref().map_or_else(|| "nothing".to_string(), blocked), blocked(&wanted));
        if found != wanted {
            add(Setting::PublicAccess, format!("public access: blocks {found}, should block {wanted}"));
        }
        let policy = self.bucket_policy(bucket).await?;
        for line in iam_document::differences(&policy, &wanted_policy(environment)) {
            add(Setting::Policy, format!("policy: {line}"));
        }
        Ok(Some(differences))
    }

    async fn create_bucket(&self, environment: &Environment) -> Result<()> {
        let bucket = &environment.bucket;
        let mut request = self.s3.create_bucket().bucket(bucket);
        // The oldest region is the one that must not be named.
        if environment.region != "us-east-1" {
            let place = BucketLocationConstraint::from(environment.region.as_str());
            request = request
                .create_bucket_configuration(CreateBucketConfiguration::builder().location_constraint(place).build());
        }
        // It is ours already where a first call worked and its answer was lost.
        let made = unless(request.send().await, "BucketAlreadyOwnedByYou");
        made.with_context(|| format!("create the bucket `{bucket}`"))?;
        Ok(())
    }

    async fn set(&self, environment: &Environment, setting: Setting) -> Result<()> {
        let bucket = &environment.bucket;
        let result = match setting {
            Setting::Encryption => {
                let default = ServerSideEncryptionByDefault::builder().sse_algorithm(ServerSideEncryption::Aes256);
                let rule = ServerSideEncryptionRule::builder()
                    .apply_server_side_encryption_by_default(default.build()?)
                    .build();
                let wanted = ServerSideEncryptionConfiguration::builder().rules(rule).build()?;
                let request = self.s3.put_bucket_encryption().bucket(bucket);
                request.server_side_encryption_configuration(wanted).send().await.map(|_| ()).map_err(service_error)
            }
            Setting::PublicAccess => {
                let request = self.s3.put_public_access_block().bucket(bucket);
                let request = request.public_access_block_configuration(wanted_block(environment.public));
                request.send().await.map(|_| ()).map_err(service_error)
            }
            Setting::Policy => {
                let policy = wanted_policy(environment).to_string();
                let request = self.s3.put_bucket_policy().bucket(bucket).policy(policy);
                request.send().await.map(|_| ()).map_err(service_error)
            }
        };
        let what = match setting {
            Setting::Encryption => "the encryption",
            Setting::PublicAccess => "the public access",
            Setting::Policy => "the policy",
        };
        result.with_context(|| {
            format!("set {what} of the bucket `{bucket}` (`cargo xtask provision`, by an administrator, does)")
        })
    }

    async fn is_encrypted(&self, bucket: &str) -> Result<bool> {
        let answer = self.s3.get_bucket_encryption().bucket(bucket).send().await;
        let found = unless(answer, "ServerSideEncryptionConfigurationNotFoundError");
        Ok(found.with_context(|| format!("ask for the encryption of the bucket `{bucket}`"))?.is_some())
    }

    async fn public_access_block(&self, bucket: &str) -> Result<Option<PublicAccessBlockConfiguration>> {
        let answer = self.s3.get_public_access_block().bucket(bucket).send().await;
        let found = unless(answer, "NoSuchPublicAccessBlockConfiguration");
        let found = found.with_context(|| format!("ask for the public access of the bucket `{bucket}`"))?;
        Ok(found.and_then(|answer| answer.public_access_block_configuration))
    }

    /// The bucket's policy; null if it has none.
    async fn bucket_policy(&self, bucket: &str) -> Result<Value> {
        let answer = self.s3.get_bucket_policy().bucket(bucket).send().await;
        let found = unless(answer, "NoSuchBucketPolicy");
        let found = found.with_context(|| format!("ask for the policy of the bucket `{bucket}`"))?;
        let text = found.as_ref().and_then(|answer| answer.policy()).unwrap_or("null");
        serde_json::from_str(text).with_context(|| format!("understand the policy of the bucket `{bucket}`"))
    }
}

/// Access lists are blocked always, a public policy unless the environment publishes something.
fn wanted_block(public: bool) -> PublicAccessBlockConfiguration {
    PublicAccessBlockConfiguration::builder()
        .block_public_acls(true)
        .ignore_public_acls(true)
        .block_public_policy(!public)
        .restrict_public_buckets(!public)
        .build()
}

/// What a block keeps out, each kind of it.
fn blocked(block: &PublicAccessBlockConfiguration) -> String {
    let parts = [
        (block.block_public_acls(), "new access lists"),
        (block.ignore_public_acls(), "access lists"),
        (block.block_public_policy(), "new policies"),
        (block.restrict_public_buckets(), "policies"),
    ];
    let on: Vec<_> = parts.iter().filter(|(on, _)| *on == Some(true)).map(|(_, name)| *name).collect();
    if on.is_empty() { "nothing".to_string() } else { on.join(", ") }
}

/// Nobody without TLS; anybody may read what the environment publishes, and nothing else in the bucket.
fn wanted_policy(environment: &Environment) -> Value {
    let bucket = environment.bucket_arn();
    let mut statements = vec![json!({
        "Sid": "RefuseWithoutTls",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [bucket, format!("{bucket}/*")],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    })];
    if environment.public {
        statements.push(json!({
            "Sid": "ReadWebPageAndReport",
            "Effect": "Allow",
            "Principal": "*",
            "Action": "s3:GetObject",
            "Resource": environment.published_objects(),
        }));
    }
    json!({"Version": "2012-10-17", "Statement": statements})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn only_what_is_published_is_public() {
        let config = config::parse(include_str!("../../pipeline.toml")).unwrap();
        let mut environment = config.environment("preprod").unwrap().clone();
        let policy = wanted_policy(&environment);
        let allow = &policy["Statement"][1];
        assert_eq!(
            allow["Resource"],
            json!([
                "arn:aws:s3:::mlopswebapp-000000000000/web/*",
                "arn:aws:s3:::mlopswebapp-000000000000/harness/output/*"
            ])
        );
        assert_eq!((&allow["Action"], &allow["Principal"]), (&json!("s3:GetObject"), &json!("*")));
        environment.public = false;
        let policy = wanted_policy(&environment);
        assert_eq!(policy["Statement"].as_array().map(Vec::len), Some(1));
        assert_eq!(policy["Statement"][0]["Effect"], "Deny");
        assert_eq!(wanted_block(false).block_public_policy(), Some(true));
    }
}
