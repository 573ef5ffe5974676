// SPDX-License-Identifier: Apache-2.0
// Adapters against PEFT (see tests/golden/lora), and their own rules.
#include "sao/model/lora.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "model/dropout.h"
#include "sao/base/error.h"
#include "sao/io/files.h"
#include "sao/model/causal_lm.h"
#include "support/close.h"
#include "support/message_of.h"
#include "support/parity_report.h"
#include "support/paths.h"

namespace sao {
namespace {

using testing::golden;
using ::testing::HasSubstr;
using testing::message_of;
using testing::TemporaryFolder;
using Json = nlohmann::json;

// Rows of a golden as one pack.
PackedTokens rows_of(const SafetensorsFile& expected) {
  const at::Tensor ids = expected.tensor("ids"), lengths = expected.tensor("lengths");
  std::vector<TokenIds> rows;
  std::int64_t begin = 0;
  for (std::int64_t r = 0; r < lengths.size(0); ++r) {
    TokenIds row;
    for (std::int64_t t = 0; t < lengths[r].item<std::int64_t>(); ++t) {
      row.push_back(static_cast<TokenId>(ids[begin++].item<std::int64_t>()));
    }
    rows.push_back(row);
  }
  return pack(rows);
}

// Mean log-prob of every token that has one before it.
at::Tensor mean_log_prob(const CausalLM& model, const PackedTokens& tokens) {
  std::vector<std::int64_t> scored;
  for (std::int64_t t = 0; t + 1 < tokens.tokens(); ++t) {
    if (tokens.positions[t + 1].item<std::int64_t>() != 0) scored.push_back(t);
  }
  const at::Tensor rows = at::tensor(scored);
  return model.log_probs(model.hidden(tokens).index_select(0, rows), tokens.ids.index_select(0, rows + 1)).mean();
}

at::Tensor logits_of(const CausalLM& model, const PackedTokens& tokens, bool grad = false) {
  const at::AutoGradMode mode(grad);
  return model.logits(model.hidden(tokens)).detach();
}

double largest(const at::Tensor& difference) { return difference.abs().max().item<double>(); }

struct Golden {
  std::string name;
  CausalLM base;
  LoraAdapter adapter;
  SafetensorsFile expected;
};

Golden read_golden(const std::string& name, DType dtype = DType::kFloat32) {
  CausalLM base = CausalLM::load(golden("model") / name, {.dtype = dtype});
  LoraAdapter adapter = LoraAdapter::load(golden("lora") / name, base.config());
  return {name, base, std::move(adapter), SafetensorsFile::open(golden("lora") / name / "expected.safetensors")};
}

class LoraParity : public ::testing::TestWithParam<const char*> {};

TEST_P(LoraParity, LogitsAreThoseOfPeft) {
  const Golden g = read_golden(GetParam());
  const CausalLM policy = g.base.with_lora(g.adapter);
  const PackedTokens tokens = rows_of(g.expected);
  const at::Tensor expected = g.expected.tensor("logits");
  for (const bool grad : {true, false}) {  // beside the weights, and merged for inference
    const at::Tensor found = logits_of(policy, tokens, grad);
    EXPECT_TRUE(testing::close(found, expected, 1e-4)) << grad;
    testing::report_parity(
        {.area = "LoRA",
         .subject = g.name,
         .what = grad ? "logits, adapter beside the weights" : "logits, adapter merged for inference",
         .compared = expected.numel(),
         .worst = largest(found - expected),
         .tolerance = 1e-4,
         .worst_case = ""});
  }
  // The base is what it was, and shares its weights.
  EXPECT_GT(largest(logits_of(policy.base(), tokens) - expected), 1.0);
  EXPECT_TRUE(policy.parameters()[0].second.is_same(g.base.parameters()[0].second));
  EXPECT_TRUE(at::equal(logits_of(policy.base(), tokens), logits_of(g.base, tokens)));
}

TEST_P(LoraParity, GradientsAreThoseOfPeftAndOfAdaptersAlone) {
  const Golden g = read_golden(GetParam());
  CausalLM policy = g.base.with_lora(g.adapter);
  const PackedTokens tokens = rows_of(g.expected);
  policy.set_requires_grad(true);
  for (const bool checkpointing : {false, true}) {
    policy.set_activation_checkpointing(checkpointing);
    for (const auto& [name, parameter] : policy.trainable_parameters()) parameter.mutable_grad() = at::Tensor();
    const at::Tensor loss = mean_log_prob(policy, tokens);
    loss.backward();
    EXPECT_TRUE(testing::close(loss.detach(), g.expected.tensor("loss"), 1e-5));
    double worst = 0.0;
    std::int64_t compared = 0;
    std::string worst_case;
    for (const auto& [name, parameter] : policy.trainable_parameters()) {
      ASSERT_TRUE(parameter.grad().defined()) << name;
      const double difference = testing::relative_l2(parameter.grad(), g.expected.tensor("grad." + name));
      EXPECT_LE(difference, 1e-4 * testing::tolerance_scale()) << name;
      compared += parameter.numel();
      if (difference > worst) worst = difference, worst_case = name;
    }
    testing::report_parity(
        {.area = "LoRA",
         .subject = g.name,
         .what = checkpointing ? "gradients, relative L2, activation checkpointing" : "gradients, relative L2",
         .compared = compared,
         .worst = worst,
         .tolerance = 1e-4,
         .worst_case = worst_case});
  }
  std::size_t goldens = 0;
  for (const std::string& name : g.expected.names()) goldens += name.starts_with("grad.");
  EXPECT_EQ(policy.trainable_parameters().size(), goldens);
  for (const auto& [name, parameter] : policy.parameters()) {
    EXPECT_FALSE(parameter.requires_grad()) << name;
    EXPECT_FALSE(parameter.grad().defined()) << name;
  }
}

TEST_P(LoraParity, MergedWeightsAreThoseOfPeft) {
  const Golden g = read_golden(GetParam());
  const CausalLM policy = g.base.with_lora(g.adapter), merged = policy.merged();
  EXPECT_EQ(merged.lora(), nullptr);
  double worst = 0.0;
  std::int64_t compared = 0, changed = 0;
  for (std::size_t i = 0; i < merged.parameters().size(); ++i) {
    const auto& [name, found] = merged.parameters()[i];
    const at::Tensor before = g.base.parameters()[i].second;
    EXPECT_FALSE(found.is_alias_of(before)) << name;
    const bool adapted = g.expected.contains("merged." + name);
    changed += adapted;
    const at::Tensor expected = adapted ? g.expected.tensor("merged." + name) : before;
    const double difference = largest(found - expected);
    EXPECT_LE(difference, adapted ? 2e-6 : 0.0) << name;
    worst = std::max(worst, difference);
    compared += adapted ? found.numel() : 0;
  }
  EXPECT_EQ(changed, static_cast<std::int64_t>(g.adapter.modules.size()));
  testing::report_parity({.area = "LoRA",
                          .subject = g.name,
                          .what = "merged weights",
                          .compared = compared,
                          .worst = worst,
                          .tolerance = 2e-6,
                          .worst_case = ""});
  const PackedTokens tokens = rows_of(g.expected);
  EXPECT_TRUE(testing::close(logits_of(merged, tokens), g.expected.tensor("logits"), 1e-4));
  // Inference merges the same way: to the bit.
  EXPECT_TRUE(at::equal(logits_of(merged, tokens), logits_of(policy, tokens)));
}

TEST_P(LoraParity, SavingAndLoadingKeepsEveryBitAndField) {
  const Golden g = read_golden(GetParam());
  const TemporaryFolder folder;
  g.adapter.save(folder / "adapter", "the base");
  const LoraAdapter again = LoraAdapter::load(folder / "adapter", g.base.config());
  ASSERT_EQ(again.modules.size(), g.adapter.modules.size());
  for (std::size_t i = 0; i < again.modules.size(); ++i) {
    EXPECT_EQ(again.modules[i].name, g.adapter.modules[i].name);
    EXPECT_TRUE(at::equal(again.modules[i].a, g.adapter.modules[i].a));
    EXPECT_TRUE(at::equal(again.modules[i].b, g.adapter.modules[i].b));
    EXPECT_EQ(again.modules[i].scaling, g.adapter.modules[i].scaling);
    EXPECT_EQ(again.modules[i].alpha, g.adapter.modules[i].alpha);
  }
  EXPECT_EQ(again.options.target_modules, g.adapter.options.target_modules);
  const Json written = Json::parse(read_file(folder / "adapter" / "adapter_config.json"));
  const Json peft = Json::parse(read_file(golden("lora") / GetParam() / "adapter_config.json"));
  for (const char* field : {"r", "lora_alpha", "lora_dropout", "use_rslora", "bias", "peft_type", "task_type"}) {
    EXPECT_EQ(written[field], peft[field]) << field;
  }
  EXPECT_EQ(written["base_model_name_or_path"], "the base");
  // The same tensors under the same names.
  const SafetensorsFile ours = SafetensorsFile::open(folder / "adapter" / "adapter_model.safetensors");
  const SafetensorsFile theirs = SafetensorsFile::open(golden("lora") / GetParam() / "adapter_model.safetensors");
  EXPECT_THAT(ours.names(), ::testing::UnorderedElementsAreArray(theirs.names()));
}

INSTANTIATE_TEST_SUITE_P(Golden, LoraParity, ::testing::Values("llama3", "gemma2", "phi3", "qwen2"),
                         [](const auto& test) { return std::string(test.param); });

TEST(Lora, PatternsAndRsLoraGiveEachModuleItsRankAndScaling) {
  const LoraAdapter adapter = read_golden("gemma2").adapter;
  std::map<std::string, const LoraModule*> modules;
  for (const LoraModule& module : adapter.modules) modules[module.name] = &module;
  ASSERT_EQ(modules.size(), 6u);
  EXPECT_DOUBLE_EQ(modules.at("model.layers.0.self_attn.q_proj")->scaling, 8.0 / std::sqrt(3.0));
  EXPECT_DOUBLE_EQ(modules.at("model.layers.2.self_attn.q_proj")->scaling, 8.0 / std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(modules.at("model.layers.0.self_attn.v_proj")->scaling, 3.0 / std::sqrt(3.0));
  EXPECT_DOUBLE_EQ(modules.at("model.layers.2.mlp.down_proj")->scaling, 8.0 / std::sqrt(5.0));
  // Layer 1 has none: the names are whole ones.
  EXPECT_THAT(adapter.options.target_modules, HasSubstr("model.layers.2.mlp.down_proj"));
  EXPECT_EQ(read_golden("llama3").adapter.options.target_modules,
            "down_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj");
}

TEST(Lora, NewAdaptersChangeNothingAndAreAFunctionOfTheSeed) {
  const CausalLM base = CausalLM::load(golden("model") / "llama3");
  const PackedTokens tokens = pack(std::vector<TokenIds>{{3, 5, 8, 13}, {21, 34}});
  const CausalLM policy = base.with_lora({.r = 3}, Seed{7});
  EXPECT_TRUE(at::equal(logits_of(policy, tokens, true), logits_of(base, tokens, true)));
  EXPECT_TRUE(at::equal(logits_of(policy, tokens), logits_of(base, tokens)));
  EXPECT_EQ(policy.lora()->modules.size(), 14u);
  const LoraAdapter same =
      LoraAdapter::random(base.config(), {.r = 3, .target_modules = "q_proj, mlp.down_proj"}, Seed{7});
  const LoraAdapter other = LoraAdapter::random(base.config(), {.r = 3}, Seed{8});
  ASSERT_EQ(same.modules.size(), 4u);
  for (const LoraModule& module : same.modules) {
    const auto twin = std::find_if(policy.lora()->modules.begin(), policy.lora()->modules.end(),
                                   [&](const LoraModule& m) { return m.name == module.name; });
    ASSERT_NE(twin, policy.lora()->modules.end());
    EXPECT_TRUE(at::equal(twin->a, module.a));
    const double bound = 1.0 / std::sqrt(static_cast<double>(module.a.size(1)));
    EXPECT_LE(largest(module.a), bound);
    EXPECT_GT(largest(module.a), 0.9 * bound);
    EXPECT_LT(std::abs(module.a.mean().item<double>()), 0.2 * bound);
  }
  EXPECT_FALSE(at::equal(other.modules[0].a, policy.lora()->modules[0].a));
}

TEST(Lora, TargetsThatCannotHaveAdaptersAreRefusedWithTheReason) {
  const ModelConfig config = ModelConfig::read(golden("model") / "llama3");
  const auto refused = [&](const std::string& targets) {
    return message_of([&] { LoraAdapter::random(config, {.target_modules = targets}, Seed{1}); });
  };
  EXPECT_THAT(refused("q_proj,lm_head"), HasSubstr("\"lm_head\", expected linears of the layers: log-probs are"));
  EXPECT_THAT(refused("embed_tokens"), HasSubstr("adapters of the embedding are not supported"));
  EXPECT_THAT(refused("query"), HasSubstr("\"query\", expected all-linear or some of q_proj, k_proj, v_proj, o_proj, "
                                          "gate_proj, up_proj, down_proj"));
  EXPECT_THAT(refused("roj"), HasSubstr("names \"roj\""));
  EXPECT_THAT(refused(" ,"), HasSubstr("target_modules is"));
  const std::string all = message_of([] { validate(LoraOptions{.r = 0, .lora_alpha = 0.0, .lora_dropout = 1.0}); });
  for (const char* field : {"r is 0", "lora_alpha is 0", "lora_dropout is 1"}) EXPECT_THAT(all, HasSubstr(field));
}

// PEFT's folder with fields of the config changed.
class LoraFolder : public ::testing::Test {
 protected:
  std::string refused(const Json& changes, const std::string& name = "llama3") {
    Json json = Json::parse(read_file(golden("lora") / name / "adapter_config.json"));
    json.update(changes);
    std::filesystem::remove(folder_ / "adapter_model.safetensors");
    std::filesystem::copy(golden("lora") / name / "adapter_model.safetensors", folder_ / "adapter_model.safetensors");
    write_file_atomically(folder_ / "adapter_config.json", json.dump());
    return message_of([&] { LoraAdapter::load(folder_.path(), ModelConfig::read(golden("model") / name)); });
  }
  std::string with_tensors(const NamedTensors& tensors) {
    refused(Json::object());
    std::filesystem::remove(folder_ / "adapter_model.safetensors");
    write_safetensors(folder_ / "adapter_model.safetensors", tensors);
    return message_of([&] { LoraAdapter::load(folder_.path(), ModelConfig::read(golden("model") / "llama3")); });
  }
  TemporaryFolder folder_;
};

TEST_F(LoraFolder, VariantsThatLibsaoDoesNotHaveAreRefusedByName) {
  EXPECT_EQ(refused(Json::object()), "no error");
  EXPECT_THAT(refused({{"peft_type", "IA3"}}), HasSubstr("field \"peft_type\" is \"IA3\", expected \"LORA\""));
  EXPECT_THAT(refused({{"bias", "all"}}), HasSubstr("field \"bias\" is \"all\""));
  EXPECT_THAT(refused({{"init_lora_weights", "pissa"}}), HasSubstr("field \"init_lora_weights\" is \"pissa\""));
  for (const Json& change : {Json{{"use_dora", true}}, Json{{"lora_bias", true}}, Json{{"fan_in_fan_out", true}},
                             Json{{"modules_to_save", {"lm_head"}}}, Json{{"use_qalora", true}},
                             Json{{"trainable_token_indices", {1, 2}}}, Json{{"target_parameters", {"x"}}},
                             Json{{"layer_replication", {{0, 1}}}}, Json{{"a_variant_of_next_year", "on"}}}) {
    EXPECT_THAT(refused(change), HasSubstr(fmt::format("field \"{}\" is ", change.items().begin().key())));
  }
  EXPECT_EQ(refused({{"init_lora_weights", "gaussian"}, {"revision", "main"}, {"loftq_config", {{"bits", 4}}}}),
            "no error");
  EXPECT_THAT(refused({{"r", 0}}), HasSubstr("r is 0, expected at least 1"));
  EXPECT_THAT(refused({{"r", "4"}}), HasSubstr("field \"r\" is \"4\", expected an integer"));
  EXPECT_THAT(refused({{"r", 5}}), HasSubstr("lora_A.weight\" is [4, "));
  EXPECT_THAT(refused({{"rank_pattern", {{"q_(proj|up)", 4}}}}), HasSubstr("\"rank_pattern\" has the key"));
  EXPECT_THAT(refused({{"rank_pattern", {{"q_proj", 4.5}}}}), HasSubstr("4.5, expected an integer"));
  EXPECT_THAT(refused({{"rank_pattern", {{"q_proj", 1e300}}}}), HasSubstr("expected an integer"));
  EXPECT_THAT(refused({{"alpha_pattern", {{"q_proj", -1}}}}), HasSubstr("expected a number above 0"));
  EXPECT_THAT(refused({{"alpha_pattern", {{"q_proj", 1}, {"self_attn.q_proj", 2}}}}), HasSubstr("two numbers"));
  EXPECT_EQ(refused({{"alpha_pattern", {{"^model.layers.0.self_attn.q_proj", 1}}}}), "no error");
  EXPECT_THAT(refused({{"target_modules", {"q_proj"}}}),
              HasSubstr("expected those of adapter_config.json's target_modules"));
  EXPECT_EQ(refused({{"target_modules", ".*_proj"}}), "no error");
}

TEST_F(LoraFolder, FilesThatDoNotFitAreRefused) {
  EXPECT_THAT(message_of([&] { LoraAdapter::load(folder_ / "none", {}); }), HasSubstr("no adapter_config.json"));
  const at::Tensor a = at::ones({4, 32}), b = at::ones({32, 4});
  const std::string q = "base_model.model.model.layers.0.self_attn.q_proj";
  EXPECT_EQ(with_tensors({{q + ".lora_A.weight", a}, {q + ".lora_B.weight", b}}), "no error");
  EXPECT_EQ(with_tensors({{q + ".lora_A.weight", a.to(at::kHalf)}, {q + ".lora_B.weight", b.to(at::kBFloat16)}}),
            "no error");
  EXPECT_THAT(with_tensors({{q + ".lora_A.weight", a}}), HasSubstr("has lora_A.weight alone"));
  EXPECT_THAT(with_tensors({{q + ".lora_A.weight", a}, {q + ".lora_B.weight", at::ones({31, 4})}}),
              HasSubstr("lora_B.weight\" is [31, 4], expected [32, 4]"));
  EXPECT_THAT(with_tensors({{q + ".lora_A.weight", a.to(at::kInt)}, {q + ".lora_B.weight", b}}),
              HasSubstr("has dtype I32"));
  EXPECT_THAT(with_tensors({}), HasSubstr("no tensors"));
  EXPECT_THAT(with_tensors({{"x", a}}), HasSubstr("begin with base_model.model."));
  EXPECT_THAT(with_tensors({{q + ".lora_magnitude_vector", a}}), HasSubstr("no other part of an adapter"));
  EXPECT_THAT(with_tensors({{"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight", a},
                            {"base_model.model.model.layers.9.self_attn.q_proj.lora_B.weight", b}}),
              HasSubstr("an adapter of \"model.layers.9.self_attn.q_proj\""));
  EXPECT_THAT(with_tensors({{"base_model.model.lm_head.lora_A.weight", a}}), HasSubstr("log-probs are computed from"));
  EXPECT_THAT(with_tensors({{"base_model.model.model.embed_tokens.lora_embedding_A", a}}),
              HasSubstr("adapters of the embedding"));
  EXPECT_THAT(with_tensors({{"base_model.model.model.embed_tokens.weight", a}}),
              HasSubstr("adapters of the embedding"));
}

TEST(Lora, SavesIntoAnAdaptersFolderOnly) {
  const Golden g = read_golden("llama3");
  const TemporaryFolder folder;
  write_file_atomically(folder / "notes.txt", "keep");
  EXPECT_THAT(message_of([&] { g.adapter.save(folder.path(), "x"); }), HasSubstr("no adapter_config.json"));
  EXPECT_EQ(read_file(folder / "notes.txt"), "keep");
  g.adapter.save(folder / "a", "x");
  EXPECT_EQ(message_of([&] { g.adapter.save(folder / "a", "y"); }), "no error");
  // A model with adapters is not saved as if it had none.
  EXPECT_THAT(message_of([&] { g.base.with_lora(g.adapter).save(folder / "model"); }), HasSubstr("has adapters"));
  EXPECT_FALSE(std::filesystem::exists(folder / "model"));
}

TEST(Lora, AdaptersFitTheModelOrAreRefused) {
  const Golden llama = read_golden("llama3"), gemma = read_golden("gemma2");
  EXPECT_THAT(message_of([&] { llama.base.with_lora(gemma.adapter); }), HasSubstr("CausalLM::with_lora: module"));
  EXPECT_THAT(message_of([&] { llama.base.with_lora(llama.adapter).with_lora(llama.adapter); }),
              HasSubstr("has adapters already"));
  LoraAdapter twice = llama.adapter;
  twice.modules.push_back(twice.modules[0]);
  EXPECT_THAT(message_of([&] { llama.base.with_lora(twice); }), HasSubstr("each once"));
}

TEST(Lora, CopiesKeepTheirAdapters) {
  const Golden g = read_golden("llama3");
  const CausalLM policy = g.base.with_lora(g.adapter), copy = policy.clone_frozen();
  const PackedTokens tokens = rows_of(g.expected);
  EXPECT_TRUE(at::equal(logits_of(copy, tokens), logits_of(policy, tokens)));
  {
    const at::NoGradGuard no_grad;
    policy.lora()->modules[0].b.add_(1.0);
  }
  EXPECT_GT(largest(logits_of(policy, tokens) - logits_of(copy, tokens)), 1e-3);
  EXPECT_GT(largest(logits_of(policy, tokens) - g.expected.tensor("logits")), 1e-3);  // no stale packed weights
}

TEST(Lora, OtherDtypes) {
  const PackedTokens tokens = rows_of(read_golden("llama3").expected);
  const at::Tensor expected = read_golden("llama3").expected.tensor("logits");
  for (const auto& [dtype, tolerance] : {std::pair{DType::kFloat64, 1e-4}, std::pair{DType::kBFloat16, 1.0}}) {
    const Golden g = read_golden("llama3", dtype);
    const CausalLM policy = g.base.with_lora(g.adapter);
    EXPECT_EQ(policy.lora()->modules[0].a.scalar_type(), dtype == DType::kFloat64 ? at::kDouble : at::kFloat);
    for (const bool grad : {true, false}) {
      EXPECT_LT(largest(logits_of(policy, tokens, grad) - expected), tolerance) << grad;
    }
    EXPECT_LT(largest(logits_of(policy.merged(), tokens) - expected), tolerance);
    EXPECT_EQ(policy.merged().dtype(), policy.dtype());
    EXPECT_LT(largest(logits_of(policy.merged(DType::kFloat32), tokens) - expected), std::max(1e-4, tolerance / 2));
  }
}

TEST(Lora, MergingChecksItself) {
  Golden g = read_golden("llama3");
  const CausalLM policy = g.base.with_lora(g.adapter), rounded = policy.merged(DType::kBFloat16);
  EXPECT_EQ(rounded.dtype(), at::kBFloat16);
  for (std::size_t i = 0; i < rounded.parameters().size(); ++i) {  // one rounding, of the float32 sum
    EXPECT_TRUE(at::equal(rounded.parameters()[i].second, policy.merged().parameters()[i].second.to(at::kBFloat16)));
  }
  // Beyond float16's range.
  for (LoraModule& module : g.adapter.modules) module.scaling *= 1e7;
  EXPECT_THAT(message_of([&] { g.base.with_lora(g.adapter).merged(DType::kFloat16); }),
              HasSubstr("the logits of the merged model are not finite"));
  g = read_golden("llama3");
  g.adapter.modules[0].a[0][0] = std::nan("");
  EXPECT_THAT(message_of([&] { g.base.with_lora(g.adapter).merged(); }),
              HasSubstr("the logits of the model with adapters are not finite"));
  // Adapters that all but cancel the weights of up_proj, and scale down_proj up again: what is left drowns in
  // bfloat16's rounding of W x, but not in that of the sum.
  const CausalLM narrow = CausalLM::load(golden("model") / "llama3", {.dtype = DType::kBFloat16});
  LoraAdapter cancelling;
  for (const auto& [name, weight] : narrow.parameters()) {
    const bool up = name.ends_with("up_proj.weight");
    if (!up && !name.ends_with("down_proj.weight")) continue;
    cancelling.modules.push_back({.name = name.substr(0, name.size() - std::string_view(".weight").size()),
                                  .a = weight.to(at::kFloat),
                                  .b = at::eye(weight.size(0)) * (up ? -0.999 : 999.0),
                                  .alpha = 1.0,
                                  .scaling = 1.0});
  }
  EXPECT_THAT(message_of([&] { narrow.with_lora(cancelling).merged(); }), HasSubstr("differ by "));
}

TEST(LoraDropout, IsAFunctionOfATokenAndThoseBeforeIt) {
  const Golden g = read_golden("gemma2", DType::kFloat64);  // where rounding hides nothing
  const CausalLM policy = g.base.with_lora(g.adapter);
  const TokenIds prompt = {5, 6, 7}, first = {8, 9}, second = {10};
  const std::vector<TokenIds> rows = {{5, 6, 7, 8, 9}, {5, 6, 7, 10}};
  PackedTokens apart = pack(rows), alone = pack(std::span(rows).last(1));
  PackedTokens shared = pack(std::vector<PackedSequence>{{prompt, -1}, {first, 0}, {second, 0}});
  const at::Tensor without = logits_of(policy, apart, true);
  apart.dropout = alone.dropout = shared.dropout = Seed{1};
  for (const bool grad : {true, false}) {
    const at::Tensor found = logits_of(policy, apart, grad);
    EXPECT_GT(largest(found - without), 1e-2) << grad;
    EXPECT_LT(largest(found.narrow(0, 5, 4) - logits_of(policy, alone, grad)), 1e-10) << grad;
    const at::Tensor once = logits_of(policy, shared, grad);
    EXPECT_LT(largest(found.narrow(0, 0, 5) - once.narrow(0, 0, 5)), 1e-10) << grad;
    EXPECT_LT(largest(found[8] - once[5]), 1e-10) << grad;
  }
  PackedTokens other = apart;
  other.dropout = Seed{2};
  EXPECT_GT(largest(logits_of(policy, apart, true) - logits_of(policy, other, true)), 1e-2);
}

TEST(LoraDropout, DropsTheShareThatIsAskedForOfEveryMatrixAnew) {
  PackedTokens tokens = pack(std::vector<TokenIds>{TokenIds(200, 3), TokenIds(200, 4)});
  tokens.dropout = Seed{9};
  const detail::Dropout streams = detail::dropout_streams(tokens);
  const at::Tensor x = at::ones({400, 50}, at::kDouble);
  const at::Tensor factors = detail::dropout_factors(streams, "q_proj", 0.25, x);
  EXPECT_EQ(factors.scalar_type(), at::kDouble);
  EXPECT_NEAR((factors == 0.0).to(at::kDouble).mean().item<double>(), 0.25, 0.01);
  EXPECT_NEAR(factors.max().item<double>(), 1.0 / 0.75, 1e-7);
  // Independent of one another: two matrices agree by chance only, and so do neighbouring tokens and features.
  const double chance = 0.25 * 0.25 + 0.75 * 0.75;
  const auto agree = [](const at::Tensor& a, const at::Tensor& b) {
    return (a == b).to(at::kDouble).mean().item<double>();
  };
  EXPECT_NEAR(agree(factors, detail::dropout_factors(streams, "k_proj", 0.25, x)), chance, 0.02);
  EXPECT_NEAR(agree(factors.narrow(0, 0, 399), factors.narrow(0, 1, 399)), chance, 0.02);
  EXPECT_NEAR(agree(factors.narrow(1, 0, 49), factors.narrow(1, 1, 49)), chance, 0.02);
}

TEST(LoraDropout, RecomputedActivationsDropTheSame) {
  const Golden g = read_golden("gemma2");
  std::vector<std::vector<at::Tensor>> gradients;
  for (const bool checkpointing : {false, true}) {
    CausalLM policy = g.base.with_lora(g.adapter).clone_frozen();
    policy.set_requires_grad(true);
    policy.set_activation_checkpointing(checkpointing);
    PackedTokens tokens = rows_of(g.expected);
    tokens.dropout = Seed{1};
    mean_log_prob(policy, tokens).backward();
    gradients.emplace_back();
    for (const auto& [name, parameter] : policy.trainable_parameters()) gradients.back().push_back(parameter.grad());
  }
  for (std::size_t i = 0; i < gradients[0].size(); ++i) EXPECT_TRUE(at::equal(gradients[0][i], gradients[1][i])) << i;
}

}  // namespace
}  // namespace sao
