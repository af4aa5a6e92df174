// A list of tensors of any length as one run of tiles, so that one launch takes all of it. One
// tensor travels in the kernel parameter; more of them stand in device memory, where a kernel has
// put them: no copy from the host, so nothing to synchronise with and nothing that a CUDA graph
// could find gone.
#pragma once

#include <cstdint>

#include "cuda/util/device.cuh"
#include "cuda/util/vec.cuh"

namespace fastprune::cuda {

struct Segment {
  const void* scores;
  const void* mask;  // nullptr: all ones
  void* out;
  const void* t;  // with its product; nullptr: there is none
  void* product;
  int64_t size;
  int64_t first_tile;
  int64_t first_entry;
  bool wide;  // whether all of it is aligned for packs
};

// Kernels take it by value.
struct SegmentList {
  int count;
  int64_t tiles;
  int64_t entries;
  Segment only;
  const Segment* many;  // in order of first_tile, none empty
};

// A segment of scores of S, masks of M, outputs of O; its place in a list is for TileMap to find.
template <class S, class M, class O = M>
Segment make_segment(const void* scores, const void* mask, void* out, int64_t size,
                     const void* t = nullptr, void* product = nullptr) {
  constexpr int kEntries = pack_entries<S, M, O>();
  const auto fits = [](const void* p, size_t bytes) {
    return reinterpret_cast<uintptr_t>(p) % (bytes * kEntries) == 0;
  };
  const bool wide = fits(scores, sizeof(S)) && fits(mask, sizeof(M)) && fits(out, sizeof(O)) &&
                    fits(t, sizeof(S)) && fits(product, sizeof(S));
  return {scores, mask, out, t, product, size, 0, 0, wide};
}

// A tile's part of its tensor.
template <class S, class M, class O = M>
struct TileSpan {
  const S* scores;
  const M* mask;
  O* out;
  const S* t;
  S* product;
  int size;
  bool wide;
};

template <class T>
__device__ __forceinline__ T* advance(T* p, int64_t by) {
  return p == nullptr ? nullptr : p + by;
}

// The segment that holds a tile, or an entry of the whole list: the last one that begins at or
// before it.
template <int64_t Segment::* kFirst>
__device__ __forceinline__ Segment segment_at(const SegmentList& list, int64_t at) {
  if (list.count == 1) return list.only;
  int low = 0;
  int high = list.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (list.many[middle].*kFirst <= at) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return list.many[low];
}

template <class S, class M, class O = M>
__device__ __forceinline__ TileSpan<S, M, O> tile_span(const SegmentList& list, int64_t tile) {
  const Segment s = segment_at<&Segment::first_tile>(list, tile);
  const int64_t at = (tile - s.first_tile) * kTile;
  const int64_t left = s.size - at;
  return {static_cast<const S*>(s.scores) + at,
          advance(static_cast<const M*>(s.mask), at),
          static_cast<O*>(s.out) + at,
          advance(static_cast<const S*>(s.t), at),
          advance(static_cast<S*>(s.product), at),
          static_cast<int>(left < kTile ? left : kTile),
          s.wide};
}

}  // namespace fastprune::cuda
