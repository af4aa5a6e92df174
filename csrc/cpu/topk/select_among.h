// topk_masks on the CPU: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the
// selection within an array of keys, of the sample or of the candidates. It counts the keys below
// splitters: such a pass vectorises and has no branch that depends on a key.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/selection.h"
#include "cpu/util/multiversion.h"

namespace fastprune::cpu {

// Adds how many keys are below each of three splitters. The counters are as wide as a key, so that
// the loop vectorises; n fits.
template <class Key>
FASTPRUNE_MULTIVERSION void count_below(const Key* keys, int32_t n, const Key* splitters,
                                        int64_t* counts) {
  const Key first = splitters[0];
  const Key second = splitters[1];
  const Key third = splitters[2];
  Key a = 0;
  Key b = 0;
  Key c = 0;
  for (int32_t i = 0; i < n; ++i) {
    a += keys[i] < first;
    b += keys[i] < second;
    c += keys[i] < third;
  }
  counts[0] += static_cast<int64_t>(a);
  counts[1] += static_cast<int64_t>(b);
  counts[2] += static_cast<int64_t>(c);
}

struct CountsAround {
  int64_t below;
  int64_t equal;
};

// How many of a few keys are below one of them, and how many equal it. A few are ranked sooner by
// counting them all for each than by a sort, whose branches are mispredicted.
template <class Key>
FASTPRUNE_MULTIVERSION CountsAround count_around(const Key* few, int32_t n, Key key) {
  Key below = 0;
  Key equal = 0;
  for (int32_t i = 0; i < n; ++i) {
    below += few[i] < key;
    equal += few[i] == key;
  }
  return {static_cast<int64_t>(below), static_cast<int64_t>(equal)};
}

// Keys, and the counts from earlier searches, which later ones start from.
template <class Key>
class CountedKeys {
 public:
  // All keys lie in [lo, hi].
  CountedKeys(const std::vector<Key>& keys, Key lo, Key hi) : keys_(keys), lo_(lo), hi_(hi) {
    counted_.reserve(16);  // most searches take no more
  }

  int64_t size() const { return static_cast<int64_t>(keys_.size()); }

  // Holds the rank-th smallest key: `less` keys are below lo, `up_to` keys are not above hi.
  struct Range {
    Key lo;
    Key hi;
    int64_t less;
    int64_t up_to;
  };

  // Returns once the range is one key or holds at most `few` keys. A pass has three splitters: two
  // around where the key would be if keys were uniform, and the middle, which halves the range for
  // any keys.
  Range find(int64_t rank, int64_t few) {
    constexpr int64_t kChunk = 1 << 30;
    Range range{lo_, hi_, 0, size()};
    for (const auto& [splitter, count] : counted_) tighten(range, rank, splitter, count);
    while (range.lo != range.hi && range.up_to - range.less > few) {
      const Key width = range.hi - range.lo;
      const auto inside = static_cast<double>(range.up_to - range.less);
      const double expected = static_cast<double>(rank - range.less) - 0.5;
      const double margin = 0.5 * std::sqrt(inside);
      const auto splitter_at = [&](double at) {
        const double share = std::clamp(at / inside, 0.0, 1.0);
        return range.lo + std::min(width, static_cast<Key>(share * static_cast<double>(width)));
      };
      const Key splitters[] = {splitter_at(expected - margin), splitter_at(expected + margin),
                               range.lo + width / 2 + 1};
      int64_t counts[] = {0, 0, 0};
      for (int64_t at = 0; at < size(); at += kChunk) {
        count_below(keys_.data() + at, static_cast<int32_t>(std::min(kChunk, size() - at)),
                    splitters, counts);
      }
      for (int i = 0; i < 3; ++i) {
        tighten(range, rank, splitters[i], counts[i]);
        counted_.emplace_back(splitters[i], counts[i]);
      }
    }
    return range;
  }

  // The rank-th smallest key exactly, as a range of one key.
  Range select(int64_t rank) {
    constexpr int64_t kFew = 64;
    Range range = find(rank, kFew);
    if (range.lo == range.hi) return range;
    Key few[kFew + 1];  // without a branch, what follows the last one is written too
    int32_t n = 0;
    for (const Key key : keys_) {
      few[n] = key;
      n += in_bracket(key, range.lo, range.hi);
    }
    const int64_t among = rank - range.less;
    for (int32_t i = 0;; ++i) {
      const Key key = few[i];
      const auto [below, equal] = count_around(few, n, key);
      if (below < among && among <= below + equal) {
        return {key, key, range.less + below, range.less + below + equal};
      }
    }
  }

 private:
  // `count` keys are below the splitter.
  static void tighten(Range& range, int64_t rank, Key splitter, int64_t count) {
    if (splitter <= range.lo || splitter > range.hi) return;
    if (count < rank) {
      range.lo = splitter;
      range.less = count;
    } else {
      range.hi = splitter - 1;
      range.up_to = count;
    }
  }

  const std::vector<Key>& keys_;
  Key lo_;
  Key hi_;
  std::vector<std::pair<Key, int64_t>> counted_;
};

}  // namespace fastprune::cpu
