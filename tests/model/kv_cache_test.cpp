// SPDX-License-Identifier: Apache-2.0
// The paged cache against a plain model of it: every sequence is a list of numbers.
#include "sao/model/kv_cache.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "sao/base/error.h"
#include "sao/base/seed.h"
#include "sao/ops/attention.h"
#include "support/close.h"

namespace sao {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

ModelConfig tiny() {
  ModelConfig config;
  config.num_hidden_layers = 2;
  config.num_key_value_heads = 2;
  config.head_dim = 4;
  return config;
}

KvCache make_cache(std::int64_t blocks) { return KvCache(tiny(), blocks, at::kFloat, at::kCPU); }

TEST(KvCache, BlocksAndBytes) {
  EXPECT_EQ(KvCache::blocks_for(0), 0);
  EXPECT_EQ(KvCache::blocks_for(1), 1);
  EXPECT_EQ(KvCache::blocks_for(16), 1);
  EXPECT_EQ(KvCache::blocks_for(17), 2);
  KvCache cache = make_cache(3);
  std::int64_t bytes = 0;
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(cache.keys(layer).sizes(), (at::IntArrayRef{3, 2, 4, 16}));
    EXPECT_EQ(cache.values(layer).sizes(), (at::IntArrayRef{3, 2, 16, 4}));
    bytes += static_cast<std::int64_t>(cache.keys(layer).nbytes() + cache.values(layer).nbytes());
  }
  EXPECT_EQ(bytes, 3 * KvCache::bytes_per_block(tiny(), at::kFloat));
}

TEST(KvCache, PlanDescribesTheStep) {
  KvCache cache = make_cache(8);
  const auto a = cache.create(), b = cache.create();
  const KvStep first = cache.plan(std::vector{a}, std::vector<std::int64_t>{15});
  EXPECT_TRUE(testing::identical(first.positions, at::arange(15)));
  const KvStep second = cache.plan(std::vector{b, a}, std::vector<std::int64_t>{17, 3});
  EXPECT_TRUE(testing::identical(second.starts, at::tensor({0, 17, 20}, at::kLong)));
  EXPECT_TRUE(testing::identical(second.lengths, at::tensor({17, 18}, at::kLong)));
  EXPECT_TRUE(testing::identical(second.positions, at::cat({at::arange(17), at::arange(15, 18)})));
  ASSERT_EQ(second.block_tables.sizes(), (at::IntArrayRef{2, 2}));
  const at::Tensor table = second.block_tables.to(at::kLong);
  EXPECT_TRUE(testing::identical(second.slots.narrow(0, 0, 16), table[0][0] * 16 + at::arange(16)));
  EXPECT_EQ(second.slots[16].item<std::int64_t>(), table[0][1].item<std::int64_t>() * 16);
  EXPECT_EQ(second.slots[17].item<std::int64_t>(), table[1][0].item<std::int64_t>() * 16 + 15);
  EXPECT_EQ(second.slots[18].item<std::int64_t>(), table[1][1].item<std::int64_t>() * 16);
  EXPECT_EQ(cache.length(a), 18);
  EXPECT_EQ(cache.free_blocks(), 4);
  EXPECT_EQ(cache.blocks_needed(a, 14), 0);
  EXPECT_EQ(cache.blocks_needed(a, 15), 1);
}

TEST(KvCache, MissingSequencesWriteWhereNobodyReads) {
  KvCache cache = make_cache(8);
  const auto a = cache.create();
  cache.plan(std::vector{a}, std::vector<std::int64_t>{20});
  const KvStep step = cache.plan(std::vector{a}, std::vector<std::int64_t>{1}, {.sequences = 3, .blocks = 4});
  EXPECT_TRUE(testing::identical(step.starts, at::arange(4)));
  EXPECT_TRUE(testing::identical(step.lengths, at::tensor({21, 1, 1}, at::kLong)));
  EXPECT_TRUE(testing::identical(step.positions, at::tensor({20, 0, 0}, at::kLong)));
  EXPECT_TRUE(testing::identical(step.slots.narrow(0, 1, 2), at::tensor({8 * 16, 8 * 16}, at::kLong)));
  ASSERT_EQ(step.block_tables.sizes(), (at::IntArrayRef{3, 4}));
  EXPECT_TRUE(testing::identical(step.block_tables.narrow(0, 1, 2), at::full({2, 4}, 8, at::kInt)));
  EXPECT_EQ(step.longest, 21);
  EXPECT_EQ(cache.free_blocks(), 6);
  // No more than asked for where there are enough.
  EXPECT_EQ(cache.plan(std::vector{a}, std::vector<std::int64_t>{1}, {.sequences = 1, .blocks = 1}).lengths.size(0), 1);
}

TEST(KvCache, RefusesWithoutChange) {
  KvCache cache = make_cache(2);
  const auto a = cache.create(), b = cache.create();
  cache.plan(std::vector{a}, std::vector<std::int64_t>{10});
  EXPECT_THROW(cache.plan(std::vector{a, b}, std::vector<std::int64_t>{7, 1}), ResourceError);
  EXPECT_EQ(cache.length(a), 10);
  EXPECT_EQ(cache.length(b), 0);
  EXPECT_EQ(cache.free_blocks(), 1);
  EXPECT_THAT(cache.check(), IsEmpty());
  EXPECT_THROW(cache.plan(std::vector{a, a}, std::vector<std::int64_t>{1, 1}), InputError);
  EXPECT_THROW(cache.plan(std::vector{a}, std::vector<std::int64_t>{0}), InputError);
  EXPECT_THROW(cache.plan(std::vector{a}, std::vector<std::int64_t>{1, 2}), InputError);
  EXPECT_THROW(cache.plan({}, {}), InputError);

  cache.plan(std::vector{b}, std::vector<std::int64_t>{16});
  EXPECT_THROW(cache.fork(a), ResourceError);  // its last block is part-filled and no block is left
  const auto whole = cache.fork(b);            // shares all it has
  EXPECT_THAT(cache.check(), IsEmpty());
  cache.release(b);
  EXPECT_EQ(cache.free_blocks(), 0);
  cache.release(whole);
  EXPECT_EQ(cache.free_blocks(), 1);
}

