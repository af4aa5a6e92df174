"""Prune a real sentence encoder to 50% and to 2:4, by magnitude and by Wanda.

Wanda's norms come from some of the demo's sentences; how far embeddings move, and whether
neighbours keep their order, is measured on the others. Every mask is also made the ways of other
libraries, which are timed in the same run, and the masks are compared entry by entry.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.utils.prune as upstream
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn

import fastprune as prune
from encoder import cosine_distance, embed, linear_layers, load_model, load_sentences

CALIBRATE_ON_EVERY = 4  # every fourth sentence, as neighbours in the file have one topic
NEIGHBOURS = 5  # of 29 others: an order by chance has one of six right

#: Prunes one layer; of its inputs it gets the norms.
Prune = Callable[[nn.Linear, Tensor], object]


class MismatchError(Exception):
    """Two ways of one method pruned different entries."""


# The ways of others, written anew from what they compute. All but upstream's leave zeros in the
# weight itself, and neither mask nor hook, which is less to do.


@torch.no_grad()
def row_sort(layer: nn.Linear, norms: Tensor) -> None:
    """Wanda and llm-compressor: each row is sorted, and its lower half is pruned."""
    scores = layer.weight.abs() * norms
    lower = scores.sort(dim=1, stable=True).indices[:, : scores.shape[1] // 2]
    layer.weight[torch.zeros_like(scores, dtype=torch.bool).scatter_(1, lower, True)] = 0


@torch.no_grad()
def column_loop(layer: nn.Linear, norms: Tensor) -> None:
    """Wanda and llm-compressor, 2:4: a ``topk`` for every four columns."""
    scores = layer.weight.abs() * norms
    pruned = torch.zeros_like(scores, dtype=torch.bool)
    for first in range(0, scores.shape[1], 4):
        lower = scores[:, first : first + 4].topk(2, dim=1, largest=False).indices
        pruned.scatter_(1, first + lower, True)
    layer.weight[pruned] = 0


@torch.no_grad()
def group_sort(layer: nn.Linear, norms: Tensor | float) -> None:
    """torchao, 2:4: all groups of four are sorted at once."""
    groups = (layer.weight.abs() * norms).view(-1, 4)
    mask = torch.ones_like(groups).scatter_(1, groups.argsort(dim=1)[:, :2], 0)
    layer.weight.mul_(mask.view_as(layer.weight))


@torch.no_grad()
def group_topk(layer: nn.Linear, norms: Tensor | float) -> None:
    """The same by ``topk``, as in ``torch.ao.pruning``."""
    groups = (layer.weight.abs() * norms).view(-1, 4)
    lower = groups.topk(2, dim=1, largest=False).indices
    mask = torch.ones_like(groups).scatter_(1, lower, 0)
    layer.weight.mul_(mask.view_as(layer.weight))


@dataclass(frozen=True)
class Method:
    name: str
    ours: Prune
    peers: Mapping[str, Prune]
    calibrated: bool
    #: The weight in this shape has in each row the entries that compete with each other.
    competing: Callable[[nn.Linear], tuple[int, int]]


METHODS = (
    Method(
        "50% magnitude",
        lambda layer, norms: prune.l1_unstructured(layer, "weight", 0.5),
        {"upstream": lambda layer, norms: upstream.l1_unstructured(layer, "weight", 0.5)},
        calibrated=False,
        competing=lambda layer: (1, -1),
    ),
    Method(
        "50% Wanda",
        lambda layer, norms: prune.row_unstructured(layer, "weight", sparsity=0.5, factor=norms),
        {"row sort": row_sort},
        calibrated=True,
        competing=lambda layer: (layer.out_features, -1),
    ),
    Method(
        "2:4 magnitude",
        lambda layer, norms: prune.nm_structured(layer, "weight", 2, 4),
        {
            "group sort": lambda layer, norms: group_sort(layer, 1.0),
            "group topk": lambda layer, norms: group_topk(layer, 1.0),
        },
        calibrated=False,
        competing=lambda layer: (-1, 4),
    ),
    Method(
        "2:4 Wanda",
        lambda layer, norms: prune.nm_structured(layer, "weight", 2, 4, factor=norms),
        {"column loop": column_loop, "group sort": group_sort, "group topk": group_topk},
        calibrated=True,
        competing=lambda layer: (-1, 4),
    ),
)


@dataclass(frozen=True)
class PeerResult:
    seconds: list[float]
    differing: int


@dataclass(frozen=True)
class Result:
    method: str
    cosine_distance: float
    rank_correlation: float
    neighbours_kept: float
    seconds: list[float]
    peers: dict[str, PeerResult]


def split(sentences: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those to calibrate on, and the others."""
    return (
        list(sentences[::CALIBRATE_ON_EVERY]),
        [s for place, s in enumerate(sentences) if place % CALIBRATE_ON_EVERY],
    )


