"""Runs the engines in alternation, one process at a time."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

from . import install

#: Which job measures a workload. Workloads of a job share one process, so that loading is paid once.
JOB_OF = {
    "prefill": "short", "decode": "short", "step": "short",
    "prefill_long": "long", "decode_long": "long",
    "memory": "memory", "neighbour": "neighbour",
}
#: Longest time of a job's process, in seconds.
LIMIT_S = {"short": 300, "long": 1800, "memory": 600, "neighbour": 300}
#: Variables that would make runs differ from shell to shell.
UNWANTED = ("OMP_", "GOMP_", "KMP_", "GGML_", "LLAMA_", "RAYON_", "CANDLE_", "TANDEM_ISA", "TANDEM_THREADS")


class Failed(Exception):
    """A job that gave no figures; says why."""


@dataclasses.dataclass
class Measured:
    """What came out."""

    #: [engine][metric]: one value a round, in the order of the rounds; None where the job failed.
    values: dict = dataclasses.field(default_factory=dict)
    #: [engine]: version and other facts.
    facts: dict = dataclasses.field(default_factory=dict)
    #: [engine][job]: why it failed. It is not tried again in later rounds.
    failures: dict = dataclasses.field(default_factory=dict)


def measure(options, settings, engines, measured):
    """Adds to `measured` round by round, so that what there is survives an interruption."""
    jobs = list(dict.fromkeys(JOB_OF[workload] for workload in options.workloads))
    for index in range(options.rounds):
        first = index % len(engines)  # who goes first changes, so that no one always follows the same
        for job in jobs:
            for engine in engines[first:] + engines[:first]:
                if job in engine.jobs and job not in measured.failures.get(engine.name, {}):
                    one(options, settings, measured, (engine, job, index))


def one(options, settings, measured, task):
    """One engine's part of one round; a failure is kept, not raised."""
    engine, job, index = task
    print(f"round {index + 1} of {options.rounds}: {job}, {engine.title} …", file=sys.stderr, flush=True)
    request = dict(dataclasses.asdict(settings), model=str(options.model.resolve()), job=job,
                   workloads=[w for w in options.workloads if JOB_OF[w] == job], options=engine.options)
    try:
        result = call(engine, request, {})
        values = result["values"]
        if job == "neighbour" and engine.openmp:
            # Threads that do not spin: kinder to themselves beside a neighbour, slower without one.
            passive = call(engine, request, {"OMP_WAIT_POLICY": "passive"})["values"]
            values["neighbour_busy_passive"] = passive["neighbour_busy"]
            values["neighbour_share_passive"] = passive["neighbour_busy"] / values["neighbour_quiet"]
    except Failed as failure:
        print(f"  failed: {failure}", file=sys.stderr)
        measured.failures.setdefault(engine.name, {})[job] = str(failure)
        return
    measured.facts[engine.name] = result["facts"]
    columns = measured.values.setdefault(engine.name, {})
    for metric, value in values.items():
        column = columns.setdefault(metric, [])
        column.extend([None] * (index - len(column)))
        column.append(value)


def call(engine, request, more):
    """Runs a driver on a request and returns its answer."""
    if not engine.ready:
        peer = install.SHARED.get(engine.name, engine.name)
        raise Failed(f"not installed: python3 bench/compare.py setup --peers {peer}")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(UNWANTED)} | engine.environment | more
    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        folder = pathlib.Path(folder)
        asked, answer, log = folder / "request.json", folder / "answer.json", folder / "log"
        asked.write_text(json.dumps(request))
        with log.open("wb") as output:
            # A session of its own: what the driver starts ends with it.
            child = subprocess.Popen([engine.python, engine.script, asked, answer], env=environment, stdout=output,
                                     stderr=output, stdin=subprocess.DEVNULL, start_new_session=True)
            try:
                code = child.wait(timeout=LIMIT_S[request["job"]])
            except subprocess.TimeoutExpired:
                raise Failed(f"not done after {LIMIT_S[request['job']]} s") from None
            finally:
                stop(child)
        if code != 0 or not answer.exists():
            said = log.read_text(errors="replace").replace(f"{pathlib.Path(request['model']).parent}/", "")
            raise Failed(reason(code, said))
        return json.loads(answer.read_text())


def stop(child):
    """Ends a driver and all that it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def reason(code, log):
    """A failure in one line."""
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    lines = [line for line in lines if not re.match(r"\d+: |at ", line)] or ["no output"]  # without a backtrace
    telling = [line for line in lines if re.search(r"error|panicked|failed", line, re.IGNORECASE)]
    return f"{how}: {(telling or lines)[-1][:300]}"
