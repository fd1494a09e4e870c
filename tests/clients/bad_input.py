"""Sends a running Tandem what it must refuse: each kind of bad input gets its status and a message in
OpenAI's shape, and the server answers as before afterwards.

Usage: python3 bad_input.py URL [PID]      (URL without a path; with the server's PID its memory is watched)
"""

import re
import socket
import sys

from wire import Server, chat_body, run

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
#: A word is a token or more in every vocabulary.
LONG_TEXT = "word " * 100_000
GIB = 1 << 30
#: Memory that a body of 1 GiB may cost the server.
MEMORY_GROWTH_MAX = 256 << 20

USER = [{"role": "user", "content": "hi"}]


def chat(**fields):
    return {"messages": USER, "max_tokens": 1, **fields}


#: (name, path, body, status, field that must be named or None)
REFUSED = [
    ("no JSON", CHAT, b"hello", 400, None),
    ("empty body", CHAT, b"", 400, None),
    ("half a JSON object", CHAT, b'{"messages": [', 400, None),
    ("a list instead of an object", CHAT, [1], 400, None),
    ("deep nesting", CHAT, b"[" * 100_000, 400, None),
    ("not UTF-8", CHAT, b'{"messages":[{"role":"user","content":"\xff\xfe"}]}', 400, None),
    ("half a surrogate pair", CHAT, b'{"messages":[{"role":"user","content":"\\ud800"}]}', 400, None),
    ("messages missing", CHAT, {"model": "auto"}, 400, "messages"),
    ("messages empty", CHAT, {"messages": []}, 400, "messages"),
    ("messages a string", CHAT, {"messages": "hi"}, 400, "messages"),
    ("a message a number", CHAT, {"messages": [1]}, 400, "messages[0]"),
    ("unknown role", CHAT, {"messages": [{"role": "wizard", "content": "hi"}]}, 400, "messages[0].role"),
    ("content a number", CHAT, {"messages": [{"role": "user", "content": 7}]}, 400, "messages[0].content"),
    ("tool answers nothing", CHAT, {"messages": [{"role": "tool", "content": "x"}]}, 400,
     "messages[0].tool_call_id"),
    ("model a number", CHAT, chat(model=5), 400, "model"),
    ("unknown model", CHAT, chat(model="no-such-model"), 404, "model"),
    ("temperature negative", CHAT, chat(temperature=-0.1), 400, "temperature"),
    ("temperature a string", CHAT, chat(temperature="hot"), 400, "temperature"),
    ("temperature NaN", CHAT, b'{"messages":[{"role":"user","content":"hi"}],"temperature":NaN}', 400,
     "temperature"),
    ("temperature 1e999", CHAT, b'{"messages":[{"role":"user","content":"hi"}],"temperature":1e999}', 400, None),
    ("top_p zero", CHAT, chat(top_p=0), 400, "top_p"),
    ("max_tokens a string", CHAT, chat(max_tokens="ten"), 400, "max_tokens"),
    ("max_tokens zero", CHAT, chat(max_tokens=0), 400, "max_tokens"),
    ("stream a string", CHAT, chat(stream="yes"), 400, "stream"),
    ("several answers", CHAT, chat(n=3), 400, "n"),
    ("stop list too long", CHAT, chat(stop=[str(i) for i in range(17)]), 400, "stop"),
    ("stop empty", CHAT, chat(stop=[""]), 400, "stop"),
    ("stop a number", CHAT, chat(stop=5), 400, "stop"),
    ("too many alternatives", CHAT, chat(logprobs=True, top_logprobs=50), 400, "top_logprobs"),
    ("logit_bias beyond range", CHAT, chat(logit_bias={"5": 1000}), 400, "logit_bias.5"),
    ("logit_bias of no token", CHAT, chat(logit_bias={"x": 1}), 400, "logit_bias"),
    ("unknown tandem field", CHAT, chat(tandem={"rout": "small"}), 400, "tandem.rout"),
    ("tandem route unknown", CHAT, chat(tandem={"route": "tiny"}), 400, "tandem.route"),
    ("quality loss NaN", CHAT, b'{"messages":[{"role":"user","content":"hi"}],"tandem":{"max_quality_loss":NaN}}',
     400, None),
    ("prompt missing", COMPLETIONS, {"model": "auto"}, 400, "prompt"),
    ("prompt a number", COMPLETIONS, {"prompt": 5}, 400, "prompt"),
    ("feedback of no request", "/v1/feedback", {"id": "chatcmpl-0", "score": 1}, 404, "id"),
    ("feedback beyond range", "/v1/feedback", {"id": "chatcmpl-0", "score": 2}, 400, "score"),
]


