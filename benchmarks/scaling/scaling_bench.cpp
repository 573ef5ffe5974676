// SPDX-License-Identifier: Apache-2.0
// Does the cost of a token, or of a record, stay what it is as packs, batches and runs grow? build/bin/scaling_bench
// The column "each" is the time of one token, record or step. Models have random weights.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <filesystem>

#include "generate/scheduler.h"
#include "sao/base/memory.h"
#include "sao/data/records.h"
#include "sao/io/files.h"
#include "sao/io/jsonl.h"
#include "sao/judge/judge.h"
#include "sao/judge/pairs.h"
#include "sao/model/causal_lm.h"
#include "sao/synth/filters.h"
#include "sao/train/trainer.h"

namespace {

using sao::Seed;
using sao::TokenId;
using sao::TokenIds;

sao::ModelConfig gemma2(std::int64_t hidden, std::int64_t layers, std::int64_t vocab_size) {
  sao::ModelConfig c{.model_type = "gemma2",
                     .vocab_size = vocab_size,
                     .hidden_size = hidden,
                     .intermediate_size = 4 * hidden,
                     .num_hidden_layers = layers,
                     .num_attention_heads = hidden / 64,
                     .num_key_value_heads = hidden / 128,
                     .head_dim = 64,
                     .max_position_embeddings = 16384,
                     .tie_word_embeddings = true,
                     .hidden_act = "gelu_pytorch_tanh",
                     .zero_centered_norm = true,
                     .post_norms = true,
                     .embedding_scale = std::sqrt(static_cast<double>(hidden)),
                     .attention_scale = 0.125,
                     .attn_logit_softcapping = 50.0,
                     .final_logit_softcapping = 30.0};
  for (std::int64_t i = 0; i < layers; ++i) c.layer_windows.push_back(i % 2 == 0 ? 4096 : 0);
  return c;
}

TokenIds some_ids(std::int64_t count, std::uint64_t stream) {
  TokenIds ids;
  for (std::int64_t i = 0; i < count; ++i) {
    ids.push_back(
        static_cast<TokenId>(4 + sao::uniform_below(Seed{5}.fork(stream), static_cast<std::uint64_t>(i), 996)));
  }
  return ids;
}

void report(benchmark::State& state, std::int64_t items) {
  state.counters["each"] = benchmark::Counter(
      static_cast<double>(items), benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

constexpr std::int64_t kLength = 256;

std::vector<TokenIds> sequences_of(std::int64_t count) {
  std::vector<TokenIds> sequences;
  for (std::int64_t s = 0; s < count; ++s) sequences.push_back(some_ids(kLength, static_cast<std::uint64_t>(s)));
  return sequences;
}

// Forward without gradients of a pack of so many sequences of 256 tokens.
void pack_inference(benchmark::State& state) {
  const at::NoGradGuard no_grad;
  const auto model = sao::CausalLM::random(gemma2(512, 4, 1000), Seed{1});
  const sao::PackedTokens pack = sao::pack(sequences_of(state.range(0)));
  model.hidden(pack);
  for (auto _ : state) benchmark::DoNotOptimize(model.hidden(pack));
  report(state, state.range(0) * kLength);
}

// Forward and backward.
void pack_training(benchmark::State& state) {
  const auto model = sao::CausalLM::random(gemma2(512, 4, 1000), Seed{1});
  model.set_requires_grad(true);
  const sao::PackedTokens pack = sao::pack(sequences_of(state.range(0)));
  const at::Tensor targets = at::zeros({state.range(0) * kLength}, at::kLong);
  for (auto _ : state) {
    for (const auto& [name, tensor] : model.parameters()) {
      at::Tensor parameter = tensor;
      parameter.mutable_grad() = at::Tensor();
    }
    model.log_probs(model.hidden(pack), targets).sum().backward();
  }
  report(state, state.range(0) * kLength);
}

// A SimPO step on one pair of so many tokens a side, half of them the prompt: what grows with
// the square of the length shows.
void length_training(benchmark::State& state) {
  const auto model = sao::CausalLM::random(gemma2(512, 4, 1000), Seed{1});
  const std::int64_t half = state.range(0) / 2;
  const sao::TokenPair pair{.prompt = some_ids(half, 1), .chosen = some_ids(half, 2), .rejected = some_ids(half, 3)};
  sao::TrainerOptions options{.batch_size = 1, .max_length = 0};
  options.schedule.warmup_ratio = 0.0;
  options.epochs = 1'000'000;
  sao::Trainer trainer(model, {pair}, options);
  trainer.step();
  for (auto _ : state) trainer.step();
  report(state, 3 * half);
}

std::string words(std::uint64_t stream, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += fmt::format("w{} ", sao::uniform_below(Seed{7}.fork(stream), static_cast<std::uint64_t>(i), 20000));
  }
  return text;
}

std::vector<sao::Prompt> prompts_of(std::int64_t count) {
  std::vector<sao::Prompt> prompts;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto stream = static_cast<std::uint64_t>(i);
    prompts.push_back({.id = fmt::format("p{:06}", i), .text = words(stream, 40), .outcome = "kept"});
  }
  return prompts;
}

// Exact and near duplicates among so many prompts of 40 words.
void records_filter(benchmark::State& state) {
  std::vector<sao::Prompt> prompts = prompts_of(state.range(0));
  for (auto _ : state) sao::filter_prompts(prompts);
  report(state, state.range(0));
}

// Written, read again, paired with two answers and a verdict each.
void records_pairs(benchmark::State& state) {
  const std::vector<sao::Prompt> prompts = prompts_of(state.range(0));
  std::vector<sao::Response> responses;
  std::vector<sao::Verdict> verdicts;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    for (int k = 0; k < 2; ++k) {
      responses.push_back({.id = fmt::format("{}-{}", prompts[i].id, k),
                           .prompt_id = prompts[i].id,
                           .k = k,
                           .text = words(2 * i + static_cast<std::uint64_t>(k) + 1000003, 80),
                           .finish_reason = "stop"});
    }
    verdicts.push_back({.id = prompts[i].id,
                        .prompt_id = prompts[i].id,
                        .first_id = prompts[i].id + "-0",
                        .second_id = prompts[i].id + "-1",
                        .p_first = 0.8,
                        .p_as_first = 0.8,
                        .p_as_second = 0.8,
                        .outcome = "first"});
  }
  const auto file = std::filesystem::temp_directory_path() / fmt::format("scaling_bench_{}.jsonl", state.range(0));
  for (auto _ : state) {
    sao::write_file_atomically(file, sao::to_jsonl(responses));
    const auto read = sao::read_jsonl<sao::Response>(file);
    benchmark::DoNotOptimize(sao::judge_items(prompts, read));
    benchmark::DoNotOptimize(sao::build_pairs(prompts, read, verdicts, {}));
  }
  std::filesystem::remove(file);
  report(state, state.range(0));
}

