"""Pruning of safetensors files in bounded memory, whatever the size of the file and its tensors.

The output has the header of the input: names, dtypes, metadata, order and size stay. Values are
those of the module functions after ``remove``: a pruned entry is multiplied with zero.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.utils.prune as upstream

from fastprune import ops

from . import job as sizes, masks
from .job import Job, Progress, Request, silent
from .output import WholeFile
from .tensorfile import Entry, TensorFile


@dataclass
class Report:
    """What was done: tensors, of how many, their entries, and zeros among them."""

    tensors: int
    of: int
    entries: int
    zeros: int = 0


def prune_file(
    source: Path,
    target: Path,
    request: Request,
    *,
    replace: bool = False,
    progress: Progress = silent,
) -> Report:
    """Write a pruned copy of a checkpoint, which appears whole or not at all.

    Args:
        source: a safetensors file, which is only read.
        target: the copy.
        request: what to prune, and how.
        replace: whether ``target`` may exist, and is replaced then.
        progress: is told how far it is.

    Returns:
        What was done.

    Raises:
        ValueError: the source is no safetensors file; there is nothing to prune, or the amount is
            out of range; the target is the source.
        OSError: files cannot be read or written; the target exists.
    """
    _check_amount(request)
    _check_target(source, target, replace)
    with TensorFile(source) as file:
        chosen = choose(file.entries, request.include, request.exclude)
        report = Report(len(chosen), len(file.entries), sum(entry.numel for entry in chosen))
        with WholeFile(target, replace=replace, mode=file.mode) as out:
            method = masks.METHODS[request.method](Job(file, request, chosen, progress))
            advance = progress("pruning", sum(entry.size for entry in file.entries))
            out.write(file.header)
            names = {entry.name for entry in chosen}
            for entry in file.entries:
                made = (
                    _pruned(method, entry, report) if entry.name in names else _copied(file, entry)
                )
                for data in made:
                    out.write(data)
                    advance(len(data))
            file.check_unchanged()
    return report


def choose(entries: Sequence[Entry], include: Sequence[str], exclude: Sequence[str]) -> list[Entry]:
    """The tensors to prune: floating point, of two dims or more, with names that fit.

    Raises:
        ValueError: there are none, or masks are among them.
    """
    chosen = [
        entry
        for entry in entries
        if entry.torch_dtype is not None
        and len(entry.shape) > 1
        and (not include or any(re.search(pattern, entry.name) for pattern in include))
        and not any(re.search(pattern, entry.name) for pattern in exclude)
    ]
    if not chosen:
        raise ValueError(
            "expected floating-point tensors of two dims or more with such names, got none among "
            f"{len(entries)} tensors"
        )
    names = {entry.name for entry in entries}
    for entry in chosen:
        if entry.name.endswith("_mask") and f"{entry.name[: -len('_mask')]}_orig" in names:
            raise ValueError(
                f"expected a checkpoint without masks, got {entry.name}: save "
                "fastprune.dense_state_dict(model), or leave it out by --exclude"
            )
    return chosen


def _check_amount(request: Request) -> None:
    if request.method == "nm":
        n, m = request.nm
        if not (1 <= m <= 64 and 0 <= n <= m):
            raise ValueError(f"expected N:M with N up to M and M up to 64, got {n}:{m}")
    else:
        upstream._validate_pruning_amount_init(request.amount)


def _check_target(source: Path, target: Path, replace: bool) -> None:
    if target.exists() and os.path.samefile(source, target):
        raise ValueError(f"expected another file than the input, got {target}")
    if target.is_dir() or not target.parent.is_dir():
        raise ValueError(f"expected a file in a folder that exists, got {target}")
    if os.path.lexists(target) and not replace:
        raise FileExistsError(f"expected no file at {target}, got one (--force replaces it)")


def _copied(file: TensorFile, entry: Entry) -> Iterator[bytearray]:
    for start in range(0, entry.size, sizes.PIECE):
        yield file.read(entry.start + start, min(sizes.PIECE, entry.size - start))


def _pruned(method: masks.Method, entry: Entry, report: Report) -> Iterator[bytearray]:
    for data, t, mask in method(entry):
        ops.masked_mul_(t, mask)
        report.zeros += t.numel() - int(torch.count_nonzero(t))
        if t.device.type != "cpu":
            torch.frombuffer(data, dtype=t.dtype).copy_(t.view(-1))
        yield data
