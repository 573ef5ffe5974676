// SPDX-License-Identifier: Apache-2.0
#include "sao/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "sao/base/error.h"
#include "sao/base/seed.h"
#include "sao/model/causal_lm.h"
#include "support/message_of.h"

namespace sao {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::message_of;
using ::testing::Not;
using Json = nlohmann::json;

Json gemma() {
  return Json::parse(R"({
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "vocab_size": 40, "hidden_size": 16,
    "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 64, "sliding_window": 8, "query_pre_attn_scalar": 16, "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": null, "eos_token_id": [1, 5]})");
}

Json llama() {
  return Json::parse(R"({
    "model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "eos_token_id": 1,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 32}})");
}

ModelConfig parse(const Json& json) { return ModelConfig::parse(json.dump(), "config.json"); }

std::string complaint(Json json, const char* patch) {
  json.merge_patch(Json::parse(patch));
  return message_of([&] { parse(json); });
}

TEST(ModelConfig, ReadsBothFamilies) {
  const ModelConfig g = parse(gemma());
  EXPECT_EQ(g.layer_windows, (std::vector<std::int64_t>{8, 0, 8}));
  EXPECT_EQ(g.attention_scale, 0.25);
  EXPECT_EQ(g.embedding_scale, 4.0);
  EXPECT_EQ(g.attn_logit_softcapping, 0.0);
  EXPECT_EQ(g.eos_token_ids, (TokenIds{1, 5}));
  EXPECT_TRUE(g.tie_word_embeddings);
  const ModelConfig l = parse(llama());
  EXPECT_EQ(l.head_dim, 4);
  EXPECT_EQ(l.num_key_value_heads, 4);
  EXPECT_EQ(l.rope_scaling.factor, 8.0);
  EXPECT_EQ(l.layer_windows, (std::vector<std::int64_t>{0, 0}));
  EXPECT_EQ(l.eos_token_ids, TokenIds{1});
  EXPECT_FALSE(l.tie_word_embeddings);
}

TEST(ModelConfig, WhatIsWrittenIsRead) {
  for (const Json& json : {gemma(), llama()}) {
    const ModelConfig config = parse(json);
    const std::string text = config.to_json("", "float32");
    EXPECT_EQ(ModelConfig::parse(text, "again").to_json("", "float32"), text);
    const Json kept = Json::parse(config.to_json(R"({"vocab_size": 40, "mine": [1]})", "bfloat16"));
    EXPECT_EQ(kept["mine"], Json::parse("[1]"));
    EXPECT_EQ(kept["torch_dtype"], "bfloat16");
  }
  for (const char* bad : {"{", "[]", "{\"a\": \"\xff\"}"}) {
    EXPECT_THAT(message_of([&] { parse(llama()).to_json(bad, "float32"); }), HasSubstr("base_json")) << bad;
  }
}

TEST(ModelConfig, EveryMissingFieldIsNamedAtOnce) {
  const std::string of_gemma = message_of([] { ModelConfig::parse(R"({"model_type": "gemma2"})", "config.json"); });
  for (const char* field :
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "head_dim", "query_pre_attn_scalar", "sliding_window"}) {
    EXPECT_THAT(of_gemma, HasSubstr(std::string(field) + " is missing"));
  }
  const std::string of_llama = message_of([] {
    ModelConfig::parse(R"({"model_type": "llama", "eos_token_id": 3, "rope_scaling": {"rope_type": "llama3"}})", "it");
  });
  for (const char* field : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                            "num_attention_heads", "max_position_embeddings", "rope_scaling.factor",
                            "rope_scaling.low_freq_factor", "rope_scaling.high_freq_factor"}) {
    EXPECT_THAT(of_llama, HasSubstr(std::string(field) + " is missing"));
  }
  // What follows from these is no problem of its own.
  for (const std::string& message : {of_gemma, of_llama}) {
    for (const char* field : {"layer_windows", "embedding_scale", "eos_token_id", " is 0"}) {
      EXPECT_THAT(message, Not(HasSubstr(field)));
    }
  }
  EXPECT_THAT(of_llama, AllOf(Not(HasSubstr("head_dim")), Not(HasSubstr("num_key_value_heads"))));
}

