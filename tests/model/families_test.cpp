// SPDX-License-Identifier: Apache-2.0
// The configs that the families' models are published with, and what a config may ask for that is not done.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <algorithm>

#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>

#include "sao/base/seed.h"
#include "sao/model/causal_lm.h"
#include "sao/model/config.h"
#include "support/message_of.h"
#include "support/paths.h"

namespace sao {
namespace {

using ::testing::HasSubstr;
using testing::message_of;
using Json = nlohmann::json;

ModelConfig parse(const Json& json) { return ModelConfig::parse(json.dump(), "config.json"); }

/// What is wrong with a config after a merge patch.
std::string complaint(Json json, const char* patch) {
  json.merge_patch(Json::parse(patch));
  return message_of([&] { parse(json); });
}

std::int64_t windows_of(const ModelConfig& config, std::int64_t window) {
  return std::ranges::count(config.layer_windows, window);
}

Json gemma_2b() {
  return Json::parse(R"({
    "architectures": ["GemmaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 2,
    "eos_token_id": 1, "head_dim": 256, "hidden_act": "gelu", "hidden_size": 2048, "initializer_range": 0.02,
    "intermediate_size": 16384, "max_position_embeddings": 8192, "model_type": "gemma", "num_attention_heads": 8,
    "num_hidden_layers": 18, "num_key_value_heads": 1, "pad_token_id": 0, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
    "torch_dtype": "bfloat16", "transformers_version": "4.38.0.dev0", "use_cache": true, "vocab_size": 256000})");
}

Json gemma_2_2b() {
  return Json::parse(R"({
    "architectures": ["Gemma2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 107],
    "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "intermediate_size": 9216,
    "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 8, "num_hidden_layers": 26,
    "num_key_value_heads": 4, "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0, "sliding_window": 4096, "torch_dtype": "bfloat16", "vocab_size": 256000})");
}

Json gemma_3_1b() {
  return Json::parse(R"({
    "architectures": ["Gemma3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "attn_logit_softcapping": null, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 106],
    "final_logit_softcapping": null, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152,
    "intermediate_size": 6912, "max_position_embeddings": 32768, "model_type": "gemma3_text", "num_attention_heads": 4,
    "num_hidden_layers": 26, "num_key_value_heads": 1, "pad_token_id": 0, "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000, "rope_scaling": null, "rope_theta": 1000000,
    "sliding_window": 512, "sliding_window_pattern": 6, "torch_dtype": "bfloat16", "vocab_size": 262144})");
}

Json gemma_3_4b() {
  return Json::parse(R"({
    "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999, "eoi_token_index": 256000,
    "eos_token_id": [1, 106], "image_token_index": 262144, "mm_tokens_per_image": 256, "model_type": "gemma3",
    "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                    "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                    "sliding_window": 1024},
    "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"}})");
}

Json llama_2_7b() {
  return Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "hidden_size": 4096, "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": null, "tie_word_embeddings": false, "torch_dtype": "float16",
    "vocab_size": 32000})");
}

Json llama_3_2_1b() {
  return Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
    "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rope_theta": 500000.0,
    "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 128256})");
}

Json mistral_7b_v01() {
  return Json::parse(R"({
    "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    "vocab_size": 32000})");
}

Json mistral_7b_v03() {
  Json json = mistral_7b_v01();
  json.update(Json::parse(R"({"rope_theta": 1000000.0, "sliding_window": null, "vocab_size": 32768})"));
  return json;
}

Json qwen_2_5_7b() {
  return Json::parse(R"({
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
    "hidden_act": "silu", "hidden_size": 3584, "intermediate_size": 18944, "max_position_embeddings": 32768,
    "max_window_layers": 28, "model_type": "qwen2", "num_attention_heads": 28, "num_hidden_layers": 28,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 152064})");
}

Json qwen_3_8b() {
  return Json::parse(R"({
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 12288,
    "max_position_embeddings": 40960, "max_window_layers": 36, "model_type": "qwen3", "num_attention_heads": 32,
    "num_hidden_layers": 36, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null,
    "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    "use_sliding_window": false, "vocab_size": 151936})");
}

