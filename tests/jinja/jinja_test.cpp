// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "sao/jinja/template.h"
#include "support/paths.h"

namespace sao::jinja {
namespace {

using testing::golden;
using ::testing::HasSubstr;
using testing::parity;
using ::testing::StartsWith;
using Json = nlohmann::ordered_json;

Json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  return Json::parse(file);
}

Value value_of(const Json& json) { return Value::parse_json(json.dump()); }

std::string rendered(std::string_view source, std::string_view variables = "{}", const Settings& settings = {}) {
  return Template(source).render(Value::parse_json(variables), settings);
}

// The error of a template; fails the test where there is none.
TemplateError error_of(std::string_view source, const Settings& settings = {}) {
  try {
    const std::string text = rendered(source, "{}", settings);
    ADD_FAILURE() << source << " gave " << text.substr(0, 100);
  } catch (const TemplateError& error) {
    return error;
  }
  return TemplateError("", "", 0, "");
}

// --- against Jinja2

class Golden : public ::testing::Test {
 protected:
  // strftime_now tells local time; the goldens are of UTC.
  static void SetUpTestSuite() {
    setenv("TZ", "UTC", 1);
    tzset();
  }

  Golden() : expected_(read_json(golden("jinja") / "expected.json")) {
    settings_.now = std::chrono::system_clock::time_point(std::chrono::seconds(expected_["now"].get<int>()));
    for (const auto& [name, variables] : expected_["variables"].items())
      variables_.emplace_back(name, value_of(variables));
  }

  const Value& variables(const std::string& name) const {
    for (const auto& [other, value] : variables_)
      if (other == name) return value;
    throw InputError("no variables " + name);
  }

