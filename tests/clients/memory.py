"""Loads a running Tandem in every way that takes memory, and looks at what it had at most.

Usage: python3 memory.py URL PID BUDGET_BYTES LONG_TOKENS

Several clients at once, with all options of sampling; prompts of about LONG_TOKENS tokens among them;
bodies that are too large. The process's resident memory at its highest (VmHWM) must stay within the
budget, and nothing may fail but with 429 or 413.
"""

import sys
import threading

from wire import Server, run

#: Requests of the crowd, and how many of them run at a time.
REQUESTS, CLIENTS = 24, 8
#: Tokens of most answers.
ANSWER_TOKENS = 24
#: A word and its space: one token for every model here.
WORD = "time "
#: What may come of a request while memory is short.
STATUSES = (200, 413, 429)


def high_water_bytes(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def within(server, pid, budget):
    """The figure the kernel keeps, and the server's own."""
    high = high_water_bytes(pid)
    resident = server.metric("tandem_memory_bytes", part="resident")
    assert server.metric("tandem_memory_bytes", part="budget") == budget
    assert 0 < resident <= high, (resident, high)
    print(f"note high water {high >> 20} MiB of {budget >> 20}")
    assert high <= budget, f"{high} bytes, {high - budget} more than the budget"


def completion(prompt, **fields):
    """A body; not every model has a chat template."""
    return {"prompt": prompt, "model": "small", "temperature": 0, **fields}


def crowd(server):
    """Many short requests at once, each with other options."""
    bodies = [
        completion(
            f"These are {i} words about rivers:",
            max_tokens=ANSWER_TOKENS,
            stream=i % 2 == 0,
            frequency_penalty=0.5 if i % 4 == 0 else 0,
        )
        | ({"temperature": 1, "top_p": 0.9} if i % 5 == 0 else {})
        | ({"logprobs": 5} if i % 3 == 0 else {})
        for i in range(REQUESTS)
    ]
    statuses, lock = [], threading.Lock()

    def client(index):
        for body in bodies[index::CLIENTS]:
            reply = server.post("/v1/completions", body)
            with lock:
                statuses.append(reply.status)

    threads = [threading.Thread(target=client, args=(index,)) for index in range(CLIENTS)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(statuses) == REQUESTS and set(statuses) <= set(STATUSES), statuses
    assert statuses.count(200) >= REQUESTS // 2, statuses


def long_prompts(server, tokens):
    """One prompt of so many tokens after another that shares nothing with it, and short ones beside."""
    short = threading.Thread(target=crowd, args=(server,))
    for first in ("One", "Two"):
        if first == "Two":
            short.start()
        reply = server.post(
            "/v1/completions",
            completion(f"{first} " + WORD * tokens, max_tokens=8),
        )
        assert reply.status == 200, reply
        assert reply.json()["usage"]["prompt_tokens"] >= tokens, reply
    short.join()


def too_much(server):
    """Bodies and answers that memory is not meant for."""
    reply = server.post("/v1/completions", completion("x" * (64 << 20)))
    assert reply.status == 413, reply
    one_word = completion("x" * (100 << 10), max_tokens=4)
    assert server.post("/v1/completions", one_word).status in STATUSES


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    server = Server(sys.argv[1])
    pid, budget, tokens = map(int, sys.argv[2:])
    sys.exit(
        run(
            [
                ("after loading", lambda: within(server, pid, budget)),
                ("a crowd", lambda: crowd(server)),
                ("long prompts", lambda: long_prompts(server, tokens)),
                ("too much", lambda: too_much(server)),
                ("within the budget", lambda: within(server, pid, budget)),
            ]
        )
    )


if __name__ == "__main__":
    main()
