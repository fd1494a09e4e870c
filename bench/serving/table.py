"""The table and the line of the record."""

import time

from comparison.report import append, command, commit, conditions, machine, median, quotient, table

from .scenarios import SCENARIOS

#: Version of the record's lines.
FORMAT = 1


def ratios(measured, peer, metric):
    ours, theirs = (measured.values.get(name, {}).get(metric, []) for name in ("tandem", peer))
    return [quotient(a, b) for a, b in zip(ours, theirs)]


def cell(measured, name, row):
    """A figure, and in brackets Tandem's divided by it: the median of the rounds' ratios."""
    middle = median(measured.values.get(name, {}).get(row.metric, []))
    if middle is None:
        return "failed" if name in measured.failures else "–"
    shown = row.style.format(middle)
    ratio = median(ratios(measured, name, row.metric)) if row.compared and name != "tandem" else None
    return shown if ratio is None else f"{shown} ({ratio:.2f})"


def markdown(options, settings, programs, measured):
    scenario = SCENARIOS[options.scenario]
    sizes = ", ".join(f"{name} {getattr(settings, name)}" for name in scenario.sizes)
    head = f"{options.scenario}: {scenario.about} ({sizes}). {options.model.name}, {conditions(options)}"
    described = [(row.title, [cell(measured, program.name, row) for program in programs]) for row in scenario.rows]
    return table(head, programs, described, measured)


def record(options, settings, measured):
    scenario = SCENARIOS[options.scenario]
    metrics = [row.metric for row in scenario.rows]
    compared = [row.metric for row in scenario.rows if row.compared]
    medians = {name: {metric: median(columns.get(metric, [])) for metric in metrics}
               for name, columns in measured.values.items()}
    line = {
        "format": FORMAT,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "command": command(),
        "model": options.model.name,
        "machine": machine(),
        "scenario": options.scenario,
        "settings": {name: getattr(settings, name) for name in scenario.sizes} | {"threads": options.threads},
        "rounds": options.rounds,
        "facts": measured.facts,
        "medians": medians,
        "ratios": {name: {metric: median(ratios(measured, name, metric)) for metric in compared}
                   for name in measured.values if name != "tandem"},
        "values": measured.values,
        "failures": measured.failures,
    }
    append(options.record, line)
