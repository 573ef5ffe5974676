// SPDX-License-Identifier: Apache-2.0
// Models of random weights: what is refused, what is saved, and the memory that inference leaves behind. The numbers
// are held by parity_test.cpp.
#include "sao/model/causal_lm.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "sao/base/error.h"
#include "sao/io/files.h"
#include "sao/io/hf_folder.h"
#include "sao/ops/log_probs.h"
#include "support/counting_allocator.h"
#include "support/message_of.h"
#include "support/paths.h"

namespace sao {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::message_of;
using Json = nlohmann::json;

ModelConfig small_config() {
  return ModelConfig::parse(R"({
    "model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32})",
                            "small");
}

CausalLM small_model() { return CausalLM::random(small_config(), Seed{1}, {}, 0.2); }

/// A saved model to be damaged.
class SavedModel : public ::testing::Test {
 protected:
  void SetUp() override { small_model().save(folder()); }

  fs::path folder() const { return where_ / "model"; }
  fs::path weights() const { return folder() / "model.safetensors"; }
  std::string load_complaint() const {
    return message_of([&] { CausalLM::load(folder()); });
  }

  void edit_config(const char* patch) const {
    Json json = Json::parse(read_file(folder() / "config.json"));
    json.merge_patch(Json::parse(patch));
    write_file_atomically(folder() / "config.json", json.dump());
  }

  NamedTensors tensors() const {
    const SafetensorsFile file = SafetensorsFile::open(weights());
    NamedTensors all;
    for (const std::string& name : file.names()) all.emplace_back(name, file.tensor(name).clone());
    return all;
  }

  /// Writes the weights anew, with `change` applied to the tensor `name`; an undefined one is left out.
  void edit_tensor(const std::string& name, const std::function<at::Tensor(at::Tensor)>& change) const {
    NamedTensors all = tensors();
    for (auto& [key, tensor] : all) {
      if (key == name) tensor = change(tensor);
    }
    std::erase_if(all, [](const auto& entry) { return !entry.second.defined(); });
    write_safetensors(weights(), all);
  }

  testing::TemporaryFolder where_;
};

constexpr const char* kQ = "model.layers.1.self_attn.q_proj.weight";

TEST_F(SavedModel, ComesBackBitForBit) {
  const CausalLM model = small_model(), loaded = CausalLM::load(folder());
  ASSERT_EQ(loaded.parameters().size(), model.parameters().size());
  for (std::size_t i = 0; i < model.parameters().size(); ++i) {
    EXPECT_EQ(loaded.parameters()[i].first, model.parameters()[i].first);
    EXPECT_TRUE(at::equal(loaded.parameters()[i].second, model.parameters()[i].second));
  }
}

TEST_F(SavedModel, ConfigsThatCannotBeUsedAreNamed) {
  edit_config(R"({"hidden_size": null, "num_hidden_layers": null})");
  EXPECT_THAT(load_complaint(), AllOf(HasSubstr("config.json: "), HasSubstr("hidden_size is missing"),
                                      HasSubstr("num_hidden_layers is missing")));
  edit_config(R"({"model_type": "mamba"})");
  EXPECT_THAT(load_complaint(),
              HasSubstr("model_type is \"mamba\", expected one of: gemma, gemma2, gemma3_text, llama"));
  fs::remove(folder() / "config.json");
  EXPECT_THAT(load_complaint(), HasSubstr("config.json: No such file"));
}

TEST_F(SavedModel, WrongShapesAreNamed) {
  edit_tensor(kQ, [](const at::Tensor& t) { return t.narrow(0, 0, 8).contiguous(); });
  EXPECT_THAT(load_complaint(),
              HasSubstr("model.safetensors: tensor \"" + std::string(kQ) + "\" is [8, 16], expected [16, 16]"));
}

TEST_F(SavedModel, AConfigOfAnotherSizeIsNoticed) {
  edit_config(R"({"intermediate_size": 32})");
  EXPECT_THAT(load_complaint(), AllOf(HasSubstr("mlp.gate_proj.weight\" is [24, 16], expected [32, 16]"),
                                      HasSubstr("and 1 more problem")));
}

TEST_F(SavedModel, WrongDtypesAreNamed) {
  edit_tensor(kQ, [](const at::Tensor& t) { return t.to(at::kLong); });
  EXPECT_THAT(load_complaint(), HasSubstr("q_proj.weight\" has dtype I64, expected F32, BF16, F16 or F64"));
}

TEST_F(SavedModel, MissingAndUnknownTensorsAreNamedTogether) {
  NamedTensors all = tensors();
  std::erase_if(all, [](const auto& entry) { return entry.first == kQ; });
  all.emplace_back("model.layers.1.self_attn.q_proj.bias", at::zeros({16}));
  write_safetensors(weights(), all);
  EXPECT_THAT(
      load_complaint(),
      AllOf(HasSubstr("tensor \"" + std::string(kQ) + "\" is missing, expected shape [16, 16]"),
            HasSubstr("tensor \"model.layers.1.self_attn.q_proj.bias\" is not one that config.json describes")));
}

TEST_F(SavedModel, TruncatedWeightsAreNoticedWhereverTheyEnd) {
  const std::string bytes = read_file(weights());
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{5}, std::size_t{300}, bytes.size() / 2, bytes.size() - 1}) {
    write_file_atomically(weights(), bytes.substr(0, size));
    EXPECT_THAT(load_complaint(), HasSubstr("model.safetensors: ")) << size;
  }
  fs::remove(weights());
  EXPECT_THAT(load_complaint(), HasSubstr("no weights"));
}

