"""The mutants are changes that matter, tests meet them, and what is excused still exists."""

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mutants.changes import Mutant, mutants_of, numbers_named_in
from mutants.equivalent import EQUIVALENT
from mutants.reach import LAYERS, Reach, imported_modules

PROJECT = Path(__file__).parent.parent


def changes(source: str, *, limits: frozenset[str] = frozenset()) -> list[str]:
    return [mutant.after for mutant in mutants_of("module.py", textwrap.dedent(source), limits=limits)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a = b < c", ["a = (b <= c)"]),
        ("a = 1 <= b < c", ["a = (1 < b < c)", "a = (1 <= b <= c)", "a = 2 <= b < c"]),
        ("a = b and c", ["a = (b or c)"]),
        ("a = not b", ["a = (b)"]),
        ("a = b + c", ["a = (b - c)"]),
        ("a = MAX_SIZE", ["a = (MAX_SIZE + 1)"]),
        ("a = 1000", ["a = 2000"]),
        ("a = 0.5", ["a = 1.0"]),
        ("a = True", ["a = False"]),
        ("a = b'xy'", ["a = b'x'"]),
        ("a.b = c", ["pass"]),
        ("a(b)", ["pass"]),
        ("a += b", ["a -= b"]),
        ("if a: a = b", ["if (not a): a = b"]),
        ("for a in b: continue", ["for a in (): continue", "for a in b: break"]),
        ("def f(): return a", ["def f(): return None"]),
        ("def f(a=1): return 2", ["def f(a=2): return 2", "def f(a=1): return 3"]),
        ("@frame(1)\nclass A: b: int = 2", ["@frame(2)", "class A: b: int = 3"]),
    ],
)
def test_a_small_fault_is_put_in_wherever_one_matters(source: str, expected: list[str]) -> None:
    assert changes(source, limits=frozenset({"MAX_SIZE"})) == expected


@pytest.mark.parametrize(
    "source",
    [
        "'a docstring'",
        "assert a < 1",
        "raise ValueError(f'{a} of {1 + 1}')",
        "a: dict[int, 'b'] = b",
        "@lru_cache(maxsize=1)\ndef f(): pass",
        "A = NewType('A', int)",
        "a = b(c, strict=True)",
        "import a",
        "__slots__ = ('a', 'b')",
        "Either = One | _Other | c.Third | None",
    ],
)
def test_what_tests_are_not_meant_to_notice_is_left_alone(source: str) -> None:
    assert changes(source) == []


def test_a_mutant_is_put_in_its_place_whatever_stands_before_it() -> None:
    source = 'a = "é𝄞"; b = (\n    c <\n    d\n)\n'
    (_, mutant) = mutants_of("module.py", source)
    assert mutant.source == 'a = "é𝄞"; b = (\n    (c <= d)\n)\n'
    assert mutant.lines == {1, 2}
    assert mutant.is_declaration
    assert "+    (c <= d)" in mutant.diff(source)


def test_what_is_a_limit_is_read_from_the_module_of_limits() -> None:
    assert numbers_named_in("KIB = 1024\nA = 2 * KIB\nSIZES = (1, 2)\nB = A\n") == {"A", "B"}


def test_tests_of_the_module_and_then_the_fastest_come_first_within_the_budget() -> None:
    reach = Reach(
        seconds={"tests/a.py::slow": 3.0, "tests/a.py::fast": 1.0, "tests/b.py::faster": 0.1, "tests/c.py::other": 0.1},
        lines={"m.py": {7: frozenset({"tests/a.py::slow", "tests/a.py::fast", "tests/b.py::faster"})}},
        importers={"m.py": frozenset({"tests/a.py"})},
    )
    assert reach.tests_for("m.py", [7], budget_s=9) == ["tests/a.py::fast", "tests/a.py::slow", "tests/b.py::faster"]
    assert reach.tests_for("m.py", [7], budget_s=2) == ["tests/a.py::fast"]
    assert reach.tests_for("m.py", [7], budget_s=0.5) == ["tests/a.py::fast"], "one at least"
    all_of_it = ["tests/a.py::fast", "tests/a.py::slow", "tests/b.py::faster"]
    assert reach.tests_for("m.py", [7], budget_s=9, is_declaration=True) == all_of_it
    assert reach.tests_for("m.py", [8], budget_s=9) == ["tests/a.py::fast", "tests/a.py::slow"], "no test came there"


def test_what_a_test_file_imports_is_found(tmp_path: Path) -> None:
    path = tmp_path / "test_x.py"
    path.write_text("import a.b\nfrom c import d\n")
    assert imported_modules(path) == {"a.b", "c", "c.d"}


def test_a_mutant_that_is_excused_still_exists_and_has_a_reason() -> None:
    limits = numbers_named_in((PROJECT / "poolnet/limits.py").read_text())
    for path in {each.path for each in EQUIVALENT}:
        found = mutants_of(path, (PROJECT / path).read_text(), limits=limits)
        places = {(mutant.function, mutant.before, mutant.after) for mutant in found}
        excused = [each for each in EQUIVALENT if each.path == path]
        assert [each for each in excused if (each.function, each.before, each.after) not in places] == []
        assert all(len(each.reason) > 10 for each in excused)


def test_every_mutant_of_the_pure_layers_is_a_program() -> None:
    for layer in LAYERS:
        for path in PROJECT.glob(f"{layer}/*.py"):
            for mutant in mutants_of(path.name, path.read_text())[::40]:
                ast.parse(mutant.source)


@pytest.mark.parametrize(
    ("test", "verdict"), [("assert m.f(1)", "SURVIVED"), ("assert m.f(1) and not m.f(0)", "KILLED")]
)
def test_a_mutant_survives_unless_a_test_fails(tmp_path: Path, test: str, verdict: str) -> None:
    """In a process of its own: a trial must not begin in one that has loaded what it changes."""
    (tmp_path / "m.py").write_text("def f(a):\n    return a > 0\n")
    (tmp_path / "test_m.py").write_text(f"import m\n\n\ndef test_it():\n    {test}\n")
    script = f"""
import time
from pathlib import Path
from mutants.changes import mutants_of
from mutants.trial import Trial, run_trials

tree = Path({str(tmp_path)!r})
mutant = mutants_of("m.py", (tree / "m.py").read_text())[1]
trial = Trial(mutant, ["test_m.py::test_it"], 1.0)
run_trials([trial], tree=tree, jobs=1, deadline=time.monotonic() + 60, done=lambda _, v: print(mutant.after, v.name))
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ended.stdout == f"return (a >= 0) {verdict}\n"


def test_two_mutants_of_one_place_are_two() -> None:
    one, other = mutants_of("module.py", "a = b < 1\n")
    assert isinstance(one, Mutant)
    assert one != other
