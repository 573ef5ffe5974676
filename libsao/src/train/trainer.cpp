// SPDX-License-Identifier: Apache-2.0
#include "sao/train/trainer.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "sao/base/error.h"
#include "sao/io/files.h"
#include "sao/train/logps.h"
#include "train/core.h"
#include "train/problems.h"

namespace sao {
namespace {

using detail::OrderedJson;

// Weight of each token of a response in its sum: 1 up to the shorter response's length, then alpha.
double desensitised_sum(const double* logps, std::int64_t length, std::int64_t shared, double alpha) {
  double head = 0.0, tail = 0.0;
  for (std::int64_t t = 0; t < length; ++t) (t < shared ? head : tail) += logps[t];
  return head + alpha * tail;
}

std::int64_t size_of(const TokenIds& ids) { return static_cast<std::int64_t>(ids.size()); }

// As TRL counts them: the prompt on either side.
std::int64_t tokens_of(const TokenPair& pair) {
  return 2 * size_of(pair.prompt) + size_of(pair.chosen) + size_of(pair.rejected);
}

// In a forward pass, where the prompt stands once.
std::int64_t computed_tokens(const TokenPair& pair) {
  return size_of(pair.prompt) + size_of(pair.chosen) + size_of(pair.rejected);
}

std::int64_t shared_length(const TokenPair& pair) { return std::min(size_of(pair.chosen), size_of(pair.rejected)); }

at::Tensor double_tensor(const std::vector<double>& values) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())}, at::kDouble);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<double>());
  return tensor;
}

std::vector<double> to_vector(const at::Tensor& tensor) {
  const at::Tensor values = tensor.to(at::kCPU, at::kDouble).contiguous();
  const double* data = values.const_data_ptr<double>();
  return {data, data + values.numel()};
}

std::string fingerprint_of(const std::vector<TokenPair>& pairs) {
  std::string bytes;
  const auto add = [&](const auto& value) { bytes.append(reinterpret_cast<const char*>(&value), sizeof value); };
  for (const TokenPair& pair : pairs) {
    for (const TokenIds* ids : {&pair.prompt, &pair.chosen, &pair.rejected}) {
      add(ids->size());
      bytes.append(reinterpret_cast<const char*>(ids->data()), ids->size() * sizeof(TokenId));
    }
    add(pair.p);
    add(pair.weight);
  }
  return fingerprint(bytes);
}

// With adapters, where there are some.
std::string fingerprint_of(const CausalLM& model) {
  NamedTensors all = model.parameters();
  if (model.lora() != nullptr) {
    const NamedTensors& adapters = model.trainable_parameters();
    all.insert(all.end(), adapters.begin(), adapters.end());
  }
  return detail::fingerprint_of(all);
}

bool same_tensors(const NamedTensors& left, const NamedTensors& right) {
  if (left.size() != right.size()) return false;
  for (std::size_t i = 0; i < left.size(); ++i) {
    if (left[i].first != right[i].first) return false;
    if (left[i].second.is_same(right[i].second)) continue;
    if (left[i].second.sizes() != right[i].second.sizes() || !at::equal(left[i].second, right[i].second)) return false;
  }
  return true;
}

// False for a base and new adapters on it, though these change nothing yet.
bool same_weights(const CausalLM& a, const CausalLM& b) {
  if ((a.lora() == nullptr) != (b.lora() == nullptr) || a.dtype() != b.dtype() || a.device() != b.device())
    return false;
  return same_tensors(a.parameters(), b.parameters()) &&
         (a.lora() == nullptr || same_tensors(a.trainable_parameters(), b.trainable_parameters()));
}

// How far the log-prob of a response of n tokens may lie from the reference's when the weights are the same: rounding
// of two forward passes that add up in different orders.
double self_check_tolerance(at::ScalarType dtype, std::int64_t length) {
  const double n = static_cast<double>(length);
  return dtype == at::kDouble ? 1e-8 * (1.0 + n) : dtype == at::kFloat ? 1e-3 + 1e-4 * n : 0.5 + 0.05 * n;
}

}  // namespace

