// 2:4 both ways on the CPU: a worker takes a range of squares, a block of them at a time.
#include "cpu/nm/both.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "common/nm_both.h"
#include "cpu/nm/squares.h"
#include "cpu/util/each.h"
#include "cpu/util/fresh_pages.h"
#include "cpu/util/fusion.h"
#include "cpu/util/parallel.h"
#include "cpu/util/scaled.h"

namespace fastprune::cpu {
namespace {

constexpr int64_t kPiece = 1 << 15;  // entries between two calls that populate pages

// The squares of a block. Neighbours: row after row of all of them is contiguous in memory.
struct SquareLanes {
  int count;
  bool neighbours;
  Squares::Place at[kLanes];
};

template <class F, class M>
class BothKernel {
  using Bits = typename F::Bits;
  using Block = SquaresBlock<F, M>;

 public:
  explicit BothKernel(const EachArgs& args)
      : is_signed_(args.is_signed),
        squares_{args.shape},
        large_(args.output.work.nbytes() >= kFreshPagesFrom),
        factor_(args.factor),
        scores_(static_cast<const Bits*>(args.scores.const_data_ptr())),
        io_(args.operands<F, M>()) {}

  void operator()() const {
    const int64_t count = squares_.count();
    const int64_t blocks = (count + kLanes - 1) / kLanes;
    for_each_worker(worker_count(blocks), blocks, [&](int64_t, int64_t first, int64_t last) {
      const auto block = std::make_unique<Block>();
      int64_t populated = 0;  // rows, from the first of this worker
      for (int64_t b = first; b < last; ++b) {
        const int64_t left = count - b * kLanes;
        const SquareLanes lanes = take(b * kLanes, std::min<int64_t>(kLanes, left));
        if (large_) populated = populate(lanes, last * kLanes, populated);
        process(lanes, *block);
      }
    });
  }

 private:
  SquareLanes take(int64_t first, int64_t count) const {
    SquareLanes lanes;
    lanes.count = static_cast<int>(count);
    lanes.at[0] = squares_.place(first);
    lanes.neighbours = count == kLanes && squares_.shape.inner == 1 &&
                       lanes.at[0].column + kLanes * kSide <= squares_.shape.channels;
    if (lanes.neighbours) return lanes;
    for (int l = 1; l < lanes.count; ++l) lanes.at[l] = squares_.next(lanes.at[l - 1]);
    return lanes;
  }

  // Populates pages of rows from those of the squares on, up to those of the square `end`. Returns
  // the first row that is not.
  int64_t populate(const SquareLanes& lanes, int64_t end, int64_t populated) const {
    const int64_t row = lanes.at[lanes.neighbours ? 0 : lanes.count - 1].row;
    if (row < populated) return populated;
    const int64_t length = squares_.row_step();
    const int64_t begin = std::max(lanes.at[0].row, populated);
    const int64_t last = squares_.place(std::min(end, squares_.count()) - 1).row + kSide;
    const int64_t piece = std::max<int64_t>(row + kSide, begin + kPiece / length / kSide * kSide);
    const int64_t to = std::min(last, piece);
    populate_pages(io_, begin * length, (to - begin) * length);
    return to;
  }

  // Entry e of a square.
  int64_t entry_of(const Squares::Place& square, int e) const {
    return square.entry + e / kSide * squares_.row_step() + e % kSide * squares_.shape.inner;
  }

  template <class T>
  void load(const SquareLanes& lanes, const T* from, T (*rows)[kLanes]) const {
    if (lanes.neighbours) {
      for (int r = 0; r < kSide; ++r) {
        to_rows<T, kSide>(from + lanes.at[0].entry + r * squares_.row_step(), rows + r * kSide, 0);
      }
      return;
    }
    for (int l = 0; l < kLanes; ++l) {
      for (int e = 0; e < kSquare; ++e) {
        rows[e][l] = l < lanes.count ? from[entry_of(lanes.at[l], e)] : T{0};
      }
    }
  }

  template <class T>
  void store(const SquareLanes& lanes, const T (*rows)[kLanes], T* to) const {
    if (lanes.neighbours) {
      for (int r = 0; r < kSide; ++r) {
        from_rows<T, kSide>(rows + r * kSide, to + lanes.at[0].entry + r * squares_.row_step(), 0);
      }
      return;
    }
    for (int l = 0; l < lanes.count; ++l) {
      for (int e = 0; e < kSquare; ++e) to[entry_of(lanes.at[l], e)] = rows[e][l];
    }
  }

  void load_factor(const SquareLanes& lanes, Block& block) const {
    alignas(64) WideOf<F> along[kSide * kLanes];
    for (int r = 0; r < kSide; ++r) {
      if (lanes.neighbours) {
        const Squares::Place& place = lanes.at[0];
        factor_.read_along(place.row + r, place.column, 0, kSide * kLanes, along);
      } else {
        std::fill_n(along, kSide * kLanes, WideOf<F>{0});
        for (int l = 0; l < lanes.count; ++l) {
          const Squares::Place& place = lanes.at[l];
          factor_.read_along(place.row + r, place.column, place.inner, kSide, along + l * kSide);
        }
      }
      to_rows<WideOf<F>, kSide>(along, block.factor + r * kSide, 0);
    }
  }

  void process(const SquareLanes& lanes, Block& block) const {
    load(lanes, scores_, block.scores);
    if (factor_.exists()) {
      load_factor(lanes, block);
      set_scaled_values(block);
    } else {
      set_values(block, is_signed_);
    }
    choose_patterns(block.values, block.kept);
    if (io_.t == scores_) {
      std::memcpy(block.product, block.scores, sizeof block.scores);
    } else if (io_.product != nullptr) {
      load(lanes, io_.t, block.product);
    }
    write(block);
    store(lanes, block.mask, io_.out);
    if (io_.product != nullptr) store(lanes, block.product, io_.product);
  }

  void write(Block& block) const {
    if constexpr (can_multiply<F, M>(kFusion, /*has_old_mask=*/false)) {
      if (io_.product != nullptr) return write_squares<F, M, true>(block, io_.one);
    }
    write_squares<F, M, false>(block, io_.one);
  }

  bool is_signed_;
  Squares squares_;
  bool large_;  // the outputs
  FactorReader factor_;
  const Bits* scores_;
  MaskOperands<F, M> io_;
};

}  // namespace

void keep_both(const EachArgs& args) {
  dispatch_mask_args(
      args, [&](auto format, auto bits) { BothKernel<decltype(format), decltype(bits)>{args}(); });
}

}  // namespace fastprune::cpu
