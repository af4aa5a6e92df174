// A list of tensors as one run of tiles. The table travels as a kernel parameter: no copy to the
// device, so nothing to synchronise with and nothing that a CUDA graph could find gone.
#pragma once

#include <cstdint>

#include "device.cuh"

namespace fastprune::cuda {

struct Segment {
  const void* scores;
  const void* mask;  // nullptr: all ones
  void* out;
  int64_t size;
};

constexpr int kSegmentsPerLaunch = 64;  // keeps a table within the 4 KiB every GPU takes

struct SegmentTable {
  int count;
  int64_t first_tile;                          // number of tile 0 of this table in the whole list
  int64_t tile_begin[kSegmentsPerLaunch + 1];  // by segment, counted within this table
  Segment segment[kSegmentsPerLaunch];

  FASTPRUNE_HD int64_t tiles() const { return tile_begin[count]; }
};

// A tile's part of its tensor.
template <class S, class M, class O = M>
struct TileSpan {
  const S* scores;
  const M* mask;
  O* out;
  int size;
};

template <class S, class M, class O = M>
__device__ __forceinline__ TileSpan<S, M, O> tile_span(const SegmentTable& table, int64_t tile) {
  int low = 0;  // the last segment that begins at or before the tile; empty ones are not in a table
  int high = table.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.tile_begin[middle] <= tile) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const Segment& s = table.segment[low];
  const int64_t at = (tile - table.tile_begin[low]) * kTile;
  const int64_t left = s.size - at;
  return {static_cast<const S*>(s.scores) + at,
          s.mask == nullptr ? nullptr : static_cast<const M*>(s.mask) + at,
          static_cast<O*>(s.out) + at, static_cast<int>(left < kTile ? left : kTile)};
}

}  // namespace fastprune::cuda
