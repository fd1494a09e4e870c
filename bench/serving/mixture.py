"""Mixed load for bench/soak.py: clients that ask, converse, repeat themselves, leave and send nonsense."""

import asyncio
import dataclasses
import math
import time

from . import client, prompts

#: Longest wait for one answer, in seconds.
ANSWER_LIMIT_S = 300
#: Shortest and longest prompt, in tokens; each doubling in between is as frequent as any other.
PROMPT_TOKENS_MIN, PROMPT_TOKENS_MAX = 16, 1500
ANSWER_TOKENS_MAX = 128
#: Turns after which a conversation begins anew, at most.
TURNS_MAX = 6
#: Pause of a client that was told to come back later, in seconds.
RETRY_S = 1.0


@dataclasses.dataclass
class Tally:
    """What happened."""

    #: By kind of request.
    sent: dict = dataclasses.field(default_factory=dict)
    tokens: int = 0
    #: Refused for want of a place, which is right.
    refused: int = 0
    #: What should not have happened, the first ones in words.
    wrong: int = 0
    words: list = dataclasses.field(default_factory=list)

    def complain(self, what):
        self.wrong += 1
        if len(self.words) < 10:
            self.words.append(what)


def prompt_tokens(rng):
    return int(2 ** rng.uniform(math.log2(PROMPT_TOKENS_MIN), math.log2(PROMPT_TOKENS_MAX)))


def user(text):
    return {"role": "user", "content": text}


class Person:
    """One client, which does one thing after the other."""

    def __init__(self, server, tally, seed, number):
        self.server, self.tally = server, tally
        self.rng = prompts.generator(seed, "soak", number)
        self.conversation = []
        self.asked = []

    async def live(self, until):
        deeds = [(self.asks, 8), (self.converses, 6), (self.repeats, 2), (self.leaves, 3), (self.leaves_at_once, 1),
                 (self.errs, 2)]
        while time.monotonic() < until:
            deed = self.rng.choices([deed for deed, _ in deeds], [weight for _, weight in deeds])[0]
            self.tally.sent[deed.__name__] = self.tally.sent.get(deed.__name__, 0) + 1
            try:
                await deed()
            except OSError as error:
                self.tally.complain(f"{deed.__name__}: {error}")
                await asyncio.sleep(RETRY_S)

    async def answer(self, messages):
        """The text of the answer; None if there was no place or something went wrong."""
        request = self.server.request(messages, self.rng.randrange(4, ANSWER_TOKENS_MAX))
        answer = client.read(await client.ask(self.server.address, request, ANSWER_LIMIT_S))
        self.tally.tokens += answer.tokens
        if answer.failure is None:
            return answer.text
        if answer.status == 429:
            self.tally.refused += 1
            await asyncio.sleep(RETRY_S)
        else:
            self.tally.complain(answer.failure)
        return None

    async def asks(self):
        self.asked = [user(prompts.message(self.rng, prompt_tokens(self.rng)))]
        await self.answer(self.asked)

    async def repeats(self):
        if self.asked:
            await self.answer(self.asked)

    async def converses(self):
        """One more turn of a conversation."""
        if len(self.conversation) >= 2 * self.rng.randrange(1, TURNS_MAX + 1):
            self.conversation = []
        self.conversation.append(user(prompts.message(self.rng, self.rng.randrange(16, 128))))
        text = await self.answer(self.conversation)
        if text is None:
            self.conversation = []
        else:
            self.conversation.append({"role": "assistant", "content": text})

    async def leaves(self):
        """In mid-stream."""
        request = self.server.request([user(prompts.message(self.rng, prompt_tokens(self.rng)))], ANSWER_TOKENS_MAX)
        await client.ask(self.server.address, request, ANSWER_LIMIT_S, leave_after_pieces=self.rng.randrange(1, 40))

    async def leaves_at_once(self):
        """In the queue, or while the prompt is read."""
        request = self.server.request([user(prompts.message(self.rng, prompt_tokens(self.rng)))], ANSWER_TOKENS_MAX)
        exchange = await client.start(self.server.address, request)
        await asyncio.sleep(self.rng.uniform(0, 0.5))
        exchange.transport.abort()
        await exchange.done

    async def errs(self):
        """A request that must be refused."""
        long = [user(prompts.words(self.rng, 40 * PROMPT_TOKENS_MAX))]
        request, statuses = self.rng.choice([
            (client.encode({"model": "no-such-model", "messages": [user("hi")]}), (404,)),
            (client.encode({"model": self.server.model, "messages": []}), (400,)),
            (client.encode({"model": self.server.model, "messages": [user("hi")], "temperature": -1}), (400,)),
            (client.encode([1, 2, 3]), (400,)),
            (self.server.request(long, 8), (413, 429)),
        ])
        answer = client.read(await client.ask(self.server.address, request, ANSWER_LIMIT_S))
        if answer.status not in statuses:
            self.tally.complain(f"a bad request got {answer.status}: {answer.failure}")
