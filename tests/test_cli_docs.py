"""docs/cli.md names everything that can be typed."""

from pathlib import Path

import click
import pytest

from poolnet_cli import outcome
from poolnet_cli.cli import cli
from poolnet_cli.commands import COMMANDS
from poolnet_cli.settings import SETTINGS

DOCUMENT = (Path(__file__).parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
GLOBAL = {"--home", "--bind", "--json", "--verbose", "--help", "--version"}
#: Options that several commands share; they have a chapter of their own.
LIMITS = {"--limit-up", "--limit-down", "--downloads", "--cache", "--pictures", "--tcp"}


def section(command: str) -> str:
    """Return what the document says about a command."""
    start = DOCUMENT.index(f"### `poolnet {command}")
    return DOCUMENT[start:].split("\n## ")[0].split("\n### ")[0]


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_is_described_with_its_arguments_and_options(name: str):
    text = section(name)
    for param in cli.commands[name].params:
        if isinstance(param, click.Argument):
            assert (param.metavar or param.human_readable_name).rstrip(".") in text
        elif LIMITS & set(param.opts):
            assert "[limits]" in text.splitlines()[0]
        elif not GLOBAL & set(param.opts):
            assert param.opts[0] in text


def test_the_limits_are_described_with_their_settings():
    chapter = DOCUMENT.split("\n## Limits\n")[1].split("\n## ")[0]
    for name in SETTINGS:
        assert f"| `{name}` |" in chapter
        assert f"`--{name}" in chapter
    assert {f"--{name}" for name in SETTINGS} == LIMITS


def test_the_global_options_are_described_with_their_variables():
    for option in GLOBAL:
        assert f"`{option}" in DOCUMENT
    for param in cli.params:
        if param.envvar is not None:
            assert f"`{param.envvar}`" in DOCUMENT


def test_every_exit_code_is_described():
    for code in (outcome.DONE, outcome.FAILED, outcome.USAGE, outcome.UNREACHABLE, outcome.INTERRUPTED):
        assert f"\n| {code} | " in DOCUMENT


def test_whatever_can_be_typed_can_be_run():
    assert set(cli.commands) | {"contents"} == set(COMMANDS) | {"serve", "demo"}, "contents is files --in"
