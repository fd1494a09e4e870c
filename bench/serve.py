"""Measures servers under many clients at once: Tandem and llama-server, the same file, the same threads, the same
requests, in alternation.

    cargo build --release
    python3 bench/serve.py eight MODEL.gguf --llama-server PATH --rounds 3
    python3 bench/serve.py turns MODEL.gguf              # Tandem alone

Only Python's standard library is needed. What the scenarios are, where a llama-server comes from and what is
comparable is told in bench/README.md.
"""

import argparse
import dataclasses
import pathlib
import signal
import sys

from compare import REPOSITORY, names, positive
from comparison.rounds import Failed, Measured
from serving import table
from serving.scenarios import SCENARIOS
from serving.servers import LlamaServer, Tandem


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listed = "; ".join(f"{name}: {scenario.about}" for name, scenario in SCENARIOS.items())
    parser.add_argument("scenario", choices=list(SCENARIOS), help=listed)
    parser.add_argument("model", type=pathlib.Path, metavar="MODEL.gguf")
    parser.add_argument("--llama-server", metavar="PATH", help="the peer; without one Tandem is measured alone")
    parser.add_argument("--waiting", type=names(["asleep", "spinning"]), default=["asleep", "spinning"],
                        metavar="LIST", help="how the peer's threads wait [default: asleep,spinning]")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N")
    parser.add_argument("--threads", type=positive, default=2, metavar="N", help="of each server [default: 2]")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the prompts; every round has its own")
    for field in dataclasses.fields(next(iter(SCENARIOS.values())).settings):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=positive, metavar="N",
                            help="instead of the scenario's own")
    parser.add_argument("--memory", metavar="BYTES", help="Tandem's budget, such as 3GiB")
    parser.add_argument("--tandem", type=pathlib.Path, default=REPOSITORY / "target/release/tandem", metavar="PATH")
    parser.add_argument("--record", type=pathlib.Path, metavar="FILE", help="append the result to FILE as a JSON line")
    return parser.parse_args()


def sizes(options, scenario):
    """The scenario's sizes with what the command line says laid over them."""
    names = [field.name for field in dataclasses.fields(scenario.settings)]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return dataclasses.replace(scenario.settings, **given)


def measure(options, scenario, settings, programs, measured):
    """Adds to `measured` round by round, so that what there is survives an interruption."""
    for index in range(options.rounds):
        first = index % len(programs)  # who goes first changes, so that no one always follows the same
        for program in programs[first:] + programs[:first]:
            if program.name in measured.failures:
                continue
            print(f"round {index + 1} of {options.rounds}: {program.title} …", file=sys.stderr, flush=True)
            try:
                figures = scenario.run(program, options, settings, f"{options.seed}/{index}")
            except Failed as failure:
                print(f"  failed: {failure}", file=sys.stderr)
                measured.failures[program.name] = {options.scenario: str(failure)}
                continue
            measured.facts[program.name] = {"version": program.version()}
            for metric, value in figures.items():
                measured.values.setdefault(program.name, {}).setdefault(metric, []).append(value)


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: servers that run end, too
    for path, remedy in [(options.model, "name a .gguf file"), (options.tandem, "cargo build --release")]:
        if not path.is_file():
            sys.exit(f"{path} is not there: {remedy}")
    scenario = SCENARIOS[options.scenario]
    settings = sizes(options, scenario)
    programs = [Tandem(options.tandem, options.memory)]
    if options.llama_server:
        programs += [LlamaServer(options.llama_server, waiting) for waiting in options.waiting]
    measured = Measured()
    try:
        measure(options, scenario, settings, programs, measured)
    except KeyboardInterrupt:
        print("stopped: the table holds what was measured until then; nothing is recorded", file=sys.stderr)
        print(table.markdown(options, settings, programs, measured))
        return 130
    print(table.markdown(options, settings, programs, measured))
    if options.record:
        table.record(options, settings, measured)
    failed = sum(sum(columns.get("failed", [])) for columns in measured.values.values())
    return 1 if measured.failures or failed else 0


if __name__ == "__main__":
    sys.exit(main())
