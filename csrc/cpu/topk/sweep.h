// topk_masks on the CPU: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the
// sweep: one pass that writes every entry as if the pivot were the threshold, counts, and stores
// the entries inside the bracket as candidates for the fixup.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/fusion.h"
#include "common/selection.h"
#include "cpu/topk/bracket.h"
#include "cpu/topk/tiles.h"
#include "cpu/util/compact.h"
#include "cpu/util/fresh_pages.h"
#include "cpu/util/multiversion.h"

namespace fastprune::cpu {

struct Counts {
  int64_t active = 0;
  int64_t below = 0;   // active and under the bracket
  int64_t inside = 0;  // active and in the bracket
};

// The bracket as sweep_block compares it, in raw keys; see raw_bound.
template <class F>
struct RawBracket {
  NarrowKey<F> lo;
  NarrowKey<F> width;  // number of keys in the bracket
  NarrowKey<F> pivot;

  RawBracket(const Bracket<typename F::Key>& bracket, typename F::Key pivot, typename F::Key flip)
      : lo(static_cast<NarrowKey<F>>(raw_bound<F>(bracket.lo, flip))),
        width(static_cast<NarrowKey<F>>(raw_bound<F>(bracket.hi + 1, flip) - lo)),
        pivot(static_cast<NarrowKey<F>>(raw_bound<F>(pivot, flip))) {}
};

struct BlockCounts {
  int32_t active;
  int32_t below;
};

// Flags the entries inside the bracket. The number of vector instructions is what limits this loop:
// a key is below `lo` if the top bit of key - lo is set, which is cheaper to count than a
// comparison.
template <class F, class M, bool kHasMask, bool kActiveOnly, bool kProduct>
FASTPRUNE_MULTIVERSION BlockCounts sweep_block(const typename F::Bits* __restrict__ scores,
                                               const M* __restrict__ mask, M* __restrict__ out,
                                               const typename F::Bits* t,
                                               typename F::Bits* __restrict__ product,
                                               uint8_t* __restrict__ flags, int32_t n,
                                               RawBracket<F> bracket, typename F::Key flip, M one) {
  using Key = NarrowKey<F>;
  constexpr int kTopBit = 8 * sizeof(Key) - 1;
  Key active_count = 0;
  Key below_count = 0;
  for (int32_t i = 0; i < n; ++i) {
    const Key key = static_cast<Key>(raw_key<F>(scores[i], flip));
    const Key from_lo = static_cast<Key>(key - bracket.lo);
    const M old = kHasMask ? mask[i] : one;
    const bool active = !kActiveOnly || old == one;
    const bool pruned = (key < bracket.pivot) & active;
    const M value = pruned ? M{0} : old;
    out[i] = value;
    if constexpr (kProduct) product[i] = product_of<F, M, kHasMask>(value, pruned, t[i]);
    flags[i] = (from_lo < bracket.width) & active;
    active_count += active;
    below_count += (from_lo >> kTopBit) & Key{active};
  }
  return {static_cast<int32_t>(active_count), static_cast<int32_t>(below_count)};
}

FASTPRUNE_MULTIVERSION inline int32_t count_set(const uint8_t* flags, int32_t n) {
  int32_t count = 0;
  for (int32_t i = 0; i < n; ++i) count += flags[i];
  return count;
}

// Writes one entry anew, pruned or kept.
template <class F, class M, bool kHasMask>
void write_entry(const TileList<F, M>& list, const Tile<F, M>& tile, int64_t i, bool pruned) {
  const M kept = kHasMask ? tile.mask[i] : list.one;
  const M value = pruned ? M{0} : kept;
  tile.out[i] = value;
  if constexpr (can_multiply<F, M>(kFusion, kHasMask)) {
    if (tile.product == nullptr) return;
    tile.product[i] = product_of<F, M, kHasMask>(value, pruned, tile.t[i]);
  }
}

template <class F, class M>
void write_entry(const TileList<F, M>& list, const Tile<F, M>& tile, int64_t i, bool pruned) {
  if (tile.mask == nullptr) {
    write_entry<F, M, false>(list, tile, i, pruned);
  } else {
    write_entry<F, M, true>(list, tile, i, pruned);
  }
}

// Calls store(scores of a block, its offset in the tile, positions in the block, how many) for the
// entries inside the bracket, in order; not if the bracket is one key.
template <class F, class M, bool kHasMask, bool kActiveOnly, bool kProduct, class Fn>
Counts sweep_tile(const TileList<F, M>& list, const Tile<F, M>& tile,
                  const Bracket<typename F::Key>& bracket, typename F::Key pivot, const Fn& store) {
  alignas(64) uint8_t flags[kBlock];
  uint16_t positions[kBlock + kCompactSlack];
  alignas(64) typename F::Bits buffer[kCanBeScaled<F> ? kBlock : 1];
  Counts counts;
  const RawBracket<F> raw(bracket, pivot, list.flip);
  for (int64_t at = 0; at < tile.size; at += kBlock) {
    const auto n = static_cast<int32_t>(std::min(kBlock, tile.size - at));
    const typename F::Bits* scores = tile.block(at, n, buffer);
    const BlockCounts block = sweep_block<F, M, kHasMask, kActiveOnly, kProduct>(
        scores, kHasMask ? tile.mask + at : nullptr, tile.out + at,
        kProduct ? tile.t + at : nullptr, kProduct ? tile.product + at : nullptr, flags, n, raw,
        list.flip, list.one);
    counts.active += block.active;
    counts.below += block.below;
    if (bracket.lo == bracket.hi) {
      counts.inside += count_set(flags, n);
      continue;
    }
    const int32_t inside = compact(flags, n, positions);
    counts.inside += inside;
    if (inside > 0) store(scores, at, positions, inside);
  }
  return counts;
}

template <class F, class M, bool kHasMask, bool kActiveOnly, class Fn>
Counts sweep_tile(const TileList<F, M>& list, const Tile<F, M>& tile,
                  const Bracket<typename F::Key>& bracket, typename F::Key pivot, const Fn& store) {
  if constexpr (can_multiply<F, M>(kFusion, kHasMask)) {
    if (tile.product != nullptr) {
      return sweep_tile<F, M, kHasMask, kActiveOnly, true>(list, tile, bracket, pivot, store);
    }
  }
  return sweep_tile<F, M, kHasMask, kActiveOnly, false>(list, tile, bracket, pivot, store);
}

template <class F, class M, class Fn>
Counts sweep_tile(const TileList<F, M>& list, const Tile<F, M>& tile,
                  const Bracket<typename F::Key>& bracket, typename F::Key pivot, const Fn& store) {
  if (tile.mask == nullptr)
    return sweep_tile<F, M, false, false>(list, tile, bracket, pivot, store);
  if (list.active_only) return sweep_tile<F, M, true, true>(list, tile, bracket, pivot, store);
  return sweep_tile<F, M, true, false>(list, tile, bracket, pivot, store);
}

template <class F, class M>
void populate_pages(const Tile<F, M>& tile) {
  populate_pages(tile.out, tile.size * static_cast<int64_t>(sizeof(M)));
  if (tile.product == nullptr) return;
  populate_pages(tile.product, tile.size * static_cast<int64_t>(sizeof(*tile.product)));
}

// A worker's entries inside the bracket, in order of index.
template <class Key>
struct Candidates {
  std::vector<Key> keys;
  std::vector<uint16_t> offsets;  // in their tiles
};

template <class Key>
struct SweepResult {
  Counts counts;
  std::vector<int32_t> inside;              // by tile
  std::vector<Candidates<Key>> candidates;  // by worker; empty if the bracket is one key
  bool overflow = false;  // more candidates than the capacity: the sweep stopped early
};

template <class F, class M>
SweepResult<typename F::Key> sweep(const TileList<F, M>& list,
                                   const Bracket<typename F::Key>& bracket, typename F::Key pivot) {
  SweepResult<typename F::Key> result;
  result.inside.resize(list.count());
  result.candidates.resize(list.workers);
  std::vector<Counts> counts(list.workers);
  const size_t capacity = candidate_capacity(list.total);
  std::atomic<bool> overflow{false};
  const bool large = list.total * static_cast<int64_t>(sizeof(M)) >= kFreshPagesFrom;
  list.for_each_range([&](int64_t worker, int64_t first, int64_t last) {
    Candidates<typename F::Key> mine;
    size_t count = 0;
    Counts sum;
    for (int64_t t = first; t < last && !overflow.load(std::memory_order_relaxed); ++t) {
      const Tile<F, M>& tile = list.tiles[t];
      if (large) populate_pages(tile);
      const Counts part = sweep_tile(
          list, tile, bracket, pivot,
          [&](const typename F::Bits* scores, int64_t at, const uint16_t* positions, int32_t n) {
            if (count + n > capacity) {
              overflow.store(true, std::memory_order_relaxed);
              return;
            }
            if (mine.keys.size() < count + n) {
              mine.keys.resize(2 * count + kBlock);
              mine.offsets.resize(2 * count + kBlock);
            }
            auto* keys = mine.keys.data() + count;
            uint16_t* offsets = mine.offsets.data() + count;
            for (int32_t j = 0; j < n; ++j) {
              keys[j] = rank_key<F>(scores[positions[j]], list.flip);
              offsets[j] = static_cast<uint16_t>(at + positions[j]);
            }
            count += n;
          });
      sum.active += part.active;
      sum.below += part.below;
      sum.inside += part.inside;
      result.inside[t] = static_cast<int32_t>(part.inside);
    }
    mine.keys.resize(count);
    counts[worker] = sum;
    result.candidates[worker] = std::move(mine);
  });
  for (const Counts& c : counts) {
    result.counts.active += c.active;
    result.counts.below += c.below;
    result.counts.inside += c.inside;
  }
  result.overflow = overflow || (bracket.lo != bracket.hi &&
                                 result.counts.inside > static_cast<int64_t>(capacity));
  return result;
}

}  // namespace fastprune::cpu
