"""Chooses a C++ compiler whose exceptions come through.

One that links libstdc++ statically, as some machines set in CXX, builds an extension in which every
C++ exception ends the process, since torch has loaded another libstdc++: each wrong argument would
be a crash.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

THROWS = """
#include <stdexcept>
extern "C" int caught() {
  try {
    throw std::runtime_error("");
  } catch (const std::exception&) {
    return 7;
  }
}
"""
CALLS = "import ctypes, sys, torch; sys.exit(ctypes.CDLL(sys.argv[1]).caught() != 7)"
#: What a system's own packages install, by the variables that build tools read.
OF_THE_SYSTEM = {"CXX": "/usr/bin/g++", "CC": "/usr/bin/gcc"}


def that_throw(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables to set, none if the compiler of the environment is good, or no other is."""
    if throws(environ.get("CXX", "c++")) or not throws(OF_THE_SYSTEM["CXX"]):
        return {}
    return OF_THE_SYSTEM


def throws(compiler: str) -> bool:
    """Whether an exception in a library of this compiler is caught, in a process with torch."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "throws.cpp", Path(folder) / "throws.so"
        source.write_text(THROWS)
        build = [*compiler.split(), "-shared", "-fPIC", "-o", str(library), str(source)]
        try:
            subprocess.run(build, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return False
        call = [sys.executable, "-c", CALLS, str(library)]
        return subprocess.run(call, capture_output=True).returncode == 0
