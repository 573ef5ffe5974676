// SPDX-License-Identifier: Apache-2.0
#include "sao/train/trainer.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "sao/base/error.h"
#include "sao/io/files.h"
#include "sao/ops/log_probs.h"
#include "sao/train/logps.h"
#include "train/batches.h"
#include "train/core.h"
#include "train/objective.h"
#include "train/reference.h"
#include "train/reference_logps.h"
#include "train/vectors.h"

namespace sao {
namespace {

using detail::BatchFacts;
using detail::BatchTotals;
using detail::OrderedJson;
using detail::RowLoss;
using detail::RowValues;
using detail::Scored;
using detail::SequenceSums;

// How far the log-prob of a response of n tokens may lie from the reference's when the weights are the same: rounding
// of two forward passes that add up in different orders.
double self_check_tolerance(at::ScalarType dtype, std::size_t length) {
  const auto n = static_cast<double>(length);
  return dtype == at::kDouble ? 1e-8 * (1.0 + n) : dtype == at::kFloat ? 1e-3 + 1e-4 * n : 0.5 + 0.05 * n;
}

// The per-token statistics of a pack that are summed, in double precision on the CPU.
struct TokenValues {
  std::vector<double> logp;
  std::vector<double> entropy = {}, log_sum_square = {}, mean_logit = {}, top = {};  // may be empty
};

}  // namespace

struct Trainer::Impl {
  TrainerOptions options;
  Selection<TokenPair> pairs;  // one of the two is empty
  Selection<TokenCompletion> completions;
  std::unique_ptr<detail::Objective> objective;
  std::unique_ptr<detail::Batches> batches;
  std::unique_ptr<detail::Core> core;
  std::unique_ptr<detail::ReferenceLogps> reference;
  bool started = false;
  bool self_check = false;  // the policy starts as its reference: the first micro-batch must show it
  TrainMetrics metrics;
  detail::Throughput throughput;
  std::string data_fingerprint;
  std::string reference_fingerprint;  // of a model that was given and is used, once there are checkpoints

  // The running mean of rewards, for losses that are shifted by it.
  double reward_mean = 0.0;
  std::int64_t reward_count = 0;

  std::int64_t count() const { return static_cast<std::int64_t>(objective->size()); }

  // What must be the same for a checkpoint to be continued.
  OrderedJson identity() const {
    OrderedJson all = detail::options_to_json(options);
    all.erase("checkpoint");  // does not change the result
    OrderedJson made_with{{"trainer", "preference"},
                          {objective->noun(), count()},
                          {"data", data_fingerprint},
                          {"dtype", at::toString(core->model().dtype())},
                          {"options", std::move(all)}};
    if (!reference_fingerprint.empty()) made_with["reference"] = reference_fingerprint;
    return made_with;
  }

  void start() {
    if (started) return;
    reference->start(core->model(), core->total_steps());
    self_check = !core->drops_out() && reference->equals_start();
    core->model().set_requires_grad(true);  // frees the packed weights that the reference log-probs may have left
    started = true;
  }

  // A forward pass over rows: the graph's token log-probs, and the sums of each row's sequences.
  struct Pass {
    std::vector<Scored> sequences;
    std::vector<std::size_t> slots;  // sequences of each row
    at::Tensor logps;
  };

