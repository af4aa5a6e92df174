// flip_mask on the CPU: 1 where the mask is 0, and 0 elsewhere.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "args/elementwise.h"
#include "common/dtypes.h"

namespace fastprune::cpu {
namespace {

at::Tensor flip_mask(const at::Tensor& mask) {
  check_flip_mask(mask);
  const at::Tensor in = mask.contiguous();
  at::Tensor out = at::empty_like(in);
  dispatch_mask(mask.scalar_type(), [&](auto value) {
    using T = decltype(value);
    const T* from = in.const_data_ptr<T>();
    T* to = out.mutable_data_ptr<T>();
    at::parallel_for(0, in.numel(), 1 << 15, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) to[i] = static_cast<T>(from[i] == T(0) ? 1 : 0);
    });
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  m.impl("flip_mask", &flip_mask);
}

}  // namespace fastprune::cpu
