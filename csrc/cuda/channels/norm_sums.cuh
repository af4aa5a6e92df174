// Shared by the layouts of channel_norms: adding to lanes, folding the lanes of a chunk, adding the
// chunks of a channel. All sums are in the order that norms.h defines, so that the result has the
// same bits as on the CPU.
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
  int64_t splits;  // blocks that share the chunks of a group of channels
  double p;
  double* norms;
  // With splits > 1: the norms of chunks, ordered by group of channels, then chunk, then channel,
  // and for each group the number of blocks that have finished, initially zero.
  double* partial;
  unsigned* arrived;
};

// Adds `steps` vectors of V entries to V lanes; next() loads a vector and advances. While kLoads
// are added, the next kLoads are in flight.
template <NormKind kind, int kLoads, int V, class Next>
__device__ __forceinline__ void add_vecs(double (&lane)[V], int steps, double p, const Next& next) {
  decltype(next()) x[kLoads];
  decltype(next()) ahead[kLoads];
  const auto load = [&](int loads) {
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
      if (u < loads) ahead[u] = next();
    }
  };
  const auto add = [&](int loads) {
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
  const auto take = [&] {
#pragma unroll
    for (int u = 0; u < kLoads; ++u) x[u] = ahead[u];
  };
  load(steps < kLoads ? steps : kLoads);
  for (; steps >= 2 * kLoads; steps -= kLoads) {
    take();
    load(kLoads);
    add(kLoads);
  }
  take();
  add(steps < kLoads ? steps : kLoads);
  for (steps -= kLoads; steps > 0; --steps) {
    x[0] = next();
    add(1);
  }
}

// Folds the lanes of a chunk: kNormLanes / V neighbouring threads hold V neighbouring lanes each.
// Returns the sum to the first of them. Called by whole warps.
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

// Where the norm of a chunk of channel first + c is stored; `count` channels are in its group.
__device__ __forceinline__ double* partial_norm(const NormTask& task, int64_t first, int count,
                                                int64_t chunk, int c) {
  return task.partial + first * task.chunks + chunk * count + c;
}

// Called by all threads of a block that has written its chunks of a group: the last of these blocks
// to arrive adds the group's chunks, from first to last.
template <NormKind kind, int kBlock>
__device__ __forceinline__ void join_chunks(const NormTask& task, int64_t group, int64_t first,
                                            int count) {
  FASTPRUNE_SHARED(double[ChannelsPolicy::kNormStaged], staged);
  if (!last_block_of(static_cast<unsigned>(task.splits), &task.arrived[group])) return;
  const double* partial = partial_norm(task, first, count, 0, 0);
  const int most = ChannelsPolicy::kNormStaged / count;
  const int c = static_cast<int>(threadIdx.x);
  double total = norm_start<kind>();
  for (int64_t chunk = 0; chunk < task.chunks; chunk += most) {
    const int64_t left = task.chunks - chunk;
    const int chunks = left < most ? static_cast<int>(left) : most;
    for (int i = c; i < chunks * count; i += kBlock) {
      staged[i] = load_fresh(partial + chunk * count + i);
    }
    __syncthreads();
    for (int k = 0; c < count && k < chunks; ++k) {
      total = norm_join<kind>(total, staged[k * count + c]);
    }
    __syncthreads();  // before the next chunks are staged
  }
  if (c < count) task.norms[first + c] = norm_finish<kind>(total, task.p);
}

}  // namespace fastprune::cuda
