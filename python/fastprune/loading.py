"""Why fastprune._C, the compiled part, could not be imported, and what to do about it."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

_BUILD = "pip install --no-build-isolation"


def explained(error: ImportError, init_file: str) -> ImportError:
    """An error in the place of the loader's, which speaks of circular imports and symbols.

    Args:
        error: what the import of ``_C`` raised.
        init_file: of this package.

    Returns:
        The error to raise.
    """
    package = Path(init_file).resolve().parent
    is_source = (package.parents[1] / "csrc" / "bindings.cpp").exists()
    build = f"{_BUILD} {package.parents[1]}" if is_source else f"{_BUILD} ., in its sources"
    if any((package / f"_C{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
        return ImportError(
            f"fastprune's compiled part in {package} does not fit this torch, "
            f"{torch.__version__}: it was built for another one. Build it again with: "
            f"{build} (the loader said: {error})"
        )
    others = sorted(file.name for file in package.glob("_C.*") if file.suffix in (".so", ".pyd"))
    if others:
        return ImportError(
            f"fastprune's compiled part in {package} is for another Python: expected "
            f"_C{EXTENSION_SUFFIXES[0]}, got {', '.join(others)}. Build it again with: {build}"
        )
    if is_source:
        return ImportError(
            f"fastprune was imported from its source folder, {package}, which has no compiled "
            f"part. If it is installed, run Python from another folder (and take this one off "
            f"PYTHONPATH); otherwise build it with: {build}"
        )
    return ImportError(
        f"fastprune's compiled part, expected to be {package / '_C'}{EXTENSION_SUFFIXES[0]}, is "
        f"missing. Build it with: {build}"
    )
