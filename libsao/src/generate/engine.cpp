// SPDX-License-Identifier: Apache-2.0
#include "sao/generate/engine.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <new>
#include <optional>
#include <string_view>
#include <utility>

#include "generate/executor.h"
#include "generate/prompt_tree.h"
#include "generate/request.h"
#include "generate/scheduler.h"
#include "sao/base/error.h"
#include "sao/ops/linear.h"
#include "sao/ops/log_probs.h"
#include "sao/ops/sample.h"

namespace sao {
namespace {

void validate(const EngineOptions& options) {
  std::vector<std::string> problems;
  const auto at_least_one = [&](const char* name, std::int64_t value) {
    if (value < 1) problems.push_back(fmt::format("{} is {}, expected at least 1", name, value));
  };
  at_least_one("max_batch", options.max_batch);
  at_least_one("prefill_tokens", options.prefill_tokens);
  at_least_one("cache_bytes", options.cache_bytes);
  if (!problems.empty()) throw InputError(fmt::format("engine options: {}", fmt::join(problems, "; ")));
}

// Runs `work`; memory that ran out becomes a ResourceError that says what to lower.
template <class Work>
auto translating_out_of_memory(const char* where, const char* advice, const Work& work) {
  const auto rethrow = [&] { throw ResourceError(fmt::format("{}: out of memory; {}", where, advice)); };
  try {
    return work();
  } catch (const c10::OutOfMemoryError&) {
    rethrow();
  } catch (const c10::Error& error) {
    // The CPU's allocator has no error type of its own.
    if (std::string_view(error.what_without_backtrace()).find("not enough memory") == std::string_view::npos) throw;
    rethrow();
  } catch (const std::bad_alloc&) {
    rethrow();
  }
  throw InternalError("translating_out_of_memory: unreachable");
}

// Marks the engine as busy, so that a callback cannot start it again, and leaves no half-used cache behind an exception:
// what a broken model wrote there must not meet other sequences.
class Session {
 public:
  Session(bool& busy, std::optional<KvCache>& cache, const char* where) : busy_(busy), cache_(cache) {
    if (busy_) throw InputError(fmt::format("{}: called from a callback of the same engine, expected one call at a time", where));
    busy_ = true;
  }
  ~Session() {
    busy_ = false;
    if (!succeeded_) cache_.reset();
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  void succeed() { succeeded_ = true; }

 private:
  bool& busy_;
  std::optional<KvCache>& cache_;
  bool succeeded_ = false;
};

}  // namespace

struct Engine::Impl {
  CausalLM model;
  ChatTokenizer text;
  EngineOptions options;
  detail::ModelExecutor executor;
  EngineStats stats = {};
  std::optional<KvCache> cache = {};
  bool busy = false;

  Impl(CausalLM model_, ChatTokenizer text_, const EngineOptions& options_)
      : model(std::move(model_)), text(std::move(text_)), options(options_), executor(model) {}

  std::int64_t context() const { return model.config().max_position_embeddings; }

  void check_ids(const char* where, std::size_t request, const char* what, TokenSpan ids) const {
    const std::int64_t vocabulary = model.config().vocab_size;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0 || ids[i] >= vocabulary) {
        throw InputError(fmt::format("{}: request {}: token {} at position {} of the {}, expected 0 to {}", where, request,
                                     ids[i], i, what, vocabulary - 1));
      }
    }
  }

  void check_prompt(const char* where, std::size_t request, const char* what, TokenSpan ids) const {
    if (ids.empty()) {
      throw InputError(fmt::format("{}: request {}: the {} is empty, expected at least one token", where, request, what));
    }
    check_ids(where, request, what, ids);
  }

  void check_length(const char* where, std::size_t request, const char* what, std::size_t tokens, std::int64_t most) const {
    if (static_cast<std::int64_t>(tokens) > most) {
      throw InputError(fmt::format("{}: request {}: {} of {} tokens, expected at most {} in the model's context of {}", where,
                                   request, what, tokens, most, context()));
    }
  }

  detail::SchedulerOptions scheduler_options(TokenIds stop_ids) const {
    return {.max_batch = options.max_batch, .prefill_tokens = options.prefill_tokens, .stop_ids = std::move(stop_ids)};
  }

