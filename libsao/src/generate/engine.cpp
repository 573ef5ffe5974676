// SPDX-License-Identifier: Apache-2.0
#include "sao/generate/engine.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <optional>
#include <string_view>
#include <utility>

#include "generate/executor.h"
#include "generate/memory.h"
#include "generate/prompt_tree.h"
#include "generate/request.h"
#include "generate/scheduler.h"
#include "sao/base/error.h"
#include "sao/ops/linear.h"
#include "sao/ops/log_probs.h"
#include "sao/ops/sample.h"

namespace sao {
namespace {

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

// Marks the engine as busy, so that a callback cannot start it again, and leaves no half-used cache behind an
// exception: what a broken model wrote there must not meet other sequences.
class Session {
 public:
  Session(bool& busy, std::optional<KvCache>& cache, const char* where) : busy_(busy), cache_(cache) {
    if (busy_)
      throw InputError(
          fmt::format("{}: called from a callback of the same engine, expected one call at a time", where));
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

// NaN and infinities come from weights that hold some, or from a dtype that overflows; not every product refuses them.
std::vector<std::vector<double>> finite(const char* where, std::vector<std::vector<double>> results) {
  for (std::size_t r = 0; r < results.size(); ++r) {
    for (const double log_prob : results[r]) {
      if (std::isfinite(log_prob)) continue;
      throw InputError(
          fmt::format("{}: request {}: a log-probability is {}, expected numbers; the model's weights hold NaN or "
                      "infinite values, or its dtype overflows",
                      where, r, log_prob));
    }
  }
  return results;
}

}  // namespace

Purpose purpose_of(const EngineOptions& options) {
  return options.int8_weights ? Purpose::kInt8Inference : Purpose::kInference;
}

void validate(const EngineOptions& options) {
  std::vector<std::string> problems;
  const auto at_least = [&](std::int64_t least, const char* name, std::int64_t value) {
    if (value < least) problems.push_back(fmt::format("{} is {}, expected at least {}", name, value, least));
  };
  at_least(1, "max_batch", options.max_batch);
  at_least(1, "prefill_tokens", options.prefill_tokens);
  at_least(0, "cache_bytes", options.cache_bytes);
  if (!problems.empty()) throw InputError(fmt::format("engine options: {}", fmt::join(problems, "; ")));
}

void check_tokenizer(const Tokenizer& tokenizer, const ModelConfig& config) {
  if (tokenizer.vocab_size() <= config.vocab_size) return;
  throw InputError(
      fmt::format("the tokenizer has ids up to {}, expected ids below vocab_size = {} of the model's config.json",
                  tokenizer.vocab_size() - 1, config.vocab_size));
}

struct Engine::Impl {
  CausalLM model;
  ChatTokenizer text;
  EngineOptions options;
  detail::ModelExecutor executor;
  EngineStats stats = {};
  std::optional<KvCache> cache = {};
  std::int64_t most_blocks = 0;  // that the cache may have in this call
  OnToken on_token = {};
  bool busy = false;

  Impl(CausalLM model_, ChatTokenizer text_, const EngineOptions& options_)
      : model(std::move(model_)), text(std::move(text_)), options(options_), executor(model) {}

  std::int64_t context() const { return model.config().context_length(); }

  void check_ids(const char* where, std::size_t request, const char* what, TokenSpan ids) const {
    const std::int64_t vocabulary = model.config().vocab_size;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0 || ids[i] >= vocabulary) {
        throw InputError(fmt::format("{}: request {}: token {} at position {} of the {}, expected 0 to {}", where,
                                     request, ids[i], i, what, vocabulary - 1));
      }
    }
  }

  void check_prompt(const char* where, std::size_t request, const char* what, TokenSpan ids) const {
    if (ids.empty()) {
      throw InputError(
          fmt::format("{}: request {}: the {} is empty, expected at least one token", where, request, what));
    }
    check_ids(where, request, what, ids);
  }

