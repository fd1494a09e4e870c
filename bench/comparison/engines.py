"""What is compared: how each engine's process is started, and whose figures it stands against."""

import dataclasses
import pathlib
import sys

from . import install

DRIVERS = pathlib.Path(__file__).resolve().parent / "drivers"

#: The variables that limit mistral.rs's threads.
MISTRAL_THREADS = ("RAYON_NUM_THREADS", "CANDLE_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every engine is asked for; goes to the drivers as JSON."""

    threads: int
    #: Tokens of the prompt of `prefill`, and in the cache where `decode` and `step` begin.
    prompt_tokens: int = 512
    #: Tokens that `decode` and `decode_long` write.
    generate_tokens: int = 64
    #: Tokens of the steps that `step` compares.
    widths: tuple = (1, 2, 4, 8)
    #: Steps of each width; the median counts.
    steps: int = 8
    long_prompt_tokens: int = 8192
    context_tokens: int = 16384
    #: Context whose resident memory `memory` tells.
    memory_tokens: int = 4096
    #: Tokens of the prompt of `neighbour`, whose decode is what counts.
    neighbour_prompt_tokens: int = 32
    #: Longest decode beside a neighbour, in seconds: some engines nearly stand still.
    neighbour_limit_s: int = 10


@dataclasses.dataclass(frozen=True)
class Engine:
    """One column of the table."""

    name: str
    title: str
    driver: str
    python: pathlib.Path
    #: The driver's own options.
    options: dict = dataclasses.field(default_factory=dict)
    #: Added to the process's environment.
    environment: dict = dataclasses.field(default_factory=dict)
    #: Whether what it needs is installed.
    ready: bool = True
    #: Jobs that the driver can do.
    jobs: tuple = ("short", "long", "memory", "neighbour")
    #: Whether its threads are OpenMP's, which wait by spinning unless told otherwise.
    openmp: bool = False
    #: The name of Tandem's engine that it is compared with; None for Tandem itself.
    against: str | None = "tandem"

    @property
    def script(self):
        return DRIVERS / self.driver


def tandem(options, name, title, environment):
    return Engine(name, title, "tandem.py", pathlib.Path(sys.executable), {"program": str(options.tandem.resolve())},
                  environment, against=None)


def llama(venvs, name, title, **more):
    """An engine whose interface is llama.h."""
    return Engine(name, title, "llama.py", install.python_of(venvs, name), openmp=True,
                  ready=install.is_ready(venvs, name), **more)


def library_path(environment, folder):
    """For a package whose libraries do not find each other by themselves."""
    found = sorted(environment.glob(f"lib/python*/site-packages/{folder}"))
    return {"LD_LIBRARY_PATH": str(found[0])} if found else {}


def peer_engine(options, name):
    venvs = options.venvs.resolve()
    if name == "llama":
        return llama(venvs, name, "llama.cpp", options={"package": "llama_cpp"})
    if name == "llama-avx2":
        return llama(venvs, name, "llama.cpp, AVX2", options={"package": "llama_cpp"}, against="tandem-avx2")
    if name in ("ik", "ik-repack"):
        repacks = name == "ik-repack"
        title = "ik_llama.cpp, repacked" if repacks else "ik_llama.cpp"
        return llama(venvs, name, title, options={"package": "ik_llama_cpp", "repack": repacks},
                     environment=library_path(install.environment_of(venvs, name), "ik_llama_cpp/lib"))
    threads = {variable: str(options.threads) for variable in MISTRAL_THREADS}
    return Engine(name, "mistral.rs", "mistral.py", install.python_of(venvs, name), environment=threads,
                  ready=install.is_ready(venvs, name), jobs=("short",))


def engines_for(options):
    """All columns: each peer, and before them whose figures they stand against."""
    peers = [peer_engine(options, name) for name in options.peers]
    if options.llama_server:
        peers.append(Engine("llama-server", "llama-server", "server.py", pathlib.Path(sys.executable),
                            {"program": options.llama_server}, jobs=("short",)))
    ours = [tandem(options, "tandem", "Tandem", {}),
            tandem(options, "tandem-avx2", "Tandem, AVX2", {"TANDEM_ISA": "avx2"})]
    return [engine for engine in ours if any(peer.against == engine.name for peer in peers)] + peers
