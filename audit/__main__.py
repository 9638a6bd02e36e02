"""``python -m audit``: look up whether packages that poolnet needs have known vulnerabilities, with pip-audit.

The exit code is 1 if one has that is not listed in accepted.toml. Without a network, or where the register cannot be
reached, that is told, and the exit code is 0: whoever works on a train can still run ``make test``. What is needed to
work on poolnet, and is not installed with it, is not looked up.
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from audit.judgement import Judgement, judge, skipped
from audit.packages import needed_packages

ACCEPTED = Path(__file__).with_name("accepted.toml")
#: Seconds for one look-up, and for all.
_LOOK_UP_S = 10
_ALL_S = 120


def audit() -> Judgement:
    """Look all packages up; return what that means."""
    accepted = tomllib.loads(ACCEPTED.read_text(encoding="utf-8"))["accepted"]
    with tempfile.TemporaryDirectory() as directory:
        listed = Path(directory) / "packages.txt"
        listed.write_text("".join(f"{name}=={version}\n" for name, version in needed_packages().items()))
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(listed), "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--progress-spinner", "off", "--timeout", str(_LOOK_UP_S)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_ALL_S, check=False)
        except subprocess.TimeoutExpired:
            return skipped(f"the look-up took more than {_ALL_S} s")
    if not done.stdout.strip():
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        return skipped(f"no register could be reached ({last[0]})")
    return judge(done.stdout, accepted)


if __name__ == "__main__":
    judgement = audit()
    print("\n".join(judgement.lines))
    sys.exit(judgement.exit_code)
