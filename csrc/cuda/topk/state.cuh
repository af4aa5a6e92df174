// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here what its
// kernels pass to each other in device memory, and access to the old mask and the outputs.
#pragma once

#include <cstdint>

#include "common/fusion.h"
#include "common/keys.h"
#include "common/selection.h"
#include "cuda/util/device.cuh"
#include "cuda/util/tensor_list.cuh"

namespace fastprune::cuda {

constexpr int kBins = 1 << TopkPolicy::kDigitBits;
constexpr int kWarps = TopkPolicy::kThreads / 32;
constexpr int kTilesTogether = 8;  // tiles that a thread processes at once, as vectors of four

template <class F>
constexpr int kPasses = digit_passes(F::kKeyBits, TopkPolicy::kDigitBits);

static_assert(TopkPolicy::kThreads % 32 == 0, "whole warps");
static_assert(kTile % TopkPolicy::kThreads == 0, "every thread has the same share of a tile");
static_assert(kTile < 1 << 16, "an offset in a tile, and a count of its entries, fit 16 bits");

struct SelectionOptions {
  Amount amount;
  uint64_t one;      // bits of an active mask entry
  uint64_t flip;     // see rank_key
  bool active_only;  // otherwise all entries are active
  ForcedMiss forced_miss;
};

// The sweep counts keys equal to `lo` and to `hi`, stores those strictly between them as candidates
// and prunes, until the fixup, the keys under `pivot`. lo < pivot <= hi, or all three are equal.
template <class Key>
struct Edges {
  Key lo;
  Key pivot;
  Key hi;
};

// What the radix passes read: the candidates, or, as the fallback, all entries.
enum class Source : int { kCandidates, kEverything };

template <class Key>
struct TopkState {
  Edges<Key> edges;
  Bracket<Key> bracket;  // set by the sweep, narrowed to one key: the threshold
  Source source;
  // Active entries, counted by the sweep.
  unsigned long long active;
  unsigned long long below;  // under edges.lo
  unsigned long long ties_lo;
  unsigned long long ties_hi;
  unsigned long long between;  // allocates room for candidates, and may exceed it
  unsigned arrived;            // see last_block
};

// What the sweep found in a tile.
struct TileRecord {
  unsigned begin;  // index of its first candidate
  unsigned between;
  unsigned ties_lo;
  unsigned ties_hi;
};

// The ties of a tile and how many of them it prunes, in one word.
struct TileTies {
  unsigned word;

  __device__ __forceinline__ unsigned ties() const { return word & 0xffffu; }
  __device__ __forceinline__ unsigned quota() const { return word >> 16; }
  __device__ __forceinline__ bool partial() const { return quota() > 0 && quota() < ties(); }
};

__device__ __forceinline__ TileTies tile_ties(unsigned ties, unsigned quota) {
  return {ties | quota << 16};
}

// Stands for no key in a sample: keys do not have the top bit.
template <class F>
__device__ __forceinline__ typename F::Bits no_key() {
  return static_cast<typename F::Bits>(~typename F::Bits{0});
}

template <class F>
struct TopkWork {
  TopkState<typename F::Key>* state;
  unsigned long long* bins;  // kBins for each pass over a digit
  typename F::Bits* sample;
  int64_t sample_size;
  int64_t stretch;  // entries for each key of the sample
  // The candidates: keys strictly between the edges.
  typename F::Bits* keys;
  uint16_t* offsets;  // in their tiles
  int64_t room;
  TileRecord* records;
  unsigned* ties;  // TileTies by tile; padded with zeros to a multiple of kTilesTogether
};

template <class F, class M>
using Span = TileSpan<typename F::Bits, M>;

// Whether a tile can be processed in whole vectors.
template <class F, class M>
__device__ __forceinline__ bool is_vectorized(const Span<F, M>& span) {
  return span.vectorized && span.size % vec_entries<typename F::Bits, M>() == 0;
}

template <class F, class M>
__device__ __forceinline__ bool is_active(M old, const SelectionOptions& options) {
  return !options.active_only || old == static_cast<M>(options.one);
}

// Entries [i, i + N) of the old mask, or ones without one.
template <int N, class F, class M>
__device__ __forceinline__ Vec<M, N> old_mask(const Span<F, M>& span, int i,
                                              const SelectionOptions& options) {
  if (span.mask != nullptr) return load_vec<N>(span.mask + i);
  Vec<M, N> ones;
#pragma unroll
  for (int e = 0; e < N; ++e) ones.at[e] = static_cast<M>(options.one);
  return ones;
}

// The products that are fused: of all score dtypes, with masks of the same dtype or of one byte.
constexpr FusionRule kFusion{/*half=*/true, /*byte_masks=*/true};

// Writes entries [i, i + N) of the mask and, if there is one, of the product.
template <int N, class F, class M>
__device__ __forceinline__ void write(const Span<F, M>& span, int i, const Vec<M, N>& values) {
  store_vec<N>(span.out + i, values);
  if constexpr (can_multiply<F, M>(kFusion, /*has_old_mask=*/true)) {
    if (span.product == nullptr) return;
    const auto t = load_vec<N>(span.t + i);
    Vec<typename F::Bits, N> product;
#pragma unroll
    for (int e = 0; e < N; ++e) product.at[e] = product_bits<F, M>(values.at[e], t.at[e]);
    store_vec<N>(span.product + i, product);
  }
}

}  // namespace fastprune::cuda
