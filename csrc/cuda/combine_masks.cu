// combine_masks on CUDA: old * new in the dtype of the old mask.
#include <cstdint>

#include "device.cuh"

namespace fastprune::cuda {

template <class T, class U>
__global__ void __launch_bounds__(kThreads)
    combine_masks_kernel(const T* old_mask, const U* new_mask, T* out, int64_t size) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < size;
       i += int64_t{gridDim.x} * kThreads) {
    out[i] = static_cast<T>(old_mask[i] * static_cast<T>(new_mask[i]));
  }
}

}  // namespace fastprune::cuda

#include <ATen/ATen.h>

#include "../checks.h"
#include "../dispatch.h"
#include "../flat.h"
#include "launch.cuh"

namespace fastprune::cuda {
namespace {

at::Tensor combine_masks(const at::Tensor& old_mask, const at::Tensor& new_mask) {
  check_combine_masks(old_mask, new_mask);
  const DeviceGuard guard(old_mask);
  const FlatPair flat = flatten_alike(old_mask, readable_mask(new_mask, old_mask.scalar_type()));
  at::Tensor out = at::empty_like(flat.first);
  const int64_t size = out.numel();
  if (size == 0) return out;
  const unsigned grid = grid_for((size + kThreads - 1) / kThreads);
  dispatch_mask(out.scalar_type(), [&](auto value) {
    using T = decltype(value);
    dispatch_readable<T>(flat.second.scalar_type(), [&](auto other) {
      using U = decltype(other);
      FASTPRUNE_LAUNCH((combine_masks_kernel<T, U>), grid, kThreads, flat.first.const_data_ptr<T>(),
                       flat.second.const_data_ptr<U>(), out.mutable_data_ptr<T>(), size);
    });
  });
  return out;
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("combine_masks", &combine_masks);
}

}  // namespace fastprune::cuda