def calibrate(model: Any, sentences: Sequence[str]) -> dict[str, Tensor]:
    """The norms of the inputs of each linear layer."""
    layers = linear_layers(model)
    with prune.input_norms(layers.values()) as norms:
        for sentence in sentences:  # one by one: a batch is padded, and padding would count
            embed(model, [sentence])
    return {name: norms[layer] for name, layer in layers.items()}


def similarities_to_others(embeddings: Tensor) -> Tensor:
    """A row for each sentence, without the sentence itself."""
    count = len(embeddings)
    others = ~torch.eye(count, dtype=torch.bool, device=embeddings.device)
    return (embeddings @ embeddings.T)[others].view(count, count - 1)


def rank_correlation(before: Tensor, after: Tensor) -> float:
    """Spearman's, of the others by their similarity; the mean over all sentences."""
    ranks = [similarities_to_others(e).argsort(1).argsort(1).double() for e in (before, after)]
    first, second = (r - r.mean(1, keepdim=True) for r in ranks)
    return float(nn.functional.cosine_similarity(first, second).mean())


def neighbours_kept(before: Tensor, after: Tensor) -> float:
    """How many of a sentence's nearest others are still among them, as a share."""
    count = min(NEIGHBOURS, len(before) - 1)
    old, new = (similarities_to_others(e).topk(count, dim=1).indices for e in (before, after))
    return float((old.unsqueeze(2) == new.unsqueeze(1)).sum() / old.numel())


def prune_all(way: Prune, layers: Mapping[str, nn.Linear], norms: Mapping[str, Tensor]) -> float:
    """The seconds that all layers took."""
    start = time.perf_counter()
    for name, layer in layers.items():
        way(layer, norms[name])
    return time.perf_counter() - start


def count_differing(
    method: Method,
    dense: Mapping[str, nn.Linear],
    ours: Mapping[str, nn.Linear],
    theirs: Mapping[str, nn.Linear],
    norms: Mapping[str, Tensor],
) -> int:
    """How many entries one way pruned and the other did not; only equal scores may do so."""
    differing = 0
    for name, layer in dense.items():
        here, there = ours[name].weight != 0, theirs[name].weight != 0
        if torch.equal(here, there):
            continue
        differing += int((here != there).sum())
        scores = layer.weight.detach().abs()
        if method.calibrated:
            scores = scores * norms[name]
        shape = method.competing(layer)
        kept, kept_there = ((scores * mask).reshape(shape).sort(1).values for mask in (here, there))
        if not torch.equal(kept, kept_there):
            raise MismatchError(f"{method.name}, {name}: masks differ in entries that are no ties")
    return differing


