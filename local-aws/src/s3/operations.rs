//! The operations that are answered, and those on buckets themselves.

use std::{sync::Arc, time::SystemTime};

use s3s::{S3, S3ErrorCode, S3Request, S3Response, S3Result, dto::*};

use super::{
    error, multipart, not_implemented, objects, policy,
    store::{Block, Store},
};
use crate::ACCOUNT_ID;

/// The S3 operations over a store.
pub struct Operations(pub Arc<Store>);

type Answer<T> = S3Result<S3Response<T>>;

#[async_trait::async_trait]
impl S3 for Operations {
    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> Answer<CreateBucketOutput> {
        let input = req.input;
        if input.object_lock_enabled_for_bucket == Some(true) {
            return Err(not_implemented("CreateBucket with object lock"));
        }
        if input.acl.as_ref().is_some_and(|acl| acl.as_str() != "private") {
            return Err(not_implemented("CreateBucket with a public acl"));
        }
        let stated = input.create_bucket_configuration.and_then(|configuration| configuration.location_constraint);
        let stated = stated.as_ref().map_or("us-east-1", |constraint| constraint.as_str());
        if stated != self.0.region {
            return Err(error(
                S3ErrorCode::IllegalLocationConstraintException,
                format!(
                    "The {stated} location constraint is incompatible for the region specific endpoint this request was sent to."
                ),
            ));
        }
        // The oldest region answers its own owner that all is well, the others do not.
        if !self.0.create(&input.bucket)? && self.0.region != "us-east-1" {
            return Err(error(
                S3ErrorCode::BucketAlreadyOwnedByYou,
                "Your previous request to create the named bucket succeeded and you already own it.",
            ));
        }
        Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{}", input.bucket)) }))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        self.0.bucket(&req.input.bucket, |_| ())?;
        Ok(S3Response::new(HeadBucketOutput {
            bucket_region: Some(self.0.region.clone()),
            ..HeadBucketOutput::default()
        }))
    }

