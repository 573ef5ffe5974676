// SPDX-License-Identifier: Apache-2.0
#include "pretrain.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <future>
#include <numbers>
#include <string>
#include <vector>

#include "muon.h"
#include "sao/base/error.h"
#include "sao/io/files.h"
#include "sao/model/causal_lm.h"
#include "sao/text/chat.h"
#include "sao/train/language_model.h"
#include "sao/train/optimizer.h"
#include "templates.h"
#include "tokenizer_training.h"
#include "world.h"

namespace microworld {
namespace {

sao::ModelConfig model_config(const PretrainOptions& options, std::int64_t vocab_size, sao::TokenId turn_end) {
  return {.model_type = "gemma2",
          .vocab_size = vocab_size,
          .hidden_size = options.hidden_size,
          .intermediate_size = options.intermediate_size,
          .num_hidden_layers = options.layers,
          .num_attention_heads = options.heads,
          .num_key_value_heads = options.kv_heads,
          .head_dim = options.hidden_size / options.heads,
          .max_position_embeddings = 512,
          .rms_norm_eps = 1e-6,
          .rope_theta = 10000.0,
          .tie_word_embeddings = true,
          .hidden_act = "gelu_pytorch_tanh",
          .zero_centered_norm = true,
          .post_norms = true,
          .embedding_scale = std::sqrt(static_cast<double>(options.hidden_size)),
          .attention_scale = 1.0 / std::sqrt(static_cast<double>(options.hidden_size / options.heads)),
          .attn_logit_softcapping = 50.0,
          .final_logit_softcapping = 30.0,
          .layer_windows =
              [&] {
                std::vector<std::int64_t> windows(static_cast<std::size_t>(options.layers), 0);
                for (std::size_t i = 0; i < windows.size(); i += 2) windows[i] = 256;
                return windows;
              }(),
          .eos_token_ids = {1, turn_end}};
}

// Small residual branches at first: a few hundred steps count for much here.
void scale_initial_weights(const sao::CausalLM& model) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : model.parameters()) {
    at::Tensor weight = tensor;
    if (name == "model.embed_tokens.weight") {
      weight.mul_(1.0 / std::sqrt(static_cast<double>(weight.size(1))));
    } else if (weight.dim() == 2) {
      weight.mul_(0.6 / std::sqrt(static_cast<double>(weight.size(1))));
    } else if (name.find("post_attention_layernorm") != std::string::npos ||
               name.find("post_feedforward_layernorm") != std::string::npos) {
      weight.fill_(-0.75);
    }
  }
  model.weights_changed();
}

// Turns as the chat format writes them; every token with the weight of its turn.
class Encoder {
 public:
  explicit Encoder(const sao::ChatTokenizer& text) : text_(text) {
    const sao::Tokenizer& tokenizer = text.tokenizer();
    const sao::TokenIds first = tokenizer.encode(std::string(kJudgePrefix) + std::string(kJudgeFirst));
    const sao::TokenIds second = tokenizer.encode(std::string(kJudgePrefix) + std::string(kJudgeSecond));
    while (verdict_position_ < first.size() && first[verdict_position_] == second[verdict_position_])
      ++verdict_position_;
    for (const std::string role : {"user", "model"}) {
      const std::size_t index = role == "user" ? 0 : 1;
      headers_[index] = tokenizer.encode("<start_of_turn>" + role + "\n");
    }
    separator_ = tokenizer.encode("\n");
  }

  sao::WeightedDocument encode(const Document& document) const {
    sao::WeightedDocument out;
    add(out, {*text_.tokenizer().bos_id()}, 0.0f);
    for (std::size_t t = 0; t < document.turns.size(); ++t) {
      const Turn& turn = document.turns[t];
      if (t > 0) add(out, separator_, 0.0f);
      add(out, headers_[turn.role == "user" ? 0 : 1], 0.0f);
      const std::size_t begin = out.ids.size();
      add(out, text_.tokenizer().encode(turn.text, false), static_cast<float>(turn.weight));
      if (turn.label_end > turn.label_begin) {
        // What leads to the verdict is the same every time; the verdict is what is to be learnt.
        for (std::size_t i = 0; i < verdict_position_; ++i) out.weights[begin + i] *= 0.1f;
        out.weights[begin + verdict_position_] = static_cast<float>(turn.label_weight);
      }
      // The model learns to end its turn; a user turn that is not learnt ends without weight.
      const float end_weight = turn.role == "user" && t == 0 ? 0.0f : static_cast<float>(turn.weight);
      add(out, {text_.turn_end_id()}, end_weight);
    }
    return out;
  }

 private:
  static void add(sao::WeightedDocument& document, const sao::TokenIds& ids, float weight) {
    document.ids.insert(document.ids.end(), ids.begin(), ids.end());
    document.weights.insert(document.weights.end(), ids.size(), weight);
  }

