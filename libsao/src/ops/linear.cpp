// SPDX-License-Identifier: Apache-2.0
#include "sao/ops/linear.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "ops/checks.h"
#include "ops/kernels.h"
#include "ops/shares.h"
#include "sao/base/error.h"
#include "sao/ops/pointwise.h"

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

std::int64_t share(std::int64_t count, std::int64_t threads) {
  return std::max<std::int64_t>(1, (count + threads - 1) / threads);
}

// A matrix whose rows or columns lie together, as the kernels read them.
at::Tensor with_unit_stride(const at::Tensor& matrix) {
  return matrix.stride(0) == 1 || matrix.stride(1) == 1 ? matrix : matrix.contiguous();
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
  const at::Tensor joined = detached.size() > 1             ? at::cat(detached)
                            : format == WeightFormat::kInt8 ? detached[0].contiguous()
                                                            : with_unit_stride(detached[0]);

  const Kernels& kernel = kernels();
  const std::int64_t panels = (packed.outputs_ + kernel.panel - 1) / kernel.panel;
  const std::int64_t k = packed.inputs_, groups = (k + kInt8Group - 1) / kInt8Group;
  const bool int8 = format == WeightFormat::kInt8;
  packed.storage_ = at::empty({panels, k, kernel.panel}, joined.options().dtype(int8 ? at::kChar : at::kFloat));
  if (int8) packed.scales_ = at::empty({panels, groups, kernel.panel}, joined.options());
  const float* from = joined.const_data_ptr<float>();
  at::parallel_for(0, panels, std::min<std::int64_t>(16, share(panels, at::get_num_threads())),
                   [&](std::int64_t begin, std::int64_t end) {
                     const std::int64_t first = begin * kernel.panel,
                                        last = std::min(end * kernel.panel, packed.outputs_);
                     if (int8) {
                       kernel.pack_int8(last - first, k, from + first * k,
                                        packed.storage_.mutable_data_ptr<std::int8_t>() + first * k,
                                        packed.scales_.mutable_data_ptr<float>() + first * groups);
                     } else {
                       kernel.pack(last - first, k, from + first * joined.stride(0), joined.stride(0), joined.stride(1),
                                   packed.storage_.mutable_data_ptr<float>() + first * k);
                     }
                   });
  return packed;
}

namespace {

bool is_split_by_rows(std::int64_t rows) { return rows >= at::get_num_threads() * kMostRows; }

std::int64_t threads_for(std::int64_t rows, std::int64_t outputs, std::int64_t inputs) {
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(outputs * inputs);
  return flops < 2e5 ? 1 : at::get_num_threads();  // enough work each to pay for a thread
}

}  // namespace

at::Tensor PackedWeight::checked(const at::Tensor& x, std::string_view what) const {
  if (!defined() || !supports(x) || x.dim() != 2 || x.size(1) != inputs_) {
    throw InputError(fmt::format("PackedWeight::{}: x {} on {}, expected [rows, {}] float32 on the CPU", what,
                                 describe(x), x.device().str(), inputs_));
  }
  if (!scales_.defined()) return with_unit_stride(x);
  return x.stride(1) == 1 ? x : x.contiguous();
}

void PackedWeight::multiply_rows(const at::Tensor& x, std::int64_t first, std::int64_t last, std::int64_t first_panel,
                                 std::int64_t last_panel, bool add, float* y, std::int64_t y_stride) const {
  const Kernels& kernel = kernels();
  const std::unique_ptr<float[]> scratch(new float[static_cast<std::size_t>(kernel.gemm_scratch(last - first))]);
  const float* from = x.const_data_ptr<float>() + first * x.stride(0);
  if (scales_.defined()) {
    kernel.gemm_int8(last - first, outputs_, inputs_, from, x.stride(0), storage_.const_data_ptr<std::int8_t>(),
                     scales_.const_data_ptr<float>(), first_panel, last_panel, y, y_stride, scratch.get());
  } else {
    kernel.gemm(last - first, outputs_, inputs_, from, x.stride(0), x.stride(1), storage_.const_data_ptr<float>(),
                first_panel, last_panel, add, y, y_stride, scratch.get());
  }
}