Json phi_3_mini_4k() {
  return Json::parse(R"({
    "architectures": ["Phi3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
    "embd_pdrop": 0.0, "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
    "max_position_embeddings": 4096, "model_type": "phi3", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 32, "original_max_position_embeddings": 4096, "pad_token_id": 32000, "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000.0, "sliding_window": 2047,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 32064})");
}

Json phi_3_mini_128k() {
  Json json = phi_3_mini_4k();
  json["max_position_embeddings"] = 131072;
  json["sliding_window"] = 262144;
  std::vector<double> factors(48);  // the published ones are 48 measured numbers
  std::iota(factors.begin(), factors.end(), 1.0);
  json["rope_scaling"] = {{"type", "longrope"}, {"short_factor", factors}, {"long_factor", factors}};
  return json;
}

// The numbers of parameters are those of the published checkpoints.
TEST(Families, PublishedConfigsAreRead) {
  struct Published {
    const char* name;
    Json json;
    std::int64_t parameters;
  };
  for (const auto& [name, json, parameters] :
       std::vector<Published>{{"gemma-2b", gemma_2b(), 2506172416},
                              {"gemma-2-2b-it", gemma_2_2b(), 2614341888},
                              {"gemma-3-1b-it", gemma_3_1b(), 999885952},
                              {"gemma-3-4b-it", gemma_3_4b(), 3880263168},
                              {"Llama-2-7b", llama_2_7b(), 6738415616},
                              {"Llama-3.2-1B", llama_3_2_1b(), 1235814400},
                              {"Mistral-7B-v0.1", mistral_7b_v01(), 7241732096},
                              {"Mistral-7B-v0.3", mistral_7b_v03(), 7248023552},
                              {"Qwen2.5-7B-Instruct", qwen_2_5_7b(), 7615616512},
                              {"Qwen3-8B", qwen_3_8b(), 8190735360},
                              {"Phi-3-mini-4k-instruct", phi_3_mini_4k(), 3821079552},
                              {"Phi-3-mini-128k-instruct", phi_3_mini_128k(), 3821079552}}) {
    const ModelConfig config = parse(json);
    EXPECT_EQ(config.parameter_count(), parameters) << name;
    const std::string text = config.to_json("", "float32");
    EXPECT_EQ(ModelConfig::parse(text, name).to_json("", "float32"), text) << name;
    EXPECT_EQ(parse(Json::parse(config.to_json(json.dump(), "float32"))).to_json("", "float32"), text) << name;
  }
}

TEST(Families, GemmaTakesTheActivationThatTransformers5Takes) {
  const ModelConfig config = parse(gemma_2b());
  EXPECT_EQ(config.hidden_act, "gelu");
  EXPECT_EQ(config.embedding_scale, std::sqrt(2048.0));
  EXPECT_TRUE(config.tie_word_embeddings && config.zero_centered_norm && !config.post_norms);
  // transformers 4 computes by hidden_activation where it is there, 5 never.
  EXPECT_THAT(complaint(gemma_2b(), R"({"hidden_activation": "gelu_pytorch_tanh"})"),
              HasSubstr("hidden_activation is \"gelu_pytorch_tanh\", expected \"gelu\", as hidden_act says"));
  EXPECT_EQ(complaint(gemma_2b(), R"({"hidden_activation": null})"), "no error");
  EXPECT_EQ(complaint(gemma_2b(), R"({"hidden_activation": "gelu"})"), "no error");
}

TEST(Families, Gemma3SeesFarInEverySixthLayer) {
  const ModelConfig small = parse(gemma_3_1b());
  EXPECT_EQ(windows_of(small, 512), 22);
  EXPECT_EQ(small.layer_windows[5], 0);
  EXPECT_EQ(small.layer_windows[25], 512);
  EXPECT_EQ(small.rope_theta, 1e6);
  EXPECT_EQ(small.sliding_rope_theta, 1e4);
  EXPECT_EQ(small.eos_token_ids, (TokenIds{1, 106}));
  const ModelConfig large = parse(gemma_3_4b());
  EXPECT_EQ(large.model_type, "gemma3_text");
  EXPECT_EQ(large.vocab_size, 262208);
  EXPECT_EQ(large.num_attention_heads, 8);
  EXPECT_EQ(large.rope_scaling.factor, 8.0);
  EXPECT_EQ(large.rope_theta, 1e6);
  EXPECT_EQ(large.eos_token_ids, (TokenIds{1, 106}));
  EXPECT_EQ(windows_of(large, 1024), 29);

  // As transformers 5 writes it.
  Json json = gemma_3_1b();
  json.merge_patch(Json::parse(R"({"rope_theta": null, "rope_local_base_freq": null, "torch_dtype": null,
      "dtype": "bfloat16", "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0,
      "rope_theta": 5.0}, "sliding_attention": {"rope_type": "default", "rope_theta": 7.0}}})"));
  const ModelConfig now = parse(json);
  EXPECT_EQ(now.rope_theta, 5.0);
  EXPECT_EQ(now.sliding_rope_theta, 7.0);
  EXPECT_EQ(now.rope_scaling.rope_type, "linear");
  EXPECT_THAT(complaint(json, R"({"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}})"),
              HasSubstr("rope_parameters.sliding_attention.rope_type is \"linear\", expected \"default\""));
  EXPECT_THAT(complaint(json, R"({"rope_parameters": {"rope_theta": 3.0}})"),
              HasSubstr("rope_parameters.rope_theta is 3.0, expected in one of the objects"));
  EXPECT_THAT(complaint(json, R"({"rope_parameters": {"full_attention": 3}})"),
              HasSubstr("rope_parameters.full_attention is 3, expected an object or null"));
  EXPECT_THAT(complaint(gemma_3_4b(), R"({"text_config": {"final_logit_softcapping": 30.0}})"),
              HasSubstr("text_config.final_logit_softcapping is 30.0, expected null"));
  EXPECT_THAT(complaint(gemma_3_4b(), R"({"text_config": null})"), HasSubstr("model_type is \"gemma3\""));
}

