// A matrix cut into blocks of height x width; those at its lower and right edges may be smaller.
// Free of ATen.
//
// The norm of a block is summed in one order, so that CPU and CUDA give the same bits: each column
// from top to bottom, column c of a block into lane c % kNormLanes from left to right, and the
// lanes are folded in halves.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/norms.h"

namespace fastprune {

struct BlockGrid {
  int64_t rows;  // of the matrix
  int64_t cols;
  int64_t height;  // of a block
  int64_t width;

  FASTPRUNE_HD int64_t down() const { return (rows + height - 1) / height; }
  FASTPRUNE_HD int64_t across() const { return (cols + width - 1) / width; }
  FASTPRUNE_HD int64_t count() const { return down() * across(); }

  struct Block {
    int64_t row;  // of its first entry
    int64_t col;
    int64_t height;
    int64_t width;
  };

  FASTPRUNE_HD Block block(int64_t down, int64_t across) const {
    const int64_t row = down * height;
    const int64_t col = across * width;
    return {row, col, rows - row < height ? rows - row : height,
            cols - col < width ? cols - col : width};
  }
};

// Of the mean over a block rather than the sum, as blocks at the edges are smaller.
template <NormKind kind>
FASTPRUNE_HD double mean_norm(double total, int64_t entries, double p) {
  if (kind == NormKind::kMax || kind == NormKind::kMin) return total;
  return norm_finish<kind>(total / static_cast<double>(entries), p);
}

}  // namespace fastprune
