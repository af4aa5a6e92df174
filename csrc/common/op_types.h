// Argument and result types of the operators in ops.cpp.
#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Scalar.h>

#include <optional>
#include <tuple>
#include <vector>

namespace fastprune {

using ScalarList = at::ArrayRef<at::Scalar>;
using OptionalTensorList = c10::List<std::optional<at::Tensor>>;
using TensorPair = std::tuple<at::Tensor, at::Tensor>;
using TensorLists = std::tuple<std::vector<at::Tensor>, std::vector<at::Tensor>>;

}  // namespace fastprune
