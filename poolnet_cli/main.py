"""Where the `poolnet` script begins."""

import gc
import os
import sys


def main() -> None:
    """Run the command line, and exit with its code. Ctrl-C counts from the first moment."""
    _fill_standard_streams()
    try:
        from poolnet_cli.cli import run  # takes half a second, in which Ctrl-C must not end in a traceback

        # A full collection comes when there is a quarter more than after the last: with all that was loaded counted in,
        # too seldom for a `join` that runs for days, and it takes long. Links that ended are cycles, of 70 KiB each.
        gc.freeze()
        gc.collect()  # of nothing, which is what is compared with from now on
        code = run()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _fill_standard_streams() -> None:
    """Put something in the place of standard input, output and error where they are closed.

    Otherwise the next file that is opened gets their number, and what is said is written into it: into the database.
    Standard output stays one that cannot be written, so that whoever wanted a result is told.
    """
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # the lowest number that is free