  void check_length(const char* where, std::size_t request, const char* what, std::size_t tokens,
                    std::int64_t most) const {
    if (static_cast<std::int64_t>(tokens) > most) {
      throw InputError(fmt::format("{}: request {}: {} of {} tokens, expected at most {} in the model's context of {}",
                                   where, request, what, tokens, most, context()));
    }
  }

  detail::SchedulerOptions scheduler_options(TokenIds stop_ids) const {
    return {.max_batch = options.max_batch, .prefill_tokens = options.prefill_tokens, .stop_ids = std::move(stop_ids)};
  }

  std::int64_t block_bytes() const { return KvCache::bytes_per_block(model.config(), model.dtype()); }

  // To be called first: what is free may change from call to call, but not within one.
  void limit_cache() {
    std::int64_t bytes = options.cache_bytes;
    if (bytes == 0) {
      const std::int64_t own = cache ? cache->total_blocks() * block_bytes() : 0;
      bytes = std::max(own, (detail::free_memory(model.device()) + own) / 2);
    }
    most_blocks = std::min<std::int64_t>(bytes / block_bytes(), std::numeric_limits<std::int32_t>::max());
  }

  // Sees to an empty cache of the useful size, within the limit.
  void prepare_cache(const char* where, const detail::CacheNeed& need) {
    const std::int64_t blocks = std::min(most_blocks, need.useful);
    if (const std::int64_t fitting = blocks / need.least; blocks < need.useful && fitting < options.max_batch) {
      stats.fitting = stats.fitting > 0 ? std::min(stats.fitting, fitting) : fitting;
    }
    if (cache && cache->total_blocks() >= blocks) return;
    cache.reset();
    translating_out_of_memory(where, "set cache_bytes, or lower it",
                              [&] { cache.emplace(model.config(), blocks, model.dtype(), model.device()); });
  }

  // Groups the prompts by what they share, and prepares the cache.
  detail::PromptTree prepare(const char* where, const std::vector<detail::ScheduledRequest>& requests,
                             const detail::SchedulerOptions& scheduling) {
    std::vector<TokenSpan> prompts;
    for (const detail::ScheduledRequest& request : requests) prompts.push_back(request.prompt);
    detail::PromptTree tree = detail::build_prompt_tree(prompts, kKvBlockSize);
    detail::CacheNeed need = detail::cache_need(requests, tree, scheduling);
    if (need.least > most_blocks) {  // sharing costs a part-filled block for each node on the way
      tree = detail::build_prompt_tree(prompts, std::numeric_limits<std::int64_t>::max());
      need = detail::cache_need(requests, tree, scheduling);
    }
    if (need.least > most_blocks) {
      const detail::ScheduledRequest& largest = requests[need.largest];
      throw ResourceError(
          fmt::format("{}: request {} ({} prompt tokens, up to {} new ones) needs {} bytes of KV cache, expected at "
                      "most {}; raise cache_bytes{}",
                      where, need.largest, largest.prompt.size(), largest.max_new_tokens, need.least * block_bytes(),
                      options.cache_bytes > 0 ? fmt::format("cache_bytes = {}", options.cache_bytes)
                                              : fmt::format("{}, half of the free memory", most_blocks * block_bytes()),
                      largest.samples > 0 ? " or lower max_new_tokens" : ""));
    }
    prepare_cache(where, need);
    return tree;
  }

  std::int64_t most_rows() const { return detail::most_logit_rows(model.config().vocab_size); }

  // Runs a plan; `use(logits, begin)` gets the logits of its rows begin, begin + 1, ..., some at a time.
  template <class Use>
  void run(const char* where, const detail::Plan& plan, const Use& use, const at::Tensor& drawn = {}) {
    translating_out_of_memory(where, "lower prefill_tokens, max_batch or cache_bytes", [&] {
      const at::Tensor hidden = executor.run(plan, *cache, drawn);
      for (std::int64_t begin = 0; begin < hidden.size(0); begin += most_rows()) {
        use(executor.logits(hidden.narrow(0, begin, std::min(most_rows(), hidden.size(0) - begin))), begin);
      }
    });
    ++stats.steps;
    stats.prompt_tokens += plan.prompt_tokens;
    stats.peak_blocks = std::max(stats.peak_blocks, cache->total_blocks() - cache->free_blocks());
  }