  const sao::ChatTokenizer& text_;
  sao::TokenIds headers_[2];
  sao::TokenIds separator_;
  std::size_t verdict_position_ = 0;
};

// A batch is the work of two threads, half of its documents each: matrices this small gain more from that than from two
// threads at one product. The halves are the same on every machine, and so are the sums.
constexpr std::size_t kHalves = 2;

template <class Work>
void in_halves(const Work& work) {
  std::future<void> other = std::async(std::launch::async, [&] { work(std::size_t{1}); });
  work(std::size_t{0});
  other.get();
}

// One thread for each operation while it lives.
class SingleThreadedOperations {
 public:
  SingleThreadedOperations() : before_(at::get_num_threads()) { at::set_num_threads(1); }
  ~SingleThreadedOperations() { at::set_num_threads(before_); }
  SingleThreadedOperations(const SingleThreadedOperations&) = delete;
  SingleThreadedOperations& operator=(const SingleThreadedOperations&) = delete;

 private:
  int before_;
};

// One half of a batch: a packed stream, and the weighted targets in it.
struct Half {
  std::vector<sao::TokenIds> sequences;
  std::vector<std::int64_t> rows, targets;
  std::vector<float> weights;
  std::int64_t tokens = 0;

  void add(const sao::WeightedDocument& document) {
    for (std::size_t i = 1; i < document.ids.size(); ++i) {
      if (document.weights[i] <= 0.0f) continue;
      rows.push_back(tokens + static_cast<std::int64_t>(i) - 1);
      targets.push_back(document.ids[i]);
      weights.push_back(document.weights[i]);
    }
    sequences.push_back(document.ids);
    tokens += static_cast<std::int64_t>(document.ids.size());
  }
};
using Batch = std::array<Half, kHalves>;

// Muon for the matrices inside the layers, AdamW for the embedding and the norms.
class Training {
 public:
  Training(const sao::CausalLM& model, const PretrainOptions& options)
      : models_{model, model.clone_frozen()},
        options_(options),
        muons_{Muon(select(Part::kFirstMatrices)), Muon(select(Part::kSecondMatrices))},
        adamw_(select(Part::kOthers),
               {.learning_rate = options.learning_rate, .beta2 = 0.98, .weight_decay = 0.05, .max_grad_norm = 1.0}) {
    for (const sao::CausalLM& each : models_) each.set_requires_grad(true);
  }
  ~Training() { models_[0].set_requires_grad(false); }
  Training(const Training&) = delete;
  Training& operator=(const Training&) = delete;

  // Returns the weighted mean NLL of the batch.
  double step(const Batch& batch, std::int64_t step) {
    double total_weight = 0.0;
    for (const Half& half : batch) {
      for (const float weight : half.weights) total_weight += weight;
    }
    std::array<double, kHalves> losses{};
    in_halves([&](std::size_t h) { losses[h] = differentiate(models_[h], batch[h], total_weight); });

    const double norm = add_gradients();
    const double factor = schedule(step);
    const double scale = norm > 1.0 ? 1.0 / norm : 1.0;
    in_halves([&](std::size_t h) { muons_[h].update(options_.matrix_learning_rate * factor, scale); });
    adamw_.accumulate();
    adamw_.update(norm, options_.learning_rate * factor);
    models_[0].weights_changed();
    copy_weights();
    return losses[0] + losses[1];
  }

 private:
  enum class Part { kFirstMatrices, kSecondMatrices, kOthers };

  sao::NamedTensors select(Part part) const {
    sao::NamedTensors selected;
    std::size_t matrices = 0;
    for (const auto& [name, tensor] : models_[0].parameters()) {
      const bool of_layer = tensor.dim() == 2 && name.starts_with("model.layers.");
      const Part its = !of_layer                   ? Part::kOthers
                       : matrices++ % kHalves == 0 ? Part::kFirstMatrices
                                                   : Part::kSecondMatrices;
      if (its == part) selected.emplace_back(name, tensor);
    }
    return selected;
  }

  // Leaves the gradient of this half's share of the loss in the model's parameters.
  static double differentiate(const sao::CausalLM& model, const Half& half, double total_weight) {
    const at::Tensor hidden = model.hidden(sao::pack(half.sequences)).index_select(0, at::tensor(half.rows));
    const at::Tensor log_probs = model.log_probs(hidden, at::tensor(half.targets), /*chunk_tokens=*/1024);
    const at::Tensor loss = (log_probs * at::tensor(half.weights)).sum() / -total_weight;
    loss.backward();
    return loss.item<double>();
  }

