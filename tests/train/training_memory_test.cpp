// SPDX-License-Identifier: Apache-2.0
// What is told beforehand beside what a trainer's tensors really take.
#include "sao/train/training_memory.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/counting_allocator.h"
#include "train/tiny_model.h"

namespace sao {
namespace {

using testing::random_ids;

// As a language model's: many tokens a pack, more activations than weights; or the other way round.
ModelConfig config(std::int64_t vocab_size = 2000) {
  ModelConfig c = testing::tiny_config();
  c.vocab_size = vocab_size;
  c.hidden_size = 64;
  c.intermediate_size = 192;
  c.num_hidden_layers = 3;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 16;
  c.max_position_embeddings = 16384;
  c.embedding_scale = 8.0;
  c.attention_scale = 0.25;
  c.layer_windows = {32, 0, 32};
  return c;
}

std::vector<TokenPair> pairs_of(std::size_t count, std::size_t prompt, std::size_t response) {
  std::vector<TokenPair> pairs;
  for (std::size_t i = 0; i < count; ++i) {
    const Seed s = Seed{9}.fork(i);
    pairs.push_back({.prompt = random_ids(s.fork("prompt"), prompt),
                     .chosen = random_ids(s.fork("chosen"), response),
                     .rejected = random_ids(s.fork("rejected"), response)});
  }
  return pairs;
}

struct Case {
  std::string name;
  std::int64_t vocab_size;
  TrainerOptions options;
};

// Two steps of four pairs.
std::int64_t peak_of(const ModelConfig& model, const TrainerOptions& options, std::size_t prompt, std::size_t response,
                     DType dtype = DType::kFloat32) {
  const CausalLM policy = CausalLM::random(model, Seed{1}, {.dtype = dtype});
  const testing::CountingAllocator counting;
  return counting.peak_of([&] {
    Trainer trainer(policy, pairs_of(8, prompt, response), options);
    trainer.step();
    trainer.step();
  });
}

TrainerOptions options_of(PreferenceLoss loss, std::int64_t micro_batch_tokens = 8192) {
  TrainerOptions options{
      .loss = std::move(loss), .batch_size = 4, .micro_batch_tokens = micro_batch_tokens, .max_length = 0};
  options.schedule.warmup_ratio = 0.0;
  options.chunk_tokens = 128;
  return options;
}

class TrainingMemory : public ::testing::TestWithParam<Case> {};

TEST_P(TrainingMemory, IsWhatATrainerTakes) {
  const Case& c = GetParam();
  const std::int64_t peak = peak_of(config(c.vocab_size), c.options, 100, 60);
  const MemoryParts parts = training_memory(config(c.vocab_size), at::kFloat, at::kCPU, c.options, {100, 60});
  std::string shown;
  for (const MemoryPart& part : parts) shown += part.name + " " + std::to_string(part.bytes) + ", ";
  EXPECT_NEAR(static_cast<double>(total_bytes(parts)), static_cast<double>(peak), 0.1 * static_cast<double>(peak))
      << shown;
}

Case checkpointed() {
  Case c{"Checkpointed", 500, options_of(SimPO{})};
  c.options.activation_checkpointing = true;
  return c;
}

INSTANTIATE_TEST_SUITE_P(Cases, TrainingMemory,
                         ::testing::Values(Case{"Simpo", 2000, options_of(SimPO{})},
                                           Case{"SimpoInParts", 2000, options_of(SimPO{}, 300)},
                                           Case{"LargeVocabulary", 40000, options_of(SimPO{}, 300)},
                                           Case{"LargeVocabularyAtOnce", 40000, options_of(SimPO{})},
                                           Case{"Dpo", 2000, options_of(DPO{})},
                                           Case{"DpoLargeVocabulary", 40000, options_of(DPO{}, 300)}, checkpointed()),
                         [](const auto& which) { return which.param.name; });

TEST(TrainingMemoryOfLongPairs, GrowsLinearlyWithTheLength) {
  TrainerOptions options = options_of(SimPO{});
  options.batch_size = 1;
  ModelConfig model = testing::tiny_config();
  model.max_position_embeddings = 16384;
  const auto peak = [&](std::size_t length) { return peak_of(model, options, length / 2, length / 2); };
  const std::int64_t at_512 = peak(512), at_2048 = peak(2048), at_8192 = peak(8192);
  const double before = static_cast<double>(at_2048 - at_512) / 1536,
               after = static_cast<double>(at_8192 - at_2048) / 6144;
  EXPECT_NEAR(after, before, 0.03 * before) << "bytes a token of length: 512 to 2,048, and 2,048 to 8,192";
}

}  // namespace
}  // namespace sao
