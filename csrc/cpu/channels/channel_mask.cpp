// channel_mask and channel_prune on the CPU: prune the active channels of lowest score, and keep
// the old mask of the others.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "args/channels.h"
#include "common/channel_shape.h"
#include "common/dtypes.h"
#include "common/fusion.h"
#include "common/keys.h"
#include "common/op_types.h"
#include "cpu/elementwise/masked_mul.h"
#include "cpu/elementwise/product.h"
#include "cpu/util/fresh_pages.h"
#include "cpu/util/multiversion.h"
#include "cpu/util/parallel.h"

namespace fastprune::cpu {
namespace {

constexpr int64_t kEntriesPerTask = 1 << 14;  // at least, for each worker
// If a channel's runs of neighbouring entries are shorter than kLongRun, the tensor is processed by
// rows of all channels, unless rows are longer than kLongRow: then there are few of them.
constexpr int64_t kLongRun = 64;
constexpr int64_t kLongRow = 1 << 16;

bool in_rows(const ChannelShape& v) {
  return v.inner < kLongRun && v.channels * v.inner <= kLongRow;
}

// fn(first, last) in parallel over the rows of [outer, channels * inner].
template <class Fn>
void for_rows(const ChannelShape& v, const Fn& fn) {
  const int64_t row = std::max<int64_t>(1, v.channels * v.inner);
  const int64_t tasks = std::max<int64_t>(1, v.outer * row / kEntriesPerTask);
  for_each_worker(worker_count(std::min(tasks, v.outer)), v.outer,
                  [&](int64_t, int64_t first, int64_t last) { fn(first, last); });
}

// fn(first, last) in parallel over the runs of `inner` neighbouring entries. Run r is part of
// channel r % channels.
template <class Fn>
void for_runs(const ChannelShape& v, const Fn& fn) {
  const int64_t runs = v.outer * v.channels;
  const int64_t tasks = std::max<int64_t>(1, runs * v.inner / kEntriesPerTask);
  for_each_worker(worker_count(std::min(tasks, runs)), runs,
                  [&](int64_t, int64_t first, int64_t last) { fn(first, last); });
}

template <class T>
FASTPRUNE_MULTIVERSION void mark_nonzero(const T* mask, uint8_t* flags, int64_t n) {
  for (int64_t i = 0; i < n; ++i) flags[i] |= mask[i] != static_cast<T>(0);
}

template <class T>
bool any_nonzero(const T* mask, int64_t n) {
  return std::any_of(mask, mask + n, [](T value) { return value != static_cast<T>(0); });
}

// A channel is active if any of its mask entries is non-zero.
template <class T>
std::vector<uint8_t> active_channels(const T* mask, const ChannelShape& v) {
  std::vector<uint8_t> active(v.channels, 0);
  if (!in_rows(v)) {
    for_runs(v, [&](int64_t first, int64_t last) {
      for (int64_t run = first; run < last; ++run) {
        uint8_t* flag = &active[run % v.channels];
        if (__atomic_load_n(flag, __ATOMIC_RELAXED) == 0 &&
            any_nonzero(mask + run * v.inner, v.inner)) {
          __atomic_store_n(flag, uint8_t{1}, __ATOMIC_RELAXED);
        }
      }
    });
    return active;
  }
  const int64_t row = v.channels * v.inner;
  std::vector<uint8_t> flags(row, 0);  // by position in a row
  std::mutex joining;
  for_rows(v, [&](int64_t first, int64_t last) {
    std::vector<uint8_t> mine(row, 0);
    for (int64_t r = first; r < last; ++r) {
      mark_nonzero(mask + r * row, mine.data(), row);
      // In most masks a few rows show that every channel is active; checked after 1, 2, 4, ...
      // rows.
      const bool check = ((r - first) & (r - first + 1)) == 0;
      if (check && std::find(mine.begin(), mine.end(), 0) == mine.end()) break;
    }
    const std::lock_guard<std::mutex> guard(joining);
    for (int64_t i = 0; i < row; ++i) flags[i] |= mine[i];
  });
  for (int64_t i = 0; i < row; ++i) active[i / v.inner] |= flags[i];
  return active;
}

std::vector<uint8_t> channels_to_prune(const double* scores, const std::vector<uint8_t>& active,
                                       const Amount& amount) {
  std::vector<std::pair<uint64_t, int64_t>> ranked;
  for (size_t c = 0; c < active.size(); ++c) {
    if (!active[c]) continue;
    uint64_t bits;
    std::memcpy(&bits, scores + c, sizeof bits);
    ranked.emplace_back(rank_key<Fp64>(bits, 0), static_cast<int64_t>(c));
  }
  const int64_t count = static_cast<int64_t>(ranked.size());
  check_count_fits(amount, count);
  const int64_t k = budget(amount, count);
  std::nth_element(ranked.begin(), ranked.begin() + k, ranked.end());
  std::vector<uint8_t> prune(active.size(), 0);
  for (int64_t i = 0; i < k; ++i) prune[ranked[i].second] = 1;
  return prune;
}

template <class T>
FASTPRUNE_MULTIVERSION void scale_row(const T* mask, const T* pattern, T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(mask[i] * pattern[i]);
}

template <class T>
FASTPRUNE_MULTIVERSION void times_zero(const T* mask, T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(mask[i] * static_cast<T>(0));
}

// The product that is written with the mask, if it is fused.
template <class T>
struct FusedProduct {
  const T* t = nullptr;
  T* product = nullptr;

