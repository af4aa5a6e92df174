// topk_masks on the CPU: bracket, sweep, settle (docs/design.md, "Selection").
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "../checks.h"
#include "../dispatch.h"
#include "../selection.h"
#include "clones.h"
#include "parallel.h"

namespace fastprune::cpu {
namespace {

constexpr int64_t kTile = 1 << 15;   // entries a worker takes at a time
constexpr int64_t kBlock = 1 << 10;  // entries of a tile that are decided together
// The first digit cuts an octave in 2^7 bins where the input outweighs a 256 KiB histogram.
constexpr int kWideDigit = 15;
constexpr int kNarrowDigit = 11;
constexpr int64_t kWideDigitFrom = 1 << 16;
// Undecided entries kept aside, as a share of all: 12 bytes for each of 1/96 of four-byte outputs.
constexpr int64_t kCandidateShare = 96;
constexpr int64_t kCandidatesAtLeast = 1 << 10;

template <class F, class M>
struct Tile {
  const typename F::Bits* scores;
  const M* mask;  // nullptr: all ones
  M* out;
  int64_t size;
};

template <class F, class M>
std::vector<Tile<F, M>> tiles_of(const TopkArgs& args) {
  std::vector<Tile<F, M>> tiles;
  for (size_t s = 0; s < args.scores.size(); ++s) {
    const auto* scores = static_cast<const typename F::Bits*>(args.scores[s].const_data_ptr());
    const auto* mask = args.masks[s].defined()
                           ? static_cast<const M*>(args.masks[s].const_data_ptr())
                           : nullptr;
    auto* out = static_cast<M*>(args.work[s].mutable_data_ptr());
    const int64_t size = args.scores[s].numel();
    for (int64_t at = 0; at < size; at += kTile) {
      tiles.push_back({scores + at, mask == nullptr ? nullptr : mask + at, out + at,
                       std::min(kTile, size - at)});
    }
  }
  return tiles;
}

// Writes a block and flags its undecided entries.
template <class F, class M, bool kHasMask, bool kActiveOnly>
FASTPRUNE_CLONES void decide_block(const typename F::Bits* scores, const M* mask, M* out,
                                   uint8_t* flags, int64_t n, typename F::Key lo,
                                   typename F::Key hi, typename F::Key flip, M one) {
  for (int64_t i = 0; i < n; ++i) {
    const typename F::Key key = rank_key<F>(scores[i], flip);
    const M old = kHasMask ? mask[i] : one;
    const bool active = !kActiveOnly || old == one;
    out[i] = (key < lo) & active ? M{0} : old;
    flags[i] = in_bracket(key, lo, hi) & active;
  }
}

// Calls fn(i) for each flag that is set, in order; most are not.
template <class Fn>
void for_each_flag(const uint8_t* flags, int64_t n, const Fn& fn) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t eight;
    std::memcpy(&eight, flags + i, sizeof eight);
    for (; eight != 0; eight &= eight - 1) fn(i + __builtin_ctzll(eight) / 8);
  }
  for (; i < n; ++i) {
    if (flags[i]) fn(i);
  }
}

template <class F, class M>
class Selection {
  using Key = typename F::Key;
  struct Candidate {
    Key key;
    uint32_t offset;
    int64_t tile;
  };

 public:
  Selection(std::vector<Tile<F, M>> tiles, const TopkArgs& args, bool active_only, bool largest)
      : tiles_(std::move(tiles)),
        workers_(worker_count(static_cast<int64_t>(tiles_.size()))),
        amount_(args.amount),
        total_(args.total),
        one_(static_cast<M>(one_bits(args.mask_dtype))),
        active_only_(active_only),
        flip_(largest ? max_key<F>() : 0) {}

  void run() {
    const Bracket<Key> bracket = histogram_bracket();
    if (bracket.lo == bracket.hi) {
      settle_ties(bracket, sweep_ties(bracket));
    } else {
      settle_candidates(bracket, sweep_candidates(bracket));
    }
  }

 private:
  template <class Fn>
  void for_each_tile(const Fn& fn) const {
    for_each_worker(workers_, static_cast<int64_t>(tiles_.size()),
                    [&](int64_t worker, int64_t begin, int64_t end) {
                      for (int64_t t = begin; t < end; ++t) fn(worker, t);
                    });
  }

  bool active(const Tile<F, M>& tile, int64_t i) const {
    return !active_only_ || tile.mask == nullptr || tile.mask[i] == one_;
  }

  // ---- bracket: exact, one digit at a time, until what is left is few or one key ----

