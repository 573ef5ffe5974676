// SPDX-License-Identifier: Apache-2.0
#include "sao/text/chat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "chat_cases.h"
#include "fixtures.h"
#include "sao/jinja/template.h"
#include "support/parity_report.h"
#include "support/paths.h"

namespace sao {
namespace {

using ::testing::AllOf;
using testing::count;
using ::testing::ElementsAre;
using testing::golden;
using ::testing::HasSubstr;
using testing::ids_of;
using testing::input_error_of;
using testing::messages_of;
using testing::parity;
using testing::ParityResult;
using testing::read_expected;
using testing::report_parity;
using testing::TemporaryFolder;
using testing::text_or_error;
using testing::write_text;

TokenIds with_one_bos(const ChatTokenizer& chat, TokenIds ids) {
  const auto bos = chat.tokenizer().bos_id();
  if (!bos) return ids;
  const std::size_t before = ids.size();
  while (!ids.empty() && ids.front() == *bos) ids.erase(ids.begin());
  if (ids.size() < before || chat.tokenizer().adds_bos()) ids.insert(ids.begin(), *bos);
  return ids;
}

// A set whose tokenizer.json may ask for the Unicode normal form NFC, which all texts of the sets have: without it.
class ChatSet {
 public:
  explicit ChatSet(const std::string& set) {
    std::filesystem::copy(parity(set), folder_.path(), std::filesystem::copy_options::recursive);
    std::ifstream file(parity(set) / "tokenizer.json");
    auto json = nlohmann::ordered_json::parse(file);
    if (json["normalizer"].is_object() && json["normalizer"]["type"] == "NFC") json["normalizer"] = nullptr;
    write_text(folder_ / "tokenizer.json", json.dump());
  }
  ChatTokenizer load() const { return ChatTokenizer::load(folder_.path()); }

 private:
  TemporaryFolder folder_;
};

class ChatParity : public ::testing::TestWithParam<const char*> {};

TEST_P(ChatParity, AgreesWithTransformers) {
  SAO_NEED_PARITY(GetParam());
  const auto chat = ChatSet(GetParam()).load();
  const auto expected = read_expected(parity(GetParam()));
  ASSERT_EQ(expected["cases"].size(), 47u);
  ParityResult texts = {
      .area = "chat template", .subject = GetParam(), .what = "rendered text or error", .worst_case = {}};
  ParityResult ids = {
      .area = "chat template", .subject = GetParam(), .what = "ids of the rendered text", .worst_case = {}};
  for (const auto& c : expected["cases"]) {
    const Messages messages = messages_of(c["messages"]);
    const RenderOptions options = {.add_generation_prompt = c["add_generation_prompt"],
                                   .continue_final_message = c["continue_final_message"]};
    const std::string wanted = c.contains("error")
                                   ? c["error_type"].get<std::string>() + ": " + c["error"].get<std::string>()
                                   : c["rendered"].get<std::string>();
    const std::string found = text_or_error(chat, messages, options);
    EXPECT_EQ(found, wanted) << c;
    count(texts, found == wanted, c.dump());
    if (!c.contains("ids")) {
      EXPECT_THROW(chat.encode_chat(messages, options), InputError);
      continue;
    }
    const TokenIds of_text = chat.tokenizer().encode(found);
    EXPECT_EQ(of_text, ids_of(c["ids"])) << c;
    count(ids, of_text == ids_of(c["ids"]), c.dump());
    EXPECT_EQ(chat.encode_chat(messages, options), with_one_bos(chat, ids_of(c["ids"]))) << c;
  }
  EXPECT_EQ(texts.compared, 47);
  EXPECT_EQ(texts.worst, 0.0);
  report_parity(texts);
  report_parity(ids);
}
INSTANTIATE_TEST_SUITE_P(Sets, ChatParity,
                         ::testing::Values("chat-chatml", "chat-gemma2", "chat-llama3", "chat-mistral", "chat-qwen2"),
                         [](const auto& set) { return std::string(set.param).substr(5); });

TEST(ChatParity, TurnEnds) {
  SAO_NEED_PARITY("chat-mistral");
  const std::pair<const char*, const char*> ends[] = {{"chat-chatml", "<|im_end|>"},
                                                      {"chat-gemma2", "<end_of_turn>"},
                                                      {"chat-llama3", "<|eot_id|>"},
                                                      {"chat-mistral", "</s>"},
                                                      {"chat-qwen2", "<|im_end|>"}};
  for (const auto& [set, end] : ends) {
    const auto chat = ChatSet(set).load();
    EXPECT_EQ(chat.turn_end_id(), chat.tokenizer().find_token(end)) << set;
    EXPECT_TRUE(std::ranges::binary_search(chat.stop_ids(), chat.turn_end_id())) << set;
  }
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
              HasSubstr("the built-in chat template for Gemma: line 1: a system message"));
  EXPECT_THAT(input_error_of([&] {
                chat.render({{"user", "a"}, {"user", "b"}});
              }),
              HasSubstr("message 2 is of \"user\", but user and assistant take turns"));
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
              AllOf(HasSubstr("unigram: no chat template"), HasSubstr("write the model's template")));
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
