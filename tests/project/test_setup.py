"""setup.py says in one sentence what a build lacks, before it compiles; it refuses nothing else.

The programs that a build runs are found on a PATH of the test's own. What compiles is a script that
fails at once; only the linker is real.
"""

import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fastprune

ROOT = Path(__file__).resolve().parents[2]
COMPILED = "the compiler was called"
LINKER = shutil.which(os.environ.get("CXX", "g++"))

# setup.py as with a torch that has CUDA, whichever torch is installed here.
DRIVER = """
import os, runpy, sys, sysconfig, torch
from torch.utils import cpp_extension
sysconfig.get_path = lambda name, get=sysconfig.get_path: (
    os.environ["SCRIPTS"] if name == "scripts" else get(name)
)
torch.__version__ = os.environ.get("TORCH_VERSION", torch.__version__)
if "CUDA" in os.environ:
    torch.version.cuda = os.environ["CUDA"] or None
    cpp_extension.CUDA_HOME = None
home = os.environ.get("CUDA_HOME")
if home:
    torch.version.cuda = "13.0"
    cpp_extension.CUDA_HOME = home
sys.argv = ["setup.py", "build_ext", "--build-lib", sys.argv[1]]
runpy.run_path("setup.py", run_name="__main__")
"""


class Machine:
    """A PATH and an environment to run setup.py in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.cuda_home = folder / "cuda"
        self.scripts = folder / "scripts"
        self.env = {"FORCE_CUDA": "0", "SCRIPTS": str(self.scripts)}

    def add(self, name: str, script: str, folder: Path | None = None) -> Path:
        path = (folder or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def add_compiler(self, name: str, *defines: str) -> Path:
        """Links as the real one does, preprocesses with these options, and compiles nothing."""
        assert LINKER is not None
        real = f'PATH="{os.environ["PATH"]}" exec "{LINKER}"'
        compiles = f'for a in "$@"; do [ "$a" = -c ] && {{ echo "{COMPILED}"; exit 1; }}; done'
        given = f'for a in "$@"; do [ "$a" = -E ] && {real} {" ".join(defines)} "$@"; done'
        return self.add(name, f'{compiles}\n{given}\n{real} "$@"')

    def add_ninja(self, folder: Path | None = None) -> None:
        ninja = shutil.which("ninja", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert ninja is not None
        folder = folder or self.bin
        folder.mkdir(exist_ok=True)
        (folder / "ninja").symlink_to(ninja)
        (self.bin / "sh").symlink_to("/bin/sh")

    def add_ninja_and_compiler(self) -> None:
        self.add_ninja()
        self.env["CXX"] = str(self.add_compiler("compiler"))

    def add_toolkit(self, cudart: str | None, nvcc: bool = True, release: str = "13.0") -> None:
        del self.env["FORCE_CUDA"]
        self.env["CUDA_HOME"] = str(self.cuda_home)
        self.env["TORCH_DONT_CHECK_COMPILER_ABI"] = "1"  # it may be newer than CUDA 13 takes
        self.cuda_home.mkdir()
        if nvcc:
            self.add(
                "nvcc",
                f'case "$1" in --version) echo "release {release}, V0";; *) exit 1;; esac',
                self.cuda_home / "bin",
            )
        if cudart is not None:
            library = self.cuda_home / cudart
            library.parent.mkdir(parents=True, exist_ok=True)
            library.write_text("/* To the linker, a script that adds nothing. */\n")

    def setup(self, driver: str = DRIVER) -> str:
        """What a build says."""
        env = {
            **{k: v for k, v in os.environ.items() if k in ("HOME", "PYTHONPATH", "LANG")},
            "PATH": str(self.bin),
            "FASTPRUNE_BUILD_BASE": str(self.folder / "build"),
            "MAX_JOBS": "1",
            **self.env,
        }
        done = subprocess.run(
            [sys.executable, "-c", driver, str(self.folder / "lib")],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode != 0
        return done.stdout + done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def last_line(text: str) -> str:
    assert COMPILED not in text
    assert "is not compatible with the compiler" not in text  # torch's, of a compiler not there
    return text.strip().splitlines()[-1]


needs_linker = pytest.mark.skipif(LINKER is None, reason="there is no g++ to link with")


@pytest.mark.parametrize("with_ninja", [True, False], ids=["ninja", "no-ninja"])
def test_no_compiler(machine: Machine, with_ninja: bool) -> None:
    if with_ninja:
        machine.add_ninja()
    said = last_line(machine.setup())
    assert said.startswith("no C++ compiler was found: ") and "not on PATH" in said
    assert ("c++ and " in said) == with_ninja


@needs_linker
@pytest.mark.parametrize("with_ninja", [True, False], ids=["ninja", "no-ninja"])
def test_ninja_of_an_environment_that_is_not_on_path(machine: Machine, with_ninja: bool) -> None:
    if with_ninja:
        machine.add_ninja(machine.scripts)
    machine.env["CXX"] = str(machine.add_compiler("compiler"))
    said = machine.setup()
    assert COMPILED in said
    assert ("for one on each core: pip install ninja" not in said) == with_ninja


def test_no_torch(machine: Machine) -> None:
    hidden = "import sys; sys.modules['torch'] = None; sys.argv = ['setup.py', 'build_ext']\n"
    said = machine.setup(hidden + "import runpy; runpy.run_path('setup.py', run_name='__main__')")
    assert last_line(said) == (
        "fastprune is built against the PyTorch that is installed, and this Python has none: "
        "pip install 'torch>=2.9', then build with pip's --no-build-isolation"
    )


@pytest.mark.parametrize("version", ["2.8.0+cpu", "1.13.1", "2.4"])
def test_torch_that_is_too_old(machine: Machine, version: str) -> None:
    machine.env["TORCH_VERSION"] = version
    assert last_line(machine.setup()) == (
        f"fastprune takes PyTorch 2.9 or newer, and this Python has {version}: "
        "pip install --upgrade 'torch>=2.9'"
    )


@pytest.mark.parametrize("cuda", ["", "13.0"])
def test_cuda_forced_where_it_cannot_be(machine: Machine, cuda: str) -> None:
    machine.env |= {"FORCE_CUDA": "1", "CUDA": cuda}
    said = last_line(machine.setup())
    assert said.startswith("FORCE_CUDA=1, but ") and said.endswith(", or set FORCE_CUDA=0")
    lacking = "no CUDA toolkit was found; install the one of CUDA 13.0" if cuda else "a torch with"
    assert lacking in said


def test_force_cuda_is_a_number(machine: Machine) -> None:
    machine.env["FORCE_CUDA"] = "yes"
    assert last_line(machine.setup()) == "FORCE_CUDA is 1 or 0, got 'yes'"


def test_cxx_that_is_no_program(machine: Machine) -> None:
    machine.add_ninja()
    machine.env["CXX"] = "no-such-compiler"
    said = last_line(machine.setup())
    assert said == "no C++ compiler was found: CXX is 'no-such-compiler', which is no program"


@needs_linker
@pytest.mark.parametrize("cxx", ["my-compiler", "launcher my-compiler"])
def test_cxx_is_enough(machine: Machine, cxx: str) -> None:
    machine.add_ninja()
    compiler = machine.add_compiler("my-compiler")
    machine.add("launcher", f'shift; exec "{compiler}" "$@"')
    machine.env["CXX"] = cxx
    text = machine.setup()
    assert "no C++ compiler was found" not in text and "Error" in text  # of the compilation


@needs_linker
@pytest.mark.skipif(platform.machine() != "x86_64", reason="other machines have plain code only")
def test_plain_code_is_said(machine: Machine) -> None:
    machine.add_ninja()
    machine.env["CXX"] = str(machine.add_compiler("old", "-U__GNUC__", "-D__GNUC__=11"))
    said = "fastprune: the CPU kernels are built as plain code only: "
    text = machine.setup()
    assert f"{said}only GCC 12 or newer compiles AVX2 and AVX-512 versions" in text
    assert text.index(said) < text.index(COMPILED)
    machine.env["FASTPRUNE_CXXFLAGS"] = "-DFASTPRUNE_BASELINE"
    assert f"{said}FASTPRUNE_BASELINE or a sanitizer asks for it" in machine.setup()


@needs_linker
@pytest.mark.skipif(platform.machine() != "x86_64", reason="other machines have plain code only")
def test_several_versions_are_not_mentioned(machine: Machine) -> None:
    if fastprune._C.build_info()["plain_because"]:
        pytest.skip("this machine's compiler makes plain code only")
    machine.add_ninja_and_compiler()
    assert "plain code" not in machine.setup()


@needs_linker
@pytest.mark.parametrize("nvcc", [True, False])
def test_a_toolkit_that_lacks_something(machine: Machine, nvcc: bool) -> None:
    machine.add_ninja_and_compiler()
    machine.add_toolkit("lib64/libcudart.so" if not nvcc else None, nvcc=nvcc)
    if nvcc and links_anyway():
        pytest.skip("this machine's linker finds a libcudart outside of CUDA_HOME")
    said = last_line(machine.setup())
    lacking = "the linker finds no libcudart.so in CUDA_HOME" if nvcc else "has no bin/nvcc"
    assert lacking in said and str(machine.cuda_home) in said
    assert said.endswith("FORCE_CUDA=0 to build without CUDA")


@needs_linker
def test_a_toolkit_of_another_major_version(machine: Machine) -> None:
    machine.add_ninja_and_compiler()
    machine.add_toolkit("lib64/libcudart.so", release="12.4")
    said = last_line(machine.setup())
    assert f"CUDA_HOME, which is {machine.cuda_home}," in said
    assert "was built with CUDA 13.0, got CUDA 12.4" in said
    assert said.endswith("or FORCE_CUDA=0 to build without CUDA")


@needs_linker
def test_a_toolkit_of_another_minor_version(machine: Machine) -> None:
    machine.add_ninja_and_compiler()
    machine.add_toolkit("lib64/libcudart.so", release="13.4")
    assert COMPILED in machine.setup()


@needs_linker
def test_a_toolkit_of_wheels(machine: Machine) -> None:
    """They hold libcudart by its version alone, which no linker looks for."""
    if links_anyway():
        pytest.skip("this machine's linker finds a libcudart outside of CUDA_HOME")
    machine.add_ninja_and_compiler()
    machine.add_toolkit("lib/libcudart.so.13")
    said = last_line(machine.setup())
    library = machine.cuda_home / "lib" / "libcudart.so.13"
    assert said.endswith(f"a link of that name to {library} is enough")


@needs_linker
@pytest.mark.parametrize("cudart", ["lib64", "lib", "lib/x64", "targets/x86_64-linux/lib"])
def test_layouts_of_toolkits(machine: Machine, cudart: str) -> None:
    machine.add_ninja_and_compiler()
    machine.add_toolkit(f"{cudart}/libcudart.so")
    (machine.cuda_home / "lib64").mkdir(exist_ok=True)  # where torch looks, if it is there
    assert COMPILED in machine.setup()


@needs_linker
def test_libcudart_that_only_the_linker_knows(machine: Machine) -> None:
    machine.add_ninja_and_compiler()
    machine.add_toolkit("elsewhere/libcudart.so")
    machine.env["LIBRARY_PATH"] = str(machine.cuda_home / "elsewhere")
    assert COMPILED in machine.setup()


def links_anyway() -> bool:
    """Whether the linker finds a libcudart in folders of its own."""
    env = {k: v for k, v in os.environ.items() if k != "LIBRARY_PATH"}
    command = [str(LINKER), "-shared", "-o", os.devnull, "-lcudart"]
    return subprocess.run(command, env=env, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def functions() -> dict[str, Any]:
    """What setup.py defines, without a build."""
    return runpy.run_path(str(ROOT / "setup.py"))


@dataclass
class Clang:
    """A compiler that has OpenMP or not, and what add_openmp makes of it."""

    functions: dict[str, Any]
    path: Path

    def flags(self, openmp: bool) -> tuple[list[str], list[str]]:
        code = 0 if openmp else 1
        said = '[ "$1" = --version ] && echo "Apple clang version 17.0.0" && exit 0'
        self.path.write_text(f"#!/bin/sh\n{said}\nexit {code}\n")
        self.path.chmod(0o755)
        extension = SimpleNamespace(extra_compile_args={"cxx": []}, extra_link_args=[])
        compiler = SimpleNamespace(compiler_cxx=[str(self.path)])
        command = SimpleNamespace(compiler=compiler, extensions=[extension])
        self.functions["BuildExtension"].add_openmp(command)
        return extension.extra_compile_args["cxx"], extension.extra_link_args


@pytest.fixture
def clang(functions: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clang:
    for name in ("CXX", "OMP_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    return Clang(functions, tmp_path / "clang++")


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_clang_with_openmp(clang: Clang, system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    compile_flags, link_flags = clang.flags(openmp=True)
    if system == "linux":
        assert compile_flags == link_flags == ["-fopenmp"]
    else:
        assert compile_flags[:2] == ["-Xclang", "-fopenmp"] and link_flags == []


@pytest.mark.parametrize(
    ("system", "install"),
    [("linux", "apt-get install libomp-dev"), ("darwin", "brew install libomp")],
)
def test_clang_without_openmp(
    clang: Clang,
    system: str,
    install: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    assert clang.flags(openmp=False) == ([], [])
    said = capsys.readouterr().out
    assert "the kernels will run on one thread" in said and install in said


def test_omp_prefix_of_macos(clang: Clang, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = tmp_path / "include" / "omp.h"
    header.parent.mkdir()
    header.touch()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("OMP_PREFIX", str(tmp_path))
    assert clang.flags(openmp=True) == (["-Xclang", "-fopenmp", f"-I{header.parent}"], [])


@pytest.mark.skipif(LINKER is None, reason="there is no g++")
def test_gcc_has_openmp(functions: dict[str, Any]) -> None:
    assert not functions["may_lack_openmp"]("linux", [LINKER])
    assert functions["includes_omp"]([LINKER, "-fopenmp"])
    assert not functions["includes_omp"]([LINKER])


@pytest.mark.parametrize("include", ["include", "targets/x86_64-linux/include"])
def test_nvcc_that_is_a_script_elsewhere(
    functions: dict[str, Any],
    include: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cpp_extension = functions["cpp_extension"]

    def home() -> Any:
        return cpp_extension.CUDA_HOME

    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    elsewhere, usual = tmp_path / "elsewhere", tmp_path / "cuda"
    (usual / include).mkdir(parents=True)
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(elsewhere))
    functions["find_toolkit"](usual)
    assert home() == str(elsewhere)  # the usual one is none either
    (usual / include / "cuda_runtime.h").touch()
    monkeypatch.setenv("CUDA_HOME", str(elsewhere))
    functions["find_toolkit"](usual)
    assert home() == str(elsewhere)  # as was asked for
    monkeypatch.delenv("CUDA_HOME")
    functions["find_toolkit"](usual)
    assert home() == str(usual)
    assert capsys.readouterr().out == (
        f"fastprune: {elsewhere} is no CUDA toolkit, so {usual} is taken\n"
    )
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    functions["find_toolkit"](usual)
    assert home() is None


def test_sources_that_are_compiled_together(
    functions: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each source once, those of one folder and kind, or WITH it; a second build writes nothing."""
    monkeypatch.chdir(ROOT)
    sources = [str(p) for p in Path("csrc").rglob("*") if p.suffix in (".cpp", ".cu")]
    units = functions["together"](sources, tmp_path)
    compiled = [unit for unit in units if unit in sources]
    made = [Path(unit) for unit in units if unit not in sources]
    assert made and all(unit.is_relative_to(tmp_path) for unit in made)
    for unit in made:
        included = re.findall(r'^#include "(.*)"$', unit.read_text(), re.MULTILINE)
        folders = {str(Path(path).parent) for path in included}
        home = str(unit.parent.relative_to(tmp_path))
        assert {functions["WITH"].get(folder, folder) for folder in folders} == {home}
        assert {Path(path).suffix for path in included} == {unit.suffix}
        compiled += [f"csrc/{path}" for path in included]
    assert sorted(compiled) == sorted(sources)
    assert {str(unit.parent.relative_to(tmp_path)) for unit in made} == {*functions["TOGETHER"]}
    left = tmp_path / "autograd" / "an_older_and_others.cpp"
    left.touch()
    before = [unit.stat().st_mtime_ns for unit in made]
    assert functions["together"](sources, tmp_path) == units
    assert [unit.stat().st_mtime_ns for unit in made] == before
    assert not left.exists()
    assert sorted(functions["together"](units, tmp_path)) == sorted(units)
    monkeypatch.setattr(sys, "platform", "win32")
    assert functions["together"](sources, tmp_path) == sources


