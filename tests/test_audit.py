"""What ``make audit`` makes of what it hears: a vulnerability fails, a register that is away does not."""

import json
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement

from audit.__main__ import ACCEPTED
from audit.judgement import SKIPPED, judge
from audit.packages import applies, needed_packages

SOUND = {"name": "trio", "version": "1", "vulns": []}
UNKNOWN = {"name": "segno", "skip_reason": "not found"}
FLAWED = {
    "name": "cbor2",
    "version": "2",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3"]}, {"id": "PYSEC-2", "fix_versions": []}],
}


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def test_a_known_vulnerability_fails_and_says_what_to_do() -> None:
    judgement = judge(report(SOUND, FLAWED, UNKNOWN), {})
    assert judgement.exit_code == 1
    assert judgement.lines[0] == "cbor2 2: PYSEC-1, mended in 3"
    assert judgement.lines[1] == "cbor2 2: PYSEC-2, mended in no version yet"
    assert "2 of 3 packages" in judgement.lines[2]
    assert "audit/accepted.toml" in judgement.lines[2]


def test_one_that_is_listed_with_a_reason_does_not_fail_by_whichever_of_its_names() -> None:
    judgement = judge(report(FLAWED), {"CVE-1": "not used here", "PYSEC-2": "nor that"})
    assert judgement.exit_code == 0
    assert judgement.lines[0] == "cbor2 2: PYSEC-1, accepted: not used here"
    assert judge(report(FLAWED), {"CVE-1": "not used here"}).exit_code == 1


def test_a_reason_that_is_not_needed_any_more_is_told() -> None:
    judgement = judge(report(SOUND), {"CVE-9": "not used here"})
    assert judgement.exit_code == 0
    assert judgement.lines[-1] == "accepted.toml lists CVE-9, which is not found any more"


@pytest.mark.parametrize("said", ["", "no json", "[]", "{}", '{"dependencies": []}', report(UNKNOWN, UNKNOWN)])
def test_where_nothing_can_be_looked_up_that_is_told_and_nothing_fails(said: str) -> None:
    judgement = judge(said, {})
    assert judgement.exit_code == 0
    assert judgement.lines[0].startswith(SKIPPED)


def test_what_is_looked_up_is_what_users_get() -> None:
    needed = needed_packages()
    assert {"trio", "aioquic", "cryptography", "pyopenssl", "attrs"} <= needed.keys()
    assert {"pytest", "mypy", "poolnet"}.isdisjoint(needed)
    optional = Requirement('pillow>=11; extra == "media"')
    assert [applies(optional, frozenset(extras)) for extras in ((), ("media",))] == [False, True]
    assert not applies(Requirement('pywin32; sys_platform == "somewhere"'), frozenset())


def test_every_accepted_vulnerability_has_a_reason() -> None:
    accepted = tomllib.loads(ACCEPTED.read_text(encoding="utf-8"))["accepted"]
    assert all(isinstance(reason, str) and len(reason) > 20 for reason in accepted.values())
