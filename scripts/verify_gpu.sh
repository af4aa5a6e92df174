#!/usr/bin/env bash
# Everything that needs a GPU: build for it, CUDA tests, compute-sanitizer's four tools, benchmarks,
# times of kernels.
# Needs python3 with torch (CUDA), setuptools, wheel, ninja, numpy, pytest, hypothesis, rich, and
# nvcc; no package index. See docs/gpu.md:
#   scripts/verify_gpu.sh OUT [build] [test] [sanitize] [bench] [kernels]
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" scripts/verify_gpu.py "$@"
