// SPDX-License-Identifier: Apache-2.0
#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>

#include "chat_cases.h"
#include "fixtures.h"
#include "sao/text/chat.h"
#include "support/parity_report.h"
#include "support/paths.h"

namespace sao {
namespace {

using ::testing::AllOf;
using testing::golden;
using ::testing::HasSubstr;
using testing::ids_of;
using testing::input_error_of;
using testing::messages_of;
using testing::parity;
using testing::TemporaryFolder;
using testing::text_or_error;
using testing::write_text;
using Json = nlohmann::ordered_json;
using jinja::Value;

// --- folders of every layout, against transformers

struct Golden {
  TemporaryFolder folder;
  Json cases;
  std::chrono::system_clock::time_point now;

  explicit Golden(const std::string& name) {
    std::filesystem::copy(golden("chat") / name, folder.path(), std::filesystem::copy_options::recursive);
    Json tokenizer = Json::parse(std::ifstream(golden("text") / "byte_level" / "tokenizer.json"));
    if (name == "no_bos") tokenizer["post_processor"] = nullptr;
    write_text(folder / "tokenizer.json", tokenizer.dump());
    const Json expected = Json::parse(std::ifstream(golden("chat") / "expected.json"));
    now = std::chrono::system_clock::time_point(std::chrono::seconds(expected["now"].get<std::int64_t>()));
    for (const Json& set : expected["sets"])
      if (set["folder"] == name) cases = set["cases"];
  }