TEST(Families, MistralHasAWindowWhereItsConfigSaysSo) {
  EXPECT_EQ(windows_of(parse(mistral_7b_v01()), 4096), 32);
  EXPECT_EQ(windows_of(parse(mistral_7b_v03()), 0), 32);
  Json json = mistral_7b_v01();
  json.erase("sliding_window");  // what transformers then takes
  EXPECT_EQ(windows_of(parse(json), 4096), 32);
  json["head_dim"] = 64;
  EXPECT_EQ(parse(json).attention_scale, 0.125);
  EXPECT_THAT(complaint(mistral_7b_v01(), R"({"sliding_window": 0})"), HasSubstr("sliding_window is 0"));
}

TEST(Families, QwenHasWindowsInUpperLayersWhenToldSo) {
  const ModelConfig plain = parse(qwen_2_5_7b());
  EXPECT_EQ(windows_of(plain, 0), 28);
  EXPECT_TRUE(plain.query_key_value_bias && !plain.attention_output_bias);
  Json json = qwen_2_5_7b();
  json.update(Json::parse(R"({"use_sliding_window": true, "sliding_window": 100, "max_window_layers": 20})"));
  const ModelConfig some = parse(json);
  EXPECT_EQ(windows_of(some, 100), 8);
  EXPECT_EQ(some.layer_windows[19], 0);
  EXPECT_EQ(some.layer_windows[20], 100);
  json["layer_types"] = std::vector<std::string>(28, "sliding_attention");
  EXPECT_EQ(windows_of(parse(json), 100), 28);
  EXPECT_THAT(complaint(json, R"({"use_sliding_window": false})"),
              HasSubstr("layer_types[0] is \"sliding_attention\", expected \"full_attention\", as use_sliding_window"));
  const ModelConfig three = parse(qwen_3_8b());
  EXPECT_TRUE(three.query_key_norm && !three.query_key_value_bias);
  json = qwen_3_8b();
  json["attention_bias"] = true;
  EXPECT_TRUE(parse(json).query_key_value_bias && parse(json).attention_output_bias);
}

