// channel_norms where neighbouring channels are neighbours in memory (inner == 1). A block takes a
// chunk of a strip of them: x is V neighbouring channels, y the lane.
#pragma once

#include <cstdint>

#include "norm_sums.cuh"
#include "pack.cuh"

namespace fastprune::cuda {

// Narrow loads need more threads side by side to use whole sectors.
template <int V>
constexpr int kColumnThreads = V == 1 ? 4 * kThreads : kThreads;
template <int V>
constexpr int kColumnStrip = kColumnThreads<V> / kNormLanes * V;
static_assert(4 * kThreads <= 1024, "a block has at most 1024 threads");
static_assert(kColumnStrip<1> <= kNormStaged && kColumnStrip<8> <= kNormStaged,
              "join_chunks stages whole strips");

// V > 1: the number of channels is a multiple of V.
template <NormKind kind, int V, class T>
__global__ void __launch_bounds__(kColumnThreads<V>)
    channel_norms_columns_kernel(const T* data, const NormTask task) {
  constexpr int kLoads = kind == NormKind::kPower ? 4 : kNormLoads;
  constexpr int kAcross = kColumnThreads<V> / kNormLanes;
  constexpr int kStrip = kColumnStrip<V>;
  FASTPRUNE_SHARED(double[kNormLanes][kStrip + 1], lanes);  // + 1: columns lie in all banks
  const int x = static_cast<int>(threadIdx.x) % kAcross * V;
  const int y = static_cast<int>(threadIdx.x) / kAcross;
  const int64_t channels = task.shape.channels;
  const int64_t strips = (channels + kStrip - 1) / kStrip;
  for (int64_t at = blockIdx.x; at < strips * task.chunks; at += gridDim.x) {
    const int64_t strip = at / task.chunks;
    const int64_t chunk = at % task.chunks;
    const int64_t first = strip * kStrip;
    const int count = static_cast<int>(first + kStrip < channels ? kStrip : channels - first);
    const int64_t begin = chunk * kNormChunk + y;
    const int64_t left = task.shape.outer - chunk * kNormChunk;
    const int size = left < kNormChunk ? static_cast<int>(left) : kNormChunk;
    int steps = x < count && y < size ? (size - y + kNormLanes - 1) / kNormLanes : 0;
    const T* from = data + begin * channels + first + x;
    double lane[V];
#pragma unroll
    for (int v = 0; v < V; ++v) lane[v] = norm_start<kind>();
    const auto add = [&](int loads) {
      Pack<T, V> entries[kLoads];
#pragma unroll
      for (int u = 0; u < kLoads; ++u) {
        if (u < loads) entries[u] = load_pack<V>(from + u * kNormLanes * channels);
      }
      from += kLoads * kNormLanes * channels;
#pragma unroll
      for (int u = 0; u < kLoads; ++u) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
          if (u < loads) {
            const double value = static_cast<double>(entries[u].at[v]);
            lane[v] = norm_join<kind>(lane[v], norm_term<kind>(value, task.p));
          }
        }
      }
    };
    for (; steps >= kLoads; steps -= kLoads) add(kLoads);
    if (steps > 0) add(steps);
#pragma unroll
    for (int v = 0; v < V; ++v) lanes[y][x + v] = lane[v];
    __syncthreads();
    for (int c = threadIdx.x / kNormLanes; c < kStrip; c += kAcross) {
      double one[1] = {lanes[threadIdx.x % kNormLanes][c]};
      const double sum = fold_lanes<kind>(one);
      if (threadIdx.x % kNormLanes != 0 || c >= count) continue;
      if (task.chunks == 1) {
        task.norms[first + c] = norm_finish<kind>(norm_join<kind>(norm_start<kind>(), sum), task.p);
      } else {
        *partial_norm(task, first, count, chunk, c) = sum;
      }
    }
    if (task.chunks > 1) {
      join_chunks<kind, kColumnThreads<V>>(task, strip, static_cast<unsigned>(task.chunks), first,
                                           count);
    }
    __syncthreads();  // before the next lanes
  }
}

}  // namespace fastprune::cuda
