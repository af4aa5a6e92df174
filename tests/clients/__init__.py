"""The pruning tests of PyTorch, Lightning and coremltools, run with fastprune: ``make clients``."""
