// SPDX-License-Identifier: Apache-2.0
#include "sao/data/records.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "data/message_json.h"
#include "io/json.h"
#include "sao/base/error.h"

namespace sao {
namespace {

using detail::find_field;
using detail::get_field;
using detail::Json;
using detail::OrderedJson;
using detail::read_field;

OrderedJson or_null(const std::optional<double>& value) { return value ? OrderedJson(*value) : OrderedJson(nullptr); }

Json parse_record(std::string_view line) { return detail::parse_json_object(line, ""); }

double get_probability(const Json& object, std::string_view name, double otherwise) {
  const double value = find_field<double>(object, name, "").value_or(otherwise);
  if (!(value >= 0.0 && value <= 1.0)) {
    detail::throw_field_error("", name, *object.find(name), "a probability between 0 and 1");
  }
  return value;
}

TokenIds get_ids(const Json& object, std::string_view name) {
  TokenIds ids = find_field<TokenIds>(object, name, "").value_or(TokenIds{});
  if (std::any_of(ids.begin(), ids.end(), [](TokenId id) { return id < 0; })) {
    throw InputError(fmt::format("field \"{}\" holds a negative id, expected token ids", name));
  }
  return ids;
}

/// prompt, chosen or rejected: a string is one message of `role`.
Messages get_side(const Json& object, std::string_view name, const char* role) {
  const auto field = object.find(name);
  if (field == object.end() || field->is_null()) {
    detail::throw_missing_field("", name, "a string or a list of messages");
  }
  if (field->is_string()) return {{.role = role, .content = field->get<std::string>()}};
  if (!field->is_array()) detail::throw_field_error("", name, *field, "a string or a list of messages");
  return detail::messages_from_json(*field, fmt::format("field \"{}\"", name));
}

/// TRL's implicit prompt: what chosen and rejected have in common at their beginning, the last item of neither.
void split_off_prompt(Preference& record) {
  if (record.plain_text) {
    std::string& chosen = record.chosen[0].content;
    std::string& rejected = record.rejected[0].content;
    const std::size_t shorter = std::min(chosen.size(), rejected.size());
    const auto differ = std::mismatch(chosen.begin(), chosen.end(), rejected.begin(), rejected.end());
    std::size_t length = static_cast<std::size_t>(differ.first - chosen.begin());
    const bool differs = length < shorter;
    if (!differs && length > 0) length = shorter - 1;
    const auto inside_character = [](const std::string& text, std::size_t at) {
      return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80U;
    };
    while (length > 0 && (inside_character(chosen, length) || inside_character(rejected, length))) --length;
    // The blank before an answer belongs to the answer, as in TRL's extract_prompt.
    if (differs && length > 0 && chosen[length - 1] == ' ') --length;
    if (length == 0) {
      throw InputError("no field \"prompt\", and chosen and rejected share no beginning, expected a prompt");
    }
    record.prompt = {{.role = "user", .content = chosen.substr(0, length)}};
    chosen.erase(0, length);
    rejected.erase(0, length);
    return;
  }
  const std::size_t most = std::min(record.chosen.size(), record.rejected.size()) - 1;
  std::size_t length = 0;
  while (length < most && record.chosen[length] == record.rejected[length]) ++length;
  if (length == 0) {
    throw InputError("no field \"prompt\", and chosen and rejected share no first message, expected a prompt");
  }
  record.prompt.assign(record.chosen.begin(), record.chosen.begin() + static_cast<std::ptrdiff_t>(length));
  record.chosen.erase(record.chosen.begin(), record.chosen.begin() + static_cast<std::ptrdiff_t>(length));
  record.rejected.erase(record.rejected.begin(), record.rejected.begin() + static_cast<std::ptrdiff_t>(length));
}

void read_sides(const Json& object, Preference& record) {
  const auto prompt = object.find("prompt");
  const bool has_prompt = prompt != object.end() && !prompt->is_null();
  record.chosen = get_side(object, "chosen", "assistant");
  record.rejected = get_side(object, "rejected", "assistant");
  record.plain_text =
      object["chosen"].is_string() && object["rejected"].is_string() && (!has_prompt || prompt->is_string());
  // TRL's rule for a plain prompt beside conversations: those hold it again, as UltraFeedback's binarized rows do.
  const bool repeated = has_prompt && prompt->is_string() && object["chosen"].is_array() &&
                        object["rejected"].is_array() && record.chosen.size() > 1 && record.rejected.size() > 1 &&
                        record.chosen[0] == record.rejected[0];
  if (repeated) {
    split_off_prompt(record);
  } else if (has_prompt) {
    record.prompt = get_side(object, "prompt", "user");
  } else if (object["chosen"].is_string() == object["rejected"].is_string()) {
    split_off_prompt(record);
  } else {
    detail::throw_missing_field("", "prompt", "a string or a list of messages");
  }
}

// Other tools number their rows.
std::string get_id(const Json& object) {
  if (const auto id = object.find("id"); id != object.end() && id->is_number_integer()) return id->dump();
  return find_field<std::string>(object, "id", "").value_or("");
}

double get_weight(const Json& object) {
  const double weight = find_field<double>(object, "weight", "").value_or(1.0);
  if (!(weight >= 0.0) || std::isinf(weight)) {
    detail::throw_field_error("", "weight", object["weight"], "a number that is not negative");
  }
  return weight;
}

std::optional<double> get_logp(const Json& object, const char* name) {
  const std::optional<double> value = find_field<double>(object, name, "");
  if (value && !std::isfinite(*value)) detail::throw_field_error("", name, object[name], "a finite log-prob");
  return value;
}

/// `<side>_input_ids` without padding (attention mask 0), and what of it is prompt (label -100).
struct TokenizedSide {
  TokenIds prompt = {};
  TokenIds response = {};
};

TokenizedSide get_tokenized_side(const Json& object, const std::string& side) {
  const std::string ids_name = side + "_input_ids", mask_name = side + "_attention_mask",
                    labels_name = side + "_labels";
  if (!object.contains(ids_name)) detail::throw_missing_field("", ids_name, "a list of token ids");
  const TokenIds ids = get_ids(object, ids_name);
  const auto mask = find_field<std::vector<std::int64_t>>(object, mask_name, "");
  const auto labels = find_field<std::vector<std::int64_t>>(object, labels_name, "");
  for (const auto& [list, name] : {std::pair{&mask, &mask_name}, std::pair{&labels, &labels_name}}) {
    if (*list && (*list)->size() != ids.size()) {
      throw InputError(fmt::format("field \"{}\" is a list of {}, expected {} as in {}", *name, (*list)->size(),
                                   ids.size(), ids_name));
    }
  }
  constexpr std::int64_t kIgnored = -100;
  TokenizedSide result;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (mask && (*mask)[i] == 0) continue;
    const bool prompt = labels && (*labels)[i] == kIgnored;
    if (prompt && !result.response.empty()) {
      throw InputError(
          fmt::format("field \"{}\" has a -100 after the response began, expected them in front of it", labels_name));
    }
    (prompt ? result.prompt : result.response).push_back(ids[i]);
  }
  return result;
}

/// Tokenized rows of older TRL versions: `prompt_input_ids` beside completions alone; or prompt and completion in one,
/// with labels of -100 on the prompt.
void read_input_ids(const Json& object, Preference& record) {
  const TokenizedSide chosen = get_tokenized_side(object, "chosen"), rejected = get_tokenized_side(object, "rejected");
  if (chosen.prompt != rejected.prompt) {
    throw InputError("fields \"chosen_labels\" and \"rejected_labels\" leave two prompts, expected the same one");
  }
  record.prompt_ids = chosen.prompt;
  if (record.prompt_ids.empty()) record.prompt_ids = get_tokenized_side(object, "prompt").response;
  record.chosen_ids = chosen.response;
  record.rejected_ids = rejected.response;
}

OrderedJson side_to_json(const Messages& messages, bool plain_text) {
  if (plain_text) return messages.empty() ? OrderedJson("") : OrderedJson(messages[0].content);
  return detail::messages_to_json(messages);
}

}  // namespace

