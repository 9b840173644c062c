"""Checks of the house, part of `make lint`: no import circle, plain docstrings, sizes with a reason.

The functions that find something take text, trees and names; only `main` reads files.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import grimp

ROOT = Path(__file__).parents[1]
PACKAGES = ("hypervisor_schemas", "hypervisor_producers", "hypervisor_consumers", "hypervisor_telemetry", "tools")
SOURCES = (Path("schemas"), Path("producers"), Path("consumers"), Path())
SIZED_FOLDERS = ("schemas", "producers", "consumers", "hypervisor_telemetry", "tools", "bench")
READ_FOLDERS = (*SIZED_FOLDERS, "observability", "tests")

MAX_LINES = 400
MAX_ATTRIBUTES = 12
HEAD_LINES = 30
"""The lines of a file in which its `# size:` comment may stand."""

QUESTION = re.compile(r"\s*(What|Whose|Whom?|Where|Which|When|Why|How)\b")
FILE_REASON = re.compile(r"# size: \S")
CLASS_REASON = re.compile(r"\s+# size: \S")


class Finding(NamedTuple):
    """One broken rule: a line, and a sentence that says what to do."""

    line: int
    sentence: str


def question_docstrings(tree: ast.Module) -> Iterator[Finding]:
    """Find docstrings of modules, classes, functions and attributes that begin with a question word."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))) if word := QUESTION.match(text):
                yield Finding(
                    node.lineno, f"the docstring begins with `{word[1]}`: begin with what the thing is or does."
                )


def long_file(text: str) -> Iterator[Finding]:
    """Find a file that is over the limit of lines and gives no reason at its head."""
    lines = text.splitlines()
    if len(lines) > MAX_LINES and not any(map(FILE_REASON.match, lines[:HEAD_LINES])):
        yield Finding(
            1,
            f"the file has {len(lines)} lines, more than {MAX_LINES}: split it by responsibility, or give the "
            f"reason as `# size: ...` in its first {HEAD_LINES} lines.",
        )


def wide_classes(text: str, tree: ast.Module) -> Iterator[Finding]:
    """Find classes that are over the limit of instance attributes and give no reason at their head."""
    lines = text.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef) or len(attributes := instance_attributes(node)) <= MAX_ATTRIBUTES:
            continue
        if not any(map(CLASS_REASON.match, lines[node.lineno : _head_end(node)])):
            yield Finding(
                node.lineno,
                f"class {node.name} has {len(attributes)} instance attributes, more than {MAX_ATTRIBUTES}: split "
                "it by responsibility, or give the reason as `# size: ...` between its docstring and its body.",
            )


def instance_attributes(node: ast.ClassDef) -> set[str]:
    """Collect the attributes of a class's instances: declared fields, slots, and those that `__init__` assigns."""
    found: set[str] = set()
    for statement in node.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                if not name.isupper() and "ClassVar" not in ast.unparse(annotation):
                    found.add(name)
            case ast.Assign(targets=[ast.Name(id="__slots__")], value=slots):
                found |= {str(each.value) for each in ast.walk(slots) if isinstance(each, ast.Constant)}
            case ast.FunctionDef(name="__init__" | "__post_init__"):
                found |= set(_set_on_self(statement))
            case _:
                pass
    return found


def circles(imports: Mapping[str, Iterable[str]]) -> Iterator[list[str]]:
    """Find circles of imports: each a list of modules of which one imports the next; the last is the first."""
    left = {module: list(imported) for module, imported in imports.items()}
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            circle: list[str] = error.args[1][::-1]
            yield circle
            left[circle[0]].remove(circle[1])
        else:
            return


def in_file(text: str, *, is_sized: bool) -> list[Finding]:
    """Apply the rules of one file; the limits of size only where they hold."""
    tree = ast.parse(text)
    found = list(question_docstrings(tree))
    if is_sized:
        found += [*long_file(text), *wide_classes(text, tree)]
    return sorted(found)


def _head_end(node: ast.ClassDef) -> int:
    """Return the line of a class's first statement behind its docstring, or of its end."""
    after = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return after[0].lineno if after else node.end_lineno or node.lineno


def _set_on_self(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


def _report_files() -> Iterator[str]:
    for folder in READ_FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, sentence in in_file(path.read_text("utf-8"), is_sized=folder in SIZED_FOLDERS):
                yield f"{path.relative_to(ROOT)}:{line}: {sentence}"


def _report_circles() -> Iterator[str]:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    modules = sorted(graph.modules)
    for circle in circles({module: sorted(graph.find_modules_directly_imported_by(module)) for module in modules}):
        importer, imported = next(pairwise(circle))
        [detail, *_] = graph.get_import_details(importer=importer, imported=imported)
        yield (
            f"{_source(importer)}:{detail['line_number']}: {' -> '.join(circle)} is a circle of imports: "
            "move what both need into a module that imports neither."
        )


def _source(module: str) -> Path:
    """Return a module's file, relative to the repository."""
    inside = Path(*module.split("."))
    tried = [folder / path for folder in SOURCES for path in (inside.with_suffix(".py"), inside / "__init__.py")]
    return next(path for path in tried if (ROOT / path).exists())


def main() -> int:
    """Print what breaks a rule, one line each; the exit status is 1 if anything does."""
    found = [*_report_circles(), *_report_files()]
    print("\n".join(found) or f"The house is in order: {', '.join(READ_FOLDERS)}.")  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
