"""Asks a Tandem whose models have no chat template: chats are refused with a reason, completions work.

Usage: python3 base_model.py URL      (URL without a path)
"""

import sys

from wire import Server, chat_body, run


def no_chat(server):
    for model in ("small", "large", "auto"):
        reply = server.post("/v1/chat/completions", chat_body("Hello!", model=model))
        assert reply.status == 400, reply
        error = reply.json()["error"]
        assert "template" in error["message"] and error["code"], error


def completion(server):
    body = {"model": "small", "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
    reply = server.post("/v1/completions", body)
    assert reply.status == 200 and "Paris" in reply.json()["choices"][0]["text"], reply


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    server = Server(sys.argv[1])
    checks = [("chat without a template", no_chat), ("completion", completion)]
    sys.exit(run([(name, lambda check=check: check(server)) for name, check in checks]))


if __name__ == "__main__":
    main()