void PackedWeight::multiply_into(const at::Tensor& y, const at::Tensor& x, bool add) const {
  const at::Tensor input = checked(x, "multiply_into");
  const std::int64_t rows = input.size(0), panels = storage_.size(0);
  if (y.dim() != 2 || !supports(y) || y.size(0) != rows || y.size(1) != outputs_ || y.stride(1) != 1 ||
      (add && (scales_.defined() || bias_.defined()))) {
    throw InputError(fmt::format(
        "PackedWeight::multiply_into: y {}, expected [{}, {}] float32 on the CPU, rows contiguous, and to be added to "
        "of float32 without biases only",
        describe(y), rows, outputs_));
  }
  if (inputs_ == 0 && !add) at::Tensor(y).zero_();  // a sum of no products, which no kernel writes
  float* to = y.mutable_data_ptr<float>();
  const std::int64_t stride = y.stride(0);
  // By panels, so that a thread streams its weights once; by rows where there are enough, so that each packs its own.
  const std::int64_t threads = threads_for(rows, outputs_, inputs_);
  const auto some_rows = [&](std::int64_t begin, std::int64_t end) {
    multiply_rows(input, begin, end, 0, panels, add, to + begin * stride, stride);
  };
  if (is_split_by_rows(rows)) {
    for_each_share(rows, kLeastRows, kMostRows,
                   [&](std::int64_t begin, std::int64_t end, std::int64_t) { some_rows(begin, end); });
  } else if (panels < threads) {
    at::parallel_for(0, rows, share(rows, threads), some_rows);
  } else {
    at::parallel_for(0, panels, share(panels, threads), [&](std::int64_t begin, std::int64_t end) {
      multiply_rows(input, 0, rows, begin, end, add, to, stride);
    });
  }
  if (bias_.defined()) at::Tensor(y).add_(bias_);
}

PackedWeight PackedWeight::narrow(std::int64_t first, std::int64_t count) const {
  if (!defined() || first < 0 || count < 0 || first + count > outputs_ || first % kPanelOutputs != 0) {
    throw InputError(
        fmt::format("PackedWeight::narrow: outputs {} to {}, expected some of {}, from a multiple of {} on", first,
                    first + count, outputs_, kPanelOutputs));
  }
  const std::int64_t panel = storage_.size(2);
  const auto part = [&](const at::Tensor& panels) {
    return panels.defined() ? panels.narrow(0, first / panel, (count + panel - 1) / panel) : panels;
  };
  PackedWeight some = *this;
  some.storage_ = part(storage_);
  some.scales_ = part(scales_);
  if (bias_.defined()) some.bias_ = bias_.narrow(0, first, count);
  some.outputs_ = count;
  return some;
}

at::Tensor PackedWeight::multiply(const at::Tensor& x) const {
  at::Tensor y = at::empty({x.dim() == 2 ? x.size(0) : 0, outputs_}, at::kFloat);  // checked below
  multiply_into(y, x);
  return y;
}

at::Tensor PackedWeight::rows(const at::Tensor& ids) const {
  if (!defined() || ids.dim() != 1 || ids.scalar_type() != at::kLong || !ids.device().is_cpu()) {
    throw InputError(fmt::format("PackedWeight::rows: ids {} on {}, expected [n] int64 on the CPU, of packed weights",
                                 describe(ids), ids.device().str()));
  }
  const at::Tensor wanted = ids.contiguous();
  const std::int64_t* id = wanted.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < wanted.numel(); ++i) {
    if (id[i] < 0 || id[i] >= outputs_) {
      throw InputError(fmt::format("PackedWeight::rows: row {}, expected 0 to {}", id[i], outputs_ - 1));
    }
  }
  const std::int64_t k = inputs_, panel = storage_.size(2), groups = (k + kInt8Group - 1) / kInt8Group;
  at::Tensor found = at::empty({wanted.numel(), k}, at::kFloat);
  float* to = found.mutable_data_ptr<float>();
  const auto gather = [&](const auto* stored, const float* scales) {
    at::parallel_for(0, wanted.numel(), 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t first = id[i] / panel, lane = id[i] % panel;
        for (std::int64_t j = 0; j < k; ++j) {
          const auto value = static_cast<float>(stored[(first * k + j) * panel + lane]);
          to[i * k + j] = scales == nullptr ? value : value * scales[(first * groups + j / kInt8Group) * panel + lane];
        }
      }
    });
  };
  if (scales_.defined()) {
    gather(storage_.const_data_ptr<std::int8_t>(), scales_.const_data_ptr<float>());
  } else {
    gather(storage_.const_data_ptr<float>(), nullptr);
  }
  return found;
}

std::int64_t PackedWeight::rows_at_once(std::int64_t rows) {
  return is_split_by_rows(rows) ? at::get_num_threads() * kMostRows : rows;
}

