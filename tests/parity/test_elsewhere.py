"""What else holds on a device without kernels of ours; elsewhere.py has the comparisons."""

import warnings

import torch

import fastprune

from .elsewhere import NAME, results


def test_operators() -> None:
    differences = results().products
    assert len(differences) == 5
    assert not torch.stack(differences).any()


def test_what_moved_after_it_was_pruned_is_pruned_again() -> None:
    moved = results().moved
    assert len(moved) == 16
    for method, there, here in moved:
        assert torch.equal(there, here), method


def test_one_warning_names_the_device() -> None:
    ours = [message for message in results().warnings if "fastprune" in message]
    assert len(ours) == 1
    assert f"'{NAME}'" in ours[0]


def test_no_warning_where_there_is_no_data() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastprune.l1_unstructured(torch.nn.Linear(4, 3, device="meta"), "weight", 0.5)
