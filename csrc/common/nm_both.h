// 2:4 both ways: the matrix of a tensor's first two dims is cut into squares of 4 x 4, each index
// of the other dims by itself, and of a square stay two entries of every row and column. What host
// and device share; free of ATen.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>

#include "common/channel_shape.h"
#include "common/host_device.h"
#include "common/scaled.h"

// Where the host's compiler would rather call, and a loop over squares would not be vectorised.
#if !defined(__CUDACC__) && defined(__GNUC__)
#define FASTPRUNE_HD_INLINE inline __attribute__((always_inline))
#else
#define FASTPRUNE_HD_INLINE FASTPRUNE_HD
#endif

namespace fastprune {

constexpr int kSide = 4;                // of a square
constexpr int kSquare = kSide * kSide;  // entries of one
constexpr int kPairs = 6;               // ways to keep two entries of a row
constexpr int kBothPatterns = 90;       // ways to keep two of every row and column

// The two entries of a row that stay. Pairs and patterns are numbered in the order of their bits,
// of which the highest is the first entry.
struct Pair {
  int first;
  int second;

  constexpr uint32_t bits() const { return 1u << (kSide - 1 - first) | 1u << (kSide - 1 - second); }
};

constexpr Pair pair_of(int number) {
  for (int first = kSide - 2; first >= 0; --first) {
    for (int second = kSide - 1; second > first; --second) {
      if (number-- == 0) return {first, second};
    }
  }
  return {};
}

struct BothPattern {
  int pairs[kSide];  // of each row
  uint32_t bits;     // 15 is the first entry, 0 the last, row by row

  constexpr bool keeps_two_of_each_column() const {
    int kept[kSide] = {};
    for (int pair : pairs) {
      ++kept[pair_of(pair).first];
      ++kept[pair_of(pair).second];
    }
    for (int of_column : kept) {
      if (of_column != 2) return false;
    }
    return true;
  }
};

struct BothPatterns {
  BothPattern at[kBothPatterns] = {};

  constexpr BothPatterns() {
    int count = 0;
    for (int number = 0; number < kPairs * kPairs * kPairs * kPairs; ++number) {
      BothPattern pattern{};
      int rest = number;
      for (int row = kSide - 1; row >= 0; --row) {
        pattern.pairs[row] = rest % kPairs;
        pattern.bits |= pair_of(pattern.pairs[row]).bits() << (kSquare - kSide - row * kSide);
        rest /= kPairs;
      }
      if (pattern.keeps_two_of_each_column()) at[count++] = pattern;
    }
  }
};

// What a score counts in the sum of a square. Sums are finite whatever the scores are: infinity
// counts as 2^1000, and so do float64 beyond that, and any NaN as more than a square of those.
// Beside one of them most numbers are lost in rounding, and the lowest pattern is taken.
FASTPRUNE_HD_INLINE double bounded_score(double score) {
  constexpr double kMost = 0x1p1000;
  constexpr double kNaN = 0x1p1010;
  const double below = score < kMost ? score : kMost;
  const double bounded = below > -kMost ? below : -kMost;
  return score == score ? bounded : kNaN;
}

// The same of the magnitude of a score, or of its value.
template <class F>
FASTPRUNE_HD_INLINE double both_score(typename F::Bits bits, bool is_signed) {
  const double score = wide_score<F>(bits);
  return bounded_score(is_signed ? score : std::fabs(score));
}

// The same of |score| * |factor|.
template <class F>
FASTPRUNE_HD_INLINE double both_scaled_score(typename F::Bits bits, WideOf<F> factor) {
  const double scaled = wide_score<F>(bits) * factor;
  return bounded_score(std::fabs(scaled));
}

// The pattern with the largest sum of scores, the lowest among equals. Sums are in float64 and in
// one order: the pair of each row, then the rows from the first on. All that is computed is
// additions of bounded scores, which no compiler contracts to fma, so that devices agree. Without
// branches, and with patterns known at compile time: it vectorises over squares, and stays in
// registers on CUDA.
class BestPattern {
 public:
  // score(e): of entry e, bounded. The bits of the pattern, in an integer as wide as the sums.
  template <class Score>
  FASTPRUNE_HD_INLINE static int64_t of(const Score& score) {
    BestPattern best;
    best.add_pairs(score, std::make_integer_sequence<int, kSide * kPairs>{});
    best.compare_all(std::make_integer_sequence<int, kBothPatterns>{});
    return best.bits_;
  }

 private:
  static constexpr BothPatterns kPatterns{};

  template <int kNumber, class Score>
  FASTPRUNE_HD_INLINE void add_pair(const Score& score) {
    constexpr int kFirst = kNumber / kPairs * kSide;  // of the row
    constexpr Pair kPair = pair_of(kNumber % kPairs);
    pairs_[kNumber] = score(kFirst + kPair.first) + score(kFirst + kPair.second);
  }

  template <class Score, int... kNumbers>
  FASTPRUNE_HD_INLINE void add_pairs(const Score& score, std::integer_sequence<int, kNumbers...>) {
    (add_pair<kNumbers>(score), ...);
  }

  template <int kRow, int kNumber>
  FASTPRUNE_HD_INLINE double pair() const {
    constexpr int kPair = kPatterns.at[kNumber].pairs[kRow];
    return pairs_[kRow * kPairs + kPair];
  }

  template <int kNumber>
  FASTPRUNE_HD_INLINE void compare() {
    constexpr int64_t kBits = kPatterns.at[kNumber].bits;
    const double sum =
        pair<0, kNumber>() + pair<1, kNumber>() + pair<2, kNumber>() + pair<3, kNumber>();
    const bool better = kNumber == 0 || sum > sum_;
    sum_ = better ? sum : sum_;
    bits_ = better ? kBits : bits_;
  }

  template <int... kNumbers>
  FASTPRUNE_HD_INLINE void compare_all(std::integer_sequence<int, kNumbers...>) {
    (compare<kNumbers>(), ...);
  }

  double pairs_[kSide * kPairs];  // of each row
  double sum_ = 0;
  int64_t bits_ = 0;
};

// The squares of a tensor whose rows are `shape.outer` and whose columns are `shape.channels`, both
// divisible by kSide. They are numbered in the order of their first entries.
struct Squares {
  ChannelShape shape;

  FASTPRUNE_HD int64_t across() const { return shape.channels / kSide * shape.inner; }
  FASTPRUNE_HD int64_t count() const { return shape.outer / kSide * across(); }
  FASTPRUNE_HD int64_t row_step() const { return shape.channels * shape.inner; }  // in entries

  // Of the first entry.
  struct Place {
    int64_t row;
    int64_t column;
    int64_t inner;
    int64_t entry;
  };

  FASTPRUNE_HD Place place(int64_t number) const {
    const int64_t down = number / across();
    const int64_t along = number - down * across();
    const int64_t column = shape.inner == 1 ? along : along / shape.inner;
    return at(down * kSide, column * kSide, along - column * shape.inner);
  }

  // The one after, without a division.
  FASTPRUNE_HD Place next(const Place& p) const {
    if (p.inner + 1 < shape.inner) return at(p.row, p.column, p.inner + 1);
    if (p.column + kSide < shape.channels) return at(p.row, p.column + kSide, 0);
    return at(p.row + kSide, 0, 0);
  }

 private:
  FASTPRUNE_HD Place at(int64_t row, int64_t column, int64_t inner) const {
    return {row, column, inner, row * row_step() + column * shape.inner + inner};
  }
};

}  // namespace fastprune
