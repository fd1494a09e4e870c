"""Sends 30 varied requests to Tandem with the official `openai` client and shows, as Markdown, who answered
each, why, how fast, and what it cost against always asking the large model.

    pip install openai
    cargo build --release
    python3 demo/run.py                          # starts `tandem serve` on the default pair
    python3 demo/run.py --upstream               # the large model behind llama.cpp's llama-server
    python3 demo/run.py --url http://localhost:8080/v1      # a server that runs already
"""

import argparse
import json
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

import openai

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent
#: Time for fetching the models at the first start, in seconds.
READY_LIMIT_S = 1800
#: Where a decision's reason says how small's confidence compares.
JUDGEMENT = re.compile(r"(confidence \S+ is [^:]+):")
#: Most signs of a request shown in the table.
SHOWN_SIGNS = 44


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="base URL of a running Tandem, ending in /v1; otherwise one is started")
    parser.add_argument("--tandem", default=REPOSITORY / "target/release/tandem", help="the program")
    parser.add_argument(
        "--upstream",
        nargs="?",
        const="llama-server",
        metavar="URL",
        help="large is this OpenAI-compatible server; without URL, llama-server is started",
    )
    parser.add_argument("--llama-server", default="llama-server", help="the program that --upstream starts")
    parser.add_argument("--large-model", default="qwen2.5-coder-1.5b", help="the model at the upstream")
    parser.add_argument("--requests", type=int, help="only so many")
    parser.add_argument("--max-tokens", type=int, default=160, help="most tokens per answer")
    return parser.parse_args()


class Program:
    """A server in another process; ends with the `with` block."""

    def __init__(self, command, port):
        self.command, self.port = [str(part) for part in command], port

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def wait_for(self, path):
        """Waits until the server answers this path with 200."""
        until = time.monotonic() + READY_LIMIT_S
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                if self.process.poll() is not None:
                    sys.exit(f"{self.command[0]} ended with status {self.process.returncode}")
                time.sleep(0.2)
        sys.exit(f"{self.command[0]} did not become ready")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tandem(options, large):
    port = free_port()
    command = [options.tandem, "serve", "--config", HERE / "tandem.toml", "--listen", f"127.0.0.1:{port}"]
    upstream = ["--large", large, "--large-model", options.large_model] if large else []
    return Program(command + upstream, port)


def llama_server(options):
    """llama.cpp's server on the file that Tandem has fetched."""
    subprocess.run([options.tandem, "pull", options.large_model], check=True, stdout=sys.stderr)
    listed = subprocess.run([options.tandem, "models", "--json"], check=True, capture_output=True)
    models = {model["name"]: model for model in json.loads(listed.stdout)["models"]}
    program = shutil.which(options.llama_server)
    if program is None:
        sys.exit(f"{options.llama_server} is not there; name it with --llama-server")
    port = free_port()
    command = [program, "-m", models[options.large_model]["path"], "--alias", options.large_model, "-c", "8192", "-np", "2"]
    return Program([*command, "--log-disable", "--host", "127.0.0.1", "--port", port], port)


def messages(request):
    text = request["text"]
    if "file" in request:
        text += "\n\n" + (REPOSITORY / request["file"]).read_text()[: request["characters"]]
    system = [{"role": "system", "content": request["system"]}] if "system" in request else []
    return [*system, {"role": "user", "content": text}]


def ask(client, request, max_tokens):
    """The `tandem` object and the usage of the streamed answer."""
    stream = client.chat.completions.create(
        model="auto",
        messages=messages(request),
        temperature=0,
        max_tokens=max_tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"tandem": {"explain": True}},
    )
    for chunk in stream:
        last = chunk
    return last.model_extra["tandem"], last.usage


def speed(attempt):
    """Tokens per second from the first to the last."""
    tokens, decode_ms = attempt["usage"]["completion_tokens"], attempt["timings"]["decode_ms"]
    return 1000 * (tokens - 1) / decode_ms if tokens > 4 and decode_ms > 0 else None


def micro(usd):
    return f"{1e6 * usd:.1f}"


def row(number, request, answer, usage):
    attempt = answer["attempts"][-1]
    per_second = speed(attempt)
    text = request["text"]
    shown = text if len(text) <= SHOWN_SIGNS else text[: SHOWN_SIGNS - 1].rstrip() + "…"
    # Of a judgement, what comes between the raw figures and its outcome: the confidence and the threshold.
    reasons = [decision["reason"] for decision in answer["decisions"]]
    judged = [found[1] for found in map(JUDGEMENT.search, reasons) if found]
    why = (judged or [answer["reason"]])[0]
    cells = [
        number,
        request["kind"],
        shown.replace("|", "\\|"),
        f"`{attempt['role']}`",
        why.replace("|", "\\|"),
        f"{usage.prompt_tokens} → {usage.completion_tokens}",
        f"{per_second:.1f}" if per_second else "–",
        f"{answer['first_token_ms'] / 1000:.2f}" if answer["first_token_ms"] is not None else "–",
        f"{answer['total_ms'] / 1000:.1f}",
        micro(answer["cost_usd"]),
        micro(answer["saved_usd"]),
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


HEAD = """\
| # | kind | request | answered by | why | tokens | tokens/s | first token, s | total, s | cost, µ$ | saved, µ$ |
|--:|------|---------|-------------|-----|-------:|---------:|---------------:|---------:|---------:|----------:|"""


def totals(answers):
    routes = [answer["route"] for answer in answers]
    cost, saved = (sum(answer[key] for answer in answers) for key in ("cost_usd", "saved_usd"))
    always = cost + saved
    share = f" ({100 * saved / always:.0f} %)" if always > 0 else ""
    lines = [
        f"{len(answers)} requests: small answered {routes.count('small')}, "
        f"{routes.count('escalated')} escalated to large.",
        f"Cost {micro(cost)} µ$ instead of {micro(always)} µ$ with large alone: saved {micro(saved)} µ$ in all{share}.",
    ]
    for role in ("small", "large"):
        attempts = [attempt for answer in answers for attempt in answer["attempts"] if attempt["role"] == role]
        speeds = [per_second for per_second in map(speed, attempts) if per_second]
        if speeds:
            lines.append(f"Median speed of {attempts[0]['model']}, the {role} one: {statistics.median(speeds):.1f} tokens/s.")
    overhead = statistics.median(answer["overhead_ms"] for answer in answers)
    lines.append(f"Median time that Tandem added itself: {overhead:.1f} ms.")
    return "\n".join(lines)


def show(url, options):
    requests = json.loads((HERE / "requests.json").read_text())[: options.requests]
    answers = []
    print(HEAD, flush=True)
    with openai.OpenAI(base_url=url, api_key="none", timeout=600, max_retries=0) as client:
        for number, request in enumerate(requests, 1):
            answer, usage = ask(client, request, options.max_tokens)
            print(row(number, request, answer, usage), flush=True)
            answers.append(answer)
    print(f"\n{totals(answers)}")


def serve_and_show(options, large):
    with tandem(options, large) as server:
        server.wait_for("/ready")
        show(f"http://127.0.0.1:{server.port}/v1", options)


def main():
    options = arguments()
    if options.url:
        show(options.url, options)
    elif options.upstream == "llama-server":
        with llama_server(options) as upstream:
            upstream.wait_for("/health")
            serve_and_show(options, f"http://127.0.0.1:{upstream.port}/v1")
    else:
        serve_and_show(options, options.upstream)


if __name__ == "__main__":
    main()
