// SPDX-License-Identifier: Apache-2.0
// Prompts written by the model: as the personas it is given, one prompt each, or unguided.
//   auto personas = sao::read_jsonl<sao::Persona>("personas.jsonl");
//   auto prompts = sao::write_prompts(engine, personas, {.seed = seed.fork("prompts")});
//   auto plain = sao::write_prompts(engine, {}, {.count = 500, .seed = seed.fork("prompts")});
// Follows: Self-Alignment Optimization, Algorithm 1, steps 1 and 2 (one persona, one prompt; temperature 0.6).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "sao/base/options.h"
#include "sao/base/seed.h"
#include "sao/data/records.h"
#include "sao/generate/generator.h"
#include "sao/synth/filters.h"
#include "sao/synth/templates.h"

namespace sao {

struct PromptOptions {
  std::int64_t count = 0;  ///< attempts; 0 is one for each persona; above the personas' number they come round again
  SamplingOptions sampling = {.temperature = 0.6, .max_new_tokens = 512};  ///< the paper's temperature
  PromptFilters filters = {};
  Seed seed = {};  ///< attempt i draws from seed.fork(i)
};

template <class Visitor, OptionsOf<PromptOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("count", options.count, "prompts to attempt; 0 is one for each persona");
  visit("sampling", options.sampling, "how prompts are sampled");
  visit("filters", options.filters, "which prompts are kept");
  visit("seed", options.seed, "seed of the prompts");
}

/// Called with every finished attempt, in the order asked for.
using OnPrompt = std::function<void(const Prompt&)>;

/// The attempts `first` to `first + count - 1`, before any filter that looks at other prompts: text (cleaned), ids
/// (the chat turn that asks it) and outcome "" , "truncated" (cut at max_new_tokens) or "no_room" (the persona's turn,
/// or the prompt itself, fills the model's context). Attempt i uses persona i modulo their number, or none when
/// `personas` is empty, and is a function of the weights, the options and i alone: the same in one call or many.
/// `options.count` and `options.filters` are not used. Throws InputError: templates without their places.
std::vector<Prompt> sample_prompts(Generator& generator, std::span<const Persona> personas, std::uint64_t first,
                                   std::uint64_t count, const PromptOptions& options = {},
                                   const PromptTemplates& templates = {}, const OnPrompt& on_prompt = {});

/// sample_prompts of all attempts, then filter_prompts: every attempt with its outcome, in order.
/// Throws InputError: neither personas nor a count.
std::vector<Prompt> write_prompts(Generator& generator, std::span<const Persona> personas,
                                  const PromptOptions& options = {}, const PromptTemplates& templates = {});

/// `count` personas in a random order without repetition; when there are fewer, in further random rounds.
std::vector<Persona> draw_personas(std::span<const Persona> personas, std::size_t count, Seed seed);

/// "p000017".
std::string prompt_id(std::uint64_t attempt);

/// The kept ones, in order.
std::vector<Prompt> kept_prompts(std::span<const Prompt> prompts);

}  // namespace sao
