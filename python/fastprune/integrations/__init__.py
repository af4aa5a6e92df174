"""Pruning in the training loops of other packages, which are imported only with their file here."""
