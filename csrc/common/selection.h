// The selection that CPU and CUDA share: how many entries to prune, where a sample says that the
// threshold is, the bracket around it, and the tie rule. Free of ATen, as keys.h is.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"
#include "common/keys.h"

namespace fastprune {

// How many entries to prune: a count, or a fraction of the active entries rounded half to even.
struct Amount {
  bool is_count;
  int64_t count;
  double fraction;
};

FASTPRUNE_HD int64_t budget(const Amount& amount, int64_t active) {
  return amount.is_count
             ? amount.count
             : static_cast<int64_t>(rint(amount.fraction * static_cast<double>(active)));
}

// How many more of `active` entries to prune until a fraction of all `size` entries is, of which
// `zeros` are already.
FASTPRUNE_HD int64_t budget_left(double fraction, int64_t size, int64_t zeros, int64_t active) {
  const int64_t due = static_cast<int64_t>(rint(fraction * static_cast<double>(size))) - zeros;
  return due < 0 ? 0 : due < active ? due : active;
}

// Ranks in a sorted sample: `pivot`, the expected rank of the threshold, and a confidence interval
// [low, high] around it. `low` may be negative, and `high` beyond the sample.
struct SampleRanks {
  int64_t low;
  int64_t pivot;
  int64_t high;
};

// The sample has one key for each `stretch` of the `total` entries. Keys of inactive entries are
// left out; `active` are there. The interval is `sigmas` standard deviations to either side.
FASTPRUNE_HD SampleRanks sample_ranks(const Amount& amount, int64_t total, double stretch,
                                      int64_t active, double sigmas) {
  // A count is a share of all entries, a fraction is one of the active entries.
  const double rank = amount.is_count ? static_cast<double>(amount.count) / stretch
                                      : amount.fraction * static_cast<double>(active);
  const double share = amount.is_count
                           ? static_cast<double>(amount.count) / static_cast<double>(total)
                           : amount.fraction;
  const double deviation = sqrt(rank * (1.0 - (share < 1.0 ? share : 1.0)));
  const double margin = sigmas * deviation + 2.0;
  return {static_cast<int64_t>(floor(rank - margin)), static_cast<int64_t>(floor(rank)),
          static_cast<int64_t>(ceil(rank + margin))};
}

// The interval [lo, hi] of keys that holds the threshold. `below`: active keys under lo, all
// pruned. `rank`: how many more to prune among the `inside` active keys of the interval; 0 only if
// nothing is pruned at all. If lo == hi, the threshold is known and the tie rule decides: of the
// entries with that key, the `rank` of lowest index are pruned.
template <class Key>
struct Bracket {
  Key lo;
  Key hi;
  int64_t below;
  int64_t rank;
  int64_t inside;
};

// One unsigned comparison for lo <= key <= hi.
template <class Key>
FASTPRUNE_HD bool in_bracket(Key key, Key lo, Key hi) {
  return static_cast<Key>(key - lo) <= static_cast<Key>(hi - lo);
}

// One step of a radix select: the bracket shrinks to the bin that holds its rank, in a histogram of
// the next digit of its keys. `before` keys are in bins below `first`; the rank lies in one of the
// `bins` bins from there on, and count_of(bin) keys are in each.
template <class Key, class Count>
FASTPRUNE_HD Bracket<Key> shrink_to_bin(const Bracket<Key>& b, Digit digit, int first, int bins,
                                        int64_t before, const Count& count_of) {
  int64_t count = count_of(first);
  int bin = first;
  for (int i = 1; i < bins && before + count < b.rank; ++i) {
    before += count;
    bin = first + i;
    count = count_of(bin);
  }
  const Key lo = b.lo + (static_cast<Key>(bin) << digit.shift);
  const Key hi = lo + ((Key{1} << digit.shift) - 1);
  return {lo, hi, b.below + before, b.rank - before, count};
}

// For tests: brackets that miss the threshold, as they are the lowest or the highest key alone.
enum class ForcedMiss : int { kNone, kLowest, kHighest };

template <class F>
FASTPRUNE_HD typename F::Key forced_miss_key(ForcedMiss miss) {
  return miss == ForcedMiss::kLowest ? typename F::Key{0} : max_key<F>();
}

}  // namespace fastprune
