// row_masks and row_prune on the CPU: each row is selected from by itself. A worker takes a range
// of rows. Of rows that are not contiguous some at a time are copied to buffers, and what is kept
// of them is written in the order of memory.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "args/each.h"
#include "args/row.h"
#include "common/dtypes.h"
#include "cpu/topk/row_loops.h"
#include "cpu/topk/row_select.h"
#include "cpu/util/each.h"
#include "cpu/util/fresh_pages.h"
#include "cpu/util/fusion.h"
#include "cpu/util/kept.h"
#include "cpu/util/parallel.h"
#include "cpu/util/prefetch.h"
#include "cpu/util/scaled.h"

namespace fastprune::cpu {
namespace {

template <class F, class M>
class RowKernel {
  using Bits = typename F::Bits;
  using Key = typename F::Key;
  using Operands = MaskOperands<F, M>;

 public:
  RowKernel(const EachArgs& args, const RowRule& rule)
      : rule_(rule),
        shape_(args.shape),
        size_(args.shape.entries()),
        stride_(size_ + kPadding),
        is_signed_(args.is_signed),
        factor_(args.factor),
        max_key_(max_score_key<F>(is_signed_, factor_.exists())),
        scores_(static_cast<const Bits*>(args.scores.const_data_ptr())),
        all_(args.operands<F, M>()) {}

  void operator()() const {
    const bool contiguous = shape_.outer == 1;
    const bool large = shape_.channels * size_ * static_cast<int64_t>(sizeof(M)) >= kFreshPagesFrom;
    int64_t workers = worker_count(shape_.channels, shape_.channels * size_);
    const int64_t together = contiguous ? 1 : rows_together(workers);
    const int64_t groups = (shape_.channels + together - 1) / together;
    workers = std::min(workers, groups);
    if (large && !contiguous) populate_all(workers);
    for_each_worker(workers, groups, [&](int64_t, int64_t first, int64_t last) {
      Work work(size_);
      const int64_t end = std::min(last * together, shape_.channels);
      if (contiguous) return process_contiguous(first, end, large, work);
      for (int64_t row = first * together; row < end; row += together) {
        process_strided(row, std::min(together, end - row), work);
      }
    });
  }

 private:
  static constexpr int64_t kGathered = 1 << 18;  // entries of some rows in buffers
  static constexpr int64_t kPiece = 1 << 15;     // entries between two calls that populate pages
  static constexpr int64_t kPageBytes = 4096;
  // So that the rows of a matrix of 2^n columns are not in the same few sets of the cache.
  static constexpr int64_t kPadding = 64;

  struct Work {
    std::vector<Key> keys;
    RowSelect<Key> select;
    WideOf<F> factor[kBlock];
    // Of some rows that are not contiguous.
    std::vector<Bits> scores;
    std::vector<M> mask;
    std::vector<uint8_t> kept;      // by row
    std::vector<uint8_t> in_order;  // the same in the order of memory

    explicit Work(int64_t size) : keys(size) {}
  };

  // Neighbouring rows share cache lines where their entries are strided; each worker should have
  // some.
  int64_t rows_together(int64_t workers) const {
    constexpr int64_t kLeast = 16;
    constexpr int64_t kMost = 64;
    const int64_t share = std::max(kLeast, (shape_.channels + workers - 1) / workers);
    return std::clamp<int64_t>(std::min(kGathered / size_, share), 1, kMost);
  }

  void process_contiguous(int64_t first, int64_t last, bool large, Work& work) const {
    const int64_t step = std::max<int64_t>(1, kPiece / size_);
    for (int64_t row = first; row < last; ++row) {
      if (large && (row - first) % step == 0) {
        populate_pages(all_, row * size_, (std::min(row + step, last) - row) * size_);
      }
      const Operands r = all_.from(row * size_);
      const RowThreshold<Key> threshold = decide(row, scores_ + row * size_, r.mask, work);
      write(r, below(threshold), work);
      for_each_tie(threshold, work, [&](int64_t i) {
        r.out[i] = M{0};
        if constexpr (can_multiply<F, M>(kFusion, false)) {
          if (r.product == nullptr) return;
          r.product[i] = r.mask == nullptr ? product_of<F, M, false>(M{0}, true, r.t[i])
                                           : product_of<F, M, true>(M{0}, true, r.t[i]);
        }
      });
    }
  }

  void process_strided(int64_t row, int64_t count, Work& work) const {
    work.scores.resize(count * stride_);
    gather(scores_, row, count, work.scores.data());
    if (all_.mask != nullptr) {
      work.mask.resize(count * stride_);
      gather(all_.mask, row, count, work.mask.data());
    }
    work.kept.resize(count * stride_);
    for (int64_t r = 0; r < count; ++r) {
      const M* mask = all_.mask == nullptr ? nullptr : work.mask.data() + r * stride_;
      const RowThreshold<Key> threshold =
          decide(row + r, work.scores.data() + r * stride_, mask, work);
      uint8_t* kept = work.kept.data() + r * stride_;
      write_row<F, uint8_t, false, false>(work.keys.data(), size_, below(threshold), nullptr, 1,
                                          kept, nullptr, nullptr);
      for_each_tie(threshold, work, [&](int64_t i) { kept[i] = 0; });
    }
    write_in_order(row, count, work);
  }

