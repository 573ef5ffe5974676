// SPDX-License-Identifier: Apache-2.0
#include "pretrain.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <numbers>
#include <string>

#include "muon.h"
#include "sao/base/error.h"
#include "sao/io/files.h"
#include "sao/model/causal_lm.h"
#include "sao/ops/log_probs.h"
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

// Muon for the matrices inside the layers, AdamW for the embedding and the norms.
class Training {
 public:
  Training(const sao::CausalLM& model, const PretrainOptions& options)
      : model_(model),
        options_(options),
        muon_(select(model, true)),
        adamw_(select(model, false),
               {.learning_rate = options.learning_rate, .beta2 = 0.98, .weight_decay = 0.05, .max_grad_norm = 1.0}) {
    model.set_requires_grad(true);
  }
  ~Training() { model_.set_requires_grad(false); }

  // Returns the weighted mean NLL of the batch.
  double step(const std::vector<sao::WeightedDocument>& batch, std::int64_t step) {
    std::vector<sao::TokenIds> sequences;
    std::vector<std::int64_t> rows, targets;
    std::vector<float> weights;
    std::int64_t begin = 0;
    for (const sao::WeightedDocument& document : batch) {
      for (std::size_t i = 1; i < document.ids.size(); ++i) {
        if (document.weights[i] <= 0.0f) continue;
        rows.push_back(begin + static_cast<std::int64_t>(i) - 1);
        targets.push_back(document.ids[i]);
        weights.push_back(document.weights[i]);
      }
      sequences.push_back(document.ids);
      begin += static_cast<std::int64_t>(document.ids.size());
    }
    const at::Tensor hidden = model_.hidden(sao::pack(sequences)).index_select(0, at::tensor(rows));
    const at::Tensor log_probs =
        sao::ops::log_probs(hidden, model_.output_weight(), at::tensor(targets),
                            {.logit_softcap = model_.config().final_logit_softcapping, .chunk_tokens = 1024});
    const at::Tensor weight = at::tensor(weights);
    const at::Tensor loss = -(log_probs * weight).sum() / weight.sum();
    loss.backward();

    double squares = 0.0;
    for (const auto& [name, tensor] : model_.parameters()) {
      const double norm = tensor.grad().norm().item<double>();
      squares += norm * norm;
    }
    const double norm = std::sqrt(squares);
    const double factor = schedule(step);
    muon_.update(options_.matrix_learning_rate * factor, norm > 1.0 ? 1.0 / norm : 1.0);
    adamw_.accumulate();
    adamw_.update(norm, options_.learning_rate * factor);
    model_.weights_changed();
    return loss.item<double>();
  }

 private:
  static sao::NamedTensors select(const sao::CausalLM& model, bool layer_matrices) {
    sao::NamedTensors selected;
    for (const auto& [name, tensor] : model.parameters()) {
      if ((tensor.dim() == 2 && name.starts_with("model.layers.")) == layer_matrices)
        selected.emplace_back(name, tensor);
    }
    return selected;
  }

  // Warm-up over 40 steps, flat, then a cosine from 40 % of the steps on.
  double schedule(std::int64_t step) const {
    const double warmup = std::min(1.0, static_cast<double>(step + 1) / 40.0);
    const double done = static_cast<double>(step) / static_cast<double>(options_.steps);
    const double decay = done < 0.4 ? 1.0 : 0.02 + 0.98 * 0.5 * (1.0 + std::cos(std::numbers::pi * (done - 0.4) / 0.6));
    return warmup * decay;
  }

  sao::CausalLM model_;
  PretrainOptions options_;
  Muon muon_;
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
  std::uint64_t next_document = 0;  // the corpus has no end: no document comes twice
  double mean_loss = 0.0;
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t step = 0; step < options.steps; ++step) {
    std::vector<sao::WeightedDocument> batch;
    for (std::int64_t tokens = 0; tokens < options.tokens_a_step;) {
      batch.push_back(encoder.encode(compose_document(seed, next_document++, mix)));
      tokens += static_cast<std::int64_t>(batch.back().ids.size());
    }
    const double loss = training.step(batch, step);
    mean_loss = step == 0 ? loss : 0.98 * mean_loss + 0.02 * loss;
    if ((step + 1) % 100 == 0 || step + 1 == options.steps) {
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      say(fmt::format("step {} of {}: loss {:.4f}, {} documents, {:.0f} s", step + 1, options.steps, mean_loss,
                      next_document, seconds));
    }
  }
  model.save(folder, draft);
  std::filesystem::remove_all(draft);
}

}  // namespace microworld
