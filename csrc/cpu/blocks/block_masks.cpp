// block_masks and block_prune on the CPU: a mask of blocks is expanded to the entries. A worker
// takes a range of rows; the row of a mask is made once for each row of blocks.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "args/blocks.h"
#include "common/block_grid.h"
#include "common/dtypes.h"
#include "cpu/util/each.h"
#include "cpu/util/fresh_pages.h"
#include "cpu/util/fusion.h"
#include "cpu/util/multiversion.h"
#include "cpu/util/parallel.h"

namespace fastprune::cpu {
namespace {

// One row: `kept` has a byte for each column.
template <class F, class M, bool kHasMask, bool kProduct>
FASTPRUNE_MULTIVERSION void write_blocks(const uint8_t* __restrict__ kept, int64_t n,
                                         const M* __restrict__ mask, M one, M* __restrict__ out,
                                         const typename F::Bits* __restrict__ t,
                                         typename F::Bits* __restrict__ product) {
  for (int64_t c = 0; c < n; ++c) {
    const bool pruned = kept[c] == 0;
    const M value = pruned ? M{0} : kHasMask ? mask[c] : one;
    out[c] = value;
    if constexpr (kProduct) product[c] = product_of<F, M, kHasMask>(value, pruned, t[c]);
  }
}

template <class F, class M>
class BlockKernel {
  using Bits = typename F::Bits;

 public:
  explicit BlockKernel(const BlockArgs& args)
      : grid_(args.grid), units_(args.units.const_data_ptr<bool>()), io_(args.operands<F, M>()) {}

  void operator()() const {
    const int64_t cols = grid_.cols;
    const int64_t workers = worker_count(grid_.rows, grid_.rows * cols);
    const bool large = grid_.rows * cols * static_cast<int64_t>(sizeof(M)) >= kFreshPagesFrom;
    const int64_t step = std::max<int64_t>(1, kPiece / cols);
    for_each_worker(workers, grid_.rows, [&](int64_t, int64_t first, int64_t last) {
      std::vector<uint8_t> kept(cols + sizeof(uint64_t));
      for (int64_t row = first; row < last; ++row) {
        if (large && (row - first) % step == 0) {
          const int64_t entries = (std::min(row + step, last) - row) * cols;
          populate_pages(io_, row * cols, entries);
        }
        if (row == first || row % grid_.height == 0) expand(row / grid_.height, kept);
        io_.mask == nullptr ? write<false>(row, kept) : write<true>(row, kept);
      }
    });
  }

 private:
  static constexpr int64_t kPiece = 1 << 15;  // between two calls that populate pages

  // From left to right in whole words; what one writes past its block, the next overwrites.
  void expand(int64_t down, std::vector<uint8_t>& kept) const {
    const bool* units = units_ + down * grid_.across();
    for (int64_t a = 0; a < grid_.across(); ++a) {
      const BlockGrid::Block block = grid_.block(down, a);
      const uint64_t word = units[a] ? 0x0101010101010101 : 0;
      for (int64_t c = 0; c < block.width; c += sizeof(word)) {
        std::memcpy(kept.data() + block.col + c, &word, sizeof(word));
      }
    }
  }

  template <bool kHasMask>
  void write(int64_t row, const std::vector<uint8_t>& kept) const {
    const int64_t at = row * grid_.cols;
    const M* mask = kHasMask ? io_.mask + at : nullptr;
    if constexpr (can_multiply<F, M>(kFusion, kHasMask)) {
      if (io_.product != nullptr) {
        return write_blocks<F, M, kHasMask, true>(kept.data(), grid_.cols, mask, io_.one,
                                                  io_.out + at, io_.t + at, io_.product + at);
      }
    }
    write_blocks<F, M, kHasMask, false>(kept.data(), grid_.cols, mask, io_.one, io_.out + at,
                                        nullptr, nullptr);
  }

  BlockGrid grid_;
  const bool* units_;
  MaskOperands<F, M> io_;
};

void write(const BlockArgs& args) {
  dispatch_mask_args(
      args, [&](auto format, auto bits) { BlockKernel<decltype(format), decltype(bits)>{args}(); });
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  m.impl("block_masks", &block_masks<OnCpu, write>);
  m.impl("block_prune", &block_prune<OnCpu, write>);
}

}  // namespace fastprune::cpu