  // Into the first model; returns their global norm.
  double add_gradients() {
    const at::NoGradGuard no_grad;
    double squares = 0.0;
    for (std::size_t i = 0; i < models_[0].parameters().size(); ++i) {
      const at::Tensor gradient = models_[0].parameters()[i].second.grad();
      at::Tensor other = models_[1].parameters()[i].second;
      gradient.add_(other.grad());
      other.mutable_grad().reset();
      const double norm = gradient.norm().item<double>();
      squares += norm * norm;
    }
    return std::sqrt(squares);
  }

  void copy_weights() {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < models_[0].parameters().size(); ++i) {
      at::Tensor other = models_[1].parameters()[i].second;
      other.copy_(models_[0].parameters()[i].second);
    }
    models_[1].weights_changed();
  }

  // Warm-up over 40 steps, flat, then a cosine from 40 % of the steps on.
  double schedule(std::int64_t step) const {
    const double warmup = std::min(1.0, static_cast<double>(step + 1) / 40.0);
    const double done = static_cast<double>(step) / static_cast<double>(options_.steps);
    const double decay = done < 0.4 ? 1.0 : 0.02 + 0.98 * 0.5 * (1.0 + std::cos(std::numbers::pi * (done - 0.4) / 0.6));
    return warmup * decay;
  }

  std::array<sao::CausalLM, kHalves> models_;  // the second is a copy for the second thread
  PretrainOptions options_;
  std::array<Muon, kHalves> muons_;
  sao::AdamW adamw_;
};

std::string templates_json() {
  const auto quoted = [](std::string_view text) {
    std::string out = "\"";
    for (const char c : text) out += c == '\n' ? std::string("\\n") : std::string(1, c);
    return out + "\"";
  };
  return fmt::format(
      "{{\n  \"persona\": {},\n  \"unguided\": {},\n  \"judge\": {},\n  \"judge_prefix\": {},\n  \"judge_first\": {},\n"
      "  \"judge_second\": {},\n  \"criteria\": []\n}}\n",
      quoted(kPersonaTemplate), quoted(kUnguidedTemplate), quoted(kJudgeTemplate), quoted(kJudgePrefix),
      quoted(kJudgeFirst), quoted(kJudgeSecond));
}

}  // namespace

void pretrain(const std::filesystem::path& folder, const PretrainOptions& options, const sao::LogSink& log) {
  const auto say = [&](const std::string& message) {
    if (log) log(sao::LogLevel::kInfo, message);
  };
  const std::uint64_t seed = static_cast<std::uint64_t>(options.seed);
  const MixOptions mix;
  const std::filesystem::path draft = folder.string() + ".tokenizer";
  std::filesystem::create_directories(draft);
  train_tokenizer(draft, seed, options.tokenizer_documents, options.vocab_size, mix);
  sao::write_file_atomically(draft / "sao_templates.json", templates_json());
  // The folder must say what a model is before ChatTokenizer can read its stop ids.
  const sao::ChatTokenizer text = sao::ChatTokenizer::load(draft);
  sao::write_file_atomically(
      draft / "generation_config.json",
      fmt::format("{{\n  \"bos_token_id\": 2,\n  \"eos_token_id\": [1, {}],\n  \"pad_token_id\": 0\n}}\n",
                  text.turn_end_id()));
  say(fmt::format("tokenizer: {} pieces", text.tokenizer().vocab_size()));

  const sao::CausalLM model = sao::CausalLM::random(
      model_config(options, text.tokenizer().vocab_size(), text.turn_end_id()), sao::Seed{seed}, {}, 1.0);
  scale_initial_weights(model);
  say(fmt::format("model: {} parameters", model.config().parameter_count()));

  Training training(model, options);
  const Encoder encoder(text);
  const SingleThreadedOperations single_threaded;
  std::array<std::uint64_t, kHalves> documents{};  // the corpus has no end: no document comes twice
  double mean_loss = 0.0;
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t step = 0; step < options.steps; ++step) {
    Batch batch;
    in_halves([&](std::size_t h) {
      while (batch[h].tokens < options.tokens_a_step / static_cast<std::int64_t>(kHalves)) {
        batch[h].add(encoder.encode(compose_document(seed, kHalves * documents[h]++ + h, mix)));
      }
    });
    const double loss = training.step(batch, step);
    mean_loss = step == 0 ? loss : 0.98 * mean_loss + 0.02 * loss;
    if ((step + 1) % 100 == 0 || step + 1 == options.steps) {
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      say(fmt::format("step {} of {}: loss {:.4f}, {} documents, {:.0f} s", step + 1, options.steps, mean_loss,
                      documents[0] + documents[1], seconds));
    }
  }
  model.save(folder, draft);
  std::filesystem::remove_all(draft);
}

}  // namespace microworld
