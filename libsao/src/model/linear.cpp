// SPDX-License-Identifier: Apache-2.0
#include "model/linear.h"

#include <ATen/ATen.h>

#include "sao/base/error.h"

namespace sao::detail {

at::Tensor apply(const Linear& linear, const at::Tensor& x) { return at::linear(x, linear.weight, linear.bias); }

ops::PackedWeight pack(const Projection& projection) {
  std::vector<at::Tensor> weights, biases;
  for (const Linear& linear : projection) {
    weights.push_back(linear.weight);
    biases.push_back(linear.bias);
  }
  return ops::PackedWeight::pack(weights, biases);
}

std::vector<at::Tensor> project(const Projection& projection, const ops::PackedWeight* packed, const at::Tensor& x,
                                at::IntArrayRef widths) {
  if (packed != nullptr) return packed->multiply(x).split_with_sizes(widths, 1);
  if (projection.size() == 1) return apply(projection[0], x).split_with_sizes(widths, 1);
  SAO_CHECK(projection.size() == widths.size());
  std::vector<at::Tensor> outputs;
  for (const Linear& linear : projection) outputs.push_back(apply(linear, x));
  return outputs;
}

void append_tensors(const Projection& projection, std::vector<at::Tensor>& list) {
  for (const Linear& linear : projection) {
    list.push_back(linear.weight);
    if (linear.bias.defined()) list.push_back(linear.bias);
  }
}

}  // namespace sao::detail
