"""Checks a Tandem server with the official `openai` client, unchanged: sync and async, whole and streamed.

Usage: python3 openai_client.py BASE_URL [API_KEY]      (BASE_URL ends in /v1)

Asserts shapes, not contents, so it serves scripted and real models alike. Prints one line per check;
exit code 1 if any failed. Works with versions 2 and 3 of the client.
"""

import asyncio
import sys
import traceback

import openai

MESSAGES = [{"role": "user", "content": "Say hello in one short sentence."}]
LIMITS = {"max_tokens": 32, "temperature": 0}


def check_usage(usage):
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
    assert usage.prompt_tokens_details.cached_tokens >= 0, usage


def check_chat(answer):
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-"), answer
    (choice,) = answer.choices
    assert choice.message.role == "assistant" and choice.message.content, answer
    assert choice.finish_reason in ("stop", "length"), answer
    check_usage(answer.usage)


def check_chat_chunks(chunks):
    """`chunks` were asked for with include_usage."""
    *pieces, last = chunks
    assert all(c.object == "chat.completion.chunk" and c.id == last.id for c in chunks), chunks
    assert pieces[0].choices[0].delta.role == "assistant", pieces[0]
    assert "".join(c.choices[0].delta.content or "" for c in pieces), "no text came"
    assert [c.choices[0].finish_reason for c in pieces[:-1]] == [None] * (len(pieces) - 1), chunks
    assert pieces[-1].choices[0].finish_reason in ("stop", "length"), pieces[-1]
    assert last.choices == [], last
    check_usage(last.usage)
    tandem = last.model_extra["tandem"]
    assert tandem["route"] in ("small", "large", "escalated") and tandem["request_id"] == last.id, tandem
    assert tandem["reason"] and tandem["cost_usd"] >= 0 and tandem["overhead_ms"] >= 0, tandem


def check_headers(headers):
    for name in ("request-id", "route", "model", "reason", "cost-usd", "saved-usd", "overhead-ms"):
        assert headers.get(f"x-tandem-{name}"), f"x-tandem-{name} is missing: {dict(headers)}"


def chat_whole(client):
    for model in ("auto", "small", "large"):
        check_chat(client.chat.completions.create(model=model, messages=MESSAGES, **LIMITS))


def chat_headers(client):
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=MESSAGES, **LIMITS)
    check_headers(raw.headers)
    answer = raw.parse()
    assert answer.id == raw.headers["x-tandem-request-id"]
    assert answer.model == raw.headers["x-tandem-model"]


def chat_streamed(client):
    for model in ("auto", "small", "large"):
        stream = client.chat.completions.create(
            model=model, messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **LIMITS
        )
        check_chat_chunks(list(stream))


def chat_stream_helper(client):
    """The client's own accumulator, which is stricter about chunks than plain iteration."""
    with client.chat.completions.stream(model="small", messages=MESSAGES, **LIMITS) as stream:
        kinds = {event.type for event in stream}
        answer = stream.get_final_completion()
    assert "content.delta" in kinds and "content.done" in kinds, kinds
    assert answer.choices[0].message.content, answer


def chat_logprobs(client):
    answer = client.chat.completions.create(
        model="small", messages=MESSAGES, logprobs=True, top_logprobs=1, **LIMITS
    )
    tokens = answer.choices[0].logprobs.content
    assert tokens and all(t.logprob <= 0 and isinstance(t.bytes, list) for t in tokens), answer
    assert all(len(t.top_logprobs) == 1 for t in tokens), answer


def chat_extension(client):
    answer = client.chat.completions.create(
        model="auto", messages=MESSAGES, extra_body={"tandem": {"route": "large", "explain": True}}, **LIMITS
    )
    tandem = answer.model_extra["tandem"]
    assert tandem["route"] == "large" and tandem["decisions"] and tandem["attempts"], tandem


def completion_whole(client):
    answer = client.completions.create(model="small", prompt="Once upon a time", **LIMITS)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-"), answer
    assert answer.choices[0].text and answer.choices[0].finish_reason in ("stop", "length"), answer
    check_usage(answer.usage)


def completion_streamed(client):
    chunks = list(client.completions.create(model="small", prompt="Once upon a time", stream=True, **LIMITS))
    assert "".join(chunk.choices[0].text for chunk in chunks), chunks
    assert chunks[-1].choices[0].finish_reason in ("stop", "length"), chunks[-1]


def models(client):
    names = [model.id for model in client.models.list()]
    assert names[:3] == ["auto", "small", "large"], names
    for name in names:
        assert client.models.retrieve(name).id == name


def expect(error, call):
    try:
        call()
    except error as caught:
        return caught
    raise AssertionError(f"{error.__name__} was not raised")


def errors(client):
    create = client.chat.completions.create
    error = expect(openai.BadRequestError, lambda: create(model="auto", messages=[]))
    assert error.param == "messages" and error.code, error
    error = expect(openai.BadRequestError, lambda: create(model="auto", messages=MESSAGES, temperature=-1))
    assert error.param == "temperature" and "temperature" in error.message, error
    error = expect(openai.NotFoundError, lambda: create(model="no-such-model", messages=MESSAGES))
    assert error.code == "model_not_found", error
    unknown = {"tandem": {"rout": "small"}}
    error = expect(openai.BadRequestError, lambda: create(model="auto", messages=MESSAGES, extra_body=unknown))
    assert error.param == "tandem.rout", error


def leaving_early(client):
    """A stream that is closed after its first chunks leaves the server in order."""
    stream = client.chat.completions.create(model="small", messages=MESSAGES, stream=True, max_tokens=200)
    next(iter(stream))
    stream.close()
    check_chat(client.chat.completions.create(model="small", messages=MESSAGES, **LIMITS))


async def in_async(base_url, api_key):
    """The same with the async client, several requests at once."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key, timeout=120) as client:
        async def whole():
            check_chat(await client.chat.completions.create(model="auto", messages=MESSAGES, **LIMITS))

        async def streamed():
            stream = await client.chat.completions.create(
                model="auto", messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **LIMITS
            )
            check_chat_chunks([chunk async for chunk in stream])

        async def completion():
            stream = await client.completions.create(model="small", prompt="Once", stream=True, **LIMITS)
            assert "".join([chunk.choices[0].text async for chunk in stream])

        await asyncio.gather(whole(), streamed(), completion(), whole(), streamed())
        names = [model.id async for model in client.models.list()]
        assert "auto" in names, names


CHECKS = [
    chat_whole,
    chat_headers,
    chat_streamed,
    chat_stream_helper,
    chat_logprobs,
    chat_extension,
    completion_whole,
    completion_streamed,
    models,
    errors,
    leaving_early,
]


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    base_url, api_key = sys.argv[1], (sys.argv[2:] or ["none"])[0]
    client = openai.OpenAI(base_url=base_url, api_key=api_key, timeout=120, max_retries=0)
    checks = [(check.__name__, lambda check=check: check(client)) for check in CHECKS]
    checks.append(("async", lambda: asyncio.run(in_async(base_url, api_key))))
    failed = 0
    for name, check in checks:
        try:
            check()
            print(f"ok      {name}")
        except Exception:
            failed += 1
            print(f"FAILED  {name}\n{traceback.format_exc()}")
    print(f"openai {openai.__version__}: {len(checks) - failed} of {len(checks)} checks passed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
