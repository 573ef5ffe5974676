// SPDX-License-Identifier: Apache-2.0
// The engine on small random models: what a sample depends on, how it ends, what memory it takes.
#include "sao/generate/engine.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <set>

#include "generate/memory.h"
#include "sao/base/error.h"
#include "sao/ops/sample.h"
#include "support/close.h"
#include "support/paths.h"

namespace sao {
namespace {

using ::testing::HasSubstr;

constexpr std::int64_t kVocabulary = 61;
constexpr TokenId kEos = 0, kOtherStop = 7;

// A tokenizer folder with 60 one-character tokens and <eos>; stop ids 0 and 7.
ChatTokenizer make_text() {
  const testing::TemporaryFolder folder;
  std::ofstream tokenizer(folder / "tokenizer.json");
  tokenizer << R"({"version": "1.0", "added_tokens": [{"id": 0, "content": "<eos>", "special": true}], )"
            << R"("model": {"type": "BPE", "vocab": {)";
  for (int i = 1; i < kVocabulary; ++i)
    tokenizer << (i > 1 ? ", " : "") << "\"" << static_cast<char>('@' + i) << (i == 28 ? "\\" : "") << "\": " << i;
  tokenizer << R"(}, "merges": []}})";
  tokenizer.close();
  std::ofstream(folder / "tokenizer_config.json") << R"({"eos_token": "<eos>"})";
  std::ofstream(folder / "generation_config.json") << R"({"eos_token_id": [0, 7]})";
  return ChatTokenizer::load(folder.path());
}

ModelConfig small_config(bool gemma = true) {
  ModelConfig c;
  c.model_type = gemma ? "gemma2" : "llama";
  c.vocab_size = kVocabulary;
  c.hidden_size = 24;
  c.intermediate_size = 40;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 8;
  c.max_position_embeddings = 128;
  c.tie_word_embeddings = gemma;
  c.hidden_act = gemma ? "gelu_pytorch_tanh" : "silu";
  c.zero_centered_norm = c.post_norms = gemma;
  c.embedding_scale = gemma ? std::sqrt(24.0) : 1.0;
  c.attention_scale = 1.0 / std::sqrt(8.0);
  c.attn_logit_softcapping = gemma ? 5.0 : 0.0;
  c.final_logit_softcapping = gemma ? 8.0 : 0.0;
  c.layer_windows = {gemma ? 12 : 0, 0};
  c.eos_token_ids = {kEos};
  return c;
}

const CausalLM& small_model(bool gemma = true) {
  static const CausalLM gemma_like = CausalLM::random(small_config(true), Seed{1}, {}, 0.25);
  static const CausalLM llama_like = CausalLM::random(small_config(false), Seed{2}, {}, 0.25);
  return gemma ? gemma_like : llama_like;
}

Engine make_engine(const EngineOptions& options = {}, bool gemma = true) {
  static const ChatTokenizer text = make_text();
  return Engine(small_model(gemma), text, options);
}

// Prompts of many lengths, some beginning alike.
std::vector<GenerationRequest> make_requests(std::size_t count, std::int64_t samples = 1) {
  std::vector<GenerationRequest> requests;
  for (std::size_t r = 0; r < count; ++r) {
    const Seed seed = Seed{99}.fork(r);
    TokenIds ids;
    const std::int64_t length = 1 + static_cast<std::int64_t>(uniform_below(seed, 0, 45));
    for (std::int64_t i = 0; i < length; ++i) {
      ids.push_back(static_cast<TokenId>(
          r % 3 == 0 && i < 20 ? 1 + i : 1 + uniform_below(seed, static_cast<std::uint64_t>(i) + 1, kVocabulary - 1)));
    }
    requests.push_back({.prompt_ids = ids, .seed = Seed{5}.fork("answers").fork(r), .samples = samples});
  }
  return requests;
}

TEST(Engine, ASampleDependsOnItsRequestAndItsSeedOnly) {
  for (const bool gemma : {true, false}) {
    const std::vector<GenerationRequest> requests = make_requests(12, 3);
    const SamplingOptions sampling{.temperature = 0.8, .top_k = 50, .top_p = 0.95, .max_new_tokens = 24};
    Engine reference = make_engine({}, gemma);
    const auto expected = reference.generate_all(requests, sampling);

    // Alone, one sample more or less.
    Engine alone = make_engine({}, gemma);
    for (std::size_t r = 0; r < requests.size(); ++r) {
      GenerationRequest request = requests[r];
      request.samples = r % 2 == 0 ? 1 : 4;
      const auto single = alone.generate_all({&request, 1}, sampling);
      for (std::size_t k = 0; k < std::min<std::size_t>(3, single[0].size()); ++k)
        EXPECT_EQ(single[0][k], expected[r][k]);
    }
    for (const EngineOptions& options :
         std::vector<EngineOptions>{{.max_batch = 1},
                                    {.max_batch = 7, .prefill_tokens = 5},
                                    {.max_batch = 64, .prefill_tokens = 33},
                                    {.max_batch = 3, .prefill_tokens = 1},
                                    {.cache_bytes = 6 * KvCache::bytes_per_block(small_config(), at::kFloat)}}) {
      Engine engine = make_engine(options, gemma);
      EXPECT_EQ(engine.generate_all(requests, sampling), expected)
          << "max_batch " << options.max_batch << " prefill_tokens " << options.prefill_tokens;
    }
    // In another order.
    const std::vector<std::size_t> order = permutation(Seed{4}, requests.size());
    std::vector<GenerationRequest> shuffled;
    for (const std::size_t r : order) shuffled.push_back(requests[r]);
    const auto permuted = reference.generate_all(shuffled, sampling);
    for (std::size_t i = 0; i < order.size(); ++i) EXPECT_EQ(permuted[i], expected[order[i]]);
    // With one thread.
    const int threads = at::get_num_threads();
    at::set_num_threads(1);
    EXPECT_EQ(reference.generate_all(requests, sampling), expected);
    at::set_num_threads(threads);
  }
}

// What the engine does, in words: run the whole sequence, take its last logits, draw with number i of the sample's
// stream.
TEST(Engine, AgreesWithRecomputingEverything) {
  const CausalLM& model = small_model();
  const std::vector<GenerationRequest> requests = make_requests(6, 2);
  const SamplingOptions sampling{.temperature = 0.9, .top_p = 0.9, .max_new_tokens = 30, .ignore_eos = true};
  Engine engine = make_engine({.max_batch = 5, .prefill_tokens = 16});
  const auto completions = engine.generate_all(requests, sampling);
  const at::NoGradGuard no_grad;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    for (std::int64_t k = 0; k < 2; ++k) {
      const Completion& completion = completions[r][static_cast<std::size_t>(k)];
      ASSERT_EQ(completion.ids.size(), 30u);
      TokenIds ids = requests[r].prompt_ids;
      double log_prob = 0.0;
      for (std::size_t i = 0; i < completion.ids.size(); ++i) {
        const at::Tensor hidden = model.hidden(pack({&ids, 1}));
        const at::Tensor logits = model.logits(hidden.narrow(0, hidden.size(0) - 1, 1));
        const ops::Draw draw{.row = 0, .uniform = uniform(requests[r].seed.fork(static_cast<std::uint64_t>(k)), i)};
        ops::Drawn drawn;
        ops::sample(logits, {&draw, 1}, {.temperature = 0.9, .top_p = 0.9}, {&drawn, 1});
        ASSERT_EQ(drawn.id, completion.ids[i]) << "request " << r << " sample " << k << " token " << i;
        ids.push_back(drawn.id);
        log_prob += drawn.log_prob;
      }
      EXPECT_EQ(log_prob, completion.log_prob);
    }
  }
}

TEST(Engine, LogProbOfASampleIsItsScore) {
  const std::vector<GenerationRequest> requests = make_requests(8, 2);
  Engine engine = make_engine({.prefill_tokens = 40});
  const auto completions = engine.generate_all(requests, {.temperature = 0.7, .max_new_tokens = 20});
  std::vector<ScoreRequest> scores;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    for (const Completion& completion : completions[r]) scores.push_back({requests[r].prompt_ids, completion.ids});
  }
  const auto scored = engine.score(scores);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    double sum = 0.0;
    for (const double log_prob : scored[i]) sum += log_prob;
    EXPECT_EQ(sum, completions[i / 2][i % 2].log_prob) << "at temperature 1, whatever it was sampled at";
  }
}

