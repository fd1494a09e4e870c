"""Drives llama.cpp or ik_llama.cpp through llama.h, as their Python packages bind it. Runs in the peer's virtual
environment; called by bench/compare.py with a request's and an answer's file.

Batches of 512 tokens, flash attention on, keys and values in f16, no graphics device; everything else as the
library has it by default, repacking of weights in llama.cpp included.
"""

import ctypes
import importlib
import importlib.metadata
import json
import pathlib
import statistics
import sys
import time

from neighbour import neighbour

BATCH_TOKENS = 512
MEGABYTE = 1e6
#: Flash attention on, in llama.cpp's enumeration.
FLASH_ATTENTION_ENABLED = 1
Size, Sequence, Position, Pointer = ctypes.c_size_t, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p


class LlamaCpp:
    """llama.cpp's interface, as far as the two differ."""

    package, module = "llama-cpp-python", "llama_cpp.llama_cpp"
    #: What llama_state_seq_* take after the sequence.
    state_flags = ()

    def __init__(self):
        self.api = importlib.import_module(self.module)
        self.lib = self.api._lib

    def function(self, name, result, *arguments):
        function = self.lib[name]  # by item: the bindings' own signatures stay as they are
        function.restype, function.argtypes = result, arguments
        return function

    def model_params(self, options):
        params = self.api.llama_model_default_params()
        params.n_gpu_layers = 0
        return params

    def context_params(self, params):
        params.flash_attn_type = FLASH_ATTENTION_ENABLED
        params.kv_unified = True
        params.n_outputs_max = params.n_outputs_max_per_seq = BATCH_TOKENS

    def memory(self, context):
        """What the cache's functions take first, and their prefix."""
        return self.function("llama_get_memory", Pointer, Pointer)(context), "llama_memory"

    def clear(self, context):
        memory, prefix = self.memory(context)
        self.function(f"{prefix}_clear", None, Pointer, ctypes.c_bool)(memory, True)


class IkLlama(LlamaCpp):
    package, module = "ik-llama-cpp-python", "ik_llama_cpp._ctypes_api"
    state_flags = (0,)

    def model_params(self, options):
        params = self.api.llama_model_default_params()
        params.n_gpu_layers = 0
        if options["repack"]:  # as its own -rtr: repacked weights are no longer the file's
            params.repack_tensors, params.use_mmap = True, False
        return params

    def context_params(self, params):
        params.flash_attn = True

    def memory(self, context):
        return context, "llama_kv_cache"

    def clear(self, context):
        self.function("llama_kv_cache_clear", None, Pointer)(context)


