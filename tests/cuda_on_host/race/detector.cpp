#include "detector.h"

#include <sys/mman.h>

#include <new>

#include "places.h"
#include "stack.h"

namespace cuda_on_host::race {

thread_local Observer* running __attribute__((tls_model("initial-exec"))) = nullptr;
Detector detector;

namespace {

constexpr size_t kStacks = size_t{1} << 30;  // address space, taken as it is used
char* stacks = nullptr;
size_t stacks_used = 0;

bool is_on_stack(uintptr_t address) {
  return address - reinterpret_cast<uintptr_t>(stacks) < stacks_used;
}

std::string name_of(uint8_t kind) {
  if ((kind & kAtomic) == 0) return kind & kWrite ? "write" : "read";
  return kind & kWrite ? "atomic" : "volatile read";
}

}  // namespace

// ---- what is ordered ----

void Detector::begin_launch(unsigned block_threads) {
  shadow_.begin_launch();
  carried_.clear();
  reported_.clear();
  reports_.clear();
  block_threads_ = block_threads;
  warps_ = (block_threads + 31) / 32;
  if (threads_.size() < block_threads) threads_.resize(block_threads);
}

std::string Detector::end_launch() {
  std::string text;
  for (const std::string& report : reports_) text += (text.empty() ? "" : "; ") + report;
  reports_.clear();
  for (const auto& [begin, variable] : shared_) written_.release(begin);
  shared_.clear();
  return text;
}

void Detector::begin_block(uint32_t block) {
  block_ = block;
  floor_ = 1;
  for (uint32_t i = 0; i < block_threads_; ++i) {
    threads_[i] = Observer();
    threads_[i].linear = i;
    threads_[i].lane = i % 32;
    threads_[i].warp = block * warps_ + i / 32;
    threads_[i].clock = floor_;
  }
}

bool Detector::is_dropped(const Site& site) const {
  if (dropped_.empty()) return false;
  const std::string place = std::string(site.file) + ":" + std::to_string(site.line);
  return place.size() > dropped_.size() &&
         place.compare(place.size() - dropped_.size(), dropped_.size(), dropped_) == 0 &&
         place[place.size() - dropped_.size() - 1] == '/';
}

void Detector::block_barrier(const Site& site) {
  if (is_dropped(site)) return;
  Known known;
  for (uint32_t i = 0; i < block_threads_; ++i) {
    floor_ = std::max(floor_, threads_[i].clock);
    known = join(known, threads_[i].known);
  }
  ++floor_;
  for (uint32_t i = 0; i < block_threads_; ++i) {
    threads_[i].clock = floor_;
    threads_[i].known = known;
    std::memset(threads_[i].lanes, 0, sizeof threads_[i].lanes);
  }
}

void Detector::warp_barrier(unsigned first, unsigned lanes, const Site& site) {
  if (is_dropped(site)) return;
  Observer* warp = &threads_[first];
  Known known;
  Clock latest = 0;
  Clock brought[32] = {};
  for (unsigned left = lanes; left != 0; left &= left - 1) {
    const Observer& thread = warp[__builtin_ctz(left)];
    latest = std::max(latest, thread.clock);
    known = join(known, thread.known);
    for (unsigned i = 0; i < 32; ++i) brought[i] = std::max(brought[i], thread.lanes[i]);
    brought[thread.lane] = std::max(brought[thread.lane], thread.clock);
  }
  for (unsigned left = lanes; left != 0; left &= left - 1) {
    Observer& thread = warp[__builtin_ctz(left)];
    thread.clock = latest + 1;
    thread.known = known;
    std::memcpy(thread.lanes, brought, sizeof brought);
  }
}

void Detector::fence(Observer& thread, Scope scope, const Site& site) {
  if (is_dropped(site)) return;
  const int widest = static_cast<int>(scope);
  for (int s = 0; s <= widest; ++s) {
    thread.known = join(thread.known, thread.pending[s]);
    thread.pending[s] = nullptr;
  }
  auto now =
      thread.known ? std::make_shared<Knowledge>(*thread.known) : std::make_shared<Knowledge>();
  OfBlock& own = now->blocks[block_];
  own.floor = std::max(own.floor, floor_);
  for (uint32_t i = 0; i < 32; ++i) {
    Clock& up_to = own.up_to[thread.linear / 32 * 32 + i];
    up_to = std::max(up_to, thread.lanes[i]);
  }
  own.up_to[thread.linear] = thread.clock;
  for (int s = 0; s <= widest; ++s) thread.released[s] = now;
  ++thread.clock;
}

void Detector::pass(Observer& thread, uintptr_t address, Scope scope, bool reads, bool writes) {
  const bool device = scope == Scope::kDevice;
  const auto found = carried_.find(address);
  if (found != carried_.end()) {
    Carried& here = found->second;
    if (reads) {
      Known& wide = thread.pending[static_cast<int>(Scope::kDevice)];
      Known& narrow = thread.pending[static_cast<int>(Scope::kBlock)];
      if (device) wide = join(wide, here.device);
      narrow = join(narrow, here.block[block_]);
    }
    if (writes && !reads) here = {};
  }
  if (!writes) return;
  const Known& any = thread.released[static_cast<int>(Scope::kBlock)];
  if (!any) return;
  Carried& here = carried_[address];
  if (device) here.device = join(here.device, thread.released[static_cast<int>(Scope::kDevice)]);
  here.block[block_] = join(here.block[block_], any);
}

// The lanes of a slot whose accesses the thread does not know of.
uint32_t Detector::unordered(const Slot& slot, const Observer& thread) const {
  const uint32_t its_block = block_of(slot);
  if (its_block == block_ && slot.clock < floor_) return 0;
  uint32_t lanes = slot.lanes;
  if (slot.warp == thread.warp) {
    lanes &= ~(1u << thread.lane);
    for (uint32_t left = lanes; left != 0; left &= left - 1) {
      const int lane = __builtin_ctz(left);
      if (thread.lanes[lane] >= slot.clock) lanes &= ~(1u << lane);
    }
  }
  if (lanes == 0 || !thread.known) return lanes;
  const auto found = thread.known->blocks.find(its_block);
  if (found == thread.known->blocks.end()) return lanes;
  if (slot.clock < found->second.floor) return 0;
  for (uint32_t left = lanes; left != 0; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    const auto up_to = found->second.up_to.find(slot.warp % warps_ * 32 + lane);
    if (up_to != found->second.up_to.end() && slot.clock <= up_to->second) lanes &= ~(1u << lane);
  }
  return lanes;
}

// ---- accesses ----

// Atomics on the same bytes do not race, but one of block scope counts in its block alone.
bool Detector::conflicts(const Slot& slot, uint8_t bytes, uint8_t kind) const {
  if (((slot.kind | kind) & kWrite) == 0) return false;
  if ((slot.kind & kind & kAtomic) == 0 || slot.bytes != bytes) return true;
  return ((slot.kind | kind) & kBlockScope) != 0 && block_of(slot) != block_;
}

void Detector::access_cell(Observer& thread, uintptr_t at, uint8_t bytes, uint8_t kind,
                           const void* pc) {
  Cell& cell = shadow_.cell(at);
  const uint32_t self = 1u << thread.lane;
  Slot* same = nullptr;
  for (uint32_t i = 0; i < cell.count;) {
    Slot& slot = cell.at(i);
    if ((slot.bytes & bytes) == 0) {
      ++i;
      continue;
    }
    const bool equal = slot.warp == thread.warp && slot.clock == thread.clock &&
                       slot.bytes == bytes && slot.kind == kind;
    if (equal && (slot.lanes & self) != 0) return;
    if (const uint32_t lanes = unordered(slot, thread)) {
      if (conflicts(slot, bytes, kind)) {
        report(slot, lanes, thread, at / 8 * 8 + __builtin_ctz(slot.bytes & bytes), kind,
               offset_in_library(pc));
      }
      if (equal) same = &slot;
      ++i;
      continue;
    }
    // Known to this thread: whoever races with it races with this access, if that is as strong.
    const bool covers = (slot.bytes & ~bytes) == 0 && (slot.kind & kWrite) <= (kind & kWrite) &&
                        (slot.kind & kAtomic) >= (kind & kAtomic);
    if (covers && !equal) {
      slot = cell.at(--cell.count);
      if (same == &cell.at(cell.count)) same = &slot;
      continue;
    }
    if (equal) same = &slot;
    ++i;
  }
  if (same != nullptr) {
    same->lanes |= self;
  } else {
    shadow_.append(cell) = {thread.warp, thread.clock, self, offset_in_library(pc), bytes, kind};
  }
}

void Detector::expect_written(const Observer& thread, uintptr_t begin, size_t bytes,
                              const void* pc) {
  const size_t unwritten = written_.unwritten(begin, bytes);
  // A copy of a struct reads its padding, too, which nobody writes.
  const bool is_padding = unwritten < bytes && shared_variable(begin) != nullptr;
  if (unwritten == 0 || is_padding || reports_.size() == kMostReports) return;
  const uint32_t place = offset_in_library(pc);
  if (!reported_.insert({0, place}).second) return;
  reports_.push_back("read of " + where(begin) + " that nobody wrote, by " +
                     who(thread.warp, thread.lane) + " at " + line_at(place));
}

void Detector::access(Observer& thread, uintptr_t begin, size_t bytes, uint8_t kind, const void* pc,
                      bool updates) {
  if (is_on_stack(begin) || is_of_library(begin)) return;
  const bool writes = (kind & kWrite) != 0;
  if (!writes || updates) expect_written(thread, begin, bytes, pc);
  if (writes) written_.write(begin, bytes);
  for (uintptr_t at = begin, end = begin + bytes; at < end;) {
    const uintptr_t next = std::min(end, at / 8 * 8 + 8);
    const auto mask = static_cast<uint8_t>(((1u << (next - at)) - 1) << at % 8);
    access_cell(thread, at, mask, kind, pc);
    at = next;
  }
}

void Detector::forget(uintptr_t begin, size_t bytes, const char* name) {
  shared_[begin] = {bytes, name};
  written_.allocate(begin, bytes);
  // Guards lie between shared variables, so none shares a cell with another.
  for (uintptr_t at = begin / 8 * 8; at < begin + bytes; at += 8) shadow_.cell(at).count = 0;
  for (auto it = carried_.begin(); it != carried_.end();) {
    it = it->first - begin < bytes ? carried_.erase(it) : std::next(it);
  }
}

// ---- reports ----

// That which an address is in.
const Detector::Shared::value_type* Detector::shared_variable(uintptr_t address) const {
  const auto next = shared_.upper_bound(address);
  if (next == shared_.begin()) return nullptr;
  const auto& variable = *std::prev(next);
  return address - variable.first < variable.second.first ? &variable : nullptr;
}

std::string Detector::where(uintptr_t address) const {
  const auto* variable = shared_variable(address);
  if (variable == nullptr) return "global memory";
  return "shared '" + std::string(variable->second.second) + "' + " +
         std::to_string(address - variable->first);
}

std::string Detector::who(uint32_t warp, uint32_t lane) const {
  return "block " + std::to_string(warp / warps_) + " thread " +
         std::to_string(warp % warps_ * 32 + lane);
}

void Detector::report(const Slot& slot, uint32_t lanes, const Observer& thread, uintptr_t at,
                      uint8_t kind, uint32_t pc) {
  if (reports_.size() == kMostReports || !reported_.insert({slot.pc, pc}).second) return;
  const int lane = __builtin_ctz(lanes);
  reports_.push_back("race on " + where(at) + ": " + name_of(kind) + " by " +
                     who(thread.warp, thread.lane) + " at " + line_at(pc) + ", " +
                     name_of(slot.kind) + " by " + who(slot.warp, lane) + " at " +
                     line_at(slot.pc));
}

// ---- hooks ----

Observer* pause() {
  Observer* thread = running;
  running = nullptr;
  return thread;
}
void resume(Observer* thread) {
  running = thread;
}

void begin_launch(unsigned block_threads) {
  detector.begin_launch(block_threads);
}
std::string end_launch() {
  running = nullptr;
  return detector.end_launch();
}
void begin_block(uint64_t block) {
  detector.begin_block(static_cast<uint32_t>(block));
}
void begin_thread(unsigned linear) {
  running = &detector.thread(linear);
}
void end_thread() {
  running = nullptr;
}
void block_barrier(const Site& site) {
  detector.block_barrier(site);
}
void warp_barrier(unsigned first, unsigned lanes, const Site& site) {
  detector.warp_barrier(first, lanes, site);
}
void fence(Scope scope, const Site& site) {
  if (running != nullptr) detector.fence(*running, scope, site);
}
void read(const void* p, size_t bytes) {
  if (running == nullptr) return;
  detector.access(*running, reinterpret_cast<uintptr_t>(p), bytes, kRead,
                  __builtin_return_address(0));
}
void write(void* p, size_t bytes) {
  if (running == nullptr) return;
  detector.access(*running, reinterpret_cast<uintptr_t>(p), bytes, kWrite,
                  __builtin_return_address(0));
}
void atomic(void* p, size_t bytes, Scope scope) {
  if (running == nullptr) return;
  const auto address = reinterpret_cast<uintptr_t>(p);
  const uint8_t kind = kWrite | kAtomic | (scope == Scope::kBlock ? kBlockScope : 0);
  detector.access(*running, address, bytes, kind, __builtin_return_address(0), /*updates=*/true);
  detector.pass(*running, address, scope, /*reads=*/true, /*writes=*/true);
}
void forget(const void* p, size_t bytes, const char* name) {
  detector.forget(reinterpret_cast<uintptr_t>(p), bytes, name);
}
void drop(const std::string& place) {
  detector.drop(place);
}
void allocated(const void* p, size_t bytes) {
  detector.written().allocate(reinterpret_cast<uintptr_t>(p), bytes);
}
void released(const void* p) {
  detector.written().release(reinterpret_cast<uintptr_t>(p));
}
void written(const void* p, size_t bytes) {
  detector.written().write(reinterpret_cast<uintptr_t>(p), bytes);
}

void* map_stack(size_t bytes) {
  if (stacks == nullptr) {
    void* map = mmap(nullptr, kStacks, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) throw std::bad_alloc();
    stacks = static_cast<char*>(map);
  }
  if (stacks_used + bytes > kStacks) throw std::bad_alloc();
  return stacks + std::exchange(stacks_used, stacks_used + bytes);
}

}  // namespace cuda_on_host::race
