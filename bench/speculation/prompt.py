"""What is asked: one prompt, and how prompts are drawn, the same on every machine with the same Python."""

import dataclasses
import random


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One request's text."""

    id: str
    #: `prompt`, which is continued as it is, or `messages` of a chat.
    content: dict
    #: Texts that end the answer.
    stop: tuple = ()
    #: Longest answer, in shares of `--max-tokens`.
    answer_scale: int = 1

    @property
    def path(self):
        return "/v1/chat/completions" if "messages" in self.content else "/v1/completions"


def chat(identity, text, answer_scale=1):
    """A chat of one message."""
    return Prompt(identity, {"messages": [{"role": "user", "content": text}]}, answer_scale=answer_scale)


def drawer(name):
    """Where chance comes from; every set of prompts has its own."""
    return random.Random(f"speculate/{name}")


def shuffled(name, items):
    """In an order that is always the same, so that any stretch of it is as good as another."""
    items = list(items)
    drawer(name).shuffle(items)
    return items
