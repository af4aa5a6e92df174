// A list of any number of tensors as one sequence of tiles, so that one launch takes all of them.
// A single tensor is passed in the kernel's parameters. Of more, the items are in device memory,
// stored there by a kernel: a copy from the host would have to be synchronised with, and a captured
// CUDA graph would read host memory that may be gone.
#pragma once

#include <cstdint>

#include "common/selection.h"
#include "cuda/util/device.cuh"
#include "cuda/util/vec.cuh"

namespace fastprune::cuda {

// The operands of one tensor.
struct TensorItem {
  const void* scores;  // of a format Scaled: a ScaledSource in device memory (scaled.cuh)
  const void* mask;    // nullptr: all ones
  void* out;
  union {
    const void* t;  // t and product: nullptr unless the product is written too
    int64_t cols;   // of a packed mask, see common/packed.h; there is no product then
  };
  void* product;
  int64_t size;
  int64_t first_tile;   // in the list
  int64_t first_entry;  // in the list
  bool vectorized;      // all operands are aligned for vectors
  Amount amount;        // where each tensor has one of its own
};

// Passed to kernels by value. Tiles are numbered by int: 8 * 10^12 entries.
struct TensorList {
  int count;
  int64_t tiles;
  int64_t entries;
  TensorItem only;          // if count is 1
  const TensorItem* items;  // otherwise; in order of first_tile, none empty
};

// Scores of S, masks of M, outputs of O. TileMap sets the place in the list.
template <class S, class M, class O = M>
TensorItem make_item(const void* scores, const void* mask, void* out, int64_t size,
                     const void* t = nullptr, void* product = nullptr) {
  constexpr int kEntries = vec_entries<S, M, O>();
  const auto fits = [](const void* p, size_t bytes) { return is_aligned(p, bytes * kEntries); };
  const bool vectorized = fits(scores, sizeof(S)) && fits(mask, sizeof(M)) &&
                          fits(out, sizeof(O)) && fits(t, sizeof(S)) && fits(product, sizeof(S));
  return {scores, mask, out, t, product, size, 0, 0, vectorized, Amount{}};
}

// The part of a tensor that is one tile.
template <class S, class M, class O = M>
struct TileSpan {
  const void* source;  // what the item has as scores
  int64_t at;          // the first entry in its tensor
  const S* scores;
  const M* mask;
  O* out;
  const S* t;
  S* product;
  int size;
  bool vectorized;
};

template <class T>
__device__ __forceinline__ T* advance(T* p, int64_t by) {
  return p == nullptr ? nullptr : p + by;
}

// The item that holds a tile or an entry of the list: the last one that begins at or before it.
template <int64_t TensorItem::* kFirst>
__device__ __forceinline__ int index_at(const TensorList& list, int64_t at) {
  int low = 0;
  int high = list.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (list.items[middle].*kFirst <= at) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

template <int64_t TensorItem::* kFirst>
__device__ __forceinline__ TensorItem item_at(const TensorList& list, int64_t at) {
  return list.count == 1 ? list.only : list.items[index_at<kFirst>(list, at)];
}

// The entries of a tensor from `at` on, `left` of them.
template <class S, class M, class O = M>
__device__ __forceinline__ TileSpan<S, M, O> span_at(const TensorItem& s, int64_t at, int left) {
  return {s.scores,
          at,
          static_cast<const S*>(s.scores) + at,
          advance(static_cast<const M*>(s.mask), at),
          static_cast<O*>(s.out) + at,
          advance(static_cast<const S*>(s.t), at),
          advance(static_cast<S*>(s.product), at),
          left,
          s.vectorized};
}

// Entries of the tile that begins at `at` of a tensor.
__device__ __forceinline__ int tile_size(int64_t size, int64_t at) {
  const int64_t left = size - at;
  return static_cast<int>(left < kTile ? left : kTile);
}

template <class S, class M, class O = M>
__device__ __forceinline__ TileSpan<S, M, O> span_of(const TensorItem& s, int64_t tile) {
  const int64_t at = (tile - s.first_tile) * kTile;
  return span_at<S, M, O>(s, at, tile_size(s.size, at));
}

template <class S, class M, class O = M>
__device__ __forceinline__ TileSpan<S, M, O> tile_span(const TensorList& list, int64_t tile) {
  return span_of<S, M, O>(item_at<&TensorItem::first_tile>(list, tile), tile);
}

// An entry of a tile.
struct Place {
  int item;
  int left;    // entries of the tile from here on; none, or fewer, in the last tile of a tensor
  int64_t at;  // in its tensor
};

// Visits tiles in ascending order: searches the list once, and then goes on from item to item.
class TileWalk {
 public:
  __device__ __forceinline__ TileWalk(const TensorList& list, int64_t tile)
      : list_(list), item_(list.count == 1 ? 0 : index_at<&TensorItem::first_tile>(list, tile)) {}

  template <class S, class M, class O = M>
  __device__ __forceinline__ TileSpan<S, M, O> span(int64_t tile) {
    if (list_.count == 1) return span_of<S, M, O>(list_.only, tile);
    advance_to(tile);
    return span_of<S, M, O>(list_.items[item_], tile);
  }

  __device__ __forceinline__ Place place(int64_t tile, int at) {
    int64_t first_tile = 0;
    int64_t size = list_.only.size;
    if (list_.count > 1) {
      advance_to(tile);
      first_tile = list_.items[item_].first_tile;
      size = list_.items[item_].size;
    }
    const int64_t begin = (tile - first_tile) * kTile;
    return {item_, tile_size(size, begin) - at, begin + at};
  }

  // fn(item) for the tensor of a place.
  template <class Fn>
  __device__ __forceinline__ void with_item(const Place& place, const Fn& fn) const {
    if (list_.count == 1) return fn(list_.only);
    fn(list_.items[place.item]);
  }

 private:
  __device__ __forceinline__ void advance_to(int64_t tile) {
    while (item_ + 1 < list_.count && list_.items[item_ + 1].first_tile <= tile) ++item_;
  }

  const TensorList& list_;
  int item_;
};

struct TileRange {
  int first;
  int last;  // exclusive
};

__device__ __forceinline__ bool in_range(const TileRange& range, int tile) {
  return range.first <= tile && tile < range.last;
}

// The tiles of a tensor, of which there are fewer than 2^31.
__device__ __forceinline__ TileRange tiles_of_item(const TensorItem& item) {
  const auto first = static_cast<int>(item.first_tile);
  return {first, first + static_cast<int>(ceil_div(item.size, kTile))};
}

// The contiguous tiles of one of `blocks` blocks.
__device__ __forceinline__ TileRange share_of_tiles(int64_t tiles, unsigned block,
                                                    unsigned blocks) {
  return {static_cast<int>(tiles * block / blocks),
          static_cast<int>(tiles * (block + 1ll) / blocks)};
}

}  // namespace fastprune::cuda
