// Operators by which tests control the emulator, in the library that the kernels register in.
#include <ATen/ops/ones.h>
#include <torch/library.h>

#include <sstream>
#include <string>

#include "args/fresh.h"
#include "args/topk_part.h"
#include "cuda_on_host.h"
#include "testing/hooks.h"

namespace {

std::string launched() {
  std::ostringstream text;
  for (const auto& [name, count] : cuda_on_host::launched()) text << name << '\t' << count << '\n';
  return text.str();
}

// A barrier or fence that orders nothing from now on; see race/hooks.h.
void drop(std::string place) {
  cuda_on_host::race::drop(place);
}

__global__ void read_kernel(const int64_t* p, int64_t* out) {
  *out = *p;
}

// A kernel reads what csrc allocates for kernels to write: before anybody wrote there, or after an
// operator of torch's did.
void read_fresh_memory(bool strided, std::string written_by) {
  at::Tensor memory = strided ? fastprune::fresh_strided({1}, {1}, at::kLong, at::kCPU)
                              : fastprune::fresh({1}, at::kLong, at::kCPU);
  if (written_by == "zero_") memory.zero_();
  if (written_by == "copy_") memory.copy_(at::ones({1}, at::kLong));
  int64_t out = 0;
  cuda_on_host::run("read_kernel", &read_kernel, 1, 1, 0, memory.const_data_ptr<int64_t>(), &out);
}

void set_seed(int64_t seed) {
  cuda_on_host::set_seed(static_cast<uint64_t>(seed));
}

}  // namespace

// Done by the library that has the operators' schemas.
void fastprune::define_topk_part() {}

TORCH_LIBRARY_FRAGMENT(fastprune_cuda_on_host, m) {
  m.def("launched() -> str", &launched);
  m.def("set_seed(int seed) -> ()", &set_seed);
  m.def("drop(str place) -> ()", &drop);
  m.def("read_fresh_memory(bool strided, str written_by) -> ()", &read_fresh_memory);
  fastprune::define_test_hooks([&](const char* name, auto hook) { m.def(name, hook); });
}
