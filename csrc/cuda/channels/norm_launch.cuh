// channel_norms on CUDA: one launch, of the kernel that reads the layout at hand in whole sectors.
// Compiled for each dtype by itself, in instances/.
#pragma once

#include "cuda/channels/norm_columns.cuh"
#include "cuda/channels/norm_rows.cuh"
#include "cuda/channels/norm_strips.cuh"

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include "args/channels.h"
#include "cuda/channels/norms.h"
#include "cuda/util/launch.cuh"

namespace fastprune::cuda {

// Lets blocks share the chunks of a group of channels if there are too few groups to keep the GPU
// busy, and owns the memory for it. A block processes `at_once` chunks at a time. ATen zeroes the
// counters: one more launch, only for a few long channels.
struct SharedChunks {
  at::Tensor partial;
  at::Tensor arrived;

  SharedChunks(NormTask& task, const at::Tensor& norms, int64_t groups, int64_t at_once) {
    if (groups * 100 >= int64_t{multiprocessors()} * ChannelsPolicy::kNormOwnersPercent) return;
    task.splits = ceil_div(task.chunks, at_once);
    if (task.splits == 1) return;
    partial = fresh({task.shape.channels * task.chunks}, at::kDouble, norms.device());
    arrived = at::zeros({groups}, norms.options().dtype(at::kInt));
    task.partial = partial.mutable_data_ptr<double>();
    task.arrived = reinterpret_cast<unsigned*>(arrived.mutable_data_ptr<int>());
  }
};

template <NormKind kind, int V, class T>
void launch_rows(const T* data, NormTask task, const at::Tensor& norms) {
  constexpr int kGroups = kRowGroups<V>;
  const int chunks = static_cast<int>(std::min<int64_t>(task.chunks, kGroups));
  const RowsPlan plan{chunks, kGroups / chunks};
  const int64_t groups = ceil_div(task.shape.channels, plan.channels);
  const SharedChunks shared(task, norms, groups, plan.chunks);
  FASTPRUNE_LAUNCH((channel_norms_rows_kernel<kind, V, T>),
                   grid_for<ChannelsPolicy>(groups * task.splits), ChannelsPolicy::kThreads, data,
                   task, plan);
}

template <NormKind kind, int V, class T>
void launch_columns(const T* data, NormTask task, const at::Tensor& norms) {
  const int64_t strips = ceil_div(task.shape.channels, kColumnStrip<V>);
  const SharedChunks shared(task, norms, strips, 1);
  FASTPRUNE_LAUNCH((channel_norms_columns_kernel<kind, V, T>),
                   grid_for<ChannelsPolicy>(strips * task.splits), kColumnThreads<V>, data, task);
}

template <NormKind kind, class T>
void launch_strips(const T* data, NormTask task, const at::Tensor& norms) {
  const int64_t strips = ceil_div(task.shape.channels, kStripChannels);
  const SharedChunks shared(task, norms, strips, 1);
  FASTPRUNE_LAUNCH((channel_norms_strips_kernel<kind, T>),
                   grid_for<ChannelsPolicy>(strips * task.splits), ChannelsPolicy::kThreads, data,
                   task);
}

// Loads vectors if they are aligned, and if there are enough chunks to fill the GPU although each
// one then has fewer threads.
template <NormKind kind, class T>
void launch_norms_of(const T* data, const NormTask& task, const at::Tensor& norms) {
  // Powers are bound by arithmetic, and their code is large.
  constexpr int kVec = kind == NormKind::kPower ? 1 : vec_entries<T>();
  const ChannelShape& s = task.shape;
  const bool by_rows = s.outer <= 1 || s.inner >= kShortRun;
  const int64_t threads = s.channels * task.chunks * kNormLanes / kVec;
  const bool vectorized = (by_rows ? s.inner : s.channels) % kVec == 0 && is_aligned(data) &&
                          threads >= int64_t{multiprocessors()} * ChannelsPolicy::kNormFill;
  if (by_rows) {
    return vectorized ? launch_rows<kind, kVec>(data, task, norms)
                      : launch_rows<kind, 1>(data, task, norms);
  }
  // With few channels side by side, most threads of a row would be idle.
  const bool few = s.channels < kColumnStrip<1> / 2;
  if (s.inner > 1 || few) return launch_strips<kind>(data, task, norms);
  return vectorized ? launch_columns<kind, kVec>(data, task, norms)
                    : launch_columns<kind, 1>(data, task, norms);
}

template <class T>
void launch_norms(const at::Tensor& data, const NormTask& task, const at::Tensor& norms) {
  dispatch_norm(norm_kind(task.p), [&](auto kind) {
    launch_norms_of<decltype(kind)::value, T>(data.const_data_ptr<T>(), task, norms);
  });
}

}  // namespace fastprune::cuda
