// N:M on the CPU: a block of runs, one to a lane. Entry j of all runs is a row, so that the loops
// over lanes are vectorised whatever n and m are.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/fusion.h"
#include "common/nm.h"
#include "cpu/util/multiversion.h"

namespace fastprune::cpu {

constexpr int kLanes = 32;

// What scores of a format are multiplied in with a factor.
template <class F>
using WideOf = std::conditional_t<sizeof(typename F::Bits) == 8, double, float>;

// As many rows as the runs have entries.
template <class F, class M>
struct NmBlock {
  using Bits = typename F::Bits;
  using Key = typename F::Key;
  using Wide = WideOf<F>;

  alignas(64) Bits scores[kMostRun][kLanes];
  alignas(64) M mask[kMostRun][kLanes];        // old, then new
  alignas(64) Bits product[kMostRun][kLanes];  // what to multiply, then the product
  alignas(64) Key keys[kMostRun][kLanes];
  alignas(64) Key due[kLanes];
  alignas(64) Wide factor[kMostRun][kLanes];
};

// The key of |score| * |factor|, multiplied once.
template <class F>
typename F::Key scaled_key(typename F::Bits bits, WideOf<F> factor) {
  using Wide = WideOf<F>;
  using Format = std::conditional_t<sizeof(Wide) == 8, Fp64, Fp32>;
  typename F::Value score;
  std::memcpy(&score, &bits, sizeof score);
  const Wide scaled = std::abs(static_cast<Wide>(score)) * std::abs(factor);
  typename Format::Bits scaled_bits;
  std::memcpy(&scaled_bits, &scaled, sizeof scaled);
  return static_cast<typename F::Key>(rank_key<Format>(scaled_bits, 0));
}

// Whole runs, neighbouring in memory, to rows and back. kRun: as in decide_block.
template <class T, int kRun>
FASTPRUNE_MULTIVERSION void to_rows(const T* __restrict__ from, T (*__restrict__ rows)[kLanes],
                                    int run) {
  const int n = kRun > 0 ? kRun : run;
  for (int j = 0; j < n; ++j) {
    for (int l = 0; l < kLanes; ++l) rows[j][l] = from[l * n + j];
  }
}

template <class T, int kRun>
FASTPRUNE_MULTIVERSION void from_rows(const T (*__restrict__ rows)[kLanes], T* __restrict__ to,
                                      int run) {
  const int n = kRun > 0 ? kRun : run;
  for (int l = 0; l < kLanes; ++l) {
    for (int j = 0; j < n; ++j) to[l * n + j] = rows[j][l];
  }
}

// Keys of the scores by magnitude, or by value.
template <class F, class M, int kRun>
FASTPRUNE_MULTIVERSION void set_keys(NmBlock<F, M>& block, int run, bool is_signed) {
  const int n = kRun > 0 ? kRun : run;
  if (is_signed) {
    for (int j = 0; j < n; ++j) {
      for (int l = 0; l < kLanes; ++l) block.keys[j][l] = signed_key<F>(block.scores[j][l]);
    }
  } else {
    for (int j = 0; j < n; ++j) {
      for (int l = 0; l < kLanes; ++l) block.keys[j][l] = rank_key<F>(block.scores[j][l], 0);
    }
  }
}

// Keys of the scores times the factor.
template <class F, class M>
void set_scaled_keys(NmBlock<F, M>& block, int run) {
  for (int j = 0; j < run; ++j) {
    for (int l = 0; l < kLanes; ++l) {
      block.keys[j][l] = scaled_key<F>(block.scores[j][l], block.factor[j][l]);
    }
  }
}

// Entries that are not active rank last; how many of a lane's entries are zero already.
template <class F, class M, int kRun>
FASTPRUNE_MULTIVERSION void mark_inactive(NmBlock<F, M>& block, int run, M one,
                                          typename F::Key* __restrict__ zeros) {
  using Key = typename F::Key;
  const int n = kRun > 0 ? kRun : run;
  for (int l = 0; l < kLanes; ++l) zeros[l] = 0;
  for (int j = 0; j < n; ++j) {
    for (int l = 0; l < kLanes; ++l) {
      zeros[l] += block.mask[j][l] == 0;
      block.keys[j][l] = block.mask[j][l] == one ? block.keys[j][l] : kInactive<Key>;
    }
  }
}

// Decides which entries are pruned, and writes masks and products into the block. kRun: the entries
// of a run, or 0 where `run` says that.
template <class F, class M, int kRun, bool kProduct>
FASTPRUNE_MULTIVERSION void decide_block(NmBlock<F, M>& block, int run) {
  using Key = typename F::Key;
  const int rows = kRun > 0 ? kRun : run;
  const auto& keys = block.keys;
  for (int i = 0; i < rows; ++i) {
    Key before[kLanes] = {};  // entries that are pruned earlier
    for (int j = 0; j < i; ++j) {
      for (int l = 0; l < kLanes; ++l) before[l] += keys[j][l] <= keys[i][l];
    }
    for (int j = i + 1; j < rows; ++j) {
      for (int l = 0; l < kLanes; ++l) before[l] += keys[j][l] < keys[i][l];
    }
    for (int l = 0; l < kLanes; ++l) {
      const bool pruned = (before[l] < block.due[l]) & (keys[i][l] != kInactive<Key>);
      block.mask[i][l] = pruned ? M{0} : block.mask[i][l];
      if constexpr (kProduct && sizeof(typename F::Bits) == 2) {
        block.product[i][l] = product_of_choice<F>(pruned, block.product[i][l]);
      } else if constexpr (kProduct) {
        block.product[i][l] = product_bits<F, M>(block.mask[i][l], block.product[i][l]);
      }
    }
  }
}

}  // namespace fastprune::cpu
