"""docs/security.md names the test that shows each of its promises: they are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ATTACKS = TEXT.split("## Attacks, and what holds against them")[1].split("\n## ")[0]
ROWS = [line.strip("|").split("|") for line in ATTACKS.splitlines() if line.startswith("| ") and "---" not in line]


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row[0].strip() != "attack"], ids=lambda row: row[0].strip()[:40]
)
def test_every_attack_has_what_holds_and_tests_that_are_there(row: list[str]) -> None:
    attack, holds, shown = (cell.strip() for cell in row)
    assert attack
    assert holds
    tests = re.findall(r"`(test_\w+\.py)`", shown)
    assert tests or "poolnet.testing" in shown
    assert [name for name in tests if not (ROOT / "tests" / name).exists()] == []


@pytest.mark.parametrize("path", ["docs/security.md", "SECURITY.md"])
def test_links_lead_somewhere(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert ((ROOT / path).parent / target).exists(), target


def test_nobody_is_asked_to_write_to_an_address_that_nobody_reads() -> None:
    assert "@" not in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
