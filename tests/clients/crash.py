"""Kills a Tandem in the middle of traffic, and looks afterwards for what clients saw finished.

Usage: python3 crash.py load URL PID FILE       kills PID and writes FILE
       python3 crash.py verify URL FILE         against the server started again on the same ledger

What a client saw finished more than a second before the kill must be in the ledger, whole.
"""

import json
import os
import signal
import sys
import threading
import time

from wire import Server, run

CLIENTS = 3
#: How long there is traffic before the kill.
TRAFFIC_S = 8
#: What ended later than this before the kill may be lost.
GRACE_S = 1.0


class Traffic:
    """Clients that ask one thing after another until the server is gone."""

    def __init__(self, server):
        self.server = server
        self.finished = []
        self.lock = threading.Lock()
        self.over = threading.Event()

    def client(self, number):
        question = 0
        while not self.over.is_set():
            question += 1
            try:
                self.ask(f"Client {number} asks: what is {question} + {number}?", streamed=question % 2)
            except Exception:
                # Only the kill may end a request.
                if not self.over.is_set():
                    raise

    def ask(self, text, streamed):
        fields = {"model": "small", "max_tokens": 6}
        if streamed:
            stream = self.server.stream(text, **fields)
            usage = [chunk for chunk in stream][-1]["usage"]
            assert stream.done
            request_id = stream.id
        else:
            answer = self.server.chat(text, **fields)
            request_id, usage = answer["id"], answer["usage"]
        with self.lock:
            self.finished.append({"id": request_id, "usage": usage, "at": time.monotonic()})


def load(server, pid, file):
    traffic = Traffic(server)
    clients = [threading.Thread(target=traffic.client, args=(number,)) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    time.sleep(TRAFFIC_S)
    traffic.over.set()
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    for client in clients:
        client.join(timeout=30)
    due = [row for row in traffic.finished if row["at"] < killed - GRACE_S]
    assert len(due) >= CLIENTS, f"only {len(due)} requests finished; the traffic was too slow to tell anything"
    with open(file, "w") as out:
        json.dump(due, out)
    print(f"note killed with {len(traffic.finished)} requests finished, {len(due)} of them due in the ledger")


def verify(server, file):
    with open(file) as due:
        due = json.load(due)
    missing = []
    for row in due:
        reply = server.get(f"/v1/requests/{row['id']}")
        if reply.status != 200:
            missing.append(row["id"])
            continue
        stored = reply.json()
        usage = stored["attempts"][stored["answered"]]["usage"]
        assert stored["status"] == 200 and usage["completion_tokens"] == row["usage"]["completion_tokens"], stored
    assert not missing, f"{len(missing)} of {len(due)} are lost: {missing[:3]}"
    assert server.chat("Say hi.", model="small", max_tokens=4)["choices"]


def main():
    match sys.argv[1:]:
        case ["load", url, pid, file]:
            checks = [("kill in the middle of traffic", lambda: load(Server(url), int(pid), file))]
        case ["verify", url, file]:
            checks = [("everything due is recorded", lambda: verify(Server(url), file))]
        case _:
            sys.exit(__doc__)
    sys.exit(run(checks))


if __name__ == "__main__":
    main()