def measure(
    method: Method,
    dense_model: Any,
    norms: Mapping[str, Tensor],
    evaluation: Sequence[str],
    repeats: int,
    advance: Callable[[], None],
) -> Result:
    dense = linear_layers(dense_model)
    model = copy.deepcopy(dense_model)
    ours = linear_layers(model)
    prune_all(method.ours, ours, norms)
    before, after = embed(dense_model, evaluation), embed(model, evaluation)
    differing: dict[str, int] = {}
    for name, way in method.peers.items():
        theirs = copy.deepcopy(dense)
        prune_all(way, theirs, norms)
        differing[name] = count_differing(method, dense, ours, theirs, norms)
    advance()
    ways = {"": method.ours, **method.peers}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats):
        # They take turns to go first, so that none always finds the caches warm.
        for name in sorted(ways, reverse=repeat % 2 == 1):
            # Once off the clock, or its memory would be as the way before has left it. Fresh copies
            # are made off the clock as well.
            prune_all(ways[name], copy.deepcopy(dense), norms)
            seconds[name].append(prune_all(ways[name], copy.deepcopy(dense), norms))
        advance()
    return Result(
        method=method.name,
        cosine_distance=cosine_distance(before, after),
        rank_correlation=rank_correlation(before, after),
        neighbours_kept=neighbours_kept(before, after),
        seconds=seconds[""],
        peers={name: PeerResult(seconds[name], differing[name]) for name in method.peers},
    )


def measure_all(
    dense_model: Any, sentences: Sequence[str], repeats: int, console: Console
) -> list[Result]:
    calibration, evaluation = split(sentences)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # Refreshed by hand: a thread that redraws would compete with what is being timed.
    with Progress(*columns, TimeElapsedColumn(), console=console, auto_refresh=False) as progress:
        task = progress.add_task("Calibrating", total=1 + len(METHODS) * (1 + repeats))
        progress.refresh()
        norms = calibrate(dense_model, calibration)
        progress.update(task, advance=1, refresh=True)
        results: list[Result] = []
        for method in METHODS:
            progress.update(task, description=method.name, refresh=True)
            results.append(
                measure(
                    method,
                    dense_model,
                    norms,
                    evaluation,
                    repeats,
                    lambda: progress.update(task, advance=1, refresh=True),
                )
            )
        progress.update(task, description="Pruning", refresh=True)
    return results


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.1f}"


def make_table(results: Sequence[Result], sentences: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, caption_justify="left")  # 80 columns must do
    headings = ("Cosine\ndist.", "Rank\ncorr.", f"Top {NEIGHBOURS}\nkept", "fastprune\n(ms)")
    table.add_column("Method", no_wrap=True, vertical="bottom")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    table.add_column("Other way", no_wrap=True, vertical="bottom")
    for heading in ("Time\n(ms)", "Speed-up", "Masks"):
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    table.caption = (
        f"Quality on {sentences} sentences that did not calibrate, the mean over them, against "
        "the dense model. Cosine dist.: between a sentence's embeddings. Rank corr.: Spearman's, "
        "of the other sentences by their similarity to this one. "
        f"Top {NEIGHBOURS} kept: the share of the {NEIGHBOURS} most similar ones that still are. "
        "Times: medians, of all layers, without calibration. "
        "Masks: ties are entries of equal score, pruned by one of the two."
    )
    for result in results:
        ours = statistics.median(result.seconds)
        shown = [
            result.method,
            f"{result.cosine_distance:.3f}",
            f"{result.rank_correlation:.3f}",
            f"{result.neighbours_kept:.0%}",
            milliseconds(ours),
        ]
        for name, peer in result.peers.items():
            theirs = statistics.median(peer.seconds)
            ties = f"{peer.differing} ties" if peer.differing else "equal"
            table.add_row(*shown, name, milliseconds(theirs), f"{theirs / ours:.1f}x", ties)
            shown = [""] * len(shown)
    return table