// As the model cards of Qwen2.5 and Qwen3 give it.
TEST(Families, YarnIsReadWithItsDefaults) {
  Json json = qwen_2_5_7b();
  json["rope_scaling"] = {{"factor", 4.0}, {"original_max_position_embeddings", 32768}, {"type", "yarn"}};
  const RopeScaling found = parse(json).rope_scaling;
  EXPECT_EQ(found.beta_fast, 32.0);
  EXPECT_EQ(found.beta_slow, 1.0);
  EXPECT_TRUE(found.truncate);
  EXPECT_DOUBLE_EQ(found.attention_factor, 0.1 * std::log(4.0) + 1.0);
  json["rope_scaling"].update(Json::parse(R"({"mscale": 2.0, "mscale_all_dim": 0.5})"));
  EXPECT_DOUBLE_EQ(parse(json).rope_scaling.attention_factor,
                   (0.2 * std::log(4.0) + 1.0) / (0.05 * std::log(4.0) + 1.0));
  json["rope_scaling"]["attention_factor"] = 1.5;
  EXPECT_EQ(parse(json).rope_scaling.attention_factor, 1.5);
  json["rope_scaling"].erase("original_max_position_embeddings");
  EXPECT_EQ(parse(json).rope_scaling.original_max_position_embeddings, 32768);
  EXPECT_THAT(complaint(json, R"({"rope_scaling": {"factor": null}})"), HasSubstr("rope_scaling.factor is missing"));
  EXPECT_THAT(complaint(json, R"({"rope_scaling": {"beta_fast": 0.5}})"), HasSubstr("rope_scaling.beta_fast is 0.5"));
}

TEST(Families, PhiIsLimitedToItsFirstContext) {
  const ModelConfig small = parse(phi_3_mini_4k());
  EXPECT_EQ(windows_of(small, 2047), 32);
  EXPECT_TRUE(small.fused_projections);
  EXPECT_EQ(small.context_length(), 4096);
  const ModelConfig large = parse(phi_3_mini_128k());
  EXPECT_EQ(large.max_position_embeddings, 131072);
  EXPECT_EQ(large.context_length(), 4096);
  EXPECT_DOUBLE_EQ(large.rope_scaling.attention_factor, std::sqrt(1.0 + std::log(32.0) / std::log(4096.0)));
  EXPECT_THAT(complaint(phi_3_mini_128k(), R"({"rope_scaling": {"short_factor": [1.0, 2.0]}})"),
              HasSubstr("rope_scaling.short_factor is a list of 2, expected one for each of 48 frequencies"));
  EXPECT_THAT(complaint(phi_3_mini_4k(), R"({"rope_scaling": {"rope_type": "linear", "factor": 2.0}})"),
              HasSubstr("rope_scaling.rope_type is \"linear\", expected one of: default, longrope"));
  const CausalLM model = CausalLM::load(testing::golden("model") / "phi3-longrope");
  EXPECT_EQ(model.config().max_position_embeddings, 256);
  const auto run = [&](std::size_t length) {
    return message_of([&] { model.hidden(pack(std::vector<TokenIds>{TokenIds(length, 3)})); });
  };
  EXPECT_EQ(run(64), "no error");
  EXPECT_THAT(run(65), HasSubstr("a sequence of 65 tokens, expected at most 64, the model's context"));
  Json json = phi_3_mini_4k();
  json["partial_rotary_factor"] = 0.75;
  EXPECT_EQ(parse(json).rotary_dim(), 72);
  EXPECT_THAT(complaint(json, R"({"partial_rotary_factor": 1.5})"), HasSubstr("partial_rotary_factor is 1.5"));
}

