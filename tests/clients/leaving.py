"""Leaves a running Tandem in mid-answer, and then tells it to go while it answers.

Usage: python3 leaving.py URL PID      (URL without a path; the server with this PID ends)

A client that leaves stops its generation within a step; SIGTERM lets running answers finish.
"""

import json
import os
import signal
import sys
import time

from wire import Server, chat_body, run, text_of, wait_for

TASK = "Count from 1 to 500, separated by commas, and write nothing else."
#: Tokens that may be written after a client has left: the one under way, and those on the wire.
EXTRA_TOKENS_MAX = 4
#: From leaving until the request is over, in seconds.
STOP_LIMIT_S = 2


def recorded(server, request_id):
    """The ledger's row of a request, once it is over."""

    def look():
        reply = server.get(f"/v1/requests/{request_id}")
        return reply.json() if reply.status == 200 else None

    return wait_for(look, STOP_LIMIT_S, f"the row of {request_id}")


def leave_stream(server):
    stream = server.stream(TASK, model="small", max_tokens=400)
    chunks = 0
    for chunk in stream:
        chunks += bool(text_of(chunk))
        if chunks == 8:
            break
    left = time.monotonic()
    stream.close()
    row = recorded(server, stream.id)
    stopped_ms = 1000 * (time.monotonic() - left)
    tokens = row["attempts"][-1]["usage"]["completion_tokens"]
    assert row["client_gone"] and row["status"] == 499, row
    assert row["attempts"][-1]["status"] == "cancelled", row
    assert chunks <= tokens <= chunks + EXTRA_TOKENS_MAX, f"{tokens} tokens, {chunks} chunks read"
    print(f"note left after {chunks} chunks: {tokens} tokens written, over after {stopped_ms:.0f} ms")


def leave_whole(server):
    """A client that waits for a whole answer and hangs up."""
    gone, tokens = server.metric("tandem_requests_total", status="499"), completion_tokens(server)
    body = json.dumps(chat_body(TASK, model="small", max_tokens=400)).encode()
    with server.connect() as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        time.sleep(1.5)
    over = lambda: server.metric("tandem_requests_total", status="499") == gone + 1
    wait_for(over, STOP_LIMIT_S, "the request's end")
    written = completion_tokens(server) - tokens
    assert 0 < written < 390, f"{written} tokens"
    time.sleep(0.3)
    assert completion_tokens(server) == tokens + written, "tokens are still being written"


def completion_tokens(server):
    return server.metric("tandem_tokens_total", kind="completion")


def well_afterwards(server):
    assert server.chat("Say hi.", model="small", max_tokens=4)["choices"]
    assert server.metric("tandem_queue_depth") == 0


def drain(server, pid):
    """SIGTERM: no new requests, but the running one comes to its end, whole."""
    stream = server.stream(TASK, model="small", max_tokens=60)
    chunks = iter(stream)
    first = next(chunks)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: server.get("/ready").status == 503, 2, "/ready becoming 503")
    refused = server.post("/v1/chat/completions", chat_body("Say hi.", model="small"))
    assert refused.status == 503 and refused.json()["error"]["code"] == "draining", refused
    assert refused.headers["retry-after"], refused.headers
    rest = [first, *chunks]
    assert stream.done, "the stream broke off"
    assert rest[-1]["usage"]["completion_tokens"] == 60, rest[-1]
    reasons = [choice["finish_reason"] for chunk in rest for choice in chunk["choices"]]
    assert reasons[-1] == "length", reasons


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    server, pid = Server(sys.argv[1]), int(sys.argv[2])
    sys.exit(
        run(
            [
                ("leaving a stream", lambda: leave_stream(server)),
                ("leaving a whole answer", lambda: leave_whole(server)),
                ("well afterwards", lambda: well_afterwards(server)),
                ("drain on SIGTERM", lambda: drain(server, pid)),
            ]
        )
    )


if __name__ == "__main__":
    main()