  ChatTokenizer load(const std::string& chat_template = {}) const {
    return ChatTokenizer::load(folder.path(), {.chat_template = chat_template, .now = now});
  }
};

RenderOptions options_of(const Json& c) {
  RenderOptions options = {.add_generation_prompt = c["add_generation_prompt"],
                           .continue_final_message = c["continue_final_message"]};
  if (c.contains("variables"))
    for (const auto& [name, value] : c["variables"].items())
      options.variables.emplace_back(name, Value::parse_json(value.dump()));
  return options;
}

// Kinds and words of what templates raise; of the reference's own errors that there is one.
std::string wanted_of(const Json& c) {
  if (c.contains("text")) return c["text"];
  const std::string kind = c["kind"];
  return kind == "ValueError" ? kind : kind + ": " + c["error"].get<std::string>();
}

class ChatGolden : public ::testing::TestWithParam<std::pair<const char*, std::size_t>> {};

TEST_P(ChatGolden, AgreesWithTransformers) {
  const auto& [name, size] = GetParam();
  const Golden set(name);
  ASSERT_EQ(set.cases.size(), size);
  std::map<std::string, ChatTokenizer> loaded;
  testing::ParityResult result = {.area = "chat template",
                                  .subject = std::string("own templates: ") + name,
                                  .what = "rendered text or error",
                                  .worst_case = {}};
  for (const Json& c : set.cases) {
    const std::string chosen = c.value("chat_template", "");
    if (!loaded.contains(chosen)) loaded.emplace(chosen, set.load(chosen));
    const ChatTokenizer& chat = loaded.at(chosen);
    const Messages messages = messages_of(c["messages"]);
    std::string found = text_or_error(chat, messages, options_of(c));
    if (!c.contains("text") && c["kind"] == "ValueError") found.resize(std::min<std::size_t>(found.size(), 10));
    EXPECT_EQ(found, wanted_of(c)) << c;
    if (c.contains("ids")) {
      EXPECT_EQ(chat.tokenizer().encode(found), ids_of(c["ids"])) << c;
    }
    testing::count(result, found == wanted_of(c), c["messages"].dump());
  }
  testing::report_parity(result);
}
INSTANTIATE_TEST_SUITE_P(Folders, ChatGolden,
                         ::testing::Values(std::pair{"string", 42}, std::pair{"list", 44}, std::pair{"files", 44},
                                           std::pair{"no_default", 5}, std::pair{"two_bos", 39},
                                           std::pair{"no_bos", 39}, std::pair{"parts", 9}, std::pair{"tokens", 39},
                                           std::pair{"broken", 3}),
                         [](const auto& set) { return std::string(set.param.first); });

TEST(ChatTemplate, OneBosWhateverTheTemplateWrites) {
  const Messages hello = {{"user", "Hello"}};
  const auto two = Golden("two_bos").load();
  const TokenId bos = two.tokenizer().bos_id().value();
  const TokenIds rendered = two.tokenizer().encode(two.render(hello));
  ASSERT_EQ(rendered[0], bos);
  ASSERT_EQ(rendered[1], bos);
  EXPECT_EQ(two.encode_chat(hello), TokenIds(rendered.begin() + 1, rendered.end()));
  // None in the template, but the tokenizer adds one.
  const auto none = Golden("list").load();
  TokenIds with_bos = none.tokenizer().encode(none.render(hello));
  EXPECT_EQ(std::ranges::count(with_bos, bos), 0);
  with_bos.insert(with_bos.begin(), bos);
  EXPECT_EQ(none.encode_chat(hello), with_bos);
  // A tokenizer without one.
  const auto no_bos = Golden("no_bos").load();
  EXPECT_EQ(no_bos.tokenizer().bos_id(), std::nullopt);
  EXPECT_EQ(no_bos.encode_chat(hello), no_bos.tokenizer().encode(no_bos.render(hello)));
  EXPECT_EQ(std::ranges::count(no_bos.encode_chat(hello), bos), 0);
}

TEST(ChatTemplate, TheTurnEndIsWhatTheTemplateWritesAfterAnAnswer) {
  const auto token_of = [](const ChatTokenizer& chat, TokenId id) { return chat.decode(TokenIds{id}, false); };
  for (const char* name : {"string", "list", "files", "two_bos", "no_bos", "parts"}) {
    const auto chat = Golden(name).load();
    EXPECT_EQ(token_of(chat, chat.turn_end_id()), "<|eot_id|>") << name;
  }
  Golden set("list");
  const auto with_template = [&](const std::string& source) {
    write_text(set.folder / "chat.jinja", source);
    return set.load((set.folder / "chat.jinja").string());
  };
  // A token that is not the eos, after blanks; and the ids of the format: BOS, headers, turn ends.
  const auto marks = with_template(
      "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content }} \n<mask>{% endfor %}");
  EXPECT_EQ(token_of(marks, marks.turn_end_id()), "<mask>");
  TokenIds expected;
  for (const char* token : {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<mask>"})
    expected.push_back(marks.tokenizer().find_token(token).value());
  std::ranges::sort(expected);
  EXPECT_EQ(marks.format_ids(), expected);
  EXPECT_TRUE(std::ranges::binary_search(marks.stop_ids(), marks.turn_end_id()));
  EXPECT_TRUE(std::ranges::binary_search(marks.stop_ids(), marks.tokenizer().eos_id().value()));
  // Nothing special after the answer, an answer that is not written, a template that always fails: eos.
  for (const char* source : {"{% for m in messages %}{{ m.content }}\n### {% endfor %}<mask>",
                             "{% for m in messages %}{{ m.content | length }}<mask>{% endfor %}",
                             "{{ raise_exception('no') }}", "{% if %}"}) {
    const auto chat = with_template(source);
    EXPECT_EQ(token_of(chat, chat.turn_end_id()), "<|eot_id|>") << source;
  }
  // One that ends a turn only where another one follows, with a token that the model's files name.
  const std::string between =
      "{% for m in messages %}{{ m.content }}{% if not loop.last %}<mask>{% endif %}{% endfor %}";
  EXPECT_EQ(with_template(between).turn_end_id(), with_template(between).tokenizer().eos_id());
  const TokenId mask = marks.tokenizer().find_token("<mask>").value();
  write_text(set.folder / "generation_config.json", "{\"eos_token_id\": " + std::to_string(mask) + "}");
  EXPECT_EQ(with_template(between).turn_end_id(), mask);
  // One that asks for a system message is given one.
  const auto strict = with_template(
      "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}"
      "{% for m in messages %}{{ m.content }}<mask>{% endfor %}");
  EXPECT_EQ(token_of(strict, strict.turn_end_id()), "<mask>");
}

TEST(ChatTemplate, ErrorsSayWhereTheTemplateStands) {
  const Messages twice = {{"user", "a"}, {"user", "b"}};
  EXPECT_THAT(input_error_of([&] { Golden("string").load().render(twice); }),
              HasSubstr("tokenizer_config.json: chat_template: line 20: two turns of user in a row"));
  EXPECT_THAT(input_error_of([&] { Golden("files").load().render(twice); }),
              HasSubstr("/chat_template.jinja: line 20: two turns of user in a row"));
  const Golden broken("broken");
  EXPECT_FALSE(broken.load().encode_text("Hello").empty());
  EXPECT_THAT(input_error_of([&] { broken.load().render(twice); }),
              HasSubstr("tokenizer_config.json: chat_template: line 2: Unexpected end of template"));
  const Golden list("list");
  EXPECT_THAT(
      input_error_of([&] { list.load("rag"); }),
      HasSubstr("no chat template \"rag\" and no such file, expected one of tool_use, default, last or a file"));
  EXPECT_THAT(input_error_of([&] { Golden("no_default").load().render(twice); }),
              HasSubstr("the chat templates last and none of them \"default\", expected the choice of one"));
  write_text(list.folder / "tokenizer_config.json", R"({"chat_template": [{"name": "default"}]})");
  EXPECT_THAT(input_error_of([&] { list.load(); }), HasSubstr("chat_template[0]: no field \"template\""));
  write_text(list.folder / "tokenizer_config.json", R"({"chat_template": 3})");
  EXPECT_THAT(input_error_of([&] { list.load(); }), HasSubstr("chat_template is 3, expected a list"));
}

TEST(ChatTemplate, ContinueFinalMessage) {
  Golden set("list");
  const auto continued = [&](const std::string& source, const std::string& content) {
    write_text(set.folder / "chat.jinja", source);
    return set.load((set.folder / "chat.jinja").string())
        .render({{"user", "q"}, {"assistant", content}}, {.continue_final_message = true});
  };
  EXPECT_EQ(continued("{{ messages[-1].content }}!", "I am "), "I am ");
  EXPECT_EQ(continued("{{ messages[-1].content | trim }}!", "I am "), "I am");
  EXPECT_EQ(continued("{{ messages[-1].content | trim }} !", "I am "), "I am ");  // as the reference does it
  EXPECT_EQ(continued("h \n{{ messages[-1].content | trim }}!", ""), "h");
  EXPECT_EQ(continued("{{ messages[-1].content }}", "CONTINUE_FINAL_MESSAGE_TAG x"), "CONTINUE_FINAL_MESSAGE_TAG x");
  for (const char* source :
       {"{{ messages[-1].content | upper }}", "{{ messages[0].content }}", "{{ messages[-1] | length }}"})
    EXPECT_THAT(input_error_of([&] { continued(source, "I am"); }), HasSubstr("for continue_final_message")) << source;
}

TEST(ChatTemplate, VariablesOfTheCallGoBeforeThoseOfTheFolder) {
  Golden set("list");
  write_text(set.folder / "chat.jinja", "{{ a }} {{ b }} {{ eos_token }}");
  const std::string file = (set.folder / "chat.jinja").string();
  const auto chat = ChatTokenizer::load(set.folder.path(),
                                        {.chat_template = file, .variables = {{"a", 1}, {"b", 2}, {"eos_token", "E"}}});
  EXPECT_EQ(chat.render({{"user", "x"}}), "1 2 E");
  EXPECT_EQ(chat.render({{"user", "x"}}, {.variables = {{"b", "c"}}}), "1 c E");
}

// --- the built-in templates

// What the public template of the set renders, the built-in one renders too, and refuses what that refuses.
TEST(BuiltInChatTemplate, RendersAsTheKnownFormats) {
  SAO_NEED_PARITY("chat-gemma2");
  for (const char* set : {"chat-chatml", "chat-gemma2", "chat-llama3"}) {
    TemporaryFolder folder;
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
      Json json = Json::parse(std::ifstream(parity(set) / name));
      json.erase("chat_template");
      if (json.contains("normalizer")) json["normalizer"] = nullptr;
      write_text(folder / name, json.dump());
    }
    const auto chat = ChatTokenizer::load(folder.path());
    const Json expected = Json::parse(std::ifstream(parity(set) / "expected.json"));
    testing::ParityResult result = {
        .area = "chat template", .subject = set, .what = "rendered text, built-in template", .worst_case = {}};
    for (const Json& c : expected["cases"]) {
      const Messages messages = messages_of(c["messages"]);
      if (c.contains("rendered")) {
        const std::string found = text_or_error(chat, messages, options_of(c));
        EXPECT_EQ(found, c["rendered"]) << c;
        testing::count(result, found == c["rendered"], c.dump());
      } else {
        EXPECT_THROW(chat.render(messages, options_of(c)), jinja::TemplateError) << c;
      }
    }
    EXPECT_GT(result.compared, 20);
    testing::report_parity(result);
  }
}

// --- messages of JSON rows

TEST(ParseMessage, TextIsAllThereIs) {
  EXPECT_EQ(parse_message(R"({"content": "Hi", "role": "user"})"), (Message{.role = "user", .content = "Hi"}));
}

TEST(ParseMessage, PartsAndFurtherFieldsAreKept) {
  const Message parts = parse_message(
      R"({"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "image"}, {"type": "text", "text": "b"}]})");
  EXPECT_EQ(parts.content, "a b");
  EXPECT_EQ(Json::parse(parts.json)["content"].size(), 3u);
  const Message named = parse_message(R"({"role": "tool", "name": "x", "content": "y"})");
  EXPECT_EQ(named.content, "y");
  EXPECT_EQ(named.json, R"({"role":"tool","name":"x","content":"y"})");
  for (const char* json :
       {R"({"role": "assistant", "content": null, "tool_calls": []})", R"({"role": "assistant", "tool_calls": []})"}) {
    EXPECT_EQ(parse_message(json).content, "");
    EXPECT_FALSE(parse_message(json).json.empty());
  }
}