TEST(Engine, ComputesWithInt8WeightsWhereAsked) {
  const std::vector<GenerationRequest> requests = make_requests(20, 2);
  const auto run = [&](bool int8, std::int64_t batch) {
    Engine engine = make_engine({.max_batch = batch, .int8_weights = int8});
    return engine.generate_all(requests, {.max_new_tokens = 20});
  };
  const auto int8 = run(true, 20);
  EXPECT_EQ(int8, run(true, 3)) << "depends on the batch";
  EXPECT_NE(int8, run(false, 20));
}

TEST(Engine, SamplesDiffer) {
  Engine engine = make_engine();
  GenerationRequest request = make_requests(1)[0];
  request.samples = 40;
  const auto first = engine.generate_all({&request, 1}, {.max_new_tokens = 12});
  std::set<TokenIds> distinct;
  for (const Completion& completion : first[0]) distinct.insert(completion.ids);
  EXPECT_GT(distinct.size(), 35u);
  EXPECT_EQ(engine.generate_all({&request, 1}, {.max_new_tokens = 12}), first);
  request.seed = Seed{6};
  EXPECT_NE(engine.generate_all({&request, 1}, {.max_new_tokens = 12}), first);
}

// First tokens of many samples and of many requests against the model's probabilities.
TEST(Engine, FrequenciesFollowTheProbabilities) {
  constexpr std::int64_t kCount = 30000;
  const CausalLM& model = small_model();
  Engine engine = make_engine();
  const TokenIds prompt{5, 9, 2, 14};
  GenerationRequest many{.prompt_ids = prompt, .seed = Seed{21}, .samples = kCount};
  std::vector<GenerationRequest> single;
  for (std::uint64_t r = 0; r < kCount; ++r) single.push_back({.prompt_ids = prompt, .seed = Seed{22}.fork(r)});
  const at::NoGradGuard no_grad;
  const at::Tensor logits = model.logits(model.hidden(pack({&prompt, 1})).narrow(0, 3, 1));
  const at::Tensor expected = at::softmax(logits[0] / 0.7, 0, at::kDouble) * kCount;
  for (const std::span<const GenerationRequest> requests :
       {std::span<const GenerationRequest>(&many, 1), std::span<const GenerationRequest>(single)}) {
    std::vector<double> found(kVocabulary, 0.0);
    engine.generate(requests, {.temperature = 0.7, .max_new_tokens = 1},
                    [&](std::size_t, std::int64_t, const Completion& completion) {
                      ASSERT_EQ(completion.ids.size(), 1u);
                      found[static_cast<std::size_t>(completion.ids[0])] += 1.0;
                    });
    double chi_square = 0.0, rest_expected = 0.0, rest_found = 0.0, degrees = 0.0;
    for (std::int64_t id = 0; id < kVocabulary; ++id) {
      const double e = expected[id].item<double>(), f = found[static_cast<std::size_t>(id)];
      if (e < 5.0) {
        rest_expected += e;
        rest_found += f;
        continue;
      }
      chi_square += (f - e) * (f - e) / e;
      degrees += 1.0;
    }
    if (rest_expected > 0.0) chi_square += (rest_found - rest_expected) * (rest_found - rest_expected) / rest_expected;
    EXPECT_LT(chi_square, degrees + 4.0 * std::sqrt(2.0 * degrees));
    EXPECT_GT(chi_square, std::max(0.0, degrees - 4.0 * std::sqrt(2.0 * degrees)));
    EXPECT_GT(degrees, 10.0);
  }
}

