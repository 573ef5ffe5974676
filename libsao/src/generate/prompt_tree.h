// SPDX-License-Identifier: Apache-2.0
// What a set of prompts has in common: a tree whose nodes are runs of tokens, so that each is computed once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "sao/base/tokens.h"

namespace sao::detail {

/// Tokens [begin, end) of prompt `source`, and of every prompt at or below this node.
struct PromptNode {
  static constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

  std::size_t parent = kNone;  ///< stands before this node in the list
  std::size_t source = 0;
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::vector<std::size_t> prompts = {};   ///< those that end here; equal prompts share a node
  std::vector<std::size_t> children = {};  ///< by the first prompt below each
};

struct PromptTree {
  std::vector<PromptNode> nodes = {};
  std::vector<std::size_t> roots = {};  ///< by the first prompt below each
};

/// A prompt's tokens are those of its node and of the nodes above it. Prompts share a node only where that saves at
/// least `least_shared` tokens each, or where they are equal. No prompt may be empty.
PromptTree build_prompt_tree(std::span<const TokenSpan> prompts, std::int64_t least_shared);

}  // namespace sao::detail
