"""What the official `openai` client sees of guards: refusals, streams that are cut, values restored, moderations.

Usage: python3 openai_guards.py BASE_URL      (BASE_URL ends in /v1)

The server redacts and restores e-mail addresses and card numbers (guard `pii`), blocks requests with the word `xyzzy`
(`words`) and answers with the number 7 (`sevens`).
"""

import sys

import openai

from openai_client import expect
from wire import run

LIMITS = {"max_tokens": 60, "temperature": 0}
MAIL = "jane.roe@example.com"
CARD = "4111 1111 1111 1111"


def asked(text):
    return {"model": "small", "messages": [{"role": "user", "content": text}], **LIMITS}


def refused(client):
    for stream in (False, True):
        call = lambda: client.chat.completions.create(**asked("The word is xyzzy."), stream=stream)
        error = expect(openai.BadRequestError, call)
        assert error.code == "content_filter" and "words" in str(error.body["tandem"]), error.body


def cut(client):
    """Up to what the guard found the answer leaves, and nothing of it after."""
    count = "Count from 1 to 10 with figures, one number per line."
    whole = client.chat.completions.create(**asked(count)).choices[0]
    stream = client.chat.completions.create(**asked(count), stream=True)
    choices = [choice for chunk in stream for choice in chunk.choices]
    streamed = "".join(choice.delta.content or "" for choice in choices)
    assert whole.finish_reason == choices[-1].finish_reason == "content_filter", (whole, choices[-1])
    assert "6" in streamed and "7" not in streamed and streamed == whole.message.content, (streamed, whole)


def restored(client):
    """The model sees placeholders, the client what they stand for."""
    raw = client.chat.completions.with_raw_response.create(**asked(f"Repeat this mail address: {MAIL}"))
    answer = raw.parse()
    text = answer.choices[0].message.content
    assert MAIL in text and "<EMAIL" not in text, text
    told = answer.model_extra["tandem"]["guards"]
    assert [(guard["guard"], guard["action"], guard["entities"]) for guard in told][0] == ("pii", "redact", {"email": 1}), told
    stream = client.chat.completions.create(**asked(f"Repeat this mail address: {MAIL}"), stream=True)
    streamed = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
    assert streamed == text, (streamed, text)


def moderated(client):
    moderation = client.moderations.create(input=[f"My card is {CARD}.", "Good morning!", "Say xyzzy."])
    assert moderation.id and [result.flagged for result in moderation.results] == [True, False, True], moderation


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    client = openai.OpenAI(base_url=sys.argv[1], api_key="none", timeout=120, max_retries=0)
    sys.exit(run([(check.__name__, lambda check=check: check(client)) for check in (refused, cut, restored, moderated)]))


if __name__ == "__main__":
    main()
