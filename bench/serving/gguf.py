"""The tokens of a GGUF file that end an answer."""

import struct

#: Texts of such tokens in the families of models that are common.
END_TEXTS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>", "<eos>",
             "</s>")
#: Metadata that name one.
END_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
#: struct's codes of GGUF's plain types.
PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


def end_tokens(path):
    """Their ids, ascending."""
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} is no GGUF file")
        _version, _tensors, entries = struct.unpack("<IQQ", file.read(20))
        found = set()
        for _ in range(entries):
            key = text(file).decode()
            (kind,) = struct.unpack("<I", file.read(4))
            entry = value(file, kind)
            if key in END_KEYS:
                found.add(entry)
            if key == "tokenizer.ggml.tokens":
                found.update(index for index, token in enumerate(entry) if token.decode(errors="replace") in END_TEXTS)
    return sorted(found)


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
