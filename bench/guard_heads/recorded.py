"""The line of a record: when, of which tree, how and where a result came about."""

import shlex
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from comparison.report import append, commit, machine  # noqa: E402


def record(path: Path, model: str, result: dict):
    arguments = [Path(argument).name if "/" in argument else argument for argument in sys.argv[1:]]
    line = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "command": f"python3 bench/guard_heads/{Path(sys.argv[0]).name} {shlex.join(arguments)}",
        "model": model,
        "machine": machine(),
        **result,
    }
    append(path, line)
