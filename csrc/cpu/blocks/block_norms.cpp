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
#include "cpu/util/fresh_pages.h"
#include "cpu/util/multiversion.h"
#include "cpu/util/parallel.h"

namespace fastprune::cpu {
namespace {

constexpr int64_t kColumns = 512;    // of a task, if a block is not wider
constexpr int64_t kPiece = 1 << 15;  // norms between two calls that populate pages

// Adds a row of n entries to the sums of their columns.
template <NormKind kind, class T>
FASTPRUNE_MULTIVERSION void add_to_columns(double* __restrict__ sums, const T* __restrict__ x,
                                           int64_t n, double p) {
  for (int64_t c = 0; c < n; ++c) {
    sums[c] = norm_join<kind>(sums[c], norm_term<kind>(static_cast<double>(x[c]), p));
  }
}

// Folds the columns of each of some blocks into its first one. Lanes without a column are left out:
// to join them would change no bit.
template <NormKind kind>
void fold_columns(double* sums, int64_t blocks, int64_t width) {
  const int64_t lanes = std::min<int64_t>(width, kNormLanes);
  for (int64_t b = 0; lanes < width && b < blocks; ++b) {
    double* x = sums + b * width;
    for (int64_t c = lanes; c < width; ++c) {
      x[c % kNormLanes] = norm_join<kind>(x[c % kNormLanes], x[c]);
    }
  }
  for (int64_t half = kNormLanes / 2; half > 0; half /= 2) {
    const int64_t pairs = std::min(half, lanes - half);
    for (int64_t b = 0; pairs > 0 && b < blocks; ++b) {
      double* x = sums + b * width;
      for (int64_t l = 0; l < pairs; ++l) x[l] = norm_join<kind>(x[l], x[l + half]);
    }
  }
}

// The norms of blocks of so many entries, from their folded sums.
template <NormKind kind>
FASTPRUNE_MULTIVERSION void finish_norms(const double* __restrict__ sums, int64_t blocks,
                                         int64_t width, int64_t entries, double p,
                                         double* __restrict__ norms) {
  for (int64_t b = 0; b < blocks; ++b) norms[b] = mean_norm<kind>(sums[b * width], entries, p);
}

template <NormKind kind, class T>
void norms_of_blocks(const T* data, const BlockGrid& grid, double p, double* norms) {
  const int64_t across = grid.across();
  const int64_t together = std::clamp<int64_t>(kColumns / grid.width, 1, across);
  const int64_t groups = (across + together - 1) / together;
  const int64_t tasks = grid.down() * groups;
  const int64_t workers = worker_count(tasks, grid.rows * grid.cols);
  const bool large = grid.count() * static_cast<int64_t>(sizeof(double)) >= kFreshPagesFrom;
  const int64_t step = std::max<int64_t>(1, kPiece / together);
  for_each_worker(workers, tasks, [&](int64_t, int64_t first, int64_t last) {
    std::vector<double> sums(std::min(together * grid.width, grid.cols));
    // Of neighbouring blocks of one width, whose columns begin at `from`.
    const auto reduce = [&](int64_t from, int64_t blocks, int64_t width, int64_t height,
                            double* result) {
      fold_columns<kind>(sums.data() + from, blocks, width);
      finish_norms<kind>(sums.data() + from, blocks, width, height * width, p, result);
    };
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
      double* result = norms + down * across + begin;
      if (large && (task - first) % step == 0) {
        const int64_t results = std::min(step * together, grid.count() - (result - norms));
        populate_pages(result, results * static_cast<int64_t>(sizeof(double)));
      }
      const int64_t whole = columns / left.width;  // the last one may be narrower
      reduce(0, whole, left.width, left.height, result);
      if (whole < end - begin) {
        reduce(whole * left.width, 1, right.width, left.height, result + whole);
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
