// Selection among keys that lie side by side: a sample's, or the candidates'.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../selection.h"

namespace fastprune::cpu {

// The rank-th smallest of the keys, all in the bracket; what is left of `rank` are the ties due.
template <class Key>
inline Bracket<Key> select_among(std::vector<Key> keys, Bracket<Key> bracket) {
  constexpr size_t kFew = 1 << 11;
  constexpr int kBits = 11;
  while (keys.size() > kFew && bracket.lo != bracket.hi) {
    const Digit digit = digit_of_range(bracket.lo, bracket.hi, kBits);
    std::vector<int64_t> counts(size_t{1} << kBits, 0);
    for (Key key : keys) ++counts[(key - bracket.lo) >> digit.shift];
    int64_t before = 0;
    int bin = 0;
    while (before + counts[bin] < bracket.rank) before += counts[bin++];
    bracket = narrow(bracket, digit, bin, before, counts[bin]);
    keys.erase(std::remove_if(keys.begin(), keys.end(),
                              [&](Key key) { return !in_bracket(key, bracket.lo, bracket.hi); }),
               keys.end());
  }
  const auto nth = keys.begin() + (bracket.rank - 1);
  std::nth_element(keys.begin(), nth, keys.end());
  int64_t less = 0;
  for (auto it = keys.begin(); it != nth; ++it) less += *it < *nth;
  return {*nth, *nth, bracket.below + less, bracket.rank - less, 0};
}

}  // namespace fastprune::cpu
