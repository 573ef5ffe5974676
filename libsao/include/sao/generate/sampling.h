// SPDX-License-Identifier: Apache-2.0
// How the next token is chosen.
#pragma once

#include <cstdint>

#include "sao/base/options.h"

namespace sao {

struct SamplingOptions {
  double temperature = 1.0;  ///< logits are divided by it; 0 = greedy (the most likely token)
  std::int64_t top_k = 0;    ///< keep the k most likely tokens; 0 = all
  double top_p = 1.0;        ///< keep the smallest set whose probability reaches top_p (nucleus)
  double min_p = 0.0;        ///< drop tokens below min_p times the most likely one
  std::int64_t max_new_tokens = 256;
  bool ignore_eos = false;  ///< go on past stop tokens, to max_new_tokens
};

template <class Visitor, OptionsOf<SamplingOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("temperature", options.temperature, "softmax temperature; 0 is greedy");
  visit("top_k", options.top_k, "keep the k most likely tokens; 0 keeps all");
  visit("top_p", options.top_p, "keep the smallest set of tokens whose probability reaches this");
  visit("min_p", options.min_p, "drop tokens below this share of the most likely one's probability");
  visit("max_new_tokens", options.max_new_tokens, "longest response, in tokens");
  visit("ignore_eos", options.ignore_eos, "go on past stop tokens");
}

/// Throws InputError naming every field out of range.
void validate(const SamplingOptions& options);

}  // namespace sao
