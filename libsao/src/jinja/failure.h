// SPDX-License-Identifier: Apache-2.0
// What goes wrong inside a template, before the template's name is known; Template turns it into a TemplateError.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

namespace sao::jinja {

struct Failure {
  std::string kind;
  std::string message;
  int line = 0;  // 0 where no node has taken note of it yet
};

[[noreturn]] inline void fail(std::string_view kind, std::string message, int line = 0) {
  throw Failure{std::string(kind), std::move(message), line};
}

template <class... Arguments>
[[noreturn]] void type_error(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  fail("TypeError", fmt::format(format, std::forward<Arguments>(arguments)...));
}

template <class... Arguments>
[[noreturn]] void value_error(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  fail("ValueError", fmt::format(format, std::forward<Arguments>(arguments)...));
}

/// For what Jinja2 or Python can do and this implementation leaves out.
template <class... Arguments>
[[noreturn]] void unsupported(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  fail("Unsupported", fmt::format(format, std::forward<Arguments>(arguments)...));
}

}  // namespace sao::jinja
