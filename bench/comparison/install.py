"""Installs the peers: a virtual environment each, built from source where the processor matters."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import time
import venv

#: What the builds need besides a compiler; ready wheels, so that nobody builds CMake.
BUILD_TOOLS = ["cmake", "ninja", "scikit-build-core"]
#: Parts of llama.cpp that no measurement uses.
LLAMA_WITHOUT = "-DLLAVA_BUILD=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF " \
                "-DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF"
#: AVX2, FMA, F16C and BMI2, nothing later.
AVX2_ONLY = "-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON " \
            "-DGGML_AVX_VNNI=OFF -DGGML_AVX512=OFF"


@dataclasses.dataclass(frozen=True)
class Package:
    """What an environment holds."""

    requirement: str
    #: CMake's arguments; None for a ready wheel.
    cmake: str | None = None
    #: Files that the build needs and the source package lacks: path and text.
    lacks: tuple = ()


#: Fills in the build's description; its own version asks Git, which a source package has not.
BUILD_INFO = """set(BUILD_NUMBER 0)
set(BUILD_COMMIT source-package)
set(BUILD_COMPILER "${CMAKE_C_COMPILER_ID} ${CMAKE_C_COMPILER_VERSION}")
set(BUILD_TARGET unknown)
configure_file(common/build-info.cpp.in common/build-info.cpp)
"""

#: By environment.
PACKAGES = {
    "llama": Package("llama-cpp-python==0.3.36", f"-DGGML_NATIVE=ON {LLAMA_WITHOUT}"),
    # Its flash attention for f16 caches is built either way; for more cache types it takes far longer.
    "ik": Package("ik-llama-cpp-python==0.1.5", "-DGGML_NATIVE=ON -DGGML_IQK_FA_ALL_QUANTS=OFF",
                  (("vendor/ik_llama.cpp/common/cmake/build-info-gen-cpp.cmake", BUILD_INFO),)),
    "mistralrs": Package("mistralrs==0.9.5"),
    "llama-avx2": Package("llama-cpp-python==0.3.36", f"{AVX2_ONLY} {LLAMA_WITHOUT}"),
}
#: Peers that share another's environment.
SHARED = {"ik-repack": "ik"}


def environment_of(venvs, peer):
    """The folder of the peer's virtual environment."""
    return venvs / SHARED.get(peer, peer)


def python_of(venvs, peer):
    return environment_of(venvs, peer) / "bin/python"


def marker_of(venvs, peer):
    """The file that says what the environment holds; written last."""
    return environment_of(venvs, peer) / "compare.json"


def is_ready(venvs, peer):
    """Whether the environment holds exactly what PACKAGES says."""
    package = PACKAGES[SHARED.get(peer, peer)]
    try:
        return marker_of(venvs, peer).read_text() == marker_text(package)
    except OSError:
        return False


def marker_text(package):
    return json.dumps({"requirement": package.requirement, "cmake": package.cmake})


def setup(venvs, peers, jobs):
    """Installs what is missing. Returns the exit code: 1 if a peer failed; the others are still installed."""
    venvs = venvs.resolve()
    venvs.mkdir(parents=True, exist_ok=True)
    failed = []
    for peer in peers:
        if is_ready(venvs, peer):
            print(f"{peer}: there already")
            continue
        log = venvs / f"{peer}.log"
        print(f"{peer}: {PACKAGES[peer].requirement}, its output in {log} …", flush=True)
        start = time.monotonic()
        try:
            install(venvs, peer, log, jobs or os.cpu_count() or 1)
        except subprocess.CalledProcessError as error:
            failed.append(peer)
            print(f"{peer}: failed ({pathlib.Path(error.cmd[0]).name} gave {error.returncode}); see {log}")
        else:
            print(f"{peer}: ready after {time.monotonic() - start:.0f} s")
    if failed:
        print(f"not installed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def install(venvs, peer, log, jobs):
    package, home = PACKAGES[peer], environment_of(venvs, peer)
    venv.create(home, with_pip=True, symlinks=os.name != "nt", clear=True)  # what is half there goes
    pip = [str(python_of(venvs, peer)), "-m", "pip", "--disable-pip-version-check"]
    with log.open("w") as output:
        def call(arguments, **more):
            arguments = [str(argument) for argument in pip + arguments]
            subprocess.run(arguments, check=True, stdout=output, stderr=subprocess.STDOUT, **more)

        if package.cmake is None:
            call(["install", package.requirement])
        else:
            call(["install", *BUILD_TOOLS])
            environment = dict(os.environ, CMAKE_ARGS=package.cmake, CMAKE_GENERATOR="Ninja",
                               CMAKE_BUILD_PARALLEL_LEVEL=str(jobs),
                               PATH=f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}")
            build = venvs / "build" / environment_of(venvs, peer).name
            source = source_of(package, build, call)
            # The objects outlive a build that was interrupted: the next one goes on from them.
            call(["install", "--verbose", "--no-build-isolation", "--config-settings",
                  f"build-dir={build / 'objects'}", source], env=environment)
    marker_of(venvs, peer).write_text(marker_text(package))


def source_of(package, build, call):
    """The folder of the package's source, below `build`; fetched if it is not there yet."""
    unpacked = build / "source"
    if not unpacked.is_dir():
        name = package.requirement.split("==")[0]
        call(["download", "--no-build-isolation", "--no-deps", "--no-binary", name, "--dest", build,
              package.requirement])
        partial = build / "source.part"
        with tarfile.open(next(build.glob("*.tar.gz"))) as archive:
            archive.extractall(partial, filter="data")
        next(partial.iterdir()).rename(unpacked)
        partial.rmdir()
    for name, text in package.lacks:
        (unpacked / name).parent.mkdir(parents=True, exist_ok=True)
        if not (unpacked / name).exists():
            (unpacked / name).write_text(text)
    return unpacked
