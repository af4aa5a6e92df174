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
#include "cpu/util/kept.h"
#include "cpu/util/parallel.h"

namespace fastprune::cpu {
namespace {

template <class F, class M>
class BlockKernel {
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
        write_kept(kept.data(), cols, io_.from(row * cols));
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
