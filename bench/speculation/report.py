"""The tables and the lines of the record. Every ratio is of one prompt, and medians are over prompts."""

import platform
import statistics
import time

from comparison import report
from comparison.report import median, quotient
from comparison.rounds import Measured

from . import engines
from .rows import ROWS

#: Version of the record's lines.
FORMAT = 1
OURS, PLAIN = engines.SPECULATIVE, engines.PLAIN
#: Metric and what it is called.
SPEEDS = {"generation_tokens_per_s": "writing, tokens/s", "tokens_per_s": "prompt included, tokens/s"}
SUMS = {"accepted": "drafted tokens accepted", "rejected": "drafted tokens rejected"}

SIZES = {"tokens": "tokens written, median", "prompt_tokens": "tokens of the prompt, median"}


def column(measured, engine, metric):
    """By group."""
    groups = measured.values.get(engine, {})
    return {group: values[metric] for group, values in groups.items() if metric in values}


def ratios(measured, engine, metric):
    """Tandem's figure divided by the engine's, group by group."""
    ours, theirs = column(measured, OURS, metric), column(measured, engine, metric)
    return [quotient(ours[group], theirs[group]) for group in ours if theirs.get(group)]


def quartiles(values):
    """The three of them; None for fewer than two values."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else None


def spread(values):
    """A median with its quartiles, as text."""
    found = quartiles(values)
    return f"{median(values):.2f}" + (f", {found[0]:.2f}–{found[2]:.2f}" if found else "")


def differing(measured, engine):
    """Greedy texts that are not the same with speculation as without; None where there is nothing to compare."""
    other = PLAIN if engine in (PLAIN, OURS) else "llama"
    texts, plain = column(measured, engine, "texts"), column(measured, other, "texts")
    if engine == other or not plain:
        return None
    return sum(a != b for group in texts if group in plain for a, b in zip(texts[group], plain[group]))


def failed(measured, engine):
    """Groups with an answer that failed."""
    return sum("failure" in values for values in measured.values.get(engine, {}).values())


def best_peer(measured, metric):
    """The fastest of llama.cpp's kinds, by its median; None without one."""
    medians = {engine: median(column(measured, engine, metric).values()) for engine in engines.KINDS}
    there = {engine: value for engine, value in medians.items() if value is not None}
    return max(there, key=there.get, default=None)


def against(measured, metric):
    """Ratios of a metric: to Tandem without speculation, and of the medians to llama.cpp's best."""
    peer = best_peer(measured, metric)
    ours, theirs = (median(column(measured, engine, metric).values()) for engine in (OURS, peer))
    return {"plain": ratios(measured, PLAIN, metric), "peer": peer, "peer_ratio": quotient(ours, theirs)}


def predicted_error(measured):
    """The speed-up that Tandem expected divided by what came of it, prompt by prompt."""
    told = column(measured, OURS, "speculation")
    speed = column(measured, OURS, "generation_tokens_per_s")
    plain = column(measured, PLAIN, "generation_tokens_per_s")
    return [told[group]["predicted_speedup"] / (speed[group] / plain[group])
            for group in told if "predicted_speedup" in told[group] and group in speed and plain.get(group)]


def cell(measured, engine, metric):
    """A median, and in brackets Tandem's figure divided by the engine's."""
    middle = median(column(measured, engine, metric).values())
    if middle is None:
        return "–"
    if metric not in SPEEDS:
        return f"{sum(column(measured, engine, metric).values())}" if metric in SUMS else f"{middle:.0f}"
    shared = [] if engine == OURS else ratios(measured, engine, metric)
    return f"{middle:.1f}" + (f" ({spread(shared)})" if shared else "")


def count(value):
    return "–" if value is None else str(value)


def details(name, measured):
    """The table of one row."""
    there = [engine for engine in (PLAIN, OURS, *engines.KINDS) if engine in measured.values | measured.failures]
    lines = [(title, [cell(measured, engine, metric) for engine in there])
             for metric, title in (SPEEDS | SUMS | SIZES).items()]
    lines.append(("texts that differ from those without speculation",
                  [count(differing(measured, engine)) for engine in there]))
    lines.append(("failed requests", [count(failed(measured, engine)) for engine in there]))
    if expected := predicted_error(measured):
        lines.append(("speed-up, predicted against measured",
                      [spread(expected) if engine == OURS else "–" for engine in there]))
    groups = max((len(values) for values in measured.values.values()), default=0)
    size = ROWS[name].group
    over = f"{groups} prompts" if size == 1 else f"{groups} groups of {size} prompts"
    head = f"{name}: {ROWS[name].about}; medians over {over}. In brackets: Tandem's figure divided by the column's, " \
           f"median and quartiles of the ratios."
    return report.table(head, [Column(engine) for engine in there], lines, measured)


class Column:
    """What the shared table asks of one."""

    TITLES = {PLAIN: "Tandem without", OURS: "Tandem"} | {name: title for name, (title, _) in engines.KINDS.items()}

    def __init__(self, name):
        self.name, self.title = name, self.TITLES[name]


def summary(rows):
    """One line a row: what speculation gains, and the aim."""
    lines = ["| | against Tandem without: writing | prompt included | aim | against llama.cpp's best: writing "
             "| prompt included | aim | texts that differ |", "|---|" + "---:|" * 7]
    for name, measured in rows.items():
        cells = []
        for kind, aim in (("plain", ROWS[name].against_plain_min), ("peer", ROWS[name].against_peer_min)):
            for metric in SPEEDS:
                found = against(measured, metric)
                if kind == "plain":
                    cells.append(spread(found["plain"]) if found["plain"] else "–")
                else:
                    cells.append(f"{found['peer_ratio']:.2f} ({found['peer']})" if found["peer_ratio"] else "–")
            cells.append(f"≥ {aim}")
        lines.append(f"| {name} | " + " | ".join([*cells, count(differing(measured, OURS))]) + " |")
    return "\n".join(lines)


def is_wrong(measured):
    """Whether something failed, or speculation changed a text."""
    return bool(measured.failures or differing(measured, OURS)
                or any(failed(measured, engine) for engine in measured.values))


def record(options, name, measured):
    found = {metric: against(measured, metric) for metric in SPEEDS}
    line = {
        "format": FORMAT,
        "date": time.strftime("%Y-%m-%d"),
        "commit": report.commit(),
        "command": report.command(),
        "model": options.model.name,
        "small": options.small.name,
        "machine": report.machine() | {"python": platform.python_version()},
        "row": name,
        "settings": {"threads": options.threads, "max_tokens": options.max_tokens, "waiting": options.waiting},
        "facts": measured.facts,
        "medians": {engine: {metric: median(column(measured, engine, metric).values()) for metric in SPEEDS}
                    for engine in measured.values},
        "against_plain": {metric: {"median": median(of["plain"]), "quartiles": quartiles(of["plain"])}
                          for metric, of in found.items()},
        "against_peer": {metric: {"peer": of["peer"], "ratio": of["peer_ratio"]} for metric, of in found.items()},
        "differing_texts": differing(measured, OURS),
        "values": measured.values,
        "failures": measured.failures,
    }
    report.append(options.record, line)


def merged(lines):
    """What recorded lines hold together, by row: of a prompt that was measured twice, the later figures."""
    rows = {}
    for line in lines:
        measured = rows.setdefault(line["row"], Measured())
        for engine, values in line["values"].items():
            measured.values.setdefault(engine, {}).update(values)
        measured.facts |= line["facts"]
        measured.failures |= line["failures"]
    return rows