TEST(Engine, EndsAtStopIdsUnlessTheyAreIgnored) {
  ASSERT_EQ(make_text().stop_ids(), (TokenIds{kEos, kOtherStop}));
  Engine engine = make_engine({.max_batch = 8});
  const std::vector<GenerationRequest> requests = make_requests(30, 2);
  const SamplingOptions sampling{.temperature = 1.5, .max_new_tokens = 60};
  const auto completions = engine.generate_all(requests, sampling);
  SamplingOptions on = sampling;
  on.ignore_eos = true;
  const auto unstopped = engine.generate_all(requests, on);
  std::map<TokenId, int> stops;
  int cut = 0, passed = 0;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    for (std::size_t k = 0; k < 2; ++k) {
      const Completion& completion = completions[r][k];
      const auto is_stop = [](TokenId id) { return id == kEos || id == kOtherStop; };
      ASSERT_FALSE(completion.ids.empty());
      EXPECT_FALSE(std::any_of(completion.ids.begin(), completion.ids.end() - 1, is_stop));
      if (completion.finish_reason == FinishReason::kStop) {
        ASSERT_TRUE(is_stop(completion.ids.back()));
        ++stops[completion.ids.back()];
      } else {
        EXPECT_EQ(completion.ids.size(), 60u);
        ++cut;
      }
      const Completion& whole = unstopped[r][k];
      EXPECT_EQ(whole.ids.size(), 60u);
      EXPECT_EQ(whole.finish_reason, FinishReason::kLength);
      EXPECT_TRUE(std::equal(completion.ids.begin(), completion.ids.end(), whole.ids.begin()));
      passed += std::any_of(whole.ids.begin(), whole.ids.end() - 1, is_stop) ? 1 : 0;
    }
  }
  EXPECT_GT(stops[kEos], 3);
  EXPECT_GT(stops[kOtherStop], 3);
  EXPECT_GT(passed, 10);
  EXPECT_GT(cut, 0);
}

