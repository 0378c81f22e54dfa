"""What cases begin with: a repository, an image in it, a function of that image, or one of a zip package."""

import base64
import hashlib
import io
import json
import platform
import time
import zipfile

import requests

from cloud_support import Image
from conversation import Conversation, Differs, Fault, NotThere

ARCHITECTURE = "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64"
ROLE = "arn:aws:iam::{account}:role/conformance"
STATEMENT = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
TRUST = json.dumps({"Version": "2012-10-17", "Statement": [STATEMENT]})
SETTLE_LIMIT_S = 20


def account(c: Conversation) -> str:
    return c.ok("sts.GetCallerIdentity")["Account"]


def repository(c: Conversation, **options) -> dict:
    return c.ok("ecr.CreateRepository", repositoryName=c.name("repository"), **options)["repository"]


def registry_session(c: Conversation) -> requests.Session:
    """A session that has logged in to the registry; a server without one does not have the operation."""
    data = c.ok("ecr.GetAuthorizationToken")["authorizationData"][0]
    user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
    session = requests.Session()
    session.auth = (user, password)
    if session.get(f"{c.server.endpoint_url}/v2/", timeout=10).headers.get("docker-distribution-api-version") is None:
        raise NotThere("registry")
    return session


def upload_blobs(c: Conversation, name: str, image: Image) -> None:
    session = registry_session(c)
    base = f"{c.server.endpoint_url}/v2/{name}/blobs/uploads/"
    for digest, blob in image.blobs.items():
        started = session.post(base, timeout=10)
        location = requests.compat.urljoin(base, started.headers["location"])
        done = session.put(location, params={"digest": digest}, data=blob, timeout=30)
        if done.status_code != 201:
            raise Differs(f"the registry answers {done.status_code} to a blob")


def put_image(c: Conversation, repository: dict, image: Image, tag: str = "1") -> str:
    """Puts an image into a repository as far as the server has one to put it into; gives the digest that it is known by."""
    try:
        upload_blobs(c, repository["repositoryName"], image)
    except NotThere:
        # An emulator without a registry takes manifests whose layers nobody has.
        pass
    manifest = {"imageManifest": image.manifest.decode(), "imageManifestMediaType": image.media_type}
    put = c.ok("ecr.PutImage", repositoryName=repository["repositoryName"], imageTag=tag, **manifest)
    return put["image"]["imageId"]["imageDigest"]


def image_uri(c: Conversation, repository: dict, image: Image, tag: str = "1") -> str:
    """The address, by digest, of an image that is put into a repository now."""
    return f"{repository['repositoryUri']}@{put_image(c, repository, image, tag)}"


def second_uri(c: Conversation, repository: dict) -> str:
    """The address of another image than a function began with."""
    return image_uri(c, repository, c.image("2"), "2")


def function_options(c: Conversation) -> dict:
    options = {"PackageType": "Image", "Architectures": [ARCHITECTURE], "Role": ROLE.format(account=account(c))}
    return {**options, "MemorySize": 256, "Timeout": 5}


def settled(c: Conversation, function: str) -> dict:
    end = time.monotonic() + SETTLE_LIMIT_S
    while time.monotonic() < end:
        found = c.ok("lambda.GetFunctionConfiguration", FunctionName=function)
        if found.get("State") != "Pending" and found.get("LastUpdateStatus") != "InProgress":
            return found
        time.sleep(0.02)
    raise Differs("the function does not settle")


def function(c: Conversation, image: Image | None = None) -> tuple[str, dict]:
    """A function that is ready, and the repository of its image."""
    made, name = repository(c), c.name("function")
    uri = image_uri(c, made, image or c.image())
    answer = c.ask("lambda.CreateFunction", FunctionName=name, Code={"ImageUri": uri}, **function_options(c))
    if isinstance(answer, Fault) and "role" in answer.message.lower():
        # An emulator that has roles wants this one to exist.
        create_role(c, "conformance")
        answer = c.ok("lambda.CreateFunction", FunctionName=name, Code={"ImageUri": uri}, **function_options(c))
    elif isinstance(answer, Fault):
        raise Differs(f"CreateFunction fails with {answer.code} {answer.status}")
    settled(c, name)
    return name, made


def package(content: str = "1") -> bytes:
    """A zip package, the same bytes for the same content."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        entry = zipfile.ZipInfo("bootstrap", (1980, 1, 1, 0, 0, 0))
        entry.external_attr = 0o100755 << 16
        archive.writestr(entry, f"#!/bin/sh\nexit {content}\n")
    return held.getvalue()


def package_digest(content: str = "1") -> str:
    """`CodeSha256` of a zip package."""
    return base64.b64encode(hashlib.sha256(package(content)).digest()).decode()


def package_options(c: Conversation) -> dict:
    """Everything but the code that a function of a zip package is made with."""
    return {**function_options(c), "PackageType": "Zip", "Runtime": "provided.al2023", "Handler": "bootstrap"}


def package_function(c: Conversation, code: dict | None = None) -> str:
    """A function of a zip package that is ready."""
    name = c.name("function")
    options = {"FunctionName": name, "Code": code or {"ZipFile": package()}, **package_options(c)}
    answer = c.ask("lambda.CreateFunction", **options)
    if isinstance(answer, Fault) and "role" in answer.message.lower():
        create_role(c, "conformance")
        answer = c.ok("lambda.CreateFunction", **options)
    elif isinstance(answer, Fault):
        raise Differs(f"CreateFunction fails with {answer.code} {answer.status}")
    settled(c, name)
    return name


def stored_package(c: Conversation, content: str = "1") -> dict:
    """A zip package in a bucket, as functions are told of it."""
    made = bucket(c)
    c.ok("s3.PutObject", Bucket=made, Key="packages/1.zip", Body=package(content))
    return {"S3Bucket": made, "S3Key": "packages/1.zip"}


def create_role(c: Conversation, name: str) -> dict:
    return c.ok("iam.CreateRole", RoleName=name, AssumeRolePolicyDocument=TRUST)["Role"]


def aliased(c: Conversation, image: Image | None = None) -> tuple[str, dict]:
    """A function with version 1 behind alias `live`, and the repository of its image."""
    name, made = function(c, image)
    version = c.ok("lambda.PublishVersion", FunctionName=name)["Version"]
    c.ok("lambda.CreateAlias", FunctionName=name, Name="live", FunctionVersion=version)
    return name, made


def second_version(c: Conversation, name: str, repository: dict) -> str:
    c.ok("lambda.UpdateFunctionCode", FunctionName=name, ImageUri=second_uri(c, repository))
    settled(c, name)
    return c.ok("lambda.PublishVersion", FunctionName=name)["Version"]


def bucket(c: Conversation) -> str:
    name = c.name("bucket")
    c.ok("s3.CreateBucket", Bucket=name)
    return name
