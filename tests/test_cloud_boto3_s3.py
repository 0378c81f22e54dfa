"""The embedded cloud's S3 by boto3."""

import io
import json
import os

import pytest
import requests
from botocore.exceptions import MissingDependencyException

from cloud_support import code


def test_buckets(s3):
    s3.create_bucket(Bucket="site")
    s3.create_bucket(Bucket="site")
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["site"]
    assert s3.head_bucket(Bucket="site")["BucketRegion"] == "us-east-1"
    assert s3.get_bucket_location(Bucket="site")["LocationConstraint"] is None
    assert code(s3.head_bucket, Bucket="absent")[1] == 404
    assert code(s3.list_objects_v2, Bucket="absent") == ("NoSuchBucket", 404)
    other = {"Bucket": "other", "CreateBucketConfiguration": {"LocationConstraint": "eu-west-1"}}
    assert code(s3.create_bucket, **other) == ("IllegalLocationConstraintException", 400)
    assert code(s3.create_bucket, Bucket="Bad_Name")[1] == 400
    s3.put_object(Bucket="site", Key="a", Body=b"a")
    assert code(s3.delete_bucket, Bucket="site") == ("BucketNotEmpty", 409)
    s3.delete_objects(Bucket="site", Delete={"Objects": [{"Key": "a"}, {"Key": "absent"}]})
    s3.delete_bucket(Bucket="site")


def test_objects(s3):
    s3.create_bucket(Bucket="site")
    body = os.urandom(100_000)
    put = s3.put_object(
        Bucket="site", Key="web/x y+ü.html", Body=body, ContentType="text/html; charset=utf-8", CacheControl="max-age=60",
        Metadata={"model": "abc"},
    )
    # The default of today's clients: a CRC in a trailer.
    assert put["ChecksumCRC32"] and put["ETag"]
    got = s3.get_object(Bucket="site", Key="web/x y+ü.html")
    assert got["Body"].read() == body and got["ContentType"] == "text/html; charset=utf-8" and got["CacheControl"] == "max-age=60"
    assert got["Metadata"] == {"model": "abc"} and got["ETag"] == put["ETag"] and "ContentEncoding" not in got
    head = s3.head_object(Bucket="site", Key="web/x y+ü.html")
    assert head["ContentLength"] == len(body) and head["Metadata"] == {"model": "abc"}
    part = s3.get_object(Bucket="site", Key="web/x y+ü.html", Range="bytes=10-19")
    assert part["Body"].read() == body[10:20] and part["ContentRange"] == f"bytes 10-19/{len(body)}"
    assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert s3.get_object(Bucket="site", Key="web/x y+ü.html", Range="bytes=-5")["Body"].read() == body[-5:]
    assert code(s3.get_object, Bucket="site", Key="web/x y+ü.html", Range="bytes=200000-") == ("InvalidRange", 416)
    assert code(s3.get_object, Bucket="site", Key="absent") == ("NoSuchKey", 404)
    assert code(s3.head_object, Bucket="site", Key="absent")[1] == 404
    assert code(s3.get_object, Bucket="site", Key="web/x y+ü.html", IfNoneMatch=put["ETag"])[1] == 304
    assert code(s3.get_object, Bucket="site", Key="web/x y+ü.html", IfMatch='"other"') == ("PreconditionFailed", 412)
    again = {"Bucket": "site", "Key": "web/x y+ü.html", "Body": b"other", "IfNoneMatch": "*"}
    assert code(s3.put_object, **again) == ("PreconditionFailed", 412)
    s3.put_object(**{**again, "Key": "new"})
    assert code(s3.put_object, Bucket="site", Key="acl", Body=b"", ACL="public-read") == ("NotImplemented", 501)
    assert code(s3.put_object, Bucket="site", Key="sum", Body=b"x", ChecksumCRC32="AAAAAA==")[0] == "BadDigest"
    assert code(s3.head_object, Bucket="site", Key="sum")[1] == 404
    s3.put_object(Bucket="site", Key="empty", Body=b"")
    assert s3.get_object(Bucket="site", Key="empty")["Body"].read() == b""
    s3.delete_object(Bucket="site", Key="new")
    s3.delete_object(Bucket="site", Key="new")


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums(s3, algorithm):
    s3.create_bucket(Bucket="site")
    try:
        s3.put_object(Bucket="site", Key="x", Body=b"content", ChecksumAlgorithm=algorithm)
    except MissingDependencyException:
        # This client computes these with an optional library; the sums of `content` are known without it.
        known = {"CRC32C": "Ya91Mw==", "CRC64NVME": "lhVdXyVQTGE="}[algorithm]
        s3.put_object(Bucket="site", Key="x", Body=b"content", **{f"Checksum{algorithm}": known})
    got = s3.get_object(Bucket="site", Key="x", ChecksumMode="ENABLED")
    assert got[f"Checksum{algorithm}"] and got["Body"].read() == b"content"


