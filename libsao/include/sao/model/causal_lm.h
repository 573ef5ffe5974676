// SPDX-License-Identifier: Apache-2.0
// The decoder-only transformer, described by its config; one implementation for training, scoring and generation.
//   auto model = sao::CausalLM::load("gemma-2-2b-it", {.device = "cpu"});
//   at::Tensor hidden = model.hidden(sao::pack(sequences));       // [T, hidden_size]
//   at::Tensor logits = model.logits(hidden);                     // [T, vocab_size]
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sao/base/device.h"
#include "sao/base/seed.h"
#include "sao/io/safetensors.h"
#include "sao/model/config.h"
#include "sao/model/kv_cache.h"
#include "sao/model/lora.h"
#include "sao/model/packed_tokens.h"

namespace sao {

namespace ops {
struct TokenStatistics;
}

/// What a model is for, which decides how it holds its weights in float32 on the CPU, where inference computes with
/// packed copies of the matrices. Elsewhere there are no such copies, and kInference is as kAll.
enum class Purpose {
  kAll,           ///< to be trained, saved and inferred with: the matrices, and their copies while they are used
  kInference,     ///< the copies only: about half of the memory; no gradients, no access to the weights
  kInt8Inference  ///< the same of the copies that with_int8_inference makes; an embedding stays in float32
};

struct LoadOptions {
  std::string device = "cpu";       ///< "cpu" or "cuda:N"
  DType dtype = DType::kFloat32;    ///< of weights and computation
  Purpose purpose = Purpose::kAll;  ///< kInt8Inference: float32 on the CPU only, InputError otherwise
};

/// A handle on one set of weights; copies share them.
class CausalLM {
 public:
  /// Reads a Hugging Face folder; of a checkpoint that reads images too (gemma3) the language model, which is all that
  /// save() writes then. Throws InputError naming file and tensor when one is missing, of another shape,
  /// of a dtype that is not floating point, or when the folder holds tensors that the config does not know.
  static CausalLM load(const std::filesystem::path& folder, const LoadOptions& options = {});

  /// New weights: normal(0, initializer_range) matrices, norms at their identity; a pure function of the seed. Throws
  /// InputError as validate(config) does.
  static CausalLM random(const ModelConfig& config, Seed seed, const LoadOptions& options = {},
                         double initializer_range = 0.02);

  const ModelConfig& config() const;
  at::Device device() const;
  at::ScalarType dtype() const;
  /// True of a model in float32 on the CPU that was made for inference only: nothing it computes is differentiable, and
  /// output_weight, parameters, trainable_parameters, set_requires_grad, with_lora, merged, clone_frozen and save throw
  /// InputError.
  bool inference_only() const;

  /// Hidden states after the final norm: [T, hidden_size]. Differentiable unless gradients are off. Every sequence
  /// of `tokens` is causal and sees only itself and its parent. With gradients off the result of a token depends on its
  /// own sequence only, bit for bit, whatever else is in the pack (CPU). Throws InputError for a sequence longer than
  /// config().context_length(), starts that do not rise from 0 to T, and ids outside the vocabulary (of a pack on the
  /// CPU). With gradients off, in float32 on the CPU, a pack of more than kInferenceTokens is computed in parts of as
  /// many, or of one sequence and those that continue it.
  at::Tensor hidden(const PackedTokens& tokens) const;
  static constexpr std::int64_t kInferenceTokens = 2048;

  /// The same, continuing the sequences of a cache: `ids` [T] int64 are the new tokens that `step` plans for;
  /// their keys and values are added to `cache`. Never differentiable. Throws InputError as above, and for another
  /// number of ids than `step` has.
  at::Tensor hidden(const at::Tensor& ids, KvCache& cache, const KvStep& step) const;

  /// Embeddings and the output of every layer, for comparison with a reference: hidden_states[0] = embeddings
  /// (scaled), [i] = output of layer i-1; the last one before the final norm.
  std::vector<at::Tensor> hidden_states(const PackedTokens& tokens) const;

  /// Soft-capped logits [n, vocab_size] in float32 of hidden states [n, hidden_size].
  at::Tensor logits(const at::Tensor& hidden) const;

