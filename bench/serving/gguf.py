"""Tokens of a GGUF file: those that end an answer, and one that is a word."""

import struct

#: Texts of such tokens in the families of models that are common.
END_TEXTS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>", "<eos>",
             "</s>")
#: A word, as byte-level vocabularies and SentencePiece's write its space.
WORD_TEXTS = ("\u0120the", "\u2581the")
TOKENS_KEY = "tokenizer.ggml.tokens"
#: Metadata that name a token that ends an answer.
END_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
#: struct's codes of GGUF's plain types.
PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


def entries(path):
    """Its metadata, key by key."""
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} is no GGUF file")
        _version, _tensors, count = struct.unpack("<IQQ", file.read(20))
        for _ in range(count):
            key = text(file).decode()
            (kind,) = struct.unpack("<I", file.read(4))
            yield key, value(file, kind)


def end_tokens(path):
    """Ids of those that end an answer, ascending."""
    found = set()
    for key, entry in entries(path):
        if key in END_KEYS:
            found.add(entry)
        if key == TOKENS_KEY:
            found.update(index for index, token in enumerate(entry) if token.decode(errors="replace") in END_TEXTS)
    return sorted(found)


def word_token(path):
    """Id of a token that is a word with a space before it, so that every one of them is a piece of text."""
    tokens = next((entry for key, entry in entries(path) if key == TOKENS_KEY), [])
    found = [index for index, token in enumerate(tokens) if token.decode(errors="replace") in WORD_TEXTS]
    if not found:
        raise ValueError(f"{path} has none of the tokens {', '.join(WORD_TEXTS)}")
    return found[0]


def text(file):
    (length,) = struct.unpack("<Q", file.read(8))
    return file.read(length)


def value(file, kind):
    if kind == STRING:
        return text(file)
    if kind == ARRAY:
        item, count = struct.unpack("<IQ", file.read(12))
        if item in PLAIN:
            return struct.unpack(f"<{count}{PLAIN[item]}", file.read(count * struct.calcsize(f"<{PLAIN[item]}")))
        return [value(file, item) for _ in range(count)]
    code = f"<{PLAIN[kind]}"
    return struct.unpack(code, file.read(struct.calcsize(code)))[0]
