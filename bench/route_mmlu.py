"""How well heads on the small model's reading route: APGR over folds of subjects never trained on.

    python3 bench/route_mmlu.py LABELS.jsonl [--model qwen2.5-coder-0.5b] [--rows-per-subject 130] [--record]

LABELS.jsonl has a line per question: {"subject", "prompt", "small_correct", "large_correct"} (RouteLLM's
MMLU labels have this form). `tandem train-head --group subject --scores` gives every question two
probabilities by heads that have seen no question of its subject: that small is right, and that large is.
Questions are ordered by their difference, what calling large gains. Beside it stand the head of small alone,
length alone in four ways, and chance; intervals are of 1,000 resamples of subjects and of questions within
them, the same ones for all, so that differences are paired. `--folder` keeps the heads and scores, and uses
those that are there. Definitions: docs/calibration.md.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


LABELS = ("small_correct", "large_correct")


def apgr(order, rows, counts):
    """Area under PGR over the share of large calls, which the rows get in this order, each so many times."""
    total = sum(counts)
    gap = sum(count * (row["large_correct"] - row["small_correct"]) for row, count in zip(rows, counts))
    if gap <= 0:
        return float("nan")
    recovered, area = 0, 0.0
    for index in order:
        count = counts[index]
        if count:
            gain = count * (rows[index]["large_correct"] - rows[index]["small_correct"])
            area += (recovered + gain / 2) * count
            recovered += gain
    return area / total / gap


def auroc(scores, labels):
    ranked = sorted(zip(scores, labels))
    positives, rank_sum, index = sum(labels), 0.0, 0
    while index < len(ranked):
        end = index
        while end < len(ranked) and ranked[end][0] == ranked[index][0]:
            end += 1
        rank_sum += sum(label for _, label in ranked[index:end]) * (index + end + 1) / 2
        index = end
    negatives = len(labels) - positives
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def resampled(rows, resamples=1000):
    """How often each row counts when subjects are drawn with replacement, and questions within them."""
    draw = random.Random(0)
    by_subject = {}
    for index, row in enumerate(rows):
        by_subject.setdefault(row["subject"], []).append(index)
    subjects = sorted(by_subject)
    for _ in range(resamples):
        counts = [0] * len(rows)
        for subject in draw.choices(subjects, k=len(subjects)):
            for index in draw.choices(by_subject[subject], k=len(by_subject[subject])):
                counts[index] += 1
        yield counts


def interval(values):
    found = sorted(value for value in values if not math.isnan(value))
    return [found[int(0.025 * len(found))], found[int(0.975 * len(found)) - 1]]


def head_scores(args, rows, folder):
    """Each label's probabilities by fits that had not seen the row's subject, and what train-head said of each."""
    data = folder / "rows.jsonl"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if not (folder / "told").exists() or data.read_text() != text:
        data.write_text(text)
        told = subprocess.run(
            [args.tandem, "train-head", args.model, "--data", data, *(f"--label={label}" for label in LABELS),
             "--group", "subject", "--layers", args.layers, "--out", folder / "{label}.head",
             "--scores", folder / "{label}.scores", "--json"],
            check=True, stdout=subprocess.PIPE, text=True)
        (folder / "told").write_text(told.stdout)
    scores = [[json.loads(line)["score"] for line in (folder / f"{label}.scores").read_text().splitlines()]
              for label in LABELS]
    return scores, [json.loads(line) for line in (folder / "told").read_text().splitlines()]


def orders(rows, scores):
    """Scores by name; the lowest calls large first."""
    small, large = scores
    length = [math.log(len(row["prompt"])) for row in rows]
    centre = sum(length) / len(length)
    draw = random.Random(2)
    return {
        "gain": [of_small - of_large for of_small, of_large in zip(small, large)],
        "small is right": small,
        "shorter is easier": [-value for value in length],
        "longer is easier": length,
        "middling is easier": [-(value - centre) ** 2 for value in length],
        "middling is harder": [(value - centre) ** 2 for value in length],
        "chance": [draw.random() for _ in rows],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--layers", default="auto")
    parser.add_argument("--rows-per-subject", type=int, default=130)
    parser.add_argument("--tandem", default=str(ROOT / "target/release/tandem"))
    parser.add_argument("--folder", type=Path, help="keep heads and scores here, and use those that are")
    parser.add_argument("--record", action="store_true", help="append to bench/record/route_mmlu.jsonl")
    parser.add_argument("--machine", default="", help="what the record says it ran on")
    args = parser.parse_args()
    draw = random.Random(1)
    by_subject = {}
    for line in open(args.labels, encoding="utf-8"):
        row = json.loads(line)
        by_subject.setdefault(row["subject"], []).append(row)
    rows = []
    for subject in sorted(by_subject):
        draw.shuffle(by_subject[subject])
        rows += by_subject[subject][: args.rows_per_subject]
    draw.shuffle(rows)
    for index, row in enumerate(rows):
        row["id"] = str(index)
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        scores, told = head_scores(args, rows, folder)
    named = orders(rows, scores)
    sorted_by = {name: sorted(range(len(rows)), key=lambda row: of[row]) for name, of in named.items()}
    samples = [{name: apgr(order, rows, counts) for name, order in sorted_by.items()} for counts in resampled(rows)]
    right, figures = [int(row["small_correct"]) for row in rows], {}
    for name, order in sorted_by.items():
        above = [sample["gain"] - sample[name] for sample in samples]
        figures[name] = {"apgr": apgr(order, rows, [1] * len(rows)),
                         "apgr_ci": interval([sample[name] for sample in samples]),
                         "auroc_small_right": auroc(named[name], right), "gain_above_ci": interval(above)}
        figure = figures[name]
        print("{:20} APGR {:.3f} ({:.3f} to {:.3f})  AUROC {:.3f}  gain is above it by {:+.3f} to {:+.3f}".format(
            name, figure["apgr"], *figure["apgr_ci"], figure["auroc_small_right"], *figure["gain_above_ci"]))
    for head in told:
        states = ", ".join(f"{state['state']} of {state['layer']}" for state in head["states"])
        print(f"{head['label']}: AUROC {head['auroc']:.3f} on {states}; alone: "
              + "  ".join(f"{at['layer']} {at['state']} {at['auroc']:.3f}" for at in head["layers"]))
    if args.record:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        record = {"command": " ".join(["python3", "bench/route_mmlu.py"] + [os.path.basename(a) for a in sys.argv[1:]]),
                  "commit": commit.stdout.strip(), "machine": args.machine, "rows": len(rows),
                  "subjects": len(by_subject), "figures": figures, **{head["label"]: head for head in told}}
        with open(ROOT / "bench/record/route_mmlu.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
