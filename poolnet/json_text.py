"""JSON that somebody else may have written: a file in a home, a line from another process.

`json.loads` has two ways to say no, and one of them, `RecursionError`, is not caught by who expects malformed text: a
few kilobytes of brackets would end the process that reads them.
"""

import json
from typing import Any

from poolnet.errors import WireError


def decode_json_untrusted(content: bytes | str) -> Any:
    """Return the value that `content` holds. What kind of value it is, is for the caller to look at.

    Raises:
        WireError: not JSON, not text in Unicode, a number of thousands of digits, or nested too deep.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as exc:  # of ValueError, UnicodeDecodeError and JSONDecodeError are kinds
        raise WireError("malformed JSON") from exc
