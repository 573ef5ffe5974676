// SPDX-License-Identifier: Apache-2.0
// Both kinds of tokenizer against the reference libraries, through the public interface.
#include "sao/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "fixtures.h"
#include "support/parity_report.h"
#include "support/paths.h"

namespace sao {
namespace {

using ::testing::AllOf;
using testing::from_base64;
using testing::from_hex;
using testing::golden;
using ::testing::HasSubstr;
using testing::ids_of;
using testing::input_error_of;
using testing::parity;
using testing::read_expected;
using testing::TemporaryFolder;
using testing::write_text;

// Ids with what the tokenizer puts around a text.
TokenIds with_added(const Tokenizer& tokenizer, TokenIds ids) {
  if (tokenizer.adds_bos()) ids.insert(ids.begin(), tokenizer.bos_id().value());
  if (tokenizer.adds_eos()) ids.push_back(tokenizer.eos_id().value());
  return ids;
}

void report(const std::string& subject, const char* what, std::size_t compared, std::int64_t wrong) {
  testing::report_parity(
      {"tokenizer", subject, what, static_cast<std::int64_t>(compared), static_cast<double>(wrong), 0.0, ""});
}

// The small goldens.

class SentencePieceGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(SentencePieceGolden, AgreesWithSentencePiece) {
  const auto folder = golden("text") / GetParam();
  const auto expected = read_expected(folder);
  const auto tokenizer = Tokenizer::load(folder);
  EXPECT_EQ(tokenizer->vocab_size(), expected["vocab_size"]);
  EXPECT_EQ(tokenizer->bos_id(), expected["bos"].get<TokenId>());
  EXPECT_EQ(tokenizer->eos_id(), expected["eos"].get<TokenId>());
  for (const auto& c : expected["cases"]) {
    const std::string text = c["text"];
    EXPECT_EQ(tokenizer->encode(text, false), ids_of(c["ids"])) << c;
    EXPECT_EQ(tokenizer->decode(ids_of(c["ids"])), c["decoded"]) << c;
  }
  for (const auto& c : expected["decode_cases"]) EXPECT_EQ(tokenizer->decode(ids_of(c["ids"])), c["decoded"]) << c;
  for (const auto& c : expected["invalid_utf8"])
    EXPECT_EQ(tokenizer->encode(from_hex(c["hex"].get<std::string>()), false), ids_of(c["ids"])) << c;
}
INSTANTIATE_TEST_SUITE_P(Sets, SentencePieceGolden, ::testing::Values("unigram", "gemma", "dummy_prefix", "suffix"));

class PipelineGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(PipelineGolden, AgreesWithTokenizers) {
  const auto folder = golden("text") / GetParam();
  const auto expected = read_expected(folder);
  const auto tokenizer = Tokenizer::load(folder);
  EXPECT_EQ(tokenizer->vocab_size(), expected["vocab_size"]);
  EXPECT_EQ(with_added(*tokenizer, tokenizer->encode("Hello world")), ids_of(expected["with_bos"]));
  std::int64_t wrong = 0;
  for (const auto& c : expected["cases"]) {
    const TokenIds ids = tokenizer->encode(c["text"].get<std::string>(), true);
    wrong += ids != ids_of(c["ids"]);
    EXPECT_EQ(ids, ids_of(c["ids"])) << c;
    EXPECT_EQ(tokenizer->decode(ids_of(c["ids"]), false), c["decoded"]) << c;
    EXPECT_EQ(tokenizer->decode(ids_of(c["ids"]), true), c["decoded_skip"]) << c;
  }
  for (const auto& c : expected["special_not_parsed"])
    EXPECT_EQ(tokenizer->encode(c["text"].get<std::string>(), false), ids_of(c["ids"])) << c;
  for (const auto& c : expected["decode_cases"]) {
    EXPECT_EQ(tokenizer->decode(ids_of(c["ids"]), false), c["decoded"]) << c;
    EXPECT_EQ(tokenizer->decode(ids_of(c["ids"]), true), c["decoded_skip"]) << c;
  }
  for (const auto& c : expected["invalid_utf8"])
    EXPECT_EQ(tokenizer->encode(from_hex(c["hex"].get<std::string>()), true), ids_of(c["ids"])) << c;
  report("tokenizer.json, golden " + std::string(GetParam()), "ids of texts", expected["cases"].size(), wrong);
}
INSTANTIATE_TEST_SUITE_P(Sets, PipelineGolden,
                         ::testing::Values("byte_level", "byte_fallback", "qwen2", "nemo", "phi3", "gemma_json",
                                           "metaspace", "unigram_json"));

// The files beside tokenizer.json, as transformers' AutoTokenizer takes them.
TEST(Tokenizer, AgreesWithAutoTokenizer) {
  std::ifstream file(golden("text") / "transformers.json");
  std::int64_t compared = 0, wrong = 0;
  for (const auto& c : nlohmann::json::parse(file)) {
    TemporaryFolder folder;
    std::filesystem::copy_file(golden("text") / c["folder"].get<std::string>() / "tokenizer.json",
                               folder / "tokenizer.json");
    for (const auto& [name, content] : c["files"].items()) write_text(folder / name, content.dump());
    const auto tokenizer = Tokenizer::load(folder.path());
    const auto id_or_none = [](const nlohmann::json& id) {
      return id.is_null() ? std::nullopt : std::optional(id.get<TokenId>());
    };
    EXPECT_EQ(tokenizer->bos_id(), id_or_none(c["bos"])) << c["files"];
    EXPECT_EQ(tokenizer->eos_id(), id_or_none(c["eos"])) << c["files"];
    for (std::size_t i = 0; i < c["texts"].size(); ++i) {
      const TokenIds ids = tokenizer->encode(c["texts"][i].get<std::string>());
      EXPECT_EQ(ids, ids_of(c["ids"][i])) << c["files"] << c["texts"][i];
      EXPECT_EQ(with_added(*tokenizer, ids), ids_of(c["with_special"][i])) << c["files"] << c["texts"][i];
      EXPECT_EQ(tokenizer->decode(ids_of(c["ids"][i])), c["decoded"][i]) << c["files"] << c["texts"][i];
      EXPECT_EQ(tokenizer->decode(ids_of(c["ids"][i]), true), c["decoded_skip"][i]) << c["files"] << c["texts"][i];
      ++compared;
      wrong += ids != ids_of(c["ids"][i]);
    }
  }
  report("files beside tokenizer.json", "ids of texts, transformers", compared, wrong);
}

TEST(Tokenizer, VocabularyAndMergesAlone) {
  const auto folder = golden("text") / "qwen2";
  TemporaryFolder files;
  std::ifstream stream(folder / "tokenizer.json");
  const auto json = nlohmann::json::parse(stream);
  write_text(files / "vocab.json", json["model"]["vocab"].dump());
  std::string merges = "#version: 0.2\n";
  for (const auto& merge : json["model"]["merges"])
    merges += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n";
  write_text(files / "merges.txt", merges);
  nlohmann::json config = {{"tokenizer_class", "Qwen2Tokenizer"}, {"eos_token", "<|im_end|>"}};
  for (const auto& token : json["added_tokens"])
    config["added_tokens_decoder"][std::to_string(token["id"].get<int>())] = token;
  write_text(files / "tokenizer_config.json", config.dump());
  const auto tokenizer = Tokenizer::load(files.path());
  for (const auto& c : read_expected(folder)["cases"]) {
    EXPECT_EQ(tokenizer->encode(c["text"].get<std::string>()), ids_of(c["ids"])) << c;
    EXPECT_EQ(tokenizer->decode(ids_of(c["ids"])), c["decoded"]) << c;
  }
  write_text(files / "tokenizer_config.json", R"({"tokenizer_class": "BloomTokenizer"})");
  EXPECT_THAT(input_error_of([&] { Tokenizer::load(files.path()); }),
              AllOf(HasSubstr("tokenizer_class"), HasSubstr("BloomTokenizer")));
}

// transformers' LlamaTokenizer has the blank of the dummy prefix at the start of a text only.
TEST(Tokenizer, DummyPrefixAtTheStartOnly) {
  TemporaryFolder folder;
  std::filesystem::copy_file(golden("text") / "dummy_prefix" / "tokenizer.model", folder / "tokenizer.model");
  const auto ids_with = [&](const char* config) {
    write_text(folder / "tokenizer_config.json", config);
    return Tokenizer::load(folder.path())->encode("<s>Hello the</s> the");
  };
  const TokenIds without = {1, 388, 333, 343, 343, 338, 261, 2, 261};  // AutoTokenizer's
  EXPECT_EQ(ids_with(R"({"tokenizer_class": "LlamaTokenizer"})"), without);
  TokenIds with = without;
  with.insert(with.begin() + 1, 332);
  with.insert(with.end() - 1, 332);
  EXPECT_EQ(ids_with(R"({"tokenizer_class": "LlamaTokenizer", "legacy": true})"), with);
  EXPECT_EQ(ids_with("{}"), with);
}

TEST(Tokenizer, ControlTokensInTextOnlyWhereAsked) {
  const auto tokenizer = Tokenizer::load(golden("text") / "gemma");
  EXPECT_EQ(tokenizer->encode("<bos>", true), TokenIds{2});
  EXPECT_EQ(tokenizer->encode("<unk><eos><pad>", true), (TokenIds{3, 1, 0}));
  EXPECT_GT(tokenizer->encode("<bos>", false).size(), 1u);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a<bos> b", false)), "a<bos> b");
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a<bos> b", true), false), "a<bos> b");
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a<bos> b", true), true), "a b");
  // User-defined symbols are split out either way, and are not special unless tokenizer_config.json says so.
  const TokenId turn = tokenizer->find_token("<start_of_turn>").value();
  EXPECT_EQ(tokenizer->encode("<start_of_turn>", false), TokenIds{turn});
  EXPECT_EQ(tokenizer->decode(TokenIds{turn}, true), "<start_of_turn>");
}

TEST(Tokenizer, ConfigNamesSpecialTokensAndAddsNewOnes) {
  TemporaryFolder folder;
  std::filesystem::copy_file(golden("text") / "gemma" / "tokenizer.model", folder / "tokenizer.model");
  write_text(
      folder / "tokenizer_config.json",
      R"({"eos_token": {"content": "<end_of_turn>"}, "additional_special_tokens": ["<start_of_turn>"], "add_bos_token": false,
                 "added_tokens_decoder": {"430": {"content": "<|new|>", "special": true, "rstrip": true}, "431": {"content": "plain"}}})");
  const auto tokenizer = Tokenizer::load(folder.path());
  const TokenId start = tokenizer->find_token("<start_of_turn>").value();
  const TokenId end = tokenizer->find_token("<end_of_turn>").value();
  EXPECT_EQ(tokenizer->eos_id(), end);
  EXPECT_EQ(tokenizer->bos_id(), 2);
  EXPECT_FALSE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->vocab_size(), 432);
  EXPECT_EQ(tokenizer->decode(TokenIds{start, 430, end}, true), "");
  EXPECT_EQ(tokenizer->decode(TokenIds{start, 430, end}, false), "<start_of_turn><|new|><end_of_turn>");
  EXPECT_EQ(tokenizer->encode("<|new|>  plain", true), (TokenIds{430, 431}));
  EXPECT_EQ(tokenizer->encode("plain", false), TokenIds{431});
  EXPECT_NE(tokenizer->encode("<|new|>", false), TokenIds{430});
  EXPECT_THROW(tokenizer->decode(TokenIds{425}), InputError);  // between the model and the added tokens
}

