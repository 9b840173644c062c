import ast
from itertools import pairwise
from textwrap import dedent

import pytest

from tools import house_check

FIELDS = [f"field_{index}: int" for index in range(13)]


def found(text: str, *, is_sized: bool = True) -> list[str]:
    return [f"{line}: {sentence}" for line, sentence in house_check.in_file(dedent(text), is_sized=is_sized)]


def class_of(body: list[str], head: str = "") -> str:
    return f'class Wide:\n    """Many fields."""\n{head}\n' + "".join(f"    {line}\n" for line in body)


def attributes(text: str) -> set[str]:
    [node] = ast.parse(dedent(text)).body
    assert isinstance(node, ast.ClassDef)
    return house_check.instance_attributes(node)


@pytest.mark.parametrize("word", ["What", "Whose", "Who", "Whom", "Where", "Which", "When", "Why", "How"])
def test_a_docstring_that_begins_with_a_question_word_is_found(word: str) -> None:
    [finding] = found(f'"""{word} it is."""\n')
    assert finding.startswith(f"1: the docstring begins with `{word}`")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (2, 'def one():\n    """What it does."""\n'),
        (2, 'async def one():\n    """What it does."""\n'),
        (3, 'class One:\n    size: int\n    """How large it is."""\n'),
        (2, 'LIMIT = 4\n"""How many."""\n'),
        (1, '"""\n    Where it is.\n    """\n'),
    ],
)
def test_docstrings_of_functions_classes_and_attributes_count(line: int, text: str) -> None:
    [finding] = found(text)
    assert finding.startswith(f"{line}: the docstring begins with")


@pytest.mark.parametrize("first", ["Whether it is.", "The hows.", "Whatever comes.", "However it is.", "Wherever."])
def test_other_first_words_are_no_question(first: str) -> None:
    assert found(f'"""{first}"""\n') == []


def test_a_long_file_is_found_unless_its_head_gives_a_reason() -> None:
    lines = "\n" * 400
    assert found(lines) == []
    [finding] = found(lines + "x = 1\n")
    assert finding.startswith("1: the file has 401 lines, more than 400")

    assert found("# size: one table\n" + lines) == []
    assert len(found("# size:\n" + lines)) == 1, "a reason has words"
    assert len(found(lines + "# size: too far down\n")) == 1
    assert found(lines + "x = 1\n", is_sized=False) == []


def test_a_wide_class_is_found_unless_its_head_gives_a_reason() -> None:
    [finding] = found(class_of(FIELDS))
    assert finding.startswith("1: class Wide has 13 instance attributes, more than 12")

    assert found(class_of(FIELDS[:12])) == []
    assert found(class_of(FIELDS, head="    # size: the wire has these fields")) == []
    assert len(found(class_of([*FIELDS, "# size: behind the fields"]))) == 1
    assert len(found("# size: of the file\n" + class_of(FIELDS))) == 1
    assert found(class_of(FIELDS), is_sized=False) == []


def test_attributes_are_fields_slots_and_what_init_assigns() -> None:
    assert attributes(
        """
        class One:
            declared: int
            with_default: int = 3
            shared: ClassVar[int] = 4
            constant = 5
            TYPED_CONSTANT: int = 6
            __slots__ = ("slotted", "two")

            def __init__(self, other):
                self.assigned = 1
                self.annotated: int = 2
                self.left, (self.right, local) = other
                self.assigned += 1
                other.foreign = self.only_read

            def later(self):
                self.elsewhere = 1
        """
    ) == {"declared", "with_default", "slotted", "two", "assigned", "annotated", "left", "right"}


def test_a_class_inside_a_function_counts() -> None:
    inner = "".join(f"    {line}\n" for line in class_of(FIELDS).splitlines())
    [finding] = found(f"def make():\n{inner}")
    assert finding.startswith("2: class Wide has 13 instance attributes")


def test_circles_are_found_each_with_the_way_around() -> None:
    assert list(house_check.circles({"a": ["b", "c"], "b": ["c"], "c": []})) == []

    [circle] = house_check.circles({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]})
    assert circle[0] == circle[-1]
    assert sorted(circle[:-1]) == ["a", "b", "c"]
    imports = {"a": "b", "b": "c", "c": "a"}
    assert all(imports[importer] == imported for importer, imported in pairwise(circle))


def test_two_circles_that_share_a_module_are_both_found() -> None:
    both = list(house_check.circles({"a": ["b", "c"], "b": ["a"], "c": ["a"]}))
    assert {frozenset(circle) for circle in both} == {frozenset("ab"), frozenset("ac")}


def test_a_module_that_imports_itself_is_a_circle() -> None:
    assert list(house_check.circles({"a": ["a"]})) == [["a", "a"]]
