"""Medians, ratios, the Markdown table, and the line of the record."""

import dataclasses
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import time

from .rounds import JOB_OF

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
#: Version of the record's lines.
FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    workload: str
    metric: str
    #: How a figure is written.
    style: str = "{:.1f}"
    #: Divides the metric, round by round.
    divisor: str | None = None
    #: Whether Tandem's figure is set against the peer's.
    compared: bool = True
    #: Tandem's metric where it differs.
    ours: str | None = None


def rows(settings, workloads):
    """The lines that the workloads fill."""
    prompt, deep = settings.prompt_tokens, settings.context_tokens
    widths = [width for width in settings.widths if width > 1]
    table = [
        Row("load, s", "prefill", "load", "{:.2f}"),
        Row(f"prefill of {prompt}, tokens/s", "prefill", "prefill"),
        Row(f"decode after {prompt}, tokens/s", "decode", "decode"),
        Row("step of 1, ms", "step", "step_1", "{:.2f}"),
        *[Row(f"step of {w}, ms", "step", f"step_{w}", "{:.2f}") for w in widths],
        *[Row(f"step of {w} against one", "step", f"step_{w}", "{:.2f}", "step_1", compared=False) for w in widths],
        Row(f"prefill of {settings.long_prompt_tokens}, tokens/s", "prefill_long", "prefill_long"),
        Row(f"decode after {deep}, tokens/s", "decode_long", "decode_long"),
        Row(f"resident at {settings.memory_tokens} tokens, MB", "memory", "memory", "{:.0f}"),
        Row("decode beside a busy neighbour, share of quiet", "neighbour", "neighbour_share", "{:.2f}"),
        Row("the same, OMP_WAIT_POLICY=passive", "neighbour", "neighbour_share_passive", "{:.2f}",
            ours="neighbour_share"),
    ]
    return [row for row in table if row.workload in workloads]


def column(measured, engine, row):
    """The row's value in each round; None where there is none."""
    of_engine = measured.values.get(engine.name, {})
    metric = row.ours if engine.against is None and row.ours else row.metric
    values = of_engine.get(metric, [])
    if row.divisor:
        return [quotient(a, b) for a, b in zip(values, of_engine.get(row.divisor, []))]
    return values


def quotient(a, b):
    return None if a is None or not b else a / b


def median(values):
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None


def cell(measured, engines, engine, row):
    """A figure, and in brackets Tandem's divided by it: the median of the rounds' ratios."""
    values = column(measured, engine, row)
    middle = median(values)
    if middle is None:
        return "failed" if JOB_OF[row.workload] in measured.failures.get(engine.name, {}) else "–"
    text = row.style.format(middle)
    if engine.against and row.compared:
        ours = column(measured, next(e for e in engines if e.name == engine.against), row)
        ratio = median([quotient(a, b) for a, b in zip(ours, values)])
        if ratio is not None:
            text += f" ({ratio:.2f})"
    return text


def markdown(options, settings, engines, measured):
    head = f"{options.model.name}, {conditions(options)}"
    described = [(row.title, [cell(measured, engines, engine, row) for engine in engines])
                 for row in rows(settings, options.workloads)]
    return table(head, engines, described, measured)


def conditions(options):
    """How it was measured, and how the table is to be read."""
    return (f"{options.threads} threads, {machine()['cpu']}, medians of {options.rounds} alternating rounds. In brackets: "
            f"Tandem's figure divided by the peer's, median of the rounds' ratios.")


def table(head, columns, described, measured):
    """Text, a table of rows (title and cells) that hold anything, and what is to be said of each column."""
    lines = [head, "", "| | " + " | ".join(column.title for column in columns) + " |",
             "|---|" + "---:|" * len(columns)]
    lines += [f"| {title} | " + " | ".join(cells) + " |" for title, cells in described if any(c != "–" for c in cells)]
    lines.append("")
    for column in columns:
        for job, why in measured.failures.get(column.name, {}).items():
            lines.append(f"- {column.title} failed at {job}: {why}")
        if column.name in measured.facts:
            lines.append(f"- {column.title}: {measured.facts[column.name]['version']}")
    return "\n".join(lines)


def medians(settings, options, engines, measured):
    """[engine][row]: median and ratio, for the record."""
    table = {}
    for engine in engines:
        figures = table.setdefault(engine.name, {})
        for row in rows(settings, options.workloads):
            middle = median(column(measured, engine, row))
            if middle is not None:
                figures[row.title] = middle
    return table


def machine():
    """Processor, cores and memory, as far as the system tells."""
    facts = {"cpu": "unknown processor", "cores": os.cpu_count()}
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        memory = pathlib.Path("/proc/meminfo").read_text().split()
    except OSError:
        return facts
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    facts["cpu"] = names[0] if names else facts["cpu"]
    facts["memory_gb"] = round(int(memory[1]) * 1024 / 1e9, 1)
    return facts


def commit():
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True)
    return git.stdout.strip() or "unknown"


def command():
    """The command line with file names only: folders are this machine's business."""
    return f"python3 bench/{pathlib.Path(sys.argv[0]).name} " + shlex.join(
        argument.rsplit("/", 1)[-1] if "/" in argument else argument for argument in sys.argv[1:])


def record(options, settings, engines, measured):
    line = {
        "format": FORMAT,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "command": command(),
        "model": options.model.name,
        "machine": machine(),
        "settings": dataclasses.asdict(settings),
        "rounds": options.rounds,
        "facts": measured.facts,
        "medians": medians(settings, options, engines, measured),
        "values": measured.values,
        "failures": measured.failures,
    }
    append(options.record, line)


def append(path, line):
    with path.open("a") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
