"""Runs last: every CUDA kernel in the sources has been launched by some test of this run."""

import pytest

from cuda_on_host import build


def test_every_cuda_kernel_ran(request: pytest.FixtureRequest) -> None:
    session = request.session
    everything = all(
        any(item.path.name == path.name for item in session.items)
        for path in build.ROOT.joinpath("tests").rglob("test_*.py")
    )
    if not everything:
        pytest.skip("only part of the suite was selected")
    ran = build.launched()
    print("launches by kernel:", ran)
    missing = build.kernels() - set(ran)
    assert not missing, f"no test launched {sorted(missing)}"
    unknown = set(ran) - build.kernels()
    assert not unknown, f"not found in the sources: {sorted(unknown)}"
