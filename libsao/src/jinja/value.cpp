// SPDX-License-Identifier: Apache-2.0
#include "sao/jinja/value.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/utf8.h"
#include "jinja/objects.h"
#include "jinja/unicode.h"

namespace sao::jinja {
namespace {

using Json = nlohmann::ordered_json;

// Values do not nest deeper than kMaxNesting, so neither does this.
Value from_json(const Json& json, int depth) {
  if (depth > kMaxNesting)
    throw InputError(fmt::format("JSON nested more than {} deep, expected at most that", kMaxNesting));
  switch (json.type()) {
    case Json::value_t::boolean:
      return json.get<bool>();
    case Json::value_t::number_integer:
      return json.get<std::int64_t>();
    case Json::value_t::number_unsigned:
      if (json.get<std::uint64_t>() > INT64_MAX)
        throw InputError(fmt::format("the integer {}, expected one of 64 bits", json.dump()));
      return json.get<std::int64_t>();
    case Json::value_t::number_float:
      return json.get<double>();
    case Json::value_t::string:
      return Value(json.get_ref<const std::string&>());
    case Json::value_t::array: {
      std::vector<Value> items;
      for (const Json& item : json) items.push_back(from_json(item, depth + 1));
      return Value::list(std::move(items));
    }
    case Json::value_t::object: {
      Value::Fields fields;
      for (const auto& [name, value] : json.items()) fields.emplace_back(name, from_json(value, depth + 1));
      return Value::dict(fields);
    }
    default:
      return {};
  }
}

// Values made outside of a template: what is nested too deep is an InputError.
template <class Make>
Value checked(const Make& make) {
  try {
    return make();
  } catch (const Failure& failure) {
    throw InputError(failure.message);
  }
}

}  // namespace

Value::Value(std::string text) : data_(std::make_shared<StringObject>(detail::replace_invalid_utf8(text))) {}

Value Value::list(std::vector<Value> items) {
  return checked(
      [&] { return Value(std::make_shared<SequenceObject>(SequenceObject::Kind::kList, std::move(items))); });
}

Value Value::dict(const Fields& fields) {
  DictBuilder builder;
  for (const auto& [name, value] : fields) builder.set(name, value);
  return checked([&] { return Value(std::make_shared<DictObject>(builder.take())); });
}

Value Value::parse_json(std::string_view text) {
  try {
    return from_json(Json::parse(text), 1);
  } catch (const Json::exception& error) {
    throw InputError(fmt::format("not valid JSON: {}, expected JSON", error.what()));
  }
}

}  // namespace sao::jinja
