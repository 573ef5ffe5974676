// SPDX-License-Identifier: Apache-2.0
#include "sao/synth/responses.h"

#include <fmt/format.h>

#include <string>
#include <unordered_set>
#include <utility>

#include "sao/base/error.h"

namespace sao {
namespace {

void check_ids(std::span<const Prompt> prompts) {
  std::unordered_set<std::string_view> seen;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].id.empty() || !seen.insert(prompts[i].id).second) {
      throw InputError(fmt::format("prompts: number {} has the id \"{}\", expected one of its own", i, prompts[i].id));
    }
  }
}

}  // namespace

std::vector<Response> answer_prompts(Generator& generator, std::span<const Prompt> prompts,
                                     const ResponseOptions& options, const OnResponses& on_responses) {
  validate(options.sampling);
  if (options.samples < 1) {
    throw InputError(fmt::format("ResponseOptions: samples: {}, expected at least 1", options.samples));
  }
  check_ids(prompts);
  const ChatTokenizer& text = generator.text();
  const auto samples = static_cast<std::size_t>(options.samples);
  std::vector<Response> responses(prompts.size() * samples);
  std::vector<std::size_t> missing(prompts.size(), samples);  // samples not finished yet
  std::vector<GenerationRequest> requests;
  std::vector<std::size_t> prompt_of_request;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const Seed seed = options.seed.fork(prompts[i].id);
    for (std::size_t k = 0; k < samples; ++k) {
      responses[i * samples + k] = {.id = fmt::format("{}-{}", prompts[i].id, k),
                                    .prompt_id = prompts[i].id,
                                    .k = static_cast<std::int64_t>(k),
                                    .finish_reason = std::string(to_string(FinishReason::kLength)),
                                    .seed = seed.value,
                                    .weights_version = options.weights_version};
    }
    TokenIds ids = prompts[i].ids.empty() ? text.encode_prompt(prompts[i].text) : prompts[i].ids;
    if (static_cast<std::int64_t>(ids.size()) >= generator.max_tokens()) {
      missing[i] = 0;
      continue;
    }
    prompt_of_request.push_back(i);
    requests.push_back({.prompt_ids = std::move(ids), .seed = seed, .samples = options.samples});
  }

  // Completions arrive in any order; callers see prompts in theirs.
  std::size_t reported = 0;
  const auto report = [&] {
    for (; reported < prompts.size() && missing[reported] == 0; ++reported) {
      if (on_responses) on_responses(std::span<const Response>(responses).subspan(reported * samples, samples));
    }
  };
  const auto on_completion = [&](std::size_t request, std::int64_t sample, Completion completion) {
    const std::size_t i = prompt_of_request[request];
    Response& response = responses[i * samples + static_cast<std::size_t>(sample)];
    response.text = text.response_text(completion.ids);
    response.finish_reason = to_string(completion.finish_reason);
    response.ids = std::move(completion.ids);
    --missing[i];
    report();
  };
  if (!requests.empty()) generator.generate(requests, options.sampling, on_completion);
  report();
  SAO_CHECK(reported == prompts.size());
  return responses;
}

}  // namespace sao
