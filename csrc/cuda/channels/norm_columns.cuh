// channel_norms of channels that are neighbours in memory (inner == 1). A block processes a strip
// of channels, a chunk at a time; a thread loads V neighbouring channels (x) of one lane (y).
#pragma once

#include <cstdint>

#include "cuda/channels/norm_sums.cuh"
#include "cuda/util/vec.cuh"

namespace fastprune::cuda {

// With V == 1, whole sectors need more threads side by side.
template <int V>
constexpr int kColumnThreads = V == 1 ? 4 * ChannelsPolicy::kThreads : ChannelsPolicy::kThreads;
template <int V>
constexpr int kColumnStrip = kColumnThreads<V> / kNormLanes * V;
static_assert(4 * ChannelsPolicy::kThreads <= 1024, "a block has at most 1024 threads");
static_assert(kColumnStrip<1> <= ChannelsPolicy::kNormStaged &&
                  kColumnStrip<8> <= ChannelsPolicy::kNormStaged,
              "join_chunks stages whole strips");

// Adds every kNormLanes-th row of V channels.
template <NormKind kind, int V, class T>
__device__ __forceinline__ void add_column(double (&lane)[V], const T* from, int64_t channels,
                                           int steps, double p) {
  constexpr int kLoads = kind == NormKind::kPower ? 2 : ChannelsPolicy::kNormLoads;
  add_vecs<kind, kLoads>(lane, steps, p, [&] {
    const auto vec = load_vec<V>(from);
    from += kNormLanes * channels;
    return vec;
  });
}

// V > 1: the number of channels is a multiple of V.
template <NormKind kind, int V, class T>
__global__ void __launch_bounds__(kColumnThreads<V>, kOneBlock)
    channel_norms_columns_kernel(const T* data, const NormTask task) {
  constexpr int kAcross = kColumnThreads<V> / kNormLanes;
  constexpr int kStrip = kColumnStrip<V>;
  FASTPRUNE_SHARED(double[kNormLanes][kStrip + 1],
                   lanes);  // + 1: a column is spread over all banks
  const int x = static_cast<int>(threadIdx.x) % kAcross * V;
  const int y = static_cast<int>(threadIdx.x) / kAcross;
  const int64_t channels = task.shape.channels;
  const int64_t strips = ceil_div(channels, kStrip);
  const int warp = static_cast<int>(threadIdx.x) / kNormLanes;
  const bool leads = threadIdx.x % kNormLanes == 0;
  for (int64_t at = blockIdx.x; at < strips * task.splits; at += gridDim.x) {
    const int64_t strip = at / task.splits;
    const int64_t first = strip * kStrip;
    const int count = static_cast<int>(first + kStrip < channels ? kStrip : channels - first);
    const int64_t begin = at % task.splits;
    const int64_t end = task.splits == 1 ? task.chunks : begin + 1;
    double total[V];  // of the warp's channels
#pragma unroll
    for (int v = 0; v < V; ++v) total[v] = norm_start<kind>();
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t row = chunk * kNormChunk;
      const int64_t left = task.shape.outer - row;
      const int rows = left < kNormChunk ? static_cast<int>(left) : kNormChunk;
      double lane[V];
#pragma unroll
      for (int v = 0; v < V; ++v) lane[v] = norm_start<kind>();
      if (x < count && y < rows) {
        add_column<kind>(lane, data + (row + y) * channels + first + x, channels,
                         ceil_div(rows - y, kNormLanes), task.p);
      }
#pragma unroll
      for (int v = 0; v < V; ++v) lanes[y][x + v] = lane[v];
      __syncthreads();
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const int c = warp + v * kAcross;
        double one[1] = {lanes[threadIdx.x % kNormLanes][c]};
        const double sum = fold_lanes<kind>(one);
        total[v] = norm_join<kind>(total[v], sum);
        if (task.splits > 1 && leads && c < count)
          *partial_norm(task, first, count, chunk, c) = sum;
      }
      __syncthreads();  // before the next chunk's lanes are written
    }
    if (task.splits > 1) {
      join_chunks<kind, kColumnThreads<V>>(task, strip, first, count);
      continue;
    }
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int c = warp + v * kAcross;
      if (leads && c < count) task.norms[first + c] = norm_finish<kind>(total[v], task.p);
    }
  }
}

}  // namespace fastprune::cuda
