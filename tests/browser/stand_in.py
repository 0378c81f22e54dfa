"""The page's files and a stand-in for the function on one loopback server."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WEB = Path(__file__).resolve().parents[2] / "web"
MODEL = "sha256:" + "5e" * 32


class StandIn:
    """web/, its config.json and the function on one loopback server; the function is another origin by its name."""

    TYPES = {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css",
        ".js": "text/javascript",
        ".svg": "image/svg+xml",
    }

    def __init__(self):
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, status, body=b"", headers=()):
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                name = self.path.removeprefix("/mlopswebapp/web/").split("?")[0]
                if name == "config.json" and stand_in.config is not None:
                    return self.answer(
                        200,
                        stand_in.config.encode(),
                        [("content-type", "application/json")],
                    )
                file = WEB / name
                if "/" in name or not file.is_file() or name == "config.json":
                    return self.answer(404)
                return self.answer(
                    200,
                    file.read_bytes(),
                    [("content-type", stand_in.TYPES[file.suffix])],
                )

            def cors(self):
                return stand_in.cors and [
                    ("access-control-allow-origin", "*"),
                    ("access-control-allow-methods", "POST"),
                    ("access-control-allow-headers", "content-type"),
                ]

            def do_OPTIONS(self):
                stand_in.preflights += 1
                self.answer(204, headers=self.cors() or [])

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                stand_in.requests.append(
                    (self.headers["content-type"], json.loads(body))
                )
                status, answer = stand_in.respond(json.loads(body))
                text = (
                    answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                )
                try:
                    self.answer(
                        status,
                        text,
                        [("content-type", "application/json"), *(self.cors() or [])],
                    )
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the page gave up waiting, which is what some tests are about

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        port = self.server.server_address[1]
        self.web_url = f"http://127.0.0.1:{port}/mlopswebapp/web/index.html"
        self.function_url = (
            f"http://localhost:{port}/_url/creditcardapplicationlambda/live/"
        )
        self.reset()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self):
        self.config = json.dumps({"function_url": self.function_url, "model": MODEL})
        self.requests = []
        self.preflights = 0
        self.cors = True
        self.respond = self.decide

    @staticmethod
    def decide(application):
        approved = application["Income"] >= 100_000 or application["Own_Housing"] == 1
        return 200, {
            "prediction": int(approved),
            "decision": "approved" if approved else "denied",
            "probability": 0.9912 if approved else 0.0423,
            "model": MODEL,
        }
