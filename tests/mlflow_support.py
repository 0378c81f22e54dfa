"""A real MLflow server on loopback."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import requests
from mlflow import MlflowClient
from mlflow.entities import Run


@contextmanager
def mlflow_server(folder: Path):
    """The address of a server that keeps everything in `folder`; it ends with the block."""
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    url = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("w") as log:
        # A session of its own, so that its workers end with it.
        server = subprocess.Popen(command, cwd=folder, env=os.environ | variables, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_it_answers(url, server, folder / "server.log")
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_until_it_answers(url: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 120
    while True:
        try:
            if requests.get(f"{url}/health", timeout=5).ok:
                return
        except requests.ConnectionError:
            pass
        assert server.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.2)


def logged_runs(uri: str, experiment: str = "Example MLOps") -> list[Run]:
    """The runs of an experiment, as MLflow's own client reads them."""
    client = MlflowClient(uri)
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def artifacts(uri: str, run: Run, folder: Path) -> dict[str, bytes]:
    """The content of a run's artifacts, by path."""
    copy = Path(MlflowClient(uri).download_artifacts(run.info.run_id, "", str(folder)))
    return {str(path.relative_to(copy)): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