// Bytes that are no UTF-8 beside a token that stands between words only: U+FFFD, which is no part of a word, would do
// the same.
TEST(Tokenizer, InvalidUtf8BesideASingleWord) {
  TemporaryFolder folder;
  std::filesystem::copy_file(golden("text") / "gemma" / "tokenizer.model", folder / "tokenizer.model");
  write_text(folder / "tokenizer_config.json",
             R"({"added_tokens_decoder": {"430": {"content": "<w>", "single_word": true, "lstrip": true}}})");
  const auto tokenizer = Tokenizer::load(folder.path());
  const auto count = [&](const std::string& text) { return std::ranges::count(tokenizer->encode(text), 430); };
  EXPECT_EQ(count("a<w>"), 0);
  EXPECT_EQ(count("\u00e9<w>"), 0);
  EXPECT_EQ(count("<w>\u00e9"), 0);
  EXPECT_EQ(count("- <w> -"), 1);
  for (const std::string bad :
       {"\xff", "\x80", "\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xed\xa0\x80", "a\x80", " \x80\x80"}) {
    EXPECT_EQ(count(bad + "<w>"), 1) << bad;
    EXPECT_EQ(count(bad.substr(bad.find_first_not_of("a ")) + "<w>" + bad.substr(bad.find_first_not_of("a "))), 1)
        << bad;
    // Nothing of it is white space to be stripped.
    EXPECT_EQ(tokenizer->encode(bad + "<w>").size(), tokenizer->encode(bad).size() + 1) << bad;
  }
}

