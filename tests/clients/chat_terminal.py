"""Talks to `tandem chat` in a pseudo-terminal: an answer streams and says who gave it, Ctrl-C stops an answer and
leaves the program running, twice in a row it ends it.

    python3 tests/clients/chat_terminal.py target/release/tandem qwen2.5-coder-0.5b
"""

import os
import pty
import select
import sys
import time

#: Longest wait for anything, in seconds.
LIMIT_S = 60


class Terminal:
    def __init__(self, command):
        self.text = ""
        #: How much of it was looked at already.
        self.seen = 0
        self.process, self.screen = pty.fork()
        if self.process == 0:
            os.execv(command[0], command)

    def send(self, text):
        os.write(self.screen, text.encode())

    def read(self, seconds):
        """What appears within some seconds; None once the program has left."""
        until, seen = time.monotonic() + seconds, ""
        while (left := until - time.monotonic()) > 0:
            if select.select([self.screen], [], [], left)[0]:
                try:
                    piece = os.read(self.screen, 4096).decode(errors="replace")
                except OSError:
                    piece = ""
                if not piece:
                    return None
                seen += piece
                self.text += piece
        return seen

    def expect(self, words, what):
        """Waits until the words appear after those waited for before."""
        until = time.monotonic() + LIMIT_S
        while (at := self.text.find(words, self.seen)) < 0:
            if time.monotonic() > until or self.read(0.2) is None:
                sys.exit(f"FAIL {what}: no {words!r} in {self.text[self.seen:]!r}")
        self.seen = at + len(words)
        print(f"ok {what}")


def main():
    program, model = sys.argv[1:]
    terminal = Terminal([program, "chat", "--model", model])
    terminal.send("What is the capital of France? Answer in one word.\r")
    terminal.expect("Paris", "an answer streams")
    terminal.expect("tokens at", "it says who answered and how fast")
    terminal.send("Write a very long story about a lighthouse.\r")
    terminal.expect("lighthouse.", "the question is echoed")
    terminal.expect("the ", "a long answer begins")
    terminal.send("\x03")
    terminal.read(1.5)
    silent = terminal.read(2)
    if silent is None or len(silent) > 200:
        sys.exit(f"FAIL Ctrl-C stops the answer: {silent!r}")
    print("ok Ctrl-C stops the answer")
    terminal.send("What is the capital of Italy? Answer in one word.\r")
    terminal.expect("Rome", "the conversation goes on")
    terminal.expect("tokens at", "it says so again")
    terminal.send("\x03")
    terminal.read(0.3)
    terminal.send("\x03")
    until = time.monotonic() + LIMIT_S
    while terminal.read(0.2) is not None:
        if time.monotonic() > until:
            sys.exit("FAIL Ctrl-C twice leaves")
    print("ok Ctrl-C twice leaves")


if __name__ == "__main__":
    main()
