"""The choice of a compiler whose exceptions do not end the process."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")

#: Compiles another source, which aborts as an exception would that nobody can catch.
ABORTS = """#!/bin/bash
cat > "${@: -1}" <<< '#include <cstdlib>
extern "C" int caught() { std::abort(); }'
exec c++ "$@"
"""


@pytest.fixture
def compilers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return import_module("compilers")


@pytest.fixture
def aborts(tmp_path: Path) -> str:
    compiler = tmp_path / "aborting-c++"
    compiler.write_text(ABORTS)
    compiler.chmod(0o755)
    return str(compiler)


def test_a_good_one_is_kept(compilers: ModuleType) -> None:
    assert compilers.that_throw({"CXX": "c++"}) == {}


def test_another_is_taken(
    compilers: ModuleType, aborts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not compilers.throws(aborts)
    monkeypatch.setattr(compilers, "OF_THE_SYSTEM", {"CXX": "c++", "CC": "cc"})
    assert compilers.that_throw({"CXX": aborts}) == {"CXX": "c++", "CC": "cc"}


def test_there_is_no_other(
    compilers: ModuleType, aborts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilers, "OF_THE_SYSTEM", {"CXX": "a-compiler-that-is-missing"})
    assert compilers.that_throw({"CXX": aborts}) == {}
