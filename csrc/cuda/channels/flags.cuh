// Finds the active channels: a launch before the selection, which depends on all of them. A flag is
// a word with a byte for each part of the channel, written by the block that reads the part; so
// flags need neither clearing nor atomics. Reading stops once any thread of the group finds a
// non-zero entry: threads tell each other through atomics in shared memory, and read them between
// two barriers.
#pragma once

#include <cstdint>

#include "cuda/channels/walk.cuh"
#include "cuda/util/device.cuh"
#include "cuda/util/vec.cuh"

namespace fastprune::cuda {

constexpr int kFlagParts = sizeof(uint64_t);
constexpr int kFlagLoads = 4;     // loads in flight in a thread
constexpr int kFlagLongRun = 32;  // runs of at least this length are read as runs
constexpr int kFewestLanes = 4;

struct FlagTask {
  ChannelShape shape;
  int parts;           // of a channel: 1 or kFlagParts
  int lanes;           // runs: threads that share a part
  int strip;           // strips: channels that a block takes at once
  bool vectorized;     // runs, or rows, are whole vectors
  uint64_t magnitude;  // all bits but the signs, of as many entries as fit in the word
  uint64_t* flags;
};

__device__ __forceinline__ void write_flag(const FlagTask& task, int64_t channel, int part,
                                           bool active) {
  if (task.parts == 1) {
    task.flags[channel] = active;
  } else {
    reinterpret_cast<uint8_t*>(task.flags)[channel * kFlagParts + part] = active;
  }
}

// The bits of V entries; those of a vector are or-ed into one word.
template <int V, class B>
__device__ __forceinline__ uint64_t bits_of(const B* entries) {
  if constexpr (V == 1) {
    return load(entries);
  } else {
    const auto words = load_vec<2>(reinterpret_cast<const uint64_t*>(entries));
    return words.at[0] | words.at[1];
  }
}

// In the lowest of the lanes that share a group, and one warp: whether any of these has found an
// entry. All lanes of the warp call it.
__device__ __forceinline__ bool first_of_group(int lanes, bool has_found) {
  const unsigned votes = __ballot_sync(0xffffffffu, has_found);
  const unsigned lane = threadIdx.x % 32;
  if (lanes >= 32) return lane == 0 && votes != 0;
  const unsigned group = ((1u << lanes) - 1) << (lane / lanes * lanes);
  return lane % lanes == 0 && (votes & group) != 0;
}

// Long runs: a group of `lanes` threads reads a part of a channel.
template <int V, class B>
__device__ __forceinline__ void flags_of_runs(const B* mask, const FlagTask& task) {
  FASTPRUNE_SHARED(int[ChannelsPolicy::kThreads / kFewestLanes], found);
  const int at_once = ChannelsPolicy::kThreads / task.lanes;
  const int own = static_cast<int>(threadIdx.x) / task.lanes;
  const int lane = static_cast<int>(threadIdx.x) % task.lanes;
  const int64_t tasks = task.shape.channels * task.parts;
  const int64_t size = task.shape.entries();
  const int64_t per_part = ceil_div(size / V, task.parts) * V;
  const int64_t step = int64_t{task.lanes} * V;
  for (int64_t first = int64_t{blockIdx.x} * at_once; first < tasks;
       first += int64_t{gridDim.x} * at_once) {
    const int64_t at = first + own;
    const int64_t channel = at / task.parts;
    const int part = static_cast<int>(at % task.parts);
    int64_t end = (part + 1) * per_part < size ? (part + 1) * per_part : size;
    if (at >= tasks) end = 0;
    int64_t j = part * per_part + lane * V;
    ChannelWalk walk(task.shape, channel, j, step);
    if (lane == 0) found[own] = 0;
    __syncthreads();
    bool more = j < end;
    bool told = false;
    do {
      uint64_t any = 0;
#pragma unroll
      for (int u = 0; u < kFlagLoads; ++u) {
        if (more && j < end) {
          any |= bits_of<V>(mask + walk.offset);
        }
        j += step;
        walk.next();
      }
      if (first_of_group(task.lanes, (any & task.magnitude) != 0) && !told) {
        atomicOr(&found[own], 1);
        told = true;
      }
      __syncthreads();
      more = more && j < end && found[own] == 0;
    } while (__syncthreads_or(more));
    if (lane == 0 && at < tasks) write_flag(task, channel, part, found[own] != 0);
  }
}

// Short runs: a block reads a part of the rows of a strip of neighbouring channels.
template <int V, class B>
__device__ __forceinline__ void flags_of_strips(const B* mask, const FlagTask& task) {
  FASTPRUNE_SHARED(int[ChannelsPolicy::kThreads], found);
  const B magnitude = static_cast<B>(task.magnitude);
  const ChannelShape& s = task.shape;
  const int inner = static_cast<int>(s.inner);
  const int across = task.strip * inner / V;  // threads
  const int down = ChannelsPolicy::kThreads / across;
  const int column = static_cast<int>(threadIdx.x) % across * V;
  const int64_t strips = ceil_div(s.channels, task.strip);
  const int64_t per_part = ceil_div(s.outer, task.parts);
  for (int64_t at = blockIdx.x; at < strips * task.parts; at += gridDim.x) {
    const int64_t first = at / task.parts * task.strip;
    const int part = static_cast<int>(at % task.parts);
    const int count =
        static_cast<int>(first + task.strip < s.channels ? task.strip : s.channels - first);
    const int64_t end = (part + 1) * per_part < s.outer ? (part + 1) * per_part : s.outer;
    int64_t row = part * per_part + threadIdx.x / across;
    bool more =
        static_cast<int>(threadIdx.x) < down * across && column < count * inner && row < end;
    if (static_cast<int>(threadIdx.x) < count) found[threadIdx.x] = 0;
    __syncthreads();
    unsigned seen = 0;  // a bit for each of the thread's columns: a non-zero entry was found
    unsigned told = 0;
    do {
#pragma unroll
      for (int u = 0; u < kFlagLoads; ++u, row += down) {
        if (!more || row >= end) continue;
        const Vec<B, V> entries = load_vec<V>(mask + (row * s.channels + first) * inner + column);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          seen |= static_cast<unsigned>((entries.at[v] & magnitude) != 0) << v;
        }
      }
      for (unsigned fresh = seen & ~told; fresh != 0; fresh &= fresh - 1) {
        atomicOr(&found[(column + __ffs(static_cast<int>(fresh)) - 1) / inner], 1);
      }
      told = seen;
      __syncthreads();
      bool all = true;
      int c = column / inner;
      int place = column % inner;
      for (int v = 0; more && v < V; ++v) {
        all = all && found[c] != 0;
        if (++place == inner) {
          place = 0;
          ++c;
        }
      }
      more = more && row < end && !all;
    } while (__syncthreads_or(more));
    if (static_cast<int>(threadIdx.x) < count) {
      write_flag(task, first + threadIdx.x, part, found[threadIdx.x] != 0);
    }
  }
}

template <class B>
__global__ void __launch_bounds__(ChannelsPolicy::kThreads)
    channel_flags_runs_kernel(const B* mask, const FlagTask task) {
  if (task.vectorized) {
    flags_of_runs<vec_entries<B>()>(mask, task);
  } else {
    flags_of_runs<1>(mask, task);
  }
}

template <class B>
__global__ void __launch_bounds__(ChannelsPolicy::kThreads)
    channel_flags_strips_kernel(const B* mask, const FlagTask task) {
  if (task.vectorized) {
    flags_of_strips<vec_entries<B>()>(mask, task);
  } else {
    flags_of_strips<1>(mask, task);
  }
}

}  // namespace fastprune::cuda
