// SPDX-License-Identifier: Apache-2.0
#include "text/json_node.h"

#include <fmt/format.h>

#include "sao/base/error.h"
#include "sao/io/files.h"

namespace sao::detail {

Json read_json_object(const std::filesystem::path& path) { return parse_json_object(read_file(path), path.string()); }

std::string JsonNode::where() const { return field_.empty() ? file_ : fmt::format("{}: {}", file_, field_); }

std::optional<JsonNode> JsonNode::find(std::string_view key) const {
  if (!value_->is_object()) fail("an object");
  const auto member = value_->find(key);
  if (member == value_->end() || member->is_null()) return std::nullopt;
  return JsonNode(*member, file_, field_.empty() ? std::string(key) : fmt::format("{}.{}", field_, key));
}

JsonNode JsonNode::at(std::string_view key, std::string_view expected) const {
  if (auto member = find(key)) return *std::move(member);
  throw InputError(fmt::format("{}: no field \"{}\", expected {}", where(), key, expected));
}

JsonNode JsonNode::operator[](std::size_t index) const {
  return JsonNode(value_->at(index), file_, fmt::format("{}[{}]", field_, index));
}

const std::string& JsonNode::string() const {
  if (!value_->is_string()) fail("a string");
  return value_->get_ref<const std::string&>();
}

bool JsonNode::boolean() const {
  if (!value_->is_boolean()) fail("true or false");
  return value_->get<bool>();
}

std::int64_t JsonNode::integer() const {
  if (!value_->is_number_integer() ||
      (value_->is_number_unsigned() && value_->get<std::uint64_t>() > std::uint64_t{INT64_MAX}))
    fail("an integer");
  return value_->get<std::int64_t>();
}

std::size_t JsonNode::array_size() const {
  if (!value_->is_array()) fail("a list");
  return value_->size();
}

bool JsonNode::boolean_or(std::string_view key, bool otherwise) const {
  const auto member = find(key);
  return member ? member->boolean() : otherwise;
}

void JsonNode::fail(std::string_view expected) const {
  throw InputError(
      fmt::format("{}{}{}, expected {}", where(), field_.empty() ? ": " : " is ", describe_json(*value_), expected));
}

}  // namespace sao::detail
