"""How long things take: contenders in turns, on the clock of their device."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch

from harness.records import FASTPRUNE, FLOOR, UPSTREAM, Timing

SHORTEST_SAMPLE = 200e-6  # seconds: long against the clock's resolution and interrupts
MOST_LOOPS = 500
WARM_UP = 10e-3  # seconds
RAISE_CLOCKS = 0.3  # seconds of work before a GPU is measured
SHORTEST_DELAY, LONGEST_DELAY = 100e-6, 0.5  # seconds that a GPU waits for the host
SHORT_ON_CUDA = 50e-6  # seconds; shorter calls are captured in a graph
GRAPH_CALLS = 20
BEFORE_ALL = -1  # the turn of a sample that was taken to plan the others
WARM_ENOUGH = 1.0  # seconds: a first call this long needs no warm-up


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        name: as in the result file.
        run: the work that is timed, on what ``setup`` made.
        setup: makes what one call needs and may change; not timed.
        scale: what to multiply times by, where the call moves another number of bytes.
        main: whether it gets as much time as fastprune, upstream and the floor.
    """

    name: str
    run: Callable[[Any], Any]
    setup: Callable[[], Any] = _nothing
    scale: float = 1.0
    main: bool = False

    def once(self) -> Any:
        """The result of one call."""
        return self.run(self.setup())

    @property
    def is_alternative(self) -> bool:
        return not self.main and self.name not in (FASTPRUNE, UPSTREAM, FLOOR)


@dataclass(frozen=True)
class Budget:
    """How much time to spend on one contender of one case.

    Attributes:
        main: seconds for fastprune, upstream and the floor.
        alternative: seconds for anything else.
        samples: at most so many, however fast it is.
    """

    main: float
    alternative: float
    samples: int

    def times(self, factor: float) -> Budget:
        """So many times as much of everything."""
        samples = max(round(self.samples * factor), 1)
        return Budget(self.main * factor, self.alternative * factor, samples)

    def seconds(self, contender: Contender) -> float:
        return self.alternative if contender.is_alternative else self.main


class Clock(Protocol):
    """Measures times on one device."""

    def sample(self, contender: Contender, loops: int) -> float:
        """Seconds a call takes, from ``loops`` calls."""

    def host(self, contender: Contender) -> float | None:
        """Seconds until a call returns to the host, where that differs."""

    def loops(self, contender: Contender, seconds: float) -> int:
        """How many calls make a sample, if one takes ``seconds``."""