  Pass forward(std::span<const std::size_t> rows, std::span<RowValues> values) const {
    Pass pass;
    std::vector<PromptedResponse> responses;
    for (const std::size_t row : rows) {
      const std::vector<Scored> of_row = objective->scored(row);
      pass.slots.push_back(of_row.size());
      for (const Scored& of : of_row) {
        pass.sequences.push_back(of);
        responses.push_back(of.tokens);
      }
    }
    CompletionBatch batch = pack_completions(responses);
    batch.tokens.dropout = options.seed.fork("dropout").fork(static_cast<std::uint64_t>(core->steps_done()));
    ops::TokenStatistics statistics;
    const bool wants_statistics = options.token_metrics || options.use_weighting;
    pass.logps = core->scored_logps(batch.tokens, batch.rows, batch.targets, wants_statistics ? &statistics : nullptr);
    // Sums, losses and their slopes on the CPU in double precision: a few numbers a row.
    TokenValues tokens{.logp = detail::to_vector(pass.logps.detach())};
    if (wants_statistics) {
      tokens.entropy = detail::to_vector(statistics.entropy);
      tokens.log_sum_square = detail::to_vector(statistics.log_sum_square);
      tokens.mean_logit = detail::to_vector(statistics.mean_logit);
      tokens.top = detail::to_vector(statistics.is_top);
    }
    std::size_t next = 0, sequence = 0;
    for (std::size_t k = 0; k < rows.size(); ++k) {
      for (std::size_t slot = 0; slot < pass.slots[k]; ++slot, ++sequence) {
        values[k].policy[slot] = sums_of(pass.sequences[sequence], tokens, next);
      }
    }
    return pass;
  }

  // Sums over one sequence's tokens from place `next` on, which moves behind them.
  SequenceSums sums_of(const Scored& sequence, const TokenValues& tokens, std::size_t& next) const {
    SequenceSums sums;
    const std::size_t prompt = sequence.tokens.score_prompt ? sequence.tokens.prompt.size() - 1 : 0;
    for (const std::size_t end = next + prompt; next < end; ++next) sums.prompt_logp += tokens.logp[next];
    const std::size_t length = sequence.tokens.response.size();
    sums.logp = detail::desensitised_sum(tokens.logp.data() + next, static_cast<std::int64_t>(length), sequence.head,
                                         options.ld_alpha);
    for (const std::size_t end = next + length; next < end; ++next) {
      sums.plain_logp += tokens.logp[next];
      if (tokens.entropy.empty()) continue;
      sums.entropy += tokens.entropy[next];
      sums.log_sum_square += tokens.log_sum_square[next];
      sums.mean_logit += tokens.mean_logit[next];
      sums.top += tokens.top[next];
    }
    return sums;
  }

  // d mean loss / d token log-probs of a pass.
  at::Tensor token_gradient(const Pass& pass, std::span<const RowLoss> losses, double rows) const {
    at::Tensor gradient = at::empty({pass.logps.size(0)}, at::kDouble);  // backward rounds it to the log-probs' dtype
    double* g = gradient.mutable_data_ptr<double>();
    std::size_t sequence = 0;
    for (std::size_t k = 0; k < losses.size(); ++k) {
      for (std::size_t slot = 0; slot < pass.slots[k]; ++slot, ++sequence) {
        const Scored& of = pass.sequences[sequence];
        const double slope = losses[k].slope[slot] / rows, plain = losses[k].plain_slope[slot] / rows;
        for (std::size_t t = 1; of.tokens.score_prompt && t < of.tokens.prompt.size(); ++t) *g++ = plain;
        for (std::size_t t = 0; t < of.tokens.response.size(); ++t) {
          *g++ = slope * (static_cast<std::int64_t>(t) < of.head ? 1.0 : options.ld_alpha) + plain;
        }
      }
    }
    return gradient;
  }

  // What the report of a failure tells of a row.
  OrderedJson describe(std::size_t row, const RowValues& values, const RowLoss& loss) const {
    OrderedJson text{{"id", objective->id(row)}, {"row", row}, {"loss", detail::json_number(loss.loss)}};
    const std::vector<Scored> sequences = objective->scored(row);
    for (std::size_t slot = 0; slot < sequences.size(); ++slot) {
      const std::string name = objective->slot_name(slot);
      text["logps/" + name] = detail::json_number(values.policy[slot].logp);
      text["tokens/" + name] = sequences[slot].tokens.response.size();
      if (slot < objective->reference_slots()) text["reference/" + name] = detail::json_number(values.reference[slot]);
    }
    return text;
  }