void validate(const TrainerOptions& options) {
  validate(options.loss);
  validate(options.optimizer);
  validate(options.schedule);
  detail::validate(options.checkpoint);
  detail::Problems problems("train");
  problems.need(options.epochs >= 1, "epochs", options.epochs, "at least 1");
  problems.need(options.max_steps >= 0, "max_steps", options.max_steps, "0 or more");
  problems.need(options.batch_size >= 1, "batch_size", options.batch_size, "at least 1");
  problems.need(options.micro_batch_tokens >= 1, "micro_batch_tokens", options.micro_batch_tokens, "at least 1");
  problems.need(options.micro_batch_pairs >= 0, "micro_batch_pairs", options.micro_batch_pairs, "0 or more");
  problems.need(options.max_length >= 0, "max_length", options.max_length, "0 or more");
  problems.need(options.ld_alpha >= 0.0 && options.ld_alpha <= 1.0, "ld_alpha", options.ld_alpha, "0 to 1");
  problems.need(options.chunk_tokens >= 1, "chunk_tokens", options.chunk_tokens, "at least 1");
  problems.raise();
}

std::string to_json_line(const TrainMetrics& m) {
  const auto number = detail::json_number;
  return detail::dump_json_line(OrderedJson{{"step", m.step},
                                            {"epoch", number(m.epoch)},
                                            {"loss", number(m.loss)},
                                            {"grad_norm", number(m.grad_norm)},
                                            {"learning_rate", number(m.learning_rate)},
                                            {"lr", number(m.learning_rate)},
                                            {"rewards/chosen", number(m.rewards_chosen)},
                                            {"rewards/rejected", number(m.rewards_rejected)},
                                            {"rewards/accuracies", number(m.reward_accuracy)},
                                            {"rewards/margins", number(m.reward_margin)},
                                            {"logps/chosen", number(m.logps_chosen)},
                                            {"logps/rejected", number(m.logps_rejected)},
                                            {"lengths/chosen", number(m.chosen_length)},
                                            {"lengths/rejected", number(m.rejected_length)},
                                            {"num_tokens", m.num_tokens}});
}

struct Trainer::Impl {
  TrainerOptions options;
  PairSelection selection;
  std::unique_ptr<detail::Core> core;
  std::optional<CausalLM> reference;  // until its log-probs are computed
  bool self_check = false;            // the policy starts as the reference
  bool started = false;
  std::vector<double> reference_chosen, reference_rejected;
  std::int64_t epoch = -1;
  std::vector<std::size_t> order;  // of `epoch`
  TrainMetrics metrics;
  detail::Throughput throughput;
  ProgressSink progress;
  std::string data_fingerprint;
  std::string reference_fingerprint;  // of a reference that was given and is used, once there are checkpoints

  const std::vector<TokenPair>& pairs() const { return selection.pairs; }
  std::int64_t count() const { return static_cast<std::int64_t>(selection.pairs.size()); }
  std::int64_t steps_per_epoch() const { return (count() + options.batch_size - 1) / options.batch_size; }

  // What must be the same for a checkpoint to be continued.
  OrderedJson identity() const {
    OrderedJson all = detail::options_to_json(options);
    all.erase("checkpoint");  // does not change the result
    OrderedJson made_with{{"trainer", "preference"},
                          {"token_policy", "clean"},
                          {"pairs", count()},
                          {"data", data_fingerprint},
                          {"dtype", at::toString(core->model().dtype())},
                          {"options", std::move(all)}};
    if (!reference_fingerprint.empty()) made_with["reference"] = reference_fingerprint;
    return made_with;
  }

