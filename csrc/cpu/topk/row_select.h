// row_masks on the CPU: sampled bracket (Floyd-Rivest) among the keys of a row, which fit the
// cache. A bracket that misses the threshold is replaced by all keys.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/keys.h"
#include "common/selection.h"
#include "cpu/topk/bracket.h"
#include "cpu/topk/select_among.h"
#include "cpu/util/compact.h"
#include "cpu/util/multiversion.h"

namespace fastprune::cpu {

// The threshold of a row: of the `ties` entries with this key the first `due` are pruned.
template <class Key>
struct RowThreshold {
  Key key;
  int64_t due;
  int64_t ties;
};

// Flags the keys in the bracket; returns how many are below it.
template <class Key>
FASTPRUNE_MULTIVERSION int32_t flag_row(const Key* __restrict__ keys, int32_t n, Key lo, Key hi,
                                        uint8_t* __restrict__ flags) {
  Key below = 0;
  for (int32_t i = 0; i < n; ++i) {
    below += keys[i] < lo;
    flags[i] = in_bracket(keys[i], lo, hi);
  }
  return static_cast<int32_t>(below);
}

template <class Key>
class RowSelect {
 public:
  // The threshold that has `rank` > 0 of the keys up to it; those of inactive entries are above
  // max_key.
  RowThreshold<Key> operator()(const std::vector<Key>& keys, int64_t active, int64_t rank,
                               Key max_key) {
    const auto size = static_cast<int64_t>(keys.size());
    if (size > kSampledFrom) {
      const Bracket<Key> bracket = sampled(keys, active, rank, max_key);
      int64_t below = 0;
      gather(keys, bracket.lo, bracket.hi, below);
      const int64_t among = rank - below;
      if (among > 0 && among <= static_cast<int64_t>(candidates_.size())) {
        return threshold(candidates_, bracket.lo, bracket.hi, among);
      }
    }
    return threshold(keys, 0, max_key, rank);
  }

 private:
  static constexpr int64_t kSampledFrom = 1 << 9;

  static RowThreshold<Key> threshold(const std::vector<Key>& keys, Key lo, Key hi, int64_t rank) {
    const auto found = CountedKeys<Key>(keys, lo, hi).select(rank);
    return {found.lo, rank - found.less, found.up_to - found.less};
  }

  // Where a sample says that the threshold is.
  Bracket<Key> sampled(const std::vector<Key>& keys, int64_t active, int64_t rank, Key max_key) {
    const auto size = static_cast<int64_t>(keys.size());
    const int64_t stretch = size / sample_size(size);
    sample_.clear();
    StretchSampler sampler(/*seed=*/1, stretch);
    for (int64_t at = 0; at + stretch <= size; at += stretch) {
      const Key key = keys[at + sampler.next()];
      if (key != kInactive<Key>) sample_.push_back(key);
    }
    const Amount share{false, 0, static_cast<double>(rank) / static_cast<double>(active)};
    const SampleRanks ranks = sample_ranks(share, size, static_cast<double>(stretch),
                                           static_cast<int64_t>(sample_.size()), kSampleSigmas);
    return bracket_of_sample<Key>(sample_, ranks, max_key, /*with_pivot=*/false).bracket;
  }

  void gather(const std::vector<Key>& keys, Key lo, Key hi, int64_t& below) {
    const auto size = static_cast<int64_t>(keys.size());
    candidates_.resize(size);
    int64_t count = 0;
    for (int64_t at = 0; at < size; at += kBlock) {
      const auto n = static_cast<int32_t>(std::min(kBlock, size - at));
      below += flag_row(keys.data() + at, n, lo, hi, flags_);
      const int32_t inside = compact(flags_, n, positions_);
      for (int32_t j = 0; j < inside; ++j) candidates_[count + j] = keys[at + positions_[j]];
      count += inside;
    }
    candidates_.resize(count);
  }

  std::vector<Key> sample_;
  std::vector<Key> candidates_;
  alignas(64) uint8_t flags_[kBlock] = {};
  uint16_t positions_[kBlock + kCompactSlack] = {};
};

}  // namespace fastprune::cpu
