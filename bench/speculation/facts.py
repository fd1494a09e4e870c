"""Texts that hold records, rendered from tables of Python's standard library, and the wish to have them as JSON."""

import builtins
import encodings.aliases
import html.entities
import http
import unicodedata

from .prompt import chat, drawer

#: Records of a text.
RECORDS = 7
ANSWER_SCALE = 2


def statuses():
    rows = [(status.value, status.phrase, status.description) for status in http.HTTPStatus if status.description]
    return ("code", "phrase", "description"), "A server that answers {0} says “{1}”, which means: {2}.", rows


def entities():
    rows = [(name, code, unicodedata.name(chr(code)).lower()) for name, code in html.entities.name2codepoint.items()]
    return ("entity", "codepoint", "name"), "In HTML, &{0}; is written for code point {1}, the {2}.", rows


def codecs():
    rows = sorted(encodings.aliases.aliases.items())
    return ("alias", "codec"), "Whoever asks for {0} gets the codec {1}.", rows


def letters():
    rows = [(f"U+{code:04X}", unicodedata.name(chr(code)), unicodedata.category(chr(code)))
            for code in range(0x370, 0x530) if unicodedata.name(chr(code), None)]
    return ("codepoint", "name", "category"), "{0} is {1}, of category {2}.", rows


def errors():
    kinds = [kind for _, kind in sorted(vars(builtins).items()) if isinstance(kind, type)
             and issubclass(kind, Exception) and kind.__doc__ and kind.__base__ is not object]
    rows = [(kind.__name__, kind.__base__.__name__, kind.__doc__.strip().splitlines()[0].rstrip(".")) for kind in kinds]
    return ("name", "base", "meaning"), "{0}, a kind of {1}, is raised so: {2}.", rows


SOURCES = (statuses, entities, codecs, letters, errors)


def extracting(index):
    """A text of another source each time."""
    keys, sentence, rows = SOURCES[index % len(SOURCES)]()
    text = " ".join(sentence.format(*row) for row in drawer(f"facts/{index}").sample(rows, RECORDS))
    named = ", ".join(f'"{key}"' for key in keys)
    wish = f"Extract the records of this text as a JSON array of objects with the keys {named}. Give only the JSON."
    return chat(f"edit/json/{index}", f"{wish}\n\n{text}", ANSWER_SCALE)
