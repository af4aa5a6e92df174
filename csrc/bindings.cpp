// fastprune._C: what the build is, and hooks through which the tests reach selection.h. Importing
// it registers the operators.
#include <torch/extension.h>

#include <cstring>
#include <string>
#include <vector>

#include "selection.h"
#include "test_hooks.h"

namespace fastprune {
namespace {

#ifdef FASTPRUNE_WITH_CUDA
constexpr bool kWithCuda = true;
#else
constexpr bool kWithCuda = false;
#endif

py::dict build_info() {
  py::dict info;
  info["cuda"] = kWithCuda;
  info["torch"] = TORCH_VERSION;
  info["compiler"] = __VERSION__;
  return info;
}

template <class F>
uint64_t key_of(uint64_t bits, bool largest) {
  return rank_key<F>(static_cast<typename F::Bits>(bits), largest ? max_key<F>() : 0);
}

uint64_t rank_key_of(const std::string& format, uint64_t bits, bool largest) {
  if (format == "float16") return key_of<Fp16>(bits, largest);
  if (format == "bfloat16") return key_of<Bf16>(bits, largest);
  if (format == "float32") return key_of<Fp32>(bits, largest);
  if (format == "float64") return key_of<Fp64>(bits, largest);
  throw py::value_error("unknown format " + format);
}

std::vector<std::pair<int, int>> digits_of(int key_bits, int digit_bits) {
  std::vector<std::pair<int, int>> digits;
  for (int pass = 0; pass < digit_passes(key_bits, digit_bits); ++pass) {
    const Digit d = digit_of_pass(key_bits, digit_bits, pass);
    digits.emplace_back(d.shift, d.bits);
  }
  return digits;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Native part of fastprune. Importing it registers torch.ops.fastprune.";
  m.def("build_info", &build_info, "What this build was made with.");
  m.def("_rank_key", &rank_key_of, py::arg("format"), py::arg("bits"), py::arg("largest") = false);
  m.def("_digits", &digits_of, py::arg("key_bits"), py::arg("digit_bits"));
  m.def("_force_fallback",
        [](bool force) { test_hooks().misled = force ? Misled::kToLowest : Misled::kNot; });
  m.def("_force_fallback_from_above",
        [](bool force) { test_hooks().misled = force ? Misled::kToHighest : Misled::kNot; });
  m.def("_force_overflow", [](bool force) { test_hooks().overflow = force; });
  m.def("_watch_fallbacks", [](bool watch) { test_hooks().watch = watch; });
  m.def("_fallbacks", [] { return test_hooks().fallbacks; });
  m.def("_budget",
        [](double fraction, int64_t active) { return budget(Amount{false, 0, fraction}, active); });
}

}  // namespace fastprune