  void check_finite(std::span<const std::size_t> rows, std::span<const RowValues> values,
                    std::span<const RowLoss> losses, const OrderedJson& seen) {
    for (std::size_t k = 0; k < rows.size(); ++k) {
      bool finite = std::isfinite(losses[k].loss);
      for (const auto* slopes : {&losses[k].slope, &losses[k].plain_slope}) {
        for (const double slope : *slopes) finite = finite && std::isfinite(slope);
      }
      if (finite) continue;
      std::string noun = objective->noun();
      noun.pop_back();
      std::string logps;
      for (std::size_t slot = 0; slot < objective->scored(rows[k]).size(); ++slot) {
        logps += fmt::format("{}{}", slot == 0 ? "" : " and ", values[k].policy[slot].logp);
      }
      core->stop_non_finite(fmt::format("the loss of {} \"{}\" is {} (log-probs {})", noun, objective->id(rows[k]),
                                        losses[k].loss, logps),
                            [&](OrderedJson& report) { report["pairs"] = seen; });
    }
  }

  // Before the first update a policy that starts as its reference must agree with it.
  void check_against_reference(std::span<const std::size_t> rows, std::span<const RowValues> values) {
    if (!self_check) return;
    self_check = false;
    for (std::size_t k = 0; k < rows.size(); ++k) {
      const std::vector<Scored> sequences = objective->scored(rows[k]);
      for (std::size_t slot = 0; slot < objective->reference_slots(); ++slot) {
        const double difference = values[k].policy[slot].logp - values[k].reference[slot];
        const std::size_t length = sequences[slot].tokens.response.size();
        if (std::abs(difference) <= self_check_tolerance(core->model().dtype(), length)) continue;
        throw InternalError(
            fmt::format("train: policy and reference have the same weights, but for \"{}\" their log-probs of {} ({} "
                        "tokens) differ by {}; please report this",
                        objective->id(rows[k]), objective->slot_name(slot), length, difference));
      }
    }
  }

  // The losses of a whole batch. The rewards' running mean takes it in first.
  std::vector<RowLoss> batch_losses(std::span<const std::size_t> batch, std::span<const RowValues> values,
                                    BatchFacts& facts) {
    if (const auto mean = objective->mean_reward(batch, values)) {
      ++reward_count;
      reward_mean += (*mean - reward_mean) / static_cast<double>(reward_count);
      facts.reward_shift = reward_mean;
    }
    return objective->evaluate(batch, values, facts);
  }

  bool step() {
    start();
    core->prune();
    if (core->done()) return false;
    throughput.begin();
    core->begin_step();
    const std::int64_t before = metrics.num_tokens;
    const double mean_before = reward_mean;
    const std::int64_t count_before = reward_count;
    try {
      detail::explain_out_of_memory([&] { run_step(); });
    } catch (...) {
      reward_mean = mean_before;  // as if the step had not been
      reward_count = count_before;
      throw;
    }
    throughput.end(metrics.num_tokens - before);
    core->save_if_due(identity(), progress_to_save(), reference->tensors());
    return true;
  }

