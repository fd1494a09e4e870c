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
#: Times a stream is left: noise on the machine may hold this client up, but hardly each time.
TRIES = 3
#: How long a whole answer is waited for, in seconds, until a token of it was written.
PATIENCE_S = (1, 3, 6)
#: From leaving until the request is over, in seconds.
STOP_LIMIT_S = 5
#: Far more than are written before anyone leaves.
MANY_TOKENS = 1500
#: An answer that takes a while, but not long.
DRAIN_TOKENS = 200


def recorded(server, request_id):
    """The ledger's row of a request, once it is over."""

    def look():
        reply = server.get(f"/v1/requests/{request_id}")
        return reply.json() if reply.status == 200 else None

    return wait_for(look, STOP_LIMIT_S, f"the row of {request_id}")


def leave_stream(server):
    tried = []
    for _ in range(TRIES):
        chunks, tokens, stopped_ms = left_stream(server)
        tried.append(f"left after {chunks} chunks: {tokens} tokens written, over after {stopped_ms:.0f} ms")
        if chunks <= tokens <= chunks + EXTRA_TOKENS_MAX:
            print(f"note {tried[-1]}")
            return
    raise AssertionError(tried)


def left_stream(server):
    """Chunks that were read, tokens that were written, and milliseconds from leaving to the end."""
    stream = server.stream(TASK, model="small", max_tokens=MANY_TOKENS)
    chunks = 0
    for chunk in stream:
        chunks += bool(text_of(chunk))
        if chunks == 8:
            break
    left = time.monotonic()
    stream.close()
    row = recorded(server, stream.id)
    stopped_ms = 1000 * (time.monotonic() - left)
    attempt = row["attempts"][-1]
    assert row["client_gone"] and row["status"] == 499 and attempt["status"] == "cancelled", row
    return chunks, attempt["usage"]["completion_tokens"], stopped_ms


def leave_whole(server):
    """A client that waits for a whole answer and hangs up."""
    for waited_s in PATIENCE_S:
        written = left_whole(server, waited_s)
        assert written < MANY_TOKENS, f"{written} tokens"
        if written > 0:
            return
    raise AssertionError(f"nothing was written within {PATIENCE_S[-1]} s")


def left_whole(server, waited_s):
    """Tokens that were written for a client that hung up after so many seconds."""
    gone, tokens = server.metric("tandem_requests_total", status="499"), completion_tokens(server)
    body = json.dumps(chat_body(TASK, model="small", max_tokens=MANY_TOKENS)).encode()
    with server.connect() as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        time.sleep(waited_s)
    over = lambda: server.metric("tandem_requests_total", status="499") == gone + 1
    wait_for(over, STOP_LIMIT_S, "the request's end")
    written = completion_tokens(server) - tokens
    time.sleep(0.3)
    assert completion_tokens(server) == tokens + written, "tokens are still being written"
    return written


def completion_tokens(server):
    return server.metric("tandem_tokens_total", kind="completion")


def well_afterwards(server):
    assert server.chat("Say hi.", model="small", max_tokens=4)["choices"]
    assert server.metric("tandem_queue_depth") == 0


def drain(server, pid):
    """SIGTERM: no new requests, but the running one comes to its end, whole."""
    undisturbed = server.chat(TASK, model="small", max_tokens=DRAIN_TOKENS)["choices"][0]
    stream = server.stream(TASK, model="small", max_tokens=DRAIN_TOKENS)
    chunks = iter(stream)
    first = next(chunks)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: server.get("/ready").status == 503, 2, "/ready becoming 503")
    refused = server.post("/v1/chat/completions", chat_body("Say hi.", model="small"))
    assert refused.status == 503 and refused.json()["error"]["code"] == "draining", refused
    assert refused.headers["retry-after"], refused.headers
    rest = [first, *chunks]
    assert stream.done, "the stream broke off"
    assert "".join(map(text_of, rest)) == undisturbed["message"]["content"], rest
    reasons = [choice["finish_reason"] for chunk in rest for choice in chunk["choices"]]
    assert reasons[-1] == undisturbed["finish_reason"], reasons


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
