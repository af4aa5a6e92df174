// Registers operators on CUDA, or with the CUDA emulator as those of a library and a device that
// its build names. Not in launch.cuh: torch/library.h takes nvcc longer than most kernels.
#pragma once

#include <torch/library.h>

#ifdef FASTPRUNE_CUDA_ON_HOST
#define FASTPRUNE_CUDA_IMPL(m) TORCH_LIBRARY_IMPL(CUDA_ON_HOST_LIBRARY, CUDA_ON_HOST_DEVICE, m)
#else
#define FASTPRUNE_CUDA_IMPL(m) TORCH_LIBRARY_IMPL(fastprune, CUDA, m)
#endif