TEST(Engine, StopsAtTheEndOfTheContext) {
  Engine engine = make_engine();
  ASSERT_EQ(engine.max_tokens(), 128);
  std::vector<GenerationRequest> requests;
  for (const std::size_t length : {100u, 126u, 127u}) requests.push_back({.prompt_ids = TokenIds(length, 3)});
  const auto completions = engine.generate_all(requests, {.max_new_tokens = 1000, .ignore_eos = true});
  EXPECT_EQ(completions[0][0].ids.size(), 28u);
  EXPECT_EQ(completions[1][0].ids.size(), 2u);
  EXPECT_EQ(completions[2][0].ids.size(), 1u);
  EXPECT_EQ(completions[2][0].finish_reason, FinishReason::kLength);
}

TEST(Engine, ARequestMayHaveALengthOfItsOwn) {
  Engine engine = make_engine({.max_batch = 2});
  std::vector<GenerationRequest> requests = make_requests(4, 1);
  const SamplingOptions sampling{.max_new_tokens = 9, .ignore_eos = true};
  const auto whole = engine.generate_all(requests, {.max_new_tokens = 20, .ignore_eos = true});
  requests[1].max_new_tokens = 3;
  requests[2].max_new_tokens = 20;
  const auto completions = engine.generate_all(requests, sampling);
  const std::vector<std::size_t> lengths{9, 3, 20, 9};
  for (std::size_t r = 0; r < requests.size(); ++r) {
    EXPECT_EQ(completions[r][0].ids, TokenIds(whole[r][0].ids.begin(), whole[r][0].ids.begin() + lengths[r])) << r;
  }
}

TEST(Engine, GivesEverySampleOnceAndCountsItsWork) {
  Engine engine = make_engine({.max_batch = 4});
  const std::vector<GenerationRequest> requests = make_requests(9, 3);
  std::map<std::pair<std::size_t, std::int64_t>, int> seen;
  std::int64_t tokens = 0;
  engine.generate(requests, {.max_new_tokens = 10},
                  [&](std::size_t request, std::int64_t sample, const Completion& completion) {
                    ++seen[{request, sample}];
                    tokens += static_cast<std::int64_t>(completion.ids.size());
                  });
  EXPECT_EQ(seen.size(), 27u);
  for (const auto& [key, times] : seen) EXPECT_EQ(times, 1);
  EXPECT_EQ(engine.stats().generated_tokens, tokens);
  std::int64_t prompt_tokens = 0;
  for (const GenerationRequest& request : requests)
    prompt_tokens += static_cast<std::int64_t>(request.prompt_ids.size());
  EXPECT_LT(engine.stats().prompt_tokens, prompt_tokens) << "three prompts begin alike";
  EXPECT_GT(engine.stats().steps, 10);
  EXPECT_GT(engine.stats().peak_blocks, 0);

  const std::int64_t before = engine.stats().prompt_tokens;
  EXPECT_TRUE(engine.generate_all({}, {}).empty());
  EXPECT_EQ(engine.stats().prompt_tokens, before);
}

