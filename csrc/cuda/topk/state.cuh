// What the kernels of topk_masks hand on to each other, in device memory.
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
static_assert(TopkPolicy::kThreads % 32 == 0, "whole warps");
static_assert(kTile % TopkPolicy::kThreads == 0, "every thread has the same share of a tile");
static_assert(kTile < 1 << 16, "an offset in a tile, and a count of its entries, fit 16 bits");

struct SelectionOptions {
  Amount amount;
  uint64_t one;      // bits of an active mask entry
  uint64_t flip;     // see rank_key
  bool active_only;  // else all entries are active
  ForcedMiss forced_miss;
};

// What the sweep goes by: it counts the keys `lo` and `hi`, keeps those strictly between them aside
// and prunes, for the time being, what is under `guess`. lo < guess <= hi, or all three are one
// key.
template <class Key>
struct Edges {
  Key lo;
  Key guess;
  Key hi;
};

// What the bracket of a selection is narrowed with: the candidates that the sweep kept aside, or,
// if the sample misled, everything.
enum class Source : int { kCandidates, kEverything };

template <class Key>
struct TopkState {
  Edges<Key> edges;
  Bracket<Key> bracket;  // after the sweep; in the end one key, the threshold
  Source source;
  // Counted by the sweep, all active.
  unsigned long long active;
  unsigned long long below;  // under edges.lo
  unsigned long long ties_lo;
  unsigned long long ties_hi;
  unsigned long long between;  // also the room for candidates that is taken or was asked for
  unsigned arrived;            // see last_block
};

// What the sweep found in a tile.
struct TileRecord {
  unsigned begin;  // of its candidates
  unsigned between;
  unsigned ties_lo;
  unsigned ties_hi;
};

// Ties of a tile, and how many of them are to be pruned, in one word.
struct TileTies {
  unsigned word;

  __device__ __forceinline__ unsigned ties() const { return word & 0xffffu; }
  __device__ __forceinline__ unsigned quota() const { return word >> 16; }
};

__device__ __forceinline__ TileTies tile_ties(unsigned ties, unsigned quota) {
  return {ties | quota << 16};
}

// A key of a sample that is not one: no key has the top bit.
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
  // The candidates: what lies strictly between the edges.
  typename F::Bits* keys;
  uint16_t* offsets;  // in their tiles
  int64_t room;
  TileRecord* records;
  unsigned* ties;  // TileTies by tile; room for a whole number of kTilesTogether
};

template <class F, class M>
using Span = TileSpan<typename F::Bits, M>;

// Whether a tile can be taken in packs of N.
template <class F, class M>
__device__ __forceinline__ bool in_packs(const Span<F, M>& span) {
  return span.wide && span.size % pack_entries<typename F::Bits, M>() == 0;
}

template <class F, class M>
__device__ __forceinline__ bool is_active(M old, const SelectionOptions& options) {
  return !options.active_only || old == static_cast<M>(options.one);
}

// Entries [i, i + N) of the old mask: ones where there is none.
template <int N, class F, class M>
__device__ __forceinline__ Pack<M, N> old_mask(const Span<F, M>& span, int i,
                                               const SelectionOptions& options) {
  if (span.mask != nullptr) return load_pack<N>(span.mask + i);
  Pack<M, N> ones;
#pragma unroll
  for (int e = 0; e < N; ++e) ones.at[e] = static_cast<M>(options.one);
  return ones;
}

// A product is written with the mask for all score dtypes, if the mask has that dtype or one byte.
constexpr FusionRule kFusion{/*half=*/true, /*byte_masks=*/true};

// Writes entries [i, i + N): the mask and, where there is one, the product.
template <int N, class F, class M>
__device__ __forceinline__ void write(const Span<F, M>& span, int i, const Pack<M, N>& values) {
  store_pack<N>(span.out + i, values);
  if constexpr (can_multiply<F, M>(kFusion)) {
    if (span.product == nullptr) return;
    const auto t = load_pack<N>(span.t + i);
    Pack<typename F::Bits, N> product;
#pragma unroll
    for (int e = 0; e < N; ++e) product.at[e] = product_bits<F, M>(values.at[e], t.at[e]);
    store_pack<N>(span.product + i, product);
  }
}

}  // namespace fastprune::cuda
