// SPDX-License-Identifier: Apache-2.0
// LoRA (Hu et al. 2021): small trainable matrices beside frozen weights, y = W x + scaling * B (A x). Adapters are read
// and written in the folder format of Hugging Face's PEFT.
//   const auto policy = base.with_lora({.r = 16, .lora_alpha = 32}, sao::Seed{42});  // base's weights and an adapter
//   sao::Trainer trainer(policy, pairs, {.loss = sao::DPO{}});                         // its reference is the base
//   while (trainer.step()) {}
//   policy.lora()->save("adapter", "llama-3-8b");       // for PEFT, vLLM, ...
//   policy.merged().save("merged", "llama-3-8b");       // a model without adapters
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "sao/base/options.h"
#include "sao/base/seed.h"
#include "sao/io/safetensors.h"
#include "sao/model/config.h"

namespace sao {

/// Field names are those of PEFT's adapter_config.json.
struct LoraOptions {
  std::int64_t r = 16;        ///< rank: rows of A, columns of B
  double lora_alpha = 32.0;   ///< scaling = lora_alpha / r
  double lora_dropout = 0.0;  ///< share of the inputs of A that are zero in training. TRL sets it to 0 for DPO
  std::string target_modules = "all-linear";  ///< every linear of the layers, or names: "q_proj,v_proj"
  bool use_rslora = false;                    ///< scaling = lora_alpha / sqrt(r) (Kalajdzievski 2023)
};

template <class Visitor, OptionsOf<LoraOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("r", options.r, "rank of the adapters");
  visit("lora_alpha", options.lora_alpha, "what the adapters add is scaled by lora_alpha / r");
  visit("lora_dropout", options.lora_dropout, "share of the adapters' inputs that are dropped in training");
  visit("target_modules", options.target_modules, "all-linear, or names with commas between: q_proj,v_proj");
  visit("use_rslora", options.use_rslora, "scale by lora_alpha / sqrt(r) instead");
}

/// Throws InputError naming every field that is out of range.
void validate(const LoraOptions& options);

/// How far a merged model's logits may lie from those with adapters, as a share of the largest logit (at least of 1):
/// what rounding explains. By the narrower dtype of the two.
struct MergeTolerance {
  double float64 = 1e-9;
  double float32 = 1e-3;
  double half = 0.05;  ///< bfloat16 and float16
};
inline constexpr MergeTolerance kMergeTolerance;

/// What is added to one linear of a model.
struct LoraModule {
  std::string name = {};  ///< of the linear in the checkpoint: "model.layers.0.self_attn.q_proj"
  at::Tensor a = {};      ///< [r, inputs]
  at::Tensor b = {};      ///< [outputs, r]
  double alpha = 0.0;     ///< lora_alpha of this module
  double scaling = 0.0;   ///< of B A: alpha / r, or alpha / sqrt(r)
};

/// The adapters of a whole model: a value that shares its tensors with its copies.
struct LoraAdapter {
  LoraOptions options = {};              ///< as made or read; rank and alpha of a module may differ from them
  std::vector<LoraModule> modules = {};  ///< in the order of the model's linears

  /// New adapters, float32 on the CPU: A uniform in +-1/sqrt(inputs), B zero, so that the model is the base at first
  /// (PEFT's default). A pure function of the seed and the module's name. Throws InputError as validate does, for a
  /// target that the model does not have, for lm_head (log-probs are computed from its matrix directly, so that an
  /// adapter on it would never be used; TRL refuses it too) and for the embedding.
  static LoraAdapter random(const ModelConfig& config, const LoraOptions& options, Seed seed);

  /// Reads PEFT's folder: adapter_config.json and adapter_model.safetensors (F32, BF16, F16 or F64; held as float32,
  /// of F64 as float64). Which linears have adapters is what the file of tensors says; ranks are their shapes, alphas
  /// by alpha_pattern. Throws InputError naming file and field or tensor: variants that libsao does not have (DoRA,
  /// biases, modules_to_save, initialisations that change the base, patterns that are no plain names, ...), adapters
  /// of the embedding or of lm_head, shapes that do not fit `config`, a missing half.
  static LoraAdapter load(const std::filesystem::path& folder, const ModelConfig& config);

  /// Writes such a folder, replacing `folder` as a whole. `base_model` is the name or path of the base model that it
  /// records. Throws InputError for a folder that holds files but no adapter_config.json, ResourceError.
  void save(const std::filesystem::path& folder, const std::string& base_model) const;

  /// "<module>.lora_A.weight" and "<module>.lora_B.weight" of every module: what is trained.
  NamedTensors parameters() const;
};

}  // namespace sao
