// SPDX-License-Identifier: Apache-2.0
#include "generate/prompt_tree.h"

#include <algorithm>
#include <numeric>

#include "sao/base/error.h"

namespace sao::detail {
namespace {

std::int64_t common_prefix(TokenSpan a, TokenSpan b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

// Sorted prompts [first, last) that agree on their first `begin` tokens, which `parent` and the nodes above it hold.
struct Range {
  std::size_t first, last, parent;
  std::int64_t begin;
};

}  // namespace

PromptTree build_prompt_tree(std::span<const TokenSpan> prompts, std::int64_t least_shared) {
  std::vector<std::size_t> order(prompts.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const auto way = std::lexicographical_compare_three_way(prompts[a].begin(), prompts[a].end(), prompts[b].begin(),
                                                            prompts[b].end());
    return way != 0 ? way < 0 : a < b;
  });

  PromptTree tree;
  const auto add_node = [&](std::size_t parent, std::size_t source, std::int64_t begin, std::int64_t end) {
    tree.nodes.push_back({.parent = parent, .source = source, .begin = begin, .end = end});
    return tree.nodes.size() - 1;
  };
  std::vector<Range> todo;
  if (!prompts.empty()) todo.push_back({0, prompts.size(), PromptNode::kNone, 0});
  while (!todo.empty()) {
    auto [first, last, parent, begin] = todo.back();
    todo.pop_back();
    // Of sorted prompts, the first and the last agree on least.
    const std::int64_t common = common_prefix(prompts[order[first]], prompts[order[last - 1]]);
    std::size_t ends = first;  // those that end where the agreement does come first
    while (ends < last && static_cast<std::int64_t>(prompts[order[ends]].size()) == common) ++ends;
    if (ends == last || common - begin >= least_shared) {
      parent = add_node(parent, order[first], begin, common);
      begin = common;
      tree.nodes[parent].prompts.assign(order.begin() + static_cast<std::ptrdiff_t>(first),
                                        order.begin() + static_cast<std::ptrdiff_t>(ends));
    } else if (ends > first) {
      const std::size_t leaf = add_node(parent, order[first], begin, common);
      tree.nodes[leaf].prompts.assign(order.begin() + static_cast<std::ptrdiff_t>(first),
                                      order.begin() + static_cast<std::ptrdiff_t>(ends));
    }
    for (std::size_t group = ends; group < last;) {
      const auto next_token = [&](std::size_t i) { return prompts[order[i]][static_cast<std::size_t>(common)]; };
      std::size_t end = group + 1;
      while (end < last && next_token(end) == next_token(group)) ++end;
      todo.push_back({group, end, parent, begin});
      group = end;
    }
  }

  // Near the order of the prompts: by the first one at or below each node.
  std::vector<std::size_t> first_below(tree.nodes.size(), PromptNode::kNone);
  for (std::size_t n = tree.nodes.size(); n-- > 0;) {
    PromptNode& node = tree.nodes[n];
    SAO_CHECK(node.begin < node.end);
    for (const std::size_t prompt : node.prompts) first_below[n] = std::min(first_below[n], prompt);
    if (node.parent != PromptNode::kNone) first_below[node.parent] = std::min(first_below[node.parent], first_below[n]);
  }
  for (std::size_t n = 0; n < tree.nodes.size(); ++n) {
    const std::size_t parent = tree.nodes[n].parent;
    (parent == PromptNode::kNone ? tree.roots : tree.nodes[parent].children).push_back(n);
  }
  const auto earlier = [&](std::size_t a, std::size_t b) { return first_below[a] < first_below[b]; };
  std::sort(tree.roots.begin(), tree.roots.end(), earlier);
  for (PromptNode& node : tree.nodes) std::sort(node.children.begin(), node.children.end(), earlier);
  return tree;
}

}  // namespace sao::detail
