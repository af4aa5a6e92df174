// Bracket: a narrow interval of keys that holds the threshold; from a sample, which the sweep then
// checks, or exactly, from histograms.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <vector>

#include "../selection.h"
#include "select_among.h"
#include "tiles.h"

namespace fastprune::cpu {

// Undecided entries that may be kept aside, a key and two bytes each. About 1.8% of a large input
// are; of four-byte outputs they take less than 5% then.
inline int64_t candidate_capacity(int64_t total) {
  return std::max<int64_t>(1 << 16, total / 40);
}

// ---- from a sample ----

constexpr int64_t kSampleFrom = 1 << 15;   // entries; below, histograms are as quick
constexpr int64_t kSampleLeast = 1 << 12;  // keys
constexpr int64_t kSampleMost = 1 << 16;
constexpr int64_t kSampleShare = 1 << 6;  // entries for each key of a sample between those
// Half the width of the bracket in standard deviations of the threshold's rank in the sample: the
// chance of a miss is 7e-6, and 1.8% of the entries at most fall inside a sample of 2^16.
constexpr double kSampleSigmas = 4.5;

// One key from each stretch of `stretch` entries, at a pseudo-random place in it, so that no period
// in the data can meet the sample's. Inactive entries are left out.
template <class F, class M>
std::vector<typename F::Key> sample_keys(const TileList<F, M>& list, int64_t stretch) {
  std::vector<std::vector<typename F::Key>> found(list.workers);
  list.for_each_run([&](int64_t worker, int64_t first, int64_t last) {
    auto& keys = found[worker];
    size_t expected = 0;
    for (int64_t t = first; t < last; ++t) expected += list.tiles[t].size / stretch + 1;
    keys.reserve(expected);
    for (int64_t t = first; t < last; ++t) {
      const Tile<F, M>& tile = list.tiles[t];
      uint64_t state = static_cast<uint64_t>(t) * 0x9e3779b97f4a7c15ull;
      for (int64_t at = 0; at < tile.size; at += stretch) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        const int64_t i =
            at + static_cast<int64_t>(((state >> 32) * static_cast<uint64_t>(stretch)) >> 32);
        if (i < tile.size && list.active(tile, i)) keys.push_back(list.key(tile, i));
      }
    }
  });
  std::vector<typename F::Key> keys;
  for (const auto& part : found) keys.insert(keys.end(), part.begin(), part.end());
  return keys;
}

// What the sample knows of the threshold; `below`, `rank` and `inside` are for the sweep to find.
template <class F, class M>
Bracket<typename F::Key> sampled_bracket(const TileList<F, M>& list, const Amount& amount) {
  using Key = typename F::Key;
  const int64_t wanted = std::clamp(list.total / kSampleShare, kSampleLeast, kSampleMost);
  const int64_t stretch = std::min(kTile, list.total / wanted);
  std::vector<Key> keys = sample_keys(list, stretch);
  const auto size = static_cast<int64_t>(keys.size());
  const SampleRanks ranks = sample_ranks(amount, list.total, stretch, size, kSampleSigmas);
  Bracket<Key> bracket{0, max_key<F>(), 0, 0, 0};
  const auto key_at = [&](int64_t index) {
    return select_among(keys, {0, max_key<F>(), 0, index + 1, 0}).lo;
  };
  if (ranks.low >= 0 && ranks.low < size) bracket.lo = key_at(ranks.low);
  if (ranks.high < size) bracket.hi = key_at(ranks.high);
  return bracket;
}

// ---- from histograms ----

// The first digit cuts an octave in 2^7 bins where the input outweighs so large a histogram.
constexpr int kWideDigit = 15;
constexpr int64_t kWideDigitFrom = 1 << 16;

inline int digit_bits_for(int64_t total) {
  return total >= kWideDigitFrom ? kWideDigit : (total >= 1 << 11 ? 11 : 6);
}

// Increments of one address wait for each other: neighbours count in tables of their own.
constexpr int kTables = 2;

// The bracket's active keys by their next digit. The first pass takes every key; which of them are
// active is as good as random, so it adds that rather than branch on it.
template <class F, class M, bool kFirst>
void count_tile(const TileList<F, M>& list, const Tile<F, M>& tile,
                const Bracket<typename F::Key>& bracket, Digit digit, int32_t* tables) {
  using Key = typename F::Key;
  const int32_t bins = 1 << digit.bits;
  for (int64_t i = 0; i < tile.size; ++i) {
    const Key key = list.key(tile, i);
    if constexpr (!kFirst) {
      if (!in_bracket(key, bracket.lo, bracket.hi)) continue;
    }
    tables[(i % kTables) * bins + static_cast<int32_t>((key - bracket.lo) >> digit.shift)] +=
        list.active(tile, i);
  }
}

template <class F, class M>
std::vector<int64_t> histogram(const TileList<F, M>& list, const Bracket<typename F::Key>& bracket,
                               Digit digit) {
  const size_t bins = size_t{1} << digit.bits;
  const bool first = bracket.lo == 0 && bracket.hi == max_key<F>();
  std::vector<int64_t> counts(bins, 0);
  std::mutex joining;
  list.for_each_run([&](int64_t, int64_t begin, int64_t end) {
    std::vector<int64_t> mine;  // of more entries than 32 bits count
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

// Digit by digit until what is left is one key or fits the candidates.
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
    int64_t before = 0;
    int bin = 0;
    while (before + counts[bin] < bracket.rank) before += counts[bin++];
    bracket = narrow(bracket, digit, bin, before, counts[bin]);
    if (bracket.inside <= capacity) break;
  }
  return bracket;
}

}  // namespace fastprune::cpu
