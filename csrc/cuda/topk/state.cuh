// topk_masks on CUDA: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here what its
// kernels pass to each other in device memory, and access to the old mask and the outputs.
#pragma once

#include <cstdint>

#include "common/keys.h"
#include "common/selection.h"
#include "cuda/util/device.cuh"
#include "cuda/util/fusion.cuh"
#include "cuda/util/scaled.cuh"
#include "cuda/util/tensor_list.cuh"
#include "cuda/util/vec.cuh"

namespace fastprune::cuda {

constexpr int kBins = 1 << TopkPolicy::kDigitBits;
constexpr int kTilesTogether = 8;  // tiles that a thread processes at once, as vectors of four

template <class F>
constexpr int kPasses = digit_passes(F::kKeyBits, TopkPolicy::kDigitBits);

static_assert(TopkPolicy::kThreads % 32 == 0, "whole warps");
static_assert(kTile % TopkPolicy::kThreads == 0, "every thread has the same share of a tile");
static_assert(kTile < 1 << 16, "a count of a tile's entries fits 16 bits");
static_assert(TopkPolicy::kBatchTiles * kTile <= 1 << 16, "an offset in a batch fits 16 bits");

struct SelectionOptions {
  Amount amount;
  uint64_t one;      // bits of an active mask entry
  uint64_t flip;     // see rank_key
  bool active_only;  // otherwise all entries are active
  ForcedMiss forced_miss;
};

// What the sweep goes by, lo <= pivot <= hi. It counts keys equal to `lo` and to `hi` by tile,
// stores those strictly between them as candidates, and prunes, until the fixup, keys under the
// pivot. Entries equal to the pivot are pruned in tiles before `pivot_tile`: so an edge that is the
// key of very many entries, of which only some are pruned, is mostly decided right.
template <class Key>
struct Edges {
  Key lo;
  Key pivot;
  Key hi;
  Key pivot_tile;  // as wide as a key: a copy would read padding, which nobody writes

  // What is pruned in a tile: keys under this.
  __device__ __forceinline__ Key bound(int tile) const {
    return pivot + static_cast<Key>(static_cast<Key>(tile) < pivot_tile);
  }
};

// What the radix passes read: the candidates, or, as the fallback, all entries.
enum class Source : int { kCandidates, kEverything };

// Counted by the sweep, of active entries. The counts of several lists with the same edges add up.
struct SweepCounts {
  unsigned long long active;
  unsigned long long below;  // under edges.lo
  unsigned long long ties_lo;
  unsigned long long ties_hi;
  unsigned long long between;  // also allocates room for candidates, and may exceed it
};

// Ties are pruned in tiles before `tile`, and in it the first `due`; if that is 0, all of its ties
// are kept.
struct TieBoundary {
  int tile;
  int due;
};

template <class Key>
struct TopkState {
  Edges<Key> edges;
  Bracket<Key> bracket;  // set by the sweep, narrowed to one key: the threshold
  TieBoundary boundary;
  Source source;
  SweepCounts counts;
  unsigned batches;
  unsigned arrived;  // see last_block
};

// The ties of a tile with both edges, in one word.
struct EdgeTies {
  unsigned word;

  __device__ __forceinline__ unsigned lo() const { return word & 0xffffu; }
  __device__ __forceinline__ unsigned hi() const { return word >> 16; }
};

__device__ __forceinline__ unsigned edge_ties(unsigned lo, unsigned hi) {
  return lo | hi << 16;
}

// Candidates of neighbouring tiles: their keys and offsets are at [begin, begin + count).
struct Batch {
  int first_tile;
  unsigned begin;
  unsigned count;
};

// Stands for no key in a sample: keys do not have the top bit.
template <class F>
FASTPRUNE_HD typename F::Bits no_key() {
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
  uint16_t* offsets;  // in their batch
  int64_t room;
  Batch* batches;
  // By tile, padded with zeros to a multiple of kTilesTogether: EdgeTies, and ties with a threshold
  // that is among the candidates.
  unsigned* edge_ties;
  unsigned* ties;
};

template <class F, class M>
using Span = TileSpan<typename F::Bits, M>;

template <class F, class M>
__device__ __forceinline__ bool is_active(M old, const SelectionOptions& options) {
  return !options.active_only || old == static_cast<M>(options.one);
}

template <int N, class M>
__device__ __forceinline__ Packed<M, N> ones(const SelectionOptions& options) {
  Vec<M, N> mask;
#pragma unroll
  for (int e = 0; e < N; ++e) mask.at[e] = static_cast<M>(options.one);
  return pack(mask);
}

// N entries of the old mask from i on, or ones without one.
template <int N, class F, class M>
__device__ __forceinline__ Packed<M, N> old_mask(const Span<F, M>& span, int i,
                                                 const SelectionOptions& options) {
  if (span.mask != nullptr) {
    return load_some<N>(span.mask + i, span.size - i, span.vectorized);
  }
  return ones<N, M>(options);
}

// N scores from i on, of which `left` are there, at least one. The others get any value.
template <int N, class F, class M>
__device__ __forceinline__ Packed<typename F::Bits, N> load_scores(const Span<F, M>& span, int i,
                                                                   int left) {
  if constexpr (kIsScaled<F>) {
    return load_scaled<N>(F{}, span.source, span.at + i, left);
  } else {
    return load_some<N>(span.scores + i, left, span.vectorized);
  }
}

// N entries of the scores, of the old mask, and of t if there is a product. Where t is the scores,
// it is not loaded again.
template <int N, class F, class M>
struct Entries {
  Packed<typename F::Bits, N> scores;
  Packed<M, N> mask;
  Packed<typename F::Bits, N> t;
};

// i < span.size.
template <int N, class F, class M>
__device__ __forceinline__ Entries<N, F, M> load_entries(const Span<F, M>& span, int i,
                                                         const SelectionOptions& options) {
  const int left = span.size - i;
  Entries<N, F, M> entries;
  entries.scores = load_scores<N, F, M>(span, i, left);
  entries.mask = old_mask<N, F, M>(span, i, options);
  if constexpr (can_multiply<F, M>(kFusion, /*has_old_mask=*/true)) {
    entries.t = entries.scores;
    if (span.product != nullptr && (kIsScaled<F> || span.t != span.scores)) {
      entries.t = load_some<N>(span.t + i, left, span.vectorized);
    }
  }
  return entries;
}

template <int N, class F, class M>
__device__ __forceinline__ Vec<typename F::Bits, N> product_of(
    const Vec<M, N>& mask, const Packed<typename F::Bits, N>& packed_t) {
  const auto t = packed_t.unpack();
  Vec<typename F::Bits, N> values;
#pragma unroll
  for (int e = 0; e < N; ++e) values.at[e] = product_bits<F, M>(mask.at[e], t.at[e]);
  return values;
}

// Writes N entries of the mask and, if there is one, of the product, of which `left` are there.
// Outputs are aligned for vectors.
template <int N, class F, class M>
__device__ __forceinline__ void write(M* out, typename F::Bits* product, int left,
                                      const Vec<M, N>& mask,
                                      const Packed<typename F::Bits, N>& packed_t) {
  store_some<N>(out, mask, left);
  if constexpr (can_multiply<F, M>(kFusion, /*has_old_mask=*/true)) {
    if (product != nullptr) store_some<N>(product, product_of<N, F, M>(mask, packed_t), left);
  }
}

}  // namespace fastprune::cuda