  // Computes all reads of the requests: log-probs of the tokens that `targets(read)` gives go to `store(read,
  // log_probs)`.
  template <class Targets, class Store>
  void read(const char* where, std::vector<detail::ScheduledRequest> requests, detail::PromptTree tree,
            const detail::SchedulerOptions& scheduling, const Targets& targets, const Store& store) {
    detail::Scheduler scheduler(std::move(requests), std::move(tree), *cache, scheduling);
    std::vector<ops::RowToken> tokens;
    while (!scheduler.done()) {
      const detail::Plan& plan = scheduler.plan();
      std::size_t next = 0;
      run(where, plan, [&](const detail::Logits& logits, std::int64_t begin) {
        const std::size_t first = next;
        tokens.clear();
        for (; next < plan.reads.size() && plan.reads[next].row < begin + logits.values.size(0); ++next) {
          for (const TokenId id : targets(plan.reads[next])) tokens.push_back({plan.reads[next].row - begin, id});
        }
        const std::vector<double> found = ops::token_log_probs(logits.values, tokens, logits.softcap);
        std::span<const double> rest = found;
        for (std::size_t i = first; i < next; ++i) {
          const std::size_t count = targets(plan.reads[i]).size();
          store(plan.reads[i], rest.first(count));
          rest = rest.subspan(count);
        }
      });
      scheduler.commit({});
    }
  }

  // Log-prob of targets[i] after row rows[i] of `hidden`.
  std::vector<double> response_log_probs(const at::Tensor& hidden, const std::vector<std::int64_t>& rows,
                                         const std::vector<std::int64_t>& targets) const {
    const at::Tensor wanted = hidden.index_select(0, at::tensor(rows).to(hidden.device()));
    if (!ops::PackedWeight::supports(hidden)) {
      const at::Tensor found = ops::log_probs(wanted, model.output_weight(), at::tensor(targets).to(hidden.device()),
                                              {.logit_softcap = model.config().final_logit_softcapping})
                                   .to(at::kCPU, at::kDouble);
      return {found.const_data_ptr<double>(), found.const_data_ptr<double>() + found.numel()};
    }
    // Through the model's own packed output matrix: nothing is packed anew, and the numbers are those of a sample.
    std::vector<double> result;
    std::vector<ops::RowToken> tokens;
    for (std::int64_t begin = 0; begin < wanted.size(0); begin += most_rows()) {
      const std::int64_t count = std::min(most_rows(), wanted.size(0) - begin);
      tokens.clear();
      for (std::int64_t i = 0; i < count; ++i) {
        tokens.push_back({.row = i, .id = static_cast<TokenId>(targets[static_cast<std::size_t>(begin + i)])});
      }
      const std::vector<double> found = ops::token_log_probs(model.logits(wanted.narrow(0, begin, count)), tokens);
      result.insert(result.end(), found.begin(), found.end());
    }
    return result;
  }