TEST(Tokenizer, SpecialTokensOfTheConfigOnTopOfTokenizerJson) {
  TemporaryFolder folder;
  std::filesystem::copy_file(golden("text") / "byte_level" / "tokenizer.json", folder / "tokenizer.json");
  write_text(folder / "special_tokens_map.json", R"({"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"})");
  const auto tokenizer = Tokenizer::load(folder.path());
  EXPECT_EQ(tokenizer->eos_id(), tokenizer->find_token("<|eot_id|>"));
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->find_token("no such token"), std::nullopt);
}

TEST(Tokenizer, ManyThreadsAtOnce) {
  for (const char* name : {"gemma", "byte_level"}) {
    const auto tokenizer = Tokenizer::load(golden("text") / name);
    const std::string text = "The better answer is kept as chosen, the other one as rejected. 12345 你好";
    const TokenIds ids = tokenizer->encode(text);
    std::vector<std::thread> threads;
    std::vector<int> wrong(4, 0);
    for (std::size_t t = 0; t < wrong.size(); ++t)
      threads.emplace_back([&, t] {
        for (int i = 0; i < 200; ++i) wrong[t] += tokenizer->encode(text) != ids || tokenizer->decode(ids) != text;
      });
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(wrong, std::vector<int>(4, 0)) << name;
  }
}

