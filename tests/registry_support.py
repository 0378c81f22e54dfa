"""What the registry judges need: the reference registry, a stand-in that sends xtask to it, podman, and a Runtime API."""

import base64
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests

from cloud_support import accept_any_image
from pipeline_clone import Clone

# Containers with namespaces of their own are the superuser's; podman without it depends on too much of the machine.
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]
USER, PASSWORD = "AWS", "only for this test"
# The password as htpasswd files have it; the registry knows bcrypt alone.
HTPASSWD = f"{USER}:$2b$04$jRLeBYd0YdbQ7cVSt2DIpe.C6j9k9RodB/f7KoPbpMQnKa9oWFAn."


# Below this lies what xtask pushed, apart from what was copied.
PUSHED = "pushed"


class Registry:
    """Debian's docker-registry, the reference implementation, with a password and storage of its own."""

    def __init__(self, folder: Path, port: int):
        self.host = f"127.0.0.1:{port}"
        self.passwords = folder / "htpasswd"
        self.passwords.write_text(HTPASSWD + "\n")
        configuration = {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
            "http": {"addr": self.host},
            "auth": {"htpasswd": {"realm": "registry", "path": str(self.passwords)}},
        }
        # JSON is YAML.
        (folder / "config.yml").write_text(json.dumps(configuration))
        self.log = folder / "registry.log"
        with open(self.log, "wb") as log:
            command = ["docker-registry", "serve", str(folder / "config.yml")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.session = requests.Session()
        self.session.auth = (USER, PASSWORD)
        end = time.monotonic() + 20
        while True:
            try:
                assert self.session.get(f"http://{self.host}/v2/", timeout=1).status_code == 200, self.log.read_text()
                return
            except requests.ConnectionError:
                assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
                time.sleep(0.05)

    def manifest(self, repository: str, reference: str) -> requests.Response:
        accept = {"accept": "application/vnd.docker.distribution.manifest.v2+json"}
        return self.session.get(f"http://{self.host}/v2/{repository}/manifests/{reference}", headers=accept, timeout=10)

    @contextmanager
    def closed(self):
        """Lets nobody in, for a while."""
        kept = self.passwords.read_text()
        self.passwords.write_text(kept.replace(USER, "somebody else"))
        try:
            yield
        finally:
            self.passwords.write_text(kept)


@contextmanager
def cloud_with_registry(clone: Clone, registry_host: str):
    """A stand-in for the clone's embedded cloud that knows ECR's way to a registry, and nothing else.

    Gives the list of what it was asked.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, body: dict) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/x-amz-json-1.1")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self) -> None:
            self.answer(200, endpoint) if self.path == "/_local/health" else self.answer(404, {})

        def do_POST(self) -> None:
            operation = self.headers.get("x-amz-target", self.path).rpartition(".")[2]
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(operation)
            if operation == "GetAuthorizationToken":
                token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                data = {"authorizationToken": token, "proxyEndpoint": f"http://{registry_host}", "expiresAt": time.time() + 60}
                return self.answer(200, {"authorizationData": [data]})
            if operation == "DescribeRepositories":
                names = body["repositoryNames"]
                found = [{"repositoryName": name, "repositoryUri": f"{registry_host}/{PUSHED}/{name}"} for name in names]
                return self.answer(200, {"repositories": found})
            return self.answer(501, {"__type": "NotImplemented", "message": operation})

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    endpoint = {"endpoint_url": f"http://127.0.0.1:{server.server_port}", "id": "stand-in", "pid": 0}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state = clone.path / ".local" / "endpoint.json"
    try:
        state.write_text(json.dumps(endpoint))
        yield asked
    finally:
        # Nobody serves it now, so that the next command finds none.
        state.unlink()
        server.shutdown()
        server.server_close()


def can_be_root() -> bool:
    return subprocess.run([*AS_ROOT, "true"], capture_output=True).returncode == 0 if AS_ROOT else True


class Podman:
    """podman with storage of its own, and with what runs without a daemon and without systemd."""

    def __init__(self, folder: Path):
        self.folder, self.policy = folder, accept_any_image(folder)

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        options = ["--root", self.folder / "storage", "--runroot", self.folder / "run", "--tmpdir", self.folder / "tmp"]
        options += ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", "runc"]
        ended = subprocess.run([*AS_ROOT, "podman", *map(str, options), *arguments], capture_output=True, text=True, timeout=120)
        assert not check or ended.returncode == 0, ended.stderr
        return ended

    def pull(self, reference: str) -> None:
        self("pull", "--signature-policy", str(self.policy), "--tls-verify=false", "--creds", f"{USER}:{PASSWORD}", reference)

    def run(self, reference: str, network: str, variables: dict[str, str]) -> subprocess.CompletedProcess:
        """Runs the image's own program as Lambda would: read-only, unprivileged, nothing but its variables."""
        options = ["--rm", "--pull", "never", "--read-only", "--network", network, "--user", "993:990", "--cap-drop", "all"]
        options += ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
        for name, value in variables.items():
            options += ["--env", f"{name}={value}"]
        return self("run", *options, reference, check=False)


class RuntimeApi:
    """runtime_api_alone.py in a network namespace of its own, which has nothing but loopback."""

    def __init__(self, event: dict):
        program = Path(__file__).with_name("runtime_api_alone.py")
        command = [*AS_ROOT, "unshare", "--net", sys.executable, str(program), json.dumps(event)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line, f"the Runtime API did not start: exit {self.process.wait(10)}"
        started = json.loads(line)
        self.address, self.interfaces = started["address"], started["interfaces"]
        self.namespace = f"ns:/proc/{started['pid']}/ns/net"

    def stop(self) -> list[dict]:
        """Ends it; gives what functions answered."""
        # It ends with its input.
        output, _ = self.process.communicate(timeout=10)
        return [json.loads(line) for line in output.splitlines()]
