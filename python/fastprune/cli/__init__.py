"""The command line: ``python -m fastprune``, or ``fastprune`` where it is installed.

Without a command it prints facts about the installation and tests every operator; ``prune`` writes
a pruned copy of a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from fastprune import __version__

if TYPE_CHECKING:
    from .job import Progress, Request

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: those of the process, by default.

    Returns:
        The exit status: 0, or 1 after an error or a failed self-test; 130 after an interrupt.
    """
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastprune",
        description="Without a command: facts about this installation, and a test of every "
        "operator on every device, in seconds.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.set_defaults(run=_check)
    commands = parser.add_subparsers(title="commands")
    info = commands.add_parser("info", help="the facts, without the test")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=_info)
    _add_prune(commands.add_parser("prune", help="write a pruned copy of a safetensors file"))
    return parser


def _add_prune(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Writes a pruned copy of a safetensors file, in bounded memory. The copy has the tensors, "
        "dtypes and size of the input, which is only read, and appears whole or not at all."
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a safetensors file")
    parser.add_argument("out", type=Path, metavar="OUT", help="the pruned copy")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--sparsity", type=_fraction, metavar="FRACTION", help="that is zero in the end, 0 to 1"
    )
    budget.add_argument(
        "--amount", type=int, metavar="NUMBER", help="of entries, or of blocks, to prune"
    )
    parser.add_argument(
        "--method",
        choices=["magnitude", "row", "block", "nm"],
        default="magnitude",
        help="smallest entries of a tensor (the default), of each row, smallest blocks, or N:M",
    )
    parser.add_argument(
        "--scope",
        choices=["local", "global"],
        default="local",
        help="of --method magnitude: each tensor by itself (the default), or all together",
    )
    parser.add_argument(
        "--nm", type=_pair(":"), default=(2, 4), metavar="N:M", help="of M entries N stay; 2:4"
    )
    parser.add_argument(
        "--block", type=_pair("x"), default=(4, 4), metavar="RxC", help="size of blocks; 4x4"
    )
    for option, what in (("--include", "only"), ("--exclude", "not")):
        parser.add_argument(
            option,
            type=_pattern,
            action="append",
            default=[],
            metavar="REGEX",
            help=f"prune {what} tensors with such a name; may be given several times. Without: "
            "all floating-point tensors of two dims or more, embeddings too",
        )
    parser.add_argument("--device", default="cpu", help="where to compute; cpu")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.set_defaults(run=_prune, error=parser.error)


def _fraction(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text}")
    return value


def _pair(between: str) -> Callable[[str], tuple[int, int]]:
    def parse(text: str) -> tuple[int, int]:
        found = re.fullmatch(rf"(\d+){between}(\d+)", text)
        if found is None:
            raise argparse.ArgumentTypeError(
                f"expected two numbers as in 2{between}4, got {text!r}"
            )
        return int(found[1]), int(found[2])

    return parse


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(
            f"expected a regular expression, got {text!r}: {error}"
        ) from None
    return text


def _info(args: argparse.Namespace) -> int:
    from . import info

    facts = info.collect()
    if args.json:
        print(json.dumps(facts.to_dict(), indent=2))
    else:
        _print_facts(facts)
    return 0


def _print_facts(facts: Any) -> None:
    from . import info

    for label, value in info.rows(facts):
        print(f"{label:14}{value}")
    for remark in facts.remarks():
        print(f"{'note':14}{remark}")


def _check(args: argparse.Namespace) -> int:
    """Facts and self-test."""
    from . import info, selftest

    facts = info.collect()
    started = time.perf_counter()
    if not args.json:
        _print_facts(facts)
    results = []
    for result in selftest.run():
        results.append(result)
        if not result.ok and not args.json:
            print(f"{'FAILED':14}{result.op} on {result.device}: {result.error}", flush=True)
    failed = sum(not result.ok for result in results)
    if args.json:
        tests = [result.to_dict() for result in results]
        print(json.dumps({**facts.to_dict(), "self_test": tests, "ok": not failed}, indent=2))
    else:
        ops, on = len(selftest.CHECKS), ", ".join(selftest.devices())
        said = f"{failed} of {len(results)} checks failed" if failed else "all work"
        seconds = time.perf_counter() - started
        print(f"{'self-test':14}{ops} operators on {on}: {said} ({seconds:.1f} s)")
    return 1 if failed else 0


def _prune(args: argparse.Namespace) -> int:
    request = _request(args)
    try:
        from .checkpoint import prune_file

        with _terminated_as_an_error(), _bar(args.quiet) as progress:
            report = prune_file(
                args.model, args.out, request, replace=args.force, progress=progress
            )
    except KeyboardInterrupt:
        print(f"fastprune: interrupted, {args.out} was not written", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(
            f"fastprune: pruning a file takes {error.name}: pip install safetensors rich",
            file=sys.stderr,
        )
        return 1
    except (ValueError, OSError, RuntimeError, IndexError) as error:
        print(f"fastprune: {error}", file=sys.stderr)
        return 1
    if not args.quiet:
        print(
            f"{args.out}: {report.tensors} of {report.of} tensors pruned, "
            f"{report.zeros / max(1, report.entries):.2%} of their {report.entries:,} entries are "
            "zero"
        )
    return 0


def _request(args: argparse.Namespace) -> Request:
    from .job import Request

    amount = args.sparsity if args.amount is None else args.amount
    if args.method == "nm":
        n, m = args.nm
        if args.amount is not None or args.sparsity not in (None, 1 - n / max(1, m)):
            args.error(
                f"--method nm has its sparsity from --nm, {n}:{m} is {1 - n / max(1, m):g}; got "
                f"{amount:g}"
            )
        amount = None
    elif amount is None:
        args.error(f"--method {args.method} takes --sparsity or --amount")
    if args.scope == "global" and args.method != "magnitude":
        args.error(f"--scope global is for --method magnitude, got {args.method}")
    return Request(
        method=args.method,
        amount=amount,
        scope=args.scope,
        nm=args.nm,
        block=args.block,
        include=args.include,
        exclude=args.exclude,
        device=args.device,
    )


@contextmanager
def _terminated_as_an_error() -> Iterator[None]:
    """SIGTERM unwinds the stack, so that temporary files are removed."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _bar(quiet: bool) -> Iterator[Progress]:
    """Progress on stderr."""
    from .job import silent

    if quiet:
        yield silent
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as shown:

        def begin(label: str, total: int) -> Callable[[int], None]:
            task = shown.add_task(label, total=total)
            return lambda size: shown.advance(task, size)

        yield begin
