// Packs a mask to one bit an entry, and looks on the way whether it is one of 0 and 1.
#include "cpu/elementwise/pack.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>

#include "args/fresh.h"
#include "args/mask_kind.h"
#include "common/dtypes.h"
#include "common/packed.h"
#include "cpu/elementwise/bytes_of_bits.h"
#include "cpu/elementwise/product.h"
#include "cpu/util/multiversion.h"

namespace fastprune::cpu {
namespace {

// Entries that are packed together, as bytes in between.
constexpr int64_t kPackedTogether = 4096;

// A byte an entry, 1 where it is not zero. Returns whether all are 0 or `one`. A float's `sign` is
// not looked at where the rest is zero.
template <class Bits>
FASTPRUNE_MULTIVERSION_STREAM bool truth_of(const Bits* mask, Bits one, Bits sign, uint8_t* truth,
                                            int64_t n) {
  Bits others = 0;
  for (int64_t i = 0; i < n; ++i) {
    const bool is_zero = (mask[i] & static_cast<Bits>(~sign)) == 0;
    truth[i] = !is_zero;
    others |= is_zero ? Bits{0} : static_cast<Bits>(mask[i] ^ one);
  }
  return others == 0;
}

// Returns whether all entries are 0 or `one`.
template <class Bits>
bool pack_rows(const Bits* mask, Bits one, Bits sign, int64_t count, const PackedRows& rows,
               uint8_t* packed) {
  const int64_t parts = (rows.cols + kPackedTogether - 1) / kPackedTogether;  // of a row
  const int64_t grain = std::max<int64_t>(1, kGrain / std::min(rows.cols, kPackedTogether));
  std::atomic<bool> is_binary{true};
  at::parallel_for(0, count * parts, grain, [&](int64_t begin, int64_t end) {
    uint8_t truth[kPackedTogether + 7];
    bool all = true;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / parts;
      const int64_t c = task % parts * kPackedTogether;
      const int64_t n = std::min(kPackedTogether, rows.cols - c);
      all &= truth_of(mask + row * rows.cols + c, one, sign, truth, n);
      std::memset(truth + n, 0, 7);  // a row may end within a byte
      pack_bytes(truth, packed + row * rows.bytes + c / 8, packed_bytes(n));
    }
    if (!all) is_binary = false;
  });
  return is_binary;
}

}  // namespace

std::pair<at::Tensor, bool> pack(const at::Tensor& mask) {
  const at::Tensor entries = mask.contiguous();
  const RowsAndCols shape = rows_and_cols(entries.sym_sizes());
  const int64_t rows = shape.rows.expect_int();
  const int64_t cols = shape.cols.expect_int();
  at::Tensor packed = fresh({rows, packed_bytes(cols)}, at::kByte, at::kCPU);
  bool is_binary = true;
  if (entries.numel() == 0) return {packed, is_binary};
  const PackedRows wide = packed_rows(rows, cols);
  dispatch_mask_width(entries.element_size(), [&](auto width) {
    using Bits = decltype(width);
    const bool is_float = entries.is_floating_point();
    const Bits sign = is_float ? static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1)) : Bits{0};
    is_binary = pack_rows(static_cast<const Bits*>(entries.const_data_ptr()),
                          static_cast<Bits>(one_bits(entries.scalar_type())), sign,
                          entries.numel() / wide.cols, wide, packed.mutable_data_ptr<uint8_t>());
  });
  return {packed, is_binary};
}

}  // namespace fastprune::cpu
