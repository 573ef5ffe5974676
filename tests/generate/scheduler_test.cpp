// SPDX-License-Identifier: Apache-2.0
// The scheduler and the cache with a fake model: its next token is a hash of everything its sequence holds in the
// cache, so that a token that is missing, foreign or out of order changes what follows.
#include "generate/scheduler.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <stdexcept>

#include "generate/executor.h"
#include "sao/base/seed.h"

namespace sao::detail {
namespace {

using ::testing::IsEmpty;

constexpr std::int64_t kVocabulary = 11;
constexpr TokenId kStop = 0;

TokenId next_token(TokenSpan content) {
  std::uint64_t hash = 17;
  for (const TokenId id : content) hash = hash * 31 + static_cast<std::uint64_t>(id) + 1;
  return static_cast<TokenId>((hash ^ hash >> 9) % kVocabulary);
}

// Sampling, as it were: samples of one prompt go different ways.
TokenId sampled(TokenId token, std::int64_t sample) { return static_cast<TokenId>((token + sample) % kVocabulary); }

ModelConfig one_number_a_token() {
  ModelConfig config;
  config.num_hidden_layers = 1;
  config.num_key_value_heads = 1;
  config.head_dim = 1;
  return config;
}

// Keeps a token's id as its key.
class FakeExecutor final : public Executor {
 public:
  at::Tensor run(const Plan& plan, KvCache& cache, const at::Tensor& drawn = {}) override {
    const KvStep step = cache.plan(plan.sequences, plan.counts);
    float* keys = cache.keys(0).mutable_data_ptr<float>();
    for (std::size_t t = 0; t < plan.ids.size(); ++t) {
      keys[step.slots.const_data_ptr<std::int64_t>()[t]] =
          static_cast<float>(plan.drawn[t] < 0 ? plan.ids[t] : drawn[plan.drawn[t]].item<std::int64_t>());
    }
    at::Tensor hidden = at::zeros({static_cast<std::int64_t>(plan.rows.size()), kVocabulary});
    for (std::size_t row = 0; row < plan.rows.size(); ++row) {
      // Which sequence, and how much of it the token sees.
      std::size_t s = 0;
      while (step.starts[static_cast<std::int64_t>(s) + 1].item<std::int64_t>() <= plan.rows[row]) ++s;
      const std::int64_t seen = step.positions[plan.rows[row]].item<std::int64_t>() + 1;
      TokenIds content;
      for (std::int64_t i = 0; i < seen; ++i) {
        const std::int64_t block =
            step.block_tables[static_cast<std::int64_t>(s)][i / kKvBlockSize].item<std::int64_t>();
        content.push_back(static_cast<TokenId>(keys[block * kKvBlockSize + i % kKvBlockSize]));
      }
      hidden[static_cast<std::int64_t>(row)][next_token(content)] = 1.0f;
    }
    return hidden;
  }
  Logits logits(const at::Tensor& hidden) override { return {.values = hidden}; }
};

struct Outcome {
  std::map<std::pair<std::size_t, std::int64_t>, Completion> completions;
  std::map<std::pair<std::size_t, std::int64_t>, TokenId> reads;  // by request and position
  std::int64_t steps = 0, prompt_tokens = 0, most_running = 0, most_used = 0, ahead = 0, dropped = 0;
};

// Runs everything, checking every invariant after every step. `ahead`: each step starts before the one before it is
// committed, as far as the scheduler plans it.
Outcome serve(const std::vector<ScheduledRequest>& requests, const PromptTree& tree, KvCache& cache,
              const SchedulerOptions& options, bool ahead = false) {
  Outcome result;
  FakeExecutor executor;
  Scheduler scheduler(requests, tree, cache, options);
  struct Step {
    std::vector<ops::Drawn> drawn;
    at::Tensor ids;
  };
  const auto start = [&](const Plan& plan, const Step* before) {
    EXPECT_LE(plan.prompt_tokens, options.prefill_tokens);
    EXPECT_EQ(plan.drawn.size(), plan.ids.size());
    const at::Tensor logits =
        executor.logits(executor.run(plan, cache, before == nullptr ? at::Tensor() : before->ids)).values;
    ++result.steps;
    result.ahead += before == nullptr ? 0 : 1;
    result.prompt_tokens += plan.prompt_tokens;
    result.most_running =
        std::max(result.most_running, static_cast<std::int64_t>(plan.ids.size()) - plan.prompt_tokens);
    result.most_used = std::max(result.most_used, cache.total_blocks() - cache.free_blocks());
    Step step{{}, at::empty({static_cast<std::int64_t>(plan.draws.size())}, at::kLong)};
    for (const PlannedDraw& draw : plan.draws) {
      step.drawn.push_back(
          {.id = sampled(static_cast<TokenId>(logits[draw.row].argmax().item<std::int64_t>()), draw.sample),
           .log_prob = -0.5f});
      step.ids[static_cast<std::int64_t>(step.drawn.size()) - 1] = step.drawn.back().id;
    }
    for (const PlannedRead& read : plan.reads) {
      EXPECT_TRUE(result.reads
                      .emplace(std::pair(read.request, read.position),
                               static_cast<TokenId>(logits[read.row].argmax().item<std::int64_t>()))
                      .second);
    }
    return step;
  };
  const auto finish = [&](const Plan& plan, const Step& step) {
    for (const PlannedDraw& draw : plan.draws) result.dropped += draw.dropped ? 1 : 0;
    for (Finished& finished : scheduler.commit(step.drawn)) {
      EXPECT_TRUE(
          result.completions.emplace(std::pair(finished.request, finished.sample), std::move(finished.completion))
              .second);
    }
    EXPECT_THAT(scheduler.check(), IsEmpty());
    EXPECT_THAT(cache.check(), IsEmpty());
    if (::testing::Test::HasFailure()) throw std::runtime_error("a step went wrong");
  };
  run_steps<Step>(scheduler, ahead, start, finish);
  return result;
}

Completion expected(const ScheduledRequest& request, std::int64_t sample, const SchedulerOptions& options) {
  Completion completion{.finish_reason = FinishReason::kLength};
  TokenIds content(request.prompt.begin(), request.prompt.end());
  while (static_cast<std::int64_t>(completion.ids.size()) < request.max_new_tokens) {
    content.push_back(sampled(next_token(content), sample));
    completion.ids.push_back(content.back());
    completion.log_prob -= 0.5;
    if (!options.stop_ids.empty() && content.back() == options.stop_ids[0]) {
      completion.finish_reason = FinishReason::kStop;
      break;
    }
  }
  return completion;
}

void expect_right(const Outcome& result, const std::vector<ScheduledRequest>& requests,
                  const SchedulerOptions& options) {
  std::size_t samples = 0, reads = 0;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    const std::int64_t length = static_cast<std::int64_t>(requests[r].prompt.size());
    for (std::int64_t at = length - requests[r].reads; at < length; ++at) {
      ++reads;
      ASSERT_TRUE(result.reads.contains({r, at}));
      ASSERT_EQ(result.reads.at({r, at}), next_token(requests[r].prompt.first(static_cast<std::size_t>(at) + 1)));
    }
    for (std::int64_t k = 0; k < requests[r].samples; ++k) {
      ++samples;
      ASSERT_TRUE(result.completions.contains({r, k}));
      ASSERT_EQ(result.completions.at({r, k}), expected(requests[r], k, options)) << "request " << r << " sample " << k;
    }
  }
  ASSERT_EQ(result.completions.size(), samples);
  ASSERT_EQ(result.reads.size(), reads);
}

PromptTree tree_of(const std::vector<ScheduledRequest>& requests, std::int64_t least_shared) {
  std::vector<TokenSpan> prompts;
  for (const ScheduledRequest& request : requests) prompts.push_back(request.prompt);
  return build_prompt_tree(prompts, least_shared);
}

TEST(Scheduler, PrefillsInChunksAndDecodesBeside) {
  const TokenIds first(40, 3), second(25, 4);
  const std::vector<ScheduledRequest> requests{{first, 1, 5, 0}, {second, 1, 5, 0}};
  const SchedulerOptions options{.max_batch = 2, .prefill_tokens = 30};
  KvCache cache(one_number_a_token(), 64, at::kFloat, at::kCPU);
  Scheduler scheduler(requests, tree_of(requests, 16), cache, options);
  FakeExecutor executor;
  const auto step = [&] {
    const Plan plan = scheduler.plan();
    executor.run(plan, cache);
    scheduler.commit(std::vector<ops::Drawn>(plan.draws.size(), {.id = 1}));
    return plan;
  };
  EXPECT_EQ(step().counts, (std::vector<std::int64_t>{30}));
  EXPECT_EQ(step().counts, (std::vector<std::int64_t>{10, 20}));
  const Plan mixed = step();  // the first sample decodes while the second prompt ends
  EXPECT_EQ(mixed.counts, (std::vector<std::int64_t>{1, 5}));
  EXPECT_EQ(mixed.prompt_tokens, 5);
  EXPECT_EQ(mixed.draws.size(), 2u);
  EXPECT_EQ(mixed.rows, (std::vector<std::int64_t>{0, 5}));
}

TEST(Scheduler, RefillsAtOnce) {
  // One long request holds a slot; the other slot serves all the short ones meanwhile.
  std::vector<TokenIds> prompts;
  for (TokenId i = 0; i < 10; ++i) prompts.push_back({i, 1});
  std::vector<ScheduledRequest> requests;
  for (const TokenIds& prompt : prompts) requests.push_back({prompt, 1, 4, 0});
  requests[0].max_new_tokens = 37;
  const SchedulerOptions options{.max_batch = 2};
  KvCache cache(one_number_a_token(), 64, at::kFloat, at::kCPU);
  const Outcome result = serve(requests, tree_of(requests, 16), cache, options);
  expect_right(result, requests, options);
  // A prompt's own step gives its first token, three more follow: 9 x 4 = 36 steps beside the long one's 37.
  EXPECT_EQ(result.steps, 37);
  EXPECT_EQ(result.most_running, 2);
}

TEST(Scheduler, ComputesSharedPromptsOnce) {
  const TokenIds shared(50, 2);
  std::vector<TokenIds> prompts;
  for (TokenId i = 0; i < 6; ++i) {
    prompts.push_back(shared);
    prompts.back().push_back(i);
  }
  prompts.push_back(prompts[2]);
  std::vector<ScheduledRequest> requests;
  for (const TokenIds& prompt : prompts) requests.push_back({prompt, 3, 20, 0});
  const SchedulerOptions options{.max_batch = 4, .prefill_tokens = 100, .stop_ids = {kStop}};
  KvCache cache(one_number_a_token(), 400, at::kFloat, at::kCPU);
  const Outcome result = serve(requests, tree_of(requests, 16), cache, options);
  expect_right(result, requests, options);
  EXPECT_EQ(result.prompt_tokens, 50 + 6);
  EXPECT_EQ(cache.free_blocks(), cache.total_blocks());
}

TEST(Scheduler, ReleasesEverythingWhenLeftInTheMiddle) {
  const TokenIds prompt(30, 2);
  const std::vector<ScheduledRequest> requests{{prompt, 5, 50, 0}, {TokenSpan(prompt).first(20), 2, 50, 0}};
  KvCache cache(one_number_a_token(), 60, at::kFloat, at::kCPU);
  for (int steps = 0; steps < 6; ++steps) {
    Scheduler scheduler(requests, tree_of(requests, 16), cache, {.max_batch = 3, .prefill_tokens = 16});
    FakeExecutor executor;
    for (int i = 0; i < steps; ++i) {
      const Plan& plan = scheduler.plan();
      executor.run(plan, cache);
      scheduler.commit(std::vector<ops::Drawn>(plan.draws.size(), {.id = 1}));
    }
    EXPECT_EQ(cache.free_blocks() == cache.total_blocks(), steps == 0);
  }
  EXPECT_EQ(cache.free_blocks(), cache.total_blocks());
  EXPECT_THAT(cache.check(), IsEmpty());
}

// Random requests, limits and cache sizes, down to the least that suffices.
TEST(Scheduler, ServesWhateverComesWithinTheMemory) {
  const Seed seed{11};
  std::uint64_t draws = 0;
  const auto below = [&](std::uint64_t n) { return static_cast<std::int64_t>(uniform_below(seed, draws++, n)); };
  std::int64_t tight = 0, ahead = 0, dropped = 0;
  for (int trial = 0; trial < 250; ++trial) {
    std::vector<TokenIds> prompts;
    for (std::int64_t i = 1 + below(10); i > 0; --i) {
      TokenIds ids;
      if (!prompts.empty() && below(3) > 0) {
        const TokenIds& other = prompts[static_cast<std::size_t>(below(prompts.size()))];
        ids.assign(other.begin(), other.begin() + below(other.size() + 1));
      }
      for (std::int64_t more = below(50); more > 0; --more) ids.push_back(static_cast<TokenId>(below(kVocabulary)));
      if (ids.empty()) ids.push_back(1);
      prompts.push_back(ids);
    }
    std::vector<ScheduledRequest> requests;
    const std::int64_t kind = below(3);  // reads, samples, or both
    for (const TokenIds& prompt : prompts) {
      const std::int64_t samples = kind == 0 ? 0 : (kind == 1 ? 1 : 0) + below(5);
      const std::int64_t reads = kind == 1 ? 0 : below(prompt.size() + 1);
      requests.push_back({prompt, samples, 1 + below(40), reads});
    }
    SchedulerOptions options{.max_batch = 1 + below(6), .prefill_tokens = 1 + below(60)};
    if (below(2) == 0) options.stop_ids = {kStop};
    const PromptTree tree = tree_of(requests, 1 + below(20));
    const CacheNeed need = cache_need(requests, tree, options);
    ASSERT_GE(need.useful, need.least);
    const std::int64_t blocks = below(2) == 0 ? need.least : need.least + below(30);
    tight += blocks == need.least ? 1 : 0;
    KvCache cache(one_number_a_token(), blocks, at::kFloat, at::kCPU);
    const Outcome result = serve(requests, tree, cache, options, /*ahead=*/trial % 2 == 1);
    ASSERT_FALSE(HasFailure()) << "trial " << trial;
    ahead += result.ahead;
    dropped += result.dropped;
    ASSERT_NO_FATAL_FAILURE(expect_right(result, requests, options)) << "trial " << trial;
    std::int64_t tokens = 0;
    for (const PromptNode& node : tree.nodes) tokens += node.end - node.begin;
    ASSERT_EQ(result.prompt_tokens, tokens) << "every node once";
    ASSERT_LE(result.most_running, options.max_batch);
    ASSERT_EQ(cache.free_blocks(), cache.total_blocks());
  }
  EXPECT_GT(tight, 80);
  EXPECT_GT(ahead, 1000);
  EXPECT_GT(dropped, 100);
}

// A sample alone needs what its tokens need, to the block.
TEST(Scheduler, OneSampleNeedsNoMoreThanItsTokens) {
  for (const std::int64_t prompt_length : {1, 15, 16, 17, 33}) {
    for (const std::int64_t new_tokens : {1, 2, 16, 17, 40}) {
      const TokenIds prompt(static_cast<std::size_t>(prompt_length), 1);
      const std::vector<ScheduledRequest> requests{{prompt, 1, new_tokens, 0}};
      const CacheNeed need = cache_need(requests, tree_of(requests, 16), {});
      EXPECT_EQ(need.least, KvCache::blocks_for(prompt_length + new_tokens - 1));
      EXPECT_EQ(need.useful >= need.least, true);
    }
  }
}

}  // namespace
}  // namespace sao::detail
