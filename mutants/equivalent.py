"""Mutants that no test can notice, each with the reason. They are not tried and do not count.

A mutant belongs here only if the program does the same with it as without. A behaviour that nobody has tested yet does
not.
"""

from typing import Final

import attrs


@attrs.frozen
class Equivalent:
    """A change to a line of a module, within a function or class, and why it changes nothing."""

    path: str
    function: str
    before: str
    after: str
    reason: str


_EVALUATION: Final = "poolnet/identity/evaluation.py"
_MEMBERSHIP: Final = "poolnet/identity/membership.py"
_CERTIFICATE: Final = "poolnet/identity/certificate.py"
_FOLDER_LIST: Final = "poolnet/wire/folder_list.py"
_NEVER_COUNTED: Final = "a branch is asked for room before anything of it is counted, and then it has all of it"
_CRITICAL: Final = "whether a verifier that does not know the extension goes on; ours knows it"

EQUIVALENT: Final = (
    Equivalent(
        "poolnet/wire/schema.py",
        "short_text.decode",
        'if type(item) is not str or not 1 <= len(item.encode("utf-8", "replace")) <= max_bytes:',
        "if type(item) is not str or not 1 <= len(item.encode(\"utf-8\", 'replac')) <= max_bytes:",
        "a text that was decoded from UTF-8 has nothing to replace",
    ),
    Equivalent(
        "poolnet/wire/schema.py", "", "_MAX_U64 = 2**64 - 1", "_MAX_U64 = 3**64 - 1", "CBOR has no larger integers"
    ),
    Equivalent(
        "poolnet/wire/schema.py", "", "_MAX_U64 = 2**64 - 1", "_MAX_U64 = 2**65 - 1", "CBOR has no larger integers"
    ),
    Equivalent(
        "poolnet/wire/schema.py", "", "_MAX_U64 = 2**64 - 1", "_MAX_U64 = (2 ** 64 + 1)", "CBOR has no larger integers"
    ),
    Equivalent(
        _FOLDER_LIST,
        "_raw_entries",
        "while len(data) < len(_MAGIC) and (more := next(blocks, None)) is not None:",
        "while (len(data) <= len(_MAGIC)) and (more := next(blocks, None)) is not None:",
        "one block more is taken before the entries instead of with them",
    ),
    Equivalent(
        _FOLDER_LIST,
        "_end_of_entry",
        "if offset + _HEADER.size > len(data):",
        "if (offset + _HEADER.size >= len(data)):",
        "an entry ends after its path, and one without a path is refused either way",
    ),
    Equivalent(
        "poolnet/identity/statements.py",
        "decode_statement_untrusted",
        "content = decode_fields_untrusted(_Content, "
        "decode_cbor_untrusted(envelope.signed, max_size=MAX_STATEMENT_SIZE))",
        "content = decode_fields_untrusted(_Content, "
        "decode_cbor_untrusted(envelope.signed, max_size=(MAX_STATEMENT_SIZE + 1)))",
        "what is inside is smaller than the envelope, which was measured before",
    ),
    Equivalent(
        _CERTIFICATE,
        "pinning_anchor_pem",
        ".add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)",
        ".add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=False)",
        _CRITICAL,
    ),
    Equivalent(
        _CERTIFICATE,
        "link_certificate",
        ".add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)",
        ".add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)",
        _CRITICAL,
    ),
    Equivalent(
        "poolnet/identity/standing.py",
        "Standing.smallest_rank_from",
        "before = [rank for place, rank in counted if place <= key]",
        "before = [rank for place, rank in counted if (place < key)]",
        "a place is that of one statement, and one that changed a rank is not asked about any more",
    ),
    Equivalent(
        "poolnet/identity/standing.py",
        "Standing.smallest_rank_from",
        "after = [rank for place, rank in counted if place > key]",
        "after = [rank for place, rank in counted if (place >= key)]",
        "a place is that of one statement, and one that changed a rank is not asked about any more",
    ),
    Equivalent(
        _MEMBERSHIP,
        "Membership._make_room",
        "if not self._is_full(reserved=2):",
        "if not self._is_full(reserved=3):",
        "a short way out; the long way says the same",
    ),
    Equivalent(
        _MEMBERSHIP,
        "Membership.state",
        "self._admins = frozenset(member.device_id for member in members if member.role == Role.ADMIN)",
        "pass",
        "a short way out; whoever is not in it is looked up",
    ),
    Equivalent(
        _EVALUATION,
        "_Reading._has_room",
        "or self._branch_sizes.get(branch, 0) < MAX_BRANCH_STATEMENTS",
        "or self._branch_sizes.get(branch, 1) < MAX_BRANCH_STATEMENTS",
        _NEVER_COUNTED,
    ),
    Equivalent(
        "poolnet/protocol/swarm_pace.py",
        "Pace._sample",
        "is_fall = bool(self.rate) and sample < _FALL * (self.rate or 0.0)",
        "is_fall = bool(self.rate) and sample < _FALL * (self.rate or 1.0)",
        "without a rate the first half says no already",
    ),
    Equivalent(
        "poolnet/identity/standing.py",
        "statements_below",
        "seen.add(ground)",
        "pass",
        "grounds rest on earlier ones: they are only looked at more than once",
    ),
    Equivalent(
        "poolnet/protocol/probing.py",
        "_Session.best",
        "return min(answered, key=lambda candidate: candidate.rtt_s or 0.0, default=None)",
        "return min(answered, key=lambda candidate: candidate.rtt_s or 1.0, default=None)",
        "a round trip takes some time",
    ),
    Equivalent(
        _EVALUATION,
        "_Reading._take_join",
        "return invitation is not None or senior is not None",
        "return (invitation is not None and senior is not None)",
        "a Join that has admitted its author is asked again, and its author is in already",
    ),
    Equivalent(
        _EVALUATION, "_Reading.new_sanctions", "return []", "return None", "who asks looks only whether there are any"
    ),
    Equivalent(
        "poolnet/protocol/swarm_pace.py",
        "Pace.__init__",
        "self._mark = 0.0",
        "pass",
        "it is set with the first promise, and read only when something that was promised comes",
    ),
    Equivalent(
        "poolnet/protocol/key_set.py",
        "MemoryKeys._place",
        "return (index, place) if place < len(self._blocks[index].keys) else (index + 1, 0)",
        "return (index, place) if (place <= len(self._blocks[index].keys)) else (index + 1, 0)",
        "the end of a block and the beginning of the next are the same place to all who ask",
    ),
    Equivalent(
        "poolnet/protocol/dial_attempts.py",
        "DialAttempts",
        "_failed_dials: int = attrs.field(default=0, init=False)",
        "_failed_dials: int = attrs.field(default=0, init=True)",
        "one more argument that nobody gives",
    ),
    Equivalent(
        "poolnet/protocol/swarm_source.py",
        "Source.__init__",
        "self.relay_is_fetching = False # it fetches everything for itself",
        "pass # it fetches everything for itself",
        "it is looked at only once the hops are set, and both are set together",
    ),
    Equivalent(
        _FOLDER_LIST,
        "_end_of_entry",
        "return len(data) + 1",
        "return len(data) + 2",
        "who asks looks only whether it is beyond the data",
    ),
    Equivalent(
        "poolnet/protocol/swarm_aims.py",
        "Aims._make",
        "cursor = 0 if size_bytes is None else self._rng.randrange(shape_of(size_bytes).piece_count + 1)",
        "cursor = 0 if size_bytes is None else self._rng.randrange(shape_of(size_bytes).piece_count + 2)",
        "a place behind the last piece is the first one",
    ),
)
