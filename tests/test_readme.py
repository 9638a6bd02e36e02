"""README.md keeps its word: its program runs, and what it says to type can be typed."""

import re
import shlex
from functools import partial
from pathlib import Path

import click
import pytest

import poolnet
from poolnet_cli.cli import cli
from poolnet_cli.feed import Say, parse_typed

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONSOLES = "".join(re.findall(r"```console\n(.*?)```", README, re.DOTALL))
COMMANDS = re.findall(r"^\$ (poolnet .*)$", CONSOLES, re.MULTILINE)
TYPED = re.findall(r"^> (.*)$", CONSOLES, re.MULTILINE)


def test_the_program_runs_and_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "photos.zip").write_bytes(b"a picture" * 1000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(poolnet, "open_node", partial(poolnet.open_node, listen=("127.0.0.1", 0)))
    for _ in range(2):  # whoever tries it tries it again
        exec(compile(program, "README.md", "exec"), {})
        assert capsys.readouterr().out == "Bob: thank you, I have copy.zip\n"
    assert [path.name for path in tmp_path.iterdir()] == ["photos.zip"]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_that_is_shown_is_one_with_such_arguments(line: str):
    _, name, *arguments = shlex.split(line)
    with cli.commands[name].make_context(name, arguments, parent=click.Context(cli)) as context:
        assert context.params


def test_every_command_and_option_that_is_mentioned_exists():
    words = set(re.findall(r"`poolnet ([a-z]+)", README))
    assert words <= set(cli.commands)
    options = {name for command in (cli, *cli.commands.values()) for param in command.params for name in param.opts}
    assert set(re.findall(r"`(--[a-z-]+)", README)) <= options


def test_what_is_typed_into_the_feed_is_understood():
    assert TYPED
    assert not [line for line in TYPED if isinstance(parse_typed(line), Say)]


def test_every_make_target_and_every_file_that_is_mentioned_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z]+)`", README):
        assert f"\n{target}:" in makefile
    for path in re.findall(r"\]\(([^):#]+)", README):
        if not path.startswith("http"):
            assert (ROOT / path).exists(), path