def test_flags_of_msvc(functions: dict[str, Any]) -> None:
    """Only the flags: nothing here has been tried on Windows."""
    flags = functions["host_flags"]("win32")
    assert {"/O2", "/std:c++20", "/openmp", "/fp:precise"} <= set(flags)
    assert all(flag.startswith("/") for flag in flags)
    (shim,) = (flag.removeprefix("/FI") for flag in flags if flag.startswith("/FI"))
    assert shim.endswith("msvc.h")
    assert "-fvisibility=hidden" not in functions["nvcc_flags"]("win32")


def test_no_visual_studio(functions: dict[str, Any]) -> None:
    class NoCompiler:
        initialized = False

        def initialize(self) -> None:
            raise RuntimeError("Microsoft Visual C++ 14.0 or greater is required")

    command = SimpleNamespace(compiler=NoCompiler())
    with pytest.raises(
        SystemExit, match=r"^no C\+\+ compiler was found: .*install the Build Tools"
    ):
        functions["BuildExtension"].check_msvc(command)


def test_msvc_knows_every_builtin() -> None:
    """Those outside of what multiversion.h leaves to GCC and clang are in the shim for MSVC."""
    shim = (ROOT / "csrc" / "msvc.h").read_text()
    guarded = re.compile(
        r"^#ifdef FASTPRUNE_HAS_MULTIVERSION\n.*?^#endif", re.DOTALL | re.MULTILINE
    )
    sources = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".cpp", ".h")]
    used = set()
    for source in sources:
        if "cuda" not in source.parts:
            used |= set(re.findall(r"__builtin_\w+", guarded.sub("", source.read_text())))
    assert used and all(f"{name}(" in shim for name in used)


@pytest.mark.parametrize("cuda", ["cpu", "cu130"])
def test_version_of_a_wheel(
    functions: dict[str, Any], cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("FASTPRUNE_WHEEL", raising=False)
    monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with_cuda = cuda != "cpu"
    assert functions["version"](with_cuda) == fastprune.__version__
    assert functions["requirement"]() == "torch>=2.9"
    monkeypatch.setenv("FASTPRUNE_WHEEL", "1")
    assert functions["version"](with_cuda) == f"{fastprune.__version__}+pt2.13{cuda}"
    assert functions["requirement"]() == "torch==2.13.*"


def test_urls_of_a_build_that_is_told(
    functions: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTPRUNE_URL", raising=False)
    assert functions["urls"]() == {}
    monkeypatch.setenv("FASTPRUNE_URL", "https://example.org/fastprune/")
    assert functions["urls"]()["Issues"] == "https://example.org/fastprune/issues"
