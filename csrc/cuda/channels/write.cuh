// Kernels of channel_mask and channel_prune: select the channels to prune, then write the mask and
// the product.
#pragma once

#include <cstdint>

#include "common/fusion.h"
#include "cuda/channels/select.cuh"
#include "cuda/util/device.cuh"
#include "cuda/util/tile_divisor.cuh"
#include "cuda/util/vec.cuh"

namespace fastprune::cuda {

struct WriteTask {
  TileChannels of;
  int64_t size;
  bool vectorized;    // all operands are aligned for vectors
  bool one_channel;   // a vector is in one channel
  bool neighbouring;  // the entries of a vector are in neighbouring channels, one in each
};

// Operands of the product, which is fused: written in one pass with the mask.
template <class T>
struct FusedProduct {
  const T* t;
  T* product;  // nullptr: only the mask is written
};

// Writes the old mask, or ones, multiplied by zero in pruned channels, and the product with t.
template <class T>
__device__ __forceinline__ void write_channels(const T* mask, const unsigned* pruned,
                                               const WriteTask& task, T* out,
                                               const FusedProduct<T>& fused) {
  constexpr int kVec = vec_entries<T>();
  // From the last tile to the first: what channel_norms read last may still be in the L2 cache.
  for (int64_t tile = ceil_div(task.size, kTile) - 1 - blockIdx.x; tile >= 0; tile -= gridDim.x) {
    const int64_t at = tile * kTile;
    const int size = static_cast<int>(task.size - at < kTile ? task.size - at : kTile);
    const ChannelPlace first = place_of(task.of, at);
    const auto bits_from = [&](int64_t c) { return pruned[c / 32] >> (c % 32); };
    for_each_vec<kVec, vecs_in_flight<kVec, ChannelsPolicy::kThreads>(), ChannelsPolicy::kThreads>(
        size, task.vectorized,
        [&](auto width, int i) {
          constexpr int N = decltype(width)::kEntries;
          if (mask != nullptr) return load_vec<N>(mask + at + i);
          Vec<T, N> ones;
#pragma unroll
          for (int v = 0; v < N; ++v) ones.at[v] = static_cast<T>(1);
          return ones;
        },
        [&](auto width, int i, auto entries) {
          constexpr int N = decltype(width)::kEntries;
          ChannelPlace place = place_in_tile(task.of, first, i);
          unsigned zeroed = bits_from(place.channel);
          if (N == 1 || task.one_channel) {
            zeroed = zeroed & 1 ? ~0u : 0u;
          } else if (!task.neighbouring) {
            zeroed &= 1;
            for (int v = 1; v < N; ++v) {
              place.next(task.of);
              zeroed |= (bits_from(place.channel) & 1) << v;
            }
          }
#pragma unroll
          for (int v = 0; v < N; ++v) {
            if (zeroed >> v & 1) {
              entries.at[v] = static_cast<T>(entries.at[v] * static_cast<T>(0));
            }
          }
          store_vec<N>(out + at + i, entries);
          if constexpr (can_multiply<T>()) {
            if (fused.product == nullptr) return;
            const auto t = load_vec<N>(fused.t + at + i);
            Vec<T, N> product;
#pragma unroll
            for (int v = 0; v < N; ++v) product.at[v] = static_cast<T>(entries.at[v] * t.at[v]);
            store_vec<N>(fused.product + at + i, product);
          }
        });
  }
}

// Every block repeats the selection, as blocks cannot wait for one that does it for all of them.
template <class T>
__global__ void __launch_bounds__(ChannelsPolicy::kThreads, kOneBlock)
    channel_mask_kernel(const T* mask, const ChannelScores scores, const Amount amount,
                        const WriteTask task, int64_t* active, T* out,
                        const FusedProduct<T> fused) {
  FASTPRUNE_SHARED(unsigned[(ChannelsPolicy::kSelectByAll + 31) / 32], pruned);
  const LastChannel last = select_channels<ChannelsPolicy::kThreads>(scores, amount);
  if (blockIdx.x == 0 && threadIdx.x == 0) *active = last.active;
  write_pruned<ChannelsPolicy::kThreads>(scores, last, pruned);
  __syncthreads();
  write_channels(mask, pruned, task, out, fused);
}

// For more channels, one block selects and the blocks of another launch write.
constexpr int kSelectThreads = 2 * ChannelsPolicy::kThreads;

template <int kBlock>
__global__ void __launch_bounds__(kBlock, 2)
    channel_select_kernel(const ChannelScores scores, const Amount amount, int64_t* active,
                          unsigned* pruned) {
  const LastChannel last = select_channels<kBlock>(scores, amount);
  if (threadIdx.x == 0) *active = last.active;
  write_pruned<kBlock>(scores, last, pruned);
}

template <class T>
__global__ void __launch_bounds__(ChannelsPolicy::kThreads)
    channel_write_kernel(const T* mask, const unsigned* pruned, const WriteTask task, T* out,
                         const FusedProduct<T> fused) {
  write_channels(mask, pruned, task, out, fused);
}

}  // namespace fastprune::cuda
