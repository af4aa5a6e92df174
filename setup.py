"""Builds fastprune._C: always with the CPU kernels, where possible with the CUDA kernels too."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from setuptools import Extension, setup
from torch.utils import cpp_extension

CSRC = Path("csrc")


def default_archs() -> str:
    """Without a GPU to ask and without TORCH_CUDA_ARCH_LIST: Ampere, Hopper, Blackwell and PTX."""
    version = tuple(int(part) for part in (torch.version.cuda or "0.0").split(".")[:2])
    return "8.0;9.0;10.0+PTX" if version >= (12, 8) else "8.0;9.0+PTX"


def decide_cuda() -> tuple[bool, str]:
    """Whether to build the CUDA kernels, and why."""
    forced = os.environ.get("FORCE_CUDA")
    if forced is not None and forced not in ("0", "1"):
        raise SystemExit(f"FORCE_CUDA is 1 or 0, got {forced!r}")
    if forced == "0":
        return False, "FORCE_CUDA=0"
    if torch.version.cuda is None:
        if forced:
            raise SystemExit("FORCE_CUDA=1, but this torch was built without CUDA")
        return False, "this torch was built without CUDA"
    if cpp_extension.CUDA_HOME is None:
        if forced:
            raise SystemExit("FORCE_CUDA=1, but no CUDA toolkit was found: set CUDA_HOME")
        return False, "no CUDA toolkit was found; set CUDA_HOME to build with CUDA"
    why = "FORCE_CUDA=1" if forced else f"CUDA {torch.version.cuda} at {cpp_extension.CUDA_HOME}"
    return True, why


def check_sdist() -> None:
    """An sdist lists its files; those that a build needs must be there."""
    listed = Path("python/fastprune.egg-info/SOURCES.txt")
    if not Path("PKG-INFO").exists() or not listed.exists():  # a checkout
        return
    needed = [f for f in listed.read_text().splitlines() if f.startswith(("csrc", "python"))]
    missing = [file for file in needed if not Path(file).exists()]
    if missing:
        raise SystemExit(f"this source tree is not whole, it lacks {', '.join(missing)}")


def kernels(backend: str, suffix: str) -> list[Path]:
    """The sources of a backend, which must have a kernel for every operator."""
    sources = sorted((CSRC / backend).rglob(f"*.{suffix}"))
    text = "".join(source.read_text() for source in sources)
    ops = re.findall(r'm\.def\(\s*"(\w+)\(', (CSRC / "ops.cpp").read_text())
    missing = [op for op in ops if f'm.impl("{op}"' not in text]
    if missing:
        raise SystemExit(
            f"this source tree is not whole, {CSRC / backend} lacks the .{suffix} file with the "
            f"kernel of {', '.join(missing)}"
        )
    return sources


def extension(with_cuda: bool) -> Extension:
    kernels("cpu", "cpp")
    sources = list(CSRC.rglob("*.cpp"))
    # Norms must round the same on every machine, so products and sums are not contracted to fma.
    cxx = ["-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off"]
    cxx += ["-fopenmp"]  # without it at::parallel_for runs on one thread; torch brings the runtime
    cxx += os.environ.get("FASTPRUNE_CXXFLAGS", "").split()
    link = ["-fopenmp", *os.environ.get("FASTPRUNE_LDFLAGS", "").split()]
    headers = [str(p) for p in [*CSRC.rglob("*.h"), *CSRC.rglob("*.cuh")]]
    root = str(CSRC.resolve())  # every include starts from here
    common = {"depends": headers, "include_dirs": [root], "extra_link_args": link}
    if not with_cuda:
        return cpp_extension.CppExtension(
            "fastprune._C", sorted(map(str, sources)), extra_compile_args={"cxx": cxx}, **common
        )
    sources += kernels("cuda", "cu")
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", default_archs())
    nvcc = ["-O3", "-Xcompiler", "-fvisibility=hidden", "-Xptxas", "-v"]
    return cpp_extension.CUDAExtension(
        "fastprune._C",
        sorted(map(str, sources)),
        define_macros=[("FASTPRUNE_WITH_CUDA", None)],
        extra_compile_args={"cxx": cxx, "nvcc": nvcc},
        **common,
    )


# One build folder a torch: objects built against one do not link with another.
build_base = os.environ.get("FASTPRUNE_BUILD_BASE", f"build/torch-{torch.__version__}")
check_sdist()
with_cuda, why = decide_cuda()
print(f"fastprune: building {'CPU and CUDA' if with_cuda else 'CPU only'} ({why})", flush=True)
setup(
    ext_modules=[extension(with_cuda)],
    options={"build": {"build_base": build_base}},
    cmdclass={"build_ext": cpp_extension.BuildExtension.with_options(use_ninja=True)},
)
