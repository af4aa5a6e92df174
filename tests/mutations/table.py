"""The table of broken kernels, from the TOML files in this folder: one for each family of tests.

An entry says `what` is broken, in which `file` of csrc/cuda, the `old` code and the `new`, and
which `tests` must then fail: a file of tests/, or better one function in it, which takes less time.
`old` is matched by its tokens (tokens.py) and occurs exactly once. Of kernels in instances/ only
those of one `instance` are broken, as each takes a compilation.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuda_on_host import build
from mutations import tokens

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
FAMILIES = ("blocks", "channels", "elementwise", "nm", "util", "topk")


@dataclass(frozen=True)
class Broken:
    """An entry: kernels with one thing broken."""

    what: str
    file: str
    old: str
    new: str
    tests: str
    instance: str = "float32"

    @property
    def id(self) -> str:
        return re.sub(r"\W+", "_", self.what)

    @property
    def path(self) -> Path:
        return build.ROOT / "csrc" / "cuda" / self.file

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of csrc/cuda that the tests use: that of their family, and util."""
        return Path(self.tests).parts[1], "util"

    def text(self) -> str:
        """The file's contents, broken."""
        try:
            return tokens.replace(self.path.read_text(), self.old, self.new)
        except ValueError as error:
            raise ValueError(
                f"{self.file} has changed: {error}. Update the entry {self.what!r}"
            ) from None


def _read(family: str) -> dict[str, list[dict[str, Any]]]:
    with (HERE / f"{family}.toml").open("rb") as file:
        return tomllib.load(file)


_tables = [_read(family) for family in FAMILIES]
BROKEN = [Broken(**entry) for table in _tables for entry in table["broken"]]
#: Entries that change no result: only a sanitizer finds them.
UNSEEN = [Broken(**entry) for table in _tables for entry in table.get("sanitizer", [])]
