"""Where there is no CUDA, tests on it are left out, and no others; one is skipped and tells why."""

from __future__ import annotations

import pytest

from support import without_cuda

SUITE = """
import pytest

@pytest.fixture(params=["cpu", "cuda"])
def device(request): return request.param

@pytest.fixture(params=["cpu", "cuda", "cuda_on_host"])
def target(request): return request.param

def test_a(device): pass
def test_b(target): pass
def test_both(device, target): pass

@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_names_of_devices(device): pass

@pytest.mark.parametrize(("n", "target"), [(1, "cuda")])
def test_names_of_targets(n, target): pass
"""


@pytest.mark.parametrize(
    ("why", "args", "passed", "skipped", "others"),
    [
        ("there is none", (), 8, 1, 5),
        ("there is none", ("-k", "test_a"), 1, 1, None),
        ("there is none", ("-k", "names"), 3, 0, None),
        (None, (), 14, 0, None),
    ],
)
def test_left_out(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    why: str | None,
    args: tuple[str, ...],
    passed: int,
    skipped: int,
    others: int | None,
) -> None:
    monkeypatch.setattr(without_cuda, "why_no_cuda", lambda: why)
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_inprocess("-rs", "-p", without_cuda.__name__, *args)
    result.assert_outcomes(passed=passed, skipped=skipped)
    more = f", and so are {others} others" if others else ""
    if skipped:
        result.stdout.fnmatch_lines([f"SKIPPED*: a test on CUDA: {why}{more}"])
