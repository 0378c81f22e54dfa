//! Who may do what: a signed caller everything, an anonymous one what the bucket's policy grants to everybody.

use std::sync::Arc;

use s3s::{
    S3ErrorCode, S3Result,
    access::{S3Access, S3AccessContext},
};

use super::{error, not_implemented, store::Store};

/// The operations that are answered; every other one is refused by name, before its input is read.
const IMPLEMENTED: &[&str] = &[
    "AbortMultipartUpload",
    "CompleteMultipartUpload",
    "CreateBucket",
    "CreateMultipartUpload",
    "DeleteBucket",
    "DeleteBucketPolicy",
    "DeleteObject",
    "DeleteObjects",
    "DeletePublicAccessBlock",
    "GetBucketEncryption",
    "GetBucketLocation",
    "GetBucketPolicy",
    "GetObject",
    "GetPublicAccessBlock",
    "HeadBucket",
    "HeadObject",
    "ListBuckets",
    "ListObjectsV2",
    "PutBucketEncryption",
    "PutBucketPolicy",
    "PutObject",
    "PutPublicAccessBlock",
    "UploadPart",
];

/// The access check, which comes before every operation.
pub struct Access(pub Arc<Store>);

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let operation = cx.s3_op().name();
        let implemented = IMPLEMENTED.contains(&operation);
        if cx.credentials().is_some() {
            return if implemented { Ok(()) } else { Err(not_implemented(format!("S3 operation {operation}"))) };
        }
        let denied = || error(S3ErrorCode::AccessDenied, "Access Denied");
        let ("GetObject" | "HeadObject", Some((bucket, key))) = (operation, cx.s3_path().as_object()) else {
            return Err(denied());
        };
        match self.0.anonymous_read(bucket, key) {
            // Who may not list may not learn either which keys are missing.
            Ok(true) => Ok(()),
            Ok(false) => Err(denied()),
            Err(error) => Err(error),
        }
    }
}
