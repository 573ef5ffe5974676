// SPDX-License-Identifier: Apache-2.0
#include "sao/train/logps.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
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
  // A prompt with several responses is a sequence of its own, which they continue.
  struct Shared {
    std::int64_t uses = 0;
    std::int64_t sequence = -1;  // once it is in the pack
    std::int64_t begin = 0;
  };
  const auto before = [](TokenSpan a, TokenSpan b) { return std::ranges::lexicographical_compare(a, b); };
  std::map<TokenSpan, Shared, decltype(before)> prompts(before);
  for (std::size_t s = 0; s < completions.size(); ++s) {
    const auto& [prompt, response, score_prompt] = completions[s];
    if (prompt.empty() || response.empty()) {
      throw InputError(fmt::format("completion {}: prompt of {} tokens, response of {}, expected neither empty", s,
                                   prompt.size(), response.size()));
    }
    ++prompts[prompt].uses;
  }

  std::vector<PackedSequence> sequences;
  std::vector<TokenIds> joined;
  joined.reserve(completions.size());  // the sequences look into it
  std::vector<std::int64_t> rows, targets, owner, lengths;
  std::int64_t end = 0;  // of the pack so far
  const auto append = [&](TokenSpan ids, std::int64_t parent) {
    sequences.push_back({.ids = ids, .parent = parent});
    end += static_cast<std::int64_t>(ids.size());
  };
  for (std::size_t s = 0; s < completions.size(); ++s) {
    const auto& [prompt, response, score_prompt] = completions[s];
    const auto prompt_length = static_cast<std::int64_t>(prompt.size());
    const TokenSpan inputs = response.first(response.size() - 1);
    Shared& known = prompts[prompt];
    if (known.uses == 1) {
      known.begin = end;
      TokenIds& ids = joined.emplace_back(prompt.begin(), prompt.end());
      ids.insert(ids.end(), inputs.begin(), inputs.end());
      append(ids, -1);
    } else if (known.sequence < 0) {
      known.begin = end;
      known.sequence = static_cast<std::int64_t>(sequences.size());
      append(prompt, -1);
    }
    // The prompt's last token predicts the response's first, and so on.
    const std::int64_t first = known.uses == 1 ? known.begin + prompt_length : end;
    const std::size_t scored = targets.size();
    const auto score = [&](std::int64_t row, TokenId target) {
      rows.push_back(row);
      targets.push_back(target);
      owner.push_back(static_cast<std::int64_t>(s));
    };
    for (std::size_t t = 1; score_prompt && t < prompt.size(); ++t) {
      score(known.begin + static_cast<std::int64_t>(t) - 1, prompt[t]);
    }
    for (std::size_t t = 0; t < response.size(); ++t) {
      score(t == 0 ? known.begin + prompt_length - 1 : first + static_cast<std::int64_t>(t) - 1, response[t]);
    }
    lengths.push_back(static_cast<std::int64_t>(targets.size() - scored));
    if (known.uses > 1 && !inputs.empty()) append(inputs, known.sequence);
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
      const std::size_t scored = part[s].response.size() + (part[s].score_prompt ? part[s].prompt.size() - 1 : 0);
      result[first + s].assign(next, next + scored);
      next += scored;
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