  void compute_reference_logps() {
    if (!needs_reference(options.loss)) return;
    const CausalLM model = reference ? *reference : core->model();
    self_check = !core->drops_out() && (!reference || same_weights(*reference, core->model()));
    const c10::NoGradGuard no_grad;
    reference_chosen.clear();
    reference_rejected.clear();
    // Slices, so that progress can be told and only one slice's log-probs exist token by token.
    constexpr std::int64_t kSlice = 256;
    for (std::int64_t begin = 0; begin < count(); begin += kSlice) {
      const std::int64_t end = std::min(begin + kSlice, count());
      std::vector<PromptedResponse> completions;
      for (std::int64_t i = begin; i < end; ++i) {
        const TokenPair& pair = pairs()[static_cast<std::size_t>(i)];
        completions.push_back({pair.prompt, pair.chosen});
        completions.push_back({pair.prompt, pair.rejected});
      }
      std::vector<std::vector<double>> logps;
      detail::explain_out_of_memory([&] {
        logps = response_token_logps(
            model, completions, {.batch_tokens = options.micro_batch_tokens, .chunk_tokens = options.chunk_tokens});
      });
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t shared = shared_length(pairs()[static_cast<std::size_t>(i)]);
        const auto at = static_cast<std::size_t>(2 * (i - begin));
        const auto sum = [&](const std::vector<double>& values) {
          return desensitised_sum(values.data(), static_cast<std::int64_t>(values.size()), shared, options.ld_alpha);
        };
        reference_chosen.push_back(sum(logps[at]));
        reference_rejected.push_back(sum(logps[at + 1]));
        if (!std::isfinite(reference_chosen.back()) || !std::isfinite(reference_rejected.back())) {
          throw InputError(fmt::format(
              "train: the reference gives pair \"{}\" log-probs {} and {}, expected finite numbers; check its weights",
              pairs()[static_cast<std::size_t>(i)].id, reference_chosen.back(), reference_rejected.back()));
        }
      }
      if (progress) progress("reference log-probs", static_cast<std::size_t>(end), static_cast<std::size_t>(count()));
    }
  }

  void start() {
    if (started) return;
    compute_reference_logps();
    core->model().set_requires_grad(true);  // frees the packed weights that the reference log-probs may have left
    reference.reset();
    started = true;
  }

  void resume(const detail::SavedState& saved) {
    core->restore(saved, identity());
    const std::string where = (saved.folder / "state.json").string();
    metrics.num_tokens = detail::get_field<std::int64_t>(saved.state, "num_tokens", where);
    metrics.step = core->steps_done();
    if (needs_reference(options.loss)) {
      for (const auto& [name, values] :
           {std::pair{"reference.chosen", &reference_chosen}, std::pair{"reference.rejected", &reference_rejected}}) {
        *values = to_vector(saved.tensors.tensor(name));
        if (static_cast<std::int64_t>(values->size()) != count()) {
          throw InputError(fmt::format("{}: tensor \"{}\" holds {} numbers, expected {}, one a pair",
                                       saved.tensors.path().string(), name, values->size(), count()));
        }
      }
    }
    reference.reset();
    started = true;
  }

  NamedTensors reference_tensors() const {
    if (reference_chosen.empty()) return {};
    return {{"reference.chosen", double_tensor(reference_chosen)},
            {"reference.rejected", double_tensor(reference_rejected)}};
  }

  // Indices of the pairs of the next optimizer step.
  std::vector<std::size_t> next_batch() {
    const std::int64_t step = core->steps_done(), now = step / steps_per_epoch();
    if (now != epoch) {
      epoch = now;
      order = permutation(options.seed.fork("order").fork(static_cast<std::uint64_t>(epoch)), pairs().size());
    }
    const std::int64_t begin = (step % steps_per_epoch()) * options.batch_size;
    const std::int64_t end = std::min(begin + options.batch_size, count());
    return {order.begin() + begin, order.begin() + end};
  }

  // Cuts a batch into forward passes, in order.
  std::vector<std::span<const std::size_t>> micro_batches(std::span<const std::size_t> batch) const {
    std::vector<std::span<const std::size_t>> parts;
    std::size_t begin = 0;
    while (begin < batch.size()) {
      std::size_t end = begin;
      std::int64_t tokens = 0;
      while (end < batch.size()) {
        tokens += computed_tokens(pairs()[batch[end]]);
        const auto taken = static_cast<std::int64_t>(end - begin);
        if (taken > 0 && tokens > options.micro_batch_tokens) break;
        if (options.micro_batch_pairs > 0 && taken >= options.micro_batch_pairs) break;
        ++end;
      }
      parts.push_back(batch.subspan(begin, end - begin));
      begin = end;
    }
    return parts;
  }

  struct BatchTotals {
    double pairs = 0.0, mean_chosen_length = 0.0;
    OrderedJson seen = OrderedJson::array();  // per-pair values, for the report of a failure
  };

  void run_micro_batch(std::span<const std::size_t> indices, BatchTotals& totals, TrainMetrics& m) {
    std::vector<PromptedResponse> completions;
    for (const std::size_t i : indices) {
      completions.push_back({pairs()[i].prompt, pairs()[i].chosen});
      completions.push_back({pairs()[i].prompt, pairs()[i].rejected});
    }
    CompletionBatch batch = pack_completions(completions);
    batch.tokens.dropout = options.seed.fork("dropout").fork(static_cast<std::uint64_t>(core->steps_done()));
    const at::Tensor logps = core->scored_logps(batch.tokens, batch.rows, batch.targets);
    // Sums, losses and their slopes on the CPU in double precision: a few numbers a pair.
    const at::Tensor values = logps.detach().to(at::kCPU, at::kDouble);
    const double* next = values.const_data_ptr<double>();
    const std::size_t n = indices.size();
    std::vector<double> sw(n), sl(n), nw(n), nl(n), rw(n), rl(n), p(n), weight(n);
    for (std::size_t k = 0; k < n; ++k) {
      const TokenPair& pair = pairs()[indices[k]];
      const std::int64_t shared = shared_length(pair);
      nw[k] = static_cast<double>(pair.chosen.size());
      nl[k] = static_cast<double>(pair.rejected.size());
      sw[k] = desensitised_sum(next, size_of(pair.chosen), shared, options.ld_alpha);
      next += pair.chosen.size();
      sl[k] = desensitised_sum(next, size_of(pair.rejected), shared, options.ld_alpha);
      next += pair.rejected.size();
      p[k] = options.soft_labels ? pair.p : 1.0;
      weight[k] = pair.weight;
      if (!reference_chosen.empty()) {
        rw[k] = reference_chosen[indices[k]];
        rl[k] = reference_rejected[indices[k]];
      }
    }
    PairLogps inputs{.chosen = double_tensor(sw),
                     .rejected = double_tensor(sl),
                     .chosen_lengths = double_tensor(nw),
                     .rejected_lengths = double_tensor(nl),
                     .p = double_tensor(p),
                     .weight = double_tensor(weight),
                     .mean_chosen_length = totals.mean_chosen_length};
    if (!reference_chosen.empty()) {
      inputs.reference_chosen = double_tensor(rw);
      inputs.reference_rejected = double_tensor(rl);
    }
    const PairLosses out = preference_loss(options.loss, inputs);
    const std::vector<double> loss = to_vector(out.loss), chosen_slope = to_vector(out.chosen_gradient),
                              rejected_slope = to_vector(out.rejected_gradient),
                              chosen_reward = to_vector(out.chosen_rewards),
                              rejected_reward = to_vector(out.rejected_rewards);

    const bool mean_logps = logs_mean_logps(options.loss);
    bool finite = true;
    std::size_t first_bad = 0;
    for (std::size_t k = 0; k < n; ++k) {
      const TokenPair& pair = pairs()[indices[k]];
      m.loss += loss[k] / totals.pairs;
      m.rewards_chosen += chosen_reward[k] / totals.pairs;
      m.rewards_rejected += rejected_reward[k] / totals.pairs;
      m.reward_accuracy += (chosen_reward[k] > rejected_reward[k] ? 1.0 : 0.0) / totals.pairs;
      m.logps_chosen += (mean_logps ? sw[k] / nw[k] : sw[k]) / totals.pairs;
      m.logps_rejected += (mean_logps ? sl[k] / nl[k] : sl[k]) / totals.pairs;
      m.chosen_length += nw[k] / totals.pairs;
      m.rejected_length += nl[k] / totals.pairs;
      m.num_tokens += tokens_of(pair);
      const bool good = std::isfinite(loss[k]) && std::isfinite(chosen_slope[k]) && std::isfinite(rejected_slope[k]);
      if (!good && finite) first_bad = k;
      finite = finite && good;
      OrderedJson row{{"id", pair.id},
                      {"row", indices[k]},
                      {"loss", detail::json_number(loss[k])},
                      {"logps/chosen", detail::json_number(sw[k])},
                      {"logps/rejected", detail::json_number(sl[k])},
                      {"tokens/chosen", pair.chosen.size()},
                      {"tokens/rejected", pair.rejected.size()}};
      if (!reference_chosen.empty()) {
        row["reference/chosen"] = detail::json_number(rw[k]);
        row["reference/rejected"] = detail::json_number(rl[k]);
      }
      totals.seen.push_back(std::move(row));
    }
    if (!finite) {
      core->stop_non_finite(fmt::format("the loss of pair \"{}\" is {} (log-probs {} and {})",
                                        pairs()[indices[first_bad]].id, loss[first_bad], sw[first_bad], sl[first_bad]),
                            [&](OrderedJson& report) { report["pairs"] = totals.seen; });
    }
    if (self_check) check_against_reference(indices, sw, sl, rw, rl);

    at::Tensor gradient = at::empty({values.size(0)}, at::kDouble);  // backward rounds it to the log-probs' dtype
    double* g = gradient.mutable_data_ptr<double>();
    for (std::size_t k = 0; k < n; ++k) {
      const TokenPair& pair = pairs()[indices[k]];
      const std::int64_t shared = shared_length(pair);
      const auto fill = [&](const TokenIds& ids, double slope) {
        for (std::int64_t t = 0; t < size_of(ids); ++t) {
          *g++ = slope / totals.pairs * (t < shared ? 1.0 : options.ld_alpha);
        }
      };
      fill(pair.chosen, chosen_slope[k]);
      fill(pair.rejected, rejected_slope[k]);
    }
    core->backward(logps, gradient);
  }

  // Before the first update a policy that starts as its reference must agree with it.
  void check_against_reference(std::span<const std::size_t> indices, const std::vector<double>& sw,
                               const std::vector<double>& sl, const std::vector<double>& rw,
                               const std::vector<double>& rl) {
    self_check = false;
    const at::ScalarType dtype = core->model().dtype();
    for (std::size_t k = 0; k < indices.size(); ++k) {
      const TokenPair& pair = pairs()[indices[k]];
      const double a = sw[k] - rw[k], b = sl[k] - rl[k];
      if (std::abs(a) > self_check_tolerance(dtype, size_of(pair.chosen)) ||
          std::abs(b) > self_check_tolerance(dtype, size_of(pair.rejected))) {
        throw InternalError(
            fmt::format("train: policy and reference have the same weights, but for pair \"{}\" their log-probs differ "
                        "by {} (chosen, "
                        "{} tokens) and {} (rejected, {} tokens); please report this",
                        pair.id, a, pair.chosen.size(), b, pair.rejected.size()));
      }
    }
  }

  bool step() {
    start();
    if (core->done()) return false;
    throughput.begin();
    const c10::AutoGradMode with_grad(true);
    core->begin_step();
    const std::vector<std::size_t> batch = next_batch();
    BatchTotals totals{.pairs = static_cast<double>(batch.size())};
    for (const std::size_t i : batch) {
      totals.mean_chosen_length += static_cast<double>(pairs()[i].chosen.size()) / totals.pairs;
    }
    TrainMetrics m;
    const std::int64_t tokens_before = metrics.num_tokens;
    m.num_tokens = tokens_before;
    m.learning_rate = core->learning_rate();
    detail::explain_out_of_memory([&] {
      for (const auto& part : micro_batches(batch)) run_micro_batch(part, totals, m);
      m.grad_norm = core->update([&](OrderedJson& report) { report["pairs"] = totals.seen; });
    });
    m.reward_margin = m.rewards_chosen - m.rewards_rejected;
    m.step = core->steps_done();
    m.epoch = static_cast<double>(m.step) / static_cast<double>(steps_per_epoch());
    metrics = m;
    throughput.end(m.num_tokens - tokens_before);
    core->save_if_due(identity(), {{"num_tokens", m.num_tokens}}, reference_tensors());
    return true;
  }
};

