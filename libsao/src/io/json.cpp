// SPDX-License-Identifier: Apache-2.0
#include "io/json.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <set>

namespace sao::detail {
namespace {

std::string place(std::string_view where) { return where.empty() ? std::string() : fmt::format("{}: ", where); }

template <class T>
bool read_list(const Json& json, std::vector<T>& value) {
  if (!json.is_array()) return false;
  value.clear();
  value.reserve(json.size());
  for (const Json& item : json) {
    T element{};
    if (!JsonForm<T>::read(item, element)) return false;
    value.push_back(std::move(element));
  }
  return true;
}

constexpr std::size_t kMaxDepth = 500;  // the reference's parsers stop at 128 or 1000

/// Throws where brackets are nested deeper than that, whether the rest is JSON or not.
void check_depth(std::string_view text, std::string_view where) {
  std::size_t depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) {
        throw InputError(fmt::format("{}JSON nested more than {} deep at byte {}, expected at most that", place(where),
                                     kMaxDepth, i));
      }
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
}

/// nlohmann's "[json.exception.parse_error.101] parse error at line 1, column 5: ..." without the bracket.
std::string without_exception_name(std::string_view what) {
  const std::size_t bracket = what.find("] ");
  if (what.starts_with('[') && bracket != std::string_view::npos) what.remove_prefix(bracket + 2);
  constexpr std::string_view kParseError = "parse error ";
  if (what.starts_with(kParseError)) what.remove_prefix(kParseError.size());
  return std::string(what);
}

void check_object(const Json& value, std::string_view where) {
  if (!value.is_object()) {
    throw InputError(fmt::format("{}{}, expected a JSON object", place(where), describe_json(value)));
  }
}

/// Json::parse with InputError.
Json parse_checked(std::string_view text, std::string_view where, const Json::parser_callback_t& watch) {
  check_depth(text, where);
  try {
    return Json::parse(text, watch);
  } catch (const nlohmann::json::exception& error) {
    throw InputError(
        fmt::format("{}not valid JSON {}, expected JSON", place(where), without_exception_name(error.what())));
  }
}

void collect_differences(const Json* saved_value, const Json* now_value, const std::string& name,
                         std::string_view saved, std::string_view now, std::vector<std::string>& differences) {
  const bool saved_is_object = saved_value != nullptr && saved_value->is_object();
  const bool now_is_object = now_value != nullptr && now_value->is_object();
  if (saved_is_object && now_is_object) {
    std::set<std::string> names;
    for (const auto& field : saved_value->items()) names.insert(field.key());
    for (const auto& field : now_value->items()) names.insert(field.key());
    for (const std::string& key : names) {
      const auto in_saved = saved_value->find(key);
      const auto in_now = now_value->find(key);
      collect_differences(in_saved == saved_value->end() ? nullptr : &*in_saved,
                          in_now == now_value->end() ? nullptr : &*in_now, name.empty() ? key : name + "." + key, saved,
                          now, differences);
    }
    return;
  }
  if (saved_value != nullptr && now_value != nullptr && *saved_value == *now_value) return;
  const auto value = [](const Json* json) {
    if (json == nullptr) return std::string("absent");
    return json->is_structured() ? describe_json(*json) : dump_json_line(OrderedJson(*json));
  };
  differences.push_back(fmt::format("{}: {} {}, {} {}", name, value(saved_value), saved, value(now_value), now));
}

}  // namespace

Json parse_json(std::string_view text, std::string_view where) { return parse_checked(text, where, nullptr); }

Json parse_json_object(std::string_view text, std::string_view where) {
  Json value = parse_json(text, where);
  check_object(value, where);
  return value;
}

Json parse_json_object_once(std::string_view text, std::string_view where) {
  std::vector<std::set<std::string>> names;  // of the objects around, from outside
  std::string twice;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    const auto level = static_cast<std::size_t>(depth);
    if (event == Json::parse_event_t::object_start) {
      names.resize(level + 2);
      names[level + 1].clear();
    } else if (event == Json::parse_event_t::key && !names[level].insert(parsed.get_ref<std::string&>()).second) {
      twice = parsed.get_ref<std::string&>();
    }
    return true;
  };
  Json value = parse_checked(text, where, watch);
  if (!twice.empty()) throw InputError(fmt::format("{}field \"{}\" twice, expected once", place(where), twice));
  check_object(value, where);
  return value;
}

