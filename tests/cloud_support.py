"""The embedded cloud as other people's clients see it: a running server, its clients, and images to push."""

import base64
import gzip
import hashlib
import io
import json
import os
import platform
import socket
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError

REPOSITORY_ROOT = Path(__file__).resolve().parent.parent
ACCESS_KEY_ID = "LOCALCLOUD0000000000"
SECRET_ACCESS_KEY = "local-cloud-secret-access-key-0000000000"
ROLE = "arn:aws:iam::000000000000:role/test"
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def built_programs() -> dict[str, Path]:
    """The server and the test function's program: next to `LOCAL_AWS_SERVE`, or built now."""
    given = os.environ.get("LOCAL_AWS_SERVE")
    if given:
        return {"serve": Path(given), "echo_runtime": Path(given).with_name("echo_runtime")}
    command = ["cargo", "build", "--package", "local-aws", "--examples", "--message-format", "json"]
    output = subprocess.run(command, cwd=REPOSITORY_ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    built = {}
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("executable") and "example" in message["target"]["kind"]:
            built[message["target"]["name"]] = Path(message["executable"])
    return built


@dataclass
class Cloud:
    """A running embedded cloud."""

    endpoint_url: str
    root: Path
    process: subprocess.Popen
    region: str = "us-east-1"

    @classmethod
    def start(cls, serve: Path, root: Path, port: int = 0, region: str = "us-east-1") -> "Cloud":
        command = [str(serve), str(root), str(port), region]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = process.stdout.readline().strip()
        assert line.startswith("http://127.0.0.1:"), f"the server did not start: {line!r}, exit {process.poll()}"
        return cls(line, root, process, region)

    def stop(self) -> None:
        end(self.process)
        self.process.stdout.close()

    @property
    def host(self) -> str:
        return self.endpoint_url.removeprefix("http://")

    def client(self, service: str, **options):
        # The client's own checks of parameters would keep wrong ones from the server that is to refuse them.
        config = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, parameter_validation=False)
        config = config.merge(options.pop("config", Config()))
        return boto3.client(
            service,
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=options.pop("access_key", ACCESS_KEY_ID),
            aws_secret_access_key=options.pop("secret_key", SECRET_ACCESS_KEY),
            config=config,
            **options,
        )

    def aws(self, *arguments: str, check: bool = True):
        """Runs the aws command line; JSON output is parsed."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_MAX_ATTEMPTS": "1",
        }
        # Not `aws` of the path: the version that the tests lock.
        command = [sys.executable, "-m", "awscli", *arguments]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        if not check:
            return result
        assert result.returncode == 0, result.stderr
        try:
            return json.loads(result.stdout)
        except ValueError:
            return result.stdout

    def registry_login(self) -> tuple[str, str]:
        data = self.client("ecr").get_authorization_token()["authorizationData"][0]
        user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
        return user, password

    def push(self, image: "Image", repository: str, tag: str) -> str:
        """Pushes an image by plain HTTP and returns its digest."""
        session = requests.Session()
        session.auth = self.registry_login()
        base = f"{self.endpoint_url}/v2/{repository}"
        for digest, blob in image.blobs.items():
            if session.head(f"{base}/blobs/{digest}").status_code == 200:
                continue
            started = session.post(f"{base}/blobs/uploads/")
            assert started.status_code == 202, started.text
            location = self.endpoint_url + started.headers["location"]
            done = session.put(location, params={"digest": digest}, data=blob)
            assert done.status_code == 201, done.text
        headers = {"content-type": image.media_type}
        pushed = session.put(f"{base}/manifests/{tag}", data=image.manifest, headers=headers)
        assert pushed.status_code == 201, pushed.text
        assert pushed.headers["docker-content-digest"] == image.digest
        return image.digest

    def settled(self, function: str) -> None:
        client = self.client("lambda")
        for _ in range(400):
            configuration = client.get_function_configuration(FunctionName=function)
            if configuration["State"] != "Pending" and configuration["LastUpdateStatus"] != "InProgress":
                return
            time.sleep(0.01)
        raise AssertionError(f"{function} did not settle")


def end(process: subprocess.Popen) -> None:
    """Ends a server, in the end by force."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def machine() -> str:
    """This machine's architecture, as images name it."""
    return {"aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "amd64")


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Image:
    """An image in memory."""

    manifest: bytes
    blobs: dict[str, bytes]
    media_type: str = MANIFEST_TYPE

    @property
    def digest(self) -> str:
        return sha256(self.manifest)

    def write_directory(self, path: Path) -> None:
        """Writes skopeo's `dir:` layout."""
        path.mkdir(parents=True)
        (path / "version").write_text("Directory Transport Version: 1.1\n")
        (path / "manifest.json").write_bytes(self.manifest)
        for digest, blob in self.blobs.items():
            (path / digest.removeprefix("sha256:")).write_bytes(blob)


def layer(files: dict[str, bytes | tuple[bytes, int]]) -> bytes:
    """An uncompressed layer of files, each its content or content and mode."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            content, mode = content if isinstance(content, tuple) else (content, 0o644)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def build_image(layers: list[bytes], architecture: str = "amd64", history: bool = True, **config) -> Image:
    """An image of Docker's format from uncompressed layers; `config` is the image's `config` object."""
    blobs, descriptors = {}, []
    for content in layers:
        blob = gzip.compress(content, compresslevel=1, mtime=0)
        blobs[sha256(blob)] = blob
        descriptors.append({"mediaType": LAYER_TYPE, "size": len(blob), "digest": sha256(blob)})
    document = {
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [sha256(content) for content in layers]},
    }
    if history:
        document["history"] = [{"created_by": "test"} for _ in layers]
    configuration = json.dumps(document).encode()
    blobs[sha256(configuration)] = configuration
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "size": len(configuration), "digest": sha256(configuration)},
        "layers": descriptors,
    }
    return Image(json.dumps(manifest).encode(), blobs)


def accept_any_image(folder: Path) -> Path:
    """A policy of signatures that asks for none, for skopeo and podman."""
    policy = folder / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    return policy


def skopeo_in(folder: Path):
    """Runs skopeo with its files in `folder`; gives what it printed, or with `check=False` how it ended."""
    policy = accept_any_image(folder)

    def run(command: str, *arguments: str, check: bool = True):
        line = ["skopeo", "--policy", str(policy), "--tmpdir", str(folder), command, *arguments]
        result = subprocess.run(line, capture_output=True, text=True, timeout=120)
        assert not check or result.returncode == 0, result.stderr
        return result if not check else result.stdout

    return run


def code(call, *arguments, **keywords) -> tuple[str, int]:
    """The code and status of the error that a call ends in."""
    with pytest.raises(ClientError) as caught:
        call(*arguments, **keywords)
    response = caught.value.response
    assert response["Error"].get("Message"), "an error without a message"
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def repository(cloud: Cloud, name: str = "team/app", **options) -> str:
    return cloud.client("ecr").create_repository(repositoryName=name, **options)["repository"]["repositoryUri"]
