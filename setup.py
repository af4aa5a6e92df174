"""Builds fastprune._C: always with the CPU kernels, where possible with the CUDA kernels too."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import partial
from pathlib import Path

from setuptools import Extension, setup
from setuptools.errors import LinkError

OLDEST_TORCH = (2, 9)

try:
    import torch
    from torch.utils import cpp_extension
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise SystemExit(
        "fastprune is built against the PyTorch that is installed, and this Python has none: "
        "pip install 'torch>=2.9', then build with pip's --no-build-isolation"
    ) from None

CSRC = Path("csrc")

#: By folder of csrc, how many of its sources are compiled as one. Torch's headers take the compiler
#: longer than most files do, and nvcc reads them three times.
TOGETHER = {
    "autograd": 8,
    "cpu/blocks": 8,
    "cpu/channels": 8,
    "cpu/elementwise": 8,
    "dispatch": 8,
    "cuda/blocks": 8,
    "cuda/channels": 8,
    "cuda/channels/instances": 8,
    "cuda/elementwise": 8,
    "cuda/nm/instances": 2,
    "cuda/topk": 8,
    "cuda/topk/instances": 2,
}
#: Folders of one source, and those with whose sources it is compiled.
WITH = {"cuda/nm": "cuda/blocks", "cuda/util": "cuda/elementwise"}


def torch_version() -> tuple[int, int]:
    major, minor = re.findall(r"\d+", torch.__version__)[:2]
    return int(major), int(minor)


def check_torch() -> None:
    if torch_version() < OLDEST_TORCH:
        raise SystemExit(
            f"fastprune takes PyTorch 2.9 or newer, and this Python has {torch.__version__}: "
            "pip install --upgrade 'torch>=2.9'"
        )


def find_ninja() -> None:
    """Where pip puts it, too: a virtual environment that is not activated is not on PATH."""
    scripts = sysconfig.get_path("scripts")
    if shutil.which("ninja") is None and shutil.which("ninja", path=scripts) is not None:
        os.environ["PATH"] = os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)])
    if shutil.which("ninja") is None:
        print(
            "fastprune: no ninja was found, so files are compiled one at a time; for one on each "
            "core: pip install ninja",
            flush=True,
        )


def for_publication() -> bool:
    """Whether a wheel is for elsewhere; it then fits one minor version of torch alone."""
    return os.environ.get("FASTPRUNE_WHEEL", "0") != "0"


def version(with_cuda: bool) -> str:
    """The version of _version.py; of a wheel for publication with the torch it was built with."""
    source = Path("python/fastprune/_version.py").read_text()
    (public,) = re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    if not for_publication():
        return str(public)
    cuda = (torch.version.cuda or "").replace(".", "")
    return "{}+pt{}.{}{}".format(public, *torch_version(), f"cu{cuda}" if with_cuda else "cpu")


def requirement() -> str:
    if for_publication():
        return "torch=={}.{}.*".format(*torch_version())
    return "torch>={}.{}".format(*OLDEST_TORCH)


def urls() -> dict[str, str]:
    """Those of the repository, if a build is told where that is."""
    url = os.environ.get("FASTPRUNE_URL", "").rstrip("/")
    if not url:
        return {}
    return {
        "Source": url,
        "Issues": f"{url}/issues",
        "Changelog": f"{url}/blob/main/CHANGELOG.md",
        "Documentation": f"{url}/tree/main/docs",
    }


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
            raise SystemExit(
                f"FORCE_CUDA=1, but this torch, {torch.__version__}, was built without CUDA; "
                "install a torch with CUDA, or set FORCE_CUDA=0"
            )
        return False, "this torch was built without CUDA"
    if cpp_extension.CUDA_HOME is None:
        if forced:
            raise SystemExit(
                "FORCE_CUDA=1, but no CUDA toolkit was found; install the one of CUDA "
                f"{torch.version.cuda} and set CUDA_HOME to it, or set FORCE_CUDA=0"
            )
        return False, "no CUDA toolkit was found; set CUDA_HOME to build with CUDA"
    why = "FORCE_CUDA=1" if forced else f"CUDA {torch.version.cuda} at {cpp_extension.CUDA_HOME}"
    return True, why


def is_program(command: str) -> bool:
    """Whether a command can be started: a program, or one with arguments."""
    return any(shutil.which(word) for word in (command, *shlex.split(command)[:1]))


def has_headers(toolkit: Path) -> bool:
    folders = [toolkit / "include", *toolkit.glob("targets/*/include")]
    return any((folder / "cuda_runtime.h").exists() for folder in folders)


def find_toolkit(usual: Path = Path("/usr/local/cuda")) -> None:
    """Torch takes the folder of nvcc for the toolkit, and nvcc may be a script elsewhere."""
    home = cpp_extension.CUDA_HOME
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home is None or named or has_headers(Path(home)) or not has_headers(usual):
        return
    print(f"fastprune: {home} is no CUDA toolkit, so {usual} is taken", flush=True)
    cpp_extension.CUDA_HOME = str(usual)


def cuda_home() -> Path:
    """The CUDA toolkit that torch found."""
    assert cpp_extension.CUDA_HOME is not None
    return Path(cpp_extension.CUDA_HOME)


def cudart_files() -> list[Path]:
    """The toolkit's shared libcudart, in the layouts of NVIDIA, conda and wheels."""
    folders = [cuda_home() / name for name in ("lib64", "lib", "lib/x64")]
    folders += sorted((cuda_home() / "targets").glob("*/lib"))
    return [file for folder in folders for file in sorted(folder.glob("libcudart.so*"))]