  // Groups the prompts by what they share, and sees to a cache that holds what is useful within the limit.
  detail::PromptTree prepare(const char* where, const std::vector<detail::ScheduledRequest>& requests,
                             const detail::SchedulerOptions& scheduling) {
    std::vector<TokenSpan> prompts;
    for (const detail::ScheduledRequest& request : requests) prompts.push_back(request.prompt);
    const std::int64_t block_bytes = KvCache::bytes_per_block(model.config(), model.dtype());
    const std::int64_t limit = std::min<std::int64_t>(options.cache_bytes / block_bytes, std::numeric_limits<std::int32_t>::max());
    detail::PromptTree tree = detail::build_prompt_tree(prompts, kKvBlockSize);
    detail::CacheNeed need = detail::cache_need(requests, tree, scheduling);
    if (need.least > limit) {  // sharing costs a part-filled block for each node on the way
      tree = detail::build_prompt_tree(prompts, std::numeric_limits<std::int64_t>::max());
      need = detail::cache_need(requests, tree, scheduling);
    }
    if (need.least > limit) {
      const detail::ScheduledRequest& largest = requests[need.largest];
      throw ResourceError(fmt::format(
          "{}: request {} ({} prompt tokens, up to {} new ones) needs {} bytes of KV cache, expected at most cache_bytes = {}; "
          "raise cache_bytes{}",
          where, need.largest, largest.prompt.size(), largest.max_new_tokens, need.least * block_bytes, options.cache_bytes,
          largest.samples > 0 ? " or lower max_new_tokens" : ""));
    }
    const std::int64_t blocks = std::min(limit, need.useful);
    if (!cache || cache->total_blocks() < blocks) {
      cache.reset();
      translating_out_of_memory(where, "lower cache_bytes", [&] {
        cache.emplace(model.config(), blocks, model.dtype(), model.device());
      });
    }
    return tree;
  }

  at::Tensor run(const char* where, const detail::Plan& plan) {
    at::Tensor logits = translating_out_of_memory(where, "lower prefill_tokens, max_batch or cache_bytes",
                                                  [&] { return executor.run(plan, *cache); });
    ++stats.steps;
    stats.prompt_tokens += plan.prompt_tokens;
    stats.generated_tokens += static_cast<std::int64_t>(plan.draws.size());
    stats.peak_blocks = std::max(stats.peak_blocks, cache->total_blocks() - cache->free_blocks());
    return logits;
  }

  // Log-prob of targets[i] after row rows[i] of `hidden`.
  std::vector<double> response_log_probs(const at::Tensor& hidden, const std::vector<std::int64_t>& rows,
                                         const std::vector<std::int64_t>& targets) const {
    const at::Tensor& weight = model.output_weight();
    const at::Tensor wanted = hidden.index_select(0, at::tensor(rows).to(hidden.device()));
    if (!ops::PackedWeight::supports(weight)) {
      const at::Tensor found = ops::log_probs(wanted, weight, at::tensor(targets).to(hidden.device()),
                                              {.logit_softcap = model.config().final_logit_softcapping})
                                   .to(at::kCPU, at::kDouble);
      return {found.const_data_ptr<double>(), found.const_data_ptr<double>() + found.numel()};
    }
    // Through the model's own packed output matrix: nothing is packed anew, and the numbers are those of a sample.
    const std::int64_t most = std::clamp<std::int64_t>((1 << 25) / model.config().vocab_size, 64, 1024);
    std::vector<double> result;
    std::vector<ops::RowToken> tokens;
    for (std::int64_t begin = 0; begin < wanted.size(0); begin += most) {
      const std::int64_t count = std::min(most, wanted.size(0) - begin);
      tokens.clear();
      for (std::int64_t i = 0; i < count; ++i) {
        tokens.push_back({.row = i, .id = static_cast<TokenId>(targets[static_cast<std::size_t>(begin + i)])});
      }
      const std::vector<double> found = ops::token_log_probs(model.logits(wanted.narrow(0, begin, count)), tokens);
      result.insert(result.end(), found.begin(), found.end());
    }
    return result;
  }

  // One batch of requests [first, last): log-probs of their response tokens in one packed pass.
  void score_batch(std::span<const ScoreRequest> requests, std::size_t first, std::size_t last,
                   std::vector<std::vector<double>>& results) const {
    std::vector<TokenIds> sequences;  // a response's last token predicts nothing
    std::vector<std::int64_t> rows, targets;
    std::int64_t begin = 0;
    for (std::size_t r = first; r < last; ++r) {
      const auto& [prompt, response] = requests[r];
      if (response.empty()) continue;
      TokenIds& ids = sequences.emplace_back(prompt);
      ids.insert(ids.end(), response.begin(), response.end() - 1);
      for (std::size_t i = 0; i < response.size(); ++i) {
        rows.push_back(begin + static_cast<std::int64_t>(prompt.size() + i) - 1);
        targets.push_back(response[i]);
      }
      begin += static_cast<std::int64_t>(ids.size());
    }
    if (sequences.empty()) return;
    const std::vector<double> log_probs = response_log_probs(model.hidden(pack(sequences)), rows, targets);
    auto next = log_probs.begin();
    for (std::size_t r = first; r < last; ++r) {
      const auto end = next + static_cast<std::ptrdiff_t>(requests[r].response_ids.size());
      results[r].assign(next, end);
      next = end;
    }
  }
};

Engine::Engine(CausalLM model, ChatTokenizer text, const EngineOptions& options) {
  validate(options);
  impl_ = std::make_unique<Impl>(std::move(model), std::move(text), options);
}

Engine::~Engine() = default;

const ChatTokenizer& Engine::text() const { return impl_->text; }
std::int64_t Engine::max_tokens() const { return impl_->context(); }
const EngineStats& Engine::stats() const { return impl_->stats; }

