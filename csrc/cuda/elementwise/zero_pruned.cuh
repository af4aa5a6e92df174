// The loop of masked_muls_ for masks of bool and packed ones: pruned entries become +0. Only they
// need a write: t is not touched where a vector has none, and not read where all of it is pruned.
#pragma once

#include <cstdint>

#include "common/packed.h"
#include "cuda/util/device.cuh"
#include "cuda/util/tensor_list.cuh"
#include "cuda/util/vec.cuh"

namespace fastprune::cuda {

// Which of N entries are kept, one bit each, from entry i of a tile on; for a mask of bool.
struct KeptByBools {
  static constexpr int kInFlight = 4;  // vectors of a thread, at most

  const uint8_t* mask;

  template <int N>
  __device__ __forceinline__ unsigned bits(int i) const {
    const auto bools = load_vec<N>(mask + i);
    unsigned kept = 0;
#pragma unroll
    for (int v = 0; v < N; ++v) kept |= static_cast<unsigned>(bools.at[v] != 0) << v;
    return kept;
  }
};

__device__ __forceinline__ uint8_t byte_at(const uint8_t* p) {
  return load_vec<1>(p).at[0];
}

// The same for a packed mask of one row. Tiles and vectors begin at multiples of N, which divides
// 8: all bits of a vector are of one byte.
struct KeptByBits {
  static constexpr int kInFlight = 4;

  const uint8_t* mask;

  template <int N>
  __device__ __forceinline__ unsigned bits(int i) const {
    static_assert(kTile % 8 == 0 && 8 % N == 0, "a vector is within a byte");
    return kept_from(byte_at(mask + i / 8), i % 8);
  }
};

// The same for a packed mask of rows of any length. The tile begins at entry `place` of `row`.
struct KeptByRows {
  static constexpr int kInFlight = 1;  // more would take registers from the other masks

  const uint8_t* row;
  int64_t place;
  PackedRows rows;

  template <int N>
  __device__ __forceinline__ unsigned bits(int i) const {
    const int64_t skipped = rows_in(place + i);
    const uint8_t* p = row + skipped * rows.bytes;
    int64_t c = place + i - skipped * rows.cols;
    unsigned kept = 0;
#pragma unroll
    for (int v = 0; v < N; ++v) {
      kept |= (kept_from(byte_at(p + c / 8), static_cast<int>(c % 8)) & 1u) << v;
      if (++c < rows.cols) continue;
      c = 0;
      p += rows.bytes;
    }
    return kept;
  }

  // n / rows.cols for n < rows.cols + kTile: in 32 bits where that is more than 0 or 1.
  __device__ __forceinline__ int64_t rows_in(int64_t n) const {
    if (rows.cols >= kTile) return n >= rows.cols;
    return static_cast<unsigned>(n) / static_cast<unsigned>(rows.cols);
  }
};

// Entries [0, size) of a tile.
template <class Bits, class Kept>
__device__ __forceinline__ void zero_pruned(Bits* t, int size, bool vectorized, const Kept& mask) {
  constexpr int kVec = vec_entries<Bits>();
  constexpr int kShare = vecs_in_flight<kVec, ElementwisePolicy::kThreads>();
  constexpr int kInFlight = kShare < Kept::kInFlight ? kShare : Kept::kInFlight;
  for_each_vec<kVec, kInFlight, ElementwisePolicy::kThreads>(
      size, vectorized,
      [&](auto width, int i) {
        constexpr int N = decltype(width)::kEntries;
        constexpr unsigned kAll = (1u << N) - 1;
        struct Fetched {
          unsigned kept;
          Vec<Bits, N> t;
        };
        Fetched fetched{mask.template bits<N>(i) & kAll, {}};
        if (fetched.kept != 0 && fetched.kept != kAll) fetched.t = load_vec<N>(t + i);
        return fetched;
      },
      [&](auto width, int i, const auto& of) {
        constexpr int N = decltype(width)::kEntries;
        constexpr unsigned kAll = (1u << N) - 1;
        if (of.kept == kAll) return;
        Vec<Bits, N> zeroed;
#pragma unroll
        for (int v = 0; v < N; ++v) zeroed.at[v] = keep_if((of.kept >> v & 1) != 0, of.t.at[v]);
        store_vec<N>(t + i, zeroed);
      });
}

}  // namespace fastprune::cuda
