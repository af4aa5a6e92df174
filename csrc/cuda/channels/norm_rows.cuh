// channel_norms of channels whose entries are contiguous in long runs. A group of kNormLanes / V
// threads reads a chunk; each thread loads V neighbouring lanes at once.
#pragma once

#include <cstdint>

#include "cuda/channels/norm_sums.cuh"
#include "cuda/util/vec.cuh"

namespace fastprune::cuda {

// What a block processes at once: `chunks` of each of `channels` channels, a group each.
struct RowsPlan {
  int chunks;
  int channels;
};

template <int V>
constexpr int kRowGroups = ChannelsPolicy::kThreads * V / kNormLanes;

// Adds entries [begin, end) of a channel. V > 1: runs are whole vectors.
template <NormKind kind, int V, class T>
__device__ __forceinline__ void add_run(double (&lane)[V], const T* data, const ChannelShape& shape,
                                        int64_t channel, int64_t begin, int64_t end, double p) {
  constexpr int kLoads = kind == NormKind::kPower ? 2 : ChannelsPolicy::kNormLoads;
  const int64_t first = begin + threadIdx.x % (kNormLanes / V) * V;
  const int steps = first < end ? static_cast<int>(ceil_div(end - first, kNormLanes)) : 0;
  ChannelWalk walk(shape, channel, first, kNormLanes);
  add_vecs<kind, kLoads>(lane, steps, p, [&] {
    const auto vec = load_vec<V>(data + walk.offset);
    walk.next();
    return vec;
  });
}

template <NormKind kind, int V, class T>
__global__ void __launch_bounds__(ChannelsPolicy::kThreads, kOneBlock)
    channel_norms_rows_kernel(const T* data, const NormTask task, const RowsPlan plan) {
  constexpr int kGroups = kRowGroups<V>;
  FASTPRUNE_SHARED(double[2][kGroups], sums);  // double-buffered: this round's and the last one's
  int side = 0;
  const int group = static_cast<int>(threadIdx.x) / (kNormLanes / V);
  const bool leads = threadIdx.x % (kNormLanes / V) == 0;
  const int64_t size = task.shape.entries();
  const int64_t bundles = ceil_div(task.shape.channels, plan.channels);
  for (int64_t at = blockIdx.x; at < bundles * task.splits; at += gridDim.x) {
    const int64_t first = at / task.splits * plan.channels;
    const int64_t channel = first + group / plan.chunks;
    const bool own = group / plan.chunks < plan.channels && channel < task.shape.channels;
    const int64_t begin = at % task.splits * plan.chunks;
    const int64_t end = task.splits == 1 ? task.chunks : begin + plan.chunks;
    const int c = static_cast<int>(threadIdx.x);
    const bool adds = c < plan.channels && first + c < task.shape.channels;
    double total = norm_start<kind>();
    for (int64_t round = begin; round < end; round += plan.chunks) {
      const int64_t chunk = round + group % plan.chunks;
      double lane[V];
#pragma unroll
      for (int v = 0; v < V; ++v) lane[v] = norm_start<kind>();
      if (own && chunk < task.chunks) {
        const int64_t from = chunk * kNormChunk;
        const int64_t to = from + kNormChunk < size ? from + kNormChunk : size;
        add_run<kind>(lane, data, task.shape, channel, from, to, task.p);
      }
      const double sum = fold_lanes<kind>(lane);
      if (task.splits > 1) {
        if (leads && own && chunk < task.chunks) *partial_norm(task, channel, 1, chunk, 0) = sum;
        continue;
      }
      side ^= 1;
      if (leads) sums[side][group] = sum;
      __syncthreads();
      for (int k = 0; adds && k < plan.chunks && round + k < task.chunks; ++k) {
        total = norm_join<kind>(total, sums[side][c * plan.chunks + k]);
      }
    }
    if (task.splits > 1) {
      join_chunks<kind, ChannelsPolicy::kThreads>(task, first, first, 1);
    } else if (adds) {
      task.norms[first + c] = norm_finish<kind>(total, task.p);
    }
  }
}

}  // namespace fastprune::cuda
