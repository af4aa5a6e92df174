// Packed masks: one bit an entry, 1 where the entry is kept. Each row of a matrix takes whole
// bytes; entry c of a row is bit c % 8 of its byte c / 8, as numpy.packbits(bitorder="little")
// packs by row. What CPU, CUDA and the argument checks share. Free of ATen, as keys.h is.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace fastprune {

// Bytes of a row of so many entries. T is an integer, or a symbolic one.
template <class T>
FASTPRUNE_HD constexpr T packed_bytes(const T& cols) {
  return (cols + 7) / 8;
}

// The rows of a contiguous tensor whose mask is packed.
struct PackedRows {
  int64_t cols;
  int64_t bytes;  // of the mask
};

// Rows that fill their bytes follow each other without gaps, as one row does.
FASTPRUNE_HD constexpr PackedRows packed_rows(int64_t rows, int64_t cols) {
  if (rows == 1 || cols % 8 == 0) return {rows * cols, packed_bytes(rows * cols)};
  return {cols, packed_bytes(cols)};
}

// What a byte says of its entries: bit j of the result is entry `first` + j of the byte.
FASTPRUNE_HD constexpr unsigned kept_from(uint8_t byte, int first) {
  return static_cast<unsigned>(byte) >> first;
}

// A value that is not kept becomes +0. Selected as bits, so that a kept one stays what it is.
template <class Bits>
FASTPRUNE_HD constexpr Bits keep_if(bool kept, Bits value) {
  return kept ? value : Bits{0};
}

}  // namespace fastprune
