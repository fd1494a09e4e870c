"""Small changes to functions of Python's standard library: most of the answer stands in the question."""

import ast
import dataclasses
import functools
import pathlib
import sysconfig
import textwrap

from .prompt import chat, shuffled

#: Lines of a function, and characters at most, which keeps it below some 800 tokens.
LINES_MIN, LINES_MAX, CHARACTERS_MAX = 15, 60, 2400
#: Functions of one module.
PER_MODULE_MAX = 2
#: Mentions of a variable that is worth renaming.
MENTIONS_MIN = 3
#: A function of 60 lines does not fit the tokens of a completion.
ANSWER_SCALE = 2
WHOLE = "Give the whole function, nothing else."


@dataclasses.dataclass(frozen=True)
class Function:
    """One of the library's."""

    name: str
    #: Module and name.
    path: str
    source: str
    #: Its most mentioned local variable.
    variable: str
    #: A number that stands in it once; None if there is none.
    number: int | None


@functools.cache
def functions():
    """Suitable ones, of every module a few, in an order of our own."""
    found, taken = [], {}
    modules = sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))
    suitable = [(path.stem, function) for path in modules for function in of_module(path)]
    for module, function in shuffled("edits", suitable):
        taken[module] = taken.get(module, 0) + 1
        if taken[module] <= PER_MODULE_MAX:
            found.append(function)
    return found


def of_module(path):
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and LINES_MIN <= node.end_lineno - node.lineno + 1 <= LINES_MAX:
            text = textwrap.dedent("".join(source.splitlines(keepends=True)[node.lineno - 1:node.end_lineno]))
            variable = local_variable(node)
            if variable and len(text) <= CHARACTERS_MAX:
                where = f"{path.stem}.{node.name}"
                yield Function(node.name, where, text.rstrip() + "\n", variable, lone_number(node))


def local_variable(node):
    """The name that is assigned and mentioned most; None if none is mentioned often or names are declared outer."""
    inner = list(ast.walk(node))
    if any(isinstance(part, (ast.Global, ast.Nonlocal)) for part in inner):
        return None
    mentions = [part.id for part in inner if isinstance(part, ast.Name)]
    assigned = {part.id for part in inner if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    often = [name for name in dict.fromkeys(mentions) if name in assigned and mentions.count(name) >= MENTIONS_MIN]
    return max(often, key=mentions.count, default=None)


def lone_number(node):
    numbers = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and type(part.value) is int]
    return next((number for number in numbers if number > 1 and numbers.count(number) == 1), None)


def renaming(index):
    function = functions()[index]
    wanted = f"Rename the variable `{function.variable}` to `current_{function.variable}` in this function."
    return asked(f"edit/rename/{function.path}", wanted, function)


def changing(index):
    """A copy with a change, in turns of another kind."""
    # From the other end: no function is both renamed in and changed.
    function = functions()[-1 - index]
    number = function.number
    kinds = [
        "Add type hints to the parameters and the result of this function, and change nothing else.",
        "Add one line to this function's docstring that says what it returns (write the docstring if there is none).",
        f"Change the number {number} to {number + 1} in this function." if number is not None
        else f"Print the name of this function, `{function.name}`, as the first thing that it does.",
    ]
    return asked(f"edit/change/{function.path}", kinds[index % len(kinds)], function)


def asked(identity, wanted, function):
    return chat(identity, f"{wanted} {WHOLE}\n\n```python\n{function.source}```", ANSWER_SCALE)
