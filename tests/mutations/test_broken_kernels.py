"""Proof that the tests of the CUDA kernels can fail: each entry of the table breaks one thing.

The tests that an entry names must fail on a copy of the kernels that is broken in its way. `make
test` takes every SHARE-th entry, `make broken` all of them. Run the latter after a change of a
kernel; that may also require an update of the TOML files in this folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cuda_on_host import build, session
from mutations import table, tokens
from mutations.table import BROKEN, UNSEEN, Broken

SHARE = 16


@dataclass(frozen=True)
class Outcome:
    returncode: int
    output: str

    @property
    def caught(self) -> bool:
        """A test failed (1), or the process crashed in one."""
        return self.returncode == 1 or self.returncode < 0

    @property
    def first_failure(self) -> str:
        errors = re.findall(r"(?:^E   +|Fatal Python error: )(.*)$", self.output, re.MULTILINE)
        return errors[0] if errors else self.output[-2000:]


def copy_sources(folder: Path, broken: Broken | None) -> Path:
    csrc = folder / (broken.id if broken else "unbroken") / "csrc"
    shutil.copytree(build.ROOT / "csrc", csrc)
    if broken:
        (csrc / "cuda" / broken.file).write_text(broken.text())
    return csrc


def try_out(variant: build.Variant, *tests: str) -> Outcome:
    """Build a variant and run operator tests on it, up to the first failure."""
    environ = {**os.environ, "CUDA_ON_HOST_LIBRARY": str(build.build(variant))}
    for name in ("CI", "CUDA_ON_HOST_SEEDS"):  # one seed, as on a developer's machine
        environ.pop(name, None)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += ["--capture=sys"]  # else a sanitizer's report is lost
    done = subprocess.run(
        [*command, "-k", session.NAME, *(str(build.ROOT / "tests" / test) for test in tests)],
        cwd=build.ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=300,
    )
    return Outcome(done.returncode, done.stdout)


def run_broken(folder: Path, broken: Broken) -> Outcome:
    csrc = copy_sources(folder, broken)
    variant = build.Variant(csrc=csrc, folders=broken.folders, instance=broken.instance)
    return try_out(variant, broken.tests)


def run_unbroken(folder: Path, entries: list[Broken]) -> Outcome:
    """Run all the tests that the copies of some entries must fail, on a copy that is not broken."""
    csrc = copy_sources(folder, None)
    return try_out(build.Variant(csrc=csrc), *sorted({entry.tests for entry in entries}))


Outcomes = dict[Broken | None, "Future[Outcome]"]


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    """The outcomes of the selected entries, several of them tested at a time."""
    if session.sanitized():
        pytest.skip("takes too long with sanitizers")
    folder = tmp_path_factory.mktemp("broken")
    build.build()  # the objects that all copies share
    items = [item for item in request.session.items if item.path == request.path]
    runs = [item for item in items if not item.get_closest_marker("skip")]
    chosen = [i.callspec.params["broken"] for i in runs if "broken" in i.fixturenames]
    with ThreadPoolExecutor(build.JOBS) as pool:
        futures: Outcomes = {e: pool.submit(run_broken, folder, e) for e in chosen}
        # Of a share, the tests of one entry, as the suite runs the others on the same sources.
        entries = (chosen or BROKEN) if request.config.getoption("--broken") else BROKEN[:1]
        if any(item.originalname == "test_unbroken_passes" for item in runs):
            futures[None] = pool.submit(run_unbroken, folder, entries)
        yield futures
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    "broken",
    [
        # Each takes a compilation: every run tests a share of them, --broken all.
        pytest.param(broken, marks=[pytest.mark.broken] if i % SHARE else [])
        for i, broken in enumerate(BROKEN)
    ],
    ids=lambda broken: broken.id,
)
def test_is_caught(broken: Broken, outcomes: Outcomes) -> None:
    outcome = outcomes[broken].result()
    if not outcome.caught:
        pytest.fail(f"{broken.tests} passes on it:\n{outcome.output[-2000:]}", pytrace=False)
    print(outcome.first_failure)


def test_the_table_follows_the_sources() -> None:
    for broken in [*BROKEN, *UNSEEN]:
        assert tokens.texts(broken.text()) != tokens.texts(broken.path.read_text())
        file, _, function = broken.tests.partition("::")
        assert f"def {function}" in (build.ROOT / "tests" / file).read_text()


def test_every_family_has_a_file() -> None:
    assert {path.stem for path in table.HERE.glob("*.toml")} == set(table.FAMILIES)
    assert len({broken.id for broken in BROKEN}) == len(BROKEN)


def test_unbroken_passes(outcomes: Outcomes) -> None:
    outcome = outcomes[None].result()
    assert outcome.returncode == 0, outcome.first_failure


@pytest.mark.parametrize("unseen", UNSEEN, ids=lambda unseen: unseen.id)
def test_sanitizer_catches_what_changes_no_result(unseen: Broken, tmp_path: Path) -> None:
    if not session.sanitized():
        pytest.skip("needs the sanitizers: make sanitize")
    csrc = copy_sources(tmp_path, unseen)
    outcome = try_out(replace(build.SANITIZED, csrc=csrc), unseen.tests)
    assert "heap-buffer-overflow" in outcome.output, outcome.output[-2000:]
