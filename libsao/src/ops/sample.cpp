// SPDX-License-Identifier: Apache-2.0
#include "sao/ops/sample.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "ops/cuda_dispatch.h"
#include "ops/kernels.h"
#include "ops/sample_row.h"
#include "sao/base/error.h"
#include "sao/ops/pointwise.h"

namespace sao::ops {
namespace {

void check(const at::Tensor& logits, const SampleOptions& options) {
  if (logits.dim() != 2 || logits.size(1) < 1 || logits.size(1) > std::numeric_limits<TokenId>::max()) {
    throw InputError(fmt::format("sample: logits of {} dimensions, expected [n, V] with a vocabulary", logits.dim()));
  }
  if (!(options.temperature >= 0.0 && std::isfinite(options.temperature)) || options.top_k < 0 ||
      !(options.top_p > 0.0 && options.top_p <= 1.0) || !(options.min_p >= 0.0 && options.min_p <= 1.0)) {
    throw InputError(
        fmt::format("sample: temperature {}, top_k {}, top_p {}, min_p {}, expected temperature >= 0, "
                    "top_k >= 0, 0 < top_p <= 1, 0 <= min_p <= 1",
                    options.temperature, options.top_k, options.top_p, options.min_p));
  }
}

[[noreturn]] void throw_not_finite(std::int64_t row) {
  throw InputError(
      fmt::format("logits: row {} has no finite maximum, expected numbers; the model's weights hold NaN or "
                  "infinite values, or its dtype overflows",
                  row));
}

// Rows that pay for a thread.
std::int64_t row_grain(std::int64_t vocabulary) { return std::max<std::int64_t>(1, 4096 / vocabulary); }

bool has_kernel(const at::Tensor& logits) { return logits.device().is_cpu() && logits.scalar_type() == at::kFloat; }

}  // namespace

at::Tensor sampling_distribution(const at::Tensor& logits, const SampleOptions& options) {
  check(logits, options);
  at::Tensor z = logits.to(at::kFloat);
  const std::int64_t V = z.size(1);
  if (options.temperature == 0.0) {
    return at::zeros(z.sizes(), z.options().dtype(at::kDouble)).scatter_(1, z.argmax(1, true), 1.0);
  }
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  // Shifted by the largest first, so that no temperature overflows.
  z = (z - z.amax(1, true)) * std::min(1.0 / options.temperature, 1e30);
  if (options.top_k > 0 && options.top_k < V) {
    const at::Tensor largest = std::get<0>(logits.to(at::kFloat).topk(options.top_k, 1));
    z = z.masked_fill(logits.to(at::kFloat) < largest.select(1, options.top_k - 1).unsqueeze(1), kNever);
  }
  at::Tensor p = at::softmax(z, 1, at::kDouble);
  if (options.top_p < 1.0) {
    // Ranked in float32, as on the CPU: half the work of sorting float64.
    const at::Tensor order = std::get<1>(at::sort(p.to(at::kFloat), /*stable=*/true, 1, /*descending=*/true));
    const at::Tensor sorted = p.gather(1, order);
    const at::Tensor before = sorted.cumsum(1) - sorted;  // mass of the likelier tokens
    at::Tensor kept = before < options.top_p;
    kept.select(1, 0).fill_(true);
    p = p * at::zeros_like(p).scatter_(1, order, kept.to(at::kDouble));
  }
  if (options.min_p > 0.0) p = p.masked_fill(p < options.min_p * p.amax(1, true), 0.0);
  return p / p.sum(1, true);
}

namespace {

void check(std::span<const Draw> draws, std::int64_t rows) {
  for (const Draw& draw : draws) {
    if (draw.row < 0 || draw.row >= rows || !(draw.uniform >= 0.0 && draw.uniform < 1.0)) {
      throw InputError(fmt::format("sample: a draw from row {} with {}, expected a row below {} and a number in [0, 1)",
                                   draw.row, draw.uniform, rows));
    }
  }
}

// Where there is no kernel of a GPU.
void sample_here(const at::Tensor& given, std::span<const Draw> draws, const SampleOptions& options,
                 std::span<Drawn> drawn, double softcap) {
  const at::Tensor logits = softcap > 0.0 ? softcapped(given, softcap) : given;
  const std::int64_t V = logits.size(1), count = static_cast<std::int64_t>(draws.size());
  if (!has_kernel(logits)) {
    at::Tensor rows = at::empty({count}, at::kLong), uniforms = at::empty({count, 1}, at::kDouble);
    for (std::int64_t i = 0; i < count; ++i) {
      rows.mutable_data_ptr<std::int64_t>()[i] = draws[static_cast<std::size_t>(i)].row;
      uniforms.mutable_data_ptr<double>()[i] = draws[static_cast<std::size_t>(i)].uniform;
    }
    const at::Tensor z = logits.index_select(0, rows.to(logits.device()));
    const at::Tensor sums = sampling_distribution(z, options).cumsum(1);  // [count, V]
    const at::Tensor targets = uniforms.to(logits.device()) * sums.narrow(1, V - 1, 1);
    const at::Tensor found = at::searchsorted(sums, targets, /*out_int32=*/false, /*right=*/true).clamp_max(V - 1);
    const at::Tensor log_probs = at::log_softmax(z, 1, at::kFloat).gather(1, found);
    const at::Tensor ids_cpu = found.to(at::kCPU), log_probs_cpu = log_probs.to(at::kCPU);
    for (std::int64_t i = 0; i < count; ++i) {
      Drawn& to = drawn[static_cast<std::size_t>(i)];
      to = {static_cast<TokenId>(ids_cpu.const_data_ptr<std::int64_t>()[i]), log_probs_cpu.const_data_ptr<float>()[i]};
      if (!std::isfinite(to.log_prob)) throw_not_finite(draws[static_cast<std::size_t>(i)].row);
    }
    return;
  }

  const at::Tensor rows = logits.stride(1) == 1 ? logits : logits.contiguous();
  const float* data = rows.const_data_ptr<float>();
  const std::int64_t stride = rows.stride(0);
  std::atomic<std::int64_t> bad_row = -1;
  at::parallel_for(0, count, row_grain(V), [&](std::int64_t begin, std::int64_t end) {
    RowSampler sampler(options);
    std::int64_t taken = -1;
    for (std::int64_t i = begin; i < end; ++i) {
      const Draw& draw = draws[static_cast<std::size_t>(i)];
      const float* z = data + draw.row * stride;
      if (draw.row != taken && !sampler.prepare({z, static_cast<std::size_t>(V)})) {
        bad_row = draw.row;
        return;
      }
      taken = draw.row;
      const std::int64_t id = sampler.draw(draw.uniform);
      float log_prob, log_sum_exp;
      kernels().log_probs(1, V, z, 0.0f, &id, &log_prob, &log_sum_exp);
      drawn[static_cast<std::size_t>(i)] = {static_cast<TokenId>(id), log_prob};
    }
  });
  if (bad_row >= 0) throw_not_finite(bad_row);
}

}  // namespace

PendingDraws::PendingDraws(const at::Tensor& logits, std::span<const Draw> draws, const SampleOptions& options,
                           double softcap)
    : count_(draws.size()), device_(logits.device()) {
  check(logits, options);
  check(draws, logits.size(0));
  if (draws.empty()) return;
  const cuda::Table* gpu = cuda::kernels_for(logits);
  if (gpu == nullptr) {
    drawn_.resize(draws.size());
    sample_here(logits, draws, options, drawn_, softcap);
    return;
  }
  const std::int64_t count = static_cast<std::int64_t>(draws.size());
  const auto pinned = at::TensorOptions(at::kDouble).pinned_memory(true);  // else the copies wait
  rows_ = at::empty({count, 2}, pinned);
  for (std::int64_t i = 0; i < count; ++i) {
    double* number = rows_.mutable_data_ptr<double>() + 2 * i;
    number[0] = static_cast<double>(draws[static_cast<std::size_t>(i)].row);
    number[1] = draws[static_cast<std::size_t>(i)].uniform;
  }
  found_ = gpu->draw(logits.contiguous(), softcap, rows_, /*given=*/false, options);
  here_ = at::empty(found_.sizes(), pinned);
  here_.copy_(found_, /*non_blocking=*/true);
  arrived_.emplace(c10::kCUDA);
  arrived_->record(c10::impl::VirtualGuardImpl(c10::kCUDA).getStream(logits.device()));
}

at::Tensor PendingDraws::ids() const {
  if (found_.defined()) return found_.select(1, 0).to(at::kLong);
  at::Tensor ids = at::empty({static_cast<std::int64_t>(drawn_.size())}, at::kLong);
  for (std::size_t i = 0; i < drawn_.size(); ++i) ids.mutable_data_ptr<std::int64_t>()[i] = drawn_[i].id;
  return ids.to(device_);
}

void PendingDraws::finish(std::span<Drawn> drawn, const std::function<bool(std::size_t draw)>& wanted) {
  if (drawn.size() != count_) {
    throw InputError(fmt::format("sample: room for {} of {} draws, expected one for each", drawn.size(), count_));
  }
  if (!found_.defined()) {
    std::copy(drawn_.begin(), drawn_.end(), drawn.begin());
    return;
  }
  arrived_->synchronize();
  for (std::size_t i = 0; i < count_; ++i) {
    const double* pair = here_.const_data_ptr<double>() + 2 * i;
    if (!std::isfinite(pair[1]) && (!wanted || wanted(i))) {
      throw_not_finite(static_cast<std::int64_t>(rows_.const_data_ptr<double>()[2 * i]));
    }
    drawn[i] = {static_cast<TokenId>(pair[0]), static_cast<float>(pair[1])};
  }
}

void sample(const at::Tensor& logits, std::span<const Draw> draws, const SampleOptions& options, std::span<Drawn> drawn,
            double softcap) {
  PendingDraws(logits, draws, options, softcap).finish(drawn);
}

std::vector<double> token_log_probs(const at::Tensor& given, std::span<const RowToken> tokens, double softcap) {
  check(given, {});
  const cuda::Table* gpu = cuda::kernels_for(given);
  const at::Tensor logits = softcap > 0.0 && gpu == nullptr ? softcapped(given, softcap) : given;
  const std::int64_t n = logits.size(0), V = logits.size(1), count = static_cast<std::int64_t>(tokens.size());
  for (const RowToken& token : tokens) {
    if (token.row < 0 || token.row >= n || token.id < 0 || token.id >= V) {
      throw InputError(fmt::format("token_log_probs: token {} of row {}, expected a token below {} and a row below {}",
                                   token.id, token.row, V, n));
    }
  }
  std::vector<double> result(tokens.size());
  if (count == 0) return result;

  if (gpu != nullptr) {
    at::Tensor numbers = at::empty({count, 2}, at::kDouble);
    for (std::int64_t i = 0; i < count; ++i) {
      double* number = numbers.mutable_data_ptr<double>() + 2 * i;
      number[0] = static_cast<double>(tokens[static_cast<std::size_t>(i)].row);
      number[1] = static_cast<double>(tokens[static_cast<std::size_t>(i)].id);
    }
    const at::Tensor found = gpu->draw(logits.contiguous(), softcap, numbers, /*given=*/true, {}).to(at::kCPU);
    for (std::int64_t i = 0; i < count; ++i) {
      const double log_prob = found.const_data_ptr<double>()[2 * i + 1];
      if (!std::isfinite(log_prob)) throw_not_finite(tokens[static_cast<std::size_t>(i)].row);
      result[static_cast<std::size_t>(i)] = static_cast<float>(log_prob);
    }
    return result;
  }
  if (!has_kernel(logits)) {
    at::Tensor rows = at::empty({count}, at::kLong), ids = at::empty({count}, at::kLong);
    for (std::int64_t i = 0; i < count; ++i) {
      rows.mutable_data_ptr<std::int64_t>()[i] = tokens[static_cast<std::size_t>(i)].row;
      ids.mutable_data_ptr<std::int64_t>()[i] = tokens[static_cast<std::size_t>(i)].id;
    }
    const at::Tensor at_rows = rows.to(logits.device()), z = logits.to(at::kFloat);
    const at::Tensor sums = z.logsumexp(1).index_select(0, at_rows);
    const at::Tensor found = (z.index({at_rows, ids.to(logits.device())}) - sums).to(at::kCPU),
                     sums_cpu = sums.to(at::kCPU);
    std::copy_n(found.const_data_ptr<float>(), count, result.begin());
    for (std::int64_t i = 0; i < count; ++i) {
      if (!std::isfinite(sums_cpu.const_data_ptr<float>()[i]))
        throw_not_finite(tokens[static_cast<std::size_t>(i)].row);
    }
    return result;
  }

  const at::Tensor rows = logits.stride(1) == 1 ? logits : logits.contiguous();
  const float* data = rows.const_data_ptr<float>();
  const std::int64_t stride = rows.stride(0);
  std::atomic<std::int64_t> bad_row = -1;
  at::parallel_for(0, count, row_grain(V), [&](std::int64_t begin, std::int64_t end) {
    std::int64_t taken = -1;
    float ignored, log_sum_exp = 0.0f;
    for (std::int64_t i = begin; i < end; ++i) {
      const RowToken& token = tokens[static_cast<std::size_t>(i)];
      const float* z = data + token.row * stride;
      if (token.row != taken) {
        if (!std::isfinite(largest_of({z, static_cast<std::size_t>(V)}))) {
          bad_row = token.row;
          return;
        }
        const std::int64_t first = 0;
        kernels().log_probs(1, V, z, 0.0f, &first, &ignored, &log_sum_exp);
        taken = token.row;
      }
      result[static_cast<std::size_t>(i)] = z[token.id] - log_sum_exp;
    }
  });
  if (bad_row >= 0) throw_not_finite(bad_row);
  return result;
}

}  // namespace sao::ops
