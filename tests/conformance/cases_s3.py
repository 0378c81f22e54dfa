"""S3: buckets, what the public may read, objects."""

import hashlib
import json

from conversation import Conversation, case
from scenario import bucket

CLOSED = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
OPEN = {**CLOSED, "BlockPublicPolicy": False, "RestrictPublicBuckets": False}
BODY = b"<h1>report</h1>"


def public_read(name: str) -> str:
    statement = {
        "Sid": "Read",
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{name}/web/*",
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@case("s3.CreateBucket", "is there afterwards, and the owner may say it again")
def create(c: Conversation) -> None:
    name = bucket(c)
    c.ok("s3.HeadBucket", Bucket=name)
    # So in the oldest region alone.
    c.ok("s3.CreateBucket", Bucket=name)


@case("s3.CreateBucket", "a name that breaks the rules is refused")
def bad_name(c: Conversation) -> None:
    c.refused("s3.CreateBucket", "InvalidBucketName", 400, Bucket="Not_Valid")


@case("s3.HeadBucket", "an absent one is 404")
def absent(c: Conversation) -> None:
    c.refused("s3.HeadBucket", "404", 404, Bucket=c.name("absent"))


@case("s3.DeleteBucket", "one with objects stays")
def delete(c: Conversation) -> None:
    name = bucket(c)
    c.ok("s3.PutObject", Bucket=name, Key="a", Body=BODY)
    c.refused("s3.DeleteBucket", "BucketNotEmpty", 409, Bucket=name)
    c.ok("s3.DeleteObject", Bucket=name, Key="a")
    c.ok("s3.DeleteBucket", Bucket=name)
    c.refused("s3.DeleteBucket", "NoSuchBucket", 404, Bucket=name)


@case("s3.PutPublicAccessBlock", "is read back as given")
def block(c: Conversation) -> None:
    name = bucket(c)
    c.ok("s3.PutPublicAccessBlock", Bucket=name, PublicAccessBlockConfiguration=OPEN)
    c.equal("the configuration", c.ok("s3.GetPublicAccessBlock", Bucket=name).get("PublicAccessBlockConfiguration"), OPEN)


@case("s3.PutPublicAccessBlock", "of an absent bucket is refused")
def block_of_nothing(c: Conversation) -> None:
    c.refused("s3.PutPublicAccessBlock", "NoSuchBucket", 404, Bucket=c.name("absent"), PublicAccessBlockConfiguration=OPEN)


@case("s3.GetPublicAccessBlock", "a new bucket is closed")
def closed(c: Conversation) -> None:
    c.equal("the configuration", c.ok("s3.GetPublicAccessBlock", Bucket=bucket(c)).get("PublicAccessBlockConfiguration"), CLOSED)


@case("s3.PutBucketPolicy", "a public one needs an open bucket")
def blocked_policy(c: Conversation) -> None:
    name = bucket(c)
    c.ok("s3.PutPublicAccessBlock", Bucket=name, PublicAccessBlockConfiguration=CLOSED)
    c.refused("s3.PutBucketPolicy", "AccessDenied", 403, Bucket=name, Policy=public_read(name))


@case("s3.PutBucketPolicy", "is read back as given")
def policy(c: Conversation) -> None:
    name = bucket(c)
    c.ok("s3.PutPublicAccessBlock", Bucket=name, PublicAccessBlockConfiguration=OPEN)
    c.ok("s3.PutBucketPolicy", Bucket=name, Policy=public_read(name))
    found = c.ok("s3.GetBucketPolicy", Bucket=name).get("Policy", "{}")
    c.equal("the policy", json.loads(found), json.loads(public_read(name)))


@case("s3.PutBucketPolicy", "text that is no policy is refused")
def bad_policy(c: Conversation) -> None:
    c.refused("s3.PutBucketPolicy", "MalformedPolicy", 400, Bucket=bucket(c), Policy="allow everything")


@case("s3.GetBucketPolicy", "none is an error")
def no_policy(c: Conversation) -> None:
    c.refused("s3.GetBucketPolicy", "NoSuchBucketPolicy", 404, Bucket=bucket(c))


@case("s3.DeleteBucketPolicy", "takes it away")
def delete_policy(c: Conversation) -> None:
    name = bucket(c)
    c.ok("s3.PutPublicAccessBlock", Bucket=name, PublicAccessBlockConfiguration=OPEN)
    c.ok("s3.PutBucketPolicy", Bucket=name, Policy=public_read(name))
    c.ok("s3.DeleteBucketPolicy", Bucket=name)
    c.refused("s3.GetBucketPolicy", "NoSuchBucketPolicy", 404, Bucket=name)


@case("s3.PutObject", "answers with the ETag of its bytes")
def put(c: Conversation) -> None:
    answer = c.ok("s3.PutObject", Bucket=bucket(c), Key="web/index.html", Body=BODY, ContentType="text/html")
    c.equal("ETag", answer.get("ETag"), f'"{hashlib.md5(BODY).hexdigest()}"')


@case("s3.PutObject", "into an absent bucket is refused")
def put_nowhere(c: Conversation) -> None:
    c.refused("s3.PutObject", "NoSuchBucket", 404, Bucket=c.name("absent"), Key="a", Body=BODY)


@case("s3.PutObject", "If-None-Match keeps what is there")
def put_once(c: Conversation) -> None:
    name = bucket(c)
    c.ok("s3.PutObject", Bucket=name, Key="a", Body=BODY, IfNoneMatch="*")
    c.refused("s3.PutObject", "PreconditionFailed", 412, Bucket=name, Key="a", Body=b"other", IfNoneMatch="*")


@case("s3.GetObject", "bytes, type, length and metadata as put")
def get(c: Conversation) -> None:
    name = bucket(c)
    c.ok(
        "s3.PutObject",
        Bucket=name,
        Key="web/a b+c.html",
        Body=BODY,
        ContentType="text/html",
        CacheControl="no-store",
        Metadata={"run": "1"},
    )
    answer = c.ok("s3.GetObject", Bucket=name, Key="web/a b+c.html")
    c.equal("the body", answer["Body"].read(), BODY)
    expected = {"ContentType": "text/html", "ContentLength": len(BODY), "CacheControl": "no-store", "Metadata": {"run": "1"}}
    for member, value in expected.items():
        c.equal(member, answer.get(member), value)
    c.expect("LastModified" in answer, "LastModified is missing")


@case("s3.GetObject", "an absent key and an absent bucket are errors")
def get_nothing(c: Conversation) -> None:
    c.refused("s3.GetObject", "NoSuchKey", 404, Bucket=bucket(c), Key="absent")
    c.refused("s3.GetObject", "NoSuchBucket", 404, Bucket=c.name("absent"), Key="a")


@case("s3.HeadObject", "what GetObject says, without the bytes")
def head(c: Conversation) -> None:
    name = bucket(c)
    put = c.ok("s3.PutObject", Bucket=name, Key="a", Body=BODY, ContentType="text/html")
    answer = c.ok("s3.HeadObject", Bucket=name, Key="a")
    for member, value in {"ContentType": "text/html", "ContentLength": len(BODY), "ETag": put.get("ETag")}.items():
        c.equal(member, answer.get(member), value)
    c.refused("s3.HeadObject", "404", 404, Bucket=name, Key="absent")


@case("s3.DeleteObject", "of an absent key succeeds too")
def delete_object(c: Conversation) -> None:
    name = bucket(c)
    c.ok("s3.PutObject", Bucket=name, Key="a", Body=BODY)
    c.ok("s3.DeleteObject", Bucket=name, Key="a")
    c.refused("s3.HeadObject", "404", 404, Bucket=name, Key="a")
    c.ok("s3.DeleteObject", Bucket=name, Key="a")


@case("s3.ListObjectsV2", "by prefix, in order, in pages")
def listing(c: Conversation) -> None:
    name = bucket(c)
    for key in ("web/c", "web/a", "web/b", "other"):
        c.ok("s3.PutObject", Bucket=name, Key=key, Body=BODY)
    first = c.ok("s3.ListObjectsV2", Bucket=name, Prefix="web/", MaxKeys=2)
    c.equal("the first page", [found["Key"] for found in first.get("Contents", [])], ["web/a", "web/b"])
    c.equal("IsTruncated", first.get("IsTruncated"), True)
    c.equal("KeyCount", first.get("KeyCount"), 2)
    rest = c.ok(
        "s3.ListObjectsV2", Bucket=name, Prefix="web/", MaxKeys=2, ContinuationToken=first.get("NextContinuationToken", "")
    )
    c.equal("the last page", [found["Key"] for found in rest.get("Contents", [])], ["web/c"])
    c.equal("IsTruncated of the last page", rest.get("IsTruncated"), False)
    c.refused("s3.ListObjectsV2", "NoSuchBucket", 404, Bucket=c.name("absent"))


@case("s3.DeleteObjects", "names each that is gone")
def delete_objects(c: Conversation) -> None:
    name = bucket(c)
    c.ok("s3.PutObject", Bucket=name, Key="a", Body=BODY)
    answer = c.ok("s3.DeleteObjects", Bucket=name, Delete={"Objects": [{"Key": "a"}, {"Key": "absent"}]})
    c.equal("Deleted", sorted(found["Key"] for found in answer.get("Deleted", [])), ["a", "absent"])


ENCRYPTION = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": False}]}


def algorithms(answer: dict) -> list[str | None]:
    rules = answer.get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
    return [rule.get("ApplyServerSideEncryptionByDefault", {}).get("SSEAlgorithm") for rule in rules]


@case("s3.PutBucketEncryption", "is read back as given")
def encryption(c: Conversation) -> None:
    name = bucket(c)
    c.ok("s3.PutBucketEncryption", Bucket=name, ServerSideEncryptionConfiguration=ENCRYPTION)
    c.equal("the algorithms", algorithms(c.ok("s3.GetBucketEncryption", Bucket=name)), ["AES256"])
    absent = c.name("absent")
    c.refused("s3.PutBucketEncryption", "NoSuchBucket", 404, Bucket=absent, ServerSideEncryptionConfiguration=ENCRYPTION)


@case("s3.GetBucketEncryption", "a new bucket is encrypted")
def encrypted(c: Conversation) -> None:
    c.equal("the algorithms", algorithms(c.ok("s3.GetBucketEncryption", Bucket=bucket(c))), ["AES256"])
    c.refused("s3.GetBucketEncryption", "NoSuchBucket", 404, Bucket=c.name("absent"))