def draw(results: Sequence[Result], sentences: int, path: Path) -> None:
    """Quality and time by method, side by side."""
    matplotlib = importlib.import_module("matplotlib")
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(11, 5), layout="constrained"
    )
    distance_axes, order_axes, time_axes = figure.subplots(
        1, 3, sharey=True, width_ratios=(3, 3, 4)
    )
    gray, orange, blue, green = "#b0b0b0", "tab:orange", "tab:blue", "tab:green"
    places = [float(place) for place in range(len(results))]

    distances = [result.cosine_distance for result in results]
    bars = distance_axes.barh(places, distances, height=0.5, color=blue)
    distance_axes.bar_label(bars, fmt="%.3f", padding=3)
    distance_axes.set_xlim(0, max(distances) * 1.25)
    distance_axes.set_title("How far embeddings moved")
    distance_axes.set_xlabel("cosine distance from the dense model")

    kept = [result.neighbours_kept for result in results]
    correlations = [result.rank_correlation for result in results]
    order_axes.plot(kept, places, "o", ms=9, color=green, label=f"nearest {NEIGHBOURS} that stay")
    order_axes.plot(correlations, places, "D", ms=7, color="tab:purple", label="rank correlation")
    order_axes.set_xlim(min(0, *correlations), 1)
    order_axes.set_title("How much of the order stayed")
    order_axes.set_xlabel("1: as in the dense model")

    for place, result in zip(places, results, strict=True):
        ways = {"fastprune": result.seconds, **{n: p.seconds for n, p in result.peers.items()}}
        ours = statistics.median(result.seconds) * 1e3
        for number, (name, seconds) in enumerate(ways.items()):
            times = [s * 1e3 for s in seconds]
            at, median = place + 0.2 * (number - (len(ways) - 1) / 2), statistics.median(times)
            color = gray if number else orange
            time_axes.barh(at, median, height=0.18, color=color)
            time_axes.plot([min(times), max(times)], [at, at], color="#404040", lw=1)
            label = f"{name}: {median / ours:.1f}x" if number else name
            time_axes.annotate(
                label,
                (max(times), at),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                size=9,
            )
    every = [s * 1e3 for result in results for s in result.seconds]
    every += [s * 1e3 for result in results for p in result.peers.values() for s in p.seconds]
    time_axes.set_xscale("log")
    time_axes.set_xlim(min(every) / 2, max(every) * 12)  # room for the labels
    time_axes.xaxis.set_major_formatter(
        importlib.import_module("matplotlib.ticker").StrMethodFormatter("{x:g}")
    )
    time_axes.set_title("Time to prune all layers")
    time_axes.set_xlabel("ms, log scale: median, lowest to highest")

    distance_axes.set_yticks(places, [result.method for result in results])
    distance_axes.invert_yaxis()
    for axes in (distance_axes, order_axes, time_axes):
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    figure.legend(*order_axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(
        f"A sentence encoder pruned to half of its linear weights; {sentences} sentences"
    )
    # The same results give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "fastprune"}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=150, metadata=metadata)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument(
        "--picture", type=Path, help="where to draw the results, a .png or .svg; default: nowhere"
    )
    options = parser.parse_args(arguments)
    if min(options.repeats, options.threads) < 1:
        parser.error("--repeats and --threads must be at least 1")
    if options.picture is not None and options.picture.suffix not in (".png", ".svg"):
        parser.error("--picture must end in .png or .svg")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    console = Console(highlight=False)
    sentences = load_sentences()
    try:
        if options.picture is not None:  # known before the minutes that a run may take
            importlib.import_module("matplotlib.figure")
        with console.status("Loading the model"):
            dense_model = load_model()
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        print(
            f"error: {package} is not installed: pip install -r examples/requirements.txt",
            file=sys.stderr,
        )
        return 1
    layers = linear_layers(dense_model).values()
    calibration, evaluation = split(sentences)
    console.print(
        f"{sum(m.weight.numel() for m in layers):,} weights in {len(layers)} linear layers\n"
        f"{len(calibration)} sentences to calibrate on, {len(evaluation)} others to compare, "
        f"threads: {options.threads}, torch {torch.__version__}"
    )
    try:
        results = measure_all(dense_model, sentences, options.repeats, console)
    except MismatchError as mismatch:
        print(f"error: {mismatch}", file=sys.stderr)
        return 1
    console.print(make_table(results, len(evaluation)))
    if options.picture is not None:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        draw(results, len(evaluation), options.picture)
        print(f"Wrote {options.picture}")
    differing = sum(peer.differing for result in results for peer in result.peers.values())
    print(
        "fastprune and the other ways pruned the same entries"
        + (f", but for {differing} entries of equal score" if differing else "")
        + "."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
