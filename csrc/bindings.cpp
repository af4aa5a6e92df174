// fastprune._C: facts about the build, the functions of dispatch/python.h, the packing of masks,
// and hooks for tests. Importing it registers the operators.
#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include <string>
#include <utility>
#include <vector>

#include "common/keys.h"
#include "common/selection.h"
#include "cpu/elementwise/pack.h"
#include "cpu/util/multiversion.h"
#include "dispatch/python.h"
#include "testing/hooks.h"

namespace fastprune {
namespace {

#ifdef FASTPRUNE_WITH_CUDA
constexpr bool kWithCuda = true;
#else
constexpr bool kWithCuda = false;
#endif

std::string compiler() {
#ifdef __clang__
  return __VERSION__;  // names itself
#else
  return std::string("GCC ") + __VERSION__;
#endif
}

// The versions in which the CPU kernels were compiled, the widest first; which of them the loader
// takes on this machine; and why there is but one.
void add_cpu_versions(py::dict& info) {
  std::vector<std::string> compiled{"baseline"};
  std::string used = "baseline";
#ifdef FASTPRUNE_HAS_MULTIVERSION
  compiled = {"x86-64-v4", "x86-64-v3", "baseline"};
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) {
    used = "x86-64-v4";
  } else if (__builtin_cpu_supports("x86-64-v3")) {
    used = "x86-64-v3";
  }
#endif
  info["cpu_versions"] = compiled;
  info["cpu_version_used"] = used;
  info["plain_because"] = FASTPRUNE_PLAIN_BECAUSE;
}

py::dict build_info() {
  py::dict info;
  info["cuda"] = kWithCuda;
  info["torch"] = TORCH_VERSION;
  info["compiler"] = compiler();
  add_cpu_versions(info);
  return info;
}

template <class Fn>
auto with_format(const std::string& format, const Fn& fn) {
  if (format == "float16") return fn(Fp16{});
  if (format == "bfloat16") return fn(Bf16{});
  if (format == "float32") return fn(Fp32{});
  if (format == "float64") return fn(Fp64{});
  throw py::value_error("unknown format " + format);
}

uint64_t rank_key_of(const std::string& format, uint64_t bits, bool largest) {
  return with_format(format, [&](auto f) -> uint64_t {
    using F = decltype(f);
    return rank_key<F>(static_cast<typename F::Bits>(bits), largest ? max_key<F>() : 0);
  });
}

bool raw_key_is_below(const std::string& format, uint64_t bits, uint64_t bound, bool largest) {
  return with_format(format, [&](auto f) {
    using F = decltype(f);
    using Key = typename F::Key;
    const Key flip = largest ? max_key<F>() : 0;
    return raw_key<F>(static_cast<typename F::Bits>(bits), flip) <
           raw_bound<F>(static_cast<Key>(bound), flip);
  });
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
  PyModule_AddFunctions(m.ptr(), python_functions());
  register_product_nodes();
  m.def("pack", &cpu::pack, py::arg("mask"), py::call_guard<py::gil_scoped_release>(),
        "Of a plain mask on the CPU: the packed mask, and whether all entries are 0 or 1.");
  m.def("_rank_key", &rank_key_of, py::arg("format"), py::arg("bits"), py::arg("largest") = false);
  m.def("_raw_key_is_below", &raw_key_is_below, py::arg("format"), py::arg("bits"),
        py::arg("bound"), py::arg("largest") = false);
  m.def("_digits", &digits_of, py::arg("key_bits"), py::arg("digit_bits"));
  define_test_hooks(
      [&](const char* name, auto hook) { m.def(("_" + std::string(name)).c_str(), hook); });
  m.def("_max_key", [](const std::string& format) -> uint64_t {
    return with_format(format, [](auto f) -> uint64_t { return max_key<decltype(f)>(); });
  });
  m.def("_sample_ranks",
        [](const py::object& amount, int64_t total, double stretch, int64_t active, double sigmas) {
          const bool is_count = py::isinstance<py::int_>(amount);
          const Amount wanted{is_count, is_count ? amount.cast<int64_t>() : 0,
                              is_count ? 0.0 : amount.cast<double>()};
          const SampleRanks ranks = sample_ranks(wanted, total, stretch, active, sigmas);
          return std::make_tuple(ranks.low, ranks.pivot, ranks.high);
        });
  m.def("_budget",
        [](double fraction, int64_t active) { return budget(Amount{false, 0, fraction}, active); });
}

}  // namespace fastprune
