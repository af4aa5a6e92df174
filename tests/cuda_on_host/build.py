"""Compiles csrc/cuda for the host, over the CUDA emulator in this folder, as an operator library.

The operators are those of fastprune under another library name, for CPU tensors. Object files are
named after a hash of their inputs, so that only what changed is compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import cpp_extension

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOLDER = ROOT / "build" / "cuda_on_host"
LIBRARY = "fastprune_cuda_on_host"
JOBS = int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))
#: A folder in front of csrc on the include path: its cuda/policy.h has small blocks, tiles and
#: grids, so that small inputs take the paths of large ones.
SMALL = HERE / "policy_small"
#: What the compiler would spend most of its time on for each file: these are compiled once.
PRECOMPILED = "".join(
    f"#include <{header}>\n"
    for header in (
        "ATen/core/Tensor.h",
        "ATen/ops/empty.h",
        "ATen/ops/empty_like.h",
        "ATen/ExpandUtils.h",
        "torch/library.h",
    )
)


@dataclass(frozen=True)
class Variant:
    """A build: its sources, policy and flags."""

    csrc: Path = ROOT / "csrc"
    #: Folders of csrc/cuda to take from there, the rest from the repository. None: all.
    folders: tuple[str, ...] | None = None
    #: Of their instances/, the one to take from there, the rest from the repository. None: all.
    instance: str | None = None
    #: A folder whose cuda/policy.h replaces that of csrc. None: as shipped.
    policy: Path | None = SMALL
    flags: tuple[str, ...] = ("-O1",)
    link_flags: tuple[str, ...] = ()
    #: With the race detector, which needs RACE_FLAGS.
    races: bool = False
    #: What the operators are registered as, and for tensors of which device.
    library: str = LIBRARY
    device: str = "CPU"

    def takes(self, source: Path) -> bool:
        """Whether a source, relative to csrc, is taken from `self.csrc`."""
        if self.folders is not None and source.parts[1] not in self.folders:
            return False
        return self.instance in (None, source.stem) or "instances" not in source.parts

    def include_path(self, csrc: Path) -> list[Path]:
        """Where the project's headers are looked for, in this order."""
        return [HERE, *([self.policy] if self.policy else []), csrc]


#: The compiler tells of every access; what it calls is the race detector, not libtsan. A volatile
#: access is told apart, as it orders memory like a relaxed one. With -Og instead, which compiles
#: faster, the standard library's inline functions are calls, whose accesses are told of, too.
RACE_FLAGS = (
    "-O1",
    "-DCUDA_ON_HOST_RACE",
    "-fsanitize=thread",
    "--param=tsan-distinguish-volatile=1",
    "-Wno-tsan",
    "-Wno-stringop-overflow",  # of strings of faults, where it sees one by mistake
)
#: In place of compute-sanitizer on a GPU; finds undefined behaviour, too. Most of the time of
#: `make sanitize-cases` is compilation, which takes -Og half as long as -O1, and a third less
#: without these checks: of null pointers, which are no addresses; of pointers that wrap around; and
#: of virtual functions and attributes, which kernels do not have.
SANITIZED = Variant(
    flags=(
        "-Og",
        "-fsanitize=address,undefined",
        "-fno-sanitize=null,vptr,object-size,pointer-overflow",
        "-fno-sanitize=nonnull-attribute,returns-nonnull-attribute",
        "-fno-sanitize-recover=undefined",
        "-fno-omit-frame-pointer",
    ),
    link_flags=("-fsanitize=address,undefined",),
)
RACES = Variant(flags=RACE_FLAGS, races=True)


def _flags(variant: Variant) -> list[str]:
    standard = "-std=c++20" if torch.__version__ >= "2.13" else "-std=c++17"
    return [
        standard,
        "-fPIC",
        "-g1",
        "-fno-strict-aliasing",
        "-ffp-contract=off",
        "-Werror=narrowing",  # an error of nvcc
        "-DAT_PER_OPERATOR_HEADERS",
        "-DFASTPRUNE_CUDA_ON_HOST",
        f"-DCUDA_ON_HOST_LIBRARY={variant.library}",
        f"-DCUDA_ON_HOST_DEVICE={variant.device}",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        *(f"-isystem{path}" for path in cpp_extension.include_paths()),
        *variant.flags,
    ]


