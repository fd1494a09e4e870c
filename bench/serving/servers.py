"""The servers that are measured: how each is started, and what the system says of its process."""

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time
import typing

from comparison.rounds import UNWANTED, Failed

from . import client, gguf

#: Longest wait for a model to load, in seconds.
READY_LIMIT_S = 180
#: An address at which nobody is: the role large has to be filled, but is never asked.
NOBODY = "http://127.0.0.1:9/v1"
#: Tandem's variables that say where things lie; the others would change what is measured.
WANTED = ("TANDEM_HOME", "TANDEM_CACHE_")


@dataclasses.dataclass(frozen=True)
class Load:
    """What a server has to be made for."""

    model: pathlib.Path
    threads: int
    #: Requests that are answered at once.
    slots: int
    #: Tokens of prompt and answer of each.
    slot_tokens: int
    #: Whether a server may keep what it read for later requests.
    reuse: bool = False


@dataclasses.dataclass
class Server:
    """A running one."""

    process: subprocess.Popen
    address: tuple
    #: The model's name in requests.
    model: str
    #: Fields that keep it from ending an answer early.
    endless: dict
    #: Gives fields that make an answer the same word over and over: one piece of text a token, each for a step of its
    #: own. Not every model has such a token, and few scenarios need one.
    wordy: typing.Callable[[], dict]
    #: What answers 200 once the model is loaded.
    ready_path: str

    def status(self, field):
        """Bytes of a line of /proc/PID/status; None where there is no such thing."""
        try:
            lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            return None
        values = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
        return int(values[0]) * 1024 if values else None

    def cpu_s(self):
        """Processor time used so far, all threads."""
        try:
            stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return None
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def request(self, messages, tokens, wordy=False):
        """Bytes of a greedy streaming request of a chat."""
        body = {"model": self.model, "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True,
                "stream_options": {"include_usage": True}, **self.endless, **(self.wordy() if wordy else {})}
        return client.encode(body)

    def get(self, path):
        """Status and body; None for the status of a server that does not answer."""
        connection = http.client.HTTPConnection(*self.address, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return None, b""
        finally:
            connection.close()

    def alive(self):
        return self.process.poll() is None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command, environment, folder, make):
    """A server's process, ready; `make` gives what stands for it."""
    log = folder / "log"
    kept = {name: value for name, value in os.environ.items()
            if name.startswith(WANTED) or not name.startswith((*UNWANTED, "TANDEM_"))}
    with log.open("wb") as output:
        process = subprocess.Popen([str(part) for part in command], env=kept | environment, stdout=output,
                                   stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        server = make(process)
        until = time.monotonic() + READY_LIMIT_S
        while server.get(server.ready_path)[0] != 200:
            if not server.alive() or time.monotonic() > until:
                said = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
                raise Failed(f"did not come up: {said[0][:300]}")
            time.sleep(0.05)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def local(model, load):
    """Lines of the configuration of a role that is a file."""
    return [f"model = {json.dumps(str(model.resolve()))}", f"context_tokens = {load.slot_tokens}",
            f"sequences = {load.slots}"]


class Tandem:
    """`tandem serve` with one local model, in the role small, which answers everything."""

    name, title = "tandem", "Tandem"
    #: The model's name in requests.
    role = "small"

    def __init__(self, program, memory=None):
        self.program, self.memory = program.resolve(), memory

    def version(self):
        return told(self.program, "tandem")

    def roles(self, load):
        """Lines of the configuration file that say who answers. Text in quotes is JSON's, which is TOML's too."""
        return [
            "[small]", *local(load.model, load),
            "[large]", f"url = {json.dumps(NOBODY)}", 'model = "nobody"',
            "[policy]", 'kind = "small"',
        ]

    def settings(self, load, port, ledger):
        """The configuration file."""
        memory = [f"memory = {json.dumps(self.memory)}"] if self.memory else []
        lines = [
            "[server]", f'listen = "127.0.0.1:{port}"', f"threads = {load.threads}", *memory,
            f"concurrent_max = {load.slots}",
            *self.roles(load),
            "[ledger]", f"path = {json.dumps(str(ledger))}",
        ]
        return "\n".join(lines) + "\n"

    @contextlib.contextmanager
    def start(self, load):
        bias = {str(token): -100 for token in gguf.end_tokens(load.model)}

        def wordy():
            return {"logit_bias": bias | word_bias(load.model), "tandem": {"speculative": False}}

        with tempfile.TemporaryDirectory(prefix="serve-") as folder:
            folder, port = pathlib.Path(folder), free_port()
            settings = folder / "tandem.toml"
            settings.write_text(self.settings(load, port, folder / "ledger.db"))
            command = [self.program, "serve", "--config", settings]
            with running(command, {"TANDEM_LOG": "warn"}, folder, lambda process: Server(
                    process, ("127.0.0.1", port), self.role, {"logit_bias": bias}, wordy, "/ready")) as server:
                yield server


class LlamaServer:
    """llama-server as it serves best on a processor: a slot for every client, flash attention. Its threads wait
    asleep, or by spinning, which is its default."""

    #: Arguments of a kind of its own.
    more = ()

    def __init__(self, program, waiting):
        self.program, self.waiting = program, waiting
        self.name = {"asleep": "llama-server", "spinning": "llama-server-spinning"}[waiting]
        self.title = {"asleep": "llama-server", "spinning": "llama-server, spinning"}[waiting]

    def version(self):
        return told(self.program, "version")

    @contextlib.contextmanager
    def start(self, load):
        reuse = ["--cache-prompt"] if load.reuse else ["--no-cache-prompt", "--cache-ram", 0]
        with tempfile.TemporaryDirectory(prefix="serve-") as folder:
            port = free_port()
            command = [self.program, "-m", load.model.resolve(), "-t", load.threads, "-np", load.slots,
                       "-c", load.slots * load.slot_tokens, "-fa", "on", "-ngl", 0, "--no-webui",
                       "--host", "127.0.0.1", "--port", port, *reuse, *self.more]
            environment = {}
            if self.waiting == "asleep":
                command += ["--poll", 0]
                environment = {"OMP_WAIT_POLICY": "passive"}
            with running(command, environment, pathlib.Path(folder), lambda process: Server(
                    process, ("127.0.0.1", port), "any", {"ignore_eos": True},
                    lambda: {"logit_bias": word_bias(load.model)}, "/health")) as server:
                yield server


def word_bias(model):
    return {str(gguf.word_token(model)): 100}


def told(program, word):
    """The line of `--version` with this word."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True)
    lines = (said.stderr + said.stdout).splitlines()
    return next((line.strip() for line in lines if word in line), pathlib.Path(program).name)
