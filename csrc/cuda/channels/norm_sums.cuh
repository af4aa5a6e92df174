// What the layouts of channel_norms share: adding to lanes, folding them, and adding up a channel's
// chunks. The order is the one norms.h fixes, so that the bits are the CPU's.
#pragma once

#include <cstdint>

#include "common/norms.h"
#include "cuda/channels/walk.cuh"
#include "cuda/util/device.cuh"

namespace fastprune::cuda {

static_assert(ChannelsPolicy::kThreads % kNormLanes == 0, "whole warps");

struct NormTask {
  ChannelShape shape;
  int64_t chunks;  // of a channel
  int64_t spans;   // blocks that share them; 1: a block takes all chunks of its
                   // channels
  double p;
  double* norms;
  // Where blocks share chunks, their norms meet in `partial`: by group of
  // neighbouring channels, in it by chunk, in that by channel. `arrived` counts
  // the blocks that are done with a group, from zero.
  double* partial;
  unsigned* arrived;
};

// Adds `steps` packs of V entries to V lanes; next() loads one and goes on. kLoads are under way.
template <NormKind kind, int kLoads, int V, class Next>
__device__ __forceinline__ void add_packs(double (&lane)[V], int steps, double p,
                                          const Next& next) {
  const auto add = [&](int loads) {
    decltype(next()) x[kLoads];
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
      if (u < loads) x[u] = next();
    }
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if (u < loads) {
          lane[v] = norm_join<kind>(lane[v], norm_term<kind>(static_cast<double>(x[u].at[v]), p));
        }
      }
    }
  };
  for (; steps >= kLoads; steps -= kLoads) add(kLoads);
  if (steps > 0) add(steps);
}

// A thread holds V neighbouring lanes, kNormLanes / V neighbouring threads all
// of them; the first of these gets the sum. Whole warps only.
template <NormKind kind, int V>
__device__ __forceinline__ double fold_lanes(double (&lane)[V]) {
#pragma unroll
  for (int half = kNormLanes / 2; half >= V; half /= 2) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      lane[v] = norm_join<kind>(lane[v],
                                __shfl_down_sync(0xffffffffu, lane[v], half / V, kNormLanes / V));
    }
  }
#pragma unroll
  for (int half = V / 2; half > 0; half /= 2) {
#pragma unroll
    for (int v = 0; v < half; ++v) lane[v] = norm_join<kind>(lane[v], lane[v + half]);
  }
  return lane[0];
}

// Where the norm of a chunk of channel `first + c` goes, in a group of `count`
// channels.
__device__ __forceinline__ double* partial_norm(const NormTask& task, int64_t first, int count,
                                                int64_t chunk, int c) {
  return task.partial + first * task.chunks + chunk * count + c;
}

// Called by all threads of a block that has written its span of a group: the
// last block to do so adds up the group's chunks, from first to last.
template <NormKind kind, int kBlock>
__device__ __forceinline__ void join_chunks(const NormTask& task, int64_t group, int64_t first,
                                            int count) {
  FASTPRUNE_SHARED(double[ChannelsPolicy::kNormStaged], staged);
  if (!last_block_of(static_cast<unsigned>(task.spans), &task.arrived[group])) return;
  const double* partial = partial_norm(task, first, count, 0, 0);
  const int most = ChannelsPolicy::kNormStaged / count;
  const int c = static_cast<int>(threadIdx.x);
  double total = norm_start<kind>();
  for (int64_t chunk = 0; chunk < task.chunks; chunk += most) {
    const int64_t left = task.chunks - chunk;
    const int chunks = left < most ? static_cast<int>(left) : most;
    for (int i = c; i < chunks * count; i += kBlock)
      staged[i] = load_fresh(partial + chunk * count + i);
    __syncthreads();
    for (int k = 0; c < count && k < chunks; ++k) {
      total = norm_join<kind>(total, staged[k * count + c]);
    }
    __syncthreads();  // before the next chunks are staged
  }
  if (c < count) task.norms[first + c] = norm_finish<kind>(total, task.p);
}

}  // namespace fastprune::cuda
