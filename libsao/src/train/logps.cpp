// SPDX-License-Identifier: Apache-2.0
#include "sao/train/logps.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "sao/base/error.h"

namespace sao {
namespace {

at::Tensor int64_tensor(const std::vector<std::int64_t>& values) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<std::int64_t>());
  return tensor;
}

// Calls `take` with each batch of whole completions and the index of its first.
template <class Take>
void in_batches(std::span<const PromptedResponse> completions, std::int64_t batch_tokens, Take&& take) {
  std::size_t begin = 0;
  while (begin < completions.size()) {
    std::size_t end = begin;
    std::int64_t tokens = 0;
    while (end < completions.size()) {
      tokens += static_cast<std::int64_t>(completions[end].prompt.size() + completions[end].response.size());
      if (end > begin && tokens > batch_tokens) break;
      ++end;
    }
    take(completions.subspan(begin, end - begin), begin);
    begin = end;
  }
}

}  // namespace

CompletionBatch pack_completions(std::span<const PromptedResponse> completions) {
  std::vector<TokenIds> sequences;
  std::vector<std::int64_t> rows, targets, owner, lengths;
  std::int64_t begin = 0;
  for (std::size_t s = 0; s < completions.size(); ++s) {
    const auto& [prompt, response] = completions[s];
    if (prompt.empty() || response.empty()) {
      throw InputError(fmt::format("completion {}: prompt of {} tokens, response of {}, expected neither empty", s,
                                   prompt.size(), response.size()));
    }
    TokenIds ids(prompt.begin(), prompt.end());
    ids.insert(ids.end(), response.begin(), response.end() - 1);
    for (std::size_t t = 0; t < response.size(); ++t) {
      rows.push_back(begin + static_cast<std::int64_t>(prompt.size() + t) - 1);
      targets.push_back(response[t]);
      owner.push_back(static_cast<std::int64_t>(s));
    }
    lengths.push_back(static_cast<std::int64_t>(response.size()));
    begin += static_cast<std::int64_t>(ids.size());
    sequences.push_back(std::move(ids));
  }
  return {pack(sequences), int64_tensor(rows), int64_tensor(targets), int64_tensor(owner), int64_tensor(lengths)};
}

at::Tensor token_logps(const CausalLM& model, const CompletionBatch& batch, std::int64_t chunk_tokens) {
  return model.log_probs(model.hidden(batch.tokens).index_select(0, batch.rows.to(model.device())), batch.targets,
                         chunk_tokens);
}

at::Tensor sequence_sums(const CompletionBatch& batch, const at::Tensor& token_logps) {
  return at::zeros({batch.lengths.size(0)}, token_logps.options().requires_grad(false))
      .index_add(0, batch.sequence.to(token_logps.device()), token_logps);
}

PairLogps pair_logps(const CausalLM& model, std::span<const TokenPair> pairs, std::int64_t chunk_tokens) {
  std::vector<PromptedResponse> completions;
  for (const TokenPair& pair : pairs) completions.push_back({pair.prompt, pair.chosen});
  for (const TokenPair& pair : pairs) completions.push_back({pair.prompt, pair.rejected});
  const CompletionBatch batch = pack_completions(completions);
  const at::Tensor sums = sequence_sums(batch, token_logps(model, batch, chunk_tokens));
  const auto count = static_cast<std::int64_t>(pairs.size());
  return {.chosen = sums.narrow(0, 0, count),
          .rejected = sums.narrow(0, count, count),
          .chosen_lengths = batch.lengths.narrow(0, 0, count),
          .rejected_lengths = batch.lengths.narrow(0, count, count)};
}

std::vector<std::vector<double>> response_token_logps(const CausalLM& model,
                                                      std::span<const PromptedResponse> completions,
                                                      const ScoringOptions& options) {
  const c10::NoGradGuard no_grad;
  std::vector<std::vector<double>> result(completions.size());
  in_batches(completions, options.batch_tokens, [&](std::span<const PromptedResponse> part, std::size_t first) {
    const CompletionBatch batch = pack_completions(part);
    const at::Tensor logps = token_logps(model, batch, options.chunk_tokens).to(at::kCPU, at::kDouble);
    const double* next = logps.const_data_ptr<double>();
    for (std::size_t s = 0; s < part.size(); ++s) {
      result[first + s].assign(next, next + part[s].response.size());
      next += part[s].response.size();
    }
  });
  return result;
}

std::vector<double> sequence_logps(const CausalLM& model, std::span<const PromptedResponse> completions,
                                   const ScoringOptions& options) {
  std::vector<double> sums;
  for (const std::vector<double>& logps : response_token_logps(model, completions, options)) {
    sums.push_back(std::accumulate(logps.begin(), logps.end(), 0.0));
  }
  return sums;
}

}  // namespace sao
