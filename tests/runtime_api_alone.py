"""A Runtime API for one event, in a network namespace that has just been made: `runtime_api_alone.py EVENT`.

Prints its address and the namespace's interfaces, then what the function answered. Whoever asks for a second event is told
that there is none, which ends the function. Ends with its input.
"""

import fcntl
import json
import os
import socket
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
FLAGS = "16sh22x"


def raise_loopback() -> None:
    """Loopback is down in a new namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        found = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack(FLAGS, b"lo", 0))
        flags = struct.unpack(FLAGS, found)[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack(FLAGS, b"lo", flags | IFF_UP))


class Handler(BaseHTTPRequestHandler):
    events = [sys.argv[1].encode()]

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if not self.events:
            return self.answer(410, b"{}")
        headers = {
            "lambda-runtime-aws-request-id": "8476a536-e9f4-11e8-9739-2dfe598c3fcd",
            "lambda-runtime-deadline-ms": "4102444800000",
            "lambda-runtime-invoked-function-arn": "arn:aws:lambda:us-east-1:000000000000:function:judged",
        }
        return self.answer(200, self.events.pop(), headers)

    def do_POST(self) -> None:
        print(self.rfile.read(int(self.headers["content-length"])).decode(), flush=True)
        self.answer(202, b"{}")

    def log_message(self, *_) -> None:
        pass


if __name__ == "__main__":
    raise_loopback()
    server = HTTPServer(("127.0.0.1", 0), Handler)
    interfaces = [name for _, name in socket.if_nameindex()]
    started = {"address": f"127.0.0.1:{server.server_port}", "interfaces": interfaces, "pid": os.getpid()}
    print(json.dumps(started), flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
