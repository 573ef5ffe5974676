// SPDX-License-Identifier: Apache-2.0
#include "sao/train/language_model.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "sao/base/error.h"
#include "sao/io/files.h"
#include "train/core.h"
#include "train/problems.h"

namespace sao {
namespace {

using detail::OrderedJson;

// Documents as one packed stream, with the places whose prediction has a weight.
struct WeightedBatch {
  PackedTokens tokens;
  at::Tensor rows, targets;  // [n] int64
  at::Tensor weights;        // [n] float32
};

WeightedBatch pack_documents(std::span<const WeightedDocument* const> documents) {
  std::vector<TokenIds> sequences;
  std::int64_t scored = 0;
  for (const WeightedDocument* document : documents) {
    sequences.emplace_back(document->ids.begin(), document->ids.end() - 1);  // the last token predicts nothing
    for (std::size_t i = 1; i < document->ids.size(); ++i) scored += document->weights[i] != 0.0f;
  }
  WeightedBatch batch{pack(sequences), at::empty({scored}, at::kLong), at::empty({scored}, at::kLong),
                      at::empty({scored}, at::kFloat)};
  std::int64_t* row = batch.rows.mutable_data_ptr<std::int64_t>();
  std::int64_t* target = batch.targets.mutable_data_ptr<std::int64_t>();
  float* weight = batch.weights.mutable_data_ptr<float>();
  std::int64_t begin = 0;
  for (const WeightedDocument* document : documents) {
    for (std::size_t i = 1; i < document->ids.size(); ++i) {
      if (document->weights[i] == 0.0f) continue;
      *row++ = begin + static_cast<std::int64_t>(i) - 1;
      *target++ = document->ids[i];
      *weight++ = document->weights[i];
    }
    begin += static_cast<std::int64_t>(document->ids.size()) - 1;
  }
  return batch;
}

double total_weight(const WeightedDocument& document) {
  double sum = 0.0;
  for (std::size_t i = 1; i < document.weights.size(); ++i) sum += document.weights[i];
  return sum;
}

// Throws InputError; says whether any token counts.
bool check_document(const WeightedDocument& document, std::size_t index, const ModelConfig& config) {
  const std::string where = fmt::format("document {}", index);
  if (document.weights.size() != document.ids.size()) {
    throw InputError(
        fmt::format("{}: {} weights, expected {}, one an id", where, document.weights.size(), document.ids.size()));
  }
  detail::check_ids(document.ids, config.vocab_size, where);
  // The last token is predicted, never fed.
  if (static_cast<std::int64_t>(document.ids.size()) > config.context_length() + 1) {
    throw InputError(fmt::format("{}: {} tokens, expected at most {}: the model's context and the token after it",
                                 where, document.ids.size(), config.context_length() + 1));
  }
  for (const float weight : document.weights) {
    if (!(weight >= 0.0f) || !std::isfinite(weight)) {
      throw InputError(fmt::format("{}: a weight is {}, expected 0 or more", where, weight));
    }
  }
  return total_weight(document) > 0.0;
}

// Whole documents up to `tokens`, at least one: [begin, end) of `documents`.
std::size_t batch_end(std::span<const WeightedDocument* const> documents, std::size_t begin, std::int64_t tokens) {
  std::size_t end = begin;
  std::int64_t taken = 0;
  while (end < documents.size()) {
    taken += static_cast<std::int64_t>(documents[end]->ids.size());
    if (end > begin && taken > tokens) break;
    ++end;
  }
  return end;
}

}  // namespace

void validate(const LanguageModelOptions& options) {
  validate(options.optimizer);
  validate(options.schedule);
  detail::validate(options.checkpoint);
  detail::Problems problems("train");
  problems.need(options.steps >= 1, "steps", options.steps, "at least 1");
  problems.need(options.batch_tokens >= 1, "batch_tokens", options.batch_tokens, "at least 1");
  problems.need(options.micro_batch_tokens >= 1, "micro_batch_tokens", options.micro_batch_tokens, "at least 1");
  problems.need(options.chunk_tokens >= 1, "chunk_tokens", options.chunk_tokens, "at least 1");
  problems.raise();
}

std::string to_json_line(const LanguageModelMetrics& m) {
  const auto number = detail::json_number;
  return detail::dump_json_line(OrderedJson{{"step", m.step},
                                            {"epoch", number(m.epoch)},
                                            {"loss", number(m.loss)},
                                            {"grad_norm", number(m.grad_norm)},
                                            {"learning_rate", number(m.learning_rate)},
                                            {"lr", number(m.learning_rate)},
                                            {"num_tokens", m.num_tokens}});
}

struct LanguageModelTrainer::Impl {
  LanguageModelOptions options;
  std::vector<WeightedDocument> documents;
  std::unique_ptr<detail::Core> core;
  std::string data_fingerprint;
  LanguageModelMetrics metrics;
  detail::Throughput throughput;

