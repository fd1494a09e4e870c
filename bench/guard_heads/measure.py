#!/usr/bin/env python3
"""Recall and false positives of a head by source, from the scores of rows that its fits had not seen.

    tandem train-head REF --data rows/injection.jsonl --label injection --group group … --scores scores.jsonl --out head.json
    tandem score-head REF --head head.json --data rows/test.jsonl --as-chat > test.scores.jsonl
    python3 bench/guard_heads/measure.py rows --label injection --scores scores.jsonl --test test.scores.jsonl

Attacks are scored by fits that saw none of their source's family; the sources of rows/test.jsonl are in no fit at all.
The threshold is the least one with at most --false-positives of both the harmless rows and the test's; `roc` gives
the recall at other shares, found likewise.
Scores of another guard on the same rows can be given with --scores and --test, too, or its verdicts as 0 and 1.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

from recorded import record

SHARES = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--label", required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--false-positives", type=float, default=0.02)
    parser.add_argument("--model", default="", help="what the record says it is of")
    parser.add_argument("--record", type=Path, metavar="FILE", help="append the result to FILE as a JSON line")
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
    least = lambda share: max(sorted(part)[-1 - int(share * len(part))] for part in [in_test, harmless])
    threshold = least(args.false_positives) if args.threshold is None else args.threshold

    def over(part: list[float], threshold: float = threshold) -> float:
        return round(sum(score > threshold for score in part) / max(1, len(part)), 4)

    by_source = defaultdict(list)
    for row, score in judged:
        by_source[row["source"]].append(score)
    result = {
        "threshold": threshold,
        "recall": over(attacks),
        "false_positives_test": over(in_test),
        "false_positives_rows": over(harmless),
        "roc": [[share, over(attacks, least(share))] for share in SHARES],
        "sources": {source: [len(part), over(part)] for source, part in sorted(by_source.items())},
    }
    print(json.dumps(result))
    if args.record:
        record(args.record, args.model, {"label": args.label, **result})


if __name__ == "__main__":
    main()
