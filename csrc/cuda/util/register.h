// Registers operators on CUDA, or on the CUDA emulator as those of a library of its own. Not in
// launch.cuh: torch/library.h takes nvcc longer than most kernels.
#pragma once

#include <torch/library.h>

#ifdef FASTPRUNE_CUDA_ON_HOST
#define FASTPRUNE_CUDA_IMPL(m) TORCH_LIBRARY_IMPL(fastprune_cuda_on_host, CPU, m)
#else
#define FASTPRUNE_CUDA_IMPL(m) TORCH_LIBRARY_IMPL(fastprune, CUDA, m)
#endif