TEST_F(SavedModel, AMissingShardIsNamed) {
  const NamedTensors all = tensors();
  fs::remove(weights());
  write_checkpoint(folder(), all, 4000);
  const fs::path second = [&] {
    for (const auto& entry : fs::directory_iterator(folder())) {
      if (entry.path().filename().string().starts_with("model-00002-of-")) return entry.path();
    }
    return fs::path();
  }();
  ASSERT_FALSE(second.empty());
  EXPECT_EQ(load_complaint(), "no error");
  fs::remove(second);
  EXPECT_THAT(load_complaint(),
              AllOf(HasSubstr("shard \"" + second.filename().string()), HasSubstr("not in the folder")));
}

TEST_F(SavedModel, SavingReplacesAModelsFolderAsAWhole) {
  std::ofstream(folder() / "notes.txt") << "old";
  small_model().save(folder());
  EXPECT_FALSE(fs::exists(folder() / "notes.txt"));
  EXPECT_EQ(load_complaint(), "no error");
}

TEST(CausalLM, SavingNeverDeletesOtherThings) {
  const testing::TemporaryFolder folder;
  fs::create_directories(folder / "home/work");
  std::ofstream(folder / "home/work/thesis.txt") << "years";
  const std::string message = message_of([&] { small_model().save(folder / "home"); });
  EXPECT_THAT(message, AllOf(HasSubstr((folder / "home").string()), HasSubstr("no config.json")));
  EXPECT_THAT(message_of([&] { small_model().save(folder / "home/"); }), HasSubstr("no config.json"));
  EXPECT_EQ(read_file(folder / "home/work/thesis.txt"), "years");
  fs::create_directories(folder / "empty");
  EXPECT_NO_THROW(small_model().save(folder / "empty"));
  EXPECT_NO_THROW(CausalLM::load(folder / "empty"));
}

TEST(CausalLM, HiddenRefusesWhatItCannotRead) {
  const CausalLM model = small_model();
  const at::NoGradGuard no_grad;
  const auto with = [&](const std::function<void(PackedTokens&)>& change) {
    PackedTokens tokens = pack(std::vector<TokenIds>{{1, 2, 3}, {4, 5}});
    change(tokens);
    return message_of([&] { model.hidden(tokens); });
  };
  EXPECT_EQ(with([](PackedTokens&) {}), "no error");
  EXPECT_THAT(with([](PackedTokens& t) { t.ids[3] = 50; }), HasSubstr("token id 50 at place 3, expected 0 to 49"));
  EXPECT_THAT(with([](PackedTokens& t) { t.ids[0] = -1; }), HasSubstr("token id -1"));
  EXPECT_THAT(with([](PackedTokens& t) { t.ids = t.ids.to(at::kInt); }), HasSubstr("ids [5] Int"));
  EXPECT_THAT(with([](PackedTokens& t) { t.ids = t.ids.narrow(0, 0, 4); }), HasSubstr("ids [4]"));
  EXPECT_THAT(with([](PackedTokens& t) { t.positions[1] = -1; }), HasSubstr("negative position"));
  EXPECT_THAT(with([](PackedTokens& t) { t.starts[2] = 4; }), HasSubstr("starts 0, 3, 4"));
  EXPECT_THAT(with([](PackedTokens& t) { t.starts[1] = 0; }), HasSubstr("starts 0, 0, 5"));

  EXPECT_NO_THROW(model.hidden(pack(std::vector<TokenIds>{{1}, TokenIds(32, 3)})));
  EXPECT_THAT(message_of([&] {
                model.hidden(pack(std::vector<TokenIds>{{1}, TokenIds(33, 3)}));
              }),
              HasSubstr("a sequence of 33 tokens, expected at most 32, the model's context"));
}

