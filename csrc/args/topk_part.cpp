#include "args/topk_part.h"

#include <torch/custom_class.h>

namespace fastprune {

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