at::Tensor PackedWeight::multiply_gated(const at::Tensor& x, Gate kind) const {
  const at::Tensor input = checked(x, "multiply_gated");
  if (outputs_ % 2 != 0) {
    throw InputError(
        fmt::format("PackedWeight::multiply_gated: {} outputs, expected as many of up as of gate", outputs_));
  }
  const std::int64_t rows = input.size(0), width = outputs_ / 2;
  if (!is_split_by_rows(rows) || bias_.defined() || kind == Gate::kGelu) {
    const at::Tensor both = multiply(input);
    return gated_activation(both.narrow(1, 0, width), both.narrow(1, width, width), kind);
  }
  at::Tensor y = at::empty({rows, width}, input.options().requires_grad(false));
  at::Tensor both = at::empty({rows_at_once(rows), outputs_}, y.options());  // kMostRows for each thread
  float* to = y.mutable_data_ptr<float>();
  float* of_threads = both.mutable_data_ptr<float>();
  const std::int64_t panels = storage_.size(0);
  const GateKind gate = kind == Gate::kSilu ? GateKind::kSilu : GateKind::kGeluTanh;
  for_each_share(rows, kLeastRows, kMostRows, [&](std::int64_t begin, std::int64_t end, std::int64_t slot) {
    float* products = of_threads + slot * kMostRows * outputs_;
    multiply_rows(input, begin, end, 0, panels, false, products, outputs_);
    kernels().gate(gate, end - begin, width, products, products + width, outputs_, to + begin * width);
  });
  return y;
}

namespace {

// By a weight that is packed for it. Few rows: each thread packs some outputs' weights and multiplies all rows by them
// while they are in its cache.
at::Tensor multiply_once(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  constexpr std::int64_t kPanel = PackedWeight::kPanelOutputs, kMostOutputs = 8 * kPanel;
  const at::Tensor rows = with_unit_stride(x.detach()), outputs = weight.detach();
  if (is_split_by_rows(rows.size(0))) return PackedWeight::pack({&outputs, 1}, {&bias, 1}).multiply(rows);
  at::Tensor y = at::empty({rows.size(0), outputs.size(0)}, rows.options());
  const std::int64_t of_thread = share(outputs.size(0), at::get_num_threads());
  const std::int64_t at_once = std::min(kMostOutputs, share(of_thread, kPanel) * kPanel);
  for_each_share(outputs.size(0), at_once, at_once, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    const at::Tensor some = outputs.narrow(0, begin, end - begin);
    PackedWeight::pack({&some, 1}).multiply_into(y.narrow(1, begin, end - begin), rows);
  });
  return bias.defined() ? y.add_(bias.detach()) : y;
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Linear : torch::autograd::Function<Linear> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
    context->save_for_backward({weight.requires_grad() ? x : at::Tensor(), x.requires_grad() ? weight : at::Tensor()});
    context->saved_data["has_bias"] = bias.has_value();  // else it is no input
    return multiply_once(x, weight, bias ? *bias : at::Tensor());
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    variable_list result(3);
    if (context->needs_input_grad(0)) result[0] = product(grads[0], saved[1]);
    if (context->needs_input_grad(1)) result[1] = product(grads[0].t(), saved[0]);
    if (context->saved_data["has_bias"].toBool() && context->needs_input_grad(2)) result[2] = grads[0].sum(0);
    return result;
  }
};

}  // namespace

at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  if (!PackedWeight::supports(a) || !PackedWeight::supports(b)) return at::mm(a, b);
  return multiply_once(a, b.t(), {});
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (x.dim() != 2 || weight.dim() != 2 || x.size(1) != weight.size(1)) {
    throw InputError(
        fmt::format("linear: x {}, weight {}, expected [rows, k] and [n, k]", describe(x), describe(weight)));
  }
  if (!PackedWeight::supports(weight) || !PackedWeight::supports(x)) return at::linear(x, weight, bias);
  if (bias.defined() && (!PackedWeight::supports(bias) || bias.dim() != 1 || bias.size(0) != weight.size(0))) {
    throw InputError(fmt::format("linear: bias {}, expected [{}] float32 on the CPU", describe(bias), weight.size(0)));
  }
  const auto wants_gradient = [](const at::Tensor& t) { return t.defined() && t.requires_grad(); };
  if (at::GradMode::is_enabled() && (wants_gradient(x) || wants_gradient(weight) || wants_gradient(bias))) {
    return Linear::apply(x, weight, bias.defined() ? std::optional(bias) : std::nullopt);
  }
  return multiply_once(x, weight, bias);
}

}  // namespace sao::ops
