"""What is asked of a server, and which figures come of it: one function a scenario, listed in SCENARIOS."""

import asyncio
import dataclasses
import statistics
import sys
import time

from comparison.rounds import Failed

from . import client, prompts
from .servers import Load

#: Longest wait for one answer, in seconds.
ANSWER_LIMIT_S = 600
#: Tokens that the template adds to a message at most, and by which a prompt may miss its length.
SLACK_TOKENS = 160
#: Tokens of the running stream of `stall` before the first long prompt comes.
STALL_LEAD_TOKENS = 16


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes; a scenario's own, unless the command line says otherwise."""

    clients: int = 8
    #: Requests of each client, one after the other.
    requests: int = 2
    prompt_tokens: int = 200
    answer_tokens: int = 128
    #: Turns of the conversation of `turns`.
    turns: int = 8
    #: Prompts that arrive in `stall`.
    arrivals: int = 3


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table."""

    metric: str
    title: str
    style: str = "{:.1f}"
    #: Whether Tandem's figure is set against the peer's.
    compared: bool = True


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A named load."""

    about: str
    settings: Settings
    #: Takes the program, the options and the settings; returns the figures.
    run: object
    rows: tuple
    #: Which of the settings it has.
    sizes: tuple


def rank(values, share):
    """The value below which `share` of them lie, as the nearest rank has it."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None


def ms(seconds):
    return None if seconds is None else seconds * 1e3


def median(values):
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None


def user(text):
    return {"role": "user", "content": text}


def finished(answers):
    """Tells failures on stderr and returns how many there are."""
    failures = [answer.failure for answer in answers if answer.failure]
    for failure in dict.fromkeys(failures):
        print(f"  failed ({failures.count(failure)}): {failure}", file=sys.stderr)
    return len(failures)


async def warm_up(server):
    """Touches every weight."""
    request = server.request([user(prompts.message(prompts.generator("warm-up"), 64))], 8)
    answer = client.read(await client.ask(server.address, request, ANSWER_LIMIT_S))
    if answer.failure:
        raise Failed(f"the first request: {answer.failure}")


async def one_client(server, requests):
    return [await client.ask(server.address, request, ANSWER_LIMIT_S) for request in requests]


async def crowd(server, settings, seed):
    """`clients` clients begin at once and ask `requests` times each."""
    queues = [
        [server.request([user(prompts.message(prompts.generator(seed, number, index), settings.prompt_tokens))],
                        settings.answer_tokens) for index in range(settings.requests)]
        for number in range(settings.clients)
    ]
    await warm_up(server)
    used, own, begun = server.cpu_s(), time.process_time(), time.perf_counter()
    exchanges = await asyncio.gather(*[one_client(server, queue) for queue in queues])
    seconds = time.perf_counter() - begun
    after, own = server.cpu_s(), time.process_time() - own
    answers = [client.read(exchange) for exchanges_of_one in exchanges for exchange in exchanges_of_one]
    firsts = [answer.first_token_s for answer in answers if answer.times]
    gaps = [gap for answer in answers for gap in answer.gaps_s]
    return {
        "tokens_per_s": sum(answer.tokens for answer in answers) / seconds,
        "first_token_median_ms": ms(median(firsts)),
        "first_token_p99_ms": ms(rank(firsts, 0.99)),
        "gap_median_ms": ms(median(gaps)),
        "gap_p99_ms": ms(rank(gaps, 0.99)),
        "failed": finished(answers),
        "prompt_tokens": median(answer.usage.get("prompt_tokens") for answer in answers),
        "answer_tokens": median(answer.tokens for answer in answers),
        "seconds": seconds,
        "cpu_s": None if after is None else after - used,
        "clients_cpu_s": own,
        "memory_peak_mb": megabytes(server),
    }


def megabytes(server):
    peak = server.status("VmHWM")
    return None if peak is None else peak / 1e6


def run_crowd(program, options, settings, seed):
    slot_tokens = settings.prompt_tokens + settings.answer_tokens + SLACK_TOKENS
    load = Load(options.model, options.threads, settings.clients, slot_tokens)
    with program.start(load) as server:
        return asyncio.run(crowd(server, settings, seed))


CROWD_ROWS = (
    Row("tokens_per_s", "tokens/s, all clients"),
    Row("first_token_median_ms", "first token, median, ms", "{:.0f}"),
    Row("first_token_p99_ms", "first token, p99, ms", "{:.0f}"),
    Row("gap_median_ms", "between tokens, median, ms"),
    Row("gap_p99_ms", "between tokens, p99, ms"),
    Row("failed", "failed requests", "{:.0f}", compared=False),
    Row("prompt_tokens", "tokens of a prompt", "{:.0f}", compared=False),
    Row("answer_tokens", "tokens of an answer", "{:.0f}", compared=False),
    Row("seconds", "seconds in all"),
    Row("cpu_s", "processor time, s"),
    Row("clients_cpu_s", "of the clients, s", "{:.2f}", compared=False),
    Row("memory_peak_mb", "resident memory, highest, MB", "{:.0f}"),
)


async def one(server, messages, tokens, wordy=False):
    request = server.request(messages, tokens, wordy)
    return client.read(await client.ask(server.address, request, ANSWER_LIMIT_S))


def cached(answer):
    return (answer.usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


async def conversation(server, settings, seed):
    """One conversation, turn by turn. Returns its answers and all of its messages but the last answer."""
    await warm_up(server)
    rng = prompts.generator(seed, "turns")
    messages = [{"role": "system", "content": f"Conversation {rng.randrange(10**9)}."}]
    answers = []
    for _ in range(settings.turns):
        messages.append(user(prompts.message(rng, settings.prompt_tokens)))
        answers.append(await one(server, messages, settings.answer_tokens))
        if len(answers) < settings.turns:
            messages.append({"role": "assistant", "content": answers[-1].text})
    return answers, messages


async def without_reuse(server, settings, messages, seed):
    """The last turn on a server that never saw its conversation; then every turn under a new salt."""
    await warm_up(server)
    fresh = await one(server, messages, settings.answer_tokens)
    salted, rng = [], prompts.generator(seed, "salts")
    for turn in range(settings.turns):
        salt = {"role": "system", "content": f"{rng.randrange(10**9)} is this conversation's number."}
        salted.append(await one(server, [salt, *messages[1:2 + 2 * turn]], settings.answer_tokens))
    return fresh, salted


def run_turns(program, options, settings, seed):
    turn_tokens = settings.prompt_tokens + settings.answer_tokens + 32
    slot_tokens = turn_tokens * settings.turns + SLACK_TOKENS
    load = Load(options.model, options.threads, 1, slot_tokens, reuse=True)
    with program.start(load) as server:
        answers, messages = asyncio.run(conversation(server, settings, seed))
        peak = megabytes(server)
    with program.start(load) as server:
        fresh, salted = asyncio.run(without_reuse(server, settings, messages, seed))
    last, cold = answers[-1].first_token_s, salted[-1].first_token_s
    figures = {
        "first_turn_ms": ms(answers[0].first_token_s),
        "last_turn_ms": ms(last),
        "last_turn_cold_ms": ms(cold),
        "reuse_share": last / cold if last and cold else None,
        "prompt_tokens": answers[-1].usage.get("prompt_tokens"),
        "cached_tokens": cached(answers[-1]),
        "cached_tokens_cold": cached(salted[-1]),
        "differing_texts": int(fresh.text != answers[-1].text),
        "failed": finished([*answers, fresh, *salted]),
        "memory_peak_mb": peak,
    }
    for turn, (answer, other) in enumerate(zip(answers, salted), 1):
        figures[f"turn_{turn}_ms"] = ms(answer.first_token_s)
        figures[f"turn_{turn}_cold_ms"] = ms(other.first_token_s)
    return figures


TURNS_ROWS = (
    Row("first_turn_ms", "first token of turn 1, ms", "{:.0f}"),
    Row("last_turn_ms", "first token of the last turn, ms", "{:.0f}"),
    Row("last_turn_cold_ms", "the same with nothing to reuse, ms", "{:.0f}"),
    Row("reuse_share", "share of the time that is left with reuse", "{:.3f}"),
    Row("prompt_tokens", "tokens of the last turn's prompt", "{:.0f}", compared=False),
    Row("cached_tokens", "of these reused", "{:.0f}", compared=False),
    Row("cached_tokens_cold", "reused under a new salt", "{:.0f}", compared=False),
    Row("differing_texts", "last answers that differ from a fresh server's", "{:.0f}", compared=False),
    Row("failed", "failed requests", "{:.0f}", compared=False),
    Row("memory_peak_mb", "resident memory, highest, MB", "{:.0f}"),
)


async def stall(server, settings, seed):
    """A stream alone, then one while long prompts arrive, each when the one before has its first token. Both write one
    word over and over: gaps between texts are then gaps between tokens."""
    await warm_up(server)
    rng = prompts.generator(seed, "stall")
    alone = await one(server, [user(prompts.message(rng, 48))], settings.answer_tokens, wordy=True)
    longs = [server.request([user(prompts.message(rng, settings.prompt_tokens))], 1) for _ in range(settings.arrivals)]
    # It leaves once the long prompts are read, so it must only be long enough.
    request = server.request([user(prompts.message(rng, 48))], stall_tokens(settings), wordy=True)
    running = await client.start(server.address, request)
    while len(running.pieces) < STALL_LEAD_TOKENS and not running.done.done():
        await asyncio.sleep(0.005)
    begun = time.perf_counter()
    arrivals = [await client.ask(server.address, long, ANSWER_LIMIT_S) for long in longs]
    ended, outlasted = time.perf_counter(), not running.done.done()
    running.transport.abort()
    await running.done
    gaps, tokens = gaps_within(client.read(running).times, begun, ended)
    arrived = [client.read(exchange) for exchange in arrivals]
    quiet = alone.gaps_s
    worst, step = rank(gaps, 0.99), median(quiet)
    return {
        "alone_median_ms": ms(step),
        "alone_p99_ms": ms(rank(quiet, 0.99)),
        "alone_max_ms": ms(max(quiet, default=None)),
        "beside_median_ms": ms(median(gaps)),
        "beside_p99_ms": ms(worst),
        "beside_max_ms": ms(max(gaps, default=None)),
        "p99_in_steps": worst / step if worst and step else None,
        "beside_tokens_per_s": tokens / (ended - begun),
        "long_first_token_ms": ms(median(answer.ended - answer.asked for answer in arrived)),
        "long_prompt_tokens": median(answer.usage.get("prompt_tokens") for answer in arrived),
        "failed": finished([alone, *arrived]) + int(not outlasted),
        "memory_peak_mb": megabytes(server),
    }


def gaps_within(times, begun, ended):
    """Gaps that reach into a span of time, as far as they are known at its end; and how many tokens came in it."""
    before = [when for when in times if when < begun][-1:]
    within = [when for when in times if begun <= when <= ended]
    marks = [*before, *within, ended]
    return [after - before for before, after in zip(marks, marks[1:])], len(within)


def stall_tokens(settings):
    """Tokens that the running stream may write: as many as there are steps, if each reads four tokens of a prompt."""
    return settings.arrivals * settings.prompt_tokens // 4


def run_stall(program, options, settings, seed):
    slot_tokens = max(settings.prompt_tokens, stall_tokens(settings)) + SLACK_TOKENS
    load = Load(options.model, options.threads, 2, slot_tokens)
    with program.start(load) as server:
        return asyncio.run(stall(server, settings, seed))


STALL_ROWS = (
    Row("alone_median_ms", "between tokens alone, median, ms"),
    Row("alone_p99_ms", "alone, p99, ms"),
    Row("alone_max_ms", "alone, longest, ms"),
    Row("beside_median_ms", "between tokens while long prompts arrive, median, ms"),
    Row("beside_p99_ms", "meanwhile, p99, ms"),
    Row("beside_max_ms", "meanwhile, longest, ms"),
    Row("p99_in_steps", "p99 meanwhile, in medians alone", "{:.2f}"),
    Row("beside_tokens_per_s", "tokens/s of the running stream meanwhile"),
    Row("long_first_token_ms", "answer of one token to a long prompt, median, ms", "{:.0f}"),
    Row("long_prompt_tokens", "tokens of a long prompt", "{:.0f}", compared=False),
    Row("failed", "failed requests", "{:.0f}", compared=False),
    Row("memory_peak_mb", "resident memory, highest, MB", "{:.0f}"),
)

CROWD_SIZES = ("clients", "requests", "prompt_tokens", "answer_tokens")

SCENARIOS = {
    "eight": Scenario("clients that ask at once", Settings(), run_crowd, CROWD_ROWS, CROWD_SIZES),
    "thirtytwo": Scenario("as eight, with four times the clients", Settings(clients=32, requests=1), run_crowd,
                          CROWD_ROWS, CROWD_SIZES),
    "turns": Scenario("a conversation, with and without reuse of what was read",
                      Settings(prompt_tokens=236, answer_tokens=64), run_turns, TURNS_ROWS,
                      ("turns", "prompt_tokens", "answer_tokens")),
    "stall": Scenario("a running stream while long prompts arrive", Settings(prompt_tokens=4000), run_stall,
                      STALL_ROWS, ("arrivals", "prompt_tokens", "answer_tokens")),
}
