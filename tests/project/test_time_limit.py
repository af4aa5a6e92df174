"""A test that hangs must fail, and not hold up the tests after it."""

from pathlib import Path

import pytest

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"

# As torch's threads can: a C function that keeps the GIL.
TESTS = """
import ctypes

def test_hangs_with_the_gil():
    ctypes.PyDLL(None).pause()

def test_after_it():
    pass
"""


def test_a_test_that_hangs_fails_and_says_where(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(TESTS)
    where = ["-c", str(PYPROJECT), "--rootdir", str(pytester.path), str(pytester.path)]
    how = ["-n", "1", "-o", "faulthandler_timeout=1"]
    done = pytester.runpytest_subprocess(*where, *how, timeout=60)
    done.assert_outcomes(failed=1, passed=1)
    done.stdout.fnmatch_lines(["worker 'gw0' crashed while running '*::test_hangs_with_the_gil'"])
    done.stderr.fnmatch_lines(["Timeout (0:00:01)!", "*in test_hangs_with_the_gil"])
