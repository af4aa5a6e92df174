// channel_norms on CUDA: the operator.
#include "cuda/channels/norms.h"

#include <ATen/core/Tensor.h>

#include "args/channels.h"
#include "common/dtypes.h"
#include "cuda/util/launch.cuh"
#include "cuda/util/register.h"

namespace fastprune::cuda {
namespace {

at::Tensor channel_norms(const at::Tensor& t, double p, int64_t dim) {
  check_channel_norms(t, dim);
  const DeviceGuard guard(t);
  const at::Tensor data = t.contiguous();
  ChannelShape shape = channel_shape(t, dim);
  at::Tensor norms = fresh({shape.channels}, at::kDouble, t.device());
  if (shape.channels == 0) return norms;
  const int64_t chunks = norm_chunks(shape.entries());
  if (shape.entries() == 0) shape = {0, shape.channels, 1};  // kernels divide by `inner`
  const NormTask task{shape, chunks, 1, p, norms.mutable_data_ptr<double>(), nullptr, nullptr};
  dispatch_float(t.scalar_type(), [&](auto value) {
    using T = decltype(value);
    launch_norms<T>(data, task, norms);
  });
  return norms;
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("channel_norms", &channel_norms);
}

}  // namespace fastprune::cuda