TEST(Families, WhatAConfigAsksForAndIsNotDoneIsRefusedByName) {
  struct Refusal {
    Json json;
    const char* patch;
    const char* sentence;
  };
  for (const auto& [json, patch, sentence] : std::vector<Refusal>{
           {gemma_2b(), R"({"use_bidirectional_attention": true})",
            "use_bidirectional_attention is true, expected false"},
           {gemma_2b(), R"({"sliding_window": 5})", "sliding_window is 5, expected null: libsao has none for gemma"},
           {gemma_2_2b(), R"({"attention_dropout": 0.1})", "attention_dropout is 0.1, expected 0.0"},
           {gemma_3_1b(), R"({"attn_logit_softcapping": 50.0})", "attn_logit_softcapping is 50.0, expected null"},
           {llama_2_7b(), R"({"quantization_config": {"bits": 4}})", "quantization_config is an object, expected null"},
           {llama_2_7b(), R"({"sliding_window": 4096})",
            "sliding_window is 4096, expected null: libsao has none for llama"},
           {llama_2_7b(), R"({"partial_rotary_factor": 0.5})", "partial_rotary_factor is 0.5, expected 1.0"},
           {llama_2_7b(), R"({"rope_parameters": {"partial_rotary_factor": 0.5}})", "partial_rotary_factor is 0.5"},
           {qwen_3_8b(), R"({"rope_parameters": {"full_attention": {"rope_theta": 5.0}}})",
            "rope_scaling.full_attention is an object, expected a number"},
           {llama_2_7b(), R"({"hidden_act": "relu"})", "hidden_act is \"relu\", expected \"gelu_pytorch_tanh\""},
           {mistral_7b_v03(), R"({"attention_bias": true})", "attention_bias is true, expected false"},
           {mistral_7b_v03(), R"({"layer_types": ["full_attention"]})", "layer_types is a list of 1, expected null"},
           {qwen_2_5_7b(), R"({"attention_bias": true})", "attention_bias is true, expected false"},
           {qwen_3_8b(), R"({"mlp_bias": true})", "mlp_bias is true, expected false"},
           {phi_3_mini_4k(), R"({"resid_pdrop": 0.1})", "resid_pdrop is 0.1, expected 0.0"},
       }) {
    EXPECT_THAT(complaint(json, patch), HasSubstr(sentence)) << patch;
  }
}

// A config is saved by the fields of its family: what they cannot say is no config of that family.
TEST(Families, AConfigMadeByHandMustBeOneOfItsFamily) {
  const auto message = [](const Json& json, const std::function<void(ModelConfig&)>& change) {
    ModelConfig config = parse(json);
    change(config);
    return message_of([&] { validate(config); });
  };
  EXPECT_THAT(message(llama_2_7b(), [](ModelConfig& c) { c.post_norms = true; }),
              HasSubstr("post_norms is true, expected false, as llama has it"));
  EXPECT_THAT(message(llama_2_7b(), [](ModelConfig& c) { c.query_key_value_bias = true; }),
              HasSubstr("query_key_value_bias is true"));
  EXPECT_THAT(message(qwen_2_5_7b(), [](ModelConfig& c) { c.query_key_value_bias = false; }),
              HasSubstr("query_key_value_bias is false, expected true"));
  EXPECT_THAT(message(llama_2_7b(), [](ModelConfig& c) { c.layer_windows[3] = 7; }),
              HasSubstr("layer_windows is 7, expected 0: no layer of llama has one"));
  EXPECT_THAT(message(mistral_7b_v01(), [](ModelConfig& c) { c.layer_windows[3] = 0; }),
              HasSubstr("layer_windows is 0, expected 4096, as another layer has"));
  EXPECT_THAT(message(gemma_2_2b(), [](ModelConfig& c) { c.layer_windows[2] = 5; }),
              HasSubstr("layer_windows is 5, expected 4096 or 0"));
  EXPECT_THAT(message(gemma_2b(), [](ModelConfig& c) { c.embedding_scale = 1.0; }), HasSubstr("embedding_scale is 1"));
  EXPECT_THAT(message(llama_2_7b(), [](ModelConfig& c) { c.attention_scale = 1.0; }),
              HasSubstr("attention_scale is 1"));
  EXPECT_THAT(message(llama_2_7b(), [](ModelConfig& c) { c.final_logit_softcapping = 30.0; }),
              HasSubstr("final_logit_softcapping is 30, expected 0"));
  EXPECT_THAT(message(gemma_2_2b(), [](ModelConfig& c) { c.sliding_rope_theta = 5.0; }),
              HasSubstr("rope_local_base_freq is 5"));
}

TEST(Families, NewModelsBeginWithoutBiases) {
  Json json = qwen_2_5_7b();
  json.update(Json::parse(R"({"vocab_size": 20, "hidden_size": 12, "intermediate_size": 8, "num_hidden_layers": 1,
      "num_attention_heads": 3, "num_key_value_heads": 1, "max_position_embeddings": 16, "eos_token_id": 1})"));
  const CausalLM model = CausalLM::random(parse(json), Seed{1});
  int biases = 0;
  for (const auto& [name, tensor] : model.parameters()) {
    if (!name.ends_with(".bias")) continue;
    ++biases;
    EXPECT_EQ(tensor.abs().max().item<double>(), 0.0) << name;
  }
  EXPECT_EQ(biases, 3);
}

}  // namespace
}  // namespace sao