// The larger fixtures beside the checkout.

TEST(TokenizerParity, GemmaTokenizerModelAlone) {
  SAO_NEED_PARITY("tok-gemma");
  const auto expected = read_expected(parity("tok-gemma"));
  TemporaryFolder folder;
  for (const char* name : {"tokenizer.model", "tokenizer_config.json"})
    std::filesystem::copy_file(parity("tok-gemma") / name, folder / name);
  const auto tokenizer = Tokenizer::load(folder.path());
  EXPECT_EQ(tokenizer->vocab_size(), expected["vocab_size"]);
  EXPECT_EQ(tokenizer->bos_id(), 2);
  EXPECT_EQ(tokenizer->eos_id(), 1);
  EXPECT_TRUE(tokenizer->adds_bos());
  std::int64_t wrong = 0;
  for (const auto& c : expected["cases"]) {
    const std::string text = c["text"];
    wrong += tokenizer->encode(text, false) != ids_of(c["sp_ids"]);
    EXPECT_EQ(tokenizer->encode(text, false), ids_of(c["sp_ids"])) << c;
    EXPECT_EQ(tokenizer->encode(text, true), ids_of(c["ids"])) << c;
    EXPECT_EQ(tokenizer->decode(ids_of(c["sp_ids"])), c["sp_decoded"]) << c;
    EXPECT_EQ(tokenizer->decode(ids_of(c["ids"]), false), c["decoded"]) << c;
    EXPECT_EQ(tokenizer->decode(ids_of(c["ids"]), true), c["decoded_skip"]) << c;
  }
  for (const auto& c : expected["decode_cases"]) {
    EXPECT_EQ(tokenizer->decode(ids_of(c["ids"]), false), c["sp_decoded"]) << c;
    EXPECT_EQ(tokenizer->decode(ids_of(c["ids"]), true), c["decoded_skip"]) << c;
  }
  for (const auto& c : expected["invalid_utf8"]) {
    const std::string bytes = from_base64(c["bytes_b64"].get<std::string>());
    EXPECT_EQ(tokenizer->encode(bytes, false), ids_of(c["sp_ids"])) << c;
    EXPECT_EQ(tokenizer->encode(bytes, true), ids_of(c["sp_ids"])) << c;
    EXPECT_EQ(tokenizer->decode(ids_of(c["sp_ids"])), c["sp_decoded"]) << c;
    EXPECT_EQ(tokenizer->encode(c["python_replace"].get<std::string>()), ids_of(c["ids_of_python_replace"])) << c;
  }
  report("tok-gemma, tokenizer.model", "ids of texts, sentencepiece", expected["cases"].size(), wrong);
}

