"""A small server that speaks as OpenAI's do, well or badly, in a thread of its own.

with serving(lambda route, body, count: (200, {"choices": [{"text": "seven"}]})) as server:
    server.url, server.asked
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# (status, content) or (status, content, headers): content is sent as JSON, bytes as they are; None closes the line.
Answer = tuple[Any, ...]
Answering = Callable[[str, dict[str, Any], int], Answer]


@dataclass
class Server:
    """Where it is, and what it was asked: the route, the body (None of a GET) and the headers of each request."""

    url: str
    asked: list[tuple[str, Any, dict[str, str]]] = field(default_factory=list)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, body, _ in self.asked if body is not None]


@contextmanager
def serving(answer: Answering, models: Answer = (200, {"data": [{"id": "small"}]})) -> Iterator[Server]:
    """`answer` is given the route, the body and how many requests with a body came before."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(None)

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _reply(self, body: Any) -> None:
            route = self.path.removeprefix("/v1/")
            with lock:
                count = len(server.bodies)
                server.asked.append((route, body, dict(self.headers)))
            status, content, *more = models if body is None else answer(route, body, count)
            if content is None:
                self.close_connection = True
                return
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *given: object) -> None:
            """Says nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Server(f"http://127.0.0.1:{http.server_address[1]}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
