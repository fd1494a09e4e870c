"""How well a head on the small model's reading routes: APGR over folds of subjects never trained on.

    python3 bench/route_mmlu.py LABELS.jsonl [--model qwen2.5-coder-0.5b] [--rows-per-subject 130] [--record]

LABELS.jsonl has a line per question: {"subject", "prompt", "small_correct", "large_correct"} (RouteLLM's
MMLU labels have this form). `tandem train-head --group subject --scores` gives every question a score by a
head that has seen no question of its subject. Two heads are trained: one says whether small is right, one
whether large is; they are judged alone and by their difference, which is what calling large gains. Beside
them stand length alone, and chance. Definitions: docs/calibration.md.
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


def apgr(scores, small, large):
    """Area under PGR over the share of large calls; the lowest score calls large first, ties at random order."""
    order = sorted(range(len(scores)), key=lambda row: scores[row])
    rows, gap = len(scores), sum(large) - sum(small)
    if gap <= 0:
        return float("nan")
    recovered, area, before = 0, 0.0, 0.0
    for row in order:
        recovered += large[row] - small[row]
        pgr = recovered / gap
        area += (before + pgr) / 2 / rows
        before = pgr
    return area


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


def interval(scores, rows, resamples=1000):
    """95% interval by resampling subjects, then questions within them."""
    draw = random.Random(0)
    by_subject = {}
    for index, row in enumerate(rows):
        by_subject.setdefault(row["subject"], []).append(index)
    subjects, found = sorted(by_subject), []
    for _ in range(resamples):
        picked = []
        for subject in draw.choices(subjects, k=len(subjects)):
            picked += draw.choices(by_subject[subject], k=len(by_subject[subject]))
        found.append(apgr([scores[i] for i in picked], [rows[i]["small_correct"] for i in picked],
                          [rows[i]["large_correct"] for i in picked]))
    found = sorted(value for value in found if not math.isnan(value))
    return found[int(0.025 * len(found))], found[int(0.975 * len(found)) - 1]


def head_scores(tandem, args, data, label, folder):
    scores = folder / f"{label}.scores"
    told = subprocess.run(
        [tandem, "train-head", args.model, "--data", data, "--label", label, "--group", "subject", "--layers",
         args.layers, "--out", folder / f"{label}.head", "--scores", scores, "--json"],
        check=True, stdout=subprocess.PIPE, text=True)
    lines = [json.loads(line) for line in scores.read_text().splitlines()]
    return [line["score"] for line in lines], json.loads(told.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--layers", default="auto")
    parser.add_argument("--rows-per-subject", type=int, default=130)
    parser.add_argument("--tandem", default=str(ROOT / "target/release/tandem"))
    parser.add_argument("--record", action="store_true", help="append to bench/record/route_mmlu.jsonl")
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "rows.jsonl"
        data.write_text("".join(json.dumps({"id": str(i), **row}) + "\n" for i, row in enumerate(rows)))
        small, told_small = head_scores(args.tandem, args, data, "small_correct", folder)
        large, told_large = head_scores(args.tandem, args, data, "large_correct", folder)
    right = [int(row["small_correct"]) for row in rows]
    right_large = [int(row["large_correct"]) for row in rows]
    scored = {
        "head small is right": small,
        "both heads' difference": [a - b for a, b in zip(small, large)],
        "shorter is easier": [-len(row["prompt"]) for row in rows],
        "longer is easier": [len(row["prompt"]) for row in rows],
        "chance": [draw.random() for _ in rows],
    }
    figures = {}
    for name, scores in scored.items():
        low, high = interval(scores, rows)
        figures[name] = {"apgr": apgr(scores, right, right_large), "apgr_ci": [low, high],
                         "auroc_small_right": auroc(scores, right)}
        print(f"{name:24} APGR {figures[name]['apgr']:.3f} ({low:.3f} to {high:.3f})  "
              f"AUROC {figures[name]['auroc_small_right']:.3f}")
    for told, label in ((told_small, "small is right"), (told_large, "large is right")):
        layers = "  ".join(f"{at['layer']}: {at['auroc']:.3f}" for at in told["layers"])
        print(f"{label}: AUROC {told['auroc']:.3f} by layer: {layers}")
    if args.record:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        record = {"command": " ".join(["python3", "bench/route_mmlu.py"] + [os.path.basename(a) for a in sys.argv[1:]]),
                  "commit": commit.stdout.strip(), "rows": len(rows), "figures": figures,
                  "small_correct": told_small, "large_correct": told_large}
        with open(ROOT / "bench/record/route_mmlu.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
