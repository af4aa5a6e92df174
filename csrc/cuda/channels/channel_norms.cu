// channel_norms on CUDA: one launch, of the kernel that reads the layout of a
// channel in whole sectors.
#include "cuda/channels/norm_columns.cuh"
#include "cuda/channels/norm_rows.cuh"
#include "cuda/channels/norm_strips.cuh"

#include <ATen/ATen.h>

#include "args/channels.h"
#include "common/dtypes.h"
#include "cuda/util/launch.cuh"

namespace fastprune::cuda {
namespace {

// How many blocks share the chunks of a group of channels, if one takes
// `at_once` of them at a time: one if there are blocks enough to keep the GPU
// busy.
int64_t spans_of(const NormTask& task, int64_t groups, int64_t at_once) {
  const int64_t most = (task.chunks + at_once - 1) / at_once;
  return groups * 100 < int64_t{multiprocessors()} * ChannelsPolicy::kNormOwnersPercent ? most : 1;
}

// Memory for blocks that share chunks. The counters start from zero, for which
// ATen fills them: the one launch more of this operator, for a few long
// channels.
struct Meeting {
  at::Tensor partial;
  at::Tensor arrived;

  Meeting(NormTask& task, const at::Tensor& norms, int64_t groups) {
    if (task.spans == 1) return;
    partial = at::empty({task.shape.channels * task.chunks}, norms.options());
    arrived = at::zeros({groups}, norms.options().dtype(at::kInt));
    task.partial = partial.mutable_data_ptr<double>();
    task.arrived = reinterpret_cast<unsigned*>(arrived.mutable_data_ptr<int>());
  }
};

template <NormKind kind, int V, class T>
void norms_of_rows(const T* data, NormTask task, const at::Tensor& norms) {
  constexpr int kGroups = kRowGroups<V>;
  const int chunks = static_cast<int>(std::min<int64_t>(task.chunks, kGroups));
  const RowsPlan plan{chunks, kGroups / chunks};
  const int64_t groups = (task.shape.channels + plan.channels - 1) / plan.channels;
  task.spans = spans_of(task, groups, plan.chunks);
  const Meeting meeting(task, norms, groups);
  FASTPRUNE_LAUNCH((channel_norms_rows_kernel<kind, V, T>),
                   grid_for<ChannelsPolicy>(groups * task.spans), ChannelsPolicy::kThreads, data,
                   task, plan);
}

template <NormKind kind, int V, class T>
void norms_of_columns(const T* data, NormTask task, const at::Tensor& norms) {
  const int64_t strips = (task.shape.channels + kColumnStrip<V> - 1) / kColumnStrip<V>;
  task.spans = spans_of(task, strips, 1);
  const Meeting meeting(task, norms, strips);
  FASTPRUNE_LAUNCH((channel_norms_columns_kernel<kind, V, T>),
                   grid_for<ChannelsPolicy>(strips * task.spans), kColumnThreads<V>, data, task);
}

template <NormKind kind, class T>
void norms_of_strips(const T* data, NormTask task, const at::Tensor& norms) {
  const int64_t strips = (task.shape.channels + kStripChannels - 1) / kStripChannels;
  task.spans = spans_of(task, strips, 1);
  const Meeting meeting(task, norms, strips);
  FASTPRUNE_LAUNCH((channel_norms_strips_kernel<kind, T>),
                   grid_for<ChannelsPolicy>(strips * task.spans), ChannelsPolicy::kThreads, data,
                   task);
}

// By packs where these are aligned, and where there are chunks enough to fill
// the GPU with the few threads this leaves to each.
template <NormKind kind, class T>
void norms_of(const T* data, const NormTask& task, const at::Tensor& norms) {
  // Powers take the time of their arithmetic, and their code is large.
  constexpr int kPack = kind == NormKind::kPower ? 1 : pack_entries<T>();
  const ChannelShape& s = task.shape;
  const bool by_rows = s.outer <= 1 || s.inner >= kShortRun;
  const int64_t threads = s.channels * task.chunks * kNormLanes / kPack;
  const bool wide = (by_rows ? s.inner : s.channels) % kPack == 0 &&
                    reinterpret_cast<uintptr_t>(data) % kPackBytes == 0 &&
                    threads >= int64_t{multiprocessors()} * ChannelsPolicy::kNormFill;
  if (by_rows) {
    return wide ? norms_of_rows<kind, kPack>(data, task, norms)
                : norms_of_rows<kind, 1>(data, task, norms);
  }
  // A few channels side by side would leave most threads of a row idle.
  const bool few = s.channels < kColumnStrip<1> / 2;
  if (s.inner > 1 || few) return norms_of_strips<kind>(data, task, norms);
  return wide ? norms_of_columns<kind, kPack>(data, task, norms)
              : norms_of_columns<kind, 1>(data, task, norms);
}

at::Tensor channel_norms(const at::Tensor& t, double p, int64_t dim) {
  check_channel_norms(t, dim);
  const DeviceGuard guard(t);
  const at::Tensor data = t.contiguous();
  ChannelShape shape = channel_shape(t, dim);
  at::Tensor norms = at::empty({shape.channels}, t.options().dtype(at::kDouble));
  if (shape.channels == 0) return norms;
  const int64_t chunks = norm_chunks(shape.entries());
  if (shape.entries() == 0) shape = {0, shape.channels, 1};  // kernels divide by `inner`
  const NormTask task{shape, chunks, 1, p, norms.mutable_data_ptr<double>(), nullptr, nullptr};
  dispatch_float(t.scalar_type(), [&](auto value) {
    using T = decltype(value);
    dispatch_norm(norm_kind(p), [&](auto kind) {
      norms_of<decltype(kind)::value, T>(data.const_data_ptr<T>(), task, norms);
    });
  });
  return norms;
}

}  // namespace

FASTPRUNE_CUDA_IMPL(m) {
  m.impl("channel_norms", &channel_norms);
}

}  // namespace fastprune::cuda