TEST(Engine, NextTokenLogProbsAreThoseOfTheWholeSequence) {
  const CausalLM& model = small_model();
  Engine engine = make_engine({.prefill_tokens = 50});
  // Judge prompts as they come: shared instructions, both orders, one context twice, one the beginning of another.
  TokenIds instructions;
  for (TokenId i = 0; i < 40; ++i) instructions.push_back(1 + i);
  std::vector<NextTokenRequest> requests;
  std::int64_t tokens = 0;
  for (TokenId pair = 0; pair < 6; ++pair) {
    for (const bool swapped : {false, true}) {
      TokenIds ids = instructions;
      ids.insert(ids.end(), 18, static_cast<TokenId>(40 + pair));
      for (const bool second : {swapped, !swapped}) ids.insert(ids.end(), second ? 5 : 6, second ? 2 : 3);
      tokens += static_cast<std::int64_t>(ids.size());
      requests.push_back({.ids = ids, .candidates = {1, 60, pair, 1}});
    }
  }
  requests.push_back(requests[3]);
  requests.push_back({.ids = {instructions.begin(), instructions.begin() + 30}, .candidates = {}});
  requests.push_back({.ids = {instructions.begin(), instructions.begin() + 31}, .candidates = {4}});
  const auto together = engine.next_token_log_probs(requests);
  EXPECT_LT(engine.stats().prompt_tokens, tokens / 2) << "instructions once, prompts once for both orders";
  const at::NoGradGuard no_grad;
  ASSERT_EQ(together.size(), requests.size());
  for (std::size_t r = 0; r < requests.size(); ++r) {
    EXPECT_EQ(engine.next_token_log_probs({&requests[r], 1})[0], together[r]);
    const at::Tensor hidden = model.hidden(pack({&requests[r].ids, 1}));
    const at::Tensor log_probs =
        at::log_softmax(model.logits(hidden.narrow(0, hidden.size(0) - 1, 1))[0], 0, at::kDouble);
    ASSERT_EQ(together[r].size(), requests[r].candidates.size());
    for (std::size_t c = 0; c < together[r].size(); ++c) {
      EXPECT_NEAR(together[r][c], log_probs[requests[r].candidates[c]].item<double>(), 2e-6);
    }
  }
  EXPECT_TRUE(engine.next_token_log_probs({}).empty());
}

TEST(Engine, ScoresDoNotDependOnTheBatch) {
  const CausalLM& model = small_model();
  std::vector<ScoreRequest> requests;
  for (std::size_t r = 0; r < 20; ++r) {
    const GenerationRequest source = make_requests(r + 1).back();
    requests.push_back({.prompt_ids = source.prompt_ids, .response_ids = TokenIds(r % 5, static_cast<TokenId>(r + 3))});
  }
  Engine one = make_engine({.prefill_tokens = 1}), many = make_engine();
  const auto scored = many.score(requests);
  EXPECT_EQ(one.score(requests), scored);
  const at::NoGradGuard no_grad;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    ASSERT_EQ(scored[r].size(), requests[r].response_ids.size());
    TokenIds ids = requests[r].prompt_ids;
    ids.insert(ids.end(), requests[r].response_ids.begin(), requests[r].response_ids.end());
    const at::Tensor log_probs = at::log_softmax(model.logits(model.hidden(pack({&ids, 1}))), 1, at::kDouble);
    for (std::size_t i = 0; i < scored[r].size(); ++i) {
      const std::int64_t row = static_cast<std::int64_t>(requests[r].prompt_ids.size() + i) - 1;
      EXPECT_NEAR(scored[r][i], log_probs[row][requests[r].response_ids[i]].item<double>(), 2e-6);
    }
  }
  EXPECT_TRUE(many.score({}).empty());
}

// The choices of questions behind the same examples: computed once what they share, and the same numbers.
TEST(Engine, ScoresShareLongBeginnings) {
  std::vector<ScoreRequest> requests;
  std::int64_t tokens = 0;
  for (TokenId question = 0; question < 5; ++question) {
    for (TokenId choice = 0; choice < 4; ++choice) {
      TokenIds prompt(50, 9);
      prompt.insert(prompt.end(), 20, static_cast<TokenId>(10 + question));
      TokenIds response(static_cast<std::size_t>(1 + choice), static_cast<TokenId>(30 + choice / 2));
      if (choice == 3) response.insert(response.begin(), 17, 8);
      tokens += static_cast<std::int64_t>(prompt.size() + response.size());
      requests.push_back({.prompt_ids = prompt, .response_ids = response});
    }
  }
  requests.push_back(requests[2]);
  requests.push_back({.prompt_ids = TokenIds(30, 9), .response_ids = TokenIds(30, 9)});  // inside the others' beginning
  requests.push_back({.prompt_ids = TokenIds(50, 9), .response_ids = {}});
  Engine together = make_engine({.prefill_tokens = 64}), alone = make_engine();
  const auto scored = together.score(requests);
  EXPECT_GT(together.stats().prompt_tokens, 0) << "through the cache";
  EXPECT_LT(together.stats().prompt_tokens, tokens / 3);
  for (std::size_t r = 0; r < requests.size(); ++r) EXPECT_EQ(alone.score({&requests[r], 1})[0], scored[r]) << r;
  EXPECT_EQ(alone.stats().prompt_tokens, 0) << "packed, without the cache";
  // Where the cache is too small there is none.
  Engine small = make_engine({.cache_bytes = 2 * KvCache::bytes_per_block(small_config(), at::kFloat)});
  EXPECT_EQ(small.score(requests), scored);
}

