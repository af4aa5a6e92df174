"""A run of the whole suite fails unless it launched every kernel; a run of a part says nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cuda_on_host import build, every_kernel

Run = Callable[..., pytest.RunResult]
ERROR = "*ERROR launched*"


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a suite of two files in which the given kernels are launched, of two in the sources."""
    tests = pytester.mkdir("tests")
    (tests / "test_one.py").write_text("def test_a(): pass\ndef test_b(): pass\n")
    (tests / "test_two.py").write_text("def test_c(): pass\n")
    monkeypatch.setattr(build, "ROOT", pytester.path)
    monkeypatch.setattr(build, "kernels", lambda: {"add_kernel", "mul_kernel"})

    def run(*args: str, launched: tuple[str, ...]) -> pytest.RunResult:
        monkeypatch.setattr(build, "launched", lambda: dict.fromkeys(launched, 1))
        return pytester.runpytest_inprocess("-p", every_kernel.__name__, *args)

    return run


@pytest.mark.parametrize("args", [(), ("tests",), ("tests/test_one.py", "tests/test_two.py")])
def test_passes_where_every_kernel_was_launched(run: Run, args: tuple[str, ...]) -> None:
    result = run(*args, launched=("add_kernel", "mul_kernel"))
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line(ERROR)
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize("args", [(), ("tests",), ("tests/test_one.py", "tests/test_two.py")])
def test_fails_where_a_kernel_was_not_launched(run: Run, args: tuple[str, ...]) -> None:
    result = run(*args, launched=("add_kernel",))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ERROR launched by no test: mul_kernel"])
    result.assert_outcomes(passed=3)


def test_a_file_without_its_package_is_no_missing_part(run: Run, pytester: pytest.Pytester) -> None:
    code = "import pytest\npytest.importorskip('a_package_that_is_missing')\ndef test_d(): pass\n"
    (pytester.path / "tests" / "test_three.py").write_text(code)
    result = run(launched=("add_kernel",))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ERROR launched by no test: mul_kernel"])


def test_fails_where_nothing_was_launched(run: Run) -> None:
    result = run(launched=())
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ERROR launched by no test: add_kernel, mul_kernel"])


def test_fails_where_a_kernel_is_not_in_the_sources(run: Run) -> None:
    result = run(launched=("add_kernel", "mul_kernel", "div_kernel"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ERROR launched, but not found in csrc/cuda: div_kernel"])


@pytest.mark.parametrize(
    "args",
    [
        ("tests/test_one.py",),
        ("tests/test_one.py::test_a", "tests/test_one.py::test_b", "tests/test_two.py"),
        ("-k", "not test_a"),
        ("--deselect", "tests/test_one.py::test_a"),
        ("--ignore", "tests/test_two.py"),
        ("--collect-only",),
    ],
)
def test_a_part_of_the_suite_says_nothing(run: Run, args: tuple[str, ...]) -> None:
    result = run(*args, launched=())
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line(ERROR)


@pytest.mark.parametrize(
    ("code", "args", "status"),
    [
        ("def test_d(): assert 0", ("-x",), pytest.ExitCode.TESTS_FAILED),
        ("import pytest\ndef test_d(): pytest.exit('')", (), pytest.ExitCode.INTERRUPTED),
        ("not Python", (), pytest.ExitCode.INTERRUPTED),
        ("not Python", ("--continue-on-collection-errors",), pytest.ExitCode.TESTS_FAILED),
    ],
)
def test_a_run_that_did_not_end_says_nothing(
    run: Run, pytester: pytest.Pytester, code: str, args: tuple[str, ...], status: pytest.ExitCode
) -> None:
    (pytester.path / "tests" / "test_first.py").write_text(code)
    result = run(*args, launched=())
    assert result.ret == status
    result.stdout.no_fnmatch_line(ERROR)


def test_says_so_beside_tests_that_failed(run: Run, pytester: pytest.Pytester) -> None:
    (pytester.path / "tests" / "test_first.py").write_text("def test_d(): assert 0")
    result = run(launched=("add_kernel",))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ERROR launched by no test: mul_kernel"])


@pytest.mark.parametrize(
    ("launched", "args", "error"),
    [
        ({"gw0": ["add_kernel"], "gw1": ["mul_kernel"]}, (), None),
        ({"gw0": ["add_kernel"], "gw1": []}, (), "ERROR launched by no test: mul_kernel"),
        ({"gw0": [], "gw1": []}, ("-k", "not test_a"), None),
    ],
)
def test_workers_of_xdist_launch_them_together(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    launched: dict[str, list[str]],
    args: tuple[str, ...],
    error: str | None,
) -> None:
    pytest.importorskip("xdist")
    monkeypatch.setenv("PYTHONPATH", str(build.ROOT / "tests"))
    pytester.makeconftest(
        f"""
        import os
        from pathlib import Path
        from cuda_on_host import build
        build.ROOT = Path({str(pytester.path)!r})
        build.kernels = lambda: {{"add_kernel", "mul_kernel"}}
        names = {launched}.get(os.environ.get("PYTEST_XDIST_WORKER"), [])
        build.launched = lambda: dict.fromkeys(names, 1)
        """
    )
    tests = pytester.mkdir("tests")
    (tests / "test_one.py").write_text("def test_a(): pass\ndef test_b(): pass\n")
    (tests / "test_two.py").write_text("import pytest\npytest.importorskip('missing_here')\n")
    result = pytester.runpytest_subprocess("-n", "2", "-p", every_kernel.__name__, *args)
    assert result.ret == (pytest.ExitCode.OK if error is None else pytest.ExitCode.TESTS_FAILED)
    if error is None:
        result.stdout.no_fnmatch_line(ERROR)
    else:
        result.stdout.fnmatch_lines([error])