std::string to_json_line(const Persona& record) { return detail::dump_json_line({{"persona", record.text}}); }

std::string to_json_line(const Prompt& record) {
  return detail::dump_json_line({{"id", record.id},
                                 {"persona", record.persona},
                                 {"text", record.text},
                                 {"ids", record.ids},
                                 {"outcome", record.outcome}});
}

std::string to_json_line(const Response& record) {
  return detail::dump_json_line({{"id", record.id},
                                 {"prompt_id", record.prompt_id},
                                 {"k", record.k},
                                 {"text", record.text},
                                 {"ids", record.ids},
                                 {"finish_reason", record.finish_reason},
                                 {"seed", record.seed},
                                 {"weights_version", record.weights_version}});
}

std::string to_json_line(const Verdict& record) {
  return detail::dump_json_line({{"id", record.id},
                                 {"prompt_id", record.prompt_id},
                                 {"first_id", record.first_id},
                                 {"second_id", record.second_id},
                                 {"p_as_first", or_null(record.p_as_first)},
                                 {"p_as_second", or_null(record.p_as_second)},
                                 {"p", record.p_first},
                                 {"outcome", record.outcome}});
}

std::string to_json_line(const Preference& record) {
  OrderedJson object = OrderedJson::object();
  if (!record.id.empty()) object["id"] = record.id;
  if (!record.chosen.empty() || !record.rejected.empty()) {
    object["prompt"] = side_to_json(record.prompt, record.plain_text);
    object["chosen"] = side_to_json(record.chosen, record.plain_text);
    object["rejected"] = side_to_json(record.rejected, record.plain_text);
  }
  if (!record.chosen_ids.empty() || !record.rejected_ids.empty()) {
    object["prompt_ids"] = record.prompt_ids;
    object["chosen_ids"] = record.chosen_ids;
    object["rejected_ids"] = record.rejected_ids;
    object["prompt_length"] = record.prompt_ids.size();
    object["chosen_length"] = record.chosen_ids.size();
    object["rejected_length"] = record.rejected_ids.size();
  }
  if (!record.gold.empty()) object["reference"] = side_to_json(record.gold, record.plain_text);
  if (!record.gold_ids.empty()) object["reference_ids"] = record.gold_ids;
  if (record.reference_chosen) object["ref_chosen_logps"] = *record.reference_chosen;
  if (record.reference_rejected) object["ref_rejected_logps"] = *record.reference_rejected;
  object["p"] = record.p;
  object["weight"] = record.weight;
  return detail::dump_json_line(object);
}