  void run_step() {
    const c10::AutoGradMode with_grad(true);
    const std::int64_t step = core->steps_done();
    const std::vector<std::size_t> batch = batches->batch_of(step);
    std::vector<RowValues> values(batch.size());
    BatchFacts facts{.rows = static_cast<double>(batch.size()), .mean_nll_length = objective->mean_nll_length(batch)};
    reference->fill(batch, values);
    facts.kl = reference->kl(step, batch, core->model());
    const auto parts = batches->micro_batches(batch);

    std::vector<RowLoss> losses;
    if (objective->is_batchwise() && parts.size() > 1) {
      // The slopes of any pair need the values of all: a pass without gradients finds them first.
      const c10::NoGradGuard no_grad;
      std::size_t begin = 0;
      for (const auto& part : parts) {
        forward(part, std::span(values).subspan(begin, part.size()));
        begin += part.size();
      }
      losses = batch_losses(batch, values, facts);
    }

    TrainMetrics m;
    m.num_tokens = metrics.num_tokens;
    m.learning_rate = core->learning_rate();
    BatchTotals totals;
    OrderedJson seen = OrderedJson::array();
    std::size_t begin = 0;
    for (const auto& part : parts) {
      const std::span<RowValues> part_values = std::span(values).subspan(begin, part.size());
      const Pass pass = forward(part, part_values);
      std::vector<RowLoss> part_losses;
      if (!losses.empty()) {
        const auto first = losses.begin() + static_cast<std::ptrdiff_t>(begin);
        part_losses.assign(first, first + static_cast<std::ptrdiff_t>(part.size()));
      } else {
        part_losses = objective->is_batchwise() ? batch_losses(part, part_values, facts)
                                                : objective->evaluate(part, part_values, facts);
      }
      for (std::size_t k = 0; k < part.size(); ++k) {
        objective->add(part[k], part_values[k], part_losses[k], totals);
        totals.loss += part_losses[k].loss;
        m.num_tokens += objective->tokens(part[k]);
        seen.push_back(describe(part[k], part_values[k], part_losses[k]));
      }
      check_finite(part, part_values, part_losses, seen);
      check_against_reference(part, part_values);
      core->backward(pass.logps, token_gradient(pass, part_losses, facts.rows));
      begin += part.size();
    }
    m.grad_norm = core->update([&](OrderedJson& report) { report["pairs"] = seen; });
    reference->move(core->model(), core->steps_done());
    finish_metrics(totals, facts, m);
    metrics = m;
  }

  void finish_metrics(const BatchTotals& totals, const BatchFacts& facts, TrainMetrics& m) const {
    const auto& [chosen, rejected] = totals.sides;
    m.loss = totals.loss / facts.rows;
    m.rewards_chosen = chosen.reward / chosen.rows;
    m.rewards_rejected = rejected.reward / rejected.rows;
    m.reward_margin = m.rewards_chosen - m.rewards_rejected;
    m.logps_chosen = chosen.logp / chosen.rows;
    m.logps_rejected = rejected.logp / rejected.rows;
    m.chosen_length = chosen.tokens / chosen.rows;
    m.rejected_length = rejected.tokens / rejected.rows;
    if (options.token_metrics) {
      m.entropy = totals.entropy / totals.tokens;
      m.logits_chosen = chosen.mean_logit / chosen.tokens;
      m.logits_rejected = rejected.mean_logit / rejected.tokens;
    }
    objective->finish(totals, facts, m);
    m.step = core->steps_done();
    m.epoch = static_cast<double>(m.step) / static_cast<double>(batches->steps_per_epoch());
  }

  // Checkpoints

  OrderedJson progress_to_save() const {
    OrderedJson progress_now{{"num_tokens", metrics.num_tokens}};
    if (reward_count > 0) progress_now["rewards"] = {{"mean", reward_mean}, {"steps", reward_count}};
    return progress_now;
  }

  void resume(const detail::SavedState& saved) {
    core->restore(saved, identity());
    const std::string where = (saved.folder / "state.json").string();
    metrics.num_tokens = detail::get_field<std::int64_t>(saved.state, "num_tokens", where);
    metrics.step = core->steps_done();
    if (const auto rewards = saved.state.find("rewards"); rewards != saved.state.end()) {
      reward_mean = detail::get_field<double>(*rewards, "mean", where);
      reward_count = detail::get_field<std::int64_t>(*rewards, "steps", where);
    }
    reference->resume(core->model(), core->total_steps(), saved.tensors);
    started = true;
  }

  // Construction

  // What bounds the rows: the lesser of policy and reference.
  struct Models {
    std::int64_t context = 0, vocab_size = 0;

    Models(const CausalLM& policy, const std::optional<CausalLM>& reference)
        : context(policy.config().context_length()), vocab_size(policy.config().vocab_size) {
      if (!reference) return;
      context = std::min(context, reference->config().context_length());
      vocab_size = std::min(vocab_size, reference->config().vocab_size);
    }
  };

  template <class Row>
  static void refuse_if_empty(const Selection<Row>& selection, std::size_t given, const char* noun) {
    if (!selection.rows.empty()) return;
    std::string why;
    for (const auto& [reason, number] : selection.dropped) why += fmt::format(", {} {}", number, reason);
    throw InputError(fmt::format("train: none of {} {} can be used{}, expected at least one", given, noun, why));
  }

