"""Asks a running Tandem whose policy reads every prompt with the small model, which then answers.

Usage: python3 reading.py URL

Every prompt token must be processed once: one attempt, none of its tokens from the cache, where a second reading
would find the first. The time that a decision takes beyond the reading is told, not judged.
"""

import statistics
import sys

from wire import Server, run

#: Requests, each with a prompt of its own.
REQUESTS = 10
#: Requests before anything is timed: what is done for the first time takes longer.
WARM_UP = 12
#: About as many words, one token each, does a prompt have.
WORDS = 190
#: What the prompt may have with the template around it.
PROMPT_TOKENS = range(190, 260)
#: Tokens of an answer.
ANSWER_TOKENS = 8


def ask(server, model, index):
    """A prompt that shares nothing with another one's but the template."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"{model} {index}: " + f"{chr(97 + index)} time " * (WORDS // 2)}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "tandem": {"explain": True},
    }
    reply = server.post("/v1/chat/completions", body)
    assert reply.status == 200, reply
    answer = reply.json()
    attempts = answer["tandem"]["attempts"]
    assert len(attempts) == 1 and attempts[0]["role"] == "small", attempts
    return answer, attempts[0]


def read_once(server, told):
    """Small reads, the head decides, small goes on."""
    count = lambda kind: server.metric("tandem_tokens_total", backend="small", kind=kind) or 0
    before = count("prompt")
    prompt_tokens = template_tokens = 0
    for index in range(REQUESTS):
        answer, attempt = ask(server, "auto", index)
        findings, usage = attempt["findings"], attempt["usage"]
        tokens = answer["usage"]["prompt_tokens"]
        assert tokens in PROMPT_TOKENS, tokens
        assert findings["prompt_tokens"] == findings["read_tokens"] == usage["prompt_tokens"] == tokens, attempt
        template_tokens = max(template_tokens, usage["cached_tokens"])
        prompt_tokens += tokens
        told.append((answer["tandem"]["overhead_ms"], attempt["timings"]))
    assert count("prompt") - before == prompt_tokens, (before, count("prompt"), prompt_tokens)
    # Of earlier prompts the template's beginning may be there, never the prompt itself.
    assert template_tokens < PROMPT_TOKENS.start // 4, template_tokens


def time_beyond(server, told):
    """Overhead less what was spent on reading; and what requests that nobody reads for spend beyond their backend.

    Both have the way into the engine and back in them, so that they differ by the decision.
    """
    plain = []
    for index in range(REQUESTS):
        answer, attempt = ask(server, "small", index)
        plain.append(answer["tandem"]["total_ms"] - sum(attempt["timings"].values()))
    reading = statistics.median(timings["queue_ms"] + timings["prompt_ms"] for _, timings in told)
    overhead = statistics.median(overhead for overhead, _ in told)
    beyond = statistics.median(
        overhead - timings["queue_ms"] - timings["prompt_ms"] for overhead, timings in told
    )
    assert overhead > 0 and reading > 0, (overhead, reading)
    print(
        f"note overhead {overhead:.2f} ms, {overhead / reading:.4f} of the reading's {reading:.2f} ms; beyond it "
        f"{beyond:.3f} ms, where requests without a reading have {statistics.median(plain):.3f} ms"
    )


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    server, told = Server(sys.argv[1]), []
    for index in range(WARM_UP):
        ask(server, "small", REQUESTS + index)
    checks = [
        ("prompts are read once", lambda: read_once(server, told)),
        ("what a decision costs", lambda: time_beyond(server, told)),
    ]
    sys.exit(run(checks))


if __name__ == "__main__":
    main()
