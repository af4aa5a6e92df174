// topk_masks on the CPU: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the list
// of tensors as tiles, and how workers share them: each takes one contiguous range, in order of
// index.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "args/topk.h"
#include "common/dtypes.h"
#include "common/keys.h"
#include "cpu/topk/scaled_scores.h"
#include "cpu/util/fusion.h"
#include "cpu/util/parallel.h"

namespace fastprune::cpu {

constexpr int64_t kTile = 1 << 15;  // entries; an offset in a tile fits 16 bits

// Products with a factor have at least 32 bits.
template <class F>
constexpr bool kCanBeScaled = sizeof(typename F::Bits) >= 4;

template <class F, class M>
struct Tile {
  const typename F::Bits* scores;  // nullptr with a factor
  const ScaledScores<F>* scaled;   // nullptr without one
  int64_t first;                   // the tile's first entry in its tensor
  const M* mask;                   // nullptr: all ones
  M* out;
  const typename F::Bits* t;  // nullptr, as `product`: only the mask is written
  typename F::Bits* product;
  int64_t size;

  // The scores from an entry on, n of them: in memory, or in `buffer`, which has room for kBlock.
  const typename F::Bits* block(int64_t at, int64_t n, typename F::Bits* buffer) const {
    if constexpr (kCanBeScaled<F>) {
      if (scaled != nullptr) {
        scaled->read(first + at, n, buffer);
        return buffer;
      }
    }
    return scores + at;
  }

  typename F::Bits score(int64_t i) const {
    typename F::Bits one{};
    return *block(i, 1, &one);
  }
};

template <class F, class M>
struct TileList {
  std::vector<Tile<F, M>> tiles;
  std::vector<ScaledScores<F>> scaled;  // a tensor each, if there are factors
  int64_t workers;
  int64_t total;  // entries
  bool active_only;
  typename F::Key flip;  // see rank_key
  M one;                 // bits of a mask entry that is active

  // Of the tensors [first, last) of `args`, which have to stay.
  TileList(const TopkArgs& args, size_t first, size_t last, bool active_only, bool largest)
      : total(0),
        active_only(active_only),
        flip(largest ? max_key<F>() : 0),
        one(static_cast<M>(one_bits(args.mask_dtype))) {
    if (!args.factors.empty()) scaled.reserve(last - first);  // so that they stay where they are
    for (size_t s = first; s < last; ++s) {
      const typename F::Bits* scores = nullptr;
      if (args.factors.empty()) {
        scores = static_cast<const typename F::Bits*>(args.scores[s].const_data_ptr());
      } else if constexpr (kCanBeScaled<F>) {
        scaled.emplace_back(args.scores[s], args.factors[s]);
      }
      const auto* mask =
          args.masks[s].defined() ? static_cast<const M*>(args.masks[s].const_data_ptr()) : nullptr;
      auto* out = static_cast<M*>(args.outputs[s].work.mutable_data_ptr());
      const typename F::Bits* t = nullptr;
      typename F::Bits* product = nullptr;
      if (!args.products.empty()) {
        t = static_cast<const typename F::Bits*>(args.ts[s].const_data_ptr());
        product = static_cast<typename F::Bits*>(args.products[s].mutable_data_ptr());
      }
      const int64_t size = args.scores[s].numel();
      total += size;
      for (int64_t at = 0; at < size; at += kTile) {
        tiles.push_back(
            {scores == nullptr ? nullptr : scores + at, scaled.empty() ? nullptr : &scaled.back(),
             at, mask == nullptr ? nullptr : mask + at, out + at, t == nullptr ? nullptr : t + at,
             product == nullptr ? nullptr : product + at, std::min(kTile, size - at)});
      }
    }
    workers = worker_count(count());
  }

  int64_t count() const { return static_cast<int64_t>(tiles.size()); }

  typename F::Key key(const Tile<F, M>& tile, int64_t i) const {
    return rank_key<F>(tile.score(i), flip);
  }

  bool active(const Tile<F, M>& tile, int64_t i) const {
    return !active_only || tile.mask == nullptr || tile.mask[i] == one;
  }

  // fn(worker, first tile, last tile) in parallel; the last is excluded.
  template <class Fn>
  void for_each_range(const Fn& fn) const {
    for_each_worker(workers, count(), fn);
  }

  // fn(worker, tile) in parallel; each worker's tiles in order.
  template <class Fn>
  void for_each_tile(const Fn& fn) const {
    for_each_range([&](int64_t worker, int64_t first, int64_t last) {
      for (int64_t t = first; t < last; ++t) fn(worker, t);
    });
  }
};

}  // namespace fastprune::cpu