Trainer::Trainer(CausalLM policy, std::vector<TokenPair> pairs, TrainerOptions options,
                 std::optional<CausalLM> reference)
    : impl_(std::make_unique<Impl>()) {
  validate(options);
  const std::size_t given = pairs.size();
  std::int64_t longest = policy.config().context_length();
  if (reference) longest = std::min(longest, reference->config().context_length());
  if (options.max_length > 0) longest = std::min(longest, options.max_length);
  impl_->selection = select_pairs(std::move(pairs), longest);
  if (impl_->selection.pairs.empty()) {
    std::string why;
    for (const auto& [reason, number] : impl_->selection.dropped) why += fmt::format(", {} {}", number, reason);
    throw InputError(fmt::format("train: none of {} pairs can be used{}, expected at least one", given, why));
  }
  for (std::size_t i = 0; i < impl_->selection.pairs.size(); ++i) {
    TokenPair& pair = impl_->selection.pairs[i];
    if (pair.id.empty()) pair.id = fmt::format("#{}", i);
    const std::string where = fmt::format("pair \"{}\"", pair.id);
    for (const TokenIds* ids : {&pair.prompt, &pair.chosen, &pair.rejected}) {
      detail::check_ids(*ids, policy.config().vocab_size, where);
      if (reference) detail::check_ids(*ids, reference->config().vocab_size, where);
    }
    if (!(pair.p >= 0.0 && pair.p <= 1.0) || !(pair.weight >= 0.0 && std::isfinite(pair.weight))) {
      throw InputError(
          fmt::format("{}: p is {} and weight {}, expected 0 to 1 and 0 or more", where, pair.p, pair.weight));
    }
  }
  impl_->options = std::move(options);
  impl_->reference = std::move(reference);
  impl_->data_fingerprint = fingerprint_of(impl_->selection.pairs);
  const TrainerOptions& o = impl_->options;
  std::int64_t total = o.epochs * impl_->steps_per_epoch();
  if (o.max_steps > 0) total = std::min(total, o.max_steps);
  impl_->core =
      std::make_unique<detail::Core>(std::move(policy),
                                     detail::CoreOptions{.optimizer = o.optimizer,
                                                         .schedule = o.schedule,
                                                         .checkpoint = o.checkpoint,
                                                         .activation_checkpointing = o.activation_checkpointing,
                                                         .chunk_tokens = o.chunk_tokens},
                                     total);
}

