// SPDX-License-Identifier: Apache-2.0
#include "model/linear.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "sao/base/error.h"

namespace sao::detail {

at::Tensor apply(const Linear& linear, const at::Tensor& x, const Dropout* dropout) {
  const at::Tensor y = ops::linear(x, linear.weight, linear.bias);
  if (!linear.adapter) return y;
  const auto& [a, b, scaling, rate] = *linear.adapter;
  at::Tensor input = x.to(a.scalar_type());
  if (dropout != nullptr && rate > 0.0) input = input * dropout_factors(*dropout, linear.name, rate, input);
  return at::add(y, ops::linear(ops::linear(input, a), b), scaling).to(y.scalar_type());
}

at::Tensor merged_weight(const Linear& linear) {
  const at::NoGradGuard no_grad;
  const at::Tensor weight = linear.weight.detach();
  if (!linear.adapter) return weight;
  const auto& [a, b, scaling, rate] = *linear.adapter;
  const at::ScalarType wide = a.scalar_type();
  return at::addmm(weight.to(wide), b.detach(), a.detach(), 1.0, scaling).to(weight.scalar_type());
}

ops::PackedWeight pack(const Projection& projection, ops::WeightFormat format) {
  std::vector<at::Tensor> weights, biases;
  for (const Linear& linear : projection) {
    weights.push_back(merged_weight(linear));
    biases.push_back(linear.bias);
  }
  return ops::PackedWeight::pack(weights, biases, format);
}

namespace {

// The tensors as one where they lie one after the other in one storage, as join() leaves them; else undefined.
at::Tensor joined(const Projection& projection, at::Tensor Linear::*part) {
  const at::Tensor& first = projection[0].*part;
  if (!first.defined()) return {};
  std::vector<std::int64_t> sizes = first.sizes().vec();
  std::int64_t end = first.storage_offset();
  sizes[0] = 0;
  for (const Linear& linear : projection) {
    const at::Tensor& tensor = linear.*part;
    if (!tensor.defined() || linear.adapter || !tensor.is_contiguous() || !tensor.is_alias_of(first) ||
        tensor.storage_offset() != end) {
      return {};
    }
    end += tensor.numel();
    sizes[0] += tensor.size(0);
  }
  return first.as_strided(sizes, first.strides(), first.storage_offset());
}

}  // namespace

void join(Projection& projection) {
  if (projection.size() < 2) return;
  const at::NoGradGuard no_grad;
  for (at::Tensor Linear::*part : {&Linear::weight, &Linear::bias}) {
    std::vector<at::Tensor> parts;
    for (const Linear& linear : projection) {
      if ((linear.*part).defined()) parts.push_back(linear.*part);
    }
    if (parts.size() != projection.size()) continue;
    const at::Tensor whole = at::cat(parts);
    std::int64_t begin = 0;
    for (Linear& linear : projection) {
      const std::int64_t rows = (linear.*part).size(0);
      linear.*part = whole.narrow(0, begin, rows);
      begin += rows;
    }
  }
}

std::vector<at::Tensor> project(const Projection& projection, const ops::PackedWeight* packed, const at::Tensor& x,
                                at::IntArrayRef widths, const Dropout* dropout) {
  if (packed != nullptr) return packed->multiply(x).split_with_sizes(widths, 1);
  if (projection.size() == 1) return apply(projection[0], x, dropout).split_with_sizes(widths, 1);
  SAO_CHECK(projection.size() == widths.size());
  if (!at::GradMode::is_enabled()) {
    const at::Tensor weight = joined(projection, &Linear::weight), bias = joined(projection, &Linear::bias);
    if (weight.defined() && bias.defined() == projection[0].bias.defined()) {
      return ops::linear(x, weight, bias).split_with_sizes(widths, 1);
    }
  }
  std::vector<at::Tensor> outputs;
  for (const Linear& linear : projection) outputs.push_back(apply(linear, x, dropout));
  return outputs;
}

void append_tensors(const Projection& projection, std::vector<at::Tensor>& list) {
  for (const Linear& linear : projection) {
    list.push_back(linear.weight);
    if (linear.bias.defined()) list.push_back(linear.bias);
    if (linear.adapter) list.insert(list.end(), {linear.adapter->a, linear.adapter->b});
  }
}

}  // namespace sao::detail
