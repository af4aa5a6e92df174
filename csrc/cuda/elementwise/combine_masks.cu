// combine_masks on CUDA: old_mask * new_mask in the dtype of the old mask.
#include "cuda/elementwise/product.cuh"

namespace fastprune::cuda {

template <class T, class U>
__global__ void __launch_bounds__(ElementwisePolicy::kThreads)
    combine_masks_kernel(const TensorList list) {
  multiply_tile<T, U>(list);
}

}  // namespace fastprune::cuda

#include <ATen/core/Tensor.h>

#include "args/elementwise.h"
#include "common/dtypes.h"
#include "cuda/util/launch.cuh"
#include "cuda/util/register.h"
#include "cuda/util/tile_map.h"

namespace fastprune::cuda {
namespace {

template <class T, class U>
void combine(const SameLayout& flat, const at::Tensor& out) {
  if (out.numel() == 0) return;
  const TensorList list =
      single(make_item<T, U, T>(flat.first.const_data_ptr(), flat.second.const_data_ptr(),
                                out.mutable_data_ptr(), out.numel()));
  FASTPRUNE_LAUNCH((combine_masks_kernel<T, U>), grid_of_tiles(list.tiles),
                   ElementwisePolicy::kThreads, list);
}

at::Tensor combine_masks(const at::Tensor& old_mask, const at::Tensor& new_mask) {
  check_combine_masks(old_mask, new_mask);
  const DeviceGuard guard(old_mask);
  const SameLayout flat = to_same_layout(old_mask, to_factor(new_mask, old_mask.scalar_type()));
  at::Tensor out = fresh_like(flat.first);
  dispatch_mask(out.scalar_type(), [&](auto value) {
    using T = decltype(value);
    dispatch_factor<T>(flat.second.scalar_type(),
                       [&](auto other) { combine<T, decltype(other)>(flat, out); });
  });
  return out;
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("combine_masks", &combine_masks);
}

}  // namespace fastprune::cuda
