// Every kernel is launched from here: on the tensor's device and torch's current stream, and
// checked. Under FASTPRUNE_CUDA_ON_HOST the same sources compile for the host and launch on the
// CUDA emulator in tests/cuda_on_host.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <utility>

#include "cuda/util/device.cuh"

#ifndef FASTPRUNE_CUDA_ON_HOST
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAMacros.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace fastprune::cuda {

#ifdef FASTPRUNE_CUDA_ON_HOST

constexpr at::DeviceType kDeviceType = at::DeviceType::CUDA_ON_HOST_DEVICE;

struct DeviceGuard {
  explicit DeviceGuard(const at::Tensor&) {}
};

inline int multiprocessors() {
  return 2;
}

template <class... P, class... Args>
void launch_kernel(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, Args&&... args) {
  cuda_on_host::run(name, kernel, grid, block, 0, std::forward<Args>(args)...);
}

#else

constexpr at::DeviceType kDeviceType = at::kCUDA;

struct DeviceGuard {
  explicit DeviceGuard(const at::Tensor& t) : guard(t.device()) {}
  c10::cuda::CUDAGuard guard;
};

// Of the current device; asked for once, as every launch needs it.
inline int multiprocessors() {
  static std::array<std::atomic<int>, C10_COMPILE_TIME_MAX_GPUS> counts{};
  const auto device = c10::cuda::current_device();
  int count = counts[device].load(std::memory_order_relaxed);
  if (count == 0) {
    C10_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
    counts[device].store(count, std::memory_order_relaxed);
  }
  return count;
}

template <class... P, class... Args>
void launch_kernel(const char*, void (*kernel)(P...), dim3 grid, dim3 block, Args&&... args) {
  // clang-format off: it parses <<< and >>> as shifts
  kernel<<<grid, block, 0, c10::cuda::getCurrentCUDAStream()>>>(static_cast<P>(args)...);
  // clang-format on
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

#endif

// Blocks of a kernel that strides over `tasks`.
inline unsigned grid_for(int64_t tasks, int per_multiprocessor) {
  const int64_t most = int64_t{multiprocessors()} * per_multiprocessor;
  return static_cast<unsigned>(std::max<int64_t>(1, std::min(tasks, most)));
}

// A block for each tile, for kernels that only stream: the hardware keeps the GPU full, whatever
// registers they take.
inline unsigned grid_of_tiles(int64_t tiles) {
  TORCH_INTERNAL_ASSERT(tiles <= std::numeric_limits<int>::max());  // 8 * 10^12 entries
  return static_cast<unsigned>(tiles);
}

template <class Policy>
unsigned grid_for(int64_t tasks) {
  return grid_for(tasks, Policy::kBlocksPerMultiprocessor);
}

}  // namespace fastprune::cuda

// Launches a kernel under the name by which the tests know it.
#define FASTPRUNE_LAUNCH(kernel, ...) FASTPRUNE_LAUNCH_AS(#kernel, (kernel), __VA_ARGS__)
#define FASTPRUNE_LAUNCH_AS(name, kernel, grid, block, ...) \
  ::fastprune::cuda::launch_kernel(name, kernel, grid, block, __VA_ARGS__)
