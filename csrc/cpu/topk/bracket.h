// topk_masks on the CPU: sampled bracket (Floyd-Rivest) with a radix-select fallback. Here the
// bracket, an interval of keys that holds the threshold: from a sample, which the sweep has to
// verify, or from histograms, exactly.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "common/selection.h"
#include "cpu/topk/select_among.h"
#include "cpu/topk/tiles.h"

namespace fastprune::cpu {

// The most candidates that are stored, a key and two bytes each: at least 1.5 times as many as a
// sample leaves. For a large input that is 2.5% of the entries.
inline int64_t candidate_capacity(int64_t total) {
  return std::max<int64_t>(1 << 17, total / 40);
}

// ---- from a sample ----

template <class Key>
struct SampledBracket {
  Bracket<Key> bracket;
  Key pivot;  // in the bracket: the most likely threshold
};

// Keys of a sample. It grows with the input, quickly at first, as long as a larger sample saves
// more in the fixup than it costs.
constexpr int64_t kSampleMin = 1 << 6;
constexpr int64_t kSampleMedium = 1 << 12;
constexpr int64_t kSampleMax = 1 << 16;
constexpr int64_t kEntriesPerKeyMedium = 1 << 4;  // up to kSampleMedium keys
constexpr int64_t kEntriesPerKeyMax = 1 << 7;     // beyond
// Half the width of the bracket in standard deviations of the threshold's rank in the sample: 5 of
// 10,000 brackets miss, which makes the mean 0.1% slower; 1.4% of a large input is inside at most.
constexpr double kSampleSigmas = 3.5;

inline int64_t sample_size(int64_t total) {
  return std::max(std::clamp(total / kEntriesPerKeyMedium, kSampleMin, kSampleMedium),
                  std::min(total / kEntriesPerKeyMax, kSampleMax));
}

// Stratified sampling: one entry of each stretch, at a pseudo-random position, so that the sample
// cannot be in step with a period in the data. By Knuth's linear congruential generator.
class StretchSampler {
 public:
  StretchSampler(uint64_t seed, int64_t stretch)
      : state_(seed * 0x9e3779b97f4a7c15ull), stretch_(static_cast<uint64_t>(stretch)) {}

  // The offset of the next stretch's entry.
  int64_t next() {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<int64_t>(((state_ >> 32) * stretch_) >> 32);
  }

