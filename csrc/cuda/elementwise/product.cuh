// mask.to(T) * t over a list of tensors, with the bits that ATen gives: shared by masked_mul and
// combine_masks.
#pragma once

#include <cstdint>

#include "cuda/util/device.cuh"
#include "cuda/util/tensor_list.cuh"
#include "cuda/util/vec.cuh"

namespace fastprune::cuda {

// Each block processes a tile; `scores` of an item is t. The output may be t itself.
template <class T, class M>
__device__ __forceinline__ void multiply_tile(const TensorList& list) {
  constexpr int kVec = vec_entries<T, M>();
  const auto span = tile_span<T, M, T>(list, blockIdx.x);
  for_each_vec<kVec, vecs_in_flight<kVec, ElementwisePolicy::kThreads>(),
               ElementwisePolicy::kThreads>(
      span.size, span.vectorized,
      [&](auto width, int i) {
        constexpr int N = decltype(width)::kEntries;
        struct Factors {
          Vec<M, N> mask;
          Vec<T, N> t;
        };
        return Factors{load_vec<N>(span.mask + i), load_vec<N>(span.scores + i)};
      },
      [&](auto width, int i, const auto& of) {
        constexpr int N = decltype(width)::kEntries;
        Vec<T, N> product;
#pragma unroll
        for (int v = 0; v < N; ++v) {
          product.at[v] = static_cast<T>(static_cast<T>(of.mask.at[v]) * of.t.at[v]);
        }
        store_vec<N>(span.out + i, product);
      });
}

}  // namespace fastprune::cuda