void expect_pipeline_parity(const char* name) {
  const auto expected = read_expected(parity(name));
  const auto tokenizer = Tokenizer::load(parity(name));
  EXPECT_EQ(tokenizer->vocab_size(), expected["vocab_size"]);
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->bos_id(), expected["bos_example"]["ids"][0].get<TokenId>());
  std::int64_t wrong = 0;
  for (const auto& c : expected["cases"]) {
    const std::string text = c["text"];
    wrong += tokenizer->encode(text) != ids_of(c["ids"]);
    EXPECT_EQ(tokenizer->encode(text), ids_of(c["ids"])) << c;
    if (c.contains("sp_ids")) {
      EXPECT_EQ(tokenizer->encode(text, false), ids_of(c["sp_ids"])) << c;
    }
    EXPECT_EQ(tokenizer->decode(ids_of(c["ids"]), false), c["decoded"]) << c;
    EXPECT_EQ(tokenizer->decode(ids_of(c["ids"]), true), c["decoded_skip"]) << c;
  }
  for (const auto& c : expected["decode_cases"]) {
    EXPECT_EQ(tokenizer->decode(ids_of(c["ids"]), false), c["decoded"]) << c;
    EXPECT_EQ(tokenizer->decode(ids_of(c["ids"]), true), c["decoded_skip"]) << c;
  }
  for (const auto& c : expected["invalid_utf8"])
    EXPECT_EQ(tokenizer->encode(from_base64(c["bytes_b64"].get<std::string>())), ids_of(c["ids_of_python_replace"]))
        << c;
  report(std::string(name) + ", tokenizer.json", "ids of texts, tokenizers", expected["cases"].size(), wrong);
}

TEST(TokenizerParity, Llama3) {
  SAO_NEED_PARITY("tok-llama3");
  expect_pipeline_parity("tok-llama3");
}

// Where both files are, tokenizer.json is what transformers reads; sentencepiece's ids are the same.
TEST(TokenizerParity, Gemma) {
  SAO_NEED_PARITY("tok-gemma");
  expect_pipeline_parity("tok-gemma");
}

// What is refused.

