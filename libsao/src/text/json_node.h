// SPDX-License-Identifier: Apache-2.0
// JSON values of deeply nested files that know where they stand, so that an error names the file and the field.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "io/json.h"

namespace sao::detail {

/// The whole file as JSON. Throws InputError with one sentence: unreadable, not JSON, not an object.
Json read_json_object(const std::filesystem::path& path);

/// A view of a value inside a Json that outlives it.
class JsonNode {
 public:
  JsonNode(const Json& value, std::string file, std::string field = {})
      : value_(&value), file_(std::move(file)), field_(std::move(field)) {}

  const Json& value() const { return *value_; }
  const std::string& file() const { return file_; }
  /// "<file>: <field>", the start of an error message.
  std::string where() const;

  /// The member, or nothing when it is absent or null.
  std::optional<JsonNode> find(std::string_view key) const;
  /// The member; throws InputError when it is absent or null.
  JsonNode at(std::string_view key, std::string_view expected) const;
  JsonNode operator[](std::size_t index) const;

  const std::string& string() const;
  bool boolean() const;
  std::int64_t integer() const;
  std::size_t array_size() const;

  bool boolean_or(std::string_view key, bool otherwise) const;

  /// Throws InputError: "<file>: <field> is <value>, expected <expected>".
  [[noreturn]] void fail(std::string_view expected) const;

 private:
  const Json* value_;
  std::string file_;
  std::string field_;
};

}  // namespace sao::detail
