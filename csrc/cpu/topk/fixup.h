// topk_masks on the CPU: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the
// fixup: selects exactly `rank` of the entries inside the bracket, those of lowest key, lowest
// index first among equals, and rewrites the entries that the sweep decided wrongly.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/selection.h"
#include "cpu/topk/select_among.h"
#include "cpu/topk/sweep.h"
#include "cpu/topk/tiles.h"
#include "cpu/util/compact.h"
#include "cpu/util/multiversion.h"

namespace fastprune::cpu {

template <class Key>
FASTPRUNE_MULTIVERSION void flag_inside(const Key* keys, int32_t n, Key lo, Key hi,
                                        uint8_t* flags) {
  for (int32_t i = 0; i < n; ++i) flags[i] = in_bracket(keys[i], lo, hi);
}

// The bracket is more than one key, and the sweep has stored the candidates.
template <class F, class M>
void fixup_candidates(const TileList<F, M>& list, const Bracket<typename F::Key>& bracket,
                      typename F::Key pivot, const SweepResult<typename F::Key>& swept) {
  using Key = typename F::Key;
  std::vector<Key> all;
  if (list.workers > 1) {
    all.reserve(bracket.inside);
    for (const auto& part : swept.candidates) {
      all.insert(all.end(), part.keys.begin(), part.keys.end());
    }
  }
  const std::vector<Key>& keys = list.workers > 1 ? all : swept.candidates[0].keys;
  Key threshold = bracket.lo;
  int64_t left = 0;  // ties to prune
  if (bracket.rank > 0) {
    const auto found = CountedKeys<Key>(keys, bracket.lo, bracket.hi).select(bracket.rank);
    threshold = found.lo;
    left = bracket.rank - found.less;
  }
  // How many ties each worker prunes; earlier workers have lower indices.
  std::vector<int64_t> due(list.workers);
  for (int64_t w = 0; w < list.workers; ++w) {
    const auto& part = swept.candidates[w].keys;
    due[w] = std::min<int64_t>(left, std::count(part.begin(), part.end(), threshold));
    left -= due[w];
  }
  // The sweep may be wrong only about keys from the pivot to the threshold.
  const Key first = std::min(pivot, threshold);
  const Key last = std::max(pivot, threshold);
  list.for_each_range([&](int64_t worker, int64_t begin, int64_t) {
    const Candidates<Key>& mine = swept.candidates[worker];
    const auto size = static_cast<int64_t>(mine.keys.size());
    alignas(64) uint8_t flags[kBlock];
    uint16_t positions[kBlock + kCompactSlack];
    int64_t t = begin;
    int64_t tile_end = swept.inside[t];  // of the tile's candidates
    for (int64_t at = 0; at < size; at += kBlock) {
      const auto n = static_cast<int32_t>(std::min(kBlock, size - at));
      flag_inside(mine.keys.data() + at, n, first, last, flags);
      const int32_t count = compact(flags, n, positions);
      for (int32_t j = 0; j < count; ++j) {
        const int64_t i = at + positions[j];
        while (i >= tile_end) tile_end += swept.inside[++t];
        const Key key = mine.keys[i];
        const bool pruned = key < threshold || (key == threshold && due[worker]-- > 0);
        write_entry(list, list.tiles[t], mine.offsets[i], pruned);
      }
    }
  });
}

// The bracket is one key, the threshold: its first `rank` ties are pruned. In all tiles but one all
// ties are pruned or all kept; tiles that prune all are swept again with a threshold above.
template <class F, class M>
void fixup_ties(const TileList<F, M>& list, const Bracket<typename F::Key>& bracket,
                const SweepResult<typename F::Key>& swept) {
  using Key = typename F::Key;
  std::vector<int32_t> quota(list.count());
  int64_t left = bracket.rank;
  for (int64_t t = 0; t < list.count(); ++t) {
    quota[t] = static_cast<int32_t>(std::min<int64_t>(left, swept.inside[t]));
    left -= quota[t];
  }
  const Key above = bracket.lo + 1;
  const Bracket<Key> next{above, above, 0, 0, 0};  // its counts are not used
  list.for_each_tile([&](int64_t, int64_t t) {
    const Tile<F, M>& tile = list.tiles[t];
    int32_t due = quota[t];
    if (due == 0) return;
    if (due == swept.inside[t]) {
      sweep_tile(list, tile, next, above, [](auto, auto, auto, auto) {});
      return;
    }
    for (int64_t i = 0; due > 0; ++i) {
      if (list.key(tile, i) != bracket.lo || !list.active(tile, i)) continue;
      write_entry(list, tile, i, true);
      --due;
    }
  });
}

template <class F, class M>
void fixup(const TileList<F, M>& list, const Bracket<typename F::Key>& bracket,
           typename F::Key pivot, const SweepResult<typename F::Key>& swept) {
  if (bracket.lo == bracket.hi) {
    fixup_ties(list, bracket, swept);
  } else {
    fixup_candidates(list, bracket, pivot, swept);
  }
}

}  // namespace fastprune::cpu