TEST(Engine, NamesTheRequestThatIsWrong) {
  Engine engine = make_engine();
  std::vector<GenerationRequest> requests = make_requests(3);
  const auto expect_error = [](const auto& call, const std::vector<const char*>& parts) {
    try {
      call();
      ADD_FAILURE() << "no error with " << parts[0];
    } catch (const InputError& error) {
      for (const char* part : parts) EXPECT_THAT(error.what(), HasSubstr(part));
    }
  };
  const auto generate = [&] { engine.generate_all(requests, {}); };
  requests[1].prompt_ids = {};
  expect_error(generate, {"generate", "request 1", "empty"});
  requests[1].prompt_ids = {3, 61};
  expect_error(generate, {"request 1", "token 61 at position 1", "0 to 60"});
  requests[1].prompt_ids = {-1};
  expect_error(generate, {"request 1", "token -1"});
  requests[1].prompt_ids = TokenIds(128, 2);
  expect_error(generate, {"request 1", "128 tokens", "at most 127"});
  requests[1] = make_requests(2)[1];
  requests[2].samples = 0;
  expect_error(generate, {"request 2", "0 samples"});
  requests[2].samples = 1;
  requests[2].max_new_tokens = -1;
  expect_error(generate, {"request 2", "max_new_tokens is -1"});
  requests[2].max_new_tokens = 0;
  expect_error([&] { engine.generate_all(requests, {.top_p = 2.0, .max_new_tokens = 0}); },
               {"top_p is 2", "max_new_tokens is 0"});

  std::vector<ScoreRequest> scores{{{1}, {2}}, {{}, {2}}};
  const auto score = [&] { engine.score(scores); };
  expect_error(score, {"score", "request 1", "empty"});
  scores[1] = {{1}, {99}};
  expect_error(score, {"request 1", "token 99", "response"});
  scores[1] = {TokenIds(100, 1), TokenIds(30, 1)};
  expect_error(score, {"request 1", "130 tokens", "at most 129"});
  std::vector<NextTokenRequest> nexts{{{1}, {2}}, {{}, {2}}};
  const auto next = [&] { engine.next_token_log_probs(nexts); };
  expect_error(next, {"next_token_log_probs", "request 1", "empty"});
  nexts[1] = {{1}, {61}};
  expect_error(next, {"request 1", "token 61", "candidates"});
  nexts[1] = {TokenIds(129, 1), {1}};
  expect_error(next, {"request 1", "129 tokens"});
  expect_error([] { make_engine({.max_batch = 0, .prefill_tokens = -1, .cache_bytes = -1}); },
               {"max_batch is 0", "prefill_tokens is -1", "cache_bytes is -1"});
}

TEST(Engine, StaysWithinItsCacheOrSaysWhatToRaise) {
  const std::int64_t block = KvCache::bytes_per_block(small_config(), at::kFloat);
  GenerationRequest request{.prompt_ids = TokenIds(20, 4), .samples = 3};
  const SamplingOptions sampling{.max_new_tokens = 45, .ignore_eos = true};  // 64 tokens in the cache: 4 blocks
  Engine small = make_engine({.cache_bytes = 4 * block});
  try {
    small.generate_all({&request, 1}, sampling);  // three samples: the prompt's part-filled block stays while they fork
    ADD_FAILURE() << "no error";
  } catch (const ResourceError& error) {
    EXPECT_THAT(error.what(), HasSubstr("request 0"));
    EXPECT_THAT(error.what(), HasSubstr("cache_bytes"));
    EXPECT_THAT(error.what(), HasSubstr("max_new_tokens"));
  }
  Engine five = make_engine({.cache_bytes = 5 * block + block / 2}), large = make_engine();
  const auto expected = large.generate_all({&request, 1}, sampling);
  EXPECT_EQ(five.generate_all({&request, 1}, sampling), expected);
  EXPECT_LE(five.stats().peak_blocks, 5);
  request.samples = 1;
  EXPECT_EQ(small.generate_all({&request, 1}, sampling)[0][0], expected[0][0]);
  EXPECT_EQ(small.stats().peak_blocks, 4);
  // Sharing needs a little more than not sharing; where only that fits, nothing is shared.
  std::vector<NextTokenRequest> contexts{{TokenIds(64, 1), {1}}, {TokenIds(64, 1), {2}}};
  contexts[1].ids[40] = 2;
  EXPECT_EQ(small.next_token_log_probs(contexts), large.next_token_log_probs(contexts));
  contexts[0].ids.push_back(1);
  EXPECT_THROW(small.next_token_log_probs(contexts), ResourceError);
}

