"""What CONTRIBUTING.md's "Adding an operator" changes for an operator called flip_mask."""

#: New files, by the file of this folder that holds their text.
NEW = {
    "cpu.cpp": "csrc/cpu/elementwise/flip_mask.cpp",
    "cuda.cu": "csrc/cuda/elementwise/flip_mask.cu",
    "tests.py": "tests/ops/elementwise/test_flip_mask.py",
}

#: Files that change: pairs of a text that occurs once in the file, and its replacement.
CHANGED = {
    "csrc/ops.cpp": [
        (
            '  m.def("combine_masks(',
            "  // 1 where the mask is 0, and 0 elsewhere, in the mask's dtype.\n"
            '  m.def("flip_mask(Tensor mask) -> Tensor");\n\n'
            '  m.def("combine_masks(',
        ),
        ('"combine_masks",', '"combine_masks", "flip_mask",'),
    ],
    "csrc/autograd/no_gradient.cpp": [('"combine_masks"}', '"combine_masks", "flip_mask"}')],
    "csrc/args/elementwise.h": [
        (
            "inline void check_combine_masks(",
            "inline void check_flip_mask(const at::Tensor& mask) {\n"
            '  check_mask_dtype("flip_mask", "mask", mask.scalar_type());\n'
            "}\n\n"
            "inline void check_combine_masks(",
        )
    ],
    "python/fastprune/ops/elementwise.py": [
        ('__all__ = ["combine_masks",', '__all__ = ["combine_masks", "flip_mask",'),
        (
            "def masked_mul(t: Tensor, mask: Tensor) -> Tensor:",
            "def flip_mask(mask: Tensor) -> Tensor:\n"
            '    """1 where the mask is 0, and 0 elsewhere, as :func:`torch.logical_not`."""\n'
            "    result: Tensor = torch.ops.fastprune.flip_mask.default(mask)\n"
            "    return result\n\n\n"
            '@torch.library.register_fake("fastprune::flip_mask")\n'
            "def _(mask: Tensor) -> Tensor:\n"
            "    return torch.empty_like(mask)\n\n\n"
            "def masked_mul(t: Tensor, mask: Tensor) -> Tensor:",
        ),
    ],
    "python/fastprune/cli/selftest.py": [
        (
            "def _combine_masks(",
            "def _flip_mask(ts: list[Tensor]) -> Pairs:\n"
            "    masks = _old_masks(ts)\n"
            "    yield [ops.flip_mask(m) for m in masks], [1 - m for m in masks]\n\n\n"
            "def _combine_masks(",
        ),
        (
            '    "combine_masks": _combine_masks,\n',
            '    "combine_masks": _combine_masks,\n    "flip_mask": _flip_mask,\n',
        ),
    ],
    "tests/support/reference.py": [
        (
            "def masked_mul(",
            "def flip_mask(mask: Tensor) -> Tensor:\n"
            "    return (mask == 0).to(mask.dtype)\n\n\n"
            "def masked_mul(",
        )
    ],
}
