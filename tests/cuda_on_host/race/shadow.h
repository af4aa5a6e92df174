// Shadow memory: for each 8 bytes the accesses of this launch that a later one may race with.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <unordered_map>
#include <vector>

#include "order.h"

namespace cuda_on_host::race {

enum Kind : uint8_t { kRead = 0, kWrite = 1, kAtomic = 2, kBlockScope = 4 };

// Accesses of lanes of one warp, at one clock, of one kind, to the same bytes.
struct Slot {
  uint32_t warp;
  Clock clock;
  uint32_t lanes;
  uint32_t pc;    // of the first, as an offset in this library
  uint8_t bytes;  // a bit for each of the 8
  uint8_t kind;
};

struct Cell {
  static constexpr uint32_t kInline = 2;
  // Blocks run one after another and do not know of each other, so a cell that all read gets a slot
  // for each warp of the grid. The oldest give way: of many equal reads few are enough.
  static constexpr uint32_t kMost = 256;

  Slot first[kInline];
  Slot* more;
  uint32_t count;
  uint32_t capacity;  // of `more`

  Slot& at(uint32_t i) { return i < kInline ? first[i] : more[i - kInline]; }
};

class Shadow {
 public:
  void begin_launch() {
    ++launch_;
    chunks_.clear();
    left_ = 0;
  }

  Cell& cell(uintptr_t address) {
    const uintptr_t base = address / kPage * kPage;
    Page* page = recent_[base / kPage % kRecent];
    if (page == nullptr || page->base != base || page->launch != launch_) page = find(base);
    return page->cells[(address - base) / 8];
  }

  Slot& append(Cell& cell) {
    if (cell.count == Cell::kMost) {
      std::memmove(cell.more, cell.more + 1, (Cell::kMost - Cell::kInline - 1) * sizeof(Slot));
      return cell.at(Cell::kMost - 1);
    }
    if (cell.count >= Cell::kInline + cell.capacity) grow(cell);
    return cell.at(cell.count++);
  }

 private:
  static constexpr uintptr_t kPage = 4096;
  static constexpr size_t kRecent = 256;

  struct Page {
    uintptr_t base;
    uint64_t launch;
    Cell* cells;
  };

  Page* find(uintptr_t base) {
    Page& page = pages_[base];
    constexpr size_t bytes = kPage / 8 * sizeof(Cell);
    if (page.cells == nullptr) {
      void* map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (map == MAP_FAILED) throw std::bad_alloc();
      page = {base, launch_, static_cast<Cell*>(map)};
    }
    if (page.launch != launch_) {
      std::memset(static_cast<void*>(page.cells), 0, bytes);
      page.launch = launch_;
    }
    return recent_[base / kPage % kRecent] = &page;
  }

  void grow(Cell& cell) {
    const uint32_t capacity = cell.capacity == 0 ? 6 : 2 * cell.capacity;
    if (left_ < capacity) {
      left_ = std::max<size_t>(kChunk, capacity);
      chunks_.push_back(std::make_unique<Slot[]>(left_));
    }
    left_ -= capacity;
    Slot* more = chunks_.back().get() + left_;
    std::copy(cell.more, cell.more + cell.capacity, more);
    cell.more = more;
    cell.capacity = capacity;
  }

  static constexpr size_t kChunk = size_t{1} << 15;  // slots

  uint64_t launch_ = 0;
  std::unordered_map<uintptr_t, Page> pages_;  // its elements stay where they are
  Page* recent_[kRecent] = {};
  std::vector<std::unique_ptr<Slot[]>> chunks_;  // where cells of this launch overflow to
  size_t left_ = 0;                              // slots of the last chunk
};

}  // namespace cuda_on_host::race