def release_of(nvcc: Path) -> str | None:
    """The version of a toolkit, as its compiler tells it."""
    done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"release (\d+\.\d+)", done.stdout)
    return found and found[1]


class BuildExtension(cpp_extension.BuildExtension):
    """Says in one sentence what a build lacks, before anything is compiled."""

    def build_extensions(self) -> None:
        if self.compiler.compiler_type == "msvc":
            self.check_msvc()
        else:
            self.check_compiler()
            self.add_openmp()
            because = self.plain_because()
            if because:
                print(
                    f"fastprune: the CPU kernels are built as plain code only: {because}",
                    flush=True,
                )
        if with_cuda:
            self.check_toolkit()
        for extension in self.extensions:
            # Without ninja an extension is compiled if one of its sources or these is newer.
            extension.depends = [*extension.depends, *extension.sources]
            extension.sources = together(extension.sources, Path(self.build_temp) / "together")
        super().build_extensions()

    def check_msvc(self) -> None:
        """What setuptools did not find when it looked for Visual Studio."""
        try:
            if not self.compiler.initialized:
                self.compiler.initialize()
        except Exception as error:  # of setuptools' own copy of distutils
            raise SystemExit(
                f"no C++ compiler was found: {error}; install the Build Tools for Visual Studio "
                "2022 with 'Desktop development with C++', and build in its Native Tools prompt"
            ) from None

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

    def add_openmp(self) -> None:
        """Without it at::parallel_for runs on one thread; torch brings the runtime."""
        cxx = shlex.split(os.environ.get("CXX", self.compiler.compiler_cxx[0]))
        compile_flags, link_flags = openmp_flags(sys.platform)
        if may_lack_openmp(sys.platform, cxx) and not includes_omp([*cxx, *compile_flags]):
            mac = sys.platform == "darwin"
            install = "brew install libomp" if mac else "Debian, Ubuntu: apt-get install libomp-dev"
            print(
                f"fastprune: {cxx[0]} has no omp.h, so the kernels will run on one thread; for all "
                f"threads install OpenMP ({install}) and build again",
                flush=True,
            )
            return
        for extension in self.extensions:
            extension.extra_compile_args["cxx"] += compile_flags
            extension.extra_link_args += link_flags

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
        instead = (
            "set CUDA_HOME to a whole CUDA toolkit, often /usr/local/cuda, or FORCE_CUDA=0 to "
            "build without CUDA"
        )
        nvcc = "bin/nvcc.exe" if sys.platform == "win32" else "bin/nvcc"
        if not (cuda_home() / nvcc).exists():
            raise SystemExit(f"CUDA_HOME, which is {cuda_home()}, has no {nvcc}; {instead}")
        release, needed = release_of(cuda_home() / nvcc), str(torch.version.cuda)
        if release is not None and release.partition(".")[0] != needed.partition(".")[0]:
            raise SystemExit(
                f"expected the toolkit in CUDA_HOME, which is {cuda_home()}, to be of the major "
                f"version of torch {torch.__version__}, which was built with CUDA {needed}, got "
                f"CUDA {release}; set CUDA_HOME to one of that version, or FORCE_CUDA=0 to build "
                "without CUDA"
            )
        if sys.platform == "win32":
            return
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
        runs = "call" if hasattr(self.compiler, "call") else "spawn"  # of newer setuptools
        run = getattr(self.compiler, runs)
        setattr(self.compiler, runs, partial(subprocess.run, check=True, capture_output=True))
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
        except (subprocess.CalledProcessError, LinkError):
            return False
        finally:
            setattr(self.compiler, runs, run)
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


def together(sources: list[str], folder: Path) -> list[str]:
    """The sources, some of which are included by files in `folder` that take their place.

    Not on Windows, where the objects of such files would have paths that are too long.
    """
    if sys.platform == "win32":
        return sources
    kinds: dict[tuple[str, str], list[Path]] = {}
    for source in map(Path, sorted(sources)):
        inside = source.is_relative_to(CSRC)
        parent = source.parent.relative_to(CSRC).as_posix() if inside else str(source.parent)
        kinds.setdefault((WITH.get(parent, parent), source.suffix), []).append(source)
    compiled, made = [], set()
    for (parent, suffix), files in kinds.items():
        size = TOGETHER.get(parent, 1)
        for group in (files[i : i + size] for i in range(0, len(files), size)):
            if len(group) == 1:
                compiled.append(str(group[0]))
                continue
            file = folder / parent / f"{group[0].stem}_and_others{suffix}"
            includes = [f'#include "{source.relative_to(CSRC).as_posix()}"\n' for source in group]
            if not file.exists() or file.read_text() != "".join(includes):  # else compiled again
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("".join(includes))
            made.add(file)
            compiled.append(str(file))
    for file in folder.rglob("*_and_others.*"):  # of groups that were others
        if file not in made and str(file) not in sources:
            file.unlink()
    return compiled


