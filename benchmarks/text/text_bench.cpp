// SPDX-License-Identifier: Apache-2.0
// Text to ids and back with the small tokenizers of the tests. build/bin/text_bench
// For real vocabularies, beside the reference library: benchmarks/compare/tokenizing.
#include <benchmark/benchmark.h>

#include <filesystem>
#include <memory>
#include <string>

#include "sao/text/tokenizer.h"

namespace {

constexpr const char* kSentences =
    "The better answer is kept as chosen, the other one as rejected; together they make one preference pair.\n"
    "In 2024 there were 1200 rounds: it's what we'd call self-alignment, and you'll see that it doesn't hurt.\n"
    "def judge(first, second):\n    return \"first\" if first > second else \"second\"\n\n"
    "Grüße aus Köln, où l'été est très beau. Привет, как дела? 你好，世界。こんにちは。\n";

std::string long_text() {
  std::string text;
  for (int i = 0; i < 50; ++i) text += kSentences;
  return text;
}

std::shared_ptr<const sao::Tokenizer> load(const char* name) {
  return sao::Tokenizer::load(std::filesystem::path(SAO_SOURCE_DIR) / "tests/golden/text" / name);
}

void encode(benchmark::State& state, const char* name) {
  const auto tokenizer = load(name);
  const std::string text = long_text();
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->encode(text));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(text.size()));
}

void decode(benchmark::State& state, const char* name) {
  const auto tokenizer = load(name);
  const auto ids = tokenizer->encode(long_text());
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->decode(ids));
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(ids.size()));
}

BENCHMARK_CAPTURE(encode, llama3_like, "byte_level");
BENCHMARK_CAPTURE(encode, qwen2_like, "qwen2");
BENCHMARK_CAPTURE(encode, nemo_like, "nemo");
BENCHMARK_CAPTURE(encode, gemma_like, "gemma_json");
BENCHMARK_CAPTURE(encode, unigram, "unigram_json");
BENCHMARK_CAPTURE(encode, sentencepiece_model, "gemma");
BENCHMARK_CAPTURE(decode, llama3_like, "byte_level");
BENCHMARK_CAPTURE(decode, gemma_like, "gemma_json");

}  // namespace

BENCHMARK_MAIN();
