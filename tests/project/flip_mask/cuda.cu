// flip_mask on CUDA: 1 where the mask is 0, and 0 elsewhere.
#include "cuda/util/device.cuh"

namespace fastprune::cuda {

template <class T>
__global__ void __launch_bounds__(ElementwisePolicy::kThreads)
    flip_mask_kernel(const T* mask, T* out, int64_t size) {
  const int64_t end = int64_t{kTile} * (blockIdx.x + 1);
  for (int64_t i = int64_t{kTile} * blockIdx.x + threadIdx.x; i < size && i < end;
       i += blockDim.x) {
    out[i] = static_cast<T>(mask[i] == T(0) ? 1 : 0);
  }
}

}  // namespace fastprune::cuda

#include <ATen/ATen.h>

#include "args/elementwise.h"
#include "common/dtypes.h"
#include "cuda/util/launch.cuh"
#include "cuda/util/register.h"

namespace fastprune::cuda {
namespace {

at::Tensor flip_mask(const at::Tensor& mask) {
  check_flip_mask(mask);
  const DeviceGuard guard(mask);
  const at::Tensor in = mask.contiguous();
  at::Tensor out = at::empty_like(in);
  if (in.numel() == 0) return out;
  dispatch_mask(mask.scalar_type(), [&](auto value) {
    using T = decltype(value);
    FASTPRUNE_LAUNCH((flip_mask_kernel<T>), grid_of_tiles(ceil_div(in.numel(), int64_t{kTile})),
                     ElementwisePolicy::kThreads, in.const_data_ptr<T>(), out.mutable_data_ptr<T>(),
                     in.numel());
  });
  return out;
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("flip_mask", &flip_mask);
}

}  // namespace fastprune::cuda
