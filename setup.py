"""Builds fastprune._C: always with the CPU kernels, where possible with the CUDA kernels too."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from functools import partial
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


def is_program(command: str) -> bool:
    """Whether a command can be started: a program, or one with arguments."""
    return any(shutil.which(word) for word in (command, *shlex.split(command)[:1]))


def cuda_home() -> Path:
    """The CUDA toolkit that torch found."""
    assert cpp_extension.CUDA_HOME is not None
    return Path(cpp_extension.CUDA_HOME)


def cudart_files() -> list[Path]:
    """The toolkit's shared libcudart, in the layouts of NVIDIA, conda and wheels."""
    folders = [cuda_home() / name for name in ("lib64", "lib", "lib/x64")]
    folders += sorted((cuda_home() / "targets").glob("*/lib"))
    return [file for folder in folders for file in sorted(folder.glob("libcudart.so*"))]


class BuildExtension(cpp_extension.BuildExtension):
    """Says in one sentence what a build lacks, before anything is compiled."""

    def build_extensions(self) -> None:
        self.check_compiler()
        because = self.plain_because()
        if because:
            print(f"fastprune: the CPU kernels are built as plain code only: {because}", flush=True)
        if with_cuda:
            self.check_toolkit()
        super().build_extensions()

    def check_compiler(self) -> None:
        """CXX compiles and links; without it, c++ compiles and what built this Python links."""
        given = os.environ.get("CXX")
        if given is not None:
            if not is_program(given):
                raise SystemExit(
                    f"no C++ compiler was found: CXX is {given!r}, which is no program"
                )
            return
        used = ["c++"] if self.use_ninja else []
        missing = [c for c in (*used, self.compiler.compiler_cxx[0]) if not is_program(c)]
        if missing:
            raise SystemExit(
                f"no C++ compiler was found: {' and '.join(missing)} not on PATH; install one "
                "(Debian, Ubuntu: apt-get install g++), or set CXX to the one to use"
            )

    def plain_because(self) -> str | None:
        """Why the kernels have no versions for wider instructions; None if they have, or if the
        compiler does not say.
        """
        named = os.environ.get("CXX") or (
            "c++" if self.use_ninja else self.compiler.compiler_cxx[0]
        )
        header = CSRC / "cpu" / "util" / "multiversion.h"
        flags = os.environ.get("FASTPRUNE_CXXFLAGS", "").split()
        command = [*shlex.split(named), *flags, "-E", "-dM", "-x", "c++", str(header)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(r'^#define FASTPRUNE_PLAIN_BECAUSE "(.+)"$', done.stdout, re.MULTILINE)
        return found and found[1]

    def check_toolkit(self) -> None:
        """The CUDA sources take nvcc, and linking takes libcudart."""
        instead = "set CUDA_HOME to a whole CUDA toolkit, or FORCE_CUDA=0 to build without CUDA"
        if not (cuda_home() / "bin" / "nvcc").exists():
            raise SystemExit(f"CUDA_HOME, which is {cuda_home()}, has no bin/nvcc; {instead}")
        # Asking the linker covers LIBRARY_PATH, LDFLAGS and its own folders too. If it cannot link
        # anything, the fault is not the toolkit's.
        if self.links_with("cudart") or not self.links_with("m"):
            return
        found = next(iter(cudart_files()), None)
        if found is not None:
            instead = f"a link of that name to {found} is enough"
        raise SystemExit(
            f"the linker finds no libcudart.so in CUDA_HOME, which is {cuda_home()}; {instead}"
        )

    def links_with(self, library: str) -> bool:
        """Whether a shared object of this library alone can be linked."""
        (extension,) = self.extensions
        spawn = self.compiler.spawn
        self.compiler.spawn = partial(subprocess.run, check=True, capture_output=True)
        try:
            with tempfile.TemporaryDirectory() as folder:
                self.compiler.link_shared_object(
                    [],
                    f"{folder}/trial.so",
                    libraries=[library],
                    library_dirs=extension.library_dirs,
                    extra_postargs=extension.extra_link_args,
                    target_lang="c++",
                )
        except subprocess.CalledProcessError:
            return False
        finally:
            self.compiler.spawn = spawn
        return True


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
    nvcc += os.environ.get("FASTPRUNE_NVCCFLAGS", "").split()
    made = cpp_extension.CUDAExtension(
        "fastprune._C",
        sorted(map(str, sources)),
        define_macros=[("FASTPRUNE_WITH_CUDA", None)],
        extra_compile_args={"cxx": cxx, "nvcc": nvcc},
        **common,
    )
    # After torch's own: a conda environment may hold another torch beside libcudart.
    made.library_dirs += [str(file.parent) for file in cudart_files()]
    return made


# One build folder a torch: objects built against one do not link with another.
build_base = os.environ.get("FASTPRUNE_BUILD_BASE", f"build/torch-{torch.__version__}")
check_sdist()
with_cuda, why = decide_cuda()
print(f"fastprune: building {'CPU and CUDA' if with_cuda else 'CPU only'} ({why})", flush=True)
setup(
    ext_modules=[extension(with_cuda)],
    options={"build": {"build_base": build_base}},
    cmdclass={"build_ext": BuildExtension.with_options(use_ninja=True)},
)