def without_preload() -> dict[str, str]:
    """The environment of a compiler: without the sanitizer that the tests preload."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def compiler_without_torch() -> list[str]:
    """A compiler command that finds the emulator and the kernels' headers, but not torch."""
    flags = ["-std=c++17", "-O1", "-g1", "-Wall", "-fno-strict-aliasing"]
    includes = [f"-I{HERE}", f"-I{ROOT / 'csrc'}"]
    return [os.environ.get("CXX", "g++"), *flags, "-DFASTPRUNE_CUDA_ON_HOST", *includes]


def _race_detector() -> list[Path]:
    """The objects of the race detector, built if necessary: without its own instrumentation."""
    compiler = [*compiler_without_torch(), "-fPIC", "-O2", "-DCUDA_ON_HOST_RACE"]
    objects = []
    for name in ("detector", "callbacks", "places"):
        source = HERE / "race" / f"{name}.cpp"
        key = _digest(*compiler, *_included(source, [HERE, ROOT / "csrc"]).values())
        objects.append(FOLDER / f"race-{name}-{key}.o")
        _make(objects[-1], [*compiler, "-c", str(source)])
    return objects


def compiler_with_torch(variant: Variant) -> list[str]:
    """A compiler command with torch's headers precompiled."""
    compiler = [os.environ.get("CXX", "g++"), *_flags(variant)]
    FOLDER.mkdir(parents=True, exist_ok=True)
    header = FOLDER / f"torch-{_digest(sys.version, torch.__version__, *compiler)}.h"
    if not header.exists():
        header.write_text(PRECOMPILED)
    os.utime(header)
    _make(Path(f"{header}.gch"), [*compiler, "-x", "c++-header", str(header)])
    return [*compiler, "-include", str(header)]


_compilers = threading.BoundedSemaphore(JOBS)


def _make(out: Path, command: list[str]) -> None:
    """Run a compiler that writes `out`, unless it exists. Its output is renamed once complete."""
    if out.exists():
        os.utime(out)
        return
    part = out.with_name(f"{os.getpid()}-{threading.get_ident()}-{out.name}")
    with _compilers:
        subprocess.run([*command, "-o", str(part)], check=True, env=without_preload())
    part.rename(out)


def _forget_old(days: float = 2) -> None:
    """Remove files that no build has used for days: every edit of a kernel leaves some behind."""
    for path in FOLDER.iterdir():
        with contextlib.suppress(FileNotFoundError):  # removed by another build
            if path.is_file() and time.time() - path.stat().st_mtime > days * 86400:
                path.unlink()


def _included(
    source: Path, include_path: list[Path], seen: dict[Path, bytes] | None = None
) -> dict[Path, bytes]:
    """A source and the project files that it includes, in order, with their contents."""
    seen = {} if seen is None else seen
    if source not in seen:
        seen[source] = source.read_bytes()
        for name in re.findall(rb'^\s*#\s*include\s+"([^"]+)"', seen[source], re.MULTILINE):
            candidates = [folder / name.decode() for folder in (source.parent, *include_path)]
            if path := next(filter(Path.exists, candidates), None):
                _included(path.resolve(), include_path, seen)
    return seen


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def sources(variant: Variant) -> list[tuple[Path, list[Path]]]:
    """The CUDA sources of a variant, each with where it looks for headers.

    Those that the variant takes come first: of an inline function that several objects define, the
    linker keeps the first definition.
    """
    ours, others = [], []
    for source in sorted((ROOT / "csrc" / "cuda").rglob("*.cu")):
        path = source.relative_to(ROOT / "csrc")
        if variant.takes(path):
            ours.append((variant.csrc / path, variant.include_path(variant.csrc)))
        else:
            others.append((source, variant.include_path(ROOT / "csrc")))
    return [*ours, *others]


def objects(compiler: list[str], sources: list[tuple[Path, list[Path]]]) -> list[Path]:
    """The object of each source, with where that looks for headers, built if necessary.

    They are named by contents and flags and not by the folder of a source, so that variants share
    what they can.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    _forget_old()
    flags = _digest(sys.version, torch.__version__, *compiler)
    commands = {}
    for source, include_path in sources:
        key = _digest(flags, *_included(source.resolve(), include_path).values())
        use = [*(f"-I{path}" for path in include_path), "-x", "c++", "-c"]
        commands[FOLDER / f"{source.stem}-{key}.o"] = [*compiler, *use, str(source)]
    with ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(_make, commands.keys(), commands.values()))
    return list(commands)


def link(parts: list[Path], *flags: str) -> Path:
    """A shared library of some objects and libraries, with torch's, built if necessary."""
    library = FOLDER / f"lib-{_digest(*map(str, parts), *flags)}.so"
    paths = [f"-L{path}" for path in cpp_extension.library_paths()]
    compiler = os.environ.get("CXX", "g++")
    command = [compiler, "-shared", *map(str, parts), *paths, "-lc10", "-ltorch", "-ltorch_cpu"]
    _make(library, [*command, *flags])
    return library


