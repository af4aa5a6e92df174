"""Pruning while the Trainer of Hugging Face transformers trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch.nn.utils.prune as upstream
from torch import nn
from transformers import TrainerCallback
from transformers.pytorch_utils import Conv1D

from ..apply import find_hook
from ..functional import custom_from_mask, global_unstructured, identity, remove
from ..inplace import in_place
from ..local import local_unstructured
from ..lookup import is_in_place
from ..methods import L1Unstructured
from ..rollback import transaction

__all__ = ["PruningCallback"]

_Pairs: TypeAlias = Iterable[tuple[nn.Module, str]]


class PruningCallback(TrainerCallback):
    """Prunes the model of a ``Trainer`` on a schedule, and keeps it pruned.

    The form is that of :func:`fastprune.in_place`: **values of pruned entries are lost**, and
    checkpoints hold plain names and no masks, so that ``from_pretrained`` loads them, with the
    zeros. What the model was pruned by before stays pruned, in this form.

    It prunes before the first step, where the schedule says so for step 0, and after the
    optimizer's steps, while gradients are still there for methods that rank by them. Gradients of
    pruned entries do not count when the ``Trainer`` clips.

    A run that is resumed takes the entries that are exactly zero in its checkpoint as those pruned,
    so a weight that has never left its initial zeros is pruned then. After
    ``load_best_model_at_end`` the best model is pruned as the last one.

    As :func:`torch.nn.utils.prune.global_unstructured` prunes, with ``sparsity=``. The model has
    to be in one piece: not under FSDP, DeepSpeed or tensor parallelism.

    >>> from fastprune.integrations.transformers import PruningCallback
    >>> def schedule(step):  # to 80% within 1000 steps
    ...     return 0.8 * (1 - (1 - min(step / 1000, 1)) ** 3)
    >>> callback = PruningCallback(schedule, every=100)
    >>> [round(callback.sparsity(step), 3) for step in (0, 100, 500, 1000, 2000)]
    [0.0, 0.217, 0.7, 0.8, 0.8]

    It then goes to ``Trainer(model, arguments, train_dataset=data, callbacks=[callback])``.

    Args:
        sparsity: the fraction of all entries that is pruned in the end; a float, or a function of
            the number of steps done, which returns one or None. A lower one than before changes
            nothing.
        parameters: (module, name) pairs, or a function of the model that returns them. Without it
            the weights of all Linear and Conv1D layers of ``model.base_model``, so that heads are
            not pruned, or of the model, if it has none; but for its output embeddings.
        method: an unstructured method that takes a ``sparsity``.
        every: how many steps lie between two times the schedule is asked.
        local: each parameter has the sparsity, in place of all together.
        remove: keep entries pruned no longer after training; they are zero.
        kwargs: passed to the method, such as ``factor``.

    Raises:
        TypeError: ``sparsity`` is neither a float nor a function; ``every`` is no int.
        ValueError: ``sparsity`` is out of range, or ``every`` is below 1.
    """

    def __init__(
        self,
        sparsity: float | Callable[[int], float | None],
        parameters: _Pairs | Callable[[nn.Module], _Pairs] | None = None,
        method: type[upstream.BasePruningMethod] = L1Unstructured,
        *,
        every: int = 1,
        local: bool = False,
        remove: bool = False,
        **kwargs: Any,
    ) -> None:
        if not callable(sparsity):
            if not isinstance(sparsity, float):
                raise TypeError(f"expected sparsity to be a float or a function, got {sparsity!r}")
            if not 0.0 <= sparsity <= 1.0:
                raise ValueError(f"expected sparsity to be in the range [0, 1], got {sparsity}")
        if not isinstance(every, int):
            raise TypeError(f"expected every to be an int, got {every!r}")
        if every < 1:
            raise ValueError(f"expected every to be 1 or more, got {every}")
        self.sparsity = sparsity
        self.parameters = (
            parameters if parameters is None or callable(parameters) else list(parameters)
        )
        self.method = method
        self.every = every
        self.local = local
        self.remove = remove
        self.kwargs = kwargs
        self._pairs: list[tuple[nn.Module, str]] = []
        self._reached = -1.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Bring the model into the form, with the masks of its checkpoint if it is resumed."""
        model = kwargs["model"]
        self._pairs = self._find(model)
        self._reached = -1.0
        with transaction(*(module for module, _ in self._pairs)):
            for module, name in self._pairs:
                if state.global_step:
                    custom_from_mask(module, name, getattr(module, name).detach() != 0)
                elif not is_in_place(module, name) and find_hook(module, name) is None:
                    identity(module, name)
        # With its optimizer a gradient would be masked in the step, after clipping has counted it.
        in_place(model, None if args.max_grad_norm else kwargs["optimizer"], persistent=False)
        self._prune(state.global_step)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prune as the schedule says for the number of steps that are done, this one included."""
        self._prune(state.global_step + 1)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep entries pruned no longer, if that was asked for."""
        if self.remove:
            for module, name in self._pairs:
                remove(module, name)
        self._pairs = []

    def _find(self, model: nn.Module) -> list[tuple[nn.Module, str]]:
        if callable(self.parameters):
            return list(self.parameters(model))
        if self.parameters is not None:
            return self.parameters
        base: Any = getattr(model, "base_model", model)  # a property of PreTrainedModel
        head: Any = getattr(model, "get_output_embeddings", lambda: None)()
        kinds = (nn.Linear, Conv1D)
        found = [m for m in base.modules() if isinstance(m, kinds) and m is not head]
        return [(module, "weight") for module in found]

    def _prune(self, step: int) -> None:
        if step % self.every:
            return
        sparsity = self.sparsity(step) if callable(self.sparsity) else self.sparsity
        if sparsity is None or sparsity <= self._reached:
            return
        sparsity = float(sparsity)  # a schedule may say 0
        prune = local_unstructured if self.local else global_unstructured
        prune(self._pairs, self.method, sparsity=sparsity, **self.kwargs)
        self._reached = sparsity
