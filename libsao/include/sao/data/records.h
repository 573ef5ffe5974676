// SPDX-License-Identifier: Apache-2.0
// The values that travel between the stages, and their JSON Lines form (the run directory's files).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "sao/base/tokens.h"
#include "sao/text/chat.h"

namespace sao {

/// A voice for prompts. Line: {"persona": s}; other fields are ignored.
struct Persona {
  std::string text = {};
  bool operator==(const Persona&) const = default;
};

/// A prompt the model wrote. `outcome` is "kept" or the reason it was dropped ("duplicate", "too_short", ...).
struct Prompt {
  std::string id = {};       ///< "p000017": the index of the attempt
  std::string persona = {};  ///< empty for unguided prompts
  std::string text = {};
  TokenIds ids = {};  ///< the chat turn that asks it, assistant's header open: what the sampler continues
  std::string outcome = {};
  bool operator==(const Prompt&) const = default;
};

/// One sampled answer.
struct Response {
  std::string id = {};  ///< "p000017-0"
  std::string prompt_id = {};
  std::int64_t k = 0;  ///< number of the sample
  std::string text = {};
  TokenIds ids = {};               ///< exactly as sampled, the stop token included
  std::string finish_reason = {};  ///< "stop" or "length"
  std::uint64_t seed = 0;
  std::int64_t weights_version = 0;  ///< stamp of the weights that sampled it
  bool operator==(const Response&) const = default;
};

/// What the judge said of a pair of responses.
struct Verdict {
  std::string id = {};  ///< "p000017"
  std::string prompt_id = {};
  std::string first_id = {};  ///< response ids
  std::string second_id = {};
  double p_first = 0.5;                    ///< probability that the first is better, both orders combined
  std::optional<double> p_as_first = {};   ///< P(first better), first shown first
  std::optional<double> p_as_second = {};  ///< P(first better), first shown second
  std::string outcome =
      {};  ///< "first", "second", "tie", "inconsistent", "unparsable", "identical", "empty", "truncated", "too_long"
  bool operator==(const Verdict&) const = default;
};

/// A preference pair in TRL's form. Prompt, chosen and rejected as message lists or plain strings;
/// ids where they are known (then they are what is trained on). Optional: TRL's third, best answer "reference" (with
/// ids "reference_ids") and its precomputed log-prob sums "ref_chosen_logps" and "ref_rejected_logps".
struct Preference {
  std::string id = {};
  Messages prompt = {};
  Messages chosen = {};
  Messages rejected = {};
  TokenIds prompt_ids = {};
  TokenIds chosen_ids = {};
  TokenIds rejected_ids = {};
  double p = 1.0;           ///< the judge's probability that chosen is better: a soft label
  double weight = 1.0;      ///< of the pair in the loss
  bool plain_text = false;  ///< prompt, chosen, rejected were plain strings (each list holds one message)
  Messages gold = {};       ///< "reference": the answer that TPO imitates
  TokenIds gold_ids = {};
  std::optional<double> reference_chosen = {};  ///< log-prob sums of the responses under the reference model
  std::optional<double> reference_rejected = {};
  bool operator==(const Preference&) const = default;
};

/// An answer that somebody liked or did not, without one to compare it with: TRL's unpaired preference rows, for KTO.
/// Line: {"prompt", "completion", "label"}, prompt and completion strings or message lists, or {"prompt_ids",
/// "completion_ids", "label"}; optional "id", "weight", and the reference's log-prob sum "ref_logps".
struct UnpairedPreference {
  std::string id = {};
  Messages prompt = {};
  Messages completion = {};
  TokenIds prompt_ids = {};
  TokenIds completion_ids = {};
  bool label = true;                     ///< true: desirable, false: undesirable
  double weight = 1.0;                   ///< of the row in the loss
  bool plain_text = false;               ///< prompt and completion were plain strings (each list holds one message)
  std::optional<double> reference = {};  ///< log-prob sum of the completion under the reference model
  bool operator==(const UnpairedPreference&) const = default;
};

std::string to_json_line(const Persona&);
std::string to_json_line(const Prompt&);
std::string to_json_line(const Response&);
std::string to_json_line(const Verdict&);
std::string to_json_line(const Preference&);
std::string to_json_line(const UnpairedPreference&);
/// Each throws InputError naming the field, what was found and what was expected.
void from_json_line(std::string_view line, Persona& record);
void from_json_line(std::string_view line, Prompt& record);
void from_json_line(std::string_view line, Response& record);
void from_json_line(std::string_view line, Verdict& record);
void from_json_line(std::string_view line, Preference& record);
void from_json_line(std::string_view line, UnpairedPreference& record);

}  // namespace sao
