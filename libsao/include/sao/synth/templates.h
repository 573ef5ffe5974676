// SPDX-License-Identifier: Apache-2.0
// What the model is asked when it writes prompts.
//   auto templates = sao::find_prompt_templates("my-model");   // the model's own sao_templates.json, else the defaults
//
// The file is one JSON object; judge/templates.h reads its other fields:
//   {"persona": "... {persona} ...", "unguided": "...", "judge": "... {prompt} ... {first} ... {second} ...",
//    "judge_prefix": "ranking: ", "judge_first": "1 > 2", "judge_second": "2 > 1", "criteria": ["...", ...]}
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace sao {

/// User turns that ask for one prompt. The defaults are libsao's own words.
struct PromptTemplates {
  /// {persona} is replaced by the persona's text.
  std::string persona =
      "Imagine that you are the person described below, sitting down to ask an AI assistant for help.\n\n"
      "Person: {persona}\n\n"
      "Write the one prompt that this person would most likely send, in their own voice. Make it informative and "
      "specific: give the details that the assistant needs, and ask for one thing. Do not answer it and do not explain "
      "it. Begin your reply with \"User prompt:\" and write nothing but the prompt after it.";
  /// Without a persona; no places.
  std::string unguided =
      "Write one prompt that a user might send to an AI assistant. Make it informative and specific: give the details "
      "that the assistant needs, and ask for one thing. Do not answer it and do not explain it. Begin your reply with "
      "\"User prompt:\" and write nothing but the prompt after it.";

  bool operator==(const PromptTemplates&) const = default;
};

/// Reads the fields "persona" and "unguided" of a templates file; absent fields keep their defaults.
/// Throws InputError naming the file and the field: not JSON, a field of another type or unknown name, a missing or
/// unknown {place}.
PromptTemplates load_prompt_templates(const std::filesystem::path& file);

/// load_prompt_templates of `model_folder`/sao_templates.json where that file exists, else the defaults.
PromptTemplates find_prompt_templates(const std::filesystem::path& model_folder);

/// Throws InputError that starts with `where` when a template lacks {persona}, or has a place that nothing fills.
void validate(const PromptTemplates& templates, std::string_view where = "prompt templates");

}  // namespace sao
