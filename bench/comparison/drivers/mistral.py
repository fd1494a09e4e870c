"""Drives mistral.rs through its Python package, by its own report of use: prefill and decode only, because it takes
text and offers no single steps. Runs in the peer's virtual environment; called by bench/compare.py with a
request's and an answer's file.

The prompt is text of about as many tokens; the rates are per token of the report. bench/compare.py limits the
threads by RAYON_NUM_THREADS and CANDLE_NUM_THREADS.
"""

import importlib.metadata
import json
import pathlib
import sys
import time

from mistralrs import CompletionRequest, Runner, Which

#: Of the first prompt, untimed: short, because the ready wheel reads some formats at a dozen tokens a second.
WARM_UP_TOKENS = 16
#: Of which a prompt is made: each is one token for the tokenizers compared.
WORDS = " the a to of in and is for on with as by at from it that this be or an".split(" ")[1:]


def ask(runner, prompt_tokens, generate_tokens):
    """One completion; returns its use."""
    # Every word differs from its place's word in the prompt before: no prefix to be reused.
    shift = ask.count = getattr(ask, "count", 0) + 1
    words = [WORDS[(i * i + shift * (i + 1)) % len(WORDS)] for i in range(prompt_tokens)]
    request = CompletionRequest(prompt=" ".join(words), model="default", max_tokens=generate_tokens, temperature=0.0,
                                ignore_eos=True)
    return runner.send_completion_request(request).usage


def main():
    request = json.loads(pathlib.Path(sys.argv[1]).read_text())
    model = pathlib.Path(request["model"])
    start = time.perf_counter()
    which = Which.GGUF(quantized_model_id=str(model.parent), quantized_filename=model.name)
    runner = Runner(which=which, prefix_cache_n=0, max_seqs=1)
    load = time.perf_counter() - start
    ask(runner, WARM_UP_TOKENS, 1)  # touches every weight
    use = ask(runner, request["prompt_tokens"], request["generate_tokens"])
    values = {"load": load, "prefill": use.avg_prompt_tok_per_sec, "decode": use.avg_compl_tok_per_sec}
    facts = {"version": f"mistralrs {importlib.metadata.version('mistralrs')}",
             "prompt_tokens": use.prompt_tokens, "completion_tokens": use.completion_tokens}
    pathlib.Path(sys.argv[2]).write_text(json.dumps({"facts": facts, "values": values}))


if __name__ == "__main__":
    main()