TEST(ParseMessage, WhatIsNoMessage) {
  const std::pair<const char*, const char*> cases[] = {
      {"{", "not valid JSON"},
      {"[]", "a list of 0, expected an object with role and content"},
      {R"({"content": "x"})", "no role"},
      {R"({"role": 3, "content": "x"})", "role is 3, expected a string"},
      {R"({"role": "user"})", "no content"},
      {R"({"role": "user", "content": null})", "no content"},
      {R"({"role": "user", "content": 3})", "content is 3, expected a string or a list of parts"},
      {R"({"role": "user", "content": ["x"]})", "content[0] is \"x\", expected a part with a type"},
      {R"({"role": "user", "content": [{"text": "x"}]})", "content[0] is an object, expected a part with a type"},
      {R"({"role": "user", "content": [{"type": "text"}]})", "content[0] is an object, expected a text"},
  };
  for (const auto& [json, message] : cases)
    EXPECT_THAT(input_error_of([text = json] { parse_message(text); }), HasSubstr(message)) << json;
}

TEST(ParseMessage, DeepNestingIsRefused) {
  const std::string deep = R"({"role": "user", "content": "x", "more": )" + std::string(100'000, '[');
  EXPECT_THAT(input_error_of([&] { parse_message(deep); }), HasSubstr("nested more than 200 deep"));
}

TEST(ChatTemplate, PartsForATemplateThatReadsStrings) {
  const auto strings = Golden("list").load();
  const Message text = parse_message(
      R"({"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}], "name": "x"})");
  EXPECT_EQ(strings.render({text}), "<|start_header_id|>user a b<|eot_id|>");
  EXPECT_EQ(strings.render({text}, {.continue_final_message = true}), "<|start_header_id|>user a b");
  const Message image = parse_message(R"({"role": "user", "content": [{"type": "image", "url": "u"}]})");
  EXPECT_THAT(input_error_of([&] {
                strings.render({text, image});
              }),
              HasSubstr("messages[1]: the content has a part of type \"image\", expected text alone"));
  EXPECT_THAT(input_error_of([&] { strings.render({{.role = "user", .json = "[]"}}); }),
              HasSubstr("messages[0]: Message::json is no JSON object"));
}

}  // namespace
}  // namespace sao
