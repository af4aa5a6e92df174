"""Prune a real sentence encoder step by step, with upstream and with fastprune.

Every linear weight of all-MiniLM-L6-v2 is pruned globally by magnitude, in equal steps of
sparsity, once with ``torch.nn.utils.prune`` and once with ``fastprune``. Each step checks that
the masks agree, times both, and measures how far the embeddings of real sentences moved. In the end
single sentences are embedded, one forward each: dense, pruned by either library, and pruned inside
of ``fastprune.cached``.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.utils.prune as upstream
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn

import fastprune
from encoder import (
    HERE,
    cosine_distance,
    describe_input,
    describe_machine,
    embed,
    linear_layers,
    load_model,
    load_sentences,
)


class MismatchError(Exception):
    """The two libraries did not do the same thing."""


@dataclass
class Contender:
    """One library, its own copy of the model, and the layers that it prunes."""

    name: str
    prune: ModuleType
    model: Any
    layers: dict[str, nn.Linear]

    @classmethod
    def of(cls, name: str, prune: ModuleType, dense_model: Any) -> Contender:
        model = copy.deepcopy(dense_model)
        return cls(name, prune, model, linear_layers(model))

    def prune_step(self, amount: float) -> float:
        """Prune that share of the weights still active; return the seconds it took."""
        parameters = [(layer, "weight") for layer in self.layers.values()]
        start = time.perf_counter()
        self.prune.global_unstructured(
            parameters, pruning_method=self.prune.L1Unstructured, amount=amount
        )
        return time.perf_counter() - start

    def masks(self) -> dict[str, Tensor]:
        return {name: layer.get_buffer("weight_mask") for name, layer in self.layers.items()}

    def check_containers(self, step: int) -> None:
        """From the second step on, every layer holds the steps in one container."""
        for name, layer in self.layers.items():
            hooks: list[Any] = list(layer._forward_pre_hooks.values())
            stacked = len(hooks) == 1 and isinstance(hooks[0], self.prune.PruningContainer)
            if not stacked or len(hooks[0]) != step:
                found = ", ".join(type(hook).__name__ for hook in hooks) or "no hook"
                raise MismatchError(
                    f"{self.name}, {name}: a PruningContainer of {step} expected, found {found}"
                )


@dataclass(frozen=True)
class StepResult:
    step: int
    amount: float
    sparsity: float
    upstream_seconds: float
    fastprune_seconds: float
    speedup: float
    ties_resolved_differently: int
    cosine_distance: float
    similarity_change: float
    embedding_difference: float


def similarity_change(before: Tensor, after: Tensor) -> float:
    """How much the similarity of two sentences changed, on average over all pairs."""
    rows, columns = torch.triu_indices(len(before), len(before), offset=1)
    change = (after @ after.T - before @ before.T)[rows, columns]
    return float(change.abs().mean())


def step_amounts(steps: int, sparsity: float) -> list[float]:
    """The share of the active weights to prune each time, for equal steps of overall sparsity."""
    reached = [sparsity * step / steps for step in range(steps + 1)]
    return [(now - before) / (1 - before) for before, now in itertools.pairwise(reached)]


def zeros(masks: dict[str, Tensor]) -> int:
    return sum(mask.numel() - int(mask.count_nonzero()) for mask in masks.values())


def compare_masks(
    dense: dict[str, Tensor], theirs: dict[str, Tensor], ours: dict[str, Tensor]
) -> int:
    """Check that the masks agree; return how many tied entries were resolved differently.

    Upstream leaves open which of the entries exactly at the threshold go, so only those may differ.
    """
    differing = [name for name in dense if not torch.equal(theirs[name], ours[name])]
    if not differing:
        return 0
    if zeros(theirs) != zeros(ours):
        raise MismatchError(f"upstream pruned {zeros(theirs)} weights, fastprune {zeros(ours)}")
    pruned = [dense[name][theirs[name] == 0].abs() for name in dense]
    threshold = max(float(magnitudes.max()) for magnitudes in pruned if magnitudes.numel())
    ties = 0
    for name in differing:
        magnitudes = dense[name][theirs[name] != ours[name]].abs()
        wrong = int((magnitudes != threshold).sum())
        if wrong:
            raise MismatchError(f"{name}: the masks differ in {wrong} entries that are no ties")
        ties += magnitudes.numel()
    return ties


def warm_up(contenders: Sequence[Contender]) -> None:
    """Keep the cost of a first call (threads, lazy initialisation) out of the first step."""
    for contender in contenders:
        layer = nn.Linear(512, 512)
        for _ in range(2):
            contender.prune.global_unstructured(
                [(layer, "weight")], pruning_method=contender.prune.L1Unstructured, amount=0.1
            )


def run_step(
    step: int,
    amount: float,
    contenders: Sequence[Contender],
    dense: dict[str, Tensor],
    sentences: Sequence[str],
    reference: Tensor,
) -> StepResult:
    # Take turns to go first, so that neither always finds the caches warm.
    order = contenders if step % 2 else contenders[::-1]
    seconds = {contender.name: contender.prune_step(amount) for contender in order}
    if step > 1:
        for contender in contenders:
            contender.check_containers(step)
    theirs, ours = (contender.masks() for contender in contenders)
    ties = compare_masks(dense, theirs, ours)
    their_embeddings, our_embeddings = (embed(c.model, sentences) for c in contenders)
    return StepResult(
        step=step,
        amount=amount,
        sparsity=zeros(ours) / sum(mask.numel() for mask in ours.values()),
        upstream_seconds=seconds["upstream"],
        fastprune_seconds=seconds["fastprune"],
        speedup=seconds["upstream"] / seconds["fastprune"],
        ties_resolved_differently=ties,
        cosine_distance=cosine_distance(reference, our_embeddings),
        similarity_change=similarity_change(reference, our_embeddings),
        embedding_difference=float((their_embeddings - our_embeddings).abs().max()),
    )


def run_steps(
    contenders: Sequence[Contender],
    dense_model: Any,
    amounts: Sequence[float],
    sentences: Sequence[str],
    console: Console,
) -> list[StepResult]:
    dense = {name: m.weight.detach() for name, m in linear_layers(dense_model).items()}
    reference = embed(dense_model, sentences)
    warm_up(contenders)
    results: list[StepResult] = []
    columns = (TextColumn("Pruning"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Refreshed by hand: a thread that redraws would compete with what is being timed.
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task("", total=len(amounts))
        progress.refresh()
        for step, amount in enumerate(amounts, start=1):
            try:
                result = run_step(step, amount, contenders, dense, sentences, reference)
            except MismatchError as mismatch:
                raise MismatchError(f"step {step}: {mismatch}") from None
            results.append(result)
            progress.update(task, advance=1, refresh=True)
    return results


def time_forwards(
    contenders: Sequence[Contender], dense_model: Any, sentences: Sequence[str], count: int
) -> dict[str, float]:
    """Seconds of embedding one sentence, the median of ``count``, by model; they take turns."""
    cached = copy.deepcopy(contenders[1].model)
    models = {"dense": dense_model, **{c.name: c.model for c in contenders}, "cached": cached}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad(), fastprune.cached(cached):
        for sentence in itertools.islice(itertools.cycle(sentences), count):
            for name, model in models.items():
                start = time.perf_counter()
                embed(model, [sentence])
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def make_totals(results: Sequence[StepResult]) -> dict[str, Any]:
    upstream_seconds = sum(result.upstream_seconds for result in results)
    fastprune_seconds = sum(result.fastprune_seconds for result in results)
    return {
        "upstream_seconds": upstream_seconds,
        "fastprune_seconds": fastprune_seconds,
        "speedup": upstream_seconds / fastprune_seconds,
        "ties_resolved_differently": sum(r.ties_resolved_differently for r in results),
        "sparsity": results[-1].sparsity,
    }


def make_table(results: Sequence[StepResult]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0)  # 80 columns must do
    headings = ("Step", "Sparsity", "Upstream\n(ms)", "fastprune\n(ms)", "Speed-up", "Masks")
    for heading in (*headings, "Cosine\ndistance", "Similarity\nchange"):
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for result in results:
        ties = result.ties_resolved_differently
        table.add_row(
            str(result.step),
            f"{result.sparsity:.2%}",
            f"{result.upstream_seconds * 1e3:.1f}",
            f"{result.fastprune_seconds * 1e3:.1f}",
            f"{result.speedup:.1f}x",
            f"{ties} ties" if ties else "equal",
            f"{result.cosine_distance:.4f}",
            f"{result.similarity_change:.4f}",
        )
    return table


def draw(results: Sequence[StepResult], totals: dict[str, Any], path: Path) -> None:
    """Time and quality against sparsity, side by side."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    time_axes, quality_axes = figure.subplots(1, 2)
    sparsity = [result.sparsity * 100 for result in results]
    theirs = [result.upstream_seconds * 1e3 for result in results]
    ours = [result.fastprune_seconds * 1e3 for result in results]
    time_axes.plot(sparsity, theirs, "o-", color="tab:gray", label="torch.nn.utils.prune")
    time_axes.plot(sparsity, ours, "o-", color="tab:orange", label="fastprune")
    time_axes.set_yscale("log")
    time_axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    time_axes.set_ylim(min(*theirs, *ours) / 2, max(*theirs, *ours) * 2)
    time_axes.set_ylabel("time of one step (ms, log scale)")
    time_axes.set_title(f"Pruning time: {totals['speedup']:.1f}x faster in total")
    distances = [result.cosine_distance for result in results]
    changes = [result.similarity_change for result in results]
    quality_axes.plot(
        sparsity, distances, "o-", color="tab:blue", label="cosine distance from the dense model"
    )
    quality_axes.plot(
        sparsity, changes, "s--", color="tab:green", label="change of pairwise similarity"
    )
    quality_axes.set_ylim(bottom=0)
    quality_axes.set_ylabel("mean over the sentences")
    quality_axes.set_title("How far the embeddings moved")
    for axes in (time_axes, quality_axes):
        axes.set_xlabel("sparsity of the linear weights (%)")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=150)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--sparsity", type=float, default=0.9, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--forwards", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="default: %(default)s")
    options = parser.parse_args(arguments)
    if min(options.steps, options.threads, options.forwards) < 1:
        parser.error("--steps, --threads and --forwards must be at least 1")
    if not 0 < options.sparsity < 1:
        parser.error("--sparsity must lie between 0 and 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    console = Console(highlight=False)
    sentences = load_sentences()
    with console.status("Loading the model"):
        dense_model = load_model()
    given = describe_input(dense_model, sentences)
    console.print(
        f"{given['model']}: {given['weights']:,} weights in {given['layers']} linear layers\n"
        f"{given['sentences']} sentences, {options.threads} threads, torch {torch.__version__}"
    )
    try:
        amounts = step_amounts(options.steps, options.sparsity)
        contenders = [
            Contender.of("upstream", upstream, dense_model),
            Contender.of("fastprune", fastprune, dense_model),
        ]
        results = run_steps(contenders, dense_model, amounts, sentences, console)
    except MismatchError as mismatch:
        print(f"error: upstream and fastprune disagree: {mismatch}", file=sys.stderr)
        return 1
    totals = make_totals(results)
    with console.status("Embedding single sentences"):
        forwards = time_forwards(contenders, dense_model, sentences, options.forwards)
    report = {
        "machine": describe_machine(),
        "input": given,
        "steps": [asdict(result) for result in results],
        "totals": totals,
        "seconds_of_a_forward": forwards,
    }
    json_path, png_path = options.out / "prune_minilm.json", options.out / "prune_minilm.png"
    json_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    draw(results, totals, png_path)
    console.print(make_table(results))
    print(f"Wrote {json_path}\nWrote {png_path}")
    print(
        f"Masks agree at all {len(results)} steps, up to {totals['sparsity']:.1%} sparsity. "
        f"Upstream {totals['upstream_seconds']:.3f} s, fastprune "
        f"{totals['fastprune_seconds']:.3f} s: speed-up {totals['speedup']:.1f}x"
    )
    factors = ", ".join(f"{n} {s / forwards['dense']:.2f}" for n, s in forwards.items())
    print(f"Embedding one sentence, against the dense model: {factors}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