    async fn list_buckets(&self, req: S3Request<ListBucketsInput>) -> Answer<ListBucketsOutput> {
        let prefix = req.input.prefix.clone().unwrap_or_default();
        let all = self.0.buckets(|bucket| Bucket {
            bucket_region: None,
            creation_date: Some(Timestamp::from(SystemTime::from(bucket.settings.created))),
            name: Some(bucket.settings.name.clone()),
        });
        let buckets =
            all.into_iter().filter(|bucket| bucket.name.as_ref().is_some_and(|name| name.starts_with(&prefix)));
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(buckets.collect()),
            owner: Some(Owner { display_name: None, id: Some(ACCOUNT_ID.to_owned()) }),
            prefix: req.input.prefix,
            ..ListBucketsOutput::default()
        }))
    }

    async fn delete_bucket(&self, req: S3Request<DeleteBucketInput>) -> Answer<DeleteBucketOutput> {
        self.0.delete_bucket(&req.input.bucket)?;
        Ok(S3Response::new(DeleteBucketOutput::default()))
    }

    async fn get_bucket_location(&self, req: S3Request<GetBucketLocationInput>) -> Answer<GetBucketLocationOutput> {
        self.0.bucket(&req.input.bucket, |_| ())?;
        let other = Some(self.0.region.clone()).filter(|region| region != "us-east-1");
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint: other.map(BucketLocationConstraint::from) }))
    }

    async fn put_bucket_policy(&self, req: S3Request<PutBucketPolicyInput>) -> Answer<PutBucketPolicyOutput> {
        let input = req.input;
        self.0.bucket(&input.bucket, |_| ())?;
        policy::check(&input.policy, &input.bucket)?;
        self.0.change(&input.bucket, |settings| {
            if settings.block.is_some_and(|block| block.block_policy) && policy::is_public(&input.policy) {
                return Err(error(
                    S3ErrorCode::AccessDenied,
                    format!(
                        "User: arn:aws:iam::{ACCOUNT_ID}:root is not authorized to perform: s3:PutBucketPolicy on resource: \
                         \"arn:aws:s3:::{}\" because public policies are prevented by the BlockPublicPolicy setting in S3 Block \
                         Public Access.",
                        input.bucket
                    ),
                ));
            }
            settings.policy = Some(input.policy);
            Ok(())
        })?;
        Ok(S3Response::new(PutBucketPolicyOutput::default()))
    }

    async fn get_bucket_policy(&self, req: S3Request<GetBucketPolicyInput>) -> Answer<GetBucketPolicyOutput> {
        let policy = self.0.bucket(&req.input.bucket, |bucket| bucket.settings.policy.clone())?;
        let policy =
            policy.ok_or_else(|| error(S3ErrorCode::NoSuchBucketPolicy, "The bucket policy does not exist"))?;
        Ok(S3Response::new(GetBucketPolicyOutput { policy: Some(policy) }))
    }

    async fn delete_bucket_policy(&self, req: S3Request<DeleteBucketPolicyInput>) -> Answer<DeleteBucketPolicyOutput> {
        self.0.change(&req.input.bucket, |settings| {
            settings.policy = None;
            Ok(())
        })?;
        Ok(S3Response::new(DeleteBucketPolicyOutput::default()))
    }

    async fn put_bucket_encryption(
        &self,
        req: S3Request<PutBucketEncryptionInput>,
    ) -> Answer<PutBucketEncryptionOutput> {
        // Every bucket is said to be encrypted with S3's own keys, so setting that changes nothing.
        let rules = req.input.server_side_encryption_configuration.rules;
        for rule in &rules {
            let default = rule.apply_server_side_encryption_by_default.as_ref();
            let algorithm = default.map_or(ServerSideEncryption::AES256, |default| default.sse_algorithm.as_str());
            if algorithm != ServerSideEncryption::AES256 {
                return Err(not_implemented(format!("PutBucketEncryption with {algorithm}")));
            }
        }
        self.0.bucket(&req.input.bucket, |_| ())?;
        Ok(S3Response::new(PutBucketEncryptionOutput::default()))
    }

    async fn get_bucket_encryption(
        &self,
        req: S3Request<GetBucketEncryptionInput>,
    ) -> Answer<GetBucketEncryptionOutput> {
        self.0.bucket(&req.input.bucket, |_| ())?;
        let default = ServerSideEncryptionByDefault {
            kms_master_key_id: None,
            sse_algorithm: ServerSideEncryption::from_static(ServerSideEncryption::AES256),
        };
        let rule = ServerSideEncryptionRule {
            apply_server_side_encryption_by_default: Some(default),
            bucket_key_enabled: Some(false),
        };
        let configuration = ServerSideEncryptionConfiguration { rules: vec![rule] };
        Ok(S3Response::new(GetBucketEncryptionOutput { server_side_encryption_configuration: Some(configuration) }))
    }

    async fn put_public_access_block(
        &self,
        req: S3Request<PutPublicAccessBlockInput>,
    ) -> Answer<PutPublicAccessBlockOutput> {
        let given = req.input.public_access_block_configuration;
        let block = Block {
            block_acls: given.block_public_acls == Some(true),
            block_policy: given.block_public_policy == Some(true),
            ignore_acls: given.ignore_public_acls == Some(true),
            restrict: given.restrict_public_buckets == Some(true),
        };
        self.0.change(&req.input.bucket, |settings| {
            settings.block = Some(block);
            Ok(())
        })?;
        Ok(S3Response::new(PutPublicAccessBlockOutput::default()))
    }

    async fn get_public_access_block(
        &self,
        req: S3Request<GetPublicAccessBlockInput>,
    ) -> Answer<GetPublicAccessBlockOutput> {
        let block = self.0.bucket(&req.input.bucket, |bucket| bucket.settings.block)?;
        let block = block.ok_or_else(|| {
            let code =
                S3ErrorCode::from_bytes(b"NoSuchPublicAccessBlockConfiguration").unwrap_or(S3ErrorCode::InvalidRequest);
            let mut missing = error(code, "The public access block configuration was not found");
            missing.set_status_code(http::StatusCode::NOT_FOUND);
            missing
        })?;
        Ok(S3Response::new(GetPublicAccessBlockOutput {
            public_access_block_configuration: Some(PublicAccessBlockConfiguration {
                block_public_acls: Some(block.block_acls),
                block_public_policy: Some(block.block_policy),
                ignore_public_acls: Some(block.ignore_acls),
                restrict_public_buckets: Some(block.restrict),
            }),
        }))
    }

    async fn delete_public_access_block(
        &self,
        req: S3Request<DeletePublicAccessBlockInput>,
    ) -> Answer<DeletePublicAccessBlockOutput> {
        self.0.change(&req.input.bucket, |settings| {
            settings.block = None;
            Ok(())
        })?;
        Ok(S3Response::new(DeletePublicAccessBlockOutput::default()))
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        objects::put(&self.0, req).await
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        objects::get(&self.0, req.input).await
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        objects::head(&self.0, &req.input)
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
        objects::delete(&self.0, &req.input)
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> Answer<DeleteObjectsOutput> {
        objects::delete_many(&self.0, req.input)
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> Answer<ListObjectsV2Output> {
        objects::list(&self.0, req.input)
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        multipart::create(&self.0, req)
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        multipart::upload_part(&self.0, req).await
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        multipart::complete(&self.0, req).await
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        multipart::abort(&self.0, &req.input)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}
