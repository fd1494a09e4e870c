"""Asks a Tandem whose models are particular about chats: small has no chat template, and large has one
that refuses roles out of order.

Usage: python3 templates.py URL      (URL without a path)
"""

import sys

from wire import Server, chat_body, run

OUT_OF_ORDER = [
    [{"role": "assistant", "content": "Hello!"}],
    [{"role": "user", "content": "Hello!"}, {"role": "user", "content": "Are you there?"}],
    [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi."}] * 2
    + [{"role": "assistant", "content": "Hi again."}],
]


def refused(server, body, word):
    reply = server.post("/v1/chat/completions", {"max_tokens": 4, **body})
    error = reply.json()["error"]
    assert reply.status == 400 and word in error["message"] and error["code"], reply


def no_template(server):
    for stream in (False, True):
        refused(server, chat_body("Hello!", model="small", stream=stream), "template")


def roles_out_of_order(server):
    for messages in OUT_OF_ORDER:
        for stream in (False, True):
            refused(server, {"model": "large", "messages": messages, "stream": stream}, "roles must alternate")


def roles_in_order(server):
    assert server.chat("Hello!", model="large", max_tokens=4)["choices"]


def completion(server):
    """What needs no template works."""
    body = {"model": "small", "prompt": "Water is made of hydrogen and", "max_tokens": 4, "temperature": 0}
    reply = server.post("/v1/completions", body)
    assert reply.status == 200 and "oxygen" in reply.json()["choices"][0]["text"], reply


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    server = Server(sys.argv[1])
    checks = [no_template, roles_out_of_order, roles_in_order, completion]
    sys.exit(run([(check.__name__, lambda check=check: check(server)) for check in checks]))


if __name__ == "__main__":
    main()