std::string dump_json_line(const OrderedJson& value) {
  return value.dump(-1, ' ', /*ensure_ascii=*/false, OrderedJson::error_handler_t::replace);
}

std::string dump_json_pretty(const OrderedJson& value) {
  return value.dump(2, ' ', /*ensure_ascii=*/false, OrderedJson::error_handler_t::replace) + "\n";
}

std::string describe_json(const Json& value) {
  constexpr std::size_t kMaxBytes = 60;
  if (value.is_object()) return "an object";
  if (value.is_array()) return fmt::format("a list of {}", value.size());
  if (value.is_string() && value.get_ref<const std::string&>().size() > kMaxBytes) {
    const std::string head = value.get_ref<const std::string&>().substr(0, kMaxBytes);
    return Json(head).dump(-1, ' ', false, Json::error_handler_t::ignore) +
           "...";  // a character cut in two is left out
  }
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void throw_field_error(std::string_view where, std::string_view name, const Json& found, std::string_view expected) {
  throw InputError(
      fmt::format("{}field \"{}\" is {}, expected {}", place(where), name, describe_json(found), expected));
}

void throw_missing_field(std::string_view where, std::string_view name, std::string_view expected) {
  throw InputError(fmt::format("{}no field \"{}\", expected {}", place(where), name, expected));
}

bool JsonForm<bool>::read(const Json& json, bool& value) {
  if (!json.is_boolean()) return false;
  value = json.get<bool>();
  return true;
}

bool JsonForm<std::int64_t>::read(const Json& json, std::int64_t& value) {
  if (!json.is_number_integer()) return false;
  if (json.is_number_unsigned() &&
      json.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    return false;
  }
  value = json.get<std::int64_t>();
  return true;
}

bool JsonForm<std::int32_t>::read(const Json& json, std::int32_t& value) {
  std::int64_t wide = 0;
  if (!JsonForm<std::int64_t>::read(json, wide)) return false;
  if (wide < std::numeric_limits<std::int32_t>::min() || wide > std::numeric_limits<std::int32_t>::max()) return false;
  value = static_cast<std::int32_t>(wide);
  return true;
}

bool JsonForm<std::uint64_t>::read(const Json& json, std::uint64_t& value) {
  if (!json.is_number_unsigned() && !(json.is_number_integer() && json.get<std::int64_t>() >= 0)) return false;
  value = json.get<std::uint64_t>();
  return true;
}

bool JsonForm<double>::read(const Json& json, double& value) {
  if (!json.is_number()) return false;
  value = json.get<double>();
  return true;
}

bool JsonForm<std::string>::read(const Json& json, std::string& value) {
  if (!json.is_string()) return false;
  value = json.get<std::string>();
  return true;
}

bool JsonForm<Seed>::read(const Json& json, Seed& value) { return JsonForm<std::uint64_t>::read(json, value.value); }

bool JsonForm<std::vector<std::int32_t>>::read(const Json& json, std::vector<std::int32_t>& value) {
  return read_list(json, value);
}
bool JsonForm<std::vector<std::int64_t>>::read(const Json& json, std::vector<std::int64_t>& value) {
  return read_list(json, value);
}
bool JsonForm<std::vector<double>>::read(const Json& json, std::vector<double>& value) {
  return read_list(json, value);
}
bool JsonForm<std::vector<std::string>>::read(const Json& json, std::vector<std::string>& value) {
  return read_list(json, value);
}

void check_known_fields(const Json& object, const std::vector<std::string>& known, std::string_view where) {
  std::string unknown;
  for (const auto& field : object.items()) {
    if (std::find(known.begin(), known.end(), field.key()) != known.end()) continue;
    unknown += fmt::format("{}\"{}\"", unknown.empty() ? "" : ", ", field.key());
  }
  if (unknown.empty()) return;
  throw InputError(fmt::format("{}unknown field {}, expected {}", place(where), unknown, fmt::join(known, ", ")));
}

std::vector<std::string> json_differences(const Json& saved_value, const Json& now_value, std::string_view saved,
                                          std::string_view now) {
  std::vector<std::string> differences;
  collect_differences(&saved_value, &now_value, "", saved, now, differences);
  return differences;
}

}  // namespace sao::detail
