// A list of tensors in one parallel region, in pieces of one size.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/util/parallel.h"

namespace fastprune::cpu {

// Calls work(i, begin, end) until all entries [0, sizes[i]) of all tensors i have had their turn.
template <typename Work>
void for_each_piece(const std::vector<int64_t>& sizes, const Work& work) {
  constexpr int64_t kEntries = 1 << 15;
  struct Piece {
    size_t tensor;
    int64_t begin;
    int64_t end;
  };
  std::vector<Piece> pieces;
  for (size_t i = 0; i < sizes.size(); ++i) {
    for (int64_t at = 0; at < sizes[i]; at += kEntries) {
      pieces.push_back({i, at, std::min(sizes[i], at + kEntries)});
    }
  }
  const auto count = static_cast<int64_t>(pieces.size());
  for_each_worker(worker_count(count), count, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) work(pieces[p].tensor, pieces[p].begin, pieces[p].end);
  });
}

}  // namespace fastprune::cpu
