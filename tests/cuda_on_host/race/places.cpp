#include "places.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <vector>

extern "C" char __ehdr_start, _end;  // by the linker

namespace cuda_on_host::race {
namespace {

std::string name_of(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

std::string library() {
  Dl_info info;
  return dladdr(&__ehdr_start, &info) != 0 ? info.dli_fname : "";
}

// One addr2line for all look-ups: to start it and have it read the library takes longer than they
// do.
class Addr2line {
 public:
  Addr2line() {
    int to[2], from[2];
    if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0) return;
    const std::string file = library();
    const char* arguments[] = {"addr2line", "-a", "-i", "-e", file.c_str(), nullptr};
    posix_spawn_file_actions_t streams;
    posix_spawn_file_actions_init(&streams);
    posix_spawn_file_actions_adddup2(&streams, to[0], 0);
    posix_spawn_file_actions_adddup2(&streams, from[1], 1);
    pid_t child;
    const bool started = posix_spawnp(&child, arguments[0], &streams, nullptr,
                                      const_cast<char**>(arguments), environ) == 0;
    posix_spawn_file_actions_destroy(&streams);
    close(to[0]);
    close(from[1]);
    questions_ = fdopen(to[1], "w");
    answers_ = fdopen(from[0], "r");
    runs_ = started && questions_ != nullptr && answers_ != nullptr;
  }

  // What it says of an address: a line for each inlined function, innermost first.
  std::vector<std::string> lines(uint32_t address) {
    std::vector<std::string> found;
    if (!runs_) return found;
    // It writes an address before its lines, so the second one ends those of the first.
    fprintf(questions_, "0x%x\n0x0\n", address);
    fflush(questions_);
    char line[4096];
    int addresses = 0;
    while (fgets(line, sizeof line, answers_) != nullptr) {
      line[strcspn(line, " \n")] = 0;
      if (strncmp(line, "0x", 2) == 0) {
        ++addresses;
      } else if (addresses == 2) {
        return found;  // the one line of address 0
      } else {
        found.emplace_back(line);
      }
    }
    runs_ = false;
    return found;
  }

 private:
  FILE* questions_ = nullptr;
  FILE* answers_ = nullptr;
  bool runs_ = false;
};

// The innermost line that is not the emulator's, of a call's return address.
std::string look_up(uint32_t offset) {
  static Addr2line* const addr2line = new Addr2line;  // ends with this process
  const std::vector<std::string> lines = addr2line->lines(offset - 1);
  for (const std::string& line : lines) {
    if (line.find("/cuda_on_host/") == std::string::npos) return name_of(line);
  }
  return lines.empty() ? "?" : name_of(lines[0]);
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