  /// Log-probs [n] of `targets` [n] int64 after hidden states [n, hidden_size]: ops::log_probs with the output matrix
  /// and the soft cap of this model, which it has packed already where it infers on the CPU. `statistics` is filled in
  /// when given.
  at::Tensor log_probs(const at::Tensor& hidden, const at::Tensor& targets, std::int64_t chunk_tokens = 512,
                       ops::TokenStatistics* statistics = nullptr) const;

  /// The output matrix [vocab_size, hidden_size] (the embedding when tied), for log-probs without logits.
  const at::Tensor& output_weight() const;

  /// Weights by their checkpoint names, in a fixed order; a tied lm_head appears once, as the embedding. Without those
  /// of adapters.
  const NamedTensors& parameters() const;

  /// What training changes: the matrices of the adapters where the model has some, else parameters().
  const NamedTensors& trainable_parameters() const;

  /// Switches requires_grad of all trainable parameters. On: frees the packed copies of the weights that inference
  /// made, which training has no use for.
  void set_requires_grad(bool requires_grad) const;

  /// Recompute each layer in backward instead of keeping its activations.
  void set_activation_checkpointing(bool enabled);

  /// A handle on the same weights with adapters beside them, which alone are trained: the base's gradients are
  /// switched off and it needs no memory of the optimizer. Tensors of `adapter` are shared where they are on the
  /// model's device and of its adapters' dtype: float32, of a float64 model float64. Training and what is not float32
  /// on the CPU compute W x + scaling * B (A x); inference in float32 on the CPU merges the adapters into its packed
  /// copies of the weights, as merged() does, and costs what the base costs. Throws InputError for a model that has
  /// adapters, and for modules and shapes that it does not have.
  CausalLM with_lora(LoraAdapter adapter) const;
  /// The same with new adapters: LoraAdapter::random.
  CausalLM with_lora(const LoraOptions& options, Seed seed) const;
  /// The adapters, null where there are none. They hold the tensors that training changes.
  const LoraAdapter* lora() const;
  /// The model without its adapters: the handle that they were added to. The reference of DPO, at no cost.
  CausalLM base() const;

  /// A handle on the same weights (and adapters) whose inference computes with 8-bit copies of the matrices:
  /// ops::WeightFormat::kInt8; embeddings and norms stay as they are. It follows changes of the weights; the copies are
  /// freed with it. Logits differ from this model's by what rounding does (docs/performance.md). A model that infers in
  /// 8 bits already: itself. Throws InputError for a model that is not float32 on the CPU, or is for inference in
  /// float32 only.
  CausalLM with_int8_inference() const;

  /// A model of its own with the adapters added to the weights, in float32 (float64), then rounded to `dtype` (default
  /// the model's own). Checked on a probe of 64 tokens before it is rounded to a dtype narrower than the model's:
  /// throws InputError where logits differ from this model's by more than kMergeTolerance of the largest (at least of
  /// 1), and for logits that are not finite, before or after. A clone where there are no adapters.
  CausalLM merged() const;
  CausalLM merged(DType dtype) const;

  /// A copy of the weights (and adapters) that shares nothing and needs no gradients.
  CausalLM clone_frozen() const;

  /// Tells that weights were written to: packed copies for inference are freed and made anew when there is a use for
  /// them. The trainer calls it.
  void weights_changed() const;
  /// Counts weights_changed calls: the stamp that samples carry.
  std::int64_t weights_version() const;

  /// Writes config.json and safetensors (in `dtype`, default the model's own), with the tokenizer files of
  /// `tokenizer_from` when given, and replaces the folder `folder` with them as a whole: nothing that was in it stays.
  /// Throws InputError for a model with adapters and a folder that holds files but no config.json, ResourceError.
  void save(const std::filesystem::path& folder, const std::filesystem::path& tokenizer_from = {}) const;
  void save(const std::filesystem::path& folder, const std::filesystem::path& tokenizer_from, DType dtype) const;

 private:
  struct Impl;
  explicit CausalLM(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace sao
