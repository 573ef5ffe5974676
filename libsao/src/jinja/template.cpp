// SPDX-License-Identifier: Apache-2.0
#include "sao/jinja/template.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/utf8.h"
#include "jinja/interpreter.h"
#include "jinja/parser.h"
#include "jinja/unicode.h"

namespace sao::jinja {
namespace {

constexpr std::size_t kMaxSource = 4 << 20;

}  // namespace

TemplateError::TemplateError(const std::string& name, std::string kind, int line, std::string message)
    : InputError(fmt::format("{}: line {}: {}", name, line, message)),
      kind_(std::move(kind)),
      line_(line),
      message_(std::move(message)) {}

struct Template::Impl {
  std::string name;
  std::string source;
  Syntax syntax;
};

Template::Template(std::string_view source, std::string name) {
  auto impl = std::make_shared<Impl>();
  impl->name = std::move(name);
  if (source.size() > kMaxSource)
    throw TemplateError(impl->name, "LimitError", 1,
                        fmt::format("{} bytes, expected at most {}", source.size(), kMaxSource));
  impl->source = detail::replace_invalid_utf8(source);
  try {
    impl->syntax = parse(impl->source);
  } catch (const Failure& failure) {
    throw TemplateError(impl->name, failure.kind, std::max(failure.line, 1), failure.message);
  }
  impl_ = std::move(impl);
}

std::string Template::render(const Value& variables, const Settings& settings) const {
  const auto* dict = as<DictObject>(variables);
  if (!dict) throw InputError(fmt::format("{}: variables that are no dict, expected a dict", impl_->name));
  try {
    Runtime runtime(settings);
    return Interpreter(impl_->syntax, *dict, runtime).run();
  } catch (const Failure& failure) {
    throw TemplateError(impl_->name, failure.kind, std::max(failure.line, 1), failure.message);
  }
}

const std::string& Template::source() const { return impl_->source; }

}  // namespace sao::jinja
