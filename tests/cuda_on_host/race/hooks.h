// What the emulator tells the race detector. Without CUDA_ON_HOST_RACE all of it is nothing.
//
// Plain accesses of kernels come from the compiler (callbacks.cpp). load, store and atomics tell of
// theirs here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "thread.h"

namespace cuda_on_host::race {

// Blocks among which an atomic or a fence counts.
enum class Scope : uint8_t { kBlock, kDevice };

#if defined(CUDA_ON_HOST_RACE)

struct Observer;

// The running thread of a kernel; none from here on: the emulator is at work. Never inlined, as
// instrumented code would report its own accesses to the variable behind them.
Observer* pause();
void resume(Observer* thread);

// The emulator at work, in a thread of a kernel.
class Pause {
 public:
  Pause() : saved_(pause()) {}
  ~Pause() { resume(saved_); }
  Pause(const Pause&) = delete;
  Pause& operator=(const Pause&) = delete;

 private:
  Observer* saved_;
};

void begin_launch(unsigned block_threads);
// What was found since the launch began; empty if nothing was. Forgets it.
std::string end_launch();
void begin_block(uint64_t block);
void begin_thread(unsigned linear);
void end_thread();

// All threads of the block have come to a barrier, or these lanes to a __syncwarp.
void block_barrier(const Site& site);
void warp_barrier(unsigned first, unsigned lanes, const Site& site);
void fence(Scope scope, const Site& site);

void read(const void* p, size_t bytes);
void write(void* p, size_t bytes);
void atomic(void* p, size_t bytes, Scope scope);

// Shared memory of a new block, or of a variable's first use.
void forget(const void* p, size_t bytes, const char* name);

// Global memory that kernels write: of it none is written, until the host or a kernel does.
void allocated(const void* p, size_t bytes);
void released(const void* p);
void written(const void* p, size_t bytes);

// A barrier, __syncwarp or fence at this place, "topk/sweep.cuh:128", orders nothing from now on;
// the schedule still keeps it. None: an empty string.
void drop(const std::string& place);

#else

struct Pause {
  ~Pause() {}  // so that it is no unused variable
};
inline void begin_launch(unsigned) {}
inline std::string end_launch() {
  return "";
}
inline void begin_block(uint64_t) {}
inline void begin_thread(unsigned) {}
inline void end_thread() {}
inline void block_barrier(const Site&) {}
inline void warp_barrier(unsigned, unsigned, const Site&) {}
inline void fence(Scope, const Site&) {}
inline void read(const void*, size_t) {}
inline void write(void*, size_t) {}
inline void atomic(void*, size_t, Scope) {}
inline void forget(const void*, size_t, const char*) {}
inline void drop(const std::string&) {}

#endif

}  // namespace cuda_on_host::race
