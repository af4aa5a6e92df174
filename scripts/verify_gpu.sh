#!/usr/bin/env bash
# Everything that needs a GPU, in one command: build for it, CUDA tests, compute-sanitizer's four
# tools, benchmarks. Needs python3 with torch (CUDA), setuptools, wheel, ninja, numpy, pytest,
# hypothesis, rich, and nvcc; no package index. Ends within ten minutes on 16 cores. Writes JSON
# Lines: the machine, then a line for each step; and beside it RESULT-benchmarks.jsonl, a result file
# that `benchmarks/run.py --compare` reads:
#   scripts/verify_gpu.sh [RESULT.jsonl]
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" scripts/verify_gpu.py "${1:-verify_gpu.jsonl}"