class Session:
    """A loaded model and a context."""

    def __init__(self, request, kv_tokens, sequences=1):
        self.library = {"llama_cpp": LlamaCpp, "ik_llama_cpp": IkLlama}[request["options"]["package"]]()
        api = self.api = self.library.api
        api.llama_backend_init()
        self.resident_before = resident()  # Python and its modules
        start = time.perf_counter()
        params = self.library.model_params(request["options"])
        self.model = api.llama_model_load_from_file(request["model"].encode(), params)
        if not self.model:
            sys.exit("the model does not load")
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = kv_tokens, BATCH_TOKENS, BATCH_TOKENS
        params.n_threads = params.n_threads_batch = request["threads"]
        params.n_seq_max = sequences
        self.library.context_params(params)
        self.context = api.llama_init_from_model(self.model, params)
        if not self.context:
            sys.exit(f"no context of {kv_tokens} tokens")
        self.load_seconds = time.perf_counter() - start
        self.vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.batch = api.llama_batch_init(BATCH_TOKENS, 0, 1)
        self.position = 0

    def tokens(self, count):
        """The tokens that `tandem bench` takes."""
        return [(i * 7919 + 11) % self.vocabulary for i in range(count)]

    def forward(self, tokens, logits):
        """Appends tokens to sequence 0. `logits`: "none", "last" or "all"."""
        batch, count = self.batch, len(tokens)
        batch.n_tokens = count
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, self.position + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = logits == "all" or (logits == "last" and i == count - 1)
        code = self.api.llama_decode(self.context, batch)
        if code != 0:
            sys.exit(f"llama_decode gave {code} at position {self.position}")
        self.position += count
        if logits != "none" and not self.api.llama_get_logits_ith(self.context, count - 1):  # waits for them, too
            sys.exit("no logits")

    def restart(self):
        self.library.clear(self.context)
        self.position = 0

    def read(self, tokens):
        """Reads a prompt; returns the seconds it took."""
        start = time.perf_counter()
        for first in range(0, len(tokens), BATCH_TOKENS):
            chunk = tokens[first:first + BATCH_TOKENS]
            self.forward(chunk, "last" if first + BATCH_TOKENS >= len(tokens) else "none")
        return time.perf_counter() - start

    def write(self, count, limit_s=float("inf")):
        """Writes up to `count` tokens, given ones: sampling is not measured. Returns tokens per second."""
        start, written, seconds = time.perf_counter(), 0, 0.0
        for token in self.tokens(count):
            self.forward([token], "all")
            written, seconds = written + 1, time.perf_counter() - start
            if seconds > limit_s:
                break
        return written / seconds

    def deepen(self, context_tokens):
        """Fills sequence 0 up to `context_tokens` from the batch that is in it: copies of its keys and values,
        each moved to its own positions (the keys are rotated again). All cells hold real values, at a fraction of
        the time that reading as many tokens takes.
        """
        if self.position != BATCH_TOKENS or context_tokens % BATCH_TOKENS:
            sys.exit(f"a context to fill is a multiple of {BATCH_TOKENS}")
        flags, function = self.library.state_flags, self.library.function
        more = (ctypes.c_uint32,) * len(flags)
        size = function("llama_state_seq_get_size", Size, Pointer, Sequence, *more)(self.context, 0, *flags)
        state = ctypes.create_string_buffer(size)
        get = function("llama_state_seq_get_data", Size, Pointer, Pointer, Size, Sequence, *more)
        put = function("llama_state_seq_set_data", Size, Pointer, Pointer, Size, Sequence, *more)
        memory, prefix = self.library.memory(self.context)
        span = (Position, Position)
        add = function(f"{prefix}_seq_add", None, Pointer, Sequence, *span, Position)
        copy = function(f"{prefix}_seq_cp", None, Pointer, Sequence, Sequence, *span)
        remove = function(f"{prefix}_seq_rm", ctypes.c_bool, Pointer, Sequence, *span)
        if get(self.context, state, size, 0, *flags) == 0:
            sys.exit("the sequence's state can't be copied")
        for other in range(1, context_tokens // BATCH_TOKENS):
            if put(self.context, state, size, other, *flags) == 0:
                sys.exit("the sequence's state can't be restored")
            add(memory, other, -1, -1, other * BATCH_TOKENS)
            copy(memory, other, 0, -1, -1)
            remove(memory, other, -1, -1)
        last = function(f"{prefix}_seq_pos_max", Position, Pointer, Sequence)(memory, 0)
        if last != context_tokens - 1:
            sys.exit(f"the filled context ends at {last}")
        self.position = context_tokens
        self.forward(self.tokens(1), "all")  # untimed: the moved keys are rotated here

    def facts(self):
        info = self.library.function("llama_print_system_info", ctypes.c_char_p)().decode()
        features = [part.strip() for part in info.split("|") if part.strip().endswith("= 1")]
        return {"version": f"{self.library.package} {importlib.metadata.version(self.library.package)}",
                "features": features}


def resident():
    """This process's resident memory, in bytes."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def short(request):
    prompt, widths = request["prompt_tokens"], sorted({1, *request["widths"]})
    room = prompt + request["generate_tokens"] + request["steps"] * sum(widths)
    session = Session(request, room)
    tokens = session.tokens(prompt)
    session.read(tokens)  # touches every weight
    session.restart()
    values = {"load": session.load_seconds, "prefill": prompt / session.read(tokens)}
    values["decode"] = session.write(request["generate_tokens"])
    seconds = {width: [] for width in widths}
    # Widths alternate, so that a slow moment hits all of them.
    for _ in range(request["steps"]):
        for width, of_width in seconds.items():
            start = time.perf_counter()
            session.forward(tokens[:width], "all")
            of_width.append(time.perf_counter() - start)
    values.update({f"step_{width}": statistics.median(of_width) * 1e3 for width, of_width in seconds.items()})
    return session, values


def long(request):
    prompt, context, values = request["long_prompt_tokens"], request["context_tokens"], {}
    room = max(prompt, context) + request["generate_tokens"] + BATCH_TOKENS
    session = Session(request, room, sequences=-(-context // BATCH_TOKENS))
    session.read(session.tokens(BATCH_TOKENS))
    if "prefill_long" in request["workloads"]:
        session.restart()
        values["prefill_long"] = prompt / session.read(session.tokens(prompt))
    if "decode_long" in request["workloads"]:
        session.restart()
        session.read(session.tokens(BATCH_TOKENS))
        session.deepen(context)
        values["decode_long"] = session.write(request["generate_tokens"])
    return session, values


def memory(request):
    session = Session(request, request["memory_tokens"])
    session.read(session.tokens(request["memory_tokens"] - 16))
    session.write(16)
    return session, {"memory": (resident() - session.resident_before) / MEGABYTE}


def beside(request):
    prompt, count = request["neighbour_prompt_tokens"], request["generate_tokens"]
    session = Session(request, prompt + 2 * count)
    session.read(session.tokens(prompt))
    quiet = session.write(count)
    with neighbour():
        busy = session.write(count, request["neighbour_limit_s"])
    return session, {"neighbour_quiet": quiet, "neighbour_busy": busy, "neighbour_share": busy / quiet}


def main():
    request = json.loads(pathlib.Path(sys.argv[1]).read_text())
    jobs = {"short": short, "long": long, "memory": memory, "neighbour": beside}
    session, values = jobs[request["job"]](request)
    pathlib.Path(sys.argv[2]).write_text(json.dumps({"facts": session.facts(), "values": values}))


if __name__ == "__main__":
    main()
