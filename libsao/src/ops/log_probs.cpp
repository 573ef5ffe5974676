// SPDX-License-Identifier: Apache-2.0
#include "sao/ops/log_probs.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "ops/cuda_dispatch.h"
#include "ops/log_prob_blocks.h"
#include "ops/shares.h"
#include "sao/base/error.h"
#include "sao/ops/linear.h"

namespace sao::ops {
namespace {

at::ScalarType compute_type(const at::Tensor& hidden) {
  return hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// One chunk: log-probs and logsumexp of soft-capped rows of logits.
void forward_rows(const at::Tensor& logits, const at::Tensor& targets, double softcap, at::Tensor log_prob,
                  at::Tensor log_sum_exp) {
  if (const cuda::Table* gpu = cuda::kernels_for(logits)) {
    gpu->log_probs(logits, targets, softcap, log_prob, log_sum_exp);
    return;
  }
  at::Tensor z = logits.to(compute_type(logits));
  if (softcap > 0.0) z = (z / softcap).tanh_().mul_(softcap);
  log_sum_exp.copy_(z.logsumexp(1));
  log_prob.copy_(z.gather(1, targets.unsqueeze(1)).squeeze(1)).sub_(log_sum_exp);
}

// Room for the statistics of n rows.
TokenStatistics empty_statistics(std::int64_t n, const at::TensorOptions& options) {
  return {at::empty({n}, options), at::empty({n}, options), at::empty({n}, options),
          at::empty({n}, options.dtype(at::kBool))};
}

// One chunk, into rows [begin, begin + rows) of `out`. Plain LibTorch: it is a small part of a chunk's time beside the
// product with the output matrix. float32 on the CPU has its statistics from log_probs_by_blocks.
void statistics_of_rows(const at::Tensor& logits, const at::Tensor& targets, double softcap,
                        const at::Tensor& log_sum_exp, std::int64_t begin, const TokenStatistics& out) {
  const std::int64_t rows = logits.size(0);
  at::Tensor z = logits.to(compute_type(logits));
  if (softcap > 0.0) z = (z / softcap).tanh_().mul_(softcap);
  const auto part = [&](const at::Tensor& tensor) { return tensor.narrow(0, begin, rows); };
  part(out.mean_logit).copy_(z.mean(1));
  part(out.is_top).copy_(z.gather(1, targets.unsqueeze(1)).squeeze(1) >= z.amax(1));
  const at::Tensor log_p = z - log_sum_exp.unsqueeze(1), p = log_p.exp();
  part(out.log_sum_square).copy_(p.square().sum(1).log_());
  part(out.entropy).copy_((p * log_p).sum(1).neg_());
}

// One chunk: logits become d(sum grad * log_prob) / d(logits before the soft cap); float32 or float64.
at::Tensor backward_rows(const at::Tensor& logits, const at::Tensor& targets, double softcap,
                         const at::Tensor& log_sum_exp, const at::Tensor& grad) {
  if (const cuda::Table* gpu = cuda::kernels_for(logits)) {
    gpu->log_probs_backward(logits, targets, softcap, log_sum_exp, grad);
    return logits;
  }
  at::Tensor z = logits.to(compute_type(logits));
  at::Tensor slope;
  if (softcap > 0.0) {
    at::Tensor t = (z / softcap).tanh_();
    z = t * softcap;
    slope = t.square_().neg_().add_(1.0);
  }
  at::Tensor d = z.sub_(log_sum_exp.unsqueeze(1)).exp_().mul_(-grad.unsqueeze(1));
  d.scatter_add_(1, targets.unsqueeze(1), grad.unsqueeze(1));
  if (slope.defined()) d.mul_(slope);
  return d;
}

OutputRows rows_of(const at::Tensor& weight) {
  return [weight](std::int64_t first, std::int64_t count) {
    const at::Tensor some = weight.narrow(0, first, count);
    return PackedWeight::pack({&some, 1});
  };
}

// Fills log_prob and log_sum_exp [n], chunk by chunk through one buffer.
void forward_chunks(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                    const LogProbsOptions& options, const at::Tensor& log_prob, const at::Tensor& log_sum_exp,
                    const TokenStatistics* statistics) {
  if (PackedWeight::supports(hidden)) {
    log_probs_by_blocks(hidden, weight.size(0), rows_of(weight), targets, options.logit_softcap, log_prob, log_sum_exp,
                        statistics);
    return;
  }
  const std::int64_t n = hidden.size(0);
  const std::int64_t chunk = even_chunk(n, options.chunk_tokens);
  at::Tensor buffer = at::empty({chunk, weight.size(0)}, hidden.options());
  for (std::int64_t begin = 0; begin < n; begin += chunk) {
    const std::int64_t rows = std::min(chunk, n - begin);
    at::Tensor logits = buffer.narrow(0, 0, rows);
    at::mm_out(logits, hidden.narrow(0, begin, rows), weight.t());
    forward_rows(logits, targets.narrow(0, begin, rows), options.logit_softcap, log_prob.narrow(0, begin, rows),
                 log_sum_exp.narrow(0, begin, rows));
    if (statistics != nullptr) {
      statistics_of_rows(logits, targets.narrow(0, begin, rows), options.logit_softcap,
                         log_sum_exp.narrow(0, begin, rows), begin, *statistics);
    }
  }
}

class LogProbs : public torch::autograd::Function<LogProbs> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& hidden,
                            const at::Tensor& weight, const at::Tensor& targets, double logit_softcap,
                            std::int64_t chunk_tokens, const TokenStatistics* statistics) {
    const auto options = hidden.options().dtype(compute_type(hidden));
    at::Tensor log_prob = at::empty({hidden.size(0)}, options);
    at::Tensor log_sum_exp = at::empty({hidden.size(0)}, options);
    forward_chunks(hidden, weight, targets, {logit_softcap, chunk_tokens}, log_prob, log_sum_exp, statistics);
    context->save_for_backward({hidden, weight, targets, log_sum_exp});
    context->saved_data["logit_softcap"] = logit_softcap;
    context->saved_data["chunk_tokens"] = chunk_tokens;
    return log_prob;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &hidden = saved[0], &weight = saved[1], &targets = saved[2], &log_sum_exp = saved[3];
    const double softcap = context->saved_data["logit_softcap"].toDouble();
    const std::int64_t n = hidden.size(0);
    const at::Tensor grad = grads[0].to(compute_type(hidden)).contiguous();
    const bool hidden_wanted = context->needs_input_grad(0), weight_wanted = context->needs_input_grad(1);
    if (PackedWeight::supports(hidden)) {
      const std::int64_t most_logits = std::min(n, context->saved_data["chunk_tokens"].toInt()) * weight.size(0);
      const auto [of_hidden, of_weight] = log_probs_backward_by_blocks(hidden, weight, targets, softcap, log_sum_exp,
                                                                       grad, hidden_wanted, weight_wanted, most_logits);
      return {of_hidden, of_weight, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
    }

    const std::int64_t chunk = even_chunk(n, context->saved_data["chunk_tokens"].toInt());
    at::Tensor hidden_grad, weight_grad;
    if (hidden_wanted) hidden_grad = at::empty_like(hidden, at::MemoryFormat::Contiguous);
    at::Tensor buffer = at::empty({chunk, weight.size(0)}, hidden.options());
    for (std::int64_t begin = 0; begin < n; begin += chunk) {
      const std::int64_t rows = std::min(chunk, n - begin);
      const at::Tensor inputs = hidden.narrow(0, begin, rows);
      at::Tensor logits = buffer.narrow(0, 0, rows);
      at::mm_out(logits, inputs, weight.t());
      const at::Tensor d = backward_rows(logits, targets.narrow(0, begin, rows), softcap,
                                         log_sum_exp.narrow(0, begin, rows), grad.narrow(0, begin, rows))
                               .to(hidden.scalar_type());
      if (hidden_wanted) {
        at::Tensor out = hidden_grad.narrow(0, begin, rows);
        at::mm_out(out, d, weight);
      }
      if (weight_wanted) {
        // Products of each chunk are rounded to the inputs' dtype at most once; their sum is kept in float32.
        if (!weight_grad.defined()) {
          weight_grad = at::mm(d.t(), inputs).to(compute_type(hidden));
        } else if (weight_grad.scalar_type() == d.scalar_type()) {
          weight_grad.addmm_(d.t(), inputs);
        } else {
          weight_grad.add_(at::mm(d.t(), inputs));
        }
      }
    }
    if (weight_wanted && !weight_grad.defined()) weight_grad = at::zeros_like(weight);
    return {hidden_grad, weight_grad, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// `weight`: what [V, H], of which dtype and where.
struct WeightKind {
  std::vector<std::int64_t> sizes;
  at::ScalarType type;
  at::Device device;
};

void check(const at::Tensor& hidden, const WeightKind& weight, const at::Tensor& targets,
           const LogProbsOptions& options) {
  if (hidden.dim() != 2 || weight.sizes.size() != 2 || targets.dim() != 1 || hidden.size(1) != weight.sizes[1] ||
      targets.size(0) != hidden.size(0)) {
    throw InputError(fmt::format("log_probs: hidden [{}], weight [{}], targets [{}], expected [n, H], [V, H], [n]",
                                 fmt::join(hidden.sizes(), ", "), fmt::join(weight.sizes, ", "),
                                 fmt::join(targets.sizes(), ", ")));
  }
  if (!hidden.is_floating_point() || hidden.scalar_type() != weight.type || targets.scalar_type() != at::kLong) {
    throw InputError(fmt::format("log_probs: hidden {}, weight {}, targets {}, expected one floating dtype and int64",
                                 at::toString(hidden.scalar_type()), at::toString(weight.type),
                                 at::toString(targets.scalar_type())));
  }
  if (hidden.device() != weight.device || hidden.device() != targets.device()) {
    throw InputError(fmt::format("log_probs: hidden on {}, weight on {}, targets on {}, expected one device",
                                 hidden.device().str(), weight.device.str(), targets.device().str()));
  }
  if (options.chunk_tokens < 1) {
    throw InputError(fmt::format("log_probs: chunk_tokens is {}, expected at least 1", options.chunk_tokens));
  }
  if (!(options.logit_softcap >= 0.0)) {
    throw InputError(fmt::format("log_probs: logit_softcap is {}, expected 0 or more", options.logit_softcap));
  }
  if (targets.numel() > 0) {
    const auto [least, most] = at::aminmax(targets);
    const std::int64_t low = least.item<std::int64_t>(), high = most.item<std::int64_t>();
    if (low < 0 || high >= weight.sizes[0]) {
      throw InputError(
          fmt::format("log_probs: target {}, expected 0 to {}", low < 0 ? low : high, weight.sizes[0] - 1));
    }
  }
}

}  // namespace

at::Tensor log_probs(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                     const LogProbsOptions& options, TokenStatistics* statistics) {
  check(hidden, {weight.sizes().vec(), weight.scalar_type(), weight.device()}, targets, options);
  const bool differentiable = at::GradMode::is_enabled() && (hidden.requires_grad() || weight.requires_grad());
  const at::Tensor rows = hidden.contiguous(), ids = targets.contiguous();
  const auto out_options = rows.options().dtype(compute_type(rows)).requires_grad(false);
  if (statistics != nullptr) *statistics = empty_statistics(rows.size(0), out_options);
  if (differentiable) {
    return LogProbs::apply(rows, weight, ids, options.logit_softcap, options.chunk_tokens,
                           static_cast<const TokenStatistics*>(statistics));
  }
  const c10::NoGradGuard no_grad;
  at::Tensor log_prob = at::empty({rows.size(0)}, out_options), log_sum_exp = at::empty({rows.size(0)}, out_options);
  forward_chunks(rows, weight, ids, options, log_prob, log_sum_exp, statistics);
  return log_prob;
}

at::Tensor log_probs(const at::Tensor& hidden, const PackedWeight& weight, const at::Tensor& targets,
                     const LogProbsOptions& options, TokenStatistics* statistics) {
  check(hidden, {{weight.outputs(), weight.inputs()}, at::kFloat, at::kCPU}, targets, options);
  const c10::NoGradGuard no_grad;
  const auto out_options = hidden.options().requires_grad(false);
  if (statistics != nullptr) *statistics = empty_statistics(hidden.size(0), out_options);
  at::Tensor log_prob = at::empty({hidden.size(0)}, out_options), log_sum_exp = at::empty_like(log_prob);
  const auto rows = [&](std::int64_t first, std::int64_t count) { return weight.narrow(first, count); };
  log_probs_by_blocks(hidden.contiguous(), weight.outputs(), rows, targets.contiguous(), options.logit_softcap,
                      log_prob, log_sum_exp, statistics);
  return log_prob;
}

std::int64_t log_probs_bytes(std::int64_t rows, std::int64_t vocabulary, std::int64_t hidden, at::ScalarType dtype,
                             at::Device device, const LogProbsOptions& options, bool statistics, bool differentiable) {
  if (device.is_cpu() && dtype == at::kFloat) {
    return log_prob_blocks_bytes(rows, vocabulary, hidden, std::min(rows, options.chunk_tokens) * vocabulary,
                                 differentiable);
  }
  const auto size = static_cast<std::int64_t>(c10::elementSize(dtype));
  const std::int64_t wide = dtype == at::kDouble ? 8 : 4;
  return std::min(options.chunk_tokens, rows) * vocabulary * (statistics ? size + 4 * wide : size);
}

}  // namespace sao::ops
