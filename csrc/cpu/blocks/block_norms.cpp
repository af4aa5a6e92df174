// block_norms on the CPU: the norm of each block, summed in the order that block_grid.h fixes. A
// task is some neighbouring blocks of a row of blocks.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "args/blocks.h"
#include "common/block_grid.h"
#include "common/dtypes.h"
#include "common/norms.h"
#include "cpu/util/multiversion.h"
#include "cpu/util/parallel.h"

namespace fastprune::cpu {
namespace {

constexpr int64_t kColumns = 512;  // of a task, if a block is not wider

// Adds a row of n entries to the sums of their columns.
template <NormKind kind, class T>
FASTPRUNE_MULTIVERSION void add_to_columns(double* __restrict__ sums, const T* __restrict__ x,
                                           int64_t n, double p) {
  for (int64_t c = 0; c < n; ++c) {
    sums[c] = norm_join<kind>(sums[c], norm_term<kind>(static_cast<double>(x[c]), p));
  }
}

template <NormKind kind>
double join_columns(const double* sums, int64_t n) {
  double lanes[kNormLanes];
  std::fill(lanes, lanes + kNormLanes, norm_start<kind>());
  for (int64_t c = 0; c < n; ++c) {
    lanes[c % kNormLanes] = norm_join<kind>(lanes[c % kNormLanes], sums[c]);
  }
  for (int half = kNormLanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] = norm_join<kind>(lanes[l], lanes[l + half]);
  }
  return lanes[0];
}

template <NormKind kind, class T>
void norms_of_blocks(const T* data, const BlockGrid& grid, double p, double* norms) {
  const int64_t across = grid.across();
  const int64_t together = std::clamp<int64_t>(kColumns / grid.width, 1, across);
  const int64_t groups = (across + together - 1) / together;
  const int64_t tasks = grid.down() * groups;
  const int64_t workers = worker_count(tasks, grid.rows * grid.cols);
  for_each_worker(workers, tasks, [&](int64_t, int64_t first, int64_t last) {
    std::vector<double> sums(std::min(together * grid.width, grid.cols));
    for (int64_t task = first; task < last; ++task) {
      const int64_t down = task / groups;
      const int64_t begin = task % groups * together;
      const int64_t end = std::min(begin + together, across);
      const BlockGrid::Block left = grid.block(down, begin);
      const BlockGrid::Block right = grid.block(down, end - 1);
      const int64_t columns = right.col + right.width - left.col;
      std::fill_n(sums.begin(), columns, norm_start<kind>());
      for (int64_t row = left.row; row < left.row + left.height; ++row) {
        add_to_columns<kind>(sums.data(), data + row * grid.cols + left.col, columns, p);
      }
      for (int64_t a = begin; a < end; ++a) {
        const BlockGrid::Block block = grid.block(down, a);
        const double total = join_columns<kind>(sums.data() + (block.col - left.col), block.width);
        norms[down * across + a] = mean_norm<kind>(total, block.height * block.width, p);
      }
    }
  });
}

std::vector<at::Tensor> block_norms(at::TensorList ts, at::IntArrayRef block, double p) {
  check_block_norms(ts, block);
  std::vector<at::Tensor> result;
  for (const at::Tensor& t : ts) {
    const at::Tensor data = t.contiguous();
    const BlockGrid grid = block_grid(t, block);
    at::Tensor norms = fresh({grid.down(), grid.across()}, at::kDouble, t.device());
    if (norms.numel() > 0) {
      dispatch_float(t.scalar_type(), [&](auto value) {
        using T = decltype(value);
        dispatch_norm(norm_kind(p), [&](auto kind) {
          norms_of_blocks<decltype(kind)::value, T>(data.const_data_ptr<T>(), grid, p,
                                                    norms.mutable_data_ptr<double>());
        });
      });
    }
    result.push_back(std::move(norms));
  }
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
  m.impl("block_norms", &block_norms);
}

}  // namespace fastprune::cpu