  Json expected_;
  Settings settings_;
  Value::Fields variables_;
};

TEST_F(Golden, EveryCaseIsAsJinja2MakesIt) {
  ASSERT_EQ(expected_["cases"].size(), 604u);
  for (const Json& c : expected_["cases"]) {
    const auto source = c["template"].get<std::string>();
    try {
      const std::string text = Template(source).render(variables(c["variables"]), settings_);
      EXPECT_EQ(text, c.value("text", "an error")) << c;
    } catch (const TemplateError& error) {
      EXPECT_EQ(error.kind(), c.value("kind", "no error")) << c;
      EXPECT_EQ(error.message(), c.value("error", "no error")) << c;
      EXPECT_EQ(error.line(), c.value("line", error.line())) << c;
    }
  }
}

// Mutated templates either render or say what is wrong, within their limits.
TEST_F(Golden, MutatedTemplatesRenderOrSayWhy) {
  settings_.limits = {.steps = 200'000, .memory = 8 << 20};
  std::vector<std::string> sources;
  std::vector<Value> values;
  for (const Json& c : expected_["cases"]) {
    sources.push_back(c["template"]);
    values.push_back(variables(c["variables"]));
  }
  constexpr std::string_view kPieces[] = {
      "{{",         "}}",   "{%",     "%}",  "{#",  "#}",    "-%}",   "(",           ")",
      "[",          "]",    "|",      ".",   ",",   "\"",    "'",     "\n",          "\xC3",
      "9999999999", " if ", " else ", "not", " ~ ", " ** 9", "* 999", "{% endif %}", "{% for i in x %}"};
  std::mt19937_64 random(20280);
  const auto below = [&](std::size_t count) { return static_cast<std::size_t>(random() % count); };
  int rendered_count = 0;
  int errors = 0;
  const std::clock_t begin = std::clock();
  for (int round = 0; round < 10'000; ++round) {
    const std::size_t which = below(sources.size());
    std::string source = sources[which];
    for (std::size_t changes = 1 + below(4); changes > 0; --changes) {
      const std::size_t place = below(source.size() + 1);
      switch (below(5)) {
        case 0:
          source.insert(place, 1, static_cast<char>(below(256)));
          break;
        case 1:
          source.erase(place, 1 + below(8));
          break;
        case 2:
          if (place < source.size()) source[place] = static_cast<char>(below(256));
          break;
        case 3:
          source.insert(place, kPieces[below(std::size(kPieces))]);
          break;
        default: {  // a part of another one
          const std::string& other = sources[below(sources.size())];
          const std::size_t from = below(other.size() + 1);
          source.insert(place, other.substr(from, below(40)));
        }
      }
    }
    try {
      Template(source).render(values[which], settings_);
      ++rendered_count;
    } catch (const TemplateError& error) {
      EXPECT_GE(error.line(), 1) << source;
      EXPECT_FALSE(error.message().empty() && error.kind() != "TemplateError") << source;
      ++errors;
    }
  }
  const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  EXPECT_GT(rendered_count, 1000);
  EXPECT_GT(errors, 1000);
  EXPECT_LT(seconds, 120) << "far more than 10,000 small templates should take";
}

// --- against transformers: chat templates of public checkpoints

// As apply_chat_template of transformers does it: the answer to go on with is marked, and what follows the mark goes.
constexpr std::string_view kContinueTag = "CONTINUE_FINAL_MESSAGE_TAG ";

std::string apply_chat_template(const Template& chat, Json variables, bool continue_final_message) {
  if (!continue_final_message) return chat.render(value_of(variables));
  Json& content = variables["messages"].back()["content"];
  content = content.get<std::string>() + std::string(kContinueTag);
  std::string text = chat.render(value_of(variables));
  const std::size_t place = text.rfind(kContinueTag.substr(0, kContinueTag.size() - 1));
  if (place == std::string::npos) throw InputError("the last message is not in the rendered text");
  const bool keeps_blanks = text.compare(place, kContinueTag.size(), kContinueTag) == 0;
  text.resize(place);
  if (!keeps_blanks) text.resize(text.find_last_not_of(" \t\n\r\v\f") + 1);
  return text;
}

class ChatTemplates : public ::testing::TestWithParam<const char*> {};

TEST_P(ChatTemplates, RenderAsTransformersDoes) {
  SAO_NEED_PARITY(GetParam());
  const Json config = read_json(parity(GetParam()) / "tokenizer_config.json");
  const Template chat(config["chat_template"].get<std::string>(), "chat_template");
  const Json expected = read_json(parity(GetParam()) / "expected.json");
  ASSERT_EQ(expected["cases"].size(), 47u);
  for (const Json& c : expected["cases"]) {
    Json variables = {{"messages", c["messages"]},
                      {"tools", nullptr},
                      {"documents", nullptr},
                      {"add_generation_prompt", c["add_generation_prompt"]}};
    for (const auto& [name, token] : config.items())
      if (name.ends_with("_token") && token.is_string()) variables[name] = token;
    try {
      EXPECT_EQ(apply_chat_template(chat, variables, c["continue_final_message"]), c.value("rendered", "an error"))
          << c;
    } catch (const TemplateError& error) {
      EXPECT_EQ(error.message(), c.value("error", "no error")) << c;
      EXPECT_EQ(error.kind(), c.value("error_type", "no error")) << c;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Sets, ChatTemplates,
                         ::testing::Values("chat-chatml", "chat-gemma2", "chat-llama3", "chat-mistral", "chat-qwen2"),
                         [](const auto& set) { return std::string(set.param).substr(5); });

// --- values

TEST(Value, JsonKeepsItsOrderAndItsTypes) {
  EXPECT_EQ(rendered("{{ x }}", R"({"x": {"b": [1, 2.0, null, true, "ä"], "a": {}}})"),
            "{'b': [1, 2.0, None, True, 'ä'], 'a': {}}");
  EXPECT_EQ(Template("{{ x }}").render(Value::dict({{"x", 1}, {"y", 2}, {"x", "last"}})), "last");
  EXPECT_EQ(Template("{{ x }}").render(Value::dict({{"x",
                                                     "a\xFF"
                                                     "b"}})),
            "a\xEF\xBF\xBD"
            "b");
}

TEST(Value, RefusesWhatItCannotHold) {
  EXPECT_THROW(Value::parse_json("[1,"), InputError);
  EXPECT_THROW(Value::parse_json("[18446744073709551615]"), InputError);
  EXPECT_THROW(Value::parse_json(std::string(300, '[') + std::string(300, ']')), InputError);
  Value nested;
  EXPECT_THROW(
      {
        for (int i = 0; i < 300; ++i) nested = Value::list({nested});
      },
      InputError);
  EXPECT_THROW(Template("x").render(Value::list({})), InputError);
}

// --- errors

TEST(Template, StrictUndefinedIsNotWrittenOut) {
  const Value variables = Value::dict({{"a", "x"}});
  const Settings strict = {.strict_undefined = true};
  EXPECT_EQ(Template("{{ a }}{{ b }}").render(variables), "x");
  EXPECT_EQ(Template("{{ a }}{{ b is defined }}").render(variables, strict), "xFalse");
  for (const char* source : {"{{ a }}{{ b }}", "{{ a.c }}"}) {
    try {
      Template(source).render(variables, strict);
      ADD_FAILURE() << source;
    } catch (const TemplateError& error) {
      EXPECT_EQ(error.kind(), "UndefinedError");
    }
  }
}

TEST(Template, ErrorsNameTheTemplateAndTheLine) {
  EXPECT_STREQ(error_of("a\n{{ b.c }}").what(), "template: line 2: 'b' is undefined");
  try {
    Template("\n\n{% if x %}", "tokenizer_config.json: chat_template");
    FAIL() << "rendered";
  } catch (const TemplateError& error) {
    EXPECT_THAT(error.what(), StartsWith("tokenizer_config.json: chat_template: line 3: Unexpected end of template."));
    EXPECT_EQ(error.kind(), "TemplateSyntaxError");
  }
  // The line of the innermost part that fails.
  EXPECT_EQ(error_of("{% macro m(x) %}\n\n{{ x.y.z }}\n{% endmacro %}\n{{ m(1) }}").line(), 3);
  EXPECT_EQ(error_of("{{ [1,\n2,\nx.y] }}").line(), 3);
  EXPECT_EQ(error_of("{% for i in [1] %}\n{% if i %}\n{{ raise_exception('no') }}\n{% endif %}{% endfor %}").line(), 3);
  EXPECT_EQ(error_of("a\r\nb\r\n{% foo %}").line(), 3);
}

TEST(Template, WhatIsLeftOutIsRefusedByName) {
  const std::pair<std::string, std::string> cases[] = {
      {"{% extends 'a' %}", "the tag 'extends' is not supported"},
      {"{% include 'a' %}", "the tag 'include' is not supported"},
      {"{% import 'a' as a %}", "the tag 'import' is not supported"},
      {"{% from 'a' import b %}", "the tag 'from' is not supported"},
      {"{% autoescape true %}{% endautoescape %}", "the tag 'autoescape' is not supported"},
      {"{% block a required %}{% endblock %}", "required blocks are not supported"},
      {"{{ 1 | pprint }}", "the filter 'pprint' is not supported"},
      {"{{ [1] | random }}", "the filter 'random' is not supported"},
      {"{{ 'a' | striptags }}", "the filter 'striptags' is not supported"},
      {"{{ 'a' | urlize }}", "the filter 'urlize' is not supported"},
      {"{{ 'a' | wordwrap }}", "the filter 'wordwrap' is not supported"},
      {"{{ {} | xmlattr }}", "the filter 'xmlattr' is not supported"},
      {"{{ 'a'.casefold() }}", "the method 'casefold' of str is not supported"},
      {"{{ 'a'.encode() }}", "the method 'encode' of str is not supported"},
      {"{{ 'a'.translate({}) }}", "the method 'translate' of str is not supported"},
      {"{{ {}.fromkeys([]) }}", "the method 'fromkeys' of dict is not supported"},
      {"{{ (1).bit_length() }}", "the method 'bit_length' of int is not supported"},
      {"{{ lipsum() }}", "the function 'lipsum' is not supported"},
      {"{{ 9223372036854775807 + 1 }}", "integers of more than 64 bits are not supported"},
      {"{{ 9223372036854775808 }}", "integers of more than 64 bits are not supported"},
      {"{{ 2 ** 64 }}", "integers of more than 64 bits are not supported"},
      {"{{ (-8) ** 0.5 }}", "complex numbers are not supported"},
      {"{{ '\\ud800' }}", "characters of half a surrogate pair are not supported"},
      {"{{ '\\N{DASH}' }}", "character names (\\N{...}) are not supported"},
      {"{{ range(10, 20, 4)[::4611686018427387904] }}", "integers of more than 64 bits are not supported"},
      {"{{ 9223372036854775807 | round(-1) }}", "integers of more than 64 bits are not supported"},
      {"{{ (-1e300) | filesizeformat }}", "integers of more than 64 bits are not supported"},
  };
  for (const auto& [source, message] : cases) {
    const TemplateError error = error_of(source);
    EXPECT_EQ(error.kind(), "Unsupported") << source;
    EXPECT_THAT(error.what(), HasSubstr("line 1: " + message)) << source;
  }
}

TEST(Template, NumbersAtTheirEnds) {
  constexpr std::string_view kLeast = "{% set low = -9223372036854775807 - 1 %}";
  const auto with_least = [&](std::string_view rest) { return rendered(std::string(kLeast) + std::string(rest)); };
  EXPECT_EQ(with_least("{{ low }}"), "-9223372036854775808");
  EXPECT_EQ(with_least("{{ 'aa' | replace('a', 'b', low) }}"), "bb");
  EXPECT_EQ(with_least("{{ 'a b'.split(' ', low) }}"), "['a', 'b']");
  EXPECT_EQ(with_least("{{ 'a'.center(low) }}{{ 'a'.ljust(low) }}{{ 'a'.zfill(low) }}"), "aaa");
  EXPECT_EQ(with_least("{{ 'ab'[low:] }}{{ 'ab'[::low] }}"), "abb");
  EXPECT_EQ(with_least("{{ 'a' | truncate(9223372036854775807, leeway=5) }}"), "a");
  EXPECT_EQ(rendered("{{ '{:013,}'.format(1234567) }} {{ '{:010,}'.format(12) }}"), "0,001,234,567 00,000,012");
  EXPECT_THAT(error_of(std::string(kLeast) + "{{ '%*d' % (low, 1) }}").message(), HasSubstr("width too big"));
  EXPECT_EQ(error_of(std::string(kLeast) + "{{ low | abs }}").kind(), "Unsupported");
  EXPECT_EQ(error_of(std::string(kLeast) + "{{ low // -1 }}").kind(), "Unsupported");
}

// --- limits

TEST(Limits, Recursion) {
  EXPECT_EQ(error_of("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").kind(), "RecursionError");
  EXPECT_EQ(error_of("{% set n = namespace() %}{% set n.n = n %}{{ n }}").kind(), "RecursionError");
  EXPECT_EQ(error_of("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}").kind(), "RecursionError");
  EXPECT_EQ(error_of("{% set n = namespace(l=[]) %}{% for i in range(300) %}{% set n.l = [n.l] %}{% endfor %}").kind(),
            "LimitError");
  EXPECT_EQ(error_of("{% set n = namespace(l=[1]) %}{% for i in range(5000) %}{% set n.l = n.l | map('string') %}"
                     "{% endfor %}{{ n.l | list }}")
                .kind(),
            "RecursionError");
}

TEST(Limits, NestedSource) {
  const auto repeated = [](std::string_view text, int count) {
    std::string all;
    for (int i = 0; i < count; ++i) all += text;
    return all;
  };
  for (const std::string& source :
       {"{{ " + repeated("(", 100'000), "{{ " + repeated("[", 100'000), "{{ " + repeated("{1:", 100'000),
        "{{ " + repeated("-", 100'000) + "1 }}", "{{ " + repeated("not ", 100'000) + "1 }}",
        "{{ 1" + repeated(" + 1", 100'000) + " }}", "{{ a" + repeated(".a", 100'000) + " }}",
        "{{ a" + repeated("|upper", 100'000) + " }}", "{{ a" + repeated("()", 100'000) + " }}",
        "{{ 1" + repeated(" if 1 else 1", 100'000) + " }}", repeated("{% if 1 %}", 100'000),
        repeated("{% for i in [1] %}", 100'000), "{% if 1 %}" + repeated("{% elif 1 %}", 100'000) + "{% endif %}"}) {
    const TemplateError error = error_of(source);
    EXPECT_EQ(error.kind(), "TemplateSyntaxError") << source.substr(0, 20);
    EXPECT_THAT(error.message(), HasSubstr("expected fewer")) << source.substr(0, 20);
  }
  EXPECT_EQ(error_of(std::string(5 << 20, 'a')).kind(), "LimitError");
}

TEST(Limits, StepsAndMemory) {
  const Settings small = {.limits = {.steps = 10'000, .memory = 1 << 20}};
  EXPECT_EQ(rendered("{% for i in range(1000) %}x{% endfor %}", "{}", small).size(), 1000u);
  for (const std::string source : {
           "{% for i in range(100000) %}{% endfor %}",
           "{% for i in range(1000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}",
           "{{ range(100000) | list }}",
           "{{ range(100000) | sum }}",
           "{{ 'x' * 2000000 }}",
           "{{ [1] * 2000000 }}",
           "{% for i in range(100) %}{{ 'x' * 20000 }}{% endfor %}",
           "{% set n = namespace(s='x') %}{% for i in range(40) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
           "{{ 'x' | center(2000000) }}",
           "{{ 'x'.ljust(2000000) }}",
           "{{ '\\t'.expandtabs(2000000) }}",
           "{{ ('%1000000d%1000000d' % (1, 1)) }}",
           "{{ [[1]] | tojson(indent=2000000) }}",
           "{{ ('x' * 10000) | replace('', 'y' * 1000) }}",
       }) {
    const TemplateError error = error_of(source, small);
    EXPECT_EQ(error.kind(), "LimitError") << source;
    EXPECT_THAT(error.message(), HasSubstr("expected fewer")) << source;
  }
}

// Work that hides in one operation counts too: with the usual limits none of these takes long.
TEST(Limits, NoOperationIsFree) {
  const std::string texts = "{% set a = 'a' * 1000000 %}{% set b = 'a' * 500000 ~ 'b' %}";
  const std::string loops = "{% for i in range(100000) %}{% for j in range(100) %}";
  const std::string ends = "{% endfor %}{% endfor %}";
  const auto many = [](auto each) {
    std::string all;
    for (int i = 0; i < 100'000; ++i) all += each(std::to_string(i));
    return all;
  };
  const std::string sources[] = {
      texts + loops + "{% set x = b in a %}" + ends,
      texts + loops + "{% set x = a.find(b) %}" + ends,
      texts + loops + "{% set x = a.isalnum() %}" + ends,
      texts + loops + "{% set x = a is lower %}" + ends,
      texts + loops + "{% set x = a | wordcount %}" + ends,
      texts + loops + "{% set x = a.strip('b' * 100000 ~ 'a') %}" + ends,
      texts + loops + "{% set x = {a: 1}[a] %}" + ends,
      loops + "{% set x = '{:01000000,}'.format(1) %}" + ends,
      "{% set n = namespace(t=()) %}{% for i in range(150) %}{% set n.t = (n.t, n.t) %}{% endfor %}{{ {n.t: 1} }}",
      "{% set n = namespace(t=[]) %}{% for i in range(150) %}{% set n.t = [n.t, n.t] %}{% endfor %}{{ n.t }}",
      many([](const std::string& i) { return "{% set a" + i + " = 1 %}"; }) + "{{ x.y }}",
      "{{ dict(" + many([](const std::string& i) { return "a" + i + "=1,"; }) + ") and x.y }}",
      many([](const std::string& i) { return "{% block a" + i + " %}{% endblock %}"; }) + "{{ x.y }}",
      "{% for i in range(1000) %}" + many([](const std::string& i) { return "{% set a" + i + " = 1 %}"; }) +
          "{% endfor %}",
  };
  for (const std::string& source : sources) {
    const std::clock_t begin = std::clock();
    const TemplateError error = error_of(source);
    const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
    EXPECT_TRUE(error.kind() == "LimitError" || error.kind() == "UndefinedError") << source.substr(0, 200) << "\n"
                                                                                  << error.what();
    EXPECT_GE(error.line(), 1) << source.substr(0, 200);
    EXPECT_LT(seconds, 60) << source.substr(0, 200);
  }
}

TEST(Template, IsAValueThatManyRenderingsShare) {
  const Template original(
      "{% set ns = namespace(n=0) %}{% for i in x %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}");
  const Template copy = original;
  EXPECT_EQ(copy.source(), original.source());
  EXPECT_EQ(copy.render(Value::parse_json(R"({"x": [1, 2, 3]})")), "6");
  EXPECT_EQ(original.render(Value::parse_json(R"({"x": [4]})")), "4");
}

}  // namespace
}  // namespace sao::jinja
