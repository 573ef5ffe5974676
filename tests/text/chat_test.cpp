// SPDX-License-Identifier: Apache-2.0
#include "sao/text/chat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "fixtures.h"
#include "support/paths.h"

namespace sao {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::golden;
using ::testing::HasSubstr;
using testing::ids_of;
using testing::input_error_of;
using testing::parity;
using testing::read_expected;
using testing::TemporaryFolder;
using testing::write_text;

Messages messages_of(const nlohmann::json& list) {
  Messages messages;
  for (const auto& m : list) messages.push_back({.role = m["role"], .content = m["content"]});
  return messages;
}

class ChatParity : public ::testing::TestWithParam<const char*> {};

TEST_P(ChatParity, AgreesWithTransformers) {
  SAO_NEED_PARITY(GetParam());
  const auto folder = parity(GetParam());
  const auto chat = ChatTokenizer::load(folder);
  const auto expected = read_expected(folder);
  ASSERT_EQ(expected["cases"].size(), 47u);
  for (const auto& c : expected["cases"]) {
    const Messages messages = messages_of(c["messages"]);
    const RenderOptions options = {.add_generation_prompt = c["add_generation_prompt"],
                                   .continue_final_message = c["continue_final_message"]};
    if (c.contains("error")) {
      EXPECT_THAT(input_error_of([&] { chat.render(messages, options); }), HasSubstr(c["error"].get<std::string>()))
          << c;
      EXPECT_THROW(chat.encode_chat(messages, options), InputError);
    } else {
      EXPECT_EQ(chat.render(messages, options), c["rendered"]) << c;
      EXPECT_EQ(chat.encode_chat(messages, options), ids_of(c["ids"])) << c;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Sets, ChatParity, ::testing::Values("chat-gemma2", "chat-llama3"),
                         [](const auto& set) { return std::string(set.param) == "chat-gemma2" ? "Gemma2" : "Llama3"; });

TEST(ChatParity, AnotherTemplateLoadsButDoesNotRender) {
  SAO_NEED_PARITY("chat-mistral");
  const auto chat = ChatTokenizer::load(parity("chat-mistral"));
  EXPECT_THAT(input_error_of([&] {
                chat.render({{"user", "Hi"}});
              }),
              AllOf(HasSubstr("tokenizer_config.json: chat_template"), HasSubstr("unknown chat format")));
  EXPECT_FALSE(chat.encode_text("Hi").empty());
}

TEST(ChatParity, StopIdsOfModelFolders) {
  SAO_NEED_PARITY("gemma2-tiny");
  const auto gemma = ChatTokenizer::load(parity("gemma2-tiny"));
  EXPECT_THAT(gemma.stop_ids(), ElementsAre(1, gemma.tokenizer().find_token("<end_of_turn>").value()));
  EXPECT_EQ(gemma.turn_end_id(), gemma.tokenizer().find_token("<end_of_turn>"));
  const auto llama = ChatTokenizer::load(parity("llama3-tiny"));
  EXPECT_THAT(llama.stop_ids(), ElementsAre(909));
  EXPECT_EQ(llama.turn_end_id(), 909);
}

// A folder with nothing but tokenizer.model: recognised by its tokens.
TEST(Chat, GemmaByItsTokens) {
  const auto chat = ChatTokenizer::load(golden("text") / "gemma");
  EXPECT_EQ(chat.render({{"user", " Hi\n"}, {"assistant", "Yes "}, {"user", "Bye"}}, {.add_generation_prompt = true}),
            "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nYes<end_of_turn>\n"
            "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n");
  EXPECT_EQ(chat.render({{"user", "Hi"}, {"assistant", " I am "}}, {.continue_final_message = true}),
            "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nI am");
  EXPECT_THAT(input_error_of([&] {
                chat.render({{"system", "s"}, {"user", "u"}});
              }),
              HasSubstr("System role not supported"));
  EXPECT_THAT(input_error_of([&] {
                chat.render({{"user", "a"}, {"user", "b"}});
              }),
              HasSubstr("messages[1]: Conversation roles must alternate"));
  const TokenId end = chat.tokenizer().find_token("<end_of_turn>").value();
  EXPECT_EQ(chat.turn_end_id(), end);
  EXPECT_THAT(chat.stop_ids(), ElementsAre(1, end));
  EXPECT_EQ(chat.encode_prompt("Hi"), chat.encode_chat({{"user", "Hi"}}, {.add_generation_prompt = true}));
}

TEST(Chat, Llama3ByItsTokens) {
  const auto chat = ChatTokenizer::load(golden("text") / "byte_level");
  EXPECT_EQ(
      chat.render({{"system", " s "}, {"user", "Hi"}}, {.add_generation_prompt = true}),
      "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\ns<|eot_id|>"
      "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
  const TokenIds ids = chat.encode_prompt("Hi");
  EXPECT_EQ(ids.front(), chat.tokenizer().bos_id());
  EXPECT_EQ(std::ranges::count(ids, *chat.tokenizer().bos_id()), 1);
  EXPECT_EQ(chat.turn_end_id(), chat.tokenizer().find_token("<|eot_id|>"));
}

TEST(Chat, RefusesWhatNoTemplateTakes) {
  const auto chat = ChatTokenizer::load(golden("text") / "byte_level");
  EXPECT_THROW(chat.render({}), InputError);
  EXPECT_THROW(chat.render({{"user", "Hi"}}, {.add_generation_prompt = true, .continue_final_message = true}),
               InputError);
}

TEST(Chat, NoKnownFormatLoadsButDoesNotRender) {
  const auto chat = ChatTokenizer::load(golden("text") / "unigram");
  EXPECT_THAT(input_error_of([&] {
                chat.render({{"user", "Hi"}});
              }),
              AllOf(HasSubstr("tokenizer_config.json"), HasSubstr("unknown chat format")));
  EXPECT_FALSE(chat.encode_text("Hello").empty());
  EXPECT_EQ(chat.turn_end_id(), chat.tokenizer().eos_id());
}

class ChatFolder : public ::testing::Test {
 protected:
  ChatFolder() {
    std::filesystem::copy_file(golden("text") / "gemma" / "tokenizer.model", folder_ / "tokenizer.model");
  }
  ChatTokenizer load() const { return ChatTokenizer::load(folder_.path()); }
  TemporaryFolder folder_;
};

TEST_F(ChatFolder, ATemplateOfItsOwnIsUnknownEvenWithGemmasTokens) {
  write_text(folder_ / "tokenizer_config.json",
             R"({"chat_template": "{% for m in messages %}<start_of_turn>{{ m.content }}{% endfor %}"})");
  EXPECT_THAT(input_error_of([&] {
                load().render({{"user", "Hi"}});
              }),
              HasSubstr("tokenizer_config.json: chat_template: unknown"));
  write_text(folder_ / "chat_template.jinja", "{{ messages[0].content }}");
  EXPECT_THAT(input_error_of([&] { load().render({{"user", "Hi"}}); }), HasSubstr("chat_template.jinja: unknown"));
}

TEST_F(ChatFolder, StopIdsFromTheModelsFiles) {
  write_text(folder_ / "generation_config.json", R"({"eos_token_id": [1, 7, 7]})");
  write_text(folder_ / "config.json", R"({"eos_token_id": 9})");
  const TokenId end = load().tokenizer().find_token("<end_of_turn>").value();
  TokenIds expected = {1, 7, 9, end};
  std::ranges::sort(expected);
  EXPECT_EQ(load().stop_ids(), expected);
  write_text(folder_ / "generation_config.json", R"({"eos_token_id": [1, "x"]})");
  EXPECT_THAT(input_error_of([&] { load(); }), HasSubstr("generation_config.json: eos_token_id[1] is \"x\""));
  write_text(folder_ / "generation_config.json", R"({"eos_token_id": -3})");
  EXPECT_THAT(input_error_of([&] { load(); }), HasSubstr("-3"));
}

TEST(Chat, ExactlyOneBos) {
  const auto chat = ChatTokenizer::load(golden("text") / "gemma");
  const TokenIds plain = chat.encode_text("Hello", false);
  TokenIds with_bos = plain;
  with_bos.insert(with_bos.begin(), 2);
  EXPECT_EQ(chat.encode_text("Hello"), with_bos);
  EXPECT_EQ(chat.encode_text("<bos>Hello"), with_bos);
  EXPECT_EQ(chat.encode_text("<bos>Hello", false), with_bos);
  EXPECT_EQ(chat.encode_text(""), TokenIds{2});
}

TEST(Chat, ResponseText) {
  const auto chat = ChatTokenizer::load(golden("text") / "gemma");
  TokenIds ids = chat.tokenizer().encode("\n Hello world \n");
  EXPECT_EQ(chat.response_text(ids), "Hello world");
  ids.push_back(chat.turn_end_id());
  ids.push_back(1);
  EXPECT_EQ(chat.response_text(ids), "Hello world");
  EXPECT_EQ(chat.response_text(TokenIds{chat.turn_end_id()}), "");
  EXPECT_EQ(chat.response_text({}), "");
}

}  // namespace
}  // namespace sao
