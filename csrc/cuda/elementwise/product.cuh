// mask.to(T) * t over a list of tensors, to the bit: what masked_mul and combine_masks stream
// through.
#pragma once

#include <cstdint>

#include "cuda/util/device.cuh"
#include "cuda/util/tensor_list.cuh"
#include "cuda/util/vec.cuh"

namespace fastprune::cuda {

// A block takes a tile of one of the tensors; `scores` of a segment is t. The product may be t.
template <class T, class M>
__device__ __forceinline__ void multiply_tiles(const SegmentList& list) {
  constexpr int kPack = pack_entries<T, M>();
  for (int64_t tile = blockIdx.x; tile < list.tiles; tile += gridDim.x) {
    const auto span = tile_span<T, M, T>(list, tile);
    for_each_pack<kPack, packs_in_flight<kPack, ElementwisePolicy::kThreads>(),
                  ElementwisePolicy::kThreads>(
        span.size, span.wide,
        [&](auto width, int i) {
          constexpr int N = decltype(width)::kEntries;
          struct Factors {
            Pack<M, N> mask;
            Pack<T, N> t;
          };
          return Factors{load_pack<N>(span.mask + i), load_pack<N>(span.scores + i)};
        },
        [&](auto width, int i, const auto& of) {
          constexpr int N = decltype(width)::kEntries;
          Pack<T, N> product;
#pragma unroll
          for (int v = 0; v < N; ++v) {
            product.at[v] = static_cast<T>(static_cast<T>(of.mask.at[v]) * of.t.at[v]);
          }
          store_pack<N>(span.out + i, product);
        });
  }
}

}  // namespace fastprune::cuda
