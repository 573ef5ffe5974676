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

namespace {

// Rows of a product that a thread takes at a time, and how many there must be of them for each: the weights, of which
// it then reads all, are paid for.
constexpr std::int64_t kLeastRows = 48, kMostRows = 192;

bool is_split_by_rows(std::int64_t rows) { return rows >= at::get_num_threads() * kMostRows; }

std::int64_t threads_for(std::int64_t rows, std::int64_t outputs, std::int64_t inputs) {
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(outputs * inputs);
  return flops < 2e5 ? 1 : at::get_num_threads();  // enough work each to pay for a thread
}

std::int64_t share(std::int64_t count, std::int64_t threads) {
  return std::max<std::int64_t>(1, (count + threads - 1) / threads);
}

}  // namespace

at::Tensor PackedWeight::checked(const at::Tensor& x, std::string_view what) const {
  if (!defined() || !supports(x) || x.dim() != 2 || x.size(1) != inputs_) {
    throw InputError(fmt::format("PackedWeight::{}: x {} on {}, expected [rows, {}] float32 on the CPU", what,
                                 describe(x), x.device().str(), inputs_));
  }
  return x.stride(1) == 1 ? x : x.contiguous();
}

void PackedWeight::multiply_rows(std::int64_t rows, const float* x, std::int64_t x_stride, std::int64_t first_panel,
                                 std::int64_t last_panel, float* y) const {
  const Kernels& kernel = kernels();
  const std::unique_ptr<float[]> scratch(new float[static_cast<std::size_t>(kernel.gemm_scratch(rows))]);
  if (scales_.defined()) {
    kernel.gemm_int8(rows, outputs_, inputs_, x, x_stride, storage_.const_data_ptr<std::int8_t>(),
                     scales_.const_data_ptr<float>(), first_panel, last_panel, y, outputs_, scratch.get());
  } else {
    kernel.gemm(rows, outputs_, inputs_, x, x_stride, storage_.const_data_ptr<float>(), first_panel, last_panel, y,
                outputs_, scratch.get());
  }
}

at::Tensor PackedWeight::multiply(const at::Tensor& x) const {
  const at::Tensor input = checked(x, "multiply");
  const std::int64_t rows = input.size(0), panels = storage_.size(0), stride = input.stride(0);
  at::Tensor y = at::empty({rows, outputs_}, input.options().requires_grad(false));
  const float* from = input.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  // By panels, so that a thread streams its weights once; by rows where there are enough, so that each packs its own.
  const std::int64_t threads = threads_for(rows, outputs_, inputs_);
  const auto some_rows = [&](std::int64_t begin, std::int64_t end) {
    multiply_rows(end - begin, from + begin * stride, stride, 0, panels, to + begin * outputs_);
  };
  if (is_split_by_rows(rows)) {
    for_each_share(rows, kLeastRows, kMostRows,
                   [&](std::int64_t begin, std::int64_t end, std::int64_t) { some_rows(begin, end); });
  } else if (panels < threads) {
    at::parallel_for(0, rows, share(rows, threads), some_rows);
  } else {
    at::parallel_for(0, panels, share(panels, threads),
                     [&](std::int64_t begin, std::int64_t end) { multiply_rows(rows, from, stride, begin, end, to); });
  }
  if (bias_.defined()) y.add_(bias_);
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
  const float* from = input.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  float* of_threads = both.mutable_data_ptr<float>();
  const std::int64_t stride = input.stride(0), panels = storage_.size(0);
  const GateKind gate = kind == Gate::kSilu ? GateKind::kSilu : GateKind::kGeluTanh;
  for_each_share(rows, kLeastRows, kMostRows, [&](std::int64_t begin, std::int64_t end, std::int64_t slot) {
    float* products = of_threads + slot * kMostRows * outputs_;
    multiply_rows(end - begin, from + begin * stride, stride, 0, panels, products);
    kernels().gate(gate, end - begin, width, products, products + width, outputs_, to + begin * width);
  });
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
