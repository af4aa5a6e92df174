// row_masks and row_prune on the CPU: each row is selected from by itself. A worker takes a range
// of rows. Rows that are not contiguous are copied to a buffer, some of them at a time.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "args/each.h"
#include "args/row.h"
#include "common/dtypes.h"
#include "cpu/topk/row_select.h"
#include "cpu/util/each.h"
#include "cpu/util/fresh_pages.h"
#include "cpu/util/fusion.h"
#include "cpu/util/parallel.h"
#include "cpu/util/scaled.h"

namespace fastprune::cpu {
namespace {

template <class F>
FASTPRUNE_MULTIVERSION void set_row_keys(const typename F::Bits* __restrict__ scores, int64_t n,
                                         bool is_signed, typename F::Key* __restrict__ keys) {
  if (is_signed) {
    for (int64_t i = 0; i < n; ++i) keys[i] = signed_key<F>(scores[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) keys[i] = rank_key<F>(scores[i], 0);
  }
}

struct RowCounts {
  int64_t active = 0;
  int64_t zeros = 0;
};

// Entries that are not active rank last.
template <class Key, class M>
FASTPRUNE_MULTIVERSION RowCounts mark_row(const M* __restrict__ mask, int32_t n, M one,
                                          Key* __restrict__ keys) {
  Key active = 0;
  Key zeros = 0;
  for (int32_t i = 0; i < n; ++i) {
    active += mask[i] == one;
    zeros += mask[i] == 0;
    keys[i] = mask[i] == one ? keys[i] : kInactive<Key>;
  }
  return {static_cast<int64_t>(active), static_cast<int64_t>(zeros)};
}

// Prunes what is below a key.
template <class F, class M, bool kHasMask, bool kProduct>
FASTPRUNE_MULTIVERSION void write_row(const typename F::Key* __restrict__ keys, int64_t n,
                                      typename F::Key below, const M* __restrict__ mask, M one,
                                      M* __restrict__ out, const typename F::Bits* t,
                                      typename F::Bits* __restrict__ product) {
  for (int64_t i = 0; i < n; ++i) {
    const bool pruned = keys[i] < below;
    const M value = pruned ? M{0} : kHasMask ? mask[i] : one;
    out[i] = value;
    if constexpr (kProduct) product[i] = product_of<F, M, kHasMask>(value, pruned, t[i]);
  }
}

// The operands of a row, which is contiguous; or of the whole tensor.
template <class F, class M>
struct Row : MaskOperands<F, M> {
  const typename F::Bits* scores;
};

template <class F, class M>
class RowKernel {
  using Bits = typename F::Bits;
  using Key = typename F::Key;

 public:
  RowKernel(const EachArgs& args, const RowRule& rule)
      : rule_(rule),
        shape_(args.shape),
        size_(args.shape.entries()),
        stride_(size_ + kPadding),
        is_signed_(args.is_signed),
        factor_(args.factor),
        max_key_(max_score_key<F>(is_signed_, factor_.exists())),
        all_{args.operands<F, M>(), static_cast<const Bits*>(args.scores.const_data_ptr())} {}

  void operator()() const {
    // Neighbouring rows share cache lines where their entries are strided.
    const int64_t together =
        shape_.outer == 1 ? 1 : std::clamp<int64_t>(kGathered / size_, 1, kRowsTogether);
    const int64_t groups = (shape_.channels + together - 1) / together;
    for_each_worker(worker_count(groups, shape_.channels * size_), groups,
                    [&](int64_t, int64_t first, int64_t last) {
                      Work work(size_);
                      const int64_t end = std::min(last * together, shape_.channels);
                      if (shape_.outer == 1) {
                        process_contiguous(first, end, work);
                      } else {
                        for (int64_t row = first * together; row < end; row += together) {
                          process_strided(row, std::min(together, end - row), work);
                        }
                      }
                    });
  }

 private:
  static constexpr int64_t kRowsTogether = 32;
  static constexpr int64_t kGathered = 1 << 18;  // entries of some rows in buffers
  // So that the rows of a matrix of 2^n columns are not in the same few sets of the cache.
  static constexpr int64_t kPadding = 64;

  struct Work {
    std::vector<Key> keys;
    RowSelect<Key> select;
    WideOf<F> factor[kRowBlock];
    std::vector<Bits> scores, t, product;  // of some rows
    std::vector<M> mask, out;

    explicit Work(int64_t size) : keys(size) {}
  };

  void process_contiguous(int64_t first, int64_t last, Work& work) const {
    const bool large = shape_.channels * size_ * static_cast<int64_t>(sizeof(M)) >= kFreshPagesFrom;
    const int64_t step = std::max<int64_t>(1, kPiece / size_);
    for (int64_t row = first; row < last; ++row) {
      if (large && (row - first) % step == 0) {
        const int64_t entries = (std::min(row + step, last) - row) * size_;
        populate_pages(all_, row * size_, entries);
      }
      const auto from = [&](auto* p) { return p == nullptr ? nullptr : p + row * size_; };
      decide(row,
             {{from(all_.mask), from(all_.out), from(all_.t), from(all_.product), all_.one},
              from(all_.scores)},
             work);
    }
  }

  void process_strided(int64_t row, int64_t count, Work& work) const {
    const auto gathered = [&](const auto* from, auto& buffer) {
      if (from == nullptr) return;
      buffer.resize(count * stride_);
      for_each_piece(row, count, [&](int64_t entry, int64_t at, int64_t n) {
        std::copy_n(from + entry, n, buffer.data() + at);
      });
    };
    gathered(all_.scores, work.scores);
    gathered(all_.mask, work.mask);
    gathered(all_.t, work.t);
    work.out.resize(count * stride_);
    if (all_.product != nullptr) work.product.resize(count * stride_);
    for (int64_t r = 0; r < count; ++r) {
      const auto of = [&](auto* given, auto& buffer) -> decltype(given) {
        return given == nullptr ? nullptr : buffer.data() + r * stride_;
      };
      decide(row + r,
             {{of(all_.mask, work.mask), of(all_.out, work.out), of(all_.t, work.t),
               of(all_.product, work.product), all_.one},
              of(all_.scores, work.scores)},
             work);
    }
    const auto scattered = [&](const auto& buffer, auto* to) {
      if (to == nullptr) return;
      for_each_piece(row, count, [&](int64_t entry, int64_t at, int64_t n) {
        std::copy_n(buffer.data() + at, n, to + entry);
      });
    };
    scattered(work.out, all_.out);
    scattered(work.product, all_.product);
  }

  // fn(entry, place in the buffers, size) for each piece of neighbouring entries of some rows.
  template <class Fn>
  void for_each_piece(int64_t row, int64_t count, const Fn& fn) const {
    const auto each = [&](auto inner) {
      for (int64_t o = 0; o < shape_.outer; ++o) {
        for (int64_t r = 0; r < count; ++r) {
          fn((o * shape_.channels + row + r) * inner, r * stride_ + o * inner, inner);
        }
      }
    };
    shape_.inner == 1 ? each(std::integral_constant<int64_t, 1>{}) : each(shape_.inner);
  }

  void set_keys(int64_t row, const Bits* scores, Work& work) const {
    Key* keys = work.keys.data();
    if (!factor_.exists()) return set_row_keys<F>(scores, size_, is_signed_, keys);
    for (int64_t o = 0; o < shape_.outer; ++o) {
      for (int64_t i = 0; i < shape_.inner; i += kRowBlock) {
        const int64_t n = std::min(kRowBlock, shape_.inner - i);
        const int64_t at = o * shape_.inner + i;
        factor_.read_inner(o, row, i, n, work.factor);
        set_scaled_keys<F>(scores + at, work.factor, keys + at, static_cast<int32_t>(n));
      }
    }
  }

  void decide(int64_t row, const Row<F, M>& r, Work& work) const {
    set_keys(row, r.scores, work);
    RowCounts counts{size_, 0};
    if (r.mask != nullptr) {
      counts = {};
      for (int64_t at = 0; at < size_; at += kRowBlock) {
        const auto n = static_cast<int32_t>(std::min(kRowBlock, size_ - at));
        const RowCounts block = mark_row(r.mask + at, n, r.one, work.keys.data() + at);
        counts.active += block.active;
        counts.zeros += block.zeros;
      }
    }
    check_count_fits(rule_.amount, counts.active);
    const int64_t due = rule_.due(size_, counts.zeros, counts.active);
    RowThreshold<Key> threshold{0, 0, 0};
    if (due > 0) threshold = work.select(work.keys, counts.active, due, max_key_);
    const bool all_ties = threshold.due == threshold.ties;
    write(r, threshold.key + Key{due > 0 && all_ties}, work);
    if (!all_ties) prune_first(r, threshold, work);
  }

  void write(const Row<F, M>& r, Key below, const Work& work) const {
    const auto with = [&](auto has_mask, auto with_product) {
      write_row<F, M, has_mask.value, with_product.value>(work.keys.data(), size_, below, r.mask,
                                                          r.one, r.out, r.t, r.product);
    };
    const auto masked = [&](auto has_mask) {
      if constexpr (can_multiply<F, M>(kFusion, has_mask.value)) {
        if (r.product != nullptr) return with(has_mask, std::true_type{});
      }
      with(has_mask, std::false_type{});
    };
    r.mask == nullptr ? masked(std::false_type{}) : masked(std::true_type{});
  }

  // Of the entries with the threshold's key.
  void prune_first(const Row<F, M>& r, const RowThreshold<Key>& threshold, const Work& work) const {
    int64_t due = threshold.due;
    for (int64_t i = 0; due > 0; ++i) {
      if (work.keys[i] != threshold.key) continue;
      --due;
      r.out[i] = M{0};
      if constexpr (can_multiply<F, M>(kFusion, false)) {
        if (r.product == nullptr) continue;
        r.product[i] = r.mask == nullptr ? product_of<F, M, false>(M{0}, true, r.t[i])
                                         : product_of<F, M, true>(M{0}, true, r.t[i]);
      }
    }
  }

  static constexpr int64_t kPiece = 1 << 15;  // entries between two calls that populate pages

  RowRule rule_;
  ChannelShape shape_;
  int64_t size_;    // entries of a row
  int64_t stride_;  // from a row to the next in a buffer
  bool is_signed_;
  FactorReader factor_;
  Key max_key_;
  Row<F, M> all_;
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