def build(variant: Variant | None = None) -> Path:
    """The operator library of a variant, built if necessary."""
    variant = variant or Variant()
    own = ["control.cpp", *(["race/memory.cpp"] if variant.races else [])]
    parts = objects(
        compiler_with_torch(variant),
        [*sources(variant), *((HERE / name, variant.include_path(ROOT / "csrc")) for name in own)],
    )
    flags = [*variant.link_flags]
    if variant.races:
        parts += _race_detector()
        # That source stands in front of functions of torch's, which it names as the linker does.
        text = re.sub(r'"\s+"', "", (HERE / "race" / "memory.cpp").read_text())
        symbols = re.findall(r'"(_ZN\w+)"', text)
        assert len(symbols) == text.count("IN_FRONT_OF(") - 1, symbols
        flags += [f"-Wl,--wrap={symbol}" for symbol in symbols]
    return link(parts, *flags)


def selftest(sanitized: bool = False) -> Path:
    """The program that tests the emulator, built if necessary."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    command = compiler_without_torch() + (["-fsanitize=address"] if sanitized else [])
    source = HERE / "selftest.cpp"
    key = _digest(*command, *_included(source, [HERE, ROOT / "csrc"]).values())
    program = FOLDER / f"selftest-{key}"
    _make(program, [*command, str(source)])
    return program


def race_selftest() -> Path:
    """The program that tests the race detector, built if necessary."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    source = HERE / "race" / "selftest.cpp"
    detector = [str(path) for path in _race_detector()]
    compiler = [*compiler_without_torch(), *RACE_FLAGS]
    contents = _included(source, [HERE, ROOT / "csrc"])
    key = _digest(*compiler, *detector, *contents.values())
    instrumented = FOLDER / f"race-selftest-{key}.o"
    _make(instrumented, [*compiler, "-c", str(source)])
    program = FOLDER / f"race-selftest-{key}"
    _make(program, [compiler[0], str(instrumented), *detector])
    return program


_definitions: list[torch.library.Library] = []


def load(library: Path) -> None:
    """Load a library built here. Its operators have the schemas of fastprune's."""
    import fastprune  # noqa: F401, registers the schemas that are copied here

    definition = torch.library.Library(LIBRARY, "DEF")
    for schema in torch._C._jit_get_all_schemas():
        if schema.name.startswith("fastprune::"):
            definition.define(str(schema).removeprefix("fastprune::"))
    _definitions.append(definition)
    torch.ops.load_library(str(library))


def namespace() -> Any:
    """The operators of the loaded library, and those that control.cpp adds."""
    return getattr(torch.ops, LIBRARY)


def policy(folder: Path) -> dict[str, str]:
    """The constants of a cuda/policy.h, as they are written: "TopkPolicy::kThreads" and so on."""
    constants = {}
    struct = ""
    for line in (folder / "cuda" / "policy.h").read_text().splitlines():
        if match := re.match(r"struct (\w+) \{$", line):
            struct = f"{match[1]}::"
        elif line == "};":
            struct = ""
        elif match := re.match(r" *(?:static )?constexpr \w+ (\w+) = (.+);", line):
            constants[struct + match[1]] = match[2]
    return constants


def kernels(csrc: Path = ROOT / "csrc") -> set[str]:
    """The names of all kernels in the sources."""
    text = "".join(p.read_text() for p in [*csrc.rglob("*.cu"), *csrc.rglob("*.cuh")])
    found = re.findall(r"__global__ void(?:\s+__launch_bounds__\([^)]*\))?\s+(\w+)\(", text)
    assert len(found) == text.count("__global__"), "a kernel is declared in a way unknown here"
    return set(found)


def launched() -> dict[str, int]:
    """The number of launches of each kernel so far, without template arguments."""
    counts: dict[str, int] = {}
    if not _definitions:  # no library was loaded
        return counts
    for line in namespace().launched().splitlines():
        name, count = line.split("\t")
        plain = re.sub(r"[()]|<.*", "", name)
        counts[plain] = counts.get(plain, 0) + int(count)
    return counts


if __name__ == "__main__":
    print(build())
