// SPDX-License-Identifier: Apache-2.0
#include "sao/ops/linear.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "ops/checks.h"
#include "ops/kernels.h"
#include "sao/base/error.h"

namespace sao::ops {

bool PackedWeight::supports(const at::Tensor& weight) {
  return weight.device().is_cpu() && weight.scalar_type() == at::kFloat;
}

namespace {

// The biases side by side, zeros where a weight has none; undefined where none has one.
at::Tensor join_biases(std::span<const at::Tensor> weights, std::span<const at::Tensor> biases) {
  if (!biases.empty() && biases.size() != weights.size()) {
    throw InputError(
        fmt::format("PackedWeight::pack: {} biases for {} weights, expected one each", biases.size(), weights.size()));
  }
  std::vector<at::Tensor> parts;
  bool any = false;
  for (std::size_t i = 0; i < biases.size(); ++i) {
    const at::Tensor& bias = biases[i];
    const std::int64_t outputs = weights[i].size(0);
    if (bias.defined() && (!PackedWeight::supports(bias) || bias.dim() != 1 || bias.size(0) != outputs)) {
      throw InputError(
          fmt::format("PackedWeight::pack: bias {}, expected [{}] float32 on the CPU", describe(bias), outputs));
    }
    any = any || bias.defined();
    parts.push_back(bias.defined() ? bias.detach() : at::zeros({outputs}, weights[i].options().requires_grad(false)));
  }
  return any ? at::cat(parts) : at::Tensor();
}

}  // namespace

PackedWeight PackedWeight::pack(std::span<const at::Tensor> weights, std::span<const at::Tensor> biases,
                                WeightFormat format) {
  if (weights.empty()) throw InputError("PackedWeight::pack: no weights, expected at least one");
  PackedWeight packed;
  for (const at::Tensor& weight : weights) {
    if (!supports(weight) || weight.dim() != 2 || weight.size(1) != weights[0].size(1)) {
      throw InputError(
          fmt::format("PackedWeight::pack: a weight of {} dimensions, expected float32 CPU matrices [n, {}]",
                      weight.dim(), weights[0].size(-1)));
    }
    packed.outputs_ += weight.size(0);
  }
  packed.inputs_ = weights[0].size(1);
  packed.bias_ = join_biases(weights, biases);
  std::vector<at::Tensor> detached;
  for (const at::Tensor& weight : weights) detached.push_back(weight.detach());
  const at::Tensor joined = detached.size() == 1 ? detached[0].contiguous() : at::cat(detached).contiguous();

  const Kernels& kernel = kernels();
  const std::int64_t panels = (packed.outputs_ + kernel.panel - 1) / kernel.panel;
  const std::int64_t k = packed.inputs_, groups = (k + kInt8Group - 1) / kInt8Group;
  const bool int8 = format == WeightFormat::kInt8;
  packed.storage_ = at::empty({panels, k, kernel.panel}, joined.options().dtype(int8 ? at::kChar : at::kFloat));
  if (int8) packed.scales_ = at::empty({panels, groups, kernel.panel}, joined.options());
  const float* from = joined.const_data_ptr<float>();
  at::parallel_for(0, panels, 16, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t first = begin * kernel.panel, last = std::min(end * kernel.panel, packed.outputs_);
    if (int8) {
      kernel.pack_int8(last - first, k, from + first * k, packed.storage_.mutable_data_ptr<std::int8_t>() + first * k,
                       packed.scales_.mutable_data_ptr<float>() + first * groups);
    } else {
      kernel.pack(last - first, k, from + first * k, packed.storage_.mutable_data_ptr<float>() + first * k);
    }
  });
  return packed;
}

at::Tensor PackedWeight::multiply(const at::Tensor& x) const {
  if (!defined() || !supports(x) || x.dim() != 2 || x.size(1) != inputs_) {
    throw InputError(fmt::format("PackedWeight::multiply: x {} on {}, expected [rows, {}] float32 on the CPU",
                                 describe(x), x.device().str(), inputs_));
  }
  const at::Tensor input = x.stride(1) == 1 ? x : x.contiguous();
  const std::int64_t rows = input.size(0);
  at::Tensor y = at::empty({rows, outputs_}, input.options().requires_grad(false));
  const Kernels& kernel = kernels();
  const std::int64_t panels = storage_.size(0);
  const float* from = input.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  const auto gemm = [&](std::int64_t first_row, std::int64_t last_row, std::int64_t first_panel,
                        std::int64_t last_panel) {
    const std::int64_t scratch_size = kernel.gemm_scratch(last_row - first_row);
    const std::unique_ptr<float[]> scratch(new float[static_cast<std::size_t>(scratch_size)]);
    const float* x_rows = from + first_row * input.stride(0);
    float* y_rows = to + first_row * outputs_;
    if (scales_.defined()) {
      kernel.gemm_int8(last_row - first_row, outputs_, inputs_, x_rows, input.stride(0),
                       storage_.const_data_ptr<std::int8_t>(), scales_.const_data_ptr<float>(), first_panel, last_panel,
                       y_rows, outputs_, scratch.get());
    } else {
      kernel.gemm(last_row - first_row, outputs_, inputs_, x_rows, input.stride(0), storage_.const_data_ptr<float>(),
                  first_panel, last_panel, y_rows, outputs_, scratch.get());
    }
  };
  // Tasks of enough work each to pay for a thread; split by panels, so that a thread streams its weights once.
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(outputs_ * inputs_);
  const std::int64_t threads = flops < 2e5 ? 1 : at::get_num_threads();
  const std::int64_t grain = std::max<std::int64_t>(1, (panels + threads - 1) / threads);
  if (panels >= threads) {
    at::parallel_for(0, panels, grain, [&](std::int64_t begin, std::int64_t end) { gemm(0, rows, begin, end); });
  } else {
    at::parallel_for(0, rows, std::max<std::int64_t>(1, (rows + threads - 1) / threads),
                     [&](std::int64_t begin, std::int64_t end) { gemm(begin, end, 0, panels); });
  }
  if (bias_.defined()) y.add_(bias_);
  return y;
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight) {
  if (x.dim() != 2 || weight.dim() != 2 || x.size(1) != weight.size(1)) {
    throw InputError(
        fmt::format("linear: x {}, weight {}, expected [rows, k] and [n, k]", describe(x), describe(weight)));
  }
  const bool differentiable = at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad());
  if (differentiable || !PackedWeight::supports(weight) || !PackedWeight::supports(x)) return at::linear(x, weight);
  return PackedWeight::pack({&weight, 1}).multiply(x);
}

}  // namespace sao::ops
