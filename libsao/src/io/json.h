// SPDX-License-Identifier: Apache-2.0
// JSON for all rooms: parsing with a place in the message, typed fields, options structs to JSON and back.
//   const Json object = detail::parse_json_object(text, path.string());
//   const auto layers = detail::get_field<std::int64_t>(object, "num_hidden_layers", path.string());
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "sao/base/error.h"
#include "sao/base/options.h"
#include "sao/base/seed.h"

namespace sao::detail {

using Json = nlohmann::json;                 ///< fields sorted by name
using OrderedJson = nlohmann::ordered_json;  ///< fields in the order of insertion: what is written to files

/// Throws InputError: "<where>: not valid JSON at line L, column C: ..., expected JSON"; and for values nested so
/// deeply that walking through them would use up the stack. `where` may be empty.
Json parse_json(std::string_view text, std::string_view where);
/// The same; the value must be an object.
Json parse_json_object(std::string_view text, std::string_view where);
/// The same; no object may have a field twice, for readers differ on which of the two counts.
Json parse_json_object_once(std::string_view text, std::string_view where);

/// One line without a newline. Invalid UTF-8 becomes U+FFFD; doubles round-trip; NaN and infinities become null.
std::string dump_json_line(const OrderedJson& value);
/// Indented by two, with a newline at the end.
std::string dump_json_pretty(const OrderedJson& value);

/// A value for a message: `"text"`, `3.5`, `null`, `a list of 4`, `an object`; long text is cut.
std::string describe_json(const Json& value);

/// Throws InputError: `<where>: field "<name>" is <found>, expected <expected>`.
[[noreturn]] void throw_field_error(std::string_view where, std::string_view name, const Json& found,
                                    std::string_view expected);
/// Throws InputError: `<where>: no field "<name>", expected <expected>`.
[[noreturn]] void throw_missing_field(std::string_view where, std::string_view name, std::string_view expected);

/// How a C++ type looks in JSON; `read` says whether the value was such a one.
template <class T>
struct JsonForm;

template <>
struct JsonForm<bool> {
  static constexpr std::string_view kExpected = "true or false";
  static bool read(const Json& json, bool& value);
};
template <>
struct JsonForm<std::int64_t> {
  static constexpr std::string_view kExpected = "an integer";
  static bool read(const Json& json, std::int64_t& value);
};
template <>
struct JsonForm<std::int32_t> {
  static constexpr std::string_view kExpected = "an integer below 2^31";
  static bool read(const Json& json, std::int32_t& value);
};
template <>
struct JsonForm<std::uint64_t> {
  static constexpr std::string_view kExpected = "an integer that is not negative";
  static bool read(const Json& json, std::uint64_t& value);
};
template <>
struct JsonForm<double> {
  static constexpr std::string_view kExpected = "a number";
  static bool read(const Json& json, double& value);
};
template <>
struct JsonForm<std::string> {
  static constexpr std::string_view kExpected = "a string";
  static bool read(const Json& json, std::string& value);
};
template <>
struct JsonForm<Seed> {
  static constexpr std::string_view kExpected = "an integer that is not negative";
  static bool read(const Json& json, Seed& value);
};
template <>
struct JsonForm<std::vector<std::int32_t>> {
  static constexpr std::string_view kExpected = "a list of integers below 2^31";
  static bool read(const Json& json, std::vector<std::int32_t>& value);
};
template <>
struct JsonForm<std::vector<std::int64_t>> {
  static constexpr std::string_view kExpected = "a list of integers";
  static bool read(const Json& json, std::vector<std::int64_t>& value);
};
template <>
struct JsonForm<std::vector<double>> {
  static constexpr std::string_view kExpected = "a list of numbers";
  static bool read(const Json& json, std::vector<double>& value);
};
template <>
struct JsonForm<std::vector<std::string>> {
  static constexpr std::string_view kExpected = "a list of strings";
  static bool read(const Json& json, std::vector<std::string>& value);
};

/// Nothing when the field is absent or null. Throws InputError naming where, field, found and expected.
template <class T>
std::optional<T> find_field(const Json& object, std::string_view name, std::string_view where) {
  const auto field = object.find(name);
  if (field == object.end() || field->is_null()) return std::nullopt;
  T value{};
  if (!JsonForm<T>::read(*field, value)) throw_field_error(where, name, *field, JsonForm<T>::kExpected);
  return value;
}

/// Throws InputError when the field is absent, null or of another type.
template <class T>
T get_field(const Json& object, std::string_view name, std::string_view where) {
  std::optional<T> value = find_field<T>(object, name, where);
  if (!value) throw_missing_field(where, name, JsonForm<T>::kExpected);
  return *std::move(value);
}

/// Sets `value` when the field is there, else leaves it.
template <class T>
void read_field(const Json& object, std::string_view name, std::string_view where, T& value) {
  if (std::optional<T> found = find_field<T>(object, name, where)) value = *std::move(found);
}

/// The fields of an options struct, nested ones as objects, in the order of visit_fields.
template <HasFields Options>
OrderedJson options_to_json(const Options& options) {
  OrderedJson object = OrderedJson::object();
  visit_fields(
      [&object](const char* name, const auto& field, const char*) {
        using Field = std::remove_cvref_t<decltype(field)>;
        if constexpr (HasFields<Field>) {
          object[name] = options_to_json(field);
        } else if constexpr (std::is_same_v<Field, Seed>) {
          object[name] = field.value;
        } else {
          object[name] = field;
        }
      },
      options);
  return object;
}

/// Throws InputError naming every field of `object` that is not in `known`.
void check_known_fields(const Json& object, const std::vector<std::string>& known, std::string_view where);

/// Sets the fields of `options` that `object` has. Throws InputError for a field that the options do not know.
template <HasFields Options>
void options_from_json(const Json& object, Options& options, std::string_view where) {
  if (!object.is_object()) {
    throw InputError((where.empty() ? std::string() : std::string(where) + ": ") + describe_json(object) +
                     ", expected an object");
  }
  std::vector<std::string> known;
  visit_fields(
      [&](const char* name, auto& field, const char*) {
        using Field = std::remove_cvref_t<decltype(field)>;
        known.emplace_back(name);
        if constexpr (HasFields<Field>) {
          const auto nested = object.find(name);
          const std::string place = where.empty() ? std::string(name) : std::string(where) + ": " + name;
          if (nested != object.end()) options_from_json(*nested, field, place);
        } else {
          read_field(object, name, where, field);
        }
      },
      options);
  check_known_fields(object, known, where);
}

/// One sentence for each leaf that differs: "learning_rate: 5e-07 in the checkpoint, 8e-07 now"; fields of nested
/// objects with dots between. Empty when equal. `saved` and `now` are the words behind the two values.
std::vector<std::string> json_differences(const Json& saved_value, const Json& now_value,
                                          std::string_view saved = "in the checkpoint", std::string_view now = "now");

/// json_differences of two options structs.
template <HasFields Options>
std::vector<std::string> option_differences(const Options& saved_options, const Options& now_options,
                                            std::string_view saved = "in the checkpoint",
                                            std::string_view now = "now") {
  return json_differences(Json(options_to_json(saved_options)), Json(options_to_json(now_options)), saved, now);
}

}  // namespace sao::detail
