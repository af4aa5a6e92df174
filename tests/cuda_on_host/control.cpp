// What the tests say to the model of a GPU, as operators of the library the kernels register in.
#include <torch/library.h>

#include <sstream>
#include <string>

#include "testing/hooks.h"
#include "cuda_on_host.h"

namespace {

using fastprune::Misled;
using fastprune::test_hooks;

std::string launched() {
  std::ostringstream text;
  for (const auto& [name, count] : cuda_on_host::launched()) text << name << '\t' << count << '\n';
  return text.str();
}

void set_seed(int64_t seed) {
  cuda_on_host::set_seed(static_cast<uint64_t>(seed));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fastprune_cuda_on_host, m) {
  m.def("launched() -> str", &launched);
  m.def("set_seed(int seed) -> ()", &set_seed);
  m.def("force_fallback(bool force) -> ()",
        [](bool force) { test_hooks().misled = force ? Misled::kToLowest : Misled::kNot; });
  m.def("force_fallback_from_above(bool force) -> ()",
        [](bool force) { test_hooks().misled = force ? Misled::kToHighest : Misled::kNot; });
  m.def("force_overflow(bool force) -> ()", [](bool f) { test_hooks().overflow = f; });
  m.def("watch_fallbacks(bool watch) -> ()", [](bool w) { test_hooks().watch = w; });
  m.def("fallbacks() -> int", [] { return test_hooks().fallbacks; });
}
