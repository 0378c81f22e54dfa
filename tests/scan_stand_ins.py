"""Two services for the tests of the scan: one that changes the embedded cloud's answers, and one that knows advisories."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

DESCRIBE = "DescribeImageScanFindings"


class Service:
    """An HTTP service on loopback, ended with the test."""

    def __init__(self):
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                status, content_type, content = service.answer(self.command, self.path, self.headers, body)
                self.send_response(status)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def as_json(status: int, document: dict) -> tuple[int, str, bytes]:
    return status, "application/x-amz-json-1.1", json.dumps(document).encode()


def fault(code: str, status: int = 400) -> tuple[int, str, bytes]:
    return as_json(status, {"__type": code, "message": "as the test asked"})


class Account(Service):
    """The embedded cloud, but for the answers about scans that a test has put in line."""

    def __init__(self, endpoint_url: str):
        self.endpoint_url = endpoint_url
        self.answers: list = []
        self.calls: list[str] = []
        super().__init__()

    def answer(self, method, path, headers, body):
        operation = headers.get("x-amz-target", "").rpartition(".")[2]
        self.calls.append(operation)
        if operation == DESCRIBE and self.answers and json.loads(body)["repositoryName"] == "ccapproval-deploy":
            # The last answer is given for ever.
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        passed_on = {name: value for name, value in headers.items() if name.lower() != "connection"}
        reply = requests.request(method, self.endpoint_url + path, headers=passed_on, data=body, timeout=60)
        return reply.status_code, reply.headers.get("content-type", ""), reply.content


class Advisories(Service):
    """OSV's interface, with what a test says is known: packages and their advisories."""

    def __init__(self):
        self.known: dict[str, str] = {}
        self.broken = False
        super().__init__()

    def answer(self, method, path, headers, body):
        if self.broken:
            return as_json(500, {})
        if method == "GET":
            identifier = path.rpartition("/")[2]
            return as_json(200, {"id": identifier, "modified": "2026-01-01T00:00:00Z", "summary": "made up", "affected": []})
        asked = [query["package"]["name"] for query in json.loads(body)["queries"]]
        found = [{"vulns": [{"id": self.known[name], "modified": "2026-01-01T00:00:00Z"}]} if name in self.known else {}
                 for name in asked]
        return as_json(200, {"results": found})