std::string to_json_line(const UnpairedPreference& record) {
  OrderedJson object = OrderedJson::object();
  if (!record.id.empty()) object["id"] = record.id;
  if (!record.completion.empty()) {
    object["prompt"] = side_to_json(record.prompt, record.plain_text);
    object["completion"] = side_to_json(record.completion, record.plain_text);
  }
  if (!record.completion_ids.empty()) {
    object["prompt_ids"] = record.prompt_ids;
    object["completion_ids"] = record.completion_ids;
  }
  object["label"] = record.label;
  if (record.reference) object["ref_logps"] = *record.reference;
  object["weight"] = record.weight;
  return detail::dump_json_line(object);
}

void from_json_line(std::string_view line, Persona& record) {
  const Json object = parse_record(line);
  record = {.text = get_field<std::string>(object, "persona", "")};
  if (record.text.find_first_not_of(" \t\r\n") == std::string::npos) {
    detail::throw_field_error("", "persona", object["persona"], "a text that is not blank");
  }
}

void from_json_line(std::string_view line, Prompt& record) {
  const Json object = parse_record(line);
  record = {.id = get_field<std::string>(object, "id", ""),
            .persona = find_field<std::string>(object, "persona", "").value_or(""),
            .text = get_field<std::string>(object, "text", ""),
            .ids = get_ids(object, "ids"),
            .outcome = find_field<std::string>(object, "outcome", "").value_or("")};
}