 private:
  uint64_t state_;
  uint64_t stretch_;
};

// Inactive entries are left out.
template <class F, class M>
std::vector<typename F::Key> sample_keys(const TileList<F, M>& list, int64_t stretch) {
  using Key = typename F::Key;
  std::vector<std::vector<Key>> found(list.workers);
  list.for_each_range([&](int64_t worker, int64_t first, int64_t last) {
    size_t room = 0;
    for (int64_t t = first; t < last; ++t) room += list.tiles[t].size / stretch + 1;
    std::vector<Key> keys(room);
    size_t count = 0;
    for (int64_t t = first; t < last; ++t) {
      const Tile<F, M>& tile = list.tiles[t];
      StretchSampler sampler(static_cast<uint64_t>(t), stretch);
      for (int64_t at = 0; at < tile.size; at += stretch) {
        const int64_t i = at + sampler.next();
        if (i >= tile.size) break;
        keys[count] = list.key(tile, i);  // no branch on `active`, which is unpredictable
        count += list.active(tile, i);
      }
    }
    keys.resize(count);
    found[worker] = std::move(keys);
  });
  std::vector<Key> keys = std::move(found[0]);
  for (size_t w = 1; w < found.size(); ++w) {
    keys.insert(keys.end(), found[w].begin(), found[w].end());
  }
  return keys;
}

// Where a sample says that the threshold is. `below`, `rank` and `inside` are known only after the
// data has been read. The pivot costs one more search; without with_pivot it is skipped.
template <class Key>
SampledBracket<Key> bracket_of_sample(const std::vector<Key>& keys, const SampleRanks& ranks,
                                      Key max_key, bool with_pivot) {
  const auto size = static_cast<int64_t>(keys.size());
  // An end need not be exact: it may be off by so many ranks.
  const int64_t tolerance = 1 + (ranks.high - ranks.low) / 16;
  CountedKeys<Key> counted(keys, 0, max_key);
  Key lo = 0;
  Key hi = max_key;
  Key pivot = hi;
  if (with_pivot && ranks.pivot < size) pivot = counted.find(ranks.pivot + 1, tolerance).lo;
  if (ranks.low >= 0 && ranks.low < size) lo = counted.find(ranks.low + 1, tolerance).lo;
  if (ranks.high < size) hi = counted.find(ranks.high + 1, tolerance).hi;
  return {{lo, hi, 0, 0, 0}, pivot};
}

template <class F, class M>
SampledBracket<typename F::Key> sampled_bracket(const TileList<F, M>& list, const Amount& amount) {
  using Key = typename F::Key;
  const int64_t stretch = std::clamp<int64_t>(list.total / sample_size(list.total), 1, kTile);
  const std::vector<Key> keys = sample_keys(list, stretch);
  const SampleRanks ranks = sample_ranks(amount, list.total, static_cast<double>(stretch),
                                         static_cast<int64_t>(keys.size()), kSampleSigmas);
  return bracket_of_sample<Key>(keys, ranks, max_key<F>(), /*with_pivot=*/true);
}

// ---- from histograms ----

// Inputs large enough to pay for the histogram have a wide digit: 2^7 bins for each exponent of a
// float32.
constexpr int kWideDigit = 15;
constexpr int64_t kWideDigitFrom = 1 << 16;

inline int digit_bits_for(int64_t total) {
  return total >= kWideDigitFrom ? kWideDigit : (total >= 1 << 11 ? 11 : 6);
}

// Consecutive increments of one address wait for each other, so neighbours use different tables.
constexpr int kTables = 2;

// Histogram of the next digit of the bracket's active keys. In the first pass every key is in the
// bracket. `active` is added rather than branched on, as it is unpredictable.
template <class F, class M, bool kFirst>
void count_tile(const TileList<F, M>& list, const Tile<F, M>& tile,
                const Bracket<typename F::Key>& bracket, Digit digit, int32_t* tables) {
  using Key = typename F::Key;
  const int32_t bins = 1 << digit.bits;
  alignas(64) typename F::Bits buffer[kCanBeScaled<F> ? kBlock : 1];
  for (int64_t at = 0; at < tile.size; at += kBlock) {
    const int64_t n = std::min(kBlock, tile.size - at);
    const typename F::Bits* scores = tile.block(at, n, buffer);
    for (int64_t i = 0; i < n; ++i) {
      const Key key = rank_key<F>(scores[i], list.flip);
      if constexpr (!kFirst) {
        if (!in_bracket(key, bracket.lo, bracket.hi)) continue;
      }
      tables[(i % kTables) * bins + static_cast<int32_t>((key - bracket.lo) >> digit.shift)] +=
          list.active(tile, at + i);
    }
  }
}

template <class F, class M>
std::vector<int64_t> histogram(const TileList<F, M>& list, const Bracket<typename F::Key>& bracket,
                               Digit digit) {
  const size_t bins = size_t{1} << digit.bits;
  const bool first = bracket.lo == 0 && bracket.hi == max_key<F>();
  std::vector<int64_t> counts(bins, 0);
  std::mutex joining;
  list.for_each_range([&](int64_t, int64_t begin, int64_t end) {
    std::vector<int64_t> mine;  // only for more entries than 32 bits count
    std::vector<int32_t> tables(kTables * bins, 0);
    const auto flush = [&](std::vector<int64_t>& sums) {
      for (int t = 0; t < kTables; ++t) {
        for (size_t bin = 0; bin < bins; ++bin) sums[bin] += tables[t * bins + bin];
      }
    };
    constexpr int64_t kTilesUntilFlush = int64_t{1} << 14;  // 2^29 entries
    for (int64_t t = begin; t < end; ++t) {
      const Tile<F, M>& tile = list.tiles[t];
      if (first) {
        count_tile<F, M, true>(list, tile, bracket, digit, tables.data());
      } else {
        count_tile<F, M, false>(list, tile, bracket, digit, tables.data());
      }
      if ((t - begin) % kTilesUntilFlush == kTilesUntilFlush - 1) {
        mine.resize(bins, 0);
        flush(mine);
        std::fill(tables.begin(), tables.end(), 0);
      }
    }
    const std::lock_guard<std::mutex> guard(joining);
    flush(counts);
    for (size_t bin = 0; bin < mine.size(); ++bin) counts[bin] += mine[bin];
  });
  return counts;
}

// Radix select: digit by digit until one key is left or the candidates fit.
template <class F, class M>
Bracket<typename F::Key> histogram_bracket(const TileList<F, M>& list, const Amount& amount) {
  const int digit_bits = digit_bits_for(list.total);
  const int64_t capacity = candidate_capacity(list.total);
  Bracket<typename F::Key> bracket{0, max_key<F>(), 0, 0, 0};
  for (int pass = 0; pass < digit_passes(F::kKeyBits, digit_bits); ++pass) {
    const Digit digit = digit_of_pass(F::kKeyBits, digit_bits, pass);
    const std::vector<int64_t> counts = histogram(list, bracket, digit);
    if (pass == 0) {
      int64_t active = 0;
      for (int64_t count : counts) active += count;
      check_count_fits(amount, active);
      bracket.rank = budget(amount, active);
      if (bracket.rank == 0) return {0, 0, 0, 0, 0};
    }
    bracket =
        shrink_to_bin(bracket, digit, 0, 1 << digit.bits, 0, [&](int bin) { return counts[bin]; });
    if (bracket.inside <= capacity) break;
  }
  return bracket;
}

}  // namespace fastprune::cpu