class CpuClock:
    """Wall time. What a call returns is freed outside of it."""

    def sample(self, contender: Contender, loops: int) -> float:
        states = [contender.setup() for _ in range(loops)]
        start = time.perf_counter()
        results = [contender.run(state) for state in states]
        elapsed = time.perf_counter() - start
        del results
        return elapsed / loops * contender.scale

    def host(self, contender: Contender) -> float | None:
        return None

    def loops(self, contender: Contender, seconds: float) -> int:
        return min(max(math.ceil(SHORTEST_SAMPLE / max(seconds, 1e-9)), 1), MOST_LOOPS)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class CudaClock:
    """Time between two events on the device.

    Before the first event the device is kept busy for as long as the host needs to launch
    everything, so that launch latency does not count, unless the work itself waits for the device.
    Of a short call many are captured in a graph, each with buffers of its own, and replayed, as one
    or two microseconds lie between an event and a kernel. What cannot be captured is timed alone.

    Args:
        warm: keep the contents of the L2 cache instead of reading other memory first.

    Attributes:
        empty_pair: seconds between two events with nothing between them.
    """

    def __init__(self, warm: bool) -> None:
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        size = 0 if warm else max(4 * properties.L2_cache_size, 1 << 28)
        self._flush = torch.zeros(size // 8, dtype=torch.int64, device="cuda")
        self._cycles_per_second = 2e9  # about; only the length of a delay depends on it
        self._host_seconds: WeakKeyDictionary[Contender, float] = WeakKeyDictionary()
        self._graphs: WeakKeyDictionary[Contender, _Graph | None] = WeakKeyDictionary()
        self._raise_clocks()
        self.empty_pair = min(
            self.sample(Contender("nothing", lambda _: None), 1) for _ in range(9)
        )

    def _raise_clocks(self) -> None:
        end = time.perf_counter() + RAISE_CLOCKS
        factor = torch.ones(2048, 2048, device="cuda")
        while time.perf_counter() < end:
            torch.mm(factor, factor)
            torch.cuda.synchronize()

    def sample(self, contender: Contender, loops: int) -> float:
        graph = self._graphs.get(contender)
        if graph is not None:
            return (
                self._between_events(graph.replay, SHORTEST_DELAY) / graph.calls * contender.scale
            )
        state = contender.setup()
        delay = 2 * self._host_seconds.get(contender, 1e-3)
        elapsed = self._between_events(lambda: contender.run(state), delay)
        return elapsed * contender.scale

    def _between_events(self, work: Callable[[], Any], delay: float) -> float:
        start, end = _event(), _event()
        # Read, not written: lines that are written would be written back inside of the sample.
        self._flush.sum()
        seconds = min(max(delay, SHORTEST_DELAY), LONGEST_DELAY)
        torch.cuda._sleep(int(seconds * self._cycles_per_second))  # type: ignore[no-untyped-call]
        start.record()
        result = work()
        end.record()
        end.synchronize()
        del result
        return float(start.elapsed_time(end)) * 1e-3

    def host(self, contender: Contender) -> float | None:
        state = contender.setup()
        torch.cuda.synchronize()
        start = time.perf_counter()
        result = contender.run(state)
        elapsed = time.perf_counter() - start
        torch.cuda.synchronize()
        del result
        known = self._host_seconds.get(contender, elapsed)
        self._host_seconds[contender] = min(known, elapsed)
        return elapsed

    def loops(self, contender: Contender, seconds: float) -> int:
        # By the time it takes, not by what it stands for: graphs make large copies slower.
        if seconds / contender.scale < SHORT_ON_CUDA and contender not in self._graphs:
            self._graphs[contender] = _Graph.of(contender)
        graph = self._graphs.get(contender)
        return 1 if graph is None else graph.calls  # a second call would find the cache warm


class _Graph:
    """Many calls of a contender in one CUDA graph, each on a state of its own."""

    def __init__(self, contender: Contender) -> None:
        self.calls = GRAPH_CALLS
        self._states = [contender.setup() for _ in range(self.calls)]
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._results = [contender.run(state) for state in self._states]
        self.replay()
        torch.cuda.synchronize()

    def replay(self) -> None:
        self._graph.replay()

    @classmethod
    def of(cls, contender: Contender) -> _Graph | None:
        """None if the calls cannot be captured, as they wait for the device."""
        try:
            return cls(contender)
        except Exception:  # whatever torch raises in a capture
            torch.cuda.synchronize()
            return None


@dataclass
class _Plan:
    """One contender, how often to sample it, and its samples so far."""

    contender: Contender
    loops: int
    samples: int
    by_turn: dict[int, float] = field(default_factory=dict)  # seconds
    host: list[float] = field(default_factory=list)

    def due(self, turn: int, turns: int) -> bool:
        """Whether this turn is one of the evenly spaced ``samples`` of all ``turns``."""
        return (turn + 1) * self.samples // turns > turn * self.samples // turns

    def sample(self, clock: Clock, turn: int) -> None:
        self.by_turn[turn] = clock.sample(self.contender, self.loops)
        host = clock.host(self.contender)
        if host is not None:
            self.host.append(host)

    def timing(self, floor: _Plan | None) -> Timing:
        seconds = list(self.by_turn.values())
        return Timing(
            median=float(np.median(seconds)),
            spread=spread_of(seconds),
            samples=len(seconds),
            loops=self.loops,
            host=float(np.median(self.host)) if self.host else None,
            of_floor=None if floor is None else self._of(floor),
        )

    def _of(self, other: _Plan) -> float | None:
        both = self.by_turn.keys() & other.by_turn
        ratios = [self.by_turn[turn] / other.by_turn[turn] for turn in both]
        return float(np.median(ratios)) if ratios else None


def spread_of(seconds: Sequence[float]) -> float | None:
    """Interquartile range over median; the whole range where there are under four samples."""
    if len(seconds) < 2:
        return None
    low, high = np.percentile(seconds, (25, 75) if len(seconds) > 3 else (0, 100))
    return float((high - low) / np.median(seconds))


def fewest_samples(seconds: float) -> int:
    """The least number of samples of a call that takes ``seconds``, whatever the budget."""
    return 3 if seconds < 2 else 2 if seconds < 10 else 1


def _plan(contender: Contender, clock: Clock, budget: Budget) -> _Plan:
    """Warm up and find out how many samples the budget allows."""
    clock.host(contender)
    first = clock.sample(contender, 1)
    if first >= WARM_ENOUGH:
        more = 0 if contender.is_alternative else fewest_samples(first) - 1
        return _Plan(contender, 1, more, by_turn={BEFORE_ALL: first})
    # Cold calls take longer: estimated from them, samples would be shorter than other contenders'.
    fastest, end = math.inf, time.perf_counter() + WARM_UP
    while math.isinf(fastest) or time.perf_counter() < end:
        fastest = min(fastest, clock.sample(contender, 1))
    loops = clock.loops(contender, fastest)
    start = time.perf_counter()
    clock.sample(contender, loops)
    clock.host(contender)
    whole = time.perf_counter() - start  # setup included
    affordable = int(budget.seconds(contender) / whole)
    return _Plan(contender, loops, min(max(affordable, fewest_samples(whole)), budget.samples))


def measure(
    contenders: Sequence[Contender], clock: Clock, budget: Budget
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time all contenders in turns, so that a drift of the machine hits all alike.

    Returns:
        The timing of each, and for those that cannot do the work at all the reason.

    Raises:
        Exception: whatever fastprune raises.
    """
    plans, failed = [], {}
    for contender in contenders:
        try:
            plans.append(_plan(contender, clock, budget))
        except Exception as error:  # other people's code, by any kind of exception
            if contender.name == FASTPRUNE:
                raise
            failed[contender.name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    gc.collect()
    gc.disable()
    try:
        _take_turns(plans, clock)
    finally:
        gc.enable()
    floor = next((plan for plan in plans if plan.contender.name == FLOOR), None)
    return {plan.contender.name: plan.timing(floor) for plan in plans}, failed


def _take_turns(plans: list[_Plan], clock: Clock) -> None:
    turns = max(plan.samples for plan in plans)
    draws = np.random.default_rng(0)
    for turn in range(turns):
        # In any order, as each leaves its caches to the next: one that always came after the floor,
        # which has no graph, would find autograd's code cold.
        for i in draws.permutation(len(plans)):
            if plans[i].due(turn, turns):
                plans[i].sample(clock, turn)