void Engine::generate(std::span<const GenerationRequest> requests, const SamplingOptions& sampling,
                      const OnCompletion& on_completion) {
  constexpr const char* kWhere = "generate";
  Impl& impl = *impl_;
  sao::validate(sampling);
  std::vector<detail::ScheduledRequest> scheduled;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    const GenerationRequest& request = requests[r];
    impl.check_prompt(kWhere, r, "prompt", request.prompt_ids);
    impl.check_length(kWhere, r, "a prompt", request.prompt_ids.size(), impl.context() - 1);
    if (request.samples < 1) {
      throw InputError(fmt::format("{}: request {}: {} samples, expected at least 1", kWhere, r, request.samples));
    }
    const std::int64_t room = impl.context() - static_cast<std::int64_t>(request.prompt_ids.size());
    scheduled.push_back({.prompt = request.prompt_ids,
                         .samples = request.samples,
                         .max_new_tokens = std::min(sampling.max_new_tokens, room)});
  }
  if (requests.empty()) return;

  Session session(impl.busy, impl.cache, kWhere);
  const detail::SchedulerOptions scheduling =
      impl.scheduler_options(sampling.ignore_eos ? TokenIds{} : impl.text.stop_ids());
  detail::PromptTree tree = impl.prepare(kWhere, scheduled, scheduling);
  detail::Scheduler scheduler(std::move(scheduled), std::move(tree), *impl.cache, scheduling);
  const ops::SampleOptions sample_options{.temperature = sampling.temperature,
                                          .top_k = sampling.top_k,
                                          .top_p = sampling.top_p,
                                          .min_p = sampling.min_p};
  std::vector<ops::Draw> draws;
  std::vector<ops::Drawn> drawn;
  while (!scheduler.done()) {
    const detail::Plan& plan = scheduler.plan();
    const at::Tensor logits = impl.run(kWhere, plan);
    draws.clear();
    for (const detail::PlannedDraw& draw : plan.draws) {
      const Seed stream = requests[draw.request].seed.fork(static_cast<std::uint64_t>(draw.sample));
      draws.push_back({.row = draw.row, .uniform = uniform(stream, static_cast<std::uint64_t>(draw.position))});
    }
    drawn.resize(draws.size());
    if (!draws.empty()) ops::sample(logits, draws, sample_options, drawn);
    for (detail::Finished& finished : scheduler.commit(drawn)) {
      on_completion(finished.request, finished.sample, std::move(finished.completion));
    }
  }
  session.succeed();
}

std::vector<std::vector<double>> Engine::score(std::span<const ScoreRequest> requests) {
  constexpr const char* kWhere = "score";
  Impl& impl = *impl_;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    impl.check_prompt(kWhere, r, "prompt", requests[r].prompt_ids);
    impl.check_ids(kWhere, r, "response", requests[r].response_ids);
    impl.check_length(kWhere, r, "prompt and response", requests[r].prompt_ids.size() + requests[r].response_ids.size(),
                      impl.context());
  }
  const at::NoGradGuard no_grad;
  std::vector<std::vector<double>> results(requests.size());
  for (std::size_t first = 0; first < requests.size();) {
    std::size_t last = first;
    for (std::int64_t tokens = 0; last < requests.size(); ++last) {
      tokens += static_cast<std::int64_t>(requests[last].prompt_ids.size() + requests[last].response_ids.size());
      if (tokens > impl.options.prefill_tokens && last > first) break;
    }
    translating_out_of_memory(kWhere, "lower prefill_tokens", [&] { impl.score_batch(requests, first, last, results); });
    first = last;
  }
  return results;
}

std::vector<std::vector<double>> Engine::next_token_log_probs(std::span<const NextTokenRequest> requests) {
  constexpr const char* kWhere = "next_token_log_probs";
  Impl& impl = *impl_;
  std::vector<detail::ScheduledRequest> scheduled;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    impl.check_prompt(kWhere, r, "context", requests[r].ids);
    impl.check_ids(kWhere, r, "candidates", requests[r].candidates);
    impl.check_length(kWhere, r, "a context", requests[r].ids.size(), impl.context());
    scheduled.push_back({.prompt = requests[r].ids});
  }
  std::vector<std::vector<double>> results(requests.size());
  if (requests.empty()) return results;

  Session session(impl.busy, impl.cache, kWhere);
  const detail::SchedulerOptions scheduling = impl.scheduler_options({});
  detail::PromptTree tree = impl.prepare(kWhere, scheduled, scheduling);
  detail::Scheduler scheduler(std::move(scheduled), std::move(tree), *impl.cache, scheduling);
  std::vector<ops::RowToken> candidates;
  while (!scheduler.done()) {
    const detail::Plan& plan = scheduler.plan();
    const at::Tensor logits = impl.run(kWhere, plan);
    for (const detail::PlannedRead& read : plan.reads) {
      candidates.clear();
      for (const TokenId id : requests[read.request].candidates) candidates.push_back({.row = read.row, .id = id});
      results[read.request] = ops::token_log_probs(logits, candidates);
    }
    scheduler.commit({});
  }
  session.succeed();
  return results;
}

}  // namespace sao