def host_flags(system: str) -> list[str]:
    """For the C++ compiler, without OpenMP where it may lack it. Not tried on macOS and Windows.

    Norms must round the same on every machine, so products and sums are not contracted to fma.
    """
    if system == "win32":
        standard = ["/std:c++20", "/permissive-", "/Zc:__cplusplus", "/bigobj"]
        return ["/O2", *standard, "/fp:precise", "/openmp", f"/FI{(CSRC / 'msvc.h').resolve()}"]
    return ["-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno"]


def nvcc_flags(system: str) -> list[str]:
    host = [] if system == "win32" else ["-Xcompiler", "-fvisibility=hidden"]
    return ["-O3", *host, "-Xptxas", "-v"]


def openmp_flags(system: str) -> tuple[list[str], list[str]]:
    """For the compiler and the linker.

    Apple's clang takes -fopenmp only past its driver and has no omp.h. The runtime is the libomp
    that torch has loaded; a Python extension on macOS need not link with it.
    """
    if system != "darwin":
        return ["-fopenmp"], ["-fopenmp"]
    folders = [os.environ.get("OMP_PREFIX", ""), sys.prefix]
    folders += ["/opt/homebrew/opt/libomp", "/usr/local/opt/libomp"]
    found = [f"-I{f}/include" for f in folders if f and Path(f, "include", "omp.h").exists()]
    return ["-Xclang", "-fopenmp", *found[:1]], []


def may_lack_openmp(system: str, cxx: list[str]) -> bool:
    """GCC has its own; clang's is another package."""
    if system == "darwin":
        return True
    said = subprocess.run([*cxx, "--version"], capture_output=True, text=True, check=False)
    return "clang" in said.stdout


def includes_omp(command: list[str]) -> bool:
    """Whether a compiler with these flags compiles what at::parallel_for takes of OpenMP."""
    source = "#include <omp.h>\n#ifndef _OPENMP\n#error\n#endif\n"
    command = [*command, "-fsyntax-only", "-x", "c++", "-"]
    return not subprocess.run(
        command, input=source, capture_output=True, text=True, check=False
    ).returncode


def extension(with_cuda: bool) -> Extension:
    kernels("cpu", "cpp")
    sources = list(CSRC.rglob("*.cpp"))
    cxx = [*host_flags(sys.platform), *os.environ.get("FASTPRUNE_CXXFLAGS", "").split()]
    link = os.environ.get("FASTPRUNE_LDFLAGS", "").split()
    headers = [str(p) for p in [*CSRC.rglob("*.h"), *CSRC.rglob("*.cuh")]]
    root = str(CSRC.resolve())  # every include starts from here
    # Some headers of ATen include all operators otherwise.
    macros = [("AT_PER_OPERATOR_HEADERS", None), *([("FASTPRUNE_WITH_CUDA", None)] * with_cuda)]
    common = {
        "define_macros": macros,
        "depends": headers,
        "include_dirs": [root],
        "extra_link_args": link,
    }
    if not with_cuda:
        return cpp_extension.CppExtension(
            "fastprune._C", sorted(map(str, sources)), extra_compile_args={"cxx": cxx}, **common
        )
    sources += kernels("cuda", "cu")
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", default_archs())
    nvcc = [*nvcc_flags(sys.platform), *os.environ.get("FASTPRUNE_NVCCFLAGS", "").split()]
    made = cpp_extension.CUDAExtension(
        "fastprune._C",
        sorted(map(str, sources)),
        extra_compile_args={"cxx": cxx, "nvcc": nvcc},
        **common,
    )
    # After torch's own: a conda environment may hold another torch beside libcudart.
    made.library_dirs += [str(file.parent) for file in cudart_files()]
    return made


if __name__ == "__main__":
    check_torch()
    check_sdist()
    find_toolkit()
    with_cuda, why = decide_cuda()
    print(f"fastprune: building {'CPU and CUDA' if with_cuda else 'CPU only'} ({why})", flush=True)
    find_ninja()
    # One build folder a torch: objects built against one do not link with another.
    build_base = os.environ.get("FASTPRUNE_BUILD_BASE", f"build/torch-{torch.__version__}")
    setup(
        version=version(with_cuda),
        install_requires=[requirement()],
        project_urls=urls(),
        ext_modules=[extension(with_cuda)],
        options={"build": {"build_base": build_base}},
        cmdclass={"build_ext": BuildExtension.with_options(use_ninja=True)},
    )