TEST(Engine, SaysHowManySequencesItsCacheHasRoomFor) {
  const std::int64_t block = KvCache::bytes_per_block(small_config(), at::kFloat);
  std::vector<GenerationRequest> requests;
  for (TokenId id = 1; id <= 10; ++id) requests.push_back({.prompt_ids = {id}});
  const SamplingOptions sampling{.max_new_tokens = 60, .ignore_eos = true};  // 4 blocks each
  Engine small = make_engine({.cache_bytes = 13 * block}), large = make_engine();
  EXPECT_EQ(small.generate_all(requests, sampling), large.generate_all(requests, sampling));
  EXPECT_EQ(small.stats().fitting, 3);
  EXPECT_EQ(large.stats().fitting, 0) << "free memory is the limit, and it is far";
  small.generate_all(requests, {.max_new_tokens = 2});
  EXPECT_EQ(small.stats().fitting, 3) << "of the worst call";
}

TEST(Engine, FreeMemoryIsWhatTheSystemSays) {
  constexpr std::int64_t kLittle = 1 << 20, kMuch = 1LL << 50;
  EXPECT_GT(detail::free_memory(at::kCPU), kLittle);
  EXPECT_LT(detail::free_memory(at::kCPU), kMuch);
  EXPECT_EQ(detail::free_memory(at::kMeta), 2LL << 30) << "where nobody knows";
}

TEST(Engine, TokensAreHeardAsTheyAreDrawn) {
  Engine engine = make_engine({.max_batch = 3});
  const std::vector<GenerationRequest> requests = make_requests(5, 2);
  const SamplingOptions sampling{.max_new_tokens = 12};
  std::map<std::pair<std::size_t, std::int64_t>, TokenIds> heard;
  engine.set_on_token([&](std::size_t request, std::int64_t sample, TokenId id) {
    heard[{request, sample}].push_back(id);
  });
  engine.generate(requests, sampling, [&](std::size_t request, std::int64_t sample, const Completion& completion) {
    EXPECT_EQ((heard[{request, sample}]), completion.ids);
  });
  EXPECT_EQ(heard.size(), 10u);
  engine.set_on_token({});
  EXPECT_NO_THROW(engine.generate_all(requests, sampling));
}

TEST(Engine, ACallbackMayThrowAndTheEngineGoesOn) {
  Engine engine = make_engine({.max_batch = 3});
  const std::vector<GenerationRequest> requests = make_requests(8, 2);
  const SamplingOptions sampling{.max_new_tokens = 9};
  const auto expected = engine.generate_all(requests, sampling);
  struct Stop {};
  int given = 0;
  EXPECT_THROW(engine.generate(requests, sampling,
                               [&](std::size_t, std::int64_t, const Completion&) {
                                 if (++given == 5) throw Stop{};
                               }),
               Stop);
  EXPECT_EQ(given, 5);
  EXPECT_EQ(engine.generate_all(requests, sampling), expected);
  EXPECT_THROW(
      engine.generate(requests, sampling,
                      [&](std::size_t, std::int64_t, const Completion&) { engine.generate_all(requests, sampling); }),
      InputError);
  EXPECT_EQ(engine.generate_all(requests, sampling), expected);
}

TEST(Engine, FollowsChangedWeights) {
  const CausalLM model = CausalLM::random(small_config(), Seed{3}, {}, 0.25);
  Engine engine(model, make_text());
  const std::vector<GenerationRequest> requests = make_requests(4);
  const SamplingOptions sampling{.max_new_tokens = 12, .ignore_eos = true};
  const auto before = engine.generate_all(requests, sampling);
  {
    const at::NoGradGuard no_grad;
    for (const auto& [name, tensor] : model.parameters()) tensor.mul_(1.1);
  }
  model.weights_changed();
  const auto after = engine.generate_all(requests, sampling);
  EXPECT_NE(after, before);
  Engine fresh(model, make_text());
  EXPECT_EQ(fresh.generate_all(requests, sampling), after);
}

