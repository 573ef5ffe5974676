// SPDX-License-Identifier: Apache-2.0
#include "model/pack_parts.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "sao/base/error.h"
#include "sao/model/causal_lm.h"

namespace sao {
namespace {

std::vector<std::int64_t> values(const at::Tensor& t) {
  const at::Tensor list = t.contiguous();
  return {list.const_data_ptr<std::int64_t>(), list.const_data_ptr<std::int64_t>() + list.numel()};
}

using Numbers = std::vector<std::int64_t>;

TEST(PackParts, WholeSequencesUpToTheBound) {
  const PackedTokens whole = pack(std::vector<TokenIds>{{1, 2, 3}, {4, 5}, {6, 7, 8, 9, 10, 11}, {12}, {13, 14}});
  const std::vector<PackedTokens> parts = detail::parts_of(whole, 5);
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(values(parts[0].ids), (Numbers{1, 2, 3, 4, 5}));
  EXPECT_EQ(values(parts[0].starts), (Numbers{0, 3, 5}));
  EXPECT_EQ(values(parts[1].ids), (Numbers{6, 7, 8, 9, 10, 11}));  // more than the bound by itself
  EXPECT_EQ(values(parts[2].ids), (Numbers{12, 13, 14}));
  EXPECT_EQ(values(parts[2].starts), (Numbers{0, 1, 3}));
  EXPECT_EQ(values(parts[2].positions), (Numbers{0, 0, 1}));
  EXPECT_FALSE(parts[2].parents.defined());
}

TEST(PackParts, WhatContinuesAnotherStaysWithIt) {
  const TokenIds prompt{1, 2}, other{3, 4}, a{5}, b{6}, c{7};
  // The second prompt's answers come after the third sequence, which stands alone.
  const PackedTokens whole =
      pack(std::vector<PackedSequence>{{prompt, -1}, {a, 0}, {b, 0}, {other, -1}, {c, -1}, {a, 3}, {b, 3}});
  const std::vector<PackedTokens> parts = detail::parts_of(whole, 1);
  ASSERT_EQ(parts.size(), 2u);
  EXPECT_EQ(values(parts[0].ids), (Numbers{1, 2, 5, 6}));
  EXPECT_EQ(values(parts[0].parents), (Numbers{-1, 0, 0}));
  EXPECT_EQ(values(parts[1].ids), (Numbers{3, 4, 7, 5, 6}));
  EXPECT_EQ(values(parts[1].starts), (Numbers{0, 2, 3, 4, 5}));
  EXPECT_EQ(values(parts[1].parents), (Numbers{-1, -1, 0, 0}));
  EXPECT_EQ(values(parts[1].positions), (Numbers{0, 1, 0, 2, 2}));
}

CausalLM small_model() {
  return CausalLM::random(ModelConfig::parse(R"({
    "model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 600})",
                                             "small"),
                          Seed{1}, {}, 0.2);
}

TEST(PackParts, InferenceInPartsGivesTheBitsOfASequenceAlone) {
  const CausalLM model = small_model();
  std::vector<TokenIds> sequences;
  for (std::int64_t s = 0; s < 9; ++s) {
    TokenIds ids;
    for (std::int64_t i = 0; i < 500 - 7 * s; ++i) ids.push_back(static_cast<TokenId>((i * (s + 3) + 11 * s) % 50));
    sequences.push_back(ids);
  }
  const PackedTokens whole = pack(sequences);
  ASSERT_GT(whole.tokens(), 2 * CausalLM::kInferenceTokens);
  const at::NoGradGuard no_grad;
  const at::Tensor all = model.hidden(whole);
  for (std::int64_t s = 0; s < 9; ++s) {
    const std::int64_t begin = whole.starts[s].item<std::int64_t>(), end = whole.starts[s + 1].item<std::int64_t>();
    const at::Tensor alone = model.hidden(pack(std::vector<TokenIds>{sequences[static_cast<std::size_t>(s)]}));
    EXPECT_TRUE(at::equal(all.narrow(0, begin, end - begin), alone)) << s;
  }
}

TEST(PackParts, ABrokenPackIsRefusedAsAWholeOneIs) {
  const CausalLM model = small_model();
  const at::NoGradGuard no_grad;
  PackedTokens broken = pack(std::vector<TokenIds>(6, TokenIds(500, 1)));
  broken.starts[3] = 100000;
  EXPECT_THROW(model.hidden(broken), InputError);
  broken = pack(std::vector<TokenIds>(6, TokenIds(500, 1)));
  broken.parents = at::full({2}, -1, at::kLong);
  EXPECT_THROW(model.hidden(broken), InputError);
  broken = pack(std::vector<TokenIds>(6, TokenIds(500, 1)));
  broken.starts = broken.starts.to(at::kInt);
  EXPECT_THROW(model.hidden(broken), InputError);
  broken = pack(std::vector<TokenIds>(6, TokenIds(500, 1)));
  broken.ids[2999] = 50;
  EXPECT_THROW(model.hidden(broken), InputError);
}

}  // namespace
}  // namespace sao
