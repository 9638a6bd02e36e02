"""Which tests run which lines of the pure layers, and how long they take: measured once, then kept in a file.

The tests of the files that use these layers directly run once under coverage, which notes for each line the tests that
came there. What only runs while modules are imported (declarations, constants) belongs to the tests of the files that
import the module.
"""

import ast
import hashlib
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from coverage import CoverageData

#: The layers whose tests are judged.
LAYERS: Final = ("poolnet/wire", "poolnet/identity", "poolnet/protocol")
#: Tests that use the layers through these do it in this process.
_USED: Final = ("poolnet.wire", "poolnet.identity", "poolnet.protocol", "poolnet.testing", "fuzz")
#: Tests of processes, namespaces and documents run the layers elsewhere, or say nothing about them.
_LEFT_OUT: Final = (
    *("test_cli_", "test_namespaces", "test_docs", "test_testing_doc", "test_lane_in_the_field"),
    *("test_soak", "test_cancelled_"),
)
#: Longer tests are for what machines do together; a mutant that only they notice counts as one that survived.
_MAX_TEST_S: Final = 8.0


@attrs.frozen
class Reach:
    """What runs what.

    Attributes:
        seconds: how long each test took, under coverage.
        lines: for each module, the tests that came to each line.
        importers: for each module, the test files that import it.
    """

    seconds: Mapping[str, float]
    lines: Mapping[str, Mapping[int, frozenset[str]]]
    importers: Mapping[str, frozenset[str]]

    def tests_for(self, path: str, lines: Iterable[int], *, budget_s: float, is_declaration: bool = False) -> list[str]:
        """Return tests that run these lines, the likeliest to notice first, of so many seconds together.

        Those of the files that import the module come first, and then the fastest. A declaration runs once, in whatever
        test comes first, and concerns all of those.
        """
        of_module = self.lines.get(path, {})
        tests: set[str] = set().union(*(of_module.get(line, frozenset()) for line in lines))
        direct = self.importers.get(path, frozenset())
        if is_declaration or not tests:
            tests |= {test for test in self.seconds if _file_of(test) in direct}
        ordered = sorted(tests, key=lambda test: (_file_of(test) not in direct, self.seconds[test], test))
        chosen: list[str] = []
        for test in ordered:
            budget_s -= self.seconds[test]
            if budget_s < 0 and chosen:
                break
            chosen.append(test)
        return chosen


def measure(tree: Path, cache: Path) -> Reach:
    """Return what runs what in a copy of the project; `cache` keeps it until code or tests change."""
    digest = _digest(tree)
    kept = json.loads(cache.read_text()) if cache.exists() else {}
    if kept.get("digest") != digest:
        with tempfile.TemporaryDirectory(prefix="poolnet-mutants-") as directory:
            kept = {"digest": digest, **_measured(tree, Path(directory))}
        cache.parent.mkdir(exist_ok=True)
        cache.write_text(json.dumps(kept))
    return Reach(
        seconds=kept["seconds"],
        lines={
            path: {int(line): frozenset(kept["tests"][number] for number in numbers) for line, numbers in lines.items()}
            for path, lines in kept["lines"].items()
        },
        importers={path: frozenset(files) for path, files in kept["importers"].items()},
    )


def _measured(tree: Path, directory: Path) -> dict[str, Any]:
    files = {str(path.relative_to(tree)): imported_modules(path) for path in sorted(tree.glob("tests/test_*.py"))}
    used = [
        file
        for file, modules in files.items()
        if any(module.startswith(_USED) for module in modules) and not file.removeprefix("tests/").startswith(_LEFT_OUT)
    ]
    seconds, data = _run_under_coverage(tree, used, directory)
    tests = list(seconds)
    numbers = {test: number for number, test in enumerate(tests)}
    lines = {}
    for path in sorted(path for layer in LAYERS for path in tree.glob(f"{layer}/*.py")):
        contexts = data.contexts_by_lineno(str(path))
        lines[str(path.relative_to(tree))] = {
            line: sorted({numbers[test] for name in names if (test := name.rpartition("|")[0]) in numbers})
            for line, names in contexts.items()
        }
    importers = {path: [file for file in used if _module_of(path) in files[file]] for path in lines}
    return {"tests": tests, "seconds": seconds, "lines": lines, "importers": importers}


def _run_under_coverage(tree: Path, files: Iterable[str], directory: Path) -> tuple[dict[str, float], CoverageData]:
    """Run these tests; their report and what is covered go into the `directory`, where they are read from."""
    report, settings = directory / "report.xml", directory / "coveragerc"
    settings.write_text(f"[run]\nsource = {','.join(LAYERS)}\nconcurrency = thread\ndata_file = {directory}/data\n")
    coverage = ("--cov", f"--cov-config={settings}", "--cov-context=test", "--cov-report=")
    options = ("-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={report}")
    command = (sys.executable, "-m", "pytest", *options, *coverage, *files)
    subprocess.run(command, cwd=tree, check=False)  # tests that fail are left out
    data = CoverageData(f"{directory}/data")
    data.read()
    return dict(_passed(report)), data


def _passed(report: Path) -> Iterator[tuple[str, float]]:
    """Yield the tests that passed, in time."""
    for case in ElementTree.parse(report).iter("testcase"):
        seconds = float(case.attrib["time"])
        if len(case) == 0 and seconds <= _MAX_TEST_S:
            file, classname = case.attrib["file"], case.attrib["classname"]
            module = file.removesuffix(".py").replace("/", ".")
            group = classname.removeprefix(module).strip(".").split(".")
            yield "::".join([file, *filter(None, group), case.attrib["name"]]), seconds


def imported_modules(path: Path) -> frozenset[str]:
    """Return the modules that a Python file imports, and those that it imports names of."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{each.name}" for each in node.names)
    return frozenset(found)


def _digest(tree: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted((*tree.glob("poolnet/**/*.py"), *tree.glob("tests/**/*.py"), *tree.glob("fuzz/**/*.py"))):
        digest.update(f"{path.relative_to(tree)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _module_of(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def _file_of(test: str) -> str:
    return test.partition("::")[0]
