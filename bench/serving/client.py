"""A client of OpenAI's streaming interface that costs little: it only notes which bytes came when, and reads them
afterwards."""

import asyncio
import bisect
import dataclasses
import json
import time

#: What Tandem and llama-server tell of an answer besides what OpenAI's interface knows.
NOTES = ("tandem", "timings")


class Exchange(asyncio.Protocol):
    """One request over a connection of its own, which the server closes behind its answer."""

    def __init__(self, request, leave_after_pieces=None):
        self.request = request
        self.leave_after_pieces = leave_after_pieces
        self.done = asyncio.get_running_loop().create_future()
        self.asked = None
        #: (when, bytes), as they came.
        self.pieces = []
        self.ended = None
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport
        self.asked = time.perf_counter()
        transport.write(self.request)

    def data_received(self, data):
        self.pieces.append((time.perf_counter(), data))
        if self.leave_after_pieces is not None and len(self.pieces) >= self.leave_after_pieces:
            self.transport.abort()

    def connection_lost(self, error):
        self.ended = time.perf_counter()
        if not self.done.done():
            self.done.set_result(error)


def encode(body, path="/v1/chat/completions"):
    """The bytes of a request, a chat's unless the path is another's."""
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json",
             "connection: close", f"content-length: {len(content)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


async def start(address, request, leave_after_pieces=None):
    """Sends a request; the exchange goes on by itself, `done` tells its end."""
    loop = asyncio.get_running_loop()
    _, exchange = await loop.create_connection(lambda: Exchange(request, leave_after_pieces), *address)
    return exchange


async def ask(address, request, limit_s, leave_after_pieces=None):
    """Sends a request and waits for the end of its answer, or for `limit_s`, after which it leaves."""
    exchange = await start(address, request, leave_after_pieces)
    try:
        await asyncio.wait_for(asyncio.shield(exchange.done), limit_s)
    except asyncio.TimeoutError:
        exchange.transport.abort()
        await exchange.done
    return exchange


@dataclasses.dataclass
class Answer:
    """What a streamed answer was, and when. Times are those of `time.perf_counter`."""

    status: int | None
    asked: float
    ended: float
    text: str
    #: When each piece of text came.
    times: list
    usage: dict
    #: Why it is not a whole answer; None if it is one.
    failure: str | None
    #: When the stream said that it is done.
    done: float | None = None
    #: What the server adds to the last events under names of its own, by name.
    notes: dict = dataclasses.field(default_factory=dict)

    @property
    def first_token_s(self):
        return self.times[0] - self.asked if self.times else None

    @property
    def gaps_s(self):
        return [after - before for before, after in zip(self.times, self.times[1:])]

    @property
    def tokens(self):
        return self.usage.get("completion_tokens", 0)


def read(exchange):
    """Reads what came."""
    raw = b"".join(data for _, data in exchange.pieces)
    answer = Answer(None, exchange.asked, exchange.ended or time.perf_counter(), "", [], {}, None)
    head, found, _ = raw.partition(b"\r\n\r\n")
    if not found:
        answer.failure = "no answer" if not raw else "broke off in the head"
        return answer
    answer.status = int(head.split(b" ", 2)[1])
    for when, line in lines(exchange.pieces, raw, head):
        if line.startswith(b"data: [DONE]"):
            answer.done = when
        elif line.startswith(b"data: "):
            take(answer, when, json.loads(line[6:]))
    if answer.status != 200:
        answer.failure = f"status {answer.status}: {raw[len(head) + 4:][:200].decode(errors='replace')}"
    elif answer.failure is None and answer.done is None:
        answer.failure = "broke off"
    return answer


def take(answer, when, event):
    """Adds one event of the stream."""
    if event.get("error"):
        answer.failure = f"error event: {json.dumps(event['error'])[:200]}"
    if event.get("usage"):
        answer.usage = event["usage"]
    answer.notes.update((name, event[name]) for name in NOTES if event.get(name))
    for choice in event.get("choices", []):
        text = (choice.get("delta") or {}).get("content") or choice.get("text")
        if text:
            answer.text += text
            answer.times.append(when)


def lines(pieces, raw, head):
    """The body's lines, each with the time at which its last byte came."""
    ends, total = [], 0
    for _, data in pieces:
        total += len(data)
        ends.append(total)
    begin = len(head) + 4
    chunked = b"transfer-encoding: chunked" in head.lower()
    spans = list(chunks(raw, begin)) if chunked else [(begin, len(raw))]
    payload = b"".join(raw[first:last] for first, last in spans)
    #: Where each span begins in the payload.
    starts, total = [], 0
    for first, last in spans:
        starts.append(total)
        total += last - first
    at = 0
    while (end := payload.find(b"\n", at)) >= 0:
        span = bisect.bisect_right(starts, end) - 1
        byte = spans[span][0] + end - starts[span]
        yield pieces[bisect.bisect_right(ends, byte)][0], payload[at:end].rstrip(b"\r")
        at = end + 1


def chunks(raw, at):
    """First and last offset of each chunk's content; what broke off is left out."""
    while (end := raw.find(b"\r\n", at)) >= 0:
        size = int(raw[at:end].split(b";")[0], 16)
        if size == 0 or end + 2 + size > len(raw):
            return
        yield end + 2, end + 2 + size
        at = end + 2 + size + 2