  // Scores requests in packed passes without a cache; contexts[r] is what the model sees of request r.
  void score_packed(const char* where, std::span<const ScoreRequest> requests, std::span<const TokenIds> contexts,
                    std::vector<std::vector<double>>& results) const {
    for (std::size_t first = 0; first < contexts.size();) {
      std::size_t last = first;
      std::vector<std::int64_t> rows, targets;
      std::int64_t begin = 0;
      for (; last < contexts.size(); ++last) {
        const std::int64_t length = static_cast<std::int64_t>(contexts[last].size());
        if (begin + length > options.prefill_tokens && last > first) break;
        const TokenIds& response = requests[last].response_ids;
        for (std::int64_t i = 0; i < static_cast<std::int64_t>(response.size()); ++i) {
          rows.push_back(begin + length - static_cast<std::int64_t>(response.size()) + i);
          targets.push_back(response[static_cast<std::size_t>(i)]);
        }
        begin += length;
      }
      if (!rows.empty()) {
        const std::vector<double> found = translating_out_of_memory(where, "lower prefill_tokens", [&] {
          return response_log_probs(model.hidden(pack(contexts.subspan(first, last - first))), rows, targets);
        });
        auto next = found.begin();
        for (std::size_t r = first; r < last; ++r) {
          const auto end = next + static_cast<std::ptrdiff_t>(requests[r].response_ids.size());
          results[r].assign(next, end);
          next = end;
        }
      }
      first = last;
    }
  }
};

Engine::Engine(CausalLM model, ChatTokenizer text, const EngineOptions& options) {
  validate(options);
  check_tokenizer(text.tokenizer(), model.config());
  if (options.int8_weights) model = model.with_int8_inference();
  impl_ = std::make_unique<Impl>(std::move(model), std::move(text), options);
}

Engine::~Engine() = default;

const ChatTokenizer& Engine::text() const { return impl_->text; }
std::int64_t Engine::max_tokens() const { return impl_->context(); }
const EngineStats& Engine::stats() const { return impl_->stats; }
void Engine::set_on_token(OnToken on_token) { impl_->on_token = std::move(on_token); }

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
    if (request.max_new_tokens < 0) {
      throw InputError(fmt::format("{}: request {}: max_new_tokens is {}, expected 0 (as the call's) or more", kWhere,
                                   r, request.max_new_tokens));
    }
    const std::int64_t room = impl.context() - static_cast<std::int64_t>(request.prompt_ids.size());
    scheduled.push_back({.prompt = request.prompt_ids,
                         .samples = request.samples,
                         .max_new_tokens = std::min(
                             request.max_new_tokens > 0 ? request.max_new_tokens : sampling.max_new_tokens, room)});
  }
  if (requests.empty()) return;

  Session session(impl.busy, impl.cache, kWhere);
  impl.limit_cache();
  const detail::SchedulerOptions scheduling =
      impl.scheduler_options(sampling.ignore_eos ? TokenIds{} : impl.text.stop_ids());
  detail::PromptTree tree = impl.prepare(kWhere, scheduled, scheduling);
  detail::Scheduler scheduler(std::move(scheduled), std::move(tree), *impl.cache, scheduling);
  const ops::SampleOptions sample_options{
      .temperature = sampling.temperature, .top_k = sampling.top_k, .top_p = sampling.top_p, .min_p = sampling.min_p};
  using Step = std::vector<ops::PendingDraws>;  // its rows in parts
  std::vector<ops::Draw> draws;
  const auto start = [&](const detail::Plan& plan, const Step* before) {
    at::Tensor drawn_before;
    if (before != nullptr && !before->empty()) {
      std::vector<at::Tensor> ids;
      for (const ops::PendingDraws& part : *before) ids.push_back(part.ids());
      drawn_before = at::cat(ids);
    }
    Step step;
    std::size_t next = 0;
    const auto draw_rows = [&](const detail::Logits& logits, std::int64_t begin) {
      draws.clear();
      for (; next < plan.draws.size() && plan.draws[next].row < begin + logits.values.size(0); ++next) {
        const detail::PlannedDraw& draw = plan.draws[next];
        const Seed stream = requests[draw.request].seed.fork(static_cast<std::uint64_t>(draw.sample));
        draws.push_back(
            {.row = draw.row - begin, .uniform = uniform(stream, static_cast<std::uint64_t>(draw.position))});
      }
      step.emplace_back(logits.values, draws, sample_options, logits.softcap);
    };
    impl.run(kWhere, plan, draw_rows, drawn_before);
    return step;
  };
  std::vector<ops::Drawn> drawn;
  const auto finish = [&](const detail::Plan& plan, Step& step) {
    drawn.resize(plan.draws.size());
    std::size_t next = 0;
    for (ops::PendingDraws& part : step) {
      part.finish(std::span(drawn).subspan(next, part.size()),
                  [&](std::size_t i) { return !plan.draws[next + i].dropped; });
      next += part.size();
    }
    for (std::size_t i = 0; i < drawn.size(); ++i) {
      const detail::PlannedDraw& draw = plan.draws[i];
      if (draw.dropped) continue;
      ++impl.stats.generated_tokens;
      if (impl.on_token) impl.on_token(draw.request, draw.sample, drawn[i].id);
    }
    for (detail::Finished& finished : scheduler.commit(drawn)) {
      on_completion(finished.request, finished.sample, std::move(finished.completion));
    }
  };
  detail::run_steps<Step>(scheduler, impl.executor.beside_host(), start, finish);
  session.succeed();
}

