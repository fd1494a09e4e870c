"""Drives `tandem bench`. Called by bench/compare.py with a request's and an answer's file."""

import json
import pathlib
import subprocess
import sys

from neighbour import neighbour

MEGABYTE = 1e6


def bench(request, **flags):
    """One run of `tandem bench`; flags by name."""
    command = [request["options"]["program"], "bench", request["model"], "--threads", str(request["threads"]),
               "--json", "--repeat", "1"]
    for name, value in flags.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    run = subprocess.run(command, stdout=subprocess.PIPE)
    if run.returncode != 0:
        sys.exit(run.returncode)
    return json.loads(run.stdout)


def short(request):
    widths = sorted({1, *request["widths"]})
    report = bench(request, prompt_tokens=request["prompt_tokens"], generate_tokens=request["generate_tokens"],
                   verify=",".join(map(str, widths)))
    values = {
        "load": report["load_seconds"],
        "prefill": report["prompt"]["tokens_per_second"],
        "decode": report["decode"]["tokens_per_second"],
        "int8_peak_fraction": report["prompt"]["int8_peak_fraction"],
        "bandwidth_fraction": report["decode"]["bandwidth_fraction"],
    }
    values.update({f"step_{step['tokens']}": step["milliseconds"] for step in report["verify"]})
    return report, values


def long(request):
    prompt, flags = request["prompt_tokens"], {}
    if "prefill_long" in request["workloads"]:
        prompt = request["long_prompt_tokens"]
    if "decode_long" in request["workloads"]:
        flags["context_tokens"] = max(request["context_tokens"], prompt)
    report = bench(request, prompt_tokens=prompt, generate_tokens=request["generate_tokens"], verify=1, **flags)
    values = {"prefill_long": report["prompt"]["tokens_per_second"],
              "decode_long": report["decode"]["tokens_per_second"]}
    return report, {name: values[name] for name in request["workloads"]}


def memory(request):
    # 8 written and 8 verified, as `tandem bench` does at least.
    report = bench(request, prompt_tokens=request["memory_tokens"] - 16, generate_tokens=8, verify=1)
    return report, {"memory": report["rss_bytes"] / MEGABYTE}


def beside(request):
    flags = dict(prompt_tokens=request["neighbour_prompt_tokens"], generate_tokens=request["generate_tokens"], verify=1)
    quiet = bench(request, **flags)
    with neighbour():
        busy = bench(request, **flags)
    rates = [report["decode"]["tokens_per_second"] for report in (quiet, busy)]
    return quiet, {"neighbour_quiet": rates[0], "neighbour_busy": rates[1], "neighbour_share": rates[1] / rates[0]}


def main():
    request = json.loads(pathlib.Path(sys.argv[1]).read_text())
    jobs = {"short": short, "long": long, "memory": memory, "neighbour": beside}
    report, values = jobs[request["job"]](request)
    version = subprocess.run([request["options"]["program"], "--version"], capture_output=True, text=True)
    facts = {"version": version.stdout.strip(), "isa": report["isa"], "machine": report["machine"]}
    pathlib.Path(sys.argv[2]).write_text(json.dumps({"facts": facts, "values": values}))


if __name__ == "__main__":
    main()
