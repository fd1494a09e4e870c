# Runs before a program that a model wrote: sets its limits, takes the network away, runs it from program.py, and
# says the word it was given if that came to its end.
import resource, sys

word, memory_bytes, seconds, file_bytes, processes = sys.argv[1], *map(int, sys.argv[2:6])
for name, limit in [
    ("RLIMIT_AS", memory_bytes),
    ("RLIMIT_CPU", seconds),
    ("RLIMIT_FSIZE", file_bytes),
    ("RLIMIT_NPROC", processes),
    ("RLIMIT_CORE", 0),
]:
    try:
        resource.setrlimit(getattr(resource, name), (limit, limit))
    except (AttributeError, ValueError, OSError) as error:
        # Not every system has or grants each of them; memory and time must be limited.
        if name in ("RLIMIT_AS", "RLIMIT_CPU") and sys.platform.startswith("linux"):
            sys.exit(f"{name}: {error}")
del sys.argv[1:]


def refused(*_, **__):
    raise PermissionError("there is no network here")


def prepare():
    try:
        import _socket, socket
    except ImportError:
        return
    for module in (socket, _socket):
        for name in ("socket", "create_connection", "create_server", "socketpair", "getaddrinfo"):
            if hasattr(module, name):
                setattr(module, name, refused)


def run():
    with open("program.py", encoding="utf-8") as file:
        source = file.read()
    # Not __main__: what a script does for itself alone is not asked for.
    exec(compile(source, "program.py", "exec"), {"__name__": "program"})


prepare()
say = sys.stdout.write
run()
say("\n" + word + "\n")
sys.stdout.flush()
