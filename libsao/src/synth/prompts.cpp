// SPDX-License-Identifier: Apache-2.0
#include "sao/synth/prompts.h"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <utility>

#include "sao/base/error.h"
#include "sao/text/placeholders.h"

namespace sao {
namespace {

std::string user_turn(const PromptTemplates& templates, std::string_view persona) {
  const std::array<PlaceholderValue, 1> values = {{{"persona", persona}}};
  return fill_placeholders(templates.persona, values);
}

}  // namespace

std::string prompt_id(std::uint64_t attempt) { return fmt::format("p{:06}", attempt); }

std::vector<Prompt> sample_prompts(Generator& generator, std::span<const Persona> personas, std::uint64_t first,
                                   std::uint64_t count, const PromptOptions& options, const PromptTemplates& templates,
                                   const OnPrompt& on_prompt) {
  validate(templates);
  validate(options.sampling);
  for (std::size_t i = 0; i < personas.size(); ++i) {
    if (personas[i].text.empty()) throw InputError(fmt::format("personas: number {} is empty, expected text", i));
  }
  const ChatTokenizer& text = generator.text();
  std::vector<Prompt> prompts(count);
  std::vector<GenerationRequest> requests;
  std::vector<std::size_t> prompt_of_request;
  std::vector<bool> finished(count, false);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t attempt = first + i;
    prompts[i].id = prompt_id(attempt);
    if (!personas.empty()) prompts[i].persona = personas[attempt % personas.size()].text;
    TokenIds ids = text.encode_prompt(personas.empty() ? templates.unguided : user_turn(templates, prompts[i].persona));
    if (static_cast<std::int64_t>(ids.size()) >= generator.max_tokens()) {
      prompts[i].outcome = "no_room";
      finished[i] = true;
      continue;
    }
    prompt_of_request.push_back(i);
    requests.push_back({.prompt_ids = std::move(ids), .seed = options.seed.fork(attempt)});
  }

  // Completions arrive in any order; callers see attempts in theirs.
  std::size_t reported = 0;
  const auto report = [&] {
    for (; reported < prompts.size() && finished[reported]; ++reported) {
      if (on_prompt) on_prompt(prompts[reported]);
    }
  };
  const auto on_completion = [&](std::size_t request, std::int64_t, Completion completion) {
    const std::size_t i = prompt_of_request[request];
    Prompt& prompt = prompts[i];
    prompt.text = clean_prompt(text.response_text(completion.ids));
    if (completion.finish_reason == FinishReason::kLength) prompt.outcome = "truncated";
    if (!prompt.text.empty()) {
      prompt.ids = text.encode_prompt(prompt.text);
      if (static_cast<std::int64_t>(prompt.ids.size()) >= generator.max_tokens()) prompt.outcome = "no_room";
    }
    finished[i] = true;
    report();
  };
  if (!requests.empty()) generator.generate(requests, options.sampling, on_completion);
  report();
  SAO_CHECK(reported == prompts.size());
  return prompts;
}

std::vector<Prompt> write_prompts(Generator& generator, std::span<const Persona> personas, const PromptOptions& options,
                                  const PromptTemplates& templates) {
  if (options.count < 0 || (options.count == 0 && personas.empty())) {
    throw InputError(fmt::format("PromptOptions: count: {} with {} personas, expected personas or a positive count",
                                 options.count, personas.size()));
  }
  validate(options.filters);
  const std::uint64_t count = options.count > 0 ? static_cast<std::uint64_t>(options.count) : personas.size();
  std::vector<Prompt> prompts = sample_prompts(generator, personas, 0, count, options, templates);
  filter_prompts(prompts, options.filters);
  return prompts;
}

std::vector<Persona> draw_personas(std::span<const Persona> personas, std::size_t count, Seed seed) {
  if (personas.empty() && count > 0) throw InputError("personas: none, expected at least one");
  std::vector<Persona> drawn;
  drawn.reserve(count);
  for (std::uint64_t round = 0; drawn.size() < count; ++round) {
    for (std::size_t index : permutation(seed.fork(round), personas.size())) {
      if (drawn.size() < count) drawn.push_back(personas[index]);
    }
  }
  return drawn;
}

std::vector<Prompt> kept_prompts(std::span<const Prompt> prompts) {
  std::vector<Prompt> kept;
  for (const Prompt& prompt : prompts) {
    if (prompt.outcome == "kept") kept.push_back(prompt);
  }
  return kept;
}

}  // namespace sao
