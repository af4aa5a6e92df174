#include "places.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <map>

extern "C" char __ehdr_start, _end;  // by the linker

namespace cuda_on_host::race {
namespace {

std::string library() {
  Dl_info info;
  return dladdr(&__ehdr_start, &info) != 0 ? info.dli_fname : "";
}

// What addr2line says of a call's return address: a line for each inlined function, innermost
// first.
std::string look_up(uint32_t offset) {
  char command[4200];
  snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%x 2>/dev/null", library().c_str(),
           offset - 1);
  FILE* pipe = popen(command, "r");
  if (pipe == nullptr) return "?";
  std::string innermost = "?";
  bool found = false;
  char line[4096];
  while (fgets(line, sizeof line, pipe) != nullptr) {
    line[strcspn(line, " \n")] = 0;
    const bool own = strstr(line, "/cuda_on_host/") != nullptr;
    const char* slash = strrchr(line, '/');
    const std::string text = slash != nullptr ? slash + 1 : line;
    if (innermost == "?") innermost = text;
    if (!own && !found) {
      innermost = text;
      found = true;
    }
  }
  pclose(pipe);
  return innermost;
}

}  // namespace

bool is_of_library(uintptr_t address) {
  return address - reinterpret_cast<uintptr_t>(&__ehdr_start) <
         static_cast<uintptr_t>(&_end - &__ehdr_start);
}

uint32_t offset_in_library(const void* address) {
  return static_cast<uint32_t>(static_cast<const char*>(address) - &__ehdr_start);
}

std::string line_at(uint32_t offset) {
  static std::map<uint32_t, std::string> known;
  std::string& text = known[offset];
  if (text.empty()) text = look_up(offset);
  return text;
}

}  // namespace cuda_on_host::race
