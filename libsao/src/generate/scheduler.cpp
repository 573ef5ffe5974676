// SPDX-License-Identifier: Apache-2.0
#include "generate/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "sao/base/error.h"

namespace sao::detail {
namespace {

constexpr std::size_t kNone = PromptNode::kNone;

std::int64_t length_of(const ScheduledRequest& request) { return static_cast<std::int64_t>(request.prompt.size()); }

// Blocks that a node takes beside those it shares with its parent; a part-filled block is copied, not shared.
std::int64_t own_blocks(const PromptNode& node) { return KvCache::blocks_for(node.end) - node.begin / kKvBlockSize; }

// The same of a sample; its last token is never computed. `alone`: nothing else hangs below the node, so that the
// sample takes over the part-filled block instead of copying it.
std::int64_t sample_blocks(const ScheduledRequest& request, bool alone) {
  if (request.max_new_tokens < 2) return 0;
  const std::int64_t prompt = length_of(request);
  const std::int64_t shared = alone ? KvCache::blocks_for(prompt) : prompt / kKvBlockSize;
  return KvCache::blocks_for(prompt + request.max_new_tokens - 1) - shared;
}

std::int64_t samples_of(std::span<const ScheduledRequest> requests, const PromptNode& node) {
  std::int64_t samples = 0;
  for (const std::size_t prompt : node.prompts) samples += requests[prompt].samples;
  return samples;
}

bool alone_below(std::span<const ScheduledRequest> requests, const PromptNode& node) {
  return node.children.empty() && samples_of(requests, node) == 1;
}

// Own blocks and allowance of every node.
std::vector<std::int64_t> node_needs(std::span<const ScheduledRequest> requests, const PromptTree& tree) {
  std::vector<std::int64_t> needs(tree.nodes.size(), 0);
  for (std::size_t n = tree.nodes.size(); n-- > 0;) {  // children stand behind their parents
    const PromptNode& node = tree.nodes[n];
    std::int64_t allowance = needs[n];  // of the children
    for (const std::size_t prompt : node.prompts) {
      if (requests[prompt].samples == 0) continue;
      allowance = std::max(allowance, sample_blocks(requests[prompt], alone_below(requests, node)));
    }
    needs[n] = own_blocks(node) + allowance;
    if (node.parent != kNone) needs[node.parent] = std::max(needs[node.parent], needs[n]);
  }
  return needs;
}

// Blocks above which no more would run at one time; `all` is what every request needs together.
std::int64_t useful_blocks(std::int64_t least, std::int64_t all, bool samples, const SchedulerOptions& options) {
  // What is only read goes as soon as it is computed; some room lets a step begin several prompts that share a part.
  constexpr std::int64_t kReadAtOnce = 4;
  const std::int64_t at_once = samples ? options.max_batch : std::min(options.max_batch, kReadAtOnce);
  // What is being computed beside the running samples, a part-filled block for each of many short prompts included.
  const std::int64_t prefill = 2 * KvCache::blocks_for(options.prefill_tokens) + 64;
  return std::max(least, std::min(all, at_once * least + prefill));
}

}  // namespace

CacheNeed cache_need(std::span<const ScheduledRequest> requests, const PromptTree& tree,
                     const SchedulerOptions& options) {
  const std::vector<std::int64_t> needs = node_needs(requests, tree);
  CacheNeed result;
  for (const std::size_t root : tree.roots) {
    if (needs[root] > result.least) {
      result.least = needs[root];
      result.largest = tree.nodes[root].source;
    }
  }
  std::int64_t all = 0;
  bool samples = false;
  for (const PromptNode& node : tree.nodes) {
    all += own_blocks(node);
    for (const std::size_t prompt : node.prompts) {
      all += requests[prompt].samples * sample_blocks(requests[prompt], false);
      samples = samples || requests[prompt].samples > 0;
    }
  }
  result.useful = useful_blocks(result.least, all, samples, options);
  return result;
}

CacheNeed cache_need_of_equal(std::int64_t count, std::int64_t samples, std::int64_t prompt_tokens,
                              std::int64_t new_tokens, const SchedulerOptions& options) {
  const TokenIds tokens(static_cast<std::size_t>(prompt_tokens), 0);
  const ScheduledRequest request{.prompt = tokens, .samples = samples, .max_new_tokens = new_tokens};
  const TokenSpan prompt = tokens;
  CacheNeed result = cache_need({&request, 1}, build_prompt_tree({&prompt, 1}, kKvBlockSize), options);
  const std::int64_t all = KvCache::blocks_for(prompt_tokens) + samples * sample_blocks(request, false);
  result.useful = useful_blocks(result.least, count * all, samples > 0, options);
  return result;
}

Scheduler::Scheduler(std::vector<ScheduledRequest> requests, PromptTree tree, KvCache& cache, SchedulerOptions options)
    : requests_(std::move(requests)), tree_(std::move(tree)), cache_(cache), options_(std::move(options)) {
  const std::vector<std::int64_t> needs = node_needs(requests_, tree_);
  nodes_.resize(tree_.nodes.size());
  for (std::size_t n = 0; n < nodes_.size(); ++n) nodes_[n].need = needs[n];
  for (const std::size_t root : tree_.roots) SAO_CHECK(needs[root] <= cache_.free_blocks());
  unstarted_.assign(tree_.roots.rbegin(), tree_.roots.rend());
  readers_.resize(tree_.nodes.size());
  for (std::size_t n = 0; n < tree_.nodes.size(); ++n) {
    for (const std::size_t prompt : tree_.nodes[n].prompts) {
      const std::int64_t first = length_of(requests_[prompt]) - requests_[prompt].reads;
      for (std::size_t at = n; at != kNone && tree_.nodes[at].end > first; at = tree_.nodes[at].parent)
        readers_[at].push_back(prompt);
    }
  }
}

Scheduler::~Scheduler() {
  for (const Node& node : nodes_) {
    if (node.sequence >= 0) cache_.release(node.sequence);
  }
  for (const Sample& sample : running_) cache_.release(sample.sequence);
}

bool Scheduler::done() const {
  return unstarted_.empty() && prefilling_ == kNone && waiting_.empty() && running_.empty() && plan_count_ == 0;
}

bool Scheduler::reserve(std::size_t node, std::int64_t need, std::int64_t& charged, bool& rides) {
  if (node != kNone && !nodes_[node].allowance_taken) {
    nodes_[node].allowance_taken = rides = true;
    return true;
  }
  if (reserved_ + need > cache_.total_blocks()) return false;
  reserved_ += charged = need;
  return true;
}

void Scheduler::unreserve(std::size_t node, std::int64_t charged, bool rides) {
  if (rides) nodes_[node].allowance_taken = false;
  reserved_ -= charged;
}

// A sequence that holds what `node` and those above it hold. The last to come takes the node's own.
KvCache::SequenceId Scheduler::inherit(std::size_t node) {
  if (--nodes_[node].unstarted > 0) return cache_.fork(nodes_[node].sequence);
  return std::exchange(nodes_[node].sequence, -1);
}

void Scheduler::finish(std::size_t node) {
  Node& state = nodes_[node];
  if (state.sequence >= 0) cache_.release(std::exchange(state.sequence, -1));
  const std::size_t parent = tree_.nodes[node].parent;
  unreserve(parent, std::exchange(state.charged, 0), std::exchange(state.rides, false));
  if (parent != kNone) finish_below(parent);
}

void Scheduler::finish_below(std::size_t node) {
  if (--nodes_[node].outstanding == 0) finish(node);
}

// Adds a token; true when it is the sample's last.
bool Scheduler::take(Sample& sample, const ops::Drawn& drawn) {
  Completion& completion = sample.completion;
  completion.ids.push_back(drawn.id);
  completion.log_prob += drawn.log_prob;
  if (std::binary_search(options_.stop_ids.begin(), options_.stop_ids.end(), drawn.id)) {
    completion.finish_reason = FinishReason::kStop;
    return true;
  }
  completion.finish_reason = FinishReason::kLength;
  return static_cast<std::int64_t>(completion.ids.size()) >= requests_[sample.request].max_new_tokens;
}

bool Scheduler::start(Sample& sample) {
  const bool alone = alone_below(requests_, tree_.nodes[sample.node]);
  if (!reserve(sample.node, sample_blocks(requests_[sample.request], alone), sample.charged, sample.rides))
    return false;
  sample.sequence = inherit(sample.node);
  return true;
}

bool Scheduler::start(std::size_t node) {
  Node& state = nodes_[node];
  const std::size_t parent = tree_.nodes[node].parent;
  if (!reserve(parent, state.need, state.charged, state.rides)) return false;
  state.sequence = parent == kNone ? cache_.create() : inherit(parent);
  coming_ += samples_of(requests_, tree_.nodes[node]);
  return true;
}

void Scheduler::plan_decode(Sample& sample, Plan& plan) {
  const std::int64_t row = static_cast<std::int64_t>(plan.rows.size());
  plan.rows.push_back(static_cast<std::int64_t>(plan.ids.size()));
  plan.sequences.push_back(sample.sequence);
  plan.counts.push_back(1);
  plan.ids.push_back(sample.coming > 0 ? 0 : sample.completion.ids.back());
  plan.drawn.push_back(sample.coming > 0 ? static_cast<std::int64_t>(sample.draw) : -1);
  sample.draw = plan.draws.size();
  plan.draws.push_back({row, sample.request, sample.index, sample.position()});
  ++sample.coming;
}

// Plans up to `budget` of the node's tokens and returns how many.
std::int64_t Scheduler::plan_prefill(std::size_t node, std::int64_t budget, PlanUnderWay& to) {
  Plan& plan = to.plan;
  const PromptNode& what = tree_.nodes[node];
  Node& state = nodes_[node];
  const std::int64_t first = what.begin + state.done, count = std::min(budget, what.end - first);
  const TokenSpan tokens =
      requests_[what.source].prompt.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
  plan.sequences.push_back(state.sequence);
  plan.counts.push_back(count);
  plan.ids.insert(plan.ids.end(), tokens.begin(), tokens.end());
  plan.drawn.resize(plan.ids.size(), -1);
  plan.prompt_tokens += count;
  state.done += count;

  wanted_.clear();
  for (const std::size_t request : readers_[node]) {
    const std::int64_t end = length_of(requests_[request]);
    const std::int64_t last = std::min(first + count, end);
    for (std::int64_t at = std::max(first, end - requests_[request].reads); at < last; ++at)
      wanted_.emplace_back(at, request);
  }
  std::sort(wanted_.begin(), wanted_.end());
  const std::int64_t before =
      static_cast<std::int64_t>(plan.ids.size()) - count - first;  // a token's place less its position
  const auto row_of = [&](std::int64_t position) {
    if (plan.rows.empty() || plan.rows.back() != before + position) plan.rows.push_back(before + position);
    return static_cast<std::int64_t>(plan.rows.size()) - 1;
  };
  for (const auto& [position, request] : wanted_) plan.reads.push_back({row_of(position), request, position});

  if (first + count < what.end) {
    prefilling_ = node;
    return count;
  }
  to.completed.push_back(node);
  const std::int64_t samples = samples_of(requests_, what);
  coming_ -= samples;
  if (samples == 0) return count;
  const std::int64_t row = row_of(what.end - 1);
  for (const std::size_t prompt : what.prompts) {
    for (std::int64_t k = 0; k < requests_[prompt].samples; ++k) plan.draws.push_back({row, prompt, k, 0});
  }
  return count;
}

bool Scheduler::room_for_more_samples() const {
  std::int64_t ahead = static_cast<std::int64_t>(waiting_.size() + running_.size()) + coming_;
  if (plan_count_ > 0) {
    for (const std::size_t node : plans_[oldest_].completed) ahead += samples_of(requests_, tree_.nodes[node]);
  }
  return ahead < options_.max_batch;
}

const Plan& Scheduler::plan() {
  SAO_CHECK(plan_count_ == 0);
  PlanUnderWay& next = plan_under_way(0);
  make_plan(next);
  SAO_CHECK(!next.plan.sequences.empty());
  plan_count_ = 1;
  return next.plan;
}

const Plan* Scheduler::plan_ahead() {
  SAO_CHECK(plan_count_ == 1);
  PlanUnderWay& next = plan_under_way(1);
  make_plan(next);
  if (next.plan.sequences.empty()) return nullptr;
  plan_count_ = 2;
  return &next.plan;
}

void Scheduler::make_plan(PlanUnderWay& to) {
  to.plan.clear();
  to.completed.clear();
  for (Sample& sample : running_) {
    if (sample.position() < requests_[sample.request].max_new_tokens) plan_decode(sample, to.plan);
  }

  std::size_t kept = 0;
  for (std::size_t i = 0; i < waiting_.size(); ++i) {
    if (static_cast<std::int64_t>(running_.size()) < options_.max_batch && start(waiting_[i])) {
      plan_decode(waiting_[i], to.plan);
      running_.push_back(std::move(waiting_[i]));
    } else {
      if (kept != i) waiting_[kept] = std::move(waiting_[i]);
      ++kept;
    }
  }
  waiting_.resize(kept);
  to.decodes = to.plan.draws.size();

  std::int64_t budget = options_.prefill_tokens;
  if (prefilling_ != kNone) budget -= plan_prefill(std::exchange(prefilling_, kNone), budget, to);
  while (budget > 0 && !unstarted_.empty() && room_for_more_samples()) {
    const std::size_t node = unstarted_.back();
    if (!start(node)) break;  // the stack keeps its order: what is above must be finished first
    unstarted_.pop_back();
    budget -= plan_prefill(node, budget, to);
  }
}

std::vector<Finished>& Scheduler::commit(std::span<const ops::Drawn> drawn) {
  SAO_CHECK(plan_count_ > 0 && drawn.size() == plan_under_way(0).plan.draws.size());
  const PlanUnderWay& done = plan_under_way(0);
  finished_.clear();
  const auto finish_sample = [&](Sample& sample) {
    finished_.push_back({sample.request, sample.index, std::move(sample.completion)});
  };
  // The plan's samples are the first that run, those that ended since left out; the next plan may have added others.
  std::size_t next = 0, kept = 0;
  const auto skip_dropped = [&] {
    while (next < done.decodes && done.plan.draws[next].dropped) ++next;
  };
  skip_dropped();
  for (std::size_t i = 0; i < running_.size(); ++i) {
    Sample& sample = running_[i];
    bool ended = false;
    if (next < done.decodes) {
      --sample.coming;
      ended = take(sample, drawn[next++]);
      skip_dropped();
    }
    if (ended) {
      if (sample.coming > 0) plan_under_way(1).plan.draws[sample.draw].dropped = true;
      finish_sample(sample);
      cache_.release(sample.sequence);
      unreserve(sample.node, sample.charged, sample.rides);
      finish_below(sample.node);
    } else {
      if (kept != i) running_[kept] = std::move(sample);
      ++kept;
    }
  }
  running_.resize(kept);
  SAO_CHECK(next == done.decodes);

  for (const std::size_t node : done.completed) {
    const PromptNode& what = tree_.nodes[node];
    Node& state = nodes_[node];
    state.unstarted = state.outstanding = static_cast<std::int64_t>(what.children.size());
    unstarted_.insert(unstarted_.end(), what.children.rbegin(), what.children.rend());
    for (const std::size_t prompt : what.prompts) {
      for (std::int64_t k = 0; k < requests_[prompt].samples; ++k) {
        Sample sample{.request = prompt, .node = node, .index = k};
        if (take(sample, drawn[next++])) {
          finish_sample(sample);
        } else {
          waiting_.push_back(std::move(sample));
          ++state.unstarted;
          ++state.outstanding;
        }
      }
    }
    if (state.outstanding == 0) finish(node);
  }
  oldest_ = (oldest_ + 1) % plans_.size();
  --plan_count_;
  return finished_;
}

std::vector<std::string> Scheduler::check() const {
  std::vector<std::string> problems;
  std::int64_t charged = 0;
  for (std::size_t n = 0; n < nodes_.size(); ++n) {
    const Node& node = nodes_[n];
    charged += node.charged;
    if (node.sequence >= 0 && node.charged == 0 && !node.rides) {
      problems.push_back(fmt::format("node {} holds a sequence without a reservation", n));
    }
    if (node.outstanding < node.unstarted) {
      problems.push_back(fmt::format("node {}: {} unstarted of {} outstanding", n, node.unstarted, node.outstanding));
    }
  }
  for (const Sample& sample : running_) charged += sample.charged;
  if (charged != reserved_) problems.push_back(fmt::format("{} blocks reserved, {} charged", reserved_, charged));
  const std::int64_t used = cache_.total_blocks() - cache_.free_blocks();
  if (used > reserved_) problems.push_back(fmt::format("{} blocks in use, {} reserved", used, reserved_));
  if (static_cast<std::int64_t>(running_.size()) > options_.max_batch) {
    problems.push_back(fmt::format("{} samples run, expected at most {}", running_.size(), options_.max_batch));
  }
  return problems;
}

}  // namespace sao::detail
