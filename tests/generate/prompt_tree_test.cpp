// SPDX-License-Identifier: Apache-2.0
#include "generate/prompt_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "sao/base/seed.h"

namespace sao::detail {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

PromptTree build(const std::vector<TokenIds>& prompts, std::int64_t least_shared) {
  const std::vector<TokenSpan> spans(prompts.begin(), prompts.end());
  return build_prompt_tree(spans, least_shared);
}

TEST(PromptTree, SharesInstructionsAndThePromptOfBothOrders) {
  // Two judge prompts, each in both orders, behind the same instructions.
  const TokenIds instructions{9, 8, 7, 6};
  const auto prompt = [&](const TokenIds& tail) {
    TokenIds ids = instructions;
    ids.insert(ids.end(), tail.begin(), tail.end());
    return ids;
  };
  const PromptTree tree = build(
      {prompt({1, 2, 3, 30, 31}), prompt({4, 4, 4, 50, 51}), prompt({1, 2, 3, 31, 30}), prompt({4, 4, 4, 51, 50})}, 3);
  ASSERT_EQ(tree.roots.size(), 1u);
  const PromptNode& root = tree.nodes[tree.roots[0]];
  EXPECT_EQ(root.end, 4);
  EXPECT_THAT(root.prompts, IsEmpty());
  ASSERT_EQ(root.children.size(), 2u);
  const PromptNode& first = tree.nodes[root.children[0]];
  EXPECT_EQ(first.begin, 4);
  EXPECT_EQ(first.end, 7);
  ASSERT_EQ(first.children.size(), 2u);
  EXPECT_THAT(tree.nodes[first.children[0]].prompts, ElementsAre(0));
  EXPECT_THAT(tree.nodes[first.children[1]].prompts, ElementsAre(2));
  const PromptNode& second = tree.nodes[root.children[1]];
  EXPECT_THAT(tree.nodes[second.children[0]].prompts, ElementsAre(1));
  EXPECT_EQ(tree.nodes.size(), 7u);
}

TEST(PromptTree, LeavesShortAgreementUnshared) {
  const PromptTree tree = build({{1, 2, 3}, {1, 2, 4}}, 3);
  EXPECT_EQ(tree.nodes.size(), 2u);
  EXPECT_EQ(tree.roots.size(), 2u);
  EXPECT_THAT(build({}, 1).nodes, IsEmpty());
}

TEST(PromptTree, EqualPromptsAreOneNode) {
  const PromptTree tree = build({{5}, {1, 2}, {5}, {5, 6}}, 100);
  ASSERT_EQ(tree.roots.size(), 3u);
  EXPECT_THAT(tree.nodes[tree.roots[0]].prompts, ElementsAre(0, 2));  // first by the first prompt
  EXPECT_THAT(tree.nodes[tree.roots[1]].prompts, ElementsAre(1));
  EXPECT_THAT(tree.nodes[tree.roots[2]].prompts, ElementsAre(3));
}

// Every prompt is spelled by exactly one path; nodes other than leaves save what they must.
TEST(PromptTree, SpellsEveryPromptOnce) {
  const Seed seed{3};
  std::uint64_t draws = 0;
  const auto below = [&](std::uint64_t n) { return static_cast<std::int64_t>(uniform_below(seed, draws++, n)); };
  for (int trial = 0; trial < 400; ++trial) {
    std::vector<TokenIds> prompts;
    for (std::int64_t i = 1 + below(12); i > 0; --i) {
      TokenIds ids;
      if (!prompts.empty() && below(3) > 0) {  // continues another
        const TokenIds& other = prompts[static_cast<std::size_t>(below(prompts.size()))];
        ids.assign(other.begin(), other.begin() + below(other.size() + 1));
      }
      for (std::int64_t more = below(6); more > 0; --more) ids.push_back(static_cast<TokenId>(below(2)));
      if (ids.empty()) ids.push_back(1);
      prompts.push_back(ids);
    }
    const std::int64_t least = 1 + below(5);
    const PromptTree tree = build(prompts, least);
    std::vector<int> spelled(prompts.size(), 0);
    std::int64_t tokens = 0;
    for (std::size_t n = 0; n < tree.nodes.size(); ++n) {
      const PromptNode& node = tree.nodes[n];
      const bool root = node.parent == PromptNode::kNone;
      tokens += node.end - node.begin;
      ASSERT_LT(node.begin, node.end);
      ASSERT_EQ(node.begin, root ? 0 : tree.nodes[node.parent].end);
      ASSERT_TRUE(root || node.parent < n);
      ASSERT_FALSE(node.prompts.empty() && node.children.size() < 2) << "a node that nothing needs";
      ASSERT_TRUE(node.children.empty() || node.end - node.begin >= least);
      for (const std::size_t child : node.children) ASSERT_EQ(tree.nodes[child].parent, n);
      for (const std::size_t prompt : node.prompts) {
        ++spelled[prompt];
        TokenIds path;
        for (std::size_t at = n; at != PromptNode::kNone; at = tree.nodes[at].parent) {
          const PromptNode& part = tree.nodes[at];
          const TokenIds& source = prompts[part.source];
          path.insert(path.begin(), source.begin() + part.begin, source.begin() + part.end);
        }
        ASSERT_EQ(path, prompts[prompt]);
      }
    }
    ASSERT_TRUE(std::all_of(spelled.begin(), spelled.end(), [](int times) { return times == 1; }));
    if (least == 1) {  // then no prefix is computed twice
      std::set<TokenIds> prefixes;
      for (const TokenIds& prompt : prompts) {
        for (std::size_t end = 1; end <= prompt.size(); ++end)
          prefixes.insert(TokenIds(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(end)));
      }
      ASSERT_EQ(tokens, static_cast<std::int64_t>(prefixes.size()));
    }
  }
}

}  // namespace
}  // namespace sao::detail
