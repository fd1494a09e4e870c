"""HTTP without a client library: requests as bytes, so that what no library would send can be sent.

Used by the scripts beside it. A script runs checks with `run`, which prints a line for each:
`ok NAME`, or `FAILED NAME` and the traceback; lines that begin with `note` are figures.
"""

import http.client
import json
import re
import socket
import time
import traceback
import urllib.parse

#: Longest wait for anything from the server, in seconds.
TIMEOUT_S = 120


class Reply:
    """A whole response."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.body[:300]!r}"


class Server:
    """A server by its base URL, which has no path."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.url, self.host, self.port = url, parts.hostname, parts.port

    def connect(self):
        return socket.create_connection((self.host, self.port), timeout=TIMEOUT_S)

    def request(self, method, path, body=None, headers=None):
        """Sends a request; `body` is bytes, or anything that JSON can hold."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body, {"content-type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, body, headers=None):
        return self.request("POST", path, body, headers)

    def chat(self, text, **fields):
        """Asks one question; must be answered."""
        reply = self.post("/v1/chat/completions", chat_body(text, **fields))
        assert reply.status == 200, reply
        return reply.json()

    def flagged(self, texts):
        """Which of the texts /v1/moderations flags."""
        reply = self.post("/v1/moderations", {"input": texts})
        assert reply.status == 200, reply
        return [result["flagged"] for result in reply.json()["results"]]

    def stream(self, text, **fields):
        return Stream(self, chat_body(text, stream=True, stream_options={"include_usage": True}, **fields))

    def metric(self, name, **labels):
        """The sum of a metric's values over all label sets that have these labels."""
        total = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if found:
                given = dict(re.findall(r'(\w+)="([^"]*)"', found[1] or ""))
                if all(given.get(label) == value for label, value in labels.items()):
                    total += float(found[2])
        return total


class Stream:
    """A streamed chat answer, chunk by chunk; `id` is known from the beginning."""

    def __init__(self, server, body):
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=TIMEOUT_S)
        headers = {"content-type": "application/json"}
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body).encode(), headers)
        # `getresponse` hands the socket over to the response where the connection is not kept.
        self.socket = self.connection.sock
        self.response = self.connection.getresponse()
        assert self.response.status == 200, (self.response.status, self.response.read())
        self.id = self.response.headers["x-tandem-request-id"]
        self.done = False

    def __iter__(self):
        """The chunks until `[DONE]`."""
        for line in self.response:
            line = line.decode().strip()
            if line == "data: [DONE]":
                self.done = True
            elif line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))

    def close(self):
        """Leaves, whatever is still to come."""
        self.socket.shutdown(socket.SHUT_RDWR)
        self.response.close()
        self.connection.close()


def chat_body(text, **fields):
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


def text_of(chunk):
    """The text of a streamed chunk."""
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


def wait_for(condition, seconds, what):
    """The first value of `condition` that is true."""
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"{what}: not within {seconds} s"
        time.sleep(0.02)


def run(checks):
    """Runs `(name, function)`; gives the exit code."""
    failed = 0
    for name, check in checks:
        try:
            check()
            print(f"ok      {name}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  {name}\n{traceback.format_exc()}", flush=True)
    return 1 if failed else 0
