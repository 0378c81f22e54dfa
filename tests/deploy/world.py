"""A clone, a cloud, and a proxy between them that can meddle."""

import hashlib
import http.client
import http.server
import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from cloud_support import ACCESS_KEY_ID, SECRET_ACCESS_KEY, Cloud
from pipeline_clone import Clone, advisory_database

BUCKET, PRODUCTION_BUCKET = "mlopswebapp-000000000000", "mlopswebapp-production-000000000000"
REPOSITORY = "ccapproval-deploy"
PREPROD, PRODUCTION = "creditcardapplicationlambda", "creditcardapplicationlambda-production"


class Proxy:
    """Hands every request on to the cloud. `before` may answer instead, `after` may change or drop the answer."""

    def __init__(self, host: str):
        self.host, self.calls = host, []
        self.before: Callable = lambda call: None
        self.after: Callable = lambda call, status, body: (status, body)
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                call = operation(self.command, self.path, body)
                proxy.calls.append(call)
                headers = []
                answer = proxy.before(call)
                if answer is None:
                    status, headers, content = proxy.forward(self, body)
                    answer = proxy.after(call, status, content)
                if answer is None:
                    # The reply is lost.
                    self.close_connection = True
                    self.connection.close()
                    return
                self.send_response(answer[0])
                for name, value in headers:
                    if name.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                        self.send_header(name, value)
                self.send_header("content-length", str(len(answer[1])))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer[1])

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_one

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        # Clients that are killed, and replies that are lost on purpose.
        self.server.handle_error = lambda *_: None
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def forward(self, request, body: bytes):
        connection = http.client.HTTPConnection(self.host, timeout=60)
        connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), content

    def count(self, call: str) -> int:
        return self.calls.count(call)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def operation(method: str, path: str, body: bytes) -> str:
    """`PUT aliases`, `POST versions`, …; CloudWatch's metric by its name."""
    if b"Action=GetMetricStatistics" in body:
        return "metric " + body.split(b"MetricName=")[1].split(b"&")[0].decode()
    parts = path.split("?")[0].strip("/").split("/")
    named = parts[1:2] == ["functions"] and len(parts) > 3
    return f"{method} {parts[3] if named else '/'.join(parts[:2]) or '/'}"


class World:
    """The clone, the cloud and the proxy between them."""

    def __init__(self, cloud: Cloud):
        self.cloud, self.proxy = cloud, Proxy(cloud.host)
        self.functions = cloud.client("lambda")
        self.clone = Clone("clone")
        path = self.clone.path / "pipeline.toml"
        text = path.read_text()
        text = text.replace("steps = [10, 50]\npause_seconds = 5", "steps = [10, 50]\npause_seconds = 1")
        text = text.replace('strategy = "Canary10Percent5Minutes"', "steps = [50]\npause_seconds = 1")
        path.write_text(text)
        self.variables = {
            "AWS_ENDPOINT_URL": self.proxy.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "RUSTSEC_ADVISORY_DB": advisory_database("not-in-the-program"),
        }

    @contextmanager
    def zipped(self, suffix: str = ""):
        """Both environments deploy zip packages, to functions whose names end in `suffix`."""
        path = self.clone.path / "pipeline.toml"
        text = path.read_text()
        with self.clone.holding(path):
            for environment, function in (("preprod", PREPROD), ("production", PRODUCTION)):
                head, table = text.split(f"[environments.{environment}]\n")
                table = table.replace(f'function = "{function}"', f'function = "{function}{suffix}"', 1)
                text = f'{head}[environments.{environment}]\npackage = "zip"\n{table}'
            path.write_text(text)
            yield

    def xtask(self, *arguments: str, expect: int = 0, **variables: str):
        return self.clone.xtask(*arguments, expect=expect, **(self.variables | variables))

    def deploy(self, run: str, *arguments: str, environment: str = "preprod", expect: int = 0, **variables: str):
        return self.xtask("deploy", "--env", environment, "--run", run, *arguments, expect=expect, **variables)

    def start(self, *arguments: str):
        return self.clone.start(*arguments, **self.variables)

    def alias(self, function: str = PREPROD) -> dict:
        alias = self.functions.get_alias(FunctionName=function, Name="live")
        return {
            "version": alias["FunctionVersion"],
            "weights": alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {}),
            "description": alias["Description"],
        }

    def folder(self, run: str, environment: str = "preprod") -> Path:
        folder = self.clone.path / "target/pipeline" / run
        return folder if environment == "preprod" else folder / environment

    def record(self, run: str, environment: str = "preprod", name: str = "deploy") -> dict:
        return json.loads((self.folder(run, environment) / f"{name}.json").read_text())

    def kept(self, run: str, name: str, bucket: str = BUCKET) -> bytes:
        return self.cloud.client("s3").get_object(Bucket=bucket, Key=f"evidence/{run}/{name}")["Body"].read()

    def status(self, run: str) -> dict:
        return json.loads(self.xtask("status", "--json", "--env", "preprod", "--run", run).out)


def moving(world) -> bool:
    return bool(world.alias()["weights"])


def verdicts(clone: Clone) -> list[dict]:
    """The lines of the clone's log of decisions."""
    log = clone.path / "target/pipeline/decisions.ndjson"
    return [json.loads(line) for line in log.read_text().splitlines()]


def reseal(folder: Path) -> None:
    """Makes bundle.json agree with the records beside it, as somebody would who altered them."""
    path = folder / "bundle.json"
    statement = json.loads(path.read_text())
    records = statement["predicate"]["records"]
    for name in records:
        if (folder / name).exists():
            records[name] = "sha256:" + hashlib.sha256((folder / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
