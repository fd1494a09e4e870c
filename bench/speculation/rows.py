"""The workloads: which prompts, how many at once, and what speculation is to gain there."""

import dataclasses
import itertools

from . import edits, facts, humaneval, prose


@dataclasses.dataclass(frozen=True)
class Row:
    """One workload."""

    about: str
    #: Takes the folder of packages; returns prompts, as many as there are, or endlessly many.
    prompts: object
    #: Aims: tokens/s against Tandem without speculation, and against llama.cpp's best.
    against_plain_min: float
    against_peer_min: float
    temperature: float = 0.0
    clients: int = 1
    #: Prompts that are measured in one go, before it is the next server's turn.
    group: int = 1
    needs_humaneval: bool = False


def edit(_packages):
    """Renaming, changing and extracting in turns."""
    for index in range(len(edits.functions()) // 2):
        yield from (edits.renaming(index), edits.changing(index), facts.extracting(index))


def mixed(packages):
    return itertools.chain.from_iterable(zip(humaneval.prompts(packages), edit(packages), prose.prompts()))


ROWS = {
    "humaneval": Row("HumanEval's functions, completed", humaneval.prompts, 1.5, 2.0, needs_humaneval=True),
    "edit": Row("changes to a function, JSON from a text", edit, 2.5, 3.0),
    "prose": Row("free prose", lambda _packages: prose.prompts(), 0.98, 1.3),
    "sampled": Row("free prose at temperature 1", lambda _packages: prose.prompts(), 0.98, 1.3, temperature=1.0),
    "clients": Row("4 clients at once, all of these mixed", mixed, 1.0, 2.5, clients=4, group=8, needs_humaneval=True),
}


def chosen(row, packages, first, count):
    """Prompts of a row from the first on; fewer if it has no more."""
    return list(itertools.islice(row.prompts(packages), first, first + count))
