// SPDX-License-Identifier: Apache-2.0
// A command's options, from the command line and from a TOML file. Fields of options structs become flags by their
// visit_fields: sampling.top_p is --sampling.top-p, and top_p or top-p in a table [sampling] of the file.
#pragma once

#include <sao/base/error.h>
#include <sao/base/options.h>
#include <sao/base/seed.h>
#include <sao/loss/preference.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdint>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace sao::cli {

/// The command line is wrong: exit status 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What `validate` finds out of range among options is wrong usage.
template <class Options>
void check_options(const Options& options) {
  try {
    validate(options);
  } catch (const InputError& error) {
    throw UsageError(error.what());
  }
}

/// A value as text: on the command line, in the file, in the help.
template <class T>
std::string value_to_text(const T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    return value ? "true" : "false";
  } else if constexpr (std::is_same_v<T, Seed>) {
    return std::to_string(value.value);
  } else if constexpr (std::is_arithmetic_v<T>) {
    char buffer[64];
    return {buffer, std::to_chars(buffer, buffer + sizeof(buffer), value).ptr};
  } else {
    return value;
  }
}

/// False, with `expected` set, when `text` is no T.
template <class T>
bool text_to_value(const std::string& text, T& value, std::string_view& expected) {
  if constexpr (std::is_same_v<T, bool>) {
    expected = "true or false";
    value = text == "true";
    return value || text == "false";
  } else if constexpr (std::is_same_v<T, Seed>) {
    return text_to_value(text, value.value, expected);
  } else if constexpr (std::is_arithmetic_v<T>) {
    expected = std::is_floating_point_v<T> ? "a number" : std::is_signed_v<T> ? "an integer" : "an integer, 0 or more";
    const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
    const auto [end, error] = std::from_chars(begin, text.data() + text.size(), value);
    return error == std::errc{} && end == text.data() + text.size() && begin != end;
  } else {
    value = text;
    return true;
  }
}

/// "top_p" -> "top-p".
std::string with_dashes(std::string text);

class Arguments {
 public:
  explicit Arguments(CLI::App& app);

  /// One option --name. With `alias`, another name for it.
  template <class T>
  void add(const std::string& name, T& value, const std::string& help, const std::string& alias = {}) {
    add_option(
        name, std::is_same_v<T, bool>, value_to_text(value), help, alias,
        [&value](const std::string& text, std::string_view& expected) { return text_to_value(text, value, expected); });
  }

  /// The input file: a positional argument, the standard input without one.
  void add_input(std::string& path, const std::string& help);
  /// A positional argument that must be there.
  void add_positional(const std::string& name, std::string& value, const std::string& help);

  /// Every leaf of `options`, named by `flag_of` (path to "flag" or "flag,alias"; an empty flag leaves the field out).
  /// In the file the path itself is good as well.
  template <HasFields Options>
  void add_fields(Options& options, const std::function<std::string(const std::string& path)>& flag_of) {
    add_leaves(options, options, flag_of);
    // Other losses have other fields: all of them are flags, and which ones fit is known when the loss is.
    Options other = options;
    std::vector<std::string> names{"dpo+sft"};  // a mix has weights
    for (const std::string_view name : loss_names()) names.emplace_back(name);
    for (const std::string& name : names) {
      bool has_loss = false;
      visit_leaves(
          [&](const std::string& path, auto& field, const char*) {
            if constexpr (std::is_same_v<std::remove_cvref_t<decltype(field)>, std::string>) {
              if (path == "loss.name" || path.ends_with(".loss.name")) {
                field = name;
                has_loss = true;
              }
            }
          },
          other);
      if (!has_loss) return;
      add_leaves(options, other, flag_of);
    }
  }

  /// Takes the command line (and the file of --config) over into the values. Throws UsageError or InputError (the
  /// file).
  void finish();
  /// Whether the command line or the file gave the option.
  bool given(const std::string& name) const;
  /// Throws UsageError unless the option was given.
  void require(const std::string& name) const;

 private:
  using Setter = std::function<bool(const std::string& text, std::string_view& expected)>;
  struct Given {
    std::string text = {};
    std::string where = {};  ///< "file:line" or empty
  };

  template <HasFields Options>
  void add_leaves(Options& target, Options& shown, const std::function<std::string(const std::string& path)>& flag_of) {
    visit_leaves(
        [&](const std::string& path, auto& field, const char* help) {
          using Field = std::remove_cvref_t<decltype(field)>;
          const std::string names = flag_of(path);
          const std::size_t comma = names.find(',');
          const std::string flag = names.substr(0, comma);
          const std::string alias = comma == std::string::npos ? "" : names.substr(comma + 1);
          if (flag.empty() || setters_.contains(flag)) return;
          aliases_.try_emplace(with_dashes(path), flag);
          add_option(flag, std::is_same_v<Field, bool>, value_to_text(field), help, alias,
                     [&target, path](const std::string& text, std::string_view& expected) {
                       bool good = false;
                       bool found = false;
                       visit_leaves(
                           [&](const std::string& other, auto& place, const char*) {
                             if (other != path) return;
                             found = true;
                             good = text_to_value(text, place, expected);
                           },
                           target);
                       if (!found) expected = "a loss that has this option";
                       return good;
                     });
          if (path == "loss.name" || path.ends_with(".loss.name")) first_.push_back(flag);
        },
        shown);
  }

  void add_option(const std::string& name, bool is_bool, const std::string& shown, const std::string& help,
                  const std::string& alias, Setter setter);
  void read_config();
  void set(const std::string& name, const Given& given);

  CLI::App& app_;
  std::string config_;
  std::map<std::string, Setter> setters_;
  std::map<std::string, std::string> aliases_;
  std::map<std::string, Given> given_;
  std::vector<std::string> first_;  // set before the others: they say what others mean
};

}  // namespace sao::cli
