// SPDX-License-Identifier: Apache-2.0
// sao_templates.json, whose fields synth and judge each read for themselves.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "sao/base/error.h"
#include "sao/io/files.h"

namespace sao::detail {

inline constexpr std::array<std::string_view, 7> kTemplateFields = {
    "persona", "unguided", "judge", "judge_prefix", "judge_first", "judge_second", "criteria"};

/// The file's object. Throws InputError: unreadable, not a JSON object, a field of unknown name.
inline nlohmann::json read_template_file(const std::filesystem::path& file) {
  constexpr std::uint64_t kMaxBytes = 1 << 20;
  const std::string bytes = read_file(file, kMaxBytes);
  const nlohmann::json object = nlohmann::json::parse(bytes, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) throw InputError(fmt::format("{}: not a JSON object, expected one", file.string()));
  for (const auto& field : object.items()) {
    if (std::find(kTemplateFields.begin(), kTemplateFields.end(), field.key()) == kTemplateFields.end()) {
      throw InputError(fmt::format("{}: unknown field \"{}\", expected {}", file.string(), field.key(),
                                   "persona, unguided, judge, judge_prefix, judge_first, judge_second or criteria"));
    }
  }
  return object;
}

/// Sets `value` to the string field `name` where the object has it. Throws InputError naming file and field.
inline void read_template_field(const nlohmann::json& object, const std::filesystem::path& file, const char* name,
                                std::string& value) {
  const auto field = object.find(name);
  if (field == object.end()) return;
  if (!field->is_string()) {
    throw InputError(fmt::format("{}: {}: {}, expected a string", file.string(), name, field->type_name()));
  }
  value = field->get<std::string>();
}

}  // namespace sao::detail
