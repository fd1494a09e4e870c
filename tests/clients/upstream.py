"""Asks a Tandem whose large is behind another server: who answers, what it costs, what happens without it.

Usage: python3 upstream.py up URL       the upstream runs
       python3 upstream.py down URL     the upstream has gone

URL has no path. Prices are those that `cargo xtask real` configures: small is free.
"""

import math
import sys

from wire import Server, chat_body, run, text_of

INPUT_USD, OUTPUT_USD = 0.5e-6, 1.5e-6
EXPLAINED = {"tandem": {"explain": True}}
#: Questions a small model answers with little confidence.
HARD = [
    "Write a haiku about a lighthouse keeper who repairs clocks.",
    "Which treaty ended the War of the Spanish Succession, and what did Savoy gain by it?",
    "Explain to a child why the sky is dark at night although there are so many stars.",
]


def check_cost(answer):
    """Every attempt is priced by its usage, and the request by its attempts."""
    tandem = answer["tandem"]
    for attempt in tandem["attempts"]:
        usage, large = attempt["usage"], attempt["role"] == "large"
        price = usage["prompt_tokens"] * INPUT_USD + usage["completion_tokens"] * OUTPUT_USD
        assert math.isclose(attempt["cost_usd"], price if large else 0.0, abs_tol=1e-12), attempt
    total = sum(attempt["cost_usd"] for attempt in tandem["attempts"])
    assert math.isclose(tandem["cost_usd"], total, abs_tol=1e-12), tandem
    return tandem


def large_answers(server):
    answer = server.chat("Name three colours.", model="large", max_tokens=24, **EXPLAINED)
    tandem = check_cost(answer)
    assert tandem["route"] == "large" and tandem["cost_usd"] > 0, tandem
    (attempt,) = tandem["attempts"]
    assert attempt["usage"]["completion_tokens"] == answer["usage"]["completion_tokens"] > 0, answer
    assert attempt["usage"]["prompt_tokens"] == answer["usage"]["prompt_tokens"] > 0, answer


def large_streams(server):
    chunks = list(server.stream("Name three colours.", model="large", max_tokens=24))
    assert sum(bool(text_of(chunk)) for chunk in chunks) > 3, "the answer came in one piece"
    assert chunks[-1]["usage"]["completion_tokens"] > 0 and chunks[-1]["tandem"]["cost_usd"] > 0, chunks[-1]


def small_saves(server):
    tandem = check_cost(server.chat("Say hi.", model="small", max_tokens=8, **EXPLAINED))
    assert tandem["route"] == "small" and tandem["cost_usd"] == 0 and tandem["saved_usd"] > 0, tandem


def escalation(server):
    escalated = 0
    for question in HARD:
        tandem = check_cost(server.chat(question, model="auto", max_tokens=32, **EXPLAINED))
        if tandem["route"] == "escalated":
            escalated += 1
            roles = [attempt["role"] for attempt in tandem["attempts"]]
            assert roles == ["small", "large"] and tandem["cost_usd"] > 0, tandem
            assert 0 <= tandem["confidence"] < 1 and "threshold" in str(tandem["decisions"]), tandem
        chunks = list(server.stream(question, model="auto", max_tokens=32))
        assert chunks[-1]["tandem"]["route"] in ("small", "escalated"), chunks[-1]
    assert escalated, f"none of {len(HARD)} hard questions escalated"
    print(f"note {escalated} of {len(HARD)} hard questions escalated")


def large_is_gone(server):
    for body in (chat_body("Hi.", model="large"), chat_body("Hi.", model="large", stream=True)):
        reply = server.post("/v1/chat/completions", body)
        error = reply.json()["error"]
        assert reply.status == 502 and error["code"] == "upstream_error", reply
        assert error["type"] == "upstream_error" and len(error["message"]) > 10, error


def small_goes_on(server):
    tandem = check_cost(server.chat("Say hi.", model="small", max_tokens=8, **EXPLAINED))
    assert tandem["route"] == "small", tandem


def small_stands_in(server):
    """An escalation that finds nobody comes back, and says so."""
    for question in HARD:
        answer = server.chat(question, model="auto", max_tokens=32, **EXPLAINED)
        assert answer["choices"][0]["message"]["content"], answer
        tandem = answer["tandem"]
        if any(attempt["role"] == "large" for attempt in tandem["attempts"]):
            assert "large" in tandem["reason"] and tandem["cost_usd"] == 0, tandem
            return
    raise AssertionError("no question escalated")


CHECKS = {
    "up": [large_answers, large_streams, small_saves, escalation],
    "down": [large_is_gone, small_goes_on, small_stands_in],
}


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in CHECKS:
        sys.exit(__doc__)
    server = Server(sys.argv[2])
    sys.exit(run([(check.__name__, lambda check=check: check(server)) for check in CHECKS[sys.argv[1]]]))


if __name__ == "__main__":
    main()
