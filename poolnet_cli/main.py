"""Where the `poolnet` script begins."""

import sys


def main() -> None:
    """Run the command line, and exit with its code. Ctrl-C counts from the first moment."""
    try:
        from poolnet_cli.cli import run  # takes half a second, in which Ctrl-C must not end in a traceback

        code = run()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
