"""The servers that the suite compares: the embedded cloud and two emulators that others wrote."""

import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import botocore.session
import requests
from botocore import xform_name
from botocore.config import Config

from cloud_support import ACCESS_KEY_ID, SECRET_ACCESS_KEY, free_port

EMULATORS = Path(__file__).resolve().parent.parent / "emulators" / ".venv" / "bin"
NAMES = ("local-aws", "ministack", "moto")
REGION = "us-east-1"
START_LIMIT_S = 60
LOG_DELAY_S = 1


def session() -> boto3.Session:
    """A session whose clients speak the protocols that xtask speaks."""
    session = botocore.session.get_session()
    # Of CloudWatch's three protocols botocore would choose the newest, xtask the oldest.
    metadata = session.get_component("data_loader").load_service_model("cloudwatch", "service-2")["metadata"]
    metadata.update(protocol="query", protocols=["query"])
    return boto3.Session(botocore_session=session)


@dataclass
class Server:
    """A running server of AWS's interfaces."""

    name: str
    endpoint_url: str
    process: subprocess.Popen
    log: Path
    # Sessions make clients in one thread only, so that each server has one of its own.
    session: boto3.Session = field(default_factory=session)
    clients: dict = field(default_factory=dict)

    @property
    def host(self) -> str:
        return self.endpoint_url.removeprefix("http://")

    def client(self, service: str):
        if service not in self.clients:
            # The client's own checks of parameters would keep wrong ones from the server that is to refuse them.
            config = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, parameter_validation=False)
            self.clients[service] = self.session.client(
                service,
                endpoint_url=self.endpoint_url,
                region_name=REGION,
                config=config,
                aws_access_key_id=ACCESS_KEY_ID,
                aws_secret_access_key=SECRET_ACCESS_KEY,
            )
        return self.clients[service]

    def denies(self, operation: str) -> bool:
        """Whether the server says in its log that it lacks an operation: moto's answer is that of any crash, and comes first."""
        text, end = f"The {xform_name(operation)} action has not been implemented", time.monotonic() + LOG_DELAY_S
        while time.monotonic() < end:
            if text in self.log.read_text(errors="replace"):
                return True
            time.sleep(0.05)
        return False


def commands(serve: Path, folder: Path, port: int) -> dict[str, list[str]]:
    return {
        "local-aws": [str(serve), str(folder / "local-aws"), str(port), REGION],
        "ministack": [str(EMULATORS / "ministack")],
        "moto": [str(EMULATORS / "moto_server"), "--host", "127.0.0.1", "--port", str(port)],
    }


def launch(name: str, serve: Path, folder: Path) -> Server:
    """Starts a server without waiting for it; what it says goes to a file in `folder`."""
    port = free_port()
    command = commands(serve, folder, port)[name]
    if not Path(command[0]).exists():
        raise FileNotFoundError(f"{command[0]} is missing: `cargo xtask check --only whole` installs it")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "MINISTACK_HOST": "127.0.0.1",
        # Neither emulator is to look for a container engine: none of what is asked here needs one.
        "DOCKER_HOST": f"unix://{folder}/no-engine.sock",
    }
    log = folder / f"{name}.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    return Server(name, f"http://127.0.0.1:{port}", process, log)


def await_start(server: Server) -> None:
    end = time.monotonic() + START_LIMIT_S
    while True:
        try:
            requests.get(server.endpoint_url, timeout=1)
            return
        except requests.RequestException:
            log = server.log.read_text(errors="replace")[-2000:]
            assert server.process.poll() is None, f"{server.name} ended with {server.process.returncode}:\n{log}"
            assert time.monotonic() < end, f"{server.name} does not answer:\n{log}"
            time.sleep(0.05)