TEST(TokenizerErrors, Files) {
  TemporaryFolder folder;
  EXPECT_THAT(input_error_of([&] { Tokenizer::load(folder / "none"); }), HasSubstr("none: no such folder"));
  EXPECT_THAT(input_error_of([&] { Tokenizer::load(folder / std::string(300, 'x')); }), HasSubstr("no such folder"));
  EXPECT_THAT(input_error_of([&] { Tokenizer::load(folder.path()); }),
              AllOf(HasSubstr(folder.path().string()), HasSubstr("tokenizer.json")));
  write_text(folder / "tokenizer.json", "{\"model\": ");
  EXPECT_THAT(input_error_of([&] { Tokenizer::load(folder.path()); }),
              AllOf(HasSubstr("tokenizer.json: not valid JSON"), ::testing::Not(HasSubstr("\n"))));
  write_text(folder / "tokenizer.json", "[]");
  EXPECT_THAT(input_error_of([&] { Tokenizer::load(folder.path()); }), HasSubstr("tokenizer.json"));
  std::filesystem::remove(folder / "tokenizer.json");
  write_text(folder / "tokenizer.model", "no protocol buffer at all");
  EXPECT_THAT(input_error_of([&] { Tokenizer::load(folder.path()); }), HasSubstr("tokenizer.model: "));
  write_text(folder / "tokenizer.model", "");
  EXPECT_THAT(input_error_of([&] { Tokenizer::load(folder.path()); }), HasSubstr("tokenizer.model: no pieces"));
  write_text(folder / "tokenizer.model", "IQ== 0\nIg== 1\nIw== 2\n");
  EXPECT_THAT(input_error_of([&] { Tokenizer::load(folder.path()); }), HasSubstr("tiktoken"));
}

TEST(TokenizerErrors, TruncatedModelNeverCrashes) {
  TemporaryFolder folder;
  std::ifstream file(golden("text") / "gemma" / "tokenizer.model", std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(file)), {});
  for (std::size_t size = 1; size < whole.size(); size += 97) {
    write_text(folder / "tokenizer.model", std::string_view(whole).substr(0, size));
    try {
      Tokenizer::load(folder.path())->encode("Hello world");
    } catch (const InputError& error) {
      EXPECT_THAT(error.what(), HasSubstr("tokenizer.model"));
    }
  }
}

struct BrokenJson {
  const char* name;
  const char* patch;  // JSON merge patch for the golden byte_level/tokenizer.json
  std::vector<const char*> in_message;
};

class BrokenTokenizerJson : public ::testing::TestWithParam<BrokenJson> {};

