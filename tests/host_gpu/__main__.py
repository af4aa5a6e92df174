"""Runs a script on the device: ``python -m host_gpu SCRIPT ARGUMENTS``."""

import runpy
import sys

import host_gpu.plugin  # noqa: F401, before torch

sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