Trainer::~Trainer() = default;
Trainer::Trainer(Trainer&&) noexcept = default;

void Trainer::start_or_resume(const std::filesystem::path& folder) {
  if (impl_->started)
    throw InputError("Trainer::start_or_resume: training has begun, expected a call before the first step");
  if (impl_->reference && needs_reference(impl_->options.loss)) {
    impl_->reference_fingerprint = fingerprint_of(*impl_->reference);
  }
  if (const auto saved = impl_->core->open(folder)) {
    impl_->resume(*saved);
  } else {
    impl_->start();
  }
}

bool Trainer::step() { return impl_->step(); }
const TrainMetrics& Trainer::metrics() const { return impl_->metrics; }
std::int64_t Trainer::steps_done() const { return impl_->core->steps_done(); }
std::int64_t Trainer::total_steps() const { return impl_->core->total_steps(); }
const std::vector<TokenPair>& Trainer::pairs() const { return impl_->selection.pairs; }
const std::map<std::string, std::int64_t>& Trainer::dropped() const { return impl_->selection.dropped; }
const std::vector<double>& Trainer::reference_chosen() const { return impl_->reference_chosen; }
const std::vector<double>& Trainer::reference_rejected() const { return impl_->reference_rejected; }
double Trainer::tokens_per_second() const { return impl_->throughput.per_second(); }
void Trainer::set_progress(ProgressSink progress) { impl_->progress = std::move(progress); }

}  // namespace sao
