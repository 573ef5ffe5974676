// SPDX-License-Identifier: Apache-2.0
#include "arguments.h"

#include <fmt/format.h>
#include <sao/base/error.h>

#include <algorithm>

#include "toml.h"

namespace sao::cli {

std::string with_dashes(std::string text) {
  std::replace(text.begin(), text.end(), '_', '-');
  return text;
}

Arguments::Arguments(CLI::App& app) : app_(app) {
  app_.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app_.add_option("--config", config_, "TOML file with any of these options; the command line goes first")
      ->type_name("FILE");
}

namespace {

// Line breaks as a shell's $'...' has them.
std::string in_one_line(const std::string& text) {
  std::string shown;
  for (const char c : text) shown += c == '\n' ? std::string("\\n") : std::string(1, c);
  return shown;
}

}  // namespace

void Arguments::add_option(const std::string& name, bool is_bool, const std::string& shown, const std::string& help,
                           const std::string& alias, Setter setter) {
  setters_[name] = std::move(setter);
  if (!alias.empty()) aliases_[alias] = name;
  const std::size_t dot = name.find('.');
  const std::string group = dot == std::string::npos ? "Options" : name.substr(0, dot);
  std::string names = "--" + name;
  if (!alias.empty()) names += (alias.size() == 1 ? ",-" : ",--") + alias;
  CLI::Option* option = nullptr;
  if (is_bool) {
    if (!name.starts_with("no-")) names += ",!--no-" + name;
    option = app_.add_flag_function(
        names,
        [this, name](std::int64_t count) {
          given_[name] = {count > 0 ? "true" : "false", {}};
        },
        fmt::format("{} [{}]", help, shown));
  } else {
    option = app_.add_option_function<std::string>(
        names,
        [this, name](const std::string& text) {
          given_[name] = {text, {}};
        },
        shown.empty() ? help : fmt::format("{} [{}]", help, in_one_line(shown)));
    option->type_name("");
  }
  option->group(group);
}

void Arguments::add_input(std::string& path, const std::string& help) {
  path = "-";
  app_.add_option("INPUT", path, help + "; - or nothing is the standard input")->type_name("");
}

void Arguments::add_positional(const std::string& name, std::string& value, const std::string& help) {
  app_.add_option(name, value, help)->type_name("")->required();
}

void Arguments::read_config() {
  for (const TomlEntry& entry : read_toml(config_)) {
    std::string name = with_dashes(entry.key);
    const std::string own_table = app_.get_name() + ".";
    if (!setters_.contains(name) && !aliases_.contains(name) && name.starts_with(own_table)) {
      name.erase(0, own_table.size());
    }
    if (const auto alias = aliases_.find(name); alias != aliases_.end() && !setters_.contains(name))
      name = alias->second;
    if (!setters_.contains(name)) {
      throw InputError(fmt::format("{}:{}: unknown option \"{}\", expected one of sao {} --help", config_, entry.line,
                                   entry.key, app_.get_name()));
    }
    given_.try_emplace(name, Given{entry.text, fmt::format("{}:{}", config_, entry.line)});  // the command line stays
  }
}

void Arguments::set(const std::string& name, const Given& given) {
  std::string_view expected = "another value";
  std::string message;
  try {
    if (setters_.at(name)(given.text, expected)) return;
    message = fmt::format("--{} is \"{}\", expected {}", name, given.text, expected);
  } catch (const InputError& error) {
    message = fmt::format("--{}: {}", name, error.what());
  }
  if (given.where.empty()) throw UsageError(message);
  throw InputError(fmt::format("{}: {}", given.where, message));
}

void Arguments::finish() {
  if (!config_.empty()) read_config();
  for (const std::string& name : first_) {
    if (const auto found = given_.find(name); found != given_.end()) set(name, found->second);
  }
  for (const auto& [name, value] : given_) {
    if (std::find(first_.begin(), first_.end(), name) == first_.end()) set(name, value);
  }
}

bool Arguments::given(const std::string& name) const { return given_.contains(name); }

void Arguments::require(const std::string& name) const {
  if (!given(name)) throw UsageError(fmt::format("--{} is required", name));
}

}  // namespace sao::cli