def test_listing(s3):
    s3.create_bucket(Bucket="site")
    keys = sorted(["a/1", "a/2", "a b/ü&<", "b", "c/1/2", "c/1/3", "zz"], key=str.encode)
    for key in keys:
        s3.put_object(Bucket="site", Key=key, Body=key.encode())
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket="site")["Contents"]] == keys
    pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket="site", Delimiter="/", PaginationConfig={"PageSize": 1}))
    names = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    prefixes = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
    assert names == ["b", "zz"] and prefixes == ["a b/", "a/", "c/"]
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket="site", Prefix="c/1/")["Contents"]] == ["c/1/2", "c/1/3"]
    assert s3.list_objects_v2(Bucket="site", StartAfter="c/1/3")["KeyCount"] == 1


def test_upload_in_parts(s3):
    s3.create_bucket(Bucket="site")
    body = os.urandom(20 << 20)
    s3.upload_fileobj(io.BytesIO(body), "site", "large", ExtraArgs={"ContentType": "application/x-model", "Metadata": {"a": "b"}})
    target = io.BytesIO()
    s3.download_fileobj("site", "large", target)
    assert target.getvalue() == body
    head = s3.head_object(Bucket="site", Key="large")
    assert head["ETag"].endswith('-3"') and head["ContentType"] == "application/x-model" and head["Metadata"] == {"a": "b"}
    upload = s3.create_multipart_upload(Bucket="site", Key="x")["UploadId"]
    part = s3.upload_part(Bucket="site", Key="x", UploadId=upload, PartNumber=1, Body=b"1")
    s3.upload_part(Bucket="site", Key="x", UploadId=upload, PartNumber=2, Body=b"2")
    complete = {"Bucket": "site", "Key": "x", "UploadId": upload}
    wrong = {"Parts": [{"PartNumber": 1, "ETag": '"00"'}]}
    assert code(s3.complete_multipart_upload, **complete, MultipartUpload=wrong) == ("InvalidPart", 400)
    both = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}, {"PartNumber": 2}]}
    assert code(s3.complete_multipart_upload, **complete, MultipartUpload=both) == ("EntityTooSmall", 400)
    s3.abort_multipart_upload(**complete)
    assert code(s3.abort_multipart_upload, **complete) == ("NoSuchUpload", 404)


def test_anonymous_reading(cloud, s3):
    s3.create_bucket(Bucket="site")
    s3.put_object(Bucket="site", Key="web/index.html", Body=b"<h1>hi</h1>", ContentType="text/html")
    s3.put_object(Bucket="site", Key="private/x", Body=b"x")
    base = f"{cloud.endpoint_url}/site"
    page = f"{base}/web/index.html"
    assert requests.get(page).status_code == 403
    grant = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::site/web/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [grant]})
    # New buckets refuse to become public, as in AWS.
    assert code(s3.put_bucket_policy, Bucket="site", Policy=policy) == ("AccessDenied", 403)
    open_ = dict.fromkeys(["BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"], False)
    s3.put_public_access_block(Bucket="site", PublicAccessBlockConfiguration=open_)
    assert s3.get_public_access_block(Bucket="site")["PublicAccessBlockConfiguration"] == open_
    s3.put_bucket_policy(Bucket="site", Policy=policy)
    assert json.loads(s3.get_bucket_policy(Bucket="site")["Policy"]) == json.loads(policy)
    read = requests.get(page)
    assert (read.status_code, read.text, read.headers["content-type"]) == (200, "<h1>hi</h1>", "text/html")
    assert requests.head(page).headers["content-length"] == "11"
    assert requests.get(page, headers={"if-none-match": read.headers["etag"]}).status_code == 304
    for method, address in [
        ("GET", f"{base}/private/x"), ("GET", f"{base}/web/absent"), ("GET", f"{base}/web/"), ("GET", base),
        ("GET", f"{base}/web/../private/x"), ("PUT", page), ("DELETE", page), ("GET", f"{base}?policy"), ("GET", f"{page}?acl"),
    ]:
        request = requests.Request(method, address).prepare()
        request.url = address
        refused = requests.Session().send(request)
        assert refused.status_code == 403 and "<Code>AccessDenied</Code>" in refused.text, (method, address, refused.text)
    s3.put_public_access_block(Bucket="site", PublicAccessBlockConfiguration={**open_, "RestrictPublicBuckets": True})
    assert requests.get(page).status_code == 403
    s3.delete_public_access_block(Bucket="site")
    assert requests.get(page).status_code == 200
    assert code(s3.get_public_access_block, Bucket="site") == ("NoSuchPublicAccessBlockConfiguration", 404)
    s3.delete_bucket_policy(Bucket="site")
    assert requests.get(page).status_code == 403
    assert code(s3.get_bucket_policy, Bucket="site") == ("NoSuchBucketPolicy", 404)
    assert code(s3.put_bucket_policy, Bucket="site", Policy="{") == ("MalformedPolicy", 400)
