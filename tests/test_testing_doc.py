"""The programs in docs/testing.md run as they stand, and its tables are complete."""

import re
from pathlib import Path

import pytest

from poolnet.testing.scenarios import SCENARIOS

DOCUMENT = (Path(__file__).parent.parent / "docs" / "testing.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_in_the_document_runs(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(PROGRAMS[number], "testing.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().err == ""


def test_every_scenario_has_its_row_in_the_order_of_the_command() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", DOCUMENT, re.MULTILINE)
    assert rows == [(scenario.name, scenario.summary) for scenario in SCENARIOS.values()]


def test_every_file_of_tests_that_is_named_is_there() -> None:
    root = Path(__file__).parent.parent
    named = set(re.findall(r"`(tests/test_\w+\.py)`", DOCUMENT))
    assert named
    assert [name for name in sorted(named) if not (root / name).exists()] == []
