"""setup.py says in one sentence what a build lacks, before it compiles; it refuses nothing else.

The programs that a build runs are found on a PATH of the test's own. What compiles is a script that
fails at once; only the linker is real.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastprune

ROOT = Path(__file__).resolve().parents[2]
COMPILED = "the compiler was called"
LINKER = shutil.which(os.environ.get("CXX", "g++"))

# setup.py as with a torch that has CUDA, whichever torch is installed here.
DRIVER = """
import os, runpy, sys, torch
from torch.utils import cpp_extension
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
        self.env = {"FORCE_CUDA": "0"}

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

    def add_ninja(self) -> None:
        ninja = shutil.which("ninja", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert ninja is not None
        (self.bin / "ninja").symlink_to(ninja)
        (self.bin / "sh").symlink_to("/bin/sh")

    def add_toolkit(self, cudart: str | None, nvcc: bool = True) -> None:
        del self.env["FORCE_CUDA"]
        self.env["CUDA_HOME"] = str(self.cuda_home)
        self.env["TORCH_DONT_CHECK_COMPILER_ABI"] = "1"  # it may be newer than CUDA 13 takes
        self.cuda_home.mkdir()
        if nvcc:
            self.add(
                "nvcc",
                'case "$1" in --version) echo "release 13.0, V13.0.0";; *) exit 1;; esac',
                self.cuda_home / "bin",
            )
        if cudart is not None:
            library = self.cuda_home / cudart
            library.parent.mkdir(parents=True, exist_ok=True)
            library.write_text("/* To the linker, a script that adds nothing. */\n")

    def setup(self) -> str:
        """What a build says."""
        env = {
            **{k: v for k, v in os.environ.items() if k in ("HOME", "PYTHONPATH", "LANG")},
            "PATH": str(self.bin),
            "FASTPRUNE_BUILD_BASE": str(self.folder / "build"),
            "MAX_JOBS": "1",
            **self.env,
        }
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, str(self.folder / "lib")],
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
    machine.add_ninja()
    machine.env["CXX"] = str(machine.add_compiler("compiler"))
    assert "plain code" not in machine.setup()


@needs_linker
@pytest.mark.parametrize("nvcc", [True, False])
def test_a_toolkit_that_lacks_something(machine: Machine, nvcc: bool) -> None:
    machine.add_ninja()
    machine.env["CXX"] = str(machine.add_compiler("compiler"))
    machine.add_toolkit("lib64/libcudart.so" if not nvcc else None, nvcc=nvcc)
    if nvcc and links_anyway():
        pytest.skip("this machine's linker finds a libcudart outside of CUDA_HOME")
    said = last_line(machine.setup())
    lacking = "the linker finds no libcudart.so in CUDA_HOME" if nvcc else "has no bin/nvcc"
    assert lacking in said and str(machine.cuda_home) in said
    assert said.endswith("FORCE_CUDA=0 to build without CUDA")


@needs_linker
def test_a_toolkit_of_wheels(machine: Machine) -> None:
    """They hold libcudart by its version alone, which no linker looks for."""
    if links_anyway():
        pytest.skip("this machine's linker finds a libcudart outside of CUDA_HOME")
    machine.add_ninja()
    machine.env["CXX"] = str(machine.add_compiler("compiler"))
    machine.add_toolkit("lib/libcudart.so.13")
    said = last_line(machine.setup())
    library = machine.cuda_home / "lib" / "libcudart.so.13"
    assert said.endswith(f"a link of that name to {library} is enough")


@needs_linker
@pytest.mark.parametrize("cudart", ["lib64", "lib", "lib/x64", "targets/x86_64-linux/lib"])
def test_layouts_of_toolkits(machine: Machine, cudart: str) -> None:
    machine.add_ninja()
    machine.env["CXX"] = str(machine.add_compiler("compiler"))
    machine.add_toolkit(f"{cudart}/libcudart.so")
    (machine.cuda_home / "lib64").mkdir(exist_ok=True)  # where torch looks, if it is there
    assert COMPILED in machine.setup()


@needs_linker
def test_libcudart_that_only_the_linker_knows(machine: Machine) -> None:
    machine.add_ninja()
    machine.env["CXX"] = str(machine.add_compiler("compiler"))
    machine.add_toolkit("elsewhere/libcudart.so")
    machine.env["LIBRARY_PATH"] = str(machine.cuda_home / "elsewhere")
    assert COMPILED in machine.setup()


def links_anyway() -> bool:
    """Whether the linker finds a libcudart in folders of its own."""
    env = {k: v for k, v in os.environ.items() if k != "LIBRARY_PATH"}
    command = [str(LINKER), "-shared", "-o", os.devnull, "-lcudart"]
    return subprocess.run(command, env=env, capture_output=True, check=False).returncode == 0
