// Settle: exactly `rank` of the undecided are pruned, those of lowest key, the lowest index first
// among equals. Only what the sweep's guess got wrong is written.
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
FASTPRUNE_CLONES void flag_inside(const Key* keys, int32_t n, Key lo, Key hi, uint8_t* flags) {
  for (int32_t i = 0; i < n; ++i) flags[i] = in_bracket(keys[i], lo, hi);
}

// The bracket holds more than one key: the undecided were kept aside.
template <class F, class M>
void settle_candidates(const TileList<F, M>& list, const Bracket<typename F::Key>& bracket,
                       typename F::Key guess, const Undecided<typename F::Key>& undecided) {
  using Key = typename F::Key;
  std::vector<Key> joined;
  if (list.workers > 1) {
    joined.reserve(bracket.inside);
    for (const auto& part : undecided.of_worker) {
      joined.insert(joined.end(), part.keys.begin(), part.keys.end());
    }
  }
  const std::vector<Key>& keys = list.workers > 1 ? joined : undecided.of_worker[0].keys;
  Key threshold = bracket.lo;
  int64_t left = 0;  // ties to prune
  if (bracket.rank > 0) {
    const auto found = CountedKeys<Key>(keys, bracket.lo, bracket.hi).select(bracket.rank);
    threshold = found.lo;
    left = bracket.rank - found.less;
  }
  // The ties of earlier workers come first.
  std::vector<int64_t> due(list.workers);
  for (int64_t w = 0; w < list.workers; ++w) {
    const auto& part = undecided.of_worker[w].keys;
    due[w] = std::min<int64_t>(left, std::count(part.begin(), part.end(), threshold));
    left -= due[w];
  }
  // The threshold itself, and what lies between it and the guess.
  const Key first = std::min(guess, threshold);
  const Key last = std::max(guess, threshold);
  list.for_each_run([&](int64_t worker, int64_t begin, int64_t) {
    const Candidates<Key>& mine = undecided.of_worker[worker];
    const auto size = static_cast<int64_t>(mine.keys.size());
    alignas(64) uint8_t flags[kBlock];
    uint16_t positions[kBlock + kCompactSlack];
    int64_t t = begin;
    int64_t tile_end = undecided.in_tile[t];
    for (int64_t at = 0; at < size; at += kBlock) {
      const auto n = static_cast<int32_t>(std::min(kBlock, size - at));
      flag_inside(mine.keys.data() + at, n, first, last, flags);
      const int32_t wrong = compact(flags, n, positions);
      for (int32_t j = 0; j < wrong; ++j) {
        const int64_t i = at + positions[j];
        while (i >= tile_end) tile_end += undecided.in_tile[++t];
        const Key key = mine.keys[i];
        const bool pruned = key < threshold || (key == threshold && due[worker]-- > 0);
        write_entry(list, list.tiles[t], mine.offsets[i], pruned);
      }
    }
  });
}

// The bracket is one key: prune the first of the entries that have it, tile by tile. Only one tile
// can have some pruned and some kept; in those before it the key counts as below the bracket.
template <class F, class M>
void settle_ties(const TileList<F, M>& list, const Bracket<typename F::Key>& bracket,
                 const Undecided<typename F::Key>& undecided) {
  using Key = typename F::Key;
  std::vector<int32_t> quota(list.count());
  int64_t left = bracket.rank;
  for (int64_t t = 0; t < list.count(); ++t) {
    quota[t] = static_cast<int32_t>(std::min<int64_t>(left, undecided.in_tile[t]));
    left -= quota[t];
  }
  const Key above = bracket.lo + 1;
  const Bracket<Key> all_pruned{above, above, 0, 0, 0};
  list.for_each_tile([&](int64_t, int64_t t) {
    const Tile<F, M>& tile = list.tiles[t];
    int32_t due = quota[t];
    if (due == 0) return;
    if (due == undecided.in_tile[t]) {
      sweep_tile(list, tile, all_pruned, above, [](int64_t, const uint16_t*, int32_t) {});
      return;
    }
    for (int64_t i = 0; due > 0; ++i) {
      if (list.key(tile, i) != bracket.lo || !list.active(tile, i)) continue;
      write_entry(list, tile, i, true);
      --due;
    }
  });
}

}  // namespace fastprune::cpu