def check_shape(reply, status):
    assert reply.status == status, reply
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str) and len(error["message"]) > 10, error
    assert error["type"] and error["code"], error
    return error


def refused(server, path, body, status, param):
    error = check_shape(server.post(path, body), status)
    if param is not None:
        assert error["param"] == param, error
        assert status != 400 or param.split(".")[0].split("[")[0] in error["message"], error


def too_long(server):
    """Longer than any context: the message says both numbers."""
    bodies = [(CHAT, chat_body(LONG_TEXT, model=model)) for model in ("auto", "small", "large")]
    bodies.append((COMPLETIONS, {"prompt": LONG_TEXT, "model": "small"}))
    for path, body in bodies:
        error = check_shape(server.post(path, body), 413)
        assert error["code"] == "context_length_exceeded", error
        numbers = [int(digits) for digits in re.findall(r"\d{4,}", error["message"])]
        assert any(number >= 100_000 for number in numbers) and len(numbers) >= 2, error


def announced_too_large(server):
    """A client that asks before it sends is told at once."""
    with server.connect() as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {GIB}\r\nexpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        status = connection.recv(64).split(b" ")[1]
    assert status == b"413", status


def streamed_too_large(server, pid):
    """1 GiB in pieces, really sent. What the server does not read it may cut off."""
    before = peak_memory(pid)
    piece = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    with server.connect() as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        for _ in range(GIB >> 20):
            connection.sendall(piece)
        connection.sendall(b"0\r\n\r\n")
        answer = connection.recv(1 << 16)
    assert answer.split(b" ")[1] == b"413" and b"request_bytes_max" in answer, answer[:500]
    growth = peak_memory(pid) - before
    assert growth <= MEMORY_GROWTH_MAX, f"the server grew by {growth} bytes"


def peak_memory(pid):
    """The most memory the process has held, in bytes; 0 if that can't be known."""
    try:
        with open(f"/proc/{pid}/status") as status:
            return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1])
    except OSError:
        return 0


def broken_http(server):
    """What is no HTTP, or breaks off, ends its own connection only."""
    for sent in [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"a" * 1_000_000 + b"\r\n\r\n",
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n".encode(),
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".encode(),
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{".encode(),
    ]:
        with server.connect() as connection:
            unless_hung_up(lambda: connection.sendall(sent))
            unless_hung_up(lambda: connection.shutdown(socket.SHUT_WR))
            answer = unless_hung_up(lambda: connection.recv(1 << 16))
            assert not answer or 400 <= int(answer.split(b" ")[1]) < 500, answer[:200]


def unless_hung_up(operate):
    """What the operation gives; None if the server has closed the connection, as it may."""
    try:
        return operate()
    except TimeoutError:
        raise
    except OSError:
        return None


def paths_and_methods(server):
    check_shape(server.get("/v1/no-such-path"), 404)
    check_shape(server.get(CHAT), 405)
    check_shape(server.get("/v1/requests/chatcmpl-0"), 404)
    assert server.get("/v1/requests/%ff").status == 400
    check_shape(server.get("/v1/models/no-such-model"), 404)
    check_shape(server.post(CHAT, chat(), {"x-tandem-deadline-ms": "soon"}), 400)
    check_shape(server.post(CHAT, chat(), {"content-encoding": "gzip"}), 415)


def unknown_fields_are_ignored(server):
    body = chat(model="small", some_new_field={"a": 1})
    assert server.post(CHAT, body).status == 200


def still_well(server):
    assert server.get("/health").status == 200 and server.get("/ready").status == 200
    answer = server.chat("Say hi.", model="small", max_tokens=4)
    assert answer["choices"][0]["message"]["content"], answer


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    server, pid = Server(sys.argv[1]), (sys.argv[2:] or ["none"])[0]
    checks = [(name, lambda case=case: refused(server, *case)) for name, *case in REFUSED]
    checks += [
        ("100k tokens", lambda: too_long(server)),
        ("1 GiB announced", lambda: announced_too_large(server)),
        ("1 GiB streamed", lambda: streamed_too_large(server, pid)),
        ("broken HTTP", lambda: broken_http(server)),
        ("paths and methods", lambda: paths_and_methods(server)),
        ("unknown OpenAI fields", lambda: unknown_fields_are_ignored(server)),
        ("well afterwards", lambda: still_well(server)),
    ]
    sys.exit(run(checks))


if __name__ == "__main__":
    main()
