#!/usr/bin/env python3
"""Recall and false positives of a head by source, from the scores of rows that its fits had not seen.

    tandem train-head REF --data rows/injection.jsonl --label injection --group group … --scores scores.jsonl --out head.json
    tandem score-head REF --head head.json --data rows/test.jsonl --as-chat > test.scores.jsonl
    python3 bench/guard_heads/measure.py rows --label injection --scores scores.jsonl --test test.scores.jsonl

Attacks are scored by fits that saw none of their source's family; the sources of rows/test.jsonl are in no fit at all.
The threshold is the least one with at most --false-positives of both the harmless rows and the test's.
Scores of another guard on the same rows can be given with --scores and --test, too, or its verdicts as 0 and 1.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--label", required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--false-positives", type=float, default=0.02)
    parser.add_argument("--threshold", type=float, help="instead of that which --false-positives gives")
    # Harmless, but made to be taken for attacks: told apart, and in no threshold.
    parser.add_argument("--apart", default="test/exemplars")
    args = parser.parse_args()
    rows = {row["id"]: row for row in lines(args.rows / f"{args.label}.jsonl") + lines(args.rows / "test.jsonl")}
    scores = {line["id"]: line["score"] for path in [args.scores, args.test] for line in lines(path)}
    # Copies in disguise are for training.
    judged = [(rows[name], score) for name, score in scores.items() if name in rows and "+" not in name]
    attacks = [score for row, score in judged if row[args.label] == 1]
    in_test = [score for row, score in judged if row["source"].startswith("test/") and row["source"] != args.apart]
    harmless = [score for row, score in judged if row[args.label] == 0 and not row["source"].startswith("test/")]
    threshold = args.threshold
    if threshold is None:
        least = [sorted(part)[-1 - int(args.false_positives * len(part))] for part in [in_test, harmless]]
        threshold = max(least)
    over = lambda part: round(sum(score > threshold for score in part) / max(1, len(part)), 4)
    by_source = defaultdict(list)
    for row, score in judged:
        by_source[row["source"]].append(score)
    print(
        json.dumps(
            {
                "threshold": threshold,
                "recall": over(attacks),
                "false_positives_test": over(in_test),
                "false_positives_rows": over(harmless),
                "sources": {source: [len(part), over(part)] for source, part in sorted(by_source.items())},
            }
        )
    )


if __name__ == "__main__":
    main()