TEST(CausalLM, HiddenWithACacheRefusesWhatItCannotRead) {
  const CausalLM model = small_model();
  KvCache cache(model.config(), 4, at::kFloat, at::kCPU);
  const auto sequence = cache.create();
  const auto run = [&](std::vector<std::int64_t> ids, std::int64_t planned) {
    const KvStep step = cache.plan(std::vector{sequence}, std::vector{planned});
    return message_of([&] { model.hidden(at::tensor(ids), cache, step); });
  };
  EXPECT_EQ(run({1, 2, 3}, 3), "no error");
  EXPECT_THAT(run({1, 2, 3}, 2), HasSubstr("ids [3] Long for 2 slots"));
  EXPECT_THAT(run({1, 50}, 2), HasSubstr("token id 50"));
  EXPECT_EQ(run(std::vector<std::int64_t>(25, 1), 25), "no error");
  EXPECT_THAT(run({1}, 1), HasSubstr("a sequence of 33 tokens, expected at most 32"));
  // A cache of another model's layout.
  ModelConfig other = small_config();
  other.head_dim = 8;
  KvCache wrong(other, 4, at::kFloat, at::kCPU);
  const KvStep step = wrong.plan(std::vector{wrong.create()}, std::vector<std::int64_t>{1});
  EXPECT_THAT(message_of([&] { model.hidden(at::tensor({std::int64_t{1}}), wrong, step); }),
              HasSubstr("append_to_cache"));
}

// Bytes of all weights in float32; the output matrix is nearly half of them.
ModelConfig wide_config() {
  ModelConfig config = small_config();
  config.vocab_size = 3000;
  return config;
}

TEST(CausalLM, PackedWeightsGoWhenTrainingBegins) {
  const testing::CountingAllocator counting;
  const CausalLM model = CausalLM::random(wide_config(), Seed{1});
  const PackedTokens tokens = pack(std::vector<TokenIds>{{1, 2, 3}});
  const auto infer = [&] {
    const at::NoGradGuard no_grad;
    return model.logits(model.hidden(tokens));
  };
  const at::Tensor expected = infer();
  const std::int64_t packed = counting.now();
  const std::int64_t matrix = 3000 * 16 * 4;  // the packed output matrix alone
  model.set_requires_grad(true);
  EXPECT_LT(counting.now(), packed - matrix);
  EXPECT_TRUE(at::equal(infer(), expected));  // made anew for those who infer while they train
  EXPECT_GT(counting.now(), packed - matrix / 2);
  model.weights_changed();
  EXPECT_LT(counting.now(), packed - matrix);
  EXPECT_TRUE(at::equal(infer(), expected));
  model.set_requires_grad(false);
  EXPECT_GT(counting.now(), packed - matrix / 2);
}

TEST(CausalLM, PackedWeightsFollowTheWeights) {
  const CausalLM model = small_model();
  const at::NoGradGuard no_grad;
  const PackedTokens tokens = pack(std::vector<TokenIds>{{1, 2, 3}});
  const at::Tensor before = model.hidden(tokens);
  at::Tensor weight = model.parameters()[1].second;
  weight.mul_(2.0);  // noticed by its version, without weights_changed
  EXPECT_FALSE(at::equal(model.hidden(tokens), before));
}

TEST(CausalLM, Int8InferenceIsAHandleOnTheSameWeights) {
  const at::NoGradGuard no_grad;
  const CausalLM model = small_model(), int8 = model.with_int8_inference();
  const PackedTokens tokens = pack(std::vector<TokenIds>{{1, 2, 3}, {7, 8}});
  const auto logits = [&](const CausalLM& from) { return from.logits(from.hidden(tokens)); };
  const at::Tensor exact = logits(model), near = logits(int8);
  const double difference = (near - exact).abs().max().item<double>(), size = exact.abs().max().item<double>();
  EXPECT_LT(difference, 0.03 * size);
  EXPECT_GT(difference, 1e-4 * size) << "not computed in 8 bits?";
  EXPECT_TRUE(at::equal(logits(model), exact));
  at::Tensor weight = model.parameters()[1].second;
  weight.mul_(3.0);
  EXPECT_FALSE(at::equal(logits(int8), near)) << "it follows the weights";
  model.weights_changed();
  EXPECT_EQ(int8.weights_version(), model.weights_version());
  const CausalLM wide = CausalLM::random(small_config(), Seed{1}, {.dtype = DType::kFloat64});
  EXPECT_THAT(message_of([&] { wide.with_int8_inference(); }), HasSubstr("a model in Double on cpu, expected float32"));
}

ModelConfig with_biases() {
  return ModelConfig::parse(R"({
    "model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32, "attention_bias": true,
    "mlp_bias": true, "tie_word_embeddings": true})",
                            "biases");
}