void from_json_line(std::string_view line, Response& record) {
  const Json object = parse_record(line);
  record = {.id = get_field<std::string>(object, "id", ""),
            .prompt_id = get_field<std::string>(object, "prompt_id", ""),
            .k = find_field<std::int64_t>(object, "k", "").value_or(0),
            .text = get_field<std::string>(object, "text", ""),
            .ids = get_ids(object, "ids"),
            .finish_reason = get_field<std::string>(object, "finish_reason", ""),
            .seed = find_field<std::uint64_t>(object, "seed", "").value_or(0),
            .weights_version = find_field<std::int64_t>(object, "weights_version", "").value_or(0)};
  if (record.finish_reason != "stop" && record.finish_reason != "length") {
    detail::throw_field_error("", "finish_reason", object["finish_reason"], "\"stop\" or \"length\"");
  }
}

void from_json_line(std::string_view line, Verdict& record) {
  const Json object = parse_record(line);
  record = {.id = get_field<std::string>(object, "id", ""),
            .prompt_id = get_field<std::string>(object, "prompt_id", ""),
            .first_id = get_field<std::string>(object, "first_id", ""),
            .second_id = get_field<std::string>(object, "second_id", ""),
            .p_first = 0.5,
            .p_as_first = find_field<double>(object, "p_as_first", ""),
            .p_as_second = find_field<double>(object, "p_as_second", ""),
            .outcome = get_field<std::string>(object, "outcome", "")};
  if (!object.contains("p")) detail::throw_missing_field("", "p", "a number");
  record.p_first = get_probability(object, "p", 0.5);
}

void from_json_line(std::string_view line, Preference& record) {
  const Json object = parse_record(line);
  record = {};
  record.id = get_id(object);
  if (object.contains("chosen_input_ids") || object.contains("rejected_input_ids")) read_input_ids(object, record);
  const bool has_ids =
      object.contains("prompt_ids") || object.contains("chosen_ids") || object.contains("rejected_ids");
  if (has_ids) {
    for (const char* name : {"prompt_ids", "chosen_ids", "rejected_ids"}) {
      if (!object.contains(name)) {
        detail::throw_missing_field("", name, "prompt_ids, chosen_ids and rejected_ids together");
      }
    }
    record.prompt_ids = get_ids(object, "prompt_ids");
    record.chosen_ids = get_ids(object, "chosen_ids");
    record.rejected_ids = get_ids(object, "rejected_ids");
  }
  if (record.chosen_ids.empty() != record.rejected_ids.empty()) {
    throw InputError(fmt::format("field \"{}\" is empty, expected the ids of a response",
                                 record.chosen_ids.empty() ? "chosen_ids" : "rejected_ids"));
  }
  const bool has_text = object.contains("chosen") || object.contains("rejected") || object.contains("prompt");
  if (has_text || record.chosen_ids.empty()) read_sides(object, record);

  // Other tools put other things into a field of this name.
  if (const auto gold = object.find("reference"); gold != object.end()) {
    const bool messages = gold->is_array() && !gold->empty() && gold->front().is_object();
    if (gold->is_string() || messages) record.gold = get_side(object, "reference", "assistant");
  }
  if (object.contains("reference_ids")) record.gold_ids = get_ids(object, "reference_ids");
  record.reference_chosen = get_logp(object, "ref_chosen_logps");
  record.reference_rejected = get_logp(object, "ref_rejected_logps");
  record.p = get_probability(object, "p", 1.0);
  record.weight = get_weight(object);
}

void from_json_line(std::string_view line, UnpairedPreference& record) {
  const Json object = parse_record(line);
  record = {.id = get_id(object)};
  if (object.contains("prompt_ids") || object.contains("completion_ids")) {
    for (const char* name : {"prompt_ids", "completion_ids"}) {
      if (!object.contains(name)) detail::throw_missing_field("", name, "prompt_ids and completion_ids together");
    }
    record.prompt_ids = get_ids(object, "prompt_ids");
    record.completion_ids = get_ids(object, "completion_ids");
  }
  if (object.contains("prompt") || object.contains("completion") || record.completion_ids.empty()) {
    record.prompt = get_side(object, "prompt", "user");
    record.completion = get_side(object, "completion", "assistant");
    record.plain_text = object["prompt"].is_string() && object["completion"].is_string();
  }
  record.label = get_field<bool>(object, "label", "");
  record.reference = get_logp(object, "ref_logps");
  record.weight = get_weight(object);
}

}  // namespace sao