std::vector<std::vector<double>> Engine::score(std::span<const ScoreRequest> requests) {
  constexpr const char* kWhere = "score";
  Impl& impl = *impl_;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    impl.check_prompt(kWhere, r, "prompt", requests[r].prompt_ids);
    impl.check_ids(kWhere, r, "response", requests[r].response_ids);
    impl.check_length(kWhere, r, "prompt and response", requests[r].prompt_ids.size() + requests[r].response_ids.size(),
                      impl.context() + 1);  // the last token is not read
  }
  std::vector<std::vector<double>> results(requests.size());
  if (requests.empty()) return results;
  const at::NoGradGuard no_grad;
  std::vector<TokenIds> contexts;  // a response's last token predicts nothing
  std::vector<TokenSpan> spans;
  std::vector<detail::ScheduledRequest> scheduled;
  for (const auto& [prompt, response] : requests) {
    TokenIds& context = contexts.emplace_back(prompt);
    if (!response.empty()) context.insert(context.end(), response.begin(), response.end() - 1);
  }
  std::size_t tokens = 0;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    tokens += contexts[r].size();
    spans.push_back(contexts[r]);
    scheduled.push_back({.prompt = contexts[r], .reads = static_cast<std::int64_t>(requests[r].response_ids.size())});
  }

  // Through the cache where that saves a quarter of the work, as with the choices of one question.
  const detail::SchedulerOptions scheduling = impl.scheduler_options({});
  detail::PromptTree tree = detail::build_prompt_tree(spans, kKvBlockSize);
  std::size_t distinct = 0;
  for (const detail::PromptNode& node : tree.nodes) distinct += static_cast<std::size_t>(node.end - node.begin);
  const detail::CacheNeed need = detail::cache_need(scheduled, tree, scheduling);
  impl.limit_cache();
  if (distinct * 4 > tokens * 3 || need.least > impl.most_blocks) {
    impl.score_packed(kWhere, requests, contexts, results);
    return finite(kWhere, std::move(results));
  }
  for (std::size_t r = 0; r < requests.size(); ++r) results[r].resize(requests[r].response_ids.size());
  Session session(impl.busy, impl.cache, kWhere);
  impl.prepare_cache(kWhere, need);
  const auto index_of = [&](const detail::PlannedRead& read) {  // of the response's token
    return static_cast<std::size_t>(read.position) + 1 - requests[read.request].prompt_ids.size();
  };
  impl.read(
      kWhere, std::move(scheduled), std::move(tree), scheduling,
      [&](const detail::PlannedRead& read) {
        return TokenSpan(requests[read.request].response_ids).subspan(index_of(read), 1);
      },
      [&](const detail::PlannedRead& read, std::span<const double> found) {
        results[read.request][index_of(read)] = found[0];
      });
  results = finite(kWhere, std::move(results));
  session.succeed();
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
    scheduled.push_back({.prompt = requests[r].ids, .reads = 1});
  }
  std::vector<std::vector<double>> results(requests.size());
  if (requests.empty()) return results;

  Session session(impl.busy, impl.cache, kWhere);
  impl.limit_cache();
  const detail::SchedulerOptions scheduling = impl.scheduler_options({});
  detail::PromptTree tree = impl.prepare(kWhere, scheduled, scheduling);
  impl.read(
      kWhere, std::move(scheduled), std::move(tree), scheduling,
      [&](const detail::PlannedRead& read) { return TokenSpan(requests[read.request].candidates); },
      [&](const detail::PlannedRead& read, std::span<const double> found) {
        results[read.request].assign(found.begin(), found.end());
      });
  results = finite(kWhere, std::move(results));
  session.succeed();
  return results;
}

}  // namespace sao
