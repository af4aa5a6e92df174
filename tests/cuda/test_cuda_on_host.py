"""The CUDA emulator itself, and the form of kernels that lets it run them."""

import re
import subprocess

from cuda_on_host import build, session

TORCH = re.compile(r"^#include <(ATen|c10|torch)/", re.MULTILINE)


def test_selftest() -> None:
    """The emulator computes what a GPU would, and faults where that would hang or give garbage."""
    done = subprocess.run(
        [str(build.selftest(session.sanitized()))],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=build.without_preload(),
        timeout=300,
    )
    print(done.stdout)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert done.returncode == 0, failed or done.stdout[-2000:]


def test_kernels_are_free_of_torch() -> None:
    """Kernels come before a file's first torch header, and compile without torch."""
    csrc = build.ROOT / "csrc"
    kernels = ""
    for path in sorted((csrc / "cuda").rglob("*.cu*")):
        text = path.read_text()
        first = TORCH.search(text)
        head, rest = (text[: first.start()], text[first.start() :]) if first else (text, "")
        assert "__global__" not in rest, f"{path.name}: a kernel comes after torch headers"
        if path.suffix == ".cuh" and not first:  # the whole file, and once for all who include it
            kernels += f'#include "{path.relative_to(csrc)}"\n'
        elif "__global__" in head:
            kernels += f'#line 1 "{path.name}"\n{head}\n'
    done = subprocess.run(
        [*build.compiler_without_torch(), "-fsyntax-only", "-x", "c++", "-"],
        input=kernels,
        stderr=subprocess.PIPE,
        text=True,
        env=build.without_preload(),
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_small_policy_has_the_constants_of_the_shipped_one() -> None:
    """So that a constant that is added, or removed, is so in both."""
    shipped = build.policy(build.ROOT / "csrc")
    small = build.policy(build.SMALL)
    assert small.keys() == shipped.keys()
    families = {name.split("::")[0] for name in shipped if "::" in name}
    kinds = ("Blocks", "Channels", "Elementwise", "Nm", "Topk")
    assert families == {f"{kind}Policy" for kind in kinds}
    for name in ("TopkPolicy::kSampleSigmas", "TopkPolicy::kCandidateRoom"):
        assert small[name] == shipped[name], f"{name} is no size, so the tests take it as shipped"
