#include "args/topk_part.h"

#include <torch/custom_class.h>

namespace fastprune {

// A call out of order would read what is not there.
void TopkPart::expect(const char* what, bool holds, const char* expected) const {
  TORCH_CHECK(holds, "topk_part: expected ", expected, " before ", what, "()");
}

void TopkPart::expect_stored(const char* what, bool stored) const {
  expect(what, phase_ < Phase::kFixed, "no fixup()");
  expect(what, !stored || phase_ == Phase::kSwept, "a sweep() that had room");
}

std::tuple<int64_t, int64_t, int64_t, bool> TopkPart::sweep(int64_t lo, int64_t pivot, int64_t hi) {
  expect("sweep", phase_ < Phase::kFixed, "no fixup()");
  TORCH_CHECK(0 <= lo && lo <= pivot && pivot <= hi,
              "topk_part: expected 0 <= lo <= pivot <= hi, got ", lo, ", ", pivot, " and ", hi);
  const auto result = do_sweep(lo, pivot, hi);
  phase_ = std::get<3>(result) ? Phase::kSwept : Phase::kOverflowed;
  return result;
}

at::Tensor TopkPart::histogram(int64_t lo, int64_t shift, bool stored) {
  expect_stored("histogram", stored);
  TORCH_CHECK(lo >= 0 && 0 <= shift && shift < 64, "topk_part: expected lo >= 0 and shift < 64, ",
              "got ", lo, " and ", shift);
  return do_histogram(lo, shift, stored);
}

at::Tensor TopkPart::tie_histogram(int64_t key, int64_t lo, int64_t shift, bool stored,
                                   std::vector<at::Tensor> places) {
  expect_stored("tie_histogram", stored);
  TORCH_CHECK(key >= 0 && lo >= 0 && 0 <= shift && shift < 64,
              "topk_part: expected key >= 0, lo >= 0 and shift < 64, got ", key, ", ", lo, " and ",
              shift);
  TORCH_CHECK(places.size() == tensors_, "topk_part: expected places of ", tensors_,
              " tensors, got ", places.size());
  return do_tie_histogram(key, lo, shift, stored, places);
}

void TopkPart::fixup(int64_t threshold, int64_t below, int64_t due, bool stored) {
  expect_stored("fixup", stored);
  TORCH_CHECK(threshold >= 0 && below >= 0 && due >= 0, "topk_part: expected numbers from 0 on, ",
              "got ", threshold, ", ", below, " and ", due);
  do_fixup(threshold, below, due, stored);
  phase_ = Phase::kFixed;
}

std::vector<at::Tensor> TopkPart::masks() {
  expect("masks", phase_ == Phase::kFixed, "fixup(), and no other masks(),");
  phase_ = Phase::kTaken;
  return do_masks();
}

void define_topk_part() {
  static const auto once = torch::class_<TopkPart>("fastprune", "TopkPart")
                               .def("sample", &TopkPart::sample)
                               .def("sweep", &TopkPart::sweep)
                               .def("histogram", &TopkPart::histogram)
                               .def("tie_histogram", &TopkPart::tie_histogram)
                               .def("fixup", &TopkPart::fixup)
                               .def("masks", &TopkPart::masks);
  static_cast<void>(once);
}

}  // namespace fastprune
