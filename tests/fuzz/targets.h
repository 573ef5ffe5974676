// SPDX-License-Identifier: Apache-2.0
// What is fuzzed: every reader of files that come from strangers. A target may throw InputError and ResourceError,
// which it lets pass; everything else that leaves it, and every broken promise of its own, is a finding.
#pragma once

#include <array>
#include <string_view>

namespace sao::fuzz {

void annotations(std::string_view input);
void chat_format(std::string_view input);
void checkpoint(std::string_view input);
void config(std::string_view input);
void records(std::string_view input);
void safetensors(std::string_view input);
void sentencepiece(std::string_view input);
void chat_template(std::string_view input);
void task(std::string_view input);
void tokenizer(std::string_view input);
void toml(std::string_view input);

struct Target {
  const char* name;  ///< of the folder of its corpus
  void (*run)(std::string_view input);
};

inline constexpr std::array<Target, 11> kTargets = {{{"annotations", annotations},
                                                     {"chat_format", chat_format},
                                                     {"checkpoint", checkpoint},
                                                     {"config", config},
                                                     {"records", records},
                                                     {"safetensors", safetensors},
                                                     {"sentencepiece", sentencepiece},
                                                     {"chat_template", chat_template},
                                                     {"task", task},
                                                     {"tokenizer", tokenizer},
                                                     {"toml", toml}}};

}  // namespace sao::fuzz
