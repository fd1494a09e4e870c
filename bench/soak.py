"""Keeps `tandem serve` busy with mixed load and watches its resident memory: fails if it ever passes a budget, or if
it grows.

    python3 bench/soak.py MODEL.gguf --minutes 30 --memory 1GiB --record bench/record/soak.jsonl

Only Python's standard library is needed, and a system with /proc. What the load is made of and what counts as growth
is told in bench/README.md.
"""

import argparse
import asyncio
import dataclasses
import pathlib
import re
import signal
import sys
import time

from compare import REPOSITORY, positive
from comparison.report import append, command, commit, machine
from comparison.rounds import Failed
from serving import mixture, table
from serving.servers import Load, Tandem

#: Growth over the last two thirds that is none, as a share of the mean.
GROWTH_MAX = 0.02
#: Pause between two looks at the memory, in seconds.
INTERVAL_S = 1.0
#: Longest wait until a server that nobody asks any more is idle, in seconds.
IDLE_LIMIT_S = 30
UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def size(text):
    """Bytes of a text such as 700MiB, and the text."""
    parsed = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]i?B)?", text)
    if not parsed:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 700MiB or 3GiB")
    return int(float(parsed[1]) * UNITS[parsed[2] or ""]), text


def minutes(text):
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes")
    return value


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, metavar="MODEL.gguf")
    parser.add_argument("--minutes", type=minutes, default=30.0, metavar="M")
    parser.add_argument("--memory", type=size, metavar="BYTES", help="Tandem's budget, and what must not be passed")
    parser.add_argument("--limit", type=size, metavar="BYTES",
                        help="what must not be passed, where Tandem is not told a budget")
    parser.add_argument("--clients", type=positive, default=12, metavar="N")
    parser.add_argument("--slots", type=positive, default=8, metavar="N", help="requests that are answered at once")
    parser.add_argument("--slot-tokens", type=positive, default=4096, metavar="N", help="prompt and answer of each")
    parser.add_argument("--threads", type=positive, default=2, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--tandem", type=pathlib.Path, default=REPOSITORY / "target/release/tandem", metavar="PATH")
    parser.add_argument("--record", type=pathlib.Path, metavar="FILE", help="append the curve to FILE as a JSON line")
    return parser.parse_args()


def growth(curve):
    """What the least squares line through the last two thirds gains, as a share of their mean."""
    tail = curve[len(curve) // 3:]
    if len(tail) < 2:
        return 0.0
    times, values = zip(*tail)
    middle_t, middle_v = sum(times) / len(tail), sum(values) / len(tail)
    spread = sum((t - middle_t) ** 2 for t in times)
    slope = sum((t - middle_t) * (v - middle_v) for t, v in tail) / spread
    return slope * (times[-1] - times[0]) / middle_v


async def watch(server, begun, until, curve):
    """Adds (seconds, bytes) to the curve until the end."""
    while time.monotonic() < until and server.alive():
        resident = server.status("VmRSS")
        if resident is not None:
            curve.append((time.monotonic() - begun, resident))
        await asyncio.sleep(INTERVAL_S)


async def soak(server, options, tally, curve):
    begun = time.monotonic()
    until = begun + options.minutes * 60
    people = [mixture.Person(server, tally, options.seed, number) for number in range(options.clients)]
    await asyncio.gather(watch(server, begun, until, curve), *[person.live(until) for person in people])


def busy(server):
    """Requests that run or wait and blocks of the cache that they hold, as the server itself tells."""
    lines = server.get("/metrics")[1].decode().splitlines()
    names = ("tandem_requests_running ", "tandem_queue_depth ", 'tandem_kv_blocks{state="used"} ')
    return sum(float(line.split()[1]) for line in lines if line.startswith(names))


def idle(server):
    """Whether nothing is left of anybody soon after the last client has gone."""
    until = time.monotonic() + IDLE_LIMIT_S
    while busy(server) and time.monotonic() < until:
        time.sleep(0.2)
    return not busy(server)


def judge(options, tally, result):
    """What is wrong, in words."""
    wrong = [f"{tally.wrong} answers were wrong: {'; '.join(tally.words)}"] if tally.wrong else []
    limit = options.memory or options.limit
    if limit and result["peak_bytes"] > limit[0]:
        wrong.append(f"{result['peak_bytes'] / 1e6:.1f} MB were resident, but {limit[1]} is the limit")
    if result["growth"] > GROWTH_MAX:
        wrong.append(f"memory grew by {result['growth']:.1%} over the last two thirds, more than {GROWTH_MAX:.0%}")
    if not result["idle"]:
        wrong.append("requests or their blocks were left although all clients had gone")
    return wrong


def run(options):
    tally, curve = mixture.Tally(), []
    program = Tandem(options.tandem, options.memory and options.memory[1])
    load = Load(options.model, options.threads, options.slots, options.slot_tokens, reuse=True)
    with program.start(load) as server:
        asyncio.run(soak(server, options, tally, curve))
        if not server.alive():
            raise Failed("the server ended")
        result = {"peak_bytes": server.status("VmHWM"), "growth": growth(curve), "idle": idle(server)}
    return tally, curve, result


def record(options, tally, curve, result):
    limit = options.memory or options.limit
    append(options.record, {
        "format": table.FORMAT,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "command": command(),
        "model": options.model.name,
        "machine": machine(),
        "limit_bytes": limit[0] if limit else None,
        **result,
        "load": dataclasses.asdict(tally),
        "interval_s": INTERVAL_S,
        "resident_mb": [round(resident / 1e6, 1) for _, resident in curve],
    })


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the server ends, too
    for path, remedy in [(options.model, "name a .gguf file"), (options.tandem, "cargo build --release")]:
        if not path.is_file():
            sys.exit(f"{path} is not there: {remedy}")
    if not pathlib.Path("/proc/self/status").exists():
        sys.exit("there is no /proc here, from which a process's memory could be read")
    try:
        tally, curve, result = run(options)
    except Failed as failure:
        sys.exit(str(failure))
    requests = ", ".join(f"{name} {count}" for name, count in sorted(tally.sent.items()))
    print(f"{options.model.name}, {options.minutes:g} minutes, {options.clients} clients: {requests}; "
          f"{tally.refused} refused for want of a place, {tally.tokens} tokens written")
    print(f"resident memory: highest {result['peak_bytes'] / 1e6:.1f} MB, growth over the last two thirds "
          f"{result['growth']:+.2%}")
    if options.record:
        record(options, tally, curve, result)
    wrong = judge(options, tally, result)
    for what in wrong:
        print(f"FAILED: {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
