"""Every case with both libraries, and the table that they make."""

import inspect

import pytest
from torch import nn

from .modules import MODULES
from .registry import CASES, Case, verdict_of
from .table import PAGE, made_with, render


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.group}: {c.title}")
def test_case(case: Case) -> None:
    verdict = verdict_of(case)
    assert verdict.wrong is None, verdict.wrong


def test_no_module_of_torch_nn_is_left_out() -> None:
    def holds_a_parameter(kind: type) -> bool:
        bases = [k for k in kind.__mro__ if issubclass(k, nn.Module) and k is not nn.Module]
        return any("Parameter(" in inspect.getsource(k) for k in bases)

    tried = {type(module) for make, _ in MODULES.values() for module in make().modules()}
    kinds = [k for k in vars(nn).values() if inspect.isclass(k) and issubclass(k, nn.Module)]
    left = {k.__name__ for k in kinds if k is not nn.Module and holds_a_parameter(k)}
    left -= {kind.__name__ for kind in tried}
    left = {name for name in left if not name.startswith("Lazy")}  # they become what is tried
    assert left == {"RNNBase", "RNNCellBase"}  # which are only bases


def test_table_in_the_docs() -> None:
    if made_with() not in PAGE.read_text():
        pytest.skip(f"{PAGE.name} was not made with this torch")
    made = render([verdict_of(case) for case in CASES])
    assert PAGE.read_text() == made, "run `make compatibility`"