  // The next document is place `position` of the order of pass `pass`.
  struct Place {
    std::int64_t pass = 0;
    std::size_t position = 0;
  };
  Place place;
  std::int64_t ordered_pass = -1;
  std::vector<std::size_t> order;
  bool stepped = false;

  const WeightedDocument& document_at(const Place& at) {
    if (at.pass != ordered_pass) {
      order = permutation(options.seed.fork("order").fork(static_cast<std::uint64_t>(at.pass)), documents.size());
      ordered_pass = at.pass;
    }
    return documents[order[at.position]];
  }

  // Whole documents up to batch_tokens, across the border of a pass where it comes; moves `next` behind them.
  std::vector<const WeightedDocument*> take_batch(Place& next) {
    std::vector<const WeightedDocument*> batch;
    std::int64_t tokens = 0;
    while (true) {
      const WeightedDocument& document = document_at(next);
      tokens += static_cast<std::int64_t>(document.ids.size());
      if (!batch.empty() && tokens > options.batch_tokens) return batch;
      batch.push_back(&document);
      if (++next.position == documents.size()) next = {.pass = next.pass + 1};
      if (tokens >= options.batch_tokens) return batch;
    }
  }

  OrderedJson identity() const {
    OrderedJson all = detail::options_to_json(options);
    all.erase("checkpoint");
    return {{"trainer", "language_model"},
            {"documents", documents.size()},
            {"data", data_fingerprint},
            {"dtype", at::toString(core->model().dtype())},
            {"options", std::move(all)}};
  }

