"""What to make of a report of pip-audit. Pure.

That a register cannot be reached says nothing about a package, so it is told, and is no failure. A known vulnerability
is one, unless accepted.toml says why it does not matter here.
"""

import json
from collections.abc import Mapping
from typing import Any

import attrs

SKIPPED = "audit skipped:"


@attrs.frozen(kw_only=True)
class Judgement:
    """Lines for people, and an exit code."""

    lines: tuple[str, ...]
    exit_code: int = 0


def skipped(reason: str) -> Judgement:
    """Return the judgement where nothing could be looked up."""
    return Judgement(lines=(f"{SKIPPED} {reason}; nothing is known, good or bad",))


def judge(report: str, accepted: Mapping[str, str]) -> Judgement:
    """Return what a report means.

    Args:
        report: what pip-audit prints with ``--format json``.
        accepted: ids of vulnerabilities that do not matter here, each with the reason.
    """
    packages = _packages(report)
    if packages is None:
        return skipped("pip-audit said nothing that could be read")
    looked_up = [package for package in packages if "skip_reason" not in package]
    if not looked_up:
        return skipped(f"none of {len(packages)} packages could be looked up")
    lines, found, failures = [], set(), 0
    for package in looked_up:
        for vulnerability in package.get("vulns", ()):
            names = {vulnerability["id"], *vulnerability.get("aliases", ())}
            found |= names
            reason = next((accepted[name] for name in sorted(names) if name in accepted), None)
            failures += reason is None
            lines.append(_line(package, vulnerability, reason))
    lines.append(_summary(len(looked_up), len(packages), failures))
    lines += [f"accepted.toml lists {name}, which is not found any more" for name in sorted(accepted.keys() - found)]
    return Judgement(lines=tuple(lines), exit_code=1 if failures else 0)


def _packages(report: str) -> list[dict[str, Any]] | None:
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return None
    return packages if isinstance(packages, list) and packages else None


def _line(package: Mapping[str, Any], vulnerability: Mapping[str, Any], reason: str | None) -> str:
    what = f"{package['name']} {package['version']}: {vulnerability['id']}"
    if reason is not None:
        return f"{what}, accepted: {reason}"
    fixed = ", ".join(vulnerability.get("fix_versions", ())) or "no version yet"
    return f"{what}, mended in {fixed}"


def _summary(looked_up: int, count: int, failures: int) -> str:
    scope = f"{looked_up} packages"
    if looked_up < count:
        scope = f"{looked_up} of {count} packages (the others could not be looked up)"
    if not failures:
        return f"audit of {scope}: no known vulnerability"
    return (
        f"audit of {scope}: {failures} known vulnerabilities; take versions in which they are mended, or say in "
        "audit/accepted.toml why they do not matter here"
    )
