// Lines of the sources, from addresses of this library.
#pragma once

#include <cstdint>
#include <string>

namespace cuda_on_host::race {

// Whether an address is of this library: its variables are the emulator's, and constants.
bool is_of_library(uintptr_t address);

uint32_t offset_in_library(const void* address);

// "sweep.cuh:128": the innermost line that is not the emulator's own.
std::string line_at(uint32_t offset);

}  // namespace cuda_on_host::race
