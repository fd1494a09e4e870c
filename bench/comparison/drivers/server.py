"""Drives a ready llama-server by its own timings, with its prompt cache off and flash attention on. Called by
bench/compare.py with a request's and an answer's file."""

import contextlib
import json
import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

#: Longest wait for the model to load, in seconds.
READY_LIMIT_S = 120
#: Longest wait for an answer, in seconds.
ANSWER_LIMIT_S = 300


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=ANSWER_LIMIT_S) as answer:
        return json.load(answer)


@contextlib.contextmanager
def server(request):
    """A running llama-server; yields its base URL and the seconds it took to load."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = request["prompt_tokens"] + request["generate_tokens"] + 64
    command = [request["options"]["program"], "-m", request["model"], "-t", request["threads"], "-c", context,
               "-np", 1, "-fa", "on", "-b", 512, "-ub", 512, "-ngl", 0, "--no-webui",
               "--host", "127.0.0.1", "--port", port]
    url, start = f"http://127.0.0.1:{port}", time.monotonic()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    try:
        while not ready(url):
            if process.poll() is not None or time.monotonic() - start > READY_LIMIT_S:
                sys.exit("llama-server did not come up")
            time.sleep(0.1)
        yield url, time.monotonic() - start
    finally:
        process.kill()
        process.wait()


def ready(url):
    try:
        urllib.request.urlopen(f"{url}/health", timeout=2).close()
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


def complete(request, url):
    """The server's timings of one completion."""
    prompt = [(i * 7919 + 11) % 32_000 for i in range(request["prompt_tokens"])]
    body = {"prompt": prompt, "n_predict": request["generate_tokens"], "cache_prompt": False, "temperature": 0,
            "ignore_eos": True}
    return post(f"{url}/completion", body)["timings"]


def main():
    request = json.loads(pathlib.Path(sys.argv[1]).read_text())
    with server(request) as (url, load):
        complete(request, url)  # touches every weight
        timings = complete(request, url)
    values = {"load": load, "prefill": timings["prompt_per_second"], "decode": timings["predicted_per_second"]}
    told = subprocess.run([request["options"]["program"], "--version"], capture_output=True, text=True)
    lines = (told.stderr + told.stdout).splitlines()
    facts = {"version": next((line.strip() for line in lines if "version" in line), "llama-server")}
    pathlib.Path(sys.argv[2]).write_text(json.dumps({"facts": facts, "values": values}))


if __name__ == "__main__":
    main()
