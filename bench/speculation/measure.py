"""Asks every server the same prompts in turn, and takes down what its client saw."""

import asyncio
import hashlib
import sys

from serving import client
from serving.servers import Load

from . import engines
from .prompt import chat

#: Longest wait for one answer, in seconds.
ANSWER_LIMIT_S = 600
#: Tokens of the longest prompt, its template included.
PROMPT_TOKENS_MAX = 1536
#: Answered before the clock starts, so that every weight was touched.
WARM_UP = chat("warm-up", "Count from one to twenty in words, and then backwards.")
WARM_UP_TOKENS = 32


def request(program, server, prompt, sampling):
    """Bytes of a streaming request; `sampling` has the fields that every prompt of a row shares."""
    body = {"model": server.model, **prompt.content, **sampling, "stream": True,
            "stream_options": {"include_usage": True}, **program.fields}
    body["max_tokens"] *= prompt.answer_scale
    if prompt.stop:
        body["stop"] = list(prompt.stop)
    return client.encode(body, prompt.path)


async def ask(server, bytes_):
    """An answer, whatever comes."""
    try:
        return client.read(await client.ask(server.address, bytes_, ANSWER_LIMIT_S))
    except OSError as error:
        return client.Answer(None, 0.0, 0.0, "", [], {}, f"no connection: {error}")


async def ask_all(server, requests, clients):
    """The answers, in the order of the requests, of which `clients` are under way at once."""
    waiting, answers = list(enumerate(requests)), [None] * len(requests)

    async def one():
        while waiting:
            index, bytes_ = waiting.pop(0)
            answers[index] = await ask(server, bytes_)

    await asyncio.gather(*[one() for _ in range(clients)])
    return answers


def figures(answers, sampling):
    """What there is to say of answers that were under way together, or of one."""
    failures = [answer.failure for answer in answers if answer.failure]
    if failures:
        return {"failure": failures[0]}
    seconds = max(answer.done for answer in answers) - min(answer.asked for answer in answers)
    tokens = sum(answer.tokens for answer in answers)
    predicted = [predictions(answer) for answer in answers]
    result = {
        "tokens": tokens,
        "prompt_tokens": sum(answer.usage.get("prompt_tokens", 0) for answer in answers),
        "tokens_per_s": tokens / seconds,
        "accepted": sum(accepted for accepted, _ in predicted),
        "rejected": sum(rejected for _, rejected in predicted),
    }
    if sampling["temperature"] == 0:
        result["texts"] = [hashlib.sha256(answer.text.encode()).hexdigest()[:16] for answer in answers]
    if len(answers) == 1:
        result |= of_one(answers[0])
    return result


def of_one(answer):
    """What only an answer of its own tells: the speed of writing, and what the server expected of it."""
    result = {}
    if answer.tokens > 1 and answer.times and answer.done > answer.times[0]:
        # The first token belongs to the prompt, whose reading ends with it.
        result["generation_tokens_per_s"] = (answer.tokens - 1) / (answer.done - answer.times[0])
        result["first_token_s"] = answer.first_token_s
    told = (answer.notes.get("tandem") or {}).get("speculation")
    return result | ({"speculation": told} if told else {})


def predictions(answer):
    """Drafted tokens that were accepted and rejected, as Tandem or llama-server tells them."""
    details = answer.usage.get("completion_tokens_details") or {}
    if "accepted_prediction_tokens" in details:
        return details["accepted_prediction_tokens"], details.get("rejected_prediction_tokens", 0)
    timings = answer.notes.get("timings") or {}
    accepted = timings.get("draft_n_accepted", 0)
    return accepted, timings.get("draft_n", 0) - accepted


async def warm(running, sampling, failed):
    """Asks every server something; returns those that answer."""
    able = []
    for program, server in running:
        first = request(program, server, WARM_UP, sampling | {"max_tokens": WARM_UP_TOKENS})
        if failure := (await ask(server, first)).failure:
            failed(program, f"the first request: {failure}")
        else:
            able.append((program, server))
    return able


async def of_row(row, running, groups, sampling, take):
    """Group by group, every server in turn; who is first changes, so that no one always follows the same."""
    for index, group in enumerate(groups):
        first = index % len(running)
        for program, server in running[first:] + running[:first]:
            requests = [request(program, server, prompt, sampling) for prompt in group]
            answers = await ask_all(server, requests, row.clients)
            take(program, group, figures(answers, sampling))
        print(f"  {index + 1} of {len(groups)}", file=sys.stderr, flush=True)


def measure(options, row, prompts, measured):
    """Adds to `measured` group by group, so that what there is survives an interruption: [engine][first prompt's id]
    has the figures of a group."""
    sampling = {"max_tokens": options.max_tokens, "temperature": row.temperature}
    longest = options.max_tokens * max(prompt.answer_scale for prompt in prompts)
    load = Load(options.model, options.threads, row.clients, PROMPT_TOKENS_MAX + longest, reuse=True)
    groups = [prompts[first:first + row.group] for first in range(0, len(prompts), row.group)]

    def failed(program, failure):
        print(f"  {program.title} failed: {failure}", file=sys.stderr)
        measured.failures[program.name] = {"start": str(failure)}

    def take(program, group, values):
        if "failure" in values:
            print(f"  {program.title}, {group[0].id}: {values['failure']}", file=sys.stderr)
        measured.values.setdefault(program.name, {})[group[0].id] = values

    programs = engines.engines(options)
    measured.facts |= {program.name: {"version": program.version()} for program in programs}
    with engines.started(programs, load, failed) as running:
        if able := asyncio.run(warm(running, sampling, failed)):
            asyncio.run(of_row(row, able, groups, sampling, take))
