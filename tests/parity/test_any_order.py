"""Calls in any order, on a model of each library: the two are equal after every call."""

from __future__ import annotations

import copy
import pickle
from collections import namedtuple
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from torch import Tensor, nn
from torch.nn.utils import prune as upstream

import fastprune

from .equal import difference

PLACES = (
    ("conv", "weight"),
    ("conv", "bias"),
    ("linear", "weight"),
    ("lstm", "weight_ih_l0"),
    ("embedding", "weight"),
)
places = st.sampled_from(PLACES)
#: Some are too many or out of range, at times.
amounts = st.one_of(st.integers(-1, 9), st.sampled_from((0.0, 0.1, 0.3, 0.5, 1.0, 1.5)))
dims = st.integers(-2, 2)
seeds = st.integers(0, 99)

Result = namedtuple("Result", "values indices")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.linear = nn.Linear(12, 5)
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.embedding = nn.Embedding(7, 5)

    def forward(self, images: Tensor, words: Tensor) -> Tensor:
        features = self.linear(self.norm(self.conv(images)).relu().flatten(1))
        sequence, _ = self.lstm(torch.stack((features, self.embedding(words)), 1))
        return sequence


class EveryThird(upstream.BasePruningMethod):
    """A method of a user's."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = default_mask.clone()
        mask.view(-1)[::3] = 0
        return mask


class OursEveryThird(fastprune.BasePruningMethod):
    PRUNING_TYPE = "unstructured"
    compute_mask = EveryThird.compute_mask


METHODS: Mapping[ModuleType, Any] = {upstream: EveryThird, fastprune: OursEveryThird}


def lowest_index_first(
    t: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> Result:
    """torch.topk, but among equal values those at the lowest indices are pruned."""
    order = torch.argsort(t, dim=dim, stable=True)
    size = t.shape[dim] if t.dim() else 1
    indices = order.narrow(dim, size - k if largest else 0, k)
    return Result(t.gather(dim, indices), indices)


def norm_in_float64(t: Tensor, n: Any, dim: int) -> Tensor:
    """upstream._compute_norm in the dtype that fastprune adds in."""
    return _compute_norm(t.double(), n, dim)


_compute_norm = upstream._compute_norm


def inputs(seed: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, 4, 4, generator=draws), torch.randint(0, 7, (3,), generator=draws)


def drawn(seed: int, like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def view(prune: ModuleType, net: Net) -> dict[str, Any]:
    """All that a user sees of a model."""
    return {
        "is pruned": [prune.is_pruned(module) for module in net.modules()],
        "state": dict(net.state_dict()),
        "parameters": dict(net.named_parameters()),
        "gradients": {name: p.grad for name, p in net.named_parameters() if p.grad is not None},
        "buffers": dict(net.named_buffers()),
        "attributes": {f"{at}.{name}": getattr(getattr(net, at), name) for at, name in PLACES},
        "layouts": [getattr(getattr(net, at), name).stride() for at, name in PLACES],
        "weights of the LSTM": [
            weight is getattr(net.lstm, name)
            for weight, name in zip(
                net.lstm._flat_weights, net.lstm._flat_weights_names, strict=True
            )
        ],
        "slots": {at: sorted(vars(module)) for at, module in net.named_modules()},
        "hooks": {
            at: [
                [type(hook).__name__.removeprefix("Ours"), hook._tensor_name]
                for hook in module._forward_pre_hooks.values()
            ]
            for at, module in net.named_modules()
        },
        "random numbers": torch.get_rng_state(),
    }


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # What upstream leaves open is decided as fastprune decides it, docs/differences.md.
        self._patches = [
            mock.patch.object(torch, "topk", lowest_index_first),
            mock.patch.object(upstream, "_compute_norm", norm_in_float64),
        ]
        for patch in self._patches:
            patch.start()
        self._begin()

    def teardown(self) -> None:
        for patch in self._patches:
            patch.stop()

    def _begin(self) -> None:
        self.nets: dict[ModuleType, Net] = {}
        for prune in (upstream, fastprune):
            torch.manual_seed(0)
            self.nets[prune] = Net()
        self.views: dict[ModuleType, Any] = {}

    def _both(self, call: Callable[[ModuleType, Net], Any], seed: int = 0) -> None:
        """The call with each library, whose results and exceptions must be equal."""
        results = []
        before = view(fastprune, self.nets[fastprune])
        values = [t.clone() for t in before["state"].values()]
        for prune, net in self.nets.items():
            torch.manual_seed(seed)
            try:
                result = call(prune, net)
                # Modules and methods are compared as parts of the model.
                results.append(result if isinstance(result, (Tensor, str)) else None)
            except Exception as error:
                results.append([type(error).__name__, str(error)])
            self.views[prune] = view(prune, self.nets[prune])
        theirs, ours = results
        failed = isinstance(theirs, list) and theirs[0].endswith("Error")
        if failed and theirs[0] == "IndexError":
            theirs[1] = ours[1]  # theirs speaks of a list
        assert difference(ours, theirs) is None, difference(ours, theirs)
        if failed:
            after = self.views[fastprune]
            before["random numbers"] = after["random numbers"]
            assert difference(after, before) is None, difference(after, before)
            assert difference([*after["state"].values()], values) is None
            if difference(after, self.views[upstream]) is not None:
                self._begin()  # theirs has lost a hook

    def _at(self, place: tuple[str, str], call: Callable[..., Any], seed: int = 0) -> None:
        """call(prune, module, name) with each library."""
        at, name = place
        self._both(lambda prune, net: call(prune, getattr(net, at), name), seed)

    @invariant()
    def equal(self) -> None:
        if self.views:
            found = difference(self.views[fastprune], self.views[upstream])
            assert found is None, found

    @rule(place=places, amount=amounts, seed=seeds, function=st.sampled_from(("l1", "random")))
    def unstructured(self, place: Any, amount: Any, seed: int, function: str) -> None:
        def call(prune: ModuleType, module: nn.Module, name: str) -> None:
            getattr(prune, f"{function}_unstructured")(module, name, amount)

        self._at(place, call, seed)

    @rule(place=places, amount=amounts, seed=seeds)
    def by_scores(self, place: Any, amount: Any, seed: int) -> None:
        def call(prune: ModuleType, module: nn.Module, name: str) -> None:
            scores = drawn(seed, getattr(module, name))
            prune.l1_unstructured(module, name, amount, importance_scores=scores)

        self._at(place, call)

    @rule(place=places, amount=amounts, dim=dims, n=st.sampled_from((1, 2, float("inf"))))
    def ln_structured(self, place: Any, amount: Any, dim: int, n: Any) -> None:
        self._at(place, lambda prune, *tensor: prune.ln_structured(*tensor, amount, n, dim))

    @rule(place=places, amount=amounts, dim=dims, seed=seeds)
    def random_structured(self, place: Any, amount: Any, dim: int, seed: int) -> None:
        self._at(place, lambda prune, *tensor: prune.random_structured(*tensor, amount, dim), seed)

    @rule(
        chosen=st.lists(places, min_size=1, unique=True),
        amount=amounts,
        seed=seeds,
        method=st.sampled_from(("L1Unstructured", "RandomUnstructured")),
        scored=st.booleans(),
    )
    def global_unstructured(
        self, chosen: Any, amount: Any, seed: int, method: str, scored: bool
    ) -> None:
        def call(prune: ModuleType, net: Net) -> None:
            pairs = [(getattr(net, at), name) for at, name in chosen]
            scores = {pairs[0]: drawn(seed, getattr(*pairs[0]))} if scored else None
            prune.global_unstructured(
                pairs, getattr(prune, method), importance_scores=scores, amount=amount
            )

        self._both(call, seed)

    @rule(place=places, seed=seeds, boolean=st.booleans())
    def custom_from_mask(self, place: Any, seed: int, boolean: bool) -> None:
        def call(prune: ModuleType, module: nn.Module, name: str) -> None:
            mask = drawn(seed, getattr(module, name)) > 0
            prune.custom_from_mask(module, name, mask if boolean else mask.float())

        self._at(place, call)

    @rule(place=places)
    def identity(self, place: Any) -> None:
        self._at(place, lambda prune, *tensor: prune.identity(*tensor))

    @rule(place=places)
    def a_method_of_a_user(self, place: Any) -> None:
        self._at(place, lambda prune, *tensor: METHODS[prune].apply(*tensor))

    @rule(place=places)
    def remove(self, place: Any) -> None:
        self._at(place, lambda prune, *tensor: prune.remove(*tensor))

    @rule(seed=seeds)
    def train(self, seed: int) -> None:
        def call(prune: ModuleType, net: Net) -> Tensor:
            trained = [p for p in net.parameters() if p.requires_grad]
            optimizer = torch.optim.SGD(trained, lr=0.1, weight_decay=0.1)
            optimizer.zero_grad(set_to_none=seed % 2 == 0)
            out = net.train()(*inputs(seed))
            out.square().sum().backward()
            optimizer.step()
            return out.detach()

        self._both(call)

    @rule(seed=seeds)
    def evaluate(self, seed: int) -> None:
        with torch.no_grad():
            self._both(lambda prune, net: net.eval()(*inputs(seed)))

    @rule(seed=seeds)
    def functional_call(self, seed: int) -> None:
        def call(prune: ModuleType, net: Net) -> Any:
            others = {name: p.detach() / 2 for name, p in net.named_parameters()}
            return torch.func.functional_call(net.eval(), others, inputs(seed)).detach()

        self._both(call)

    @rule(pickled=st.booleans())
    def copy(self, pickled: bool) -> None:
        def call(prune: ModuleType, net: Net) -> None:
            with torch.no_grad():
                net.eval()(*inputs(0))  # theirs copies no product that has a graph
            copied = pickle.loads(pickle.dumps(net)) if pickled else copy.deepcopy(net)
            self.nets[prune] = copied

        self._both(call)

    @rule(place=places, seed=seeds, of=st.sampled_from(("_orig", "_mask")))
    def write(self, place: Any, seed: int, of: str) -> None:
        """Weights are rewound, or a mask is replaced."""

        def call(prune: ModuleType, module: nn.Module, name: str) -> None:
            new = drawn(seed, getattr(module, name))
            if of == "_mask":
                setattr(module, name + of, (new > 0).float())
            else:
                getattr(module, name + of).data = new

        self._at(place, call)

    @rule(assign=st.booleans())
    def load(self, assign: bool) -> None:
        def call(prune: ModuleType, net: Net) -> str:
            state = {
                name: value if name.endswith("_mask") else value / 2
                for name, value in net.state_dict().items()
            }
            return str(net.load_state_dict(state, assign=assign))

        self._both(call)

    @rule(at=st.sampled_from(("conv", "linear", "lstm")), trains=st.booleans())
    def freeze(self, at: str, trains: bool) -> None:
        self._both(lambda prune, net: getattr(net, at).requires_grad_(trains))


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=25, stateful_step_count=25)