  bool step() {
    stepped = true;
    core->prune();
    if (core->done()) return false;
    throughput.begin();
    const c10::AutoGradMode with_grad(true);
    core->begin_step();
    Place next = place;  // kept once the step is done: one that fails is taken again
    const std::vector<const WeightedDocument*> batch = take_batch(next);
    LanguageModelMetrics m{.learning_rate = core->learning_rate(), .num_tokens = metrics.num_tokens};
    double weight = 0.0;
    for (const WeightedDocument* document : batch) {
      weight += total_weight(*document);
      m.num_tokens += static_cast<std::int64_t>(document->ids.size());
    }
    detail::explain_out_of_memory([&] {
      for (std::size_t begin = 0; begin < batch.size();) {
        const std::size_t end = batch_end(batch, begin, options.micro_batch_tokens);
        WeightedBatch part = pack_documents(std::span(batch).subspan(begin, end - begin));
        part.tokens.dropout = options.seed.fork("dropout").fork(static_cast<std::uint64_t>(core->steps_done()));
        const at::Tensor logps = core->scored_logps(part.tokens, part.rows, part.targets);
        const at::Tensor gradient = part.weights.to(logps.scalar_type()) * (-1.0 / weight);
        const double loss = logps.detach().to(at::kCPU, at::kDouble).dot(gradient.to(at::kDouble)).item<double>();
        m.loss += loss;
        if (!std::isfinite(loss)) {
          core->stop_non_finite(fmt::format("the loss is {}", loss), [&](OrderedJson& report) {
            report["documents"] = {{"pass", next.pass}, {"before", next.position}, {"in_step", batch.size()}};
          });
        }
        core->backward(logps, gradient);
        begin = end;
      }
      m.grad_norm = core->update({});
    });
    place = next;
    m.step = core->steps_done();
    m.epoch =
        static_cast<double>(place.pass) + static_cast<double>(place.position) / static_cast<double>(documents.size());
    throughput.end(m.num_tokens - metrics.num_tokens);
    metrics = m;
    core->save_if_due(identity(), {{"num_tokens", m.num_tokens}, {"pass", place.pass}, {"position", place.position}},
                      {});
    return true;
  }
};

LanguageModelTrainer::LanguageModelTrainer(CausalLM model, std::vector<WeightedDocument> documents,
                                           LanguageModelOptions options)
    : impl_(std::make_unique<Impl>()) {
  validate(options);
  std::string bytes;
  for (std::size_t i = 0; i < documents.size(); ++i) {
    WeightedDocument& document = documents[i];
    if (!check_document(document, i, model.config())) continue;  // nothing to learn from it
    const std::size_t size = document.ids.size();
    bytes.append(reinterpret_cast<const char*>(&size), sizeof size);
    bytes.append(reinterpret_cast<const char*>(document.ids.data()), size * sizeof(TokenId));
    bytes.append(reinterpret_cast<const char*>(document.weights.data()), size * sizeof(float));
    impl_->documents.push_back(std::move(document));
  }
  if (impl_->documents.empty()) throw InputError("train: no document has a token with a weight, expected at least one");
  impl_->data_fingerprint = fingerprint(bytes);
  impl_->core =
      std::make_unique<detail::Core>(std::move(model),
                                     detail::CoreOptions{.optimizer = options.optimizer,
                                                         .schedule = options.schedule,
                                                         .checkpoint = options.checkpoint,
                                                         .activation_checkpointing = options.activation_checkpointing,
                                                         .chunk_tokens = options.chunk_tokens},
                                     options.steps);
  impl_->options = std::move(options);
}

LanguageModelTrainer::~LanguageModelTrainer() = default;
LanguageModelTrainer::LanguageModelTrainer(LanguageModelTrainer&&) noexcept = default;

void LanguageModelTrainer::start_or_resume(const std::filesystem::path& folder) {
  Impl& impl = *impl_;
  if (impl.stepped) {
    throw InputError(
        "LanguageModelTrainer::start_or_resume: training has begun, expected a call before the first step");
  }
  const auto saved = impl.core->open(folder);
  if (!saved) return;
  impl.core->restore(*saved, impl.identity());
  const std::string where = (saved->folder / "state.json").string();
  impl.metrics.num_tokens = detail::get_field<std::int64_t>(saved->state, "num_tokens", where);
  impl.metrics.step = impl.core->steps_done();
  const auto pass = detail::get_field<std::int64_t>(saved->state, "pass", where);
  const auto position = detail::get_field<std::int64_t>(saved->state, "position", where);
  if (pass < 0 || position < 0 || position >= static_cast<std::int64_t>(impl.documents.size())) {
    throw InputError(fmt::format("{}: position {} of pass {}, expected one of {} documents", where, position, pass,
                                 impl.documents.size()));
  }
  impl.place = {.pass = pass, .position = static_cast<std::size_t>(position)};
}

bool LanguageModelTrainer::step() { return impl_->step(); }
const LanguageModelMetrics& LanguageModelTrainer::metrics() const { return impl_->metrics; }
std::int64_t LanguageModelTrainer::steps_done() const { return impl_->core->steps_done(); }
double LanguageModelTrainer::tokens_per_second() const { return impl_->throughput.per_second(); }

double weighted_nll(const CausalLM& model, std::span<const WeightedDocument> documents, const ScoringOptions& options) {
  const c10::NoGradGuard no_grad;
  std::vector<const WeightedDocument*> counted;
  double weight = 0.0, sum = 0.0;
  for (std::size_t i = 0; i < documents.size(); ++i) {
    if (!check_document(documents[i], i, model.config())) continue;
    counted.push_back(&documents[i]);
    weight += total_weight(documents[i]);
  }
  if (counted.empty()) throw InputError("weighted_nll: no document has a token with a weight, expected at least one");
  for (std::size_t begin = 0; begin < counted.size();) {
    const std::size_t end = batch_end(counted, begin, options.batch_tokens);
    const WeightedBatch batch = pack_documents(std::span(counted).subspan(begin, end - begin));
    const at::Tensor hidden = model.hidden(batch.tokens).index_select(0, batch.rows.to(model.device()));
    const at::Tensor logps = model.log_probs(hidden, batch.targets, options.chunk_tokens);
    sum -= logps.to(at::kCPU, at::kDouble).dot(batch.weights.to(at::kDouble)).item<double>();
    begin = end;
  }
  return sum / weight;
}

}  // namespace sao