TEST(KvCache, KnowsReleasedAndInventedSequences) {
  KvCache cache = make_cache(2);
  const auto a = cache.create();
  cache.release(a);
  EXPECT_THROW(cache.release(a), InputError);
  const auto b = cache.create();  // takes a's place, not its name
  EXPECT_NE(a, b);
  EXPECT_THROW(cache.length(a), InputError);
  EXPECT_THROW(cache.fork(-1), InputError);
  EXPECT_THROW(cache.length(b + 12345), InputError);
  EXPECT_THROW(make_cache(0), InputError);
}

// Random creates, forks, appends and releases. Each appended token's key and value hold a number of its own in every
// layer; reading a sequence back through its block table must give its numbers, whatever the others did.
TEST(KvCache, AgreesWithListsOfNumbers) {
  const Seed seed{7};
  std::uint64_t draws = 0;
  const auto below = [&](std::uint64_t n) { return static_cast<std::int64_t>(uniform_below(seed, draws++, n)); };
  std::map<KvCache::SequenceId, std::vector<float>> model;
  KvCache cache = make_cache(32);
  float next_number = 1.0f;
  std::int64_t refusals = 0, forks = 0, plans = 0;
  const auto pick = [&] { return std::next(model.begin(), below(model.size()))->first; };

  for (int step = 0; step < 4000; ++step) {
    std::int64_t what = below(10);
    if (what <= 2 && model.size() > 6) what = 3;  // few sequences, so that some grow long
    if (what == 0 || model.empty()) {
      model[cache.create()] = {};
    } else if (what <= 2) {
      const auto parent = pick();
      const bool copies = model[parent].size() % 16 != 0;
      if (copies && cache.free_blocks() == 0) {
        EXPECT_THROW(cache.fork(parent), ResourceError);
      } else {
        const std::int64_t before = cache.free_blocks();
        const auto child = cache.fork(parent);
        EXPECT_EQ(before - cache.free_blocks(), copies ? 1 : 0);
        model[child] = model[parent];
        ++forks;
      }
    } else if (what <= 4) {
      const auto gone = pick();
      cache.release(gone);
      model.erase(gone);
    } else {
      std::vector<KvCache::SequenceId> sequences;
      std::vector<std::int64_t> counts;
      std::int64_t needed = 0, tokens = 0;
      for (const auto& [id, numbers] : model) {
        if (below(2) == 0) continue;
        sequences.push_back(id);
        counts.push_back(1 + below(below(8) == 0 ? 40 : 6));
        needed += cache.blocks_needed(id, counts.back());
        tokens += counts.back();
      }
      if (sequences.empty()) continue;
      if (needed > cache.free_blocks()) {
        EXPECT_THROW(cache.plan(sequences, counts), ResourceError);
        ++refusals;
      } else {
        const KvStep plan = cache.plan(sequences, counts);
        ++plans;
        at::Tensor numbers = at::empty({tokens});
        std::int64_t t = 0;
        for (std::size_t s = 0; s < sequences.size(); ++s) {
          for (std::int64_t i = 0; i < counts[s]; ++i) {
            model[sequences[s]].push_back(next_number);
            numbers[t++] = next_number++;
          }
        }
        const at::Tensor rows = numbers.view({-1, 1, 1}).expand({tokens, 2, 4}).contiguous();
        for (std::int64_t layer = 0; layer < 2; ++layer) {
          ops::append_to_cache(rows * (layer + 1), -rows * (layer + 1), plan.slots, cache.keys(layer),
                               cache.values(layer));
        }
        for (std::size_t s = 0; s < sequences.size(); ++s) {
          const std::vector<float>& expected = model[sequences[s]];
          const std::int64_t length = plan.lengths[static_cast<std::int64_t>(s)].item<std::int64_t>();
          ASSERT_EQ(length, static_cast<std::int64_t>(expected.size()));
          const at::Tensor blocks =
              plan.block_tables[static_cast<std::int64_t>(s)].narrow(0, 0, KvCache::blocks_for(length)).to(at::kLong);
          for (std::int64_t layer = 0; layer < 2; ++layer) {
            const at::Tensor k = cache.keys(layer).index_select(0, blocks).select(1, 1).select(1, 3).reshape({-1});
            const at::Tensor v = cache.values(layer).index_select(0, blocks).select(1, 0).select(2, 2).reshape({-1});
            const at::Tensor want = at::tensor(expected) * (layer + 1);
            ASSERT_TRUE(testing::identical(k.narrow(0, 0, length), want));
            ASSERT_TRUE(testing::identical(v.narrow(0, 0, length), -want));
          }
        }
      }
    }
    for (const auto& [id, numbers] : model) ASSERT_EQ(cache.length(id), static_cast<std::int64_t>(numbers.size()));
    ASSERT_THAT(cache.check(), IsEmpty()) << "step " << step;
  }
  EXPECT_GT(refusals, 50);
  EXPECT_GT(forks, 300);
  EXPECT_GT(plans, 300);
  for (const auto& [id, numbers] : model) cache.release(id);
  EXPECT_EQ(cache.free_blocks(), cache.total_blocks());
  EXPECT_THAT(cache.check(), IsEmpty());
}

}  // namespace
}  // namespace sao