TEST(ModelConfig, ImpossibleFieldsAreNamedTogether) {
  const std::string message = complaint(gemma(), R"({"vocab_size": -3, "hidden_size": "16", "head_dim": 7,
      "num_key_value_heads": 3, "rms_norm_eps": -1, "hidden_activation": "relu", "sliding_window": 0,
      "query_pre_attn_scalar": 0, "rope_scaling": {"type": "linear"}, "mlp_bias": true, "intermediate_size": null})");
  for (const char* part :
       {"config.json: ", "vocab_size is -3, expected an integer from 1", "hidden_size is \"16\"",
        "head_dim is 7, expected an even number",
        "num_key_value_heads is 3, expected a divisor of num_attention_heads = 4", "rms_norm_eps is -1",
        "hidden_activation is \"relu\"", "sliding_window is 0", "query_pre_attn_scalar is 0",
        "rope_scaling.factor is missing", "mlp_bias is true", "intermediate_size is missing"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
  EXPECT_THAT(complaint(llama(), R"({"rope_scaling": {"high_freq_factor": 0.5}})"),
              HasSubstr("rope_scaling.high_freq_factor is 0.5, expected a value above low_freq_factor"));
  EXPECT_THAT(complaint(llama(), R"({"rope_scaling": {"rope_type": "dynamic"}})"),
              HasSubstr("rope_scaling.rope_type is \"dynamic\", expected one of: default, linear, llama3, yarn"));
  EXPECT_THAT(complaint(llama(), R"({"rope_scaling": 3})"), HasSubstr("rope_scaling is 3, expected an object or null"));
  EXPECT_THAT(complaint(llama(), R"({"num_hidden_layers": 2000000000})"),
              AllOf(HasSubstr("num_hidden_layers is 2000000000"), Not(HasSubstr("layer_windows"))));
  EXPECT_THAT(complaint(llama(), R"({"num_attention_heads": 16})"),
              HasSubstr("head_dim is 1, expected an even number"));
  EXPECT_THAT(complaint(gemma(), R"({"layer_types": ["full_attention"]})"),
              HasSubstr("layer_types is a list of 1, expected a list of 3 names"));
  EXPECT_THAT(complaint(gemma(), R"({"layer_types": ["full_attention", "none", "full_attention"]})"),
              HasSubstr("layer_types[1] is \"none\""));
}

TEST(ModelConfig, EosIdsAreIdsOfTheVocabulary) {
  EXPECT_THAT(complaint(gemma(), R"({"eos_token_id": 4294967297})"), HasSubstr("eos_token_id is 4294967297"));
  EXPECT_THAT(complaint(gemma(), R"({"eos_token_id": [1, 4294967297]})"), HasSubstr("eos_token_id is a list of 2"));
  EXPECT_THAT(complaint(gemma(), R"({"eos_token_id": 40})"),
              HasSubstr("eos_token_id is 40, expected a token id below 40"));
  EXPECT_THAT(complaint(gemma(), R"({"eos_token_id": [-1]})"), HasSubstr("eos_token_id is -1"));
  EXPECT_THAT(complaint(gemma(), R"({"eos_token_id": "1"})"), HasSubstr("eos_token_id is \"1\""));
  EXPECT_EQ(complaint(gemma(), R"({"eos_token_id": null})"), "no error");
}

TEST(ModelConfig, OtherArchitecturesAndTextThatIsNoConfigAreRefused) {
  EXPECT_THAT(complaint(gemma(), R"({"model_type": "mixtral"})"),
              HasSubstr("config.json: model_type is \"mixtral\", expected one of: gemma, gemma2, gemma3_text, llama, "
                        "mistral, phi3, qwen2, qwen3"));
  EXPECT_THAT(complaint(gemma(), R"({"model_type": null})"), HasSubstr("model_type is \"\""));
  EXPECT_THAT(message_of([] { ModelConfig::parse("{\"model_type\": ", "config.json"); }),
              AllOf(HasSubstr("config.json: not valid JSON at line 1"), Not(HasSubstr("json.exception"))));
  EXPECT_THAT(message_of([] { ModelConfig::parse("[1]", "config.json"); }),
              HasSubstr("config.json: a list of 1, expected a JSON object"));
  EXPECT_THAT(message_of([] { ModelConfig::read("/none"); }), HasSubstr("config.json"));
}

// One function checks what is read and what is made by hand.
TEST(ModelConfig, ValidateNamesWhatDoesNotFit) {
  const ModelConfig good = parse(gemma());
  EXPECT_NO_THROW(validate(good));
  const auto message = [&](const std::function<void(ModelConfig&)>& change) {
    ModelConfig config = good;
    change(config);
    const std::string found = message_of([&] { validate(config, "mine"); });
    EXPECT_EQ(message_of([&] { CausalLM::random(config, Seed{1}); }).substr(std::string("model config").size()),
              found == "no error" ? found : found.substr(std::string("mine").size()));
    return found;
  };
  EXPECT_THAT(message([](ModelConfig& c) { c.layer_windows.pop_back(); }),
              HasSubstr("mine: layer_windows is a list of 2, expected one for each of 3 layers"));
  EXPECT_THAT(message([](ModelConfig& c) { c.layer_windows[0] = -1; }), HasSubstr("layer_windows is -1"));
  EXPECT_THAT(message([](ModelConfig& c) { c.hidden_act = ""; }), HasSubstr("hidden_activation is \"\""));
  EXPECT_THAT(message([](ModelConfig& c) { c.model_type = "x"; }), HasSubstr("model_type is \"x\""));
  EXPECT_THAT(message([](ModelConfig& c) { c.num_key_value_heads = 0; }), HasSubstr("num_key_value_heads is 0"));
  EXPECT_THAT(message([](ModelConfig& c) { c.rope_theta = 0.0; }), HasSubstr("rope_theta is 0"));
  EXPECT_THAT(message([](ModelConfig& c) { c.attention_scale = std::numeric_limits<double>::infinity(); }),
              HasSubstr("attention_scale is inf"));
  EXPECT_THAT(message([](ModelConfig& c) {
                c.vocab_size = 0;
                c.hidden_size = -1;
              }),
              AllOf(HasSubstr("vocab_size is 0"), HasSubstr("hidden_size is -1")));
}

}  // namespace
}  // namespace sao