  // Copies `count` rows to rows of a buffer. In memory their entries are together for each index of
  // the dims before, in stretches that are far apart.
  template <class T>
  void gather(const T* from, int64_t row, int64_t count, T* to) const {
    constexpr int64_t kAhead = 8;  // stretches
    const auto each = [&](auto inner) {
      const int64_t step = shape_.channels * inner;
      const int64_t prefetched = std::min<int64_t>(count * inner, kPageBytes / sizeof(T));
      const T* x = from + row * inner;
      for (int64_t o = 0; o < shape_.outer; ++o, x += step) {
        if (o + kAhead < shape_.outer) prefetch(x + kAhead * step, prefetched);
        for (int64_t r = 0; r < count; ++r) {
          std::copy_n(x + r * inner, inner, to + r * stride_ + o * inner);
        }
      }
    };
    shape_.inner == 1 ? each(std::integral_constant<int64_t, 1>{}) : each(shape_.inner);
  }

  void write_in_order(int64_t row, int64_t count, Work& work) const {
    const auto each = [&](auto inner) {
      work.in_order.resize(count * inner);
      for (int64_t o = 0; o < shape_.outer; ++o) {
        const uint8_t* kept = work.kept.data() + o * inner;
        for (int64_t r = 0; r < count; ++r) {
          std::copy_n(kept + r * stride_, inner, work.in_order.data() + r * inner);
        }
        const int64_t at = (o * shape_.channels + row) * inner;
        write_kept<F, M>(work.in_order.data(), count * inner, all_.from(at));
      }
    };
    shape_.inner == 1 ? each(std::integral_constant<int64_t, 1>{}) : each(shape_.inner);
  }

  // Before the first rows, as some rows have entries in all pages.
  void populate_all(int64_t workers) const {
    const int64_t total = shape_.channels * size_;
    for_each_worker(workers, (total + kPiece - 1) / kPiece,
                    [&](int64_t, int64_t first, int64_t last) {
                      for (int64_t piece = first; piece < last; ++piece) {
                        const int64_t at = piece * kPiece;
                        populate_pages(all_, at, std::min(kPiece, total - at));
                      }
                    });
  }

  void set_keys(int64_t row, const Bits* scores, Work& work) const {
    Key* keys = work.keys.data();
    if (!factor_.exists()) return set_row_keys<F>(scores, size_, is_signed_, keys);
    for (int64_t o = 0; o < shape_.outer; ++o) {
      for (int64_t i = 0; i < shape_.inner; i += kBlock) {
        const int64_t n = std::min(kBlock, shape_.inner - i);
        const int64_t at = o * shape_.inner + i;
        factor_.read_inner(o, row, i, n, work.factor);
        set_scaled_keys<F>(scores + at, work.factor, keys + at, static_cast<int32_t>(n));
      }
    }
  }

  // Sets the keys of a row; those below the threshold are pruned, and so many ties.
  RowThreshold<Key> decide(int64_t row, const Bits* scores, const M* mask, Work& work) const {
    set_keys(row, scores, work);
    RowCounts counts{size_, 0};
    if (mask != nullptr) {
      counts = {};
      for (int64_t at = 0; at < size_; at += kBlock) {
        const auto n = static_cast<int32_t>(std::min(kBlock, size_ - at));
        const RowCounts block = mark_row(mask + at, n, all_.one, work.keys.data() + at);
        counts.active += block.active;
        counts.zeros += block.zeros;
      }
    }
    check_count_fits(rule_.amount, counts.active);
    const int64_t due = rule_.due(size_, counts.zeros, counts.active);
    if (due <= 0) return {0, 0, 0};
    return work.select(work.keys, counts.active, due, max_key_);
  }

  // What is pruned without a look at ties.
  static Key below(const RowThreshold<Key>& threshold) {
    return threshold.key + Key{threshold.due > 0 && threshold.due == threshold.ties};
  }

  void write(const Operands& r, Key below, const Work& work) const {
    dispatch_operands(r, [&](auto has_mask, auto with_product) {
      write_row<F, M, has_mask.value, with_product.value>(work.keys.data(), size_, below, r.mask,
                                                          r.one, r.out, r.t, r.product);
    });
  }

  // fn(i) for each tie that is pruned, unless all are.
  template <class Fn>
  static void for_each_tie(const RowThreshold<Key>& threshold, const Work& work, const Fn& fn) {
    if (threshold.due == threshold.ties) return;
    int64_t due = threshold.due;
    for (int64_t i = 0; due > 0; ++i) {
      if (work.keys[i] != threshold.key) continue;
      --due;
      fn(i);
    }
  }

  RowRule rule_;
  ChannelShape shape_;
  int64_t size_;    // entries of a row
  int64_t stride_;  // from a row to the next in a buffer
  bool is_signed_;
  FactorReader factor_;
  Key max_key_;
  const Bits* scores_;
  Operands all_;
};

auto prune_rows_by(const RowRule& rule) {
  return [rule](const EachArgs& args) {
    dispatch_mask_args(args, [&](auto format, auto bits) {
      RowKernel<decltype(format), decltype(bits)>{args, rule}();
    });
  };
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  m.impl("row_masks", &row_masks<OnCpu, prune_rows_by>);
  m.impl("row_prune", &row_prune<OnCpu, prune_rows_by>);
}

}  // namespace fastprune::cpu
