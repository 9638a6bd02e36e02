"""What came of a soak: gathered while it runs, judged and printed at its end."""

from statistics import median
from typing import Final

import attrs

from benchmarks.soak.figures import Growth, Sample, growth, lived_through, memory_growth, what_grew
from benchmarks.soak.program import Row

_MIB: Final = 2**20


@attrs.define
class Findings:
    """What came of a soak.

    Attributes:
        wrong: a sentence for everything that is not as it should be.
        lives: samples of every process that was started, by name and number.
        objects: the blocks that a member's Python objects took, with the second, by name and number.
        spoken: when messages and offers were acknowledged, in seconds from the start, to count those of a time.
        times: when it began, when its plan was over, when all agreed.
        states: what the members said of themselves at the end.
        quiet: a sample of each process before anything happened, and after everything had.
    """

    wrong: list[str] = attrs.Factory(list)
    lives: dict[str, list[Sample]] = attrs.Factory(dict)
    objects: dict[str, list[tuple[float, int]]] = attrs.Factory(dict)
    spoken: list[float] = attrs.Factory(list)
    times: dict[str, float] = attrs.Factory(dict)
    states: dict[str, Row] = attrs.Factory(dict)
    quiet: list[dict[str, Sample]] = attrs.Factory(list)


def judge(findings: Findings) -> Findings:
    """Add what grew in the second half."""
    until_s = findings.times["over"]
    from_s = until_s / 2
    messages = sum(from_s <= at_s <= until_s for at_s in findings.spoken)
    findings.wrong += what_grew(findings.lives, findings.objects, from_s=from_s, until_s=until_s, messages=messages)
    return findings


def print_figures(findings: Findings) -> None:
    """Print what each process that lived through the second half had then, and how it grew."""
    until_s = findings.times["over"]
    from_s = until_s / 2
    print("second half    memory MiB: first   last   grew | PSS MiB | descriptors: first last  grew | objects: grew")
    for name, samples in sorted(findings.lives.items()):
        if not lived_through([sample.at_s for sample in samples], from_s=from_s, until_s=until_s):
            continue
        inside = [sample for sample in samples if from_s <= sample.at_s <= until_s]
        memory = memory_growth(samples, from_s=from_s, until_s=until_s)
        descriptors = growth([(sample.at_s, sample.descriptors) for sample in inside])
        objects = growth([point for point in findings.objects.get(name, ()) if from_s <= point[0] <= until_s])
        pss = median(sample.pss_bytes for sample in inside) / _MIB
        print(
            f"{name:<14}{inside[0].anonymous_bytes / _MIB:18.1f} {inside[-1].anonymous_bytes / _MIB:6.1f} "
            f"{_signed(memory, _MIB)} | {pss:7.1f} | {inside[0].descriptors:18} {inside[-1].descriptors:4} "
            f"{_signed(descriptors)} | {_signed(objects)}"
        )


def _signed(grown: Growth | None, unit: int = 1) -> str:
    return f"{'-' if grown is None else f'{grown.total / unit:+.1f}':>7}"