ModelConfig small_gemma() {
  return ModelConfig::parse(R"({
    "model_type": "gemma2", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 32,
    "query_pre_attn_scalar": 8, "sliding_window": 16})",
                            "gemma");
}

TEST(CausalLM, ForInferenceOnlyComputesTheSame) {
  for (const ModelConfig& config : {small_config(), with_biases(), small_gemma()}) {
    for (const bool int8 : {false, true}) {
      const CausalLM whole = CausalLM::random(config, Seed{1}, {}, 0.2);
      const testing::TemporaryFolder where;
      whole.save(where / "model");
      const CausalLM expected = int8 ? whole.with_int8_inference() : whole;
      const LoadOptions options{.purpose = int8 ? Purpose::kInt8Inference : Purpose::kInference};
      const PackedTokens tokens = pack(std::vector<TokenIds>{{1, 2, 3}, {7, 49}});
      const at::Tensor targets = at::tensor({2, 3, 49, 0, 1}, at::kLong);
      for (const CausalLM& model :
           {CausalLM::load(where / "model", options), CausalLM::random(config, Seed{1}, options, 0.2)}) {
        EXPECT_TRUE(model.inference_only());
        const at::Tensor hidden = model.hidden(tokens);  // with gradients on, which it has none of
        const at::NoGradGuard no_grad;
        EXPECT_TRUE(at::equal(hidden, expected.hidden(tokens)));
        EXPECT_TRUE(at::equal(model.logits(hidden), expected.logits(hidden)));
        EXPECT_TRUE(at::equal(model.log_probs(hidden, targets), expected.log_probs(hidden, targets)));
      }
    }
  }
}

TEST(CausalLM, ForInferenceOnlyRefusesWhatNeedsTheWeights) {
  const CausalLM model = CausalLM::random(small_config(), Seed{1}, {.purpose = Purpose::kInference});
  const testing::TemporaryFolder where;
  const auto refused = [](const char* what, const std::function<void()>& use) {
    EXPECT_THAT(message_of(use), AllOf(HasSubstr(std::string("CausalLM::") + what), HasSubstr("purpose kAll")));
  };
  refused("output_weight", [&] { model.output_weight(); });
  refused("parameters", [&] { model.parameters(); });
  refused("trainable_parameters", [&] { model.trainable_parameters(); });
  refused("set_requires_grad", [&] { model.set_requires_grad(true); });
  refused("with_lora", [&] { model.with_lora(LoraOptions{}, Seed{1}); });
  refused("merged", [&] { model.merged(); });
  refused("clone_frozen", [&] { model.clone_frozen(); });
  refused("save", [&] { model.save(where / "model"); });
  EXPECT_FALSE(fs::exists(where / "model"));
  EXPECT_THAT(message_of([&] { model.with_int8_inference(); }), HasSubstr("kInt8Inference or kAll"));
  const LoadOptions wide{.dtype = DType::kFloat64, .purpose = Purpose::kInt8Inference};
  EXPECT_THAT(message_of([&] { CausalLM::random(small_config(), Seed{1}, wide); }),
              HasSubstr("a model in Double on cpu, expected float32"));
  const CausalLM unpacked =
      CausalLM::random(small_config(), Seed{1}, {.dtype = DType::kFloat64, .purpose = Purpose::kInference});
  EXPECT_FALSE(unpacked.inference_only());
  EXPECT_FALSE(unpacked.parameters().empty());
}

TEST_F(SavedModel, DamageIsNamedWhereItIsForInferenceOnlyToo) {
  edit_tensor(kQ, [](const at::Tensor&) { return at::Tensor(); });
  EXPECT_THAT(message_of([&] { CausalLM::load(folder(), {.purpose = Purpose::kInference}); }), HasSubstr(kQ));
}

TEST(CausalLM, LogProbsPackNothingAnew) {
  const testing::CountingAllocator counting;
  const CausalLM model = CausalLM::random(wide_config(), Seed{1});
  const at::Tensor targets = at::tensor({2, 3, 2999}, at::kLong);
  {
    const at::NoGradGuard no_grad;
    const at::Tensor hidden = model.hidden(pack(std::vector<TokenIds>{{1, 2, 3}}));
    at::Tensor log_probs;
    EXPECT_LT(counting.peak_of([&] { log_probs = model.log_probs(hidden, targets); }), 3000 * 16 * 4 / 2);
    EXPECT_TRUE(at::equal(log_probs, ops::log_probs(hidden, model.output_weight(), targets)));
  }
  model.set_requires_grad(true);
  model.log_probs(model.hidden(pack(std::vector<TokenIds>{{1, 2, 3}})), targets).sum().backward();
  EXPECT_TRUE(model.output_weight().grad().defined());
}

}  // namespace
}  // namespace sao
