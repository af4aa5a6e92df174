"""How much memory a case needs, and the peak of one call of it on the CPU."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import torch

from harness.memory import available, process_peak
from harness.records import UPSTREAM
from harness.timing import Contender
from suite.cases import Case
from suite.families import build


def needed(case: Case, contender: str) -> int:
    """Bytes that a case takes with one contender, estimated on the high side."""
    # Everyone holds the weights, an old mask, and what a call makes: a mask and a product.
    held = 5 * case.itemsize * case.numel
    # Upstream works on one flat copy of what it ranks, and torch.topk on pairs of value and index.
    ranked_at_once = case.numel if case.variant.endswith("-global") else case.widest
    if case.family == "global":
        ranked_at_once = case.numel
    if contender == UPSTREAM:
        return held + (8 * case.itemsize + 24) * ranked_at_once
    return held + (4 * case.itemsize + 16) * case.widest  # what the check of a result takes


def lacking(case: Case, contender: str) -> str | None:
    """Why there is too little memory for a contender; None if there is enough."""
    need, have = needed(case, contender), available(case.device)
    if need <= have:
        return None
    return f"needs about {need / 2**30:.1f} GiB of memory, {have / 2**30:.1f} are free"


def cpu_peak(case: Case, contender: str) -> int | None:
    """Bytes by which a call raises the memory of a process at its peak, results included.

    Each call has a process of its own: in this one, memory that earlier calls freed would be taken
    again unnoticed. None where that process dies.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as process:
        peak = process.submit(_peak_here, case, contender, torch.get_num_threads())
        try:
            return peak.result()
        except BrokenProcessPool:
            return None


def _peak_here(case: Case, contender: str, threads: int) -> int:
    torch.set_num_threads(threads)
    small = replace(case, shapes=((512, 512),), family="local", data="normal")
    _contender(small, contender).once()  # thread pools and the like are not the call's memory
    return process_peak(_contender(case, contender))


def _contender(case: Case, name: str) -> Contender:
    return next(c for c in build(case).contenders if c.name == name)