// The last token is predicted, not read: rolling windows fill the context with what they read.
TEST(Engine, ScoresOneTokenMoreThanItReads) {
  for (const bool gemma : {true, false}) {
    Engine engine(CausalLM::random(small_config(gemma), Seed{3}, {}, 0.25), make_text());
    const auto context = static_cast<std::size_t>(engine.max_tokens());
    const TokenIds whole(context - 1, 9);
    const std::vector<ScoreRequest> full = {{{2}, whole}};
    TokenIds longer = whole;
    longer.push_back(5);
    const std::vector<ScoreRequest> fuller = {{{2}, longer}};
    const std::vector<double> found = engine.score(fuller)[0];
    ASSERT_EQ(found.size(), context);
    const std::vector<double> expected = engine.score(full)[0];
    for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-5);
    longer.push_back(5);
    const std::vector<ScoreRequest> too_long = {{{2}, longer}};
    EXPECT_THROW(engine.score(too_long), InputError);
  }
}

TEST(Engine, RefusesBrokenWeights) {
  for (const auto& [gemma, dtype] : {std::pair{true, DType::kFloat32}, std::pair{false, DType::kFloat32},
                                     std::pair{true, DType::kBFloat16}, std::pair{false, DType::kBFloat16}}) {
    const CausalLM model = CausalLM::random(small_config(gemma), Seed{3}, {.dtype = dtype}, 0.25);
    Engine engine(model, make_text());
    const std::vector<GenerationRequest> requests = make_requests(2);
    const std::vector<ScoreRequest> apart = {{{1, 2}, {3, 4}}, {{5, 6}, {7}}};
    const std::vector<ScoreRequest> alike(4, {TokenIds(40, 9), {3, 4}});  // scored through the cache
    const std::vector<NextTokenRequest> next = {{{1, 2, 3}, {4, 5}}};
    const auto before = engine.generate_all(requests, {.max_new_tokens = 4});
    const auto scored = std::pair{engine.score(apart), engine.score(alike)};
    const auto write = [&](at::Tensor weight, const at::Tensor& values) {
      const at::NoGradGuard no_grad;
      weight.copy_(values);
      model.weights_changed();
    };
    for (const auto& [name, weight] : model.parameters()) {
      const at::Tensor saved = weight.clone();
      write(weight, at::full_like(weight, std::nanf("")));
      EXPECT_THROW(engine.generate_all(requests, {.max_new_tokens = 4}), InputError) << name;
      EXPECT_THROW(engine.generate_all(requests, {.temperature = 0.0, .max_new_tokens = 4}), InputError) << name;
      EXPECT_THROW(engine.score(apart), InputError) << name;
      EXPECT_THROW(engine.score(alike), InputError) << name;
      EXPECT_THROW(engine.next_token_log_probs(next), InputError) << name;
      write(weight, saved);
    }
    EXPECT_EQ(engine.generate_all(requests, {.max_new_tokens = 4}), before) << "nothing broken stays in the cache";
    EXPECT_EQ((std::pair{engine.score(apart), engine.score(alike)}), scored);
  }
}

TEST(Engine, RunsInBFloat16) {
  const CausalLM model = CausalLM::random(small_config(), Seed{1}, {.dtype = DType::kBFloat16}, 0.25);
  Engine engine(model, make_text(), {.max_batch = 4});
  const std::vector<GenerationRequest> requests = make_requests(5, 2);
  const auto completions = engine.generate_all(requests, {.max_new_tokens = 8, .ignore_eos = true});
  std::vector<ScoreRequest> scores;
  for (std::size_t r = 0; r < 5; ++r) scores.push_back({requests[r].prompt_ids, completions[r][0].ids});
  const auto scored = engine.score(scores);
  for (std::size_t r = 0; r < 5; ++r) {
    EXPECT_EQ(completions[r][0].ids.size(), 8u);
    double sum = 0.0;
    for (const double log_prob : scored[r]) sum += log_prob;
    EXPECT_NEAR(sum, completions[r][0].log_prob, 0.5);
  }
}

}  // namespace
}  // namespace sao