  // Gives rows without an id one, and checks their ids and weight.
  void check_row(std::size_t index, const char* noun, std::string& id, std::initializer_list<const TokenIds*> sequences,
                 double p, double weight, const Models& models) const {
    if (id.empty()) id = fmt::format("#{}", index);
    const std::string where = fmt::format("{} \"{}\"", noun, id);
    for (const TokenIds* ids : sequences) {
      detail::check_ids(*ids, models.vocab_size, where);
    }
    if (!(p >= 0.0 && p <= 1.0) || !(weight >= 0.0 && std::isfinite(weight))) {
      throw InputError(fmt::format("{}: p is {} and weight {}, expected 0 to 1 and 0 or more", where, p, weight));
    }
  }

  LengthLimit limit(const Models& models) const {
    const std::int64_t longest = options.max_length > 0 ? std::min(models.context, options.max_length) : models.context;
    return {.max_length = longest, .truncation = options.truncation, .max_prompt_length = options.max_prompt_length};
  }

  void refuse_other_rows(bool unpaired_rows) const {
    if (is_unpaired(options.loss) == unpaired_rows) return;
    throw InputError(fmt::format("train: the loss {} takes {}, found {}", loss_name(options.loss),
                                 unpaired_rows ? "pairs" : "completions with a label",
                                 unpaired_rows ? "completions" : "pairs"));
  }

  void take(std::vector<TokenPair> given, const Models& models) {
    refuse_other_rows(false);
    const std::size_t count_given = given.size();
    const bool needs_gold = nll_of(options.loss) == NllOf::kGold;
    std::int64_t without_gold = 0;
    if (needs_gold) {
      without_gold =
          static_cast<std::int64_t>(std::erase_if(given, [](const TokenPair& pair) { return pair.gold.empty(); }));
    } else {
      for (TokenPair& pair : given) pair.gold.clear();  // not used: its length must not matter
    }
    pairs = select_pairs(std::move(given), limit(models));
    if (without_gold > 0) pairs.dropped["no_third_response"] = without_gold;
    refuse_if_empty(pairs, count_given, "pairs");
    for (std::size_t i = 0; i < pairs.rows.size(); ++i) {
      TokenPair& pair = pairs.rows[i];
      check_row(i, "pair", pair.id, {&pair.prompt, &pair.chosen, &pair.rejected, &pair.gold}, pair.p, pair.weight,
                models);
      if (sorts_pairs(options.loss) && pair.weight != 1.0) {
        throw InputError(fmt::format("pair \"{}\": weight is {}, expected 1: loss {} sorts its pairs", pair.id,
                                     pair.weight, loss_name(options.loss)));
      }
    }
    objective = detail::make_objective(pairs.rows, options);
  }

  void take(std::vector<TokenCompletion> given, const Models& models) {
    refuse_other_rows(true);
    const std::size_t count_given = given.size();
    completions = select_completions(std::move(given), limit(models));
    refuse_if_empty(completions, count_given, "completions");
    if (std::holds_alternative<KTO>(options.loss)) refuse_long_mismatches(models);
    for (std::size_t i = 0; i < completions.rows.size(); ++i) {
      TokenCompletion& row = completions.rows[i];
      check_row(i, "row", row.id, {&row.prompt, &row.completion}, 1.0, row.weight, models);
    }
    objective = detail::make_objective(completions.rows, options);
  }

  // A mismatched pair may be as long as the longest prompt and the longest completion together, beyond the context.
  void refuse_long_mismatches(const Models& models) const {
    if (completions.rows.size() < 2) {
      throw InputError("train: kto compares each prompt with the completion of another row, expected two rows or more");
    }
    std::size_t prompt = 0, completion = 0;
    for (const TokenCompletion& row : completions.rows) {
      prompt = std::max(prompt, row.prompt.size());
      completion = std::max(completion, row.completion.size());
    }
    if (static_cast<std::int64_t>(prompt + completion) > models.context) {
      throw InputError(fmt::format(
          "train: kto mismatches prompts of up to {} tokens with completions of up to {}, expected both within the "
          "context of {}; lower max_length",
          prompt, completion, models.context));
    }
  }

