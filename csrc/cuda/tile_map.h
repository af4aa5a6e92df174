// Host side of segments.cuh: deals a list of tensors into the tables that launches take.
#pragma once

#include <cstdint>
#include <vector>

#include "segments.cuh"

namespace fastprune::cuda {

struct TileMap {
  std::vector<SegmentTable> tables;
  int64_t tiles = 0;

  void add(const void* scores, const void* mask, void* out, int64_t size) {
    if (size == 0) return;
    if (tables.empty() || tables.back().count == kSegmentsPerLaunch) {
      tables.emplace_back();
      tables.back().first_tile = tiles;
    }
    SegmentTable& table = tables.back();
    const int64_t own = (size + kTile - 1) / kTile;
    table.segment[table.count] = {scores, mask, out, size};
    table.tile_begin[table.count + 1] = table.tile_begin[table.count] + own;
    ++table.count;
    tiles += own;
  }
};

}  // namespace fastprune::cuda