  // Rows [first, last) of `row` entries each, whose mask has just been written.
  void write(const T* mask, int64_t rows, int64_t row, int64_t first, int64_t last) const {
    if constexpr (can_multiply<T>()) {
      if (product == nullptr) return;
      write_in_pieces(product, rows, row, first, last, [&](int64_t from, int64_t to) {
        const int64_t at = from * row;
        cpu::product(mask + at, t + at, product + at, (to - from) * row);
      });
    }
  }
};

// The old mask, or ones; multiplied by zero in pruned channels.
template <class T>
void write_mask(const T* mask, const ChannelShape& v, const std::vector<uint8_t>& prune, T* out,
                const FusedProduct<T>& fused) {
  if (!in_rows(v)) {
    const int64_t runs = v.outer * v.channels;
    const auto write_runs = [&](int64_t first, int64_t last) {
      for (int64_t run = first; run < last; ++run) {
        const bool pruned = prune[run % v.channels];
        const int64_t offset = run * v.inner;
        if (mask == nullptr) {
          std::fill_n(out + offset, v.inner, static_cast<T>(pruned ? 0 : 1));
        } else if (pruned) {
          times_zero(mask + offset, out + offset, v.inner);
        } else {
          std::copy_n(mask + offset, v.inner, out + offset);
        }
      }
      fused.write(out, runs, v.inner, first, last);
    };
    for_runs(v, [&](int64_t first, int64_t last) {
      write_in_pieces(out, runs, v.inner, first, last, write_runs);
    });
    return;
  }
  const int64_t row = v.channels * v.inner;
  const std::unique_ptr<T[]> pattern(new T[row]);
  for (int64_t i = 0; i < row; ++i) pattern[i] = static_cast<T>(prune[i / v.inner] ? 0 : 1);
  const auto write_rows = [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      if (mask == nullptr) {
        std::copy_n(pattern.get(), row, out + r * row);
      } else {
        scale_row(mask + r * row, pattern.get(), out + r * row, row);
      }
    }
    fused.write(out, v.outer, row, first, last);
  };
  for_rows(v, [&](int64_t first, int64_t last) {
    write_in_pieces(out, v.outer, row, first, last, write_rows);
  });
}

void mask_channels(const ChannelMaskArgs& args, bool active_only) {
  advise_huge_pages(args.output.work);
  if (args.product.defined()) advise_huge_pages(args.product);
  dispatch_mask(args.output.out.scalar_type(), [&](auto value) {
    using T = decltype(value);
    const T* old = args.mask.defined() ? args.mask.const_data_ptr<T>() : nullptr;
    const std::vector<uint8_t> active = args.mask.defined() && active_only
                                            ? active_channels(old, args.shape)
                                            : std::vector<uint8_t>(args.shape.channels, 1);
    const auto prune = channels_to_prune(args.scores.const_data_ptr<double>(), active, args.amount);
    FusedProduct<T> fused;
    if (args.product.defined()) {
      fused = {args.t.const_data_ptr<T>(), args.product.mutable_data_ptr<T>()};
    }
    write_mask(old, args.shape, prune, args.output.work.mutable_data_ptr<T>(), fused);
  });
}

at::Tensor channel_mask(const at::Tensor& scores, const at::Tensor& like,
                        const std::optional<at::Tensor>& mask, const at::Scalar& amount,
                        int64_t dim, bool active_only) {
  check_channel_mask("channel_mask", scores, "like", like, mask, amount, dim);
  ChannelMaskArgs args = prepare_channel_mask(scores, like, mask, amount, dim);
  mask_channels(args, active_only);
  return args.output.finish();
}

TensorPair channel_prune(const at::Tensor& scores, const at::Tensor& t,
                         const std::optional<at::Tensor>& mask, const at::Scalar& amount,
                         int64_t dim, bool active_only) {
  check_channel_mask("channel_prune", scores, "t", t, mask, amount, dim);
  ChannelMaskArgs args = prepare_channel_mask(scores, t, mask, amount, dim);
  prepare_channel_prune(args, t);
  mask_channels(args, active_only);
  at::Tensor new_mask = args.output.finish();
  if (!args.product.defined()) args.product = masked_muls({t}, {new_mask})[0];
  return {std::move(new_mask), std::move(args.product)};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  m.impl("channel_mask", &channel_mask);
  m.impl("channel_prune", &channel_prune);
}

}  // namespace fastprune::cpu