  template <class Row>
  void begin(CausalLM policy, std::vector<Row> rows, TrainerOptions given, std::optional<CausalLM> reference_model) {
    validate(given);
    options = std::move(given);
    if (policy.lora() != nullptr && options.reference.mode == "moving") {
      throw InputError("train: a policy with adapters and reference.mode \"moving\", expected frozen: the base");
    }
    take(std::move(rows), Models(policy, reference_model));
    data_fingerprint = objective->fingerprint();
    batches = std::make_unique<detail::Batches>(*objective, options);
    reference = std::make_unique<detail::ReferenceLogps>(*objective, options, *batches, std::move(reference_model));
    std::int64_t total = options.epochs * batches->steps_per_epoch();
    if (options.max_steps > 0) total = std::min(total, options.max_steps);
    core =
        std::make_unique<detail::Core>(std::move(policy),
                                       detail::CoreOptions{.optimizer = options.optimizer,
                                                           .schedule = options.schedule,
                                                           .checkpoint = options.checkpoint,
                                                           .activation_checkpointing = options.activation_checkpointing,
                                                           .chunk_tokens = options.chunk_tokens},
                                       total);
  }
};

Trainer::Trainer(CausalLM policy, std::vector<TokenPair> pairs, TrainerOptions options,
                 std::optional<CausalLM> reference)
    : impl_(std::make_unique<Impl>()) {
  impl_->begin(std::move(policy), std::move(pairs), std::move(options), std::move(reference));
}

Trainer::Trainer(CausalLM policy, std::vector<TokenCompletion> rows, TrainerOptions options,
                 std::optional<CausalLM> reference)
    : impl_(std::make_unique<Impl>()) {
  impl_->begin(std::move(policy), std::move(rows), std::move(options), std::move(reference));
}

Trainer::~Trainer() = default;
Trainer::Trainer(Trainer&&) noexcept = default;

void Trainer::start_or_resume(const std::filesystem::path& folder) {
  if (impl_->started)
    throw InputError("Trainer::start_or_resume: training has begun, expected a call before the first step");
  if (impl_->reference->given() && impl_->reference->is_used()) {
    impl_->reference_fingerprint = detail::fingerprint_of(*impl_->reference->given());
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
const std::vector<TokenPair>& Trainer::pairs() const { return impl_->pairs.rows; }
const std::vector<TokenCompletion>& Trainer::completions() const { return impl_->completions.rows; }
const std::map<std::string, std::int64_t>& Trainer::dropped() const {
  return impl_->pairs.rows.empty() ? impl_->completions.dropped : impl_->pairs.dropped;
}
const std::map<std::string, std::int64_t>& Trainer::cut() const {
  return impl_->pairs.rows.empty() ? impl_->completions.cut : impl_->pairs.cut;
}
const std::vector<double>& Trainer::reference_chosen() const { return impl_->reference->of_slot(0); }
const std::vector<double>& Trainer::reference_rejected() const { return impl_->reference->of_slot(1); }
double Trainer::tokens_per_second() const { return impl_->throughput.per_second(); }
void Trainer::set_progress(ProgressSink progress) { impl_->reference->set_progress(std::move(progress)); }

void Trainer::set_reference(ReferenceScorer reference) {
  if (impl_->started) {
    throw InputError("Trainer::set_reference: training has begun, expected a call before the first step");
  }
  const ReferenceOptions& options = impl_->options.reference;
  if (options.mode != "frozen" || !options.file.empty()) {
    throw InputError(fmt::format("Trainer::set_reference: reference mode {}{}, expected frozen without file",
                                 options.mode, options.file.empty() ? "" : " with a file"));
  }
  impl_->reference->set_scorer(std::move(reference));
}

}  // namespace sao