TEST_P(BrokenTokenizerJson, IsRefusedByName) {
  TemporaryFolder folder;
  std::ifstream file(golden("text") / "byte_level" / "tokenizer.json");
  auto json = nlohmann::json::parse(file);
  json.merge_patch(nlohmann::json::parse(GetParam().patch));
  write_text(folder / "tokenizer.json", json.dump());
  const std::string message = input_error_of([&] { Tokenizer::load(folder.path()); });
  EXPECT_THAT(message, HasSubstr("tokenizer.json: "));
  for (const char* part : GetParam().in_message) EXPECT_THAT(message, HasSubstr(part));
}
INSTANTIATE_TEST_SUITE_P(
    Kinds, BrokenTokenizerJson,
    ::testing::Values(
        BrokenJson{"Model", R"({"model": {"type": "WordPiece"}})", {"model.type", "WordPiece", "BPE"}},
        BrokenJson{"NoModel", R"({"model": null})", {"model"}},
        BrokenJson{"NoVocab", R"({"model": {"vocab": null}})", {"model", "vocab"}},
        BrokenJson{"VocabType", R"({"model": {"vocab": {"a": "x"}}})", {"model.vocab", "\"a\""}},
        BrokenJson{"HugeId", R"({"model": {"vocab": {"a": 4000000000}}})", {"model.vocab", "4000000000"}},
        BrokenJson{"NegativeId", R"({"model": {"vocab": {"a": -1}}})", {"model.vocab", "-1"}},
        BrokenJson{"TwoTokensOneId", R"({"model": {"vocab": {"a": 1}}})", {"model.vocab", "id 1"}},
        BrokenJson{"Merge", R"({"model": {"merges": [["a", "nowhere"]]}})", {"model.merges[0]", "nowhere"}},
        BrokenJson{"MergeForm", R"({"model": {"merges": ["a b c"]}})", {"model.merges[0]", "a b c"}},
        BrokenJson{"Dropout", R"({"model": {"dropout": 0.1}})", {"model.dropout"}},
        BrokenJson{"Prefix", R"({"model": {"continuing_subword_prefix": "##"}})", {"continuing_subword_prefix"}},
        BrokenJson{
            "Normalizer", R"({"normalizer": {"type": "BertNormalizer"}})", {"normalizer.type", "BertNormalizer"}},
        BrokenJson{"PreTokenizer",
                   R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "UnicodeScripts"}]}})",
                   {"pre_tokenizer.pretokenizers[0].type", "UnicodeScripts"}},
        BrokenJson{"UnigramOfBytes", R"({"model": {"type": "Unigram"}})", {"model.type", "Unigram", "ByteLevel"}},
        BrokenJson{"Regex",
                   R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"}})",
                   {"pre_tokenizer.pattern.Regex", "regular expression"}},
        BrokenJson{"Behavior",
                   R"({"pre_tokenizer": {"type": "Split", "pattern": {"String": "a"}, "behavior": "Sideways"}})",
                   {"behavior", "Sideways"}},
        BrokenJson{"PostProcessor",
                   R"({"post_processor": {"type": "BertProcessing"}})",
                   {"post_processor.type", "BertProcessing"}},
        BrokenJson{"Decoder", R"({"decoder": {"type": "WordPiece"}})", {"decoder.type", "WordPiece"}},
        BrokenJson{"AddedToken", R"({"added_tokens": [{"id": 5}]})", {"added_tokens[0]", "content"}},
        BrokenJson{
            "AddedTokenId", R"({"added_tokens": [{"id": 5, "content": "<x>"}]})", {"added_tokens[0].id", "<x>"}}),
    [](const auto& broken) { return broken.param.name; });

TEST(TokenizerErrors, Config) {
  TemporaryFolder folder;
  std::filesystem::copy_file(golden("text") / "gemma" / "tokenizer.model", folder / "tokenizer.model");
  const auto error_with = [&](const char* config) {
    write_text(folder / "tokenizer_config.json", config);
    return input_error_of([&] { Tokenizer::load(folder.path()); });
  };
  EXPECT_THAT(error_with(R"({"bos_token": "<nowhere>"})"),
              AllOf(HasSubstr("tokenizer_config.json: bos_token"), HasSubstr("<nowhere>")));
  EXPECT_THAT(error_with(R"({"eos_token": 5})"), HasSubstr("tokenizer_config.json: eos_token is 5"));
  EXPECT_THAT(error_with(R"({"add_bos_token": "yes"})"), HasSubstr("add_bos_token"));
  EXPECT_THAT(error_with(R"({"added_tokens_decoder": {"x": {"content": "y"}}})"), HasSubstr("added_tokens_decoder"));
  EXPECT_THAT(error_with(R"({"added_tokens_decoder": {"99999999999": {"content": "y"}}})"), HasSubstr("99999999999"));
  EXPECT_THAT(error_with(R"({"added_tokens_decoder": {"3": {"content": "other"}}})"), HasSubstr("other"));
}

TEST(TokenizerErrors, UnknownIds) {
  for (const char* name : {"gemma", "byte_level", "byte_fallback"}) {
    const auto tokenizer = Tokenizer::load(golden("text") / name);
    const auto size = static_cast<TokenId>(tokenizer->vocab_size());
    EXPECT_NO_THROW(tokenizer->decode(TokenIds{size - 1})) << name;
    for (const TokenId id : {-1, size, size + 1000})
      EXPECT_THAT(input_error_of([&] { tokenizer->decode(TokenIds{0, id}); }), HasSubstr(std::to_string(id))) << name;
  }
}

}  // namespace
}  // namespace sao
