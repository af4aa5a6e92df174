"""A file that appears whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from types import TracebackType

#: How the name of a temporary file starts, where the filesystem has no unnamed files.
PREFIX = ".fastprune-partial-"

_Buffer = bytes | bytearray | memoryview


class WholeFile:
    """A new file, written under no name and given its own at the end.

    Linux's unnamed files (``O_TMPFILE``) are gone with the process however it ends. Where the
    filesystem or the system lacks them, the temporary is a file beside ``path`` whose name starts
    with ``PREFIX``; it is removed after an error or an interrupt, but not after SIGKILL.

    Args:
        path: of the file; its folder exists.
        replace: whether there may be one already, which is replaced.
        mode: permissions, of which the umask takes some away.

    Raises:
        FileExistsError: at the end, there is one and it may not be replaced.
    """

    def __init__(self, path: Path, *, replace: bool = False, mode: int = 0o666) -> None:
        self.path = path
        self._replace = replace
        self._mode = mode
        self._temporary: Path | None = None
        self._fd = -1

    def __enter__(self) -> WholeFile:
        flags = getattr(os, "O_TMPFILE", None)
        if flags is not None and Path("/proc/self/fd").exists():
            # Any error: filesystems and old kernels give different ones.
            with suppress(OSError):
                self._fd = os.open(self.path.parent, flags | os.O_WRONLY, self._mode)
        if self._fd < 0:
            temporary = self._beside()
            self._fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, self._mode)
            self._temporary = temporary
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                os.fsync(self._fd)
                self._publish()
        finally:
            os.close(self._fd)
            if self._temporary is not None:
                with suppress(FileNotFoundError):  # it was renamed
                    self._temporary.unlink()

    def write(self, data: _Buffer) -> None:
        """Append all of it."""
        rest = memoryview(data).cast("B")
        while len(rest):
            rest = rest[os.write(self._fd, rest) :]

    def _publish(self) -> None:
        if self._temporary is None:
            try:
                self._link(self.path)  # fails if there is a file, and replaces none
                self._sync_folder()
                return
            except FileExistsError:
                if not self._replace:
                    raise
            temporary = self._beside()
            self._temporary = temporary
            self._link(temporary)
        if not self._replace and os.path.lexists(self.path):
            raise FileExistsError(f"expected no file at {self.path}, got one that is new")
        os.replace(self._temporary, self.path)
        self._sync_folder()

    def _link(self, path: Path) -> None:
        """Give the unnamed file a name."""
        # With a folder's descriptor Python calls linkat(), which alone follows the link in /proc.
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.link(f"/proc/self/fd/{self._fd}", path.name, dst_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)

    def _sync_folder(self) -> None:
        """The name outlives a power failure, too."""
        if hasattr(os, "O_DIRECTORY"):
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _beside(self) -> Path:
        return self.path.with_name(PREFIX + secrets.token_hex(8))
