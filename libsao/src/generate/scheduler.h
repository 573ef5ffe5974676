// SPDX-License-Identifier: Apache-2.0
// Continuous batching: decides step by step which prompts and samples run, so that the cache's memory always suffices.
//   while (!scheduler.done()) {
//     const Plan& plan = scheduler.plan();
//     ... run it, draw one token for each of plan.draws ...
//     for (Finished& sample : scheduler.commit(drawn)) ...
//   }
// A device that computes beside the host is kept busy by planning the next step before the tokens of this one are known
// (plan_ahead): it continues the samples by tokens that are still being drawn. Whether a sample ends with such a token
// is found out too late; what the next step draws for it is dropped then.
//
// Prompts form a tree (prompt_tree.h). A node is computed in chunks, beside the decoding of running samples; what hangs
// below it (child nodes, samples) then forks its sequence, the last one takes it over. Nodes start depth first.
//
// Memory is reserved ahead. A node reserves its own blocks and an allowance: what the costliest thing below it will
// need. One thing below at a time rides on the allowance; others start beside it only when their needs can be reserved
// on top. So whatever has started can finish, in turn if need be, and no step ever finds the cache full.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "generate/plan.h"
#include "generate/prompt_tree.h"
#include "generate/request.h"
#include "sao/generate/generator.h"
#include "sao/model/kv_cache.h"
#include "sao/ops/sample.h"

namespace sao::detail {

struct SchedulerOptions {
  std::int64_t max_batch = 64;
  std::int64_t prefill_tokens = 2048;
  TokenIds stop_ids = {};
};

/// Blocks of the cache that requests take.
struct CacheNeed {
  std::int64_t least = 0;   ///< so that all can be served, one after the other
  std::int64_t useful = 0;  ///< more would not let more run at one time
  std::size_t largest = 0;  ///< a request whose prompt is part of what `least` counts
};
CacheNeed cache_need(std::span<const ScheduledRequest> requests, const PromptTree& tree,
                     const SchedulerOptions& options);
/// The same of `count` requests that are alike and share nothing; one with 0 samples is read only.
CacheNeed cache_need_of_equal(std::int64_t count, std::int64_t samples, std::int64_t prompt_tokens,
                              std::int64_t new_tokens, const SchedulerOptions& options);

struct Finished {
  std::size_t request = 0;
  std::int64_t sample = 0;
  Completion completion = {};
};

class Scheduler {
 public:
  /// The cache must have cache_need().least blocks free. Requests' prompts must outlive the scheduler.
  Scheduler(std::vector<ScheduledRequest> requests, PromptTree tree, KvCache& cache, SchedulerOptions options);
  /// Releases whatever sequences it still holds.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  bool done() const;
  /// What to run next; valid until it is committed. No other plan may be waiting for that.
  const Plan& plan();
  /// What to run after the one plan that waits to be committed; null where that must be known first. Its tokens must be
  /// in the cache (KvCache::plan) before the one before it is committed.
  const Plan* plan_ahead();
  /// Takes the tokens drawn for the draws of the plan that has waited longest, in order, and gives the samples that
  /// ended; valid until the next call.
  std::vector<Finished>& commit(std::span<const ops::Drawn> drawn);

  /// Every violated invariant as a sentence; empty when sound.
  std::vector<std::string> check() const;

 private:
  struct Node {
    KvCache::SequenceId sequence = -1;  // -1: not started, or handed on
    std::int64_t done = 0;              // tokens computed, of this node's own
    std::int64_t unstarted = 0;         // things below that have not started
    std::int64_t outstanding = 0;       // things below that have not finished
    std::int64_t need = 0;              // blocks: own and allowance
    std::int64_t charged = 0;           // blocks reserved for it; 0 when it rides on its parent's allowance
    bool allowance_taken = false;
    bool rides = false;
  };
  struct Sample {
    std::size_t request = 0;
    std::size_t node = 0;
    std::int64_t index = 0;
    KvCache::SequenceId sequence = -1;
    std::int64_t charged = 0;
    bool rides = false;
    Completion completion = {};
    std::int64_t coming = 0;  // its draws in plans under way
    std::size_t draw = 0;     // the last of them: its place in the plan

    std::int64_t position() const { return static_cast<std::int64_t>(completion.ids.size()) + coming; }
  };
  struct PlanUnderWay {
    Plan plan = {};
    std::size_t decodes = 0;                  // draws of running samples, before those for completed nodes
    std::vector<std::size_t> completed = {};  // nodes whose last tokens it computes, in the order of their draws
  };

  // Reserves `need` blocks for something below `node` (kNone: a root): on its allowance or on top.
  bool reserve(std::size_t node, std::int64_t need, std::int64_t& charged, bool& rides);
  void unreserve(std::size_t node, std::int64_t charged, bool rides);
  KvCache::SequenceId inherit(std::size_t node);
  void finish(std::size_t node);
  void finish_below(std::size_t node);
  bool take(Sample& sample, const ops::Drawn& drawn);
  bool start(Sample& sample);
  bool start(std::size_t node);
  PlanUnderWay& plan_under_way(std::size_t i) { return plans_[(oldest_ + i) % plans_.size()]; }
  void make_plan(PlanUnderWay& to);
  void plan_decode(Sample& sample, Plan& plan);
  std::int64_t plan_prefill(std::size_t node, std::int64_t budget, PlanUnderWay& to);
  bool room_for_more_samples() const;

  std::vector<ScheduledRequest> requests_;
  PromptTree tree_;
  KvCache& cache_;
  SchedulerOptions options_;
  std::vector<Node> nodes_;
  std::vector<std::vector<std::size_t>> readers_;  // of each node: requests that read some of its tokens' rows
  std::int64_t reserved_ = 0;

  std::vector<std::size_t> unstarted_;          // nodes to start; a stack
  std::size_t prefilling_ = PromptNode::kNone;  // a node that the last plan computed in part
  std::vector<Sample> waiting_;                 // have their first token
  std::vector<Sample> running_;
  std::int64_t coming_ = 0;  // samples of nodes that are being computed

  std::array<PlanUnderWay, 2> plans_;  // in turn
  std::size_t oldest_ = 0, plan_count_ = 0;
  std::vector<std::pair<std::int64_t, std::size_t>> wanted_;  // scratch of plan_prefill: position, request
  std::vector<Finished> finished_;
};

/// Runs all of a scheduler's plans, with `ahead` each as soon as the one before it has started: `start(plan, before)`
/// starts one and gives a Step, `before` being the step whose draws the plan may name, null where it names none;
/// `finish(plan, step)` waits for its draws and commits them. Where a start fails, the step before is finished first.
template <class Step, class Start, class Finish>
void run_steps(Scheduler& scheduler, bool ahead, const Start& start, const Finish& finish) {
  struct UnderWay {
    const Plan* plan;
    Step step;
  };
  std::optional<UnderWay> now, next;
  while (now || !scheduler.done()) {
    if (!now) {
      const Plan& plan = scheduler.plan();
      now.emplace(&plan, start(plan, static_cast<const Step*>(nullptr)));
    }
    std::exception_ptr problem;
    try {
      const Plan* plan = ahead ? scheduler.plan_ahead() : nullptr;
      if (plan != nullptr) next.emplace(plan, start(*plan, &now->step));
    } catch (...) {
      problem = std::current_exception();
    }
    finish(*now->plan, now->step);
    if (problem) std::rethrow_exception(problem);
    now = std::exchange(next, std::nullopt);
  }
}

}  // namespace sao::detail
