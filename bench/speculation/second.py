#!/usr/bin/env python3
"""How often a draft model's second choice is right where its first is wrong: what trees of drafts could bring.

    python3 bench/speculate.py prompts prose --out prose.jsonl
    python3 bench/speculation/second.py prose.jsonl qwen2.5-coder-1.5b qwen2.5-coder-0.5b --prompts 8

The large model answers greedily; at every token that it wrote the small one tells its two likeliest.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts_file", type=Path)
    parser.add_argument("large")
    parser.add_argument("small")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--tandem", default="target/release/tandem")
    args = parser.parse_args()

    def told(*arguments: str) -> list:
        out = subprocess.run([args.tandem, *arguments, "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout
        return [json.loads(line) for line in out.splitlines()]

    rows = [json.loads(line) for line in args.prompts_file.read_text(encoding="utf-8").splitlines()[: args.prompts]]
    places, first, second = 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        lines, prompt, ids = (Path(folder) / name for name in ["lines", "prompt", "ids"])
        chats = [{"messages": row["messages"]} for row in rows if "messages" in row]
        lines.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
        texts = [row["prompt"] for row in rows if "prompt" in row]
        texts += [rendered["text"] for rendered in told("render", args.large, "--lines", str(lines))] if chats else []
        answers = []
        for text in texts:
            prompt.write_text(text, encoding="utf-8")
            answers += told("generate", args.large, "--prompt-file", str(prompt), "--max-tokens", str(args.max_tokens))
        ids.write_text("".join(json.dumps({"ids": answer["prompt_ids"] + answer["ids"]}) + "\n" for answer in answers))
        for answer, seen in zip(answers, told("logits", args.small, "--ids-file", str(ids), "--top", "2")):
            before = len(answer["prompt_ids"]) - 1
            for written, position in zip(answer["ids"], seen["positions"][before:]):
                top = [token for token, _ in position["top"]]
                places, first, second = places + 1, first + (top[0] == written), second + (top[1] == written)
    print(json.dumps({"places": places, "first": round(first / places, 3), "second": round(second / places, 3)}))


if __name__ == "__main__":
    main()