// The engine's planning without a model: so many requests of 64 tokens and 64 new ones, 512 at a time. "each" is a
// step.
void scheduler_steps(benchmark::State& state) {
  sao::ModelConfig config;
  config.num_hidden_layers = config.num_key_value_heads = config.head_dim = 1;
  const sao::detail::SchedulerOptions options{.max_batch = 512, .prefill_tokens = 2048};
  std::vector<TokenIds> prompts;
  for (std::int64_t r = 0; r < state.range(0); ++r) prompts.push_back(some_ids(64, static_cast<std::uint64_t>(r)));
  std::int64_t steps = 0, tokens = 0;
  for (auto _ : state) {
    std::vector<sao::detail::ScheduledRequest> requests;
    std::vector<sao::TokenSpan> spans(prompts.begin(), prompts.end());
    for (const TokenIds& prompt : prompts) requests.push_back({.prompt = prompt, .samples = 1, .max_new_tokens = 64});
    auto tree = sao::detail::build_prompt_tree(spans, sao::kKvBlockSize);
    const auto need = sao::detail::cache_need(requests, tree, options);
    sao::KvCache cache(config, need.useful, at::kFloat, at::kCPU);
    sao::detail::Scheduler scheduler(std::move(requests), std::move(tree), cache, options);
    std::vector<sao::ops::Drawn> drawn;
    while (!scheduler.done()) {
      const sao::detail::Plan& plan = scheduler.plan();
      benchmark::DoNotOptimize(cache.plan(plan.sequences, plan.counts));
      drawn.assign(plan.draws.size(), {.id = 7, .log_prob = -1.0});
      tokens += static_cast<std::int64_t>(drawn.size());
      scheduler.commit(drawn);
      ++steps;
    }
  }
  state.counters["each"] =
      benchmark::Counter(static_cast<double>(steps), benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  state.counters["token"] =
      benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

// A decode step of 512 sequences of 128 tokens through a model of 100 million parameters, to hold the scheduler
// against.
void decode_step_of_512(benchmark::State& state) {
  const auto model = sao::CausalLM::random(gemma2(640, 12, 32000), Seed{1});
  sao::KvCache cache(model.config(), 512 * 9 + 64, at::kFloat, at::kCPU);
  std::vector<sao::KvCache::SequenceId> sequences;
  for (int s = 0; s < 512; ++s) {
    sequences.push_back(cache.create());
    const std::vector<std::int64_t> counts{128};
    const TokenIds prompt = some_ids(128, static_cast<std::uint64_t>(s));
    const std::vector<std::int64_t> ids(prompt.begin(), prompt.end());
    model.hidden(at::tensor(ids), cache, cache.plan({&sequences.back(), 1}, counts));
  }
  const std::vector<std::int64_t> one(512, 1);
  const at::Tensor ids = at::full({512}, 9, at::kLong);
  for (auto _ : state) benchmark::DoNotOptimize(model.logits(model.hidden(ids, cache, cache.plan(sequences, one))));
  report(state, 1);
}

BENCHMARK(pack_inference)->RangeMultiplier(4)->Range(1, 64)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(pack_training)->RangeMultiplier(4)->Range(1, 64)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(length_training)->RangeMultiplier(2)->Range(1024, 8192)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(records_filter)->RangeMultiplier(10)->Range(1000, 100'000)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(records_pairs)->RangeMultiplier(10)->Range(1000, 100'000)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(scheduler_steps)->RangeMultiplier(10)->Range(1000, 100'000)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(decode_step_of_512)->Iterations(8)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace

int main(int argc, char** argv) {
  sao::keep_freed_memory();  // as the programs do
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
