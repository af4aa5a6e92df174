// channel_norms on CUDA: partial norms by chunk, then chunks in order. The order of every sum is
// the one selection.h fixes, so that the bits are the CPU's.
#include <cstdint>

#include "device.cuh"

namespace fastprune::cuda {

// [outer, channels, inner], as in ChannelView, and how many chunks a channel has.
struct ChannelShape {
  int64_t outer;
  int64_t channels;
  int64_t inner;
  int64_t chunks;
};

// A warp takes a chunk of a channel, a thread one of its lanes.
template <NormKind kind, class T>
__global__ void __launch_bounds__(kThreads)
    channel_norms_rows_kernel(const T* data, const ChannelShape shape, double p, double* partial) {
  constexpr int kWarps = kThreads / kNormLanes;
  const int lane = threadIdx.x % kNormLanes;
  const int64_t tasks = shape.channels * shape.chunks;
  const int64_t size = shape.outer * shape.inner;
  for (int64_t task = int64_t{blockIdx.x} * kWarps + threadIdx.x / kNormLanes; task < tasks;
       task += int64_t{gridDim.x} * kWarps) {
    const int64_t channel = task / shape.chunks;
    const int64_t begin = task % shape.chunks * kNormChunk;
    const int64_t end = begin + kNormChunk < size ? begin + kNormChunk : size;
    double sum = norm_start<kind>();
    for (int64_t j = begin + lane; j < end; j += kNormLanes) {
      const int64_t at =
          (j / shape.inner * shape.channels + channel) * shape.inner + j % shape.inner;
      sum = norm_join<kind>(sum, norm_term<kind>(static_cast<double>(data[at]), p));
    }
    for (int half = kNormLanes / 2; half > 0; half /= 2) {
      sum = norm_join<kind>(sum, __shfl_down_sync(0xffffffffu, sum, half));
    }
    if (lane == 0) partial[task] = sum;
  }
}

// Where inner == 1 neighbouring channels are neighbours in memory: a block of 32 x 32 threads takes
// a chunk of 32 channels, x the channel, y the lane.
template <NormKind kind, class T>
__global__ void __launch_bounds__(kNormLanes* kNormLanes)
    channel_norms_columns_kernel(const T* data, const ChannelShape shape, double p,
                                 double* partial) {
  FASTPRUNE_SHARED(double[kNormLanes][kNormLanes], lanes);
  const int64_t strips = (shape.channels + kNormLanes - 1) / kNormLanes;
  const int x = threadIdx.x % kNormLanes;
  const int y = threadIdx.x / kNormLanes;
  for (int64_t task = blockIdx.x; task < strips * shape.chunks; task += gridDim.x) {
    const int64_t channel = task / shape.chunks * kNormLanes + x;
    const int64_t chunk = task % shape.chunks;
    const int64_t begin = chunk * kNormChunk;
    const int64_t end = begin + kNormChunk < shape.outer ? begin + kNormChunk : shape.outer;
    double sum = norm_start<kind>();
    if (channel < shape.channels) {
      for (int64_t j = begin + y; j < end; j += kNormLanes) {
        const double value = static_cast<double>(data[j * shape.channels + channel]);
        sum = norm_join<kind>(sum, norm_term<kind>(value, p));
      }
    }
    lanes[y][x] = sum;
    __syncthreads();
    for (int half = kNormLanes / 2; half > 0; half /= 2) {
      if (y < half) lanes[y][x] = norm_join<kind>(lanes[y][x], lanes[y + half][x]);
      __syncthreads();
    }
    if (y == 0 && channel < shape.channels) partial[channel * shape.chunks + chunk] = lanes[0][x];
  }
}

template <NormKind kind>
__global__ void __launch_bounds__(kThreads)
    channel_norms_finish_kernel(const double* partial, const ChannelShape shape, double p,
                                double* norms) {
  for (int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x; c < shape.channels;
       c += int64_t{gridDim.x} * kThreads) {
    double total = norm_start<kind>();
    for (int64_t k = 0; k < shape.chunks; ++k) {
      total = norm_join<kind>(total, partial[c * shape.chunks + k]);
    }
    norms[c] = norm_finish<kind>(total, p);
  }
}

}  // namespace fastprune::cuda

#include <ATen/ATen.h>

#include "../checks.h"
#include "../dispatch.h"
#include "launch.cuh"

namespace fastprune::cuda {
namespace {

template <NormKind kind, class T>
void norms_of(const T* data, const ChannelShape& shape, double p, double* partial, double* norms) {
  const int64_t tasks = shape.channels * shape.chunks;
  if (shape.inner == 1) {
    FASTPRUNE_LAUNCH((channel_norms_columns_kernel<kind, T>),
                     grid_for((tasks + kNormLanes - 1) / kNormLanes), kNormLanes * kNormLanes, data,
                     shape, p, partial);
  } else {
    FASTPRUNE_LAUNCH((channel_norms_rows_kernel<kind, T>),
                     grid_for((tasks * kNormLanes + kThreads - 1) / kThreads), kThreads, data,
                     shape, p, partial);
  }
  FASTPRUNE_LAUNCH(channel_norms_finish_kernel<kind>,
                   grid_for((shape.channels + kThreads - 1) / kThreads), kThreads, partial, shape,
                   p, norms);
}

at::Tensor channel_norms(const at::Tensor& t, double p, int64_t dim) {
  check_floating("channel_norms", "t", t);
  dim = check_dim("channel_norms", dim, t);
  const DeviceGuard guard(t);
  const at::Tensor data = t.contiguous();
  const ChannelView view = channel_view(t, dim);
  at::Tensor norms = at::empty({view.channels}, t.options().dtype(at::kDouble));
  if (view.channels == 0) return norms;
  const int64_t size = view.outer * view.inner;
  const int64_t chunks = std::max<int64_t>(1, (size + kNormChunk - 1) / kNormChunk);
  const ChannelShape shape{size == 0 ? 0 : view.outer, view.channels,
                           std::max<int64_t>(1, view.inner), chunks};
  at::Tensor partial = at::empty({view.channels * chunks}, norms.options());
  const Norm norm = norm_of(p);
  dispatch_float(t.scalar_type(), [&](auto value) {
    using T = decltype(value);
    dispatch_norm(norm.kind, [&](auto kind) {
      norms_of<decltype(kind)::value, T>(data.const_data_ptr<T>(), shape, norm.p,
                                         partial.mutable_data_ptr<double>(),
                                         norms.mutable_data_ptr<double>());
    });
  });
  return norms;
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("channel_norms", &channel_norms);
}

}  // namespace fastprune::cuda
