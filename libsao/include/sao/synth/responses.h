// SPDX-License-Identifier: Apache-2.0
// Every prompt answered more than once by the model that wrote it.
//   sao::answer_prompts(engine, prompts, {.samples = 2, .seed = seed.fork("answers")},
//                       [&](std::span<const sao::Response> of_one_prompt) { ... append to a file ... });
// Follows: Self-Alignment Optimization, Algorithm 1, step 3 (two independent samples at one temperature, 0.6).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "sao/base/options.h"
#include "sao/base/seed.h"
#include "sao/data/records.h"
#include "sao/generate/generator.h"

namespace sao {

struct ResponseOptions {
  std::int64_t samples = 2;                                                 ///< answers to each prompt
  SamplingOptions sampling = {.temperature = 0.6, .max_new_tokens = 2048};  ///< the paper's temperature
  Seed seed = {};                    ///< sample k of a prompt draws from seed.fork(prompt.id).fork(k)
  std::int64_t weights_version = 0;  ///< put on every response
};

template <class Visitor, OptionsOf<ResponseOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("samples", options.samples, "answers to each prompt");
  visit("sampling", options.sampling, "how answers are sampled");
  visit("seed", options.seed, "seed of the answers");
  visit("weights_version", options.weights_version, "stamp of the weights, put on every answer");
}

/// Called once per prompt, in their order, with its samples.
using OnResponses = std::function<void(std::span<const Response> of_one_prompt)>;

/// `samples` answers to each prompt, prompt by prompt. A prompt's own ids are continued; where it has none, the chat
/// turn of its text. Answers depend on the weights, the options and the prompt's id and ids, not on the other prompts,
/// so a later call with the prompts that are left gives what one call would have. The caller passes the prompts to
/// answer (kept_prompts); outcomes are not looked at. A prompt that leaves no room in the model's context gets answers
/// without text and with finish_reason "length".
/// Throws InputError: an empty or repeated prompt id, options out of range.
std::vector<Response> answer_prompts(Generator& generator, std::span<const Prompt> prompts,
                                     const ResponseOptions& options = {}, const OnResponses& on_responses = {});

}  // namespace sao
