// The algorithm that CPU and CUDA share: what a score is worth (its key), how keys are cut into
// digits, how many entries the budget is, which entry of a tie goes first. Plain C++ on bits, no
// ATen, so that the host, the device and the tests compile the same text.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define FASTPRUNE_HD __host__ __device__ __forceinline__
#else
#define FASTPRUNE_HD inline
#endif

namespace fastprune {

// Score formats. Bits is what lies in memory; Key holds the magnitude, sign dropped.
struct Fp16 {
  using Bits = uint16_t;
  using Key = uint32_t;
  static constexpr int kKeyBits = 15;
  static constexpr Key kInf = 0x7c00u;
};
struct Bf16 {
  using Bits = uint16_t;
  using Key = uint32_t;
  static constexpr int kKeyBits = 15;
  static constexpr Key kInf = 0x7f80u;
};
struct Fp32 {
  using Bits = uint32_t;
  using Key = uint32_t;
  using Value = float;
  static constexpr int kKeyBits = 31;
  static constexpr Key kInf = 0x7f800000u;
};
struct Fp64 {
  using Bits = uint64_t;
  using Key = uint64_t;
  using Value = double;
  static constexpr int kKeyBits = 63;
  static constexpr Key kInf = 0x7ff0000000000000ull;
};

template <class F>
FASTPRUNE_HD constexpr typename F::Key max_key() {
  return (typename F::Key{1} << F::kKeyBits) - 1;
}

// Rank of a score: IEEE bits without the sign order as magnitudes do, so -0 equals +0, denormals
// keep their order and Inf is above every finite value. All NaNs share the highest key.
// `flip` is 0 to prune the smallest first, max_key() to prune the largest first.
template <class F>
FASTPRUNE_HD typename F::Key rank_key(typename F::Bits bits, typename F::Key flip) {
  typename F::Key key = bits & max_key<F>();
  key = key > F::kInf ? max_key<F>() : key;
  return key ^ flip;
}

// The same order on the bits as they are, for loops that only compare: NaNs keep their payload, and
// rank_key(bits) < bound exactly where raw_key(bits) < raw_bound(bound). A bound of max_key() + 1
// is above every key.
template <class F>
FASTPRUNE_HD typename F::Key raw_key(typename F::Bits bits, typename F::Key flip) {
  return static_cast<typename F::Key>(bits & max_key<F>()) ^ flip;
}

template <class F>
FASTPRUNE_HD typename F::Key raw_bound(typename F::Key bound, typename F::Key flip) {
  using Key = typename F::Key;
  if (bound == 0 || bound > max_key<F>()) return bound;
  const Key first_nan = F::kInf + 1;  // the lowest payload; flipped, the highest is below all else
  if (flip == 0) return bound < first_nan ? bound : first_nan;
  const Key first_number = max_key<F>() - F::kInf;
  return bound > first_number ? bound : first_number;
}

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

// Keys are read from the top in digits of at most `digit_bits` bits.
struct Digit {
  int shift;
  int bits;
};

FASTPRUNE_HD constexpr int digit_passes(int key_bits, int digit_bits) {
  return (key_bits + digit_bits - 1) / digit_bits;
}

FASTPRUNE_HD constexpr Digit digit_of_pass(int key_bits, int digit_bits, int pass) {
  const int top = key_bits - pass * digit_bits;
  const int bits = top < digit_bits ? top : digit_bits;
  return {top - bits, bits};
}

FASTPRUNE_HD int bit_width(uint64_t x) {
#if defined(__CUDA_ARCH__)
  return 64 - __clzll(static_cast<long long>(x));
#else
  int width = 0;
  while (width < 64 && (x >> width) != 0) ++width;
  return width;
#endif
}

// The first digit of a key's distance from `lo`, where keys go up to `hi`.
template <class Key>
FASTPRUNE_HD Digit digit_of_range(Key lo, Key hi, int digit_bits) {
  const int width = bit_width(hi - lo);
  return {width > digit_bits ? width - digit_bits : 0, digit_bits};
}

// For tests: samples mislead, to a bracket of the lowest key or of the highest.
enum class Misled : int { kNot, kToLowest, kToHighest };

// The key that a misled bracket is.
template <class F>
FASTPRUNE_HD typename F::Key misled_key(Misled misled) {
  return misled == Misled::kToLowest ? typename F::Key{0} : max_key<F>();
}

// Where to look for the threshold among the sorted keys of a sample: its expected place, and the
// places between which it lies but for rare chance. `low` may be negative, `high` beyond the
// sample.
struct SampleRanks {
  int64_t low;
  int64_t guess;
  int64_t high;
};

// The sample has a key from each `stretch` of `total` entries, `active` of them in all, as inactive
// entries are left out.
FASTPRUNE_HD SampleRanks sample_ranks(const Amount& amount, int64_t total, int64_t stretch,
                                      int64_t active, double sigmas) {
  // A count is a share of all entries, a fraction one of the active entries.
  const double rank = amount.is_count
                          ? static_cast<double>(amount.count) / static_cast<double>(stretch)
                          : amount.fraction * static_cast<double>(active);
  const double share = amount.is_count
                           ? static_cast<double>(amount.count) / static_cast<double>(total)
                           : amount.fraction;
  const double spread = sqrt(rank * (1.0 - (share < 1.0 ? share : 1.0)));
  const double margin = sigmas * spread + 2.0;
  return {static_cast<int64_t>(floor(rank - margin)), static_cast<int64_t>(floor(rank)),
          static_cast<int64_t>(ceil(rank + margin))};
}

// The keys that can still be the threshold: [lo, hi]. `below` active entries rank under lo and are
// pruned whatever happens; `rank` more, at least one unless nothing is to be pruned, are among the
// `inside` entries of the interval. lo == hi means the threshold itself is known, and then the
// `rank` entries of lowest index among those that equal it are pruned: the tie rule.
template <class Key>
struct Bracket {
  Key lo;
  Key hi;
  int64_t below;
  int64_t rank;
  int64_t inside;
};

// Narrow a bracket to one bin of a histogram of its keys' next digit. `before` entries of the
// bracket fall in lower bins.
template <class Key>
FASTPRUNE_HD Bracket<Key> narrow(const Bracket<Key>& b, Digit digit, int bin, int64_t before,
                                 int64_t in_bin) {
  const Key lo = b.lo + (static_cast<Key>(bin) << digit.shift);
  const Key hi = lo + ((Key{1} << digit.shift) - 1);
  return {lo, hi, b.below + before, b.rank - before, in_bin};
}

// One unsigned comparison for lo <= key <= hi.
template <class Key>
FASTPRUNE_HD bool in_bracket(Key key, Key lo, Key hi) {
  return static_cast<Key>(key - lo) <= static_cast<Key>(hi - lo);
}

// Masks are told apart by the width of an element: 0 is all zero bits in every dtype, and 1 has one
// bit pattern, which the caller passes. Anything else is inactive and passes through.
template <int Bytes>
struct MaskElement;
template <>
struct MaskElement<1> {
  using Bits = uint8_t;
};
template <>
struct MaskElement<2> {
  using Bits = uint16_t;
};
template <>
struct MaskElement<4> {
  using Bits = uint32_t;
};
template <>
struct MaskElement<8> {
  using Bits = uint64_t;
};

// Channel norms are summed in one order everywhere, so that CPU and CUDA give the same bits: a
// channel's elements are cut into chunks of kNormChunk, element j of a chunk goes to lane
// j % kNormLanes, lanes are folded in halves, chunks are added from first to last.
constexpr int kNormLanes = 32;
constexpr int kNormChunk = 4096;

enum class NormKind : int { kZero, kOne, kTwo, kPower, kMax, kMin };

struct Norm {
  NormKind kind;
  double p;
};

FASTPRUNE_HD Norm norm_of(double p) {
  if (p == 0.0) return {NormKind::kZero, p};
  if (p == 1.0) return {NormKind::kOne, p};
  if (p == 2.0) return {NormKind::kTwo, p};
  if (p > 0 && std::isinf(p)) return {NormKind::kMax, p};
  if (p < 0 && std::isinf(p)) return {NormKind::kMin, p};
  return {NormKind::kPower, p};
}

// Rounded products and sums: a contraction to fma would round once where the other device rounds
// twice.
FASTPRUNE_HD double rounded_mul(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

FASTPRUNE_HD double rounded_add(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(a, b);
#else
  return a + b;
#endif
}

// What one element adds to its lane, how two partial norms meet, and where they start.
template <NormKind kind>
FASTPRUNE_HD double norm_term(double x, double p) {
  const double a = fabs(x);
  switch (kind) {
    case NormKind::kZero:
      return a != 0.0 ? 1.0 : 0.0;
    case NormKind::kTwo:
      return rounded_mul(a, a);
    case NormKind::kPower:
      return pow(a, p);
    default:
      return a;
  }
}

template <NormKind kind>
FASTPRUNE_HD double norm_join(double a, double b) {
  if (kind == NormKind::kMax) return (a != a || a > b) ? a : b;  // NaN wins, as in torch
  if (kind == NormKind::kMin) return (a != a || a < b) ? a : b;
  return rounded_add(a, b);
}

template <NormKind kind>
FASTPRUNE_HD double norm_start() {
  return kind == NormKind::kMin ? INFINITY : 0.0;
}

template <NormKind kind>
FASTPRUNE_HD double norm_finish(double total, double p) {
  if (kind == NormKind::kTwo) return sqrt(total);
  if (kind == NormKind::kPower) return pow(total, 1.0 / p);
  return total;
}

}  // namespace fastprune
