#!/usr/bin/env python3
"""What other guards say of the same rows, for measure.py.

    python3 bench/guard_heads/peers.py rows --guard llm_guardrail --folder peers --scores peer.jsonl --test peer.test.jsonl
    python3 bench/guard_heads/measure.py rows --label injection --scores peer.jsonl --test peer.test.jsonl [--threshold 0.5]

The guard is installed into --folder, by npm or pip, and asked about every row of rows/injection.jsonl and
rows/test.jsonl. `llm_guardrail` (npm, ISC): `checkAll`, the greater of its probabilities of an injection and of a
jailbreak; its own verdict is 0.5. `jailguard` (PyPI, MIT or Apache-2.0): `detect`, its score; its own verdict is 0.5. It
fetches a sentence model of 90 MB (all-MiniLM-L6-v2 as ONNX) when it is first asked, unless that lies in ~/.cache/jailguard.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

VERSIONS = {"llm_guardrail": "llm_guardrail@2.1.2", "jailguard": "jailguard==0.1.2"}
SCRIPT = """
import { createInterface } from 'node:readline';
import { checkAll } from 'llm_guardrail';
for await (const line of createInterface({ input: process.stdin })) {
  const said = await checkAll(JSON.parse(line));
  console.log(Math.max(said.injection.probabilities.threat, said.jailbreak.probabilities.threat));
}
"""


def llm_guardrail(folder: Path, texts: list[str]) -> list[float]:
    subprocess.run(["npm", "install", "--silent", "--prefix", folder, VERSIONS["llm_guardrail"]], check=True)
    (folder / "ask.mjs").write_text(SCRIPT)
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    out = subprocess.run(["node", "ask.mjs"], cwd=folder, input=lines, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [float(line) for line in out.split()]


def jailguard(folder: Path, texts: list[str]) -> list[float]:
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", folder / "python", VERSIONS["jailguard"]]
    subprocess.run(command, check=True)
    sys.path.insert(0, str(folder / "python"))
    import jailguard as guard

    return [said.score for said in guard.detect_batch(texts)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--guard", choices=sorted(VERSIONS), required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where the guard is installed")
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    ask = {"llm_guardrail": llm_guardrail, "jailguard": jailguard}[args.guard]
    for name, out in [("injection", args.scores), ("test", args.test)]:
        rows = [json.loads(line) for line in (args.rows / f"{name}.jsonl").read_text().splitlines()]
        scores = ask(args.folder, [row["prompt"] for row in rows])
        out.write_text("".join(json.dumps({"id": row["id"], "score": score}) + "\n" for row, score in zip(rows, scores)))


if __name__ == "__main__":
    main()