  Bracket<Key> histogram_bracket() const {
    const int digit_bits = total_ >= kWideDigitFrom ? kWideDigit : kNarrowDigit;
    const int64_t capacity = std::max(kCandidatesAtLeast, total_ / kCandidateShare);
    Bracket<Key> bracket{0, max_key<F>(), 0, 0, 0};
    for (int pass = 0; pass < digit_passes(F::kKeyBits, digit_bits); ++pass) {
      const Digit digit = digit_of_pass(F::kKeyBits, digit_bits, pass);
      const std::vector<int64_t> counts = histogram(bracket, digit);
      if (pass == 0) {
        int64_t active = 0;
        for (int64_t count : counts) active += count;
        check_count_fits(amount_, active);
        bracket.rank = budget(amount_, active);
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

  std::vector<int64_t> histogram(const Bracket<Key>& bracket, Digit digit) const {
    const size_t bins = size_t{1} << digit.bits;
    std::vector<int64_t> counts(bins * workers_, 0);
    for_each_tile([&](int64_t worker, int64_t t) {
      const Tile<F, M>& tile = tiles_[t];
      int64_t* mine = counts.data() + worker * bins;
      for (int64_t i = 0; i < tile.size; ++i) {
        const Key key = rank_key<F>(tile.scores[i], flip_);
        if (!in_bracket(key, bracket.lo, bracket.hi) || !active(tile, i)) continue;
        ++mine[(key - bracket.lo) >> digit.shift];
      }
    });
    for (int64_t w = 1; w < workers_; ++w) {
      for (size_t bin = 0; bin < bins; ++bin) counts[bin] += counts[w * bins + bin];
    }
    counts.resize(bins);
    return counts;
  }

  // ---- sweep: write every decided entry, report the undecided ----

  // Writes the tile with undecided entries kept; undecided(i) is called for each, in order.
  template <class Fn>
  void decide(const Tile<F, M>& tile, const Bracket<Key>& bracket, const Fn& undecided) const {
    if (tile.mask == nullptr) {
      decide<false, false>(tile, bracket, undecided);
    } else if (active_only_) {
      decide<true, true>(tile, bracket, undecided);
    } else {
      decide<true, false>(tile, bracket, undecided);
    }
  }

  template <bool kHasMask, bool kActiveOnly, class Fn>
  void decide(const Tile<F, M>& tile, const Bracket<Key>& bracket, const Fn& undecided) const {
    alignas(64) uint8_t flags[kBlock];
    for (int64_t at = 0; at < tile.size; at += kBlock) {
      const int64_t n = std::min(kBlock, tile.size - at);
      decide_block<F, M, kHasMask, kActiveOnly>(tile.scores + at, kHasMask ? tile.mask + at : nullptr,
                                                tile.out + at, flags, n, bracket.lo, bracket.hi,
                                                flip_, one_);
      for_each_flag(flags, n, [&](int64_t i) { undecided(at + i); });
    }
  }

  std::vector<std::vector<Candidate>> sweep_candidates(const Bracket<Key>& bracket) const {
    std::vector<std::vector<Candidate>> found(workers_);
    for_each_tile([&](int64_t worker, int64_t t) {
      decide(tiles_[t], bracket, [&, worker, t](int64_t i) {
        found[worker].push_back(
            {rank_key<F>(tiles_[t].scores[i], flip_), static_cast<uint32_t>(i), t});
      });
    });
    return found;
  }

  std::vector<int64_t> sweep_ties(const Bracket<Key>& bracket) const {
    std::vector<int64_t> ties(tiles_.size(), 0);
    for_each_tile([&](int64_t, int64_t t) {
      int64_t count = 0;
      decide(tiles_[t], bracket, [&](int64_t) { ++count; });
      ties[t] = count;
    });
    return ties;
  }

  // ---- settle: prune exactly `rank` of the undecided, the lowest index first among equals ----

  void settle_candidates(const Bracket<Key>& bracket,
                         const std::vector<std::vector<Candidate>>& found) const {
    std::vector<Key> keys;
    keys.reserve(bracket.inside);
    for (const auto& part : found) {
      for (const Candidate& c : part) keys.push_back(c.key);
    }
    TORCH_INTERNAL_ASSERT(static_cast<int64_t>(keys.size()) == bracket.inside);
    const auto nth = keys.begin() + (bracket.rank - 1);
    std::nth_element(keys.begin(), nth, keys.end());
    const Key threshold = *nth;
    int64_t ties = bracket.rank;
    for (auto it = keys.begin(); it != nth; ++it) ties -= *it < threshold;
    for (const auto& part : found) {  // workers and their candidates are in order of index
      for (const Candidate& c : part) {
        if (c.key < threshold || (c.key == threshold && ties-- > 0)) tiles_[c.tile].out[c.offset] = 0;
      }
    }
  }

  void settle_ties(const Bracket<Key>& bracket, const std::vector<int64_t>& ties) const {
    std::vector<int64_t> quota(ties.size());
    int64_t left = bracket.rank;
    for (size_t t = 0; t < ties.size(); ++t) {
      quota[t] = std::min(left, ties[t]);
      left -= quota[t];
    }
    for_each_tile([&](int64_t, int64_t t) {
      const Tile<F, M>& tile = tiles_[t];
      int64_t due = quota[t];
      for (int64_t i = 0; due > 0; ++i) {
        if (rank_key<F>(tile.scores[i], flip_) != bracket.lo || !active(tile, i)) continue;
        tile.out[i] = 0;
        --due;
      }
    });
  }

  std::vector<Tile<F, M>> tiles_;
  int64_t workers_;
  Amount amount_;
  int64_t total_;
  M one_;
  bool active_only_;
  Key flip_;
};

std::vector<at::Tensor> topk_masks(at::TensorList scores,
                                   const c10::List<std::optional<at::Tensor>>& masks,
                                   const at::Scalar& amount, bool active_only, bool largest,
                                   std::optional<at::ScalarType> dtype) {
  TopkArgs args = check_topk_masks(scores, masks, amount, dtype);
  if (scores.empty()) return {};
  dispatch_score(scores[0].scalar_type(), [&](auto format) {
    dispatch_mask_width(at::elementSize(args.mask_dtype), [&](auto element) {
      using F = decltype(format);
      using M = decltype(element);
      Selection<F, M>(tiles_of<F, M>(args), args, active_only, largest).run();
    });
  });
  return args.finish();
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) { m.impl("topk_masks", &topk_masks); }

}  // namespace fastprune::cpu
