// SPDX-License-Identifier: Apache-2.0
#include "model/decoder.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

#include "sao/ops/pointwise.h"

namespace sao::detail {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Keeps a layer's input only and computes the layer again in backward. The weights are inputs, so that they get their
// gradients even when the layer's input needs none.
struct Recompute : torch::autograd::Function<Recompute> {
  struct Holder : torch::CustomClassHolder {
    explicit Holder(LayerFunction function) : layer(std::move(function)) {}
    LayerFunction layer;
  };

  static at::Tensor forward(AutogradContext* context, const at::Tensor& h, at::TensorList weights,
                            c10::intrusive_ptr<Holder> holder) {
    variable_list saved{h};
    saved.insert(saved.end(), weights.begin(), weights.end());
    context->save_for_backward(std::move(saved));
    context->saved_data["layer"] = c10::IValue::make_capsule(holder);
    const at::NoGradGuard no_grad;
    return holder->layer(h);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    const auto capsule = context->saved_data["layer"].toCapsule();
    const auto& layer = static_cast<Holder*>(capsule.get())->layer;
    const at::Tensor h = saved[0].detach().requires_grad_(true);
    at::Tensor out;
    {
      const at::AutoGradMode with_grad(true);
      out = layer(h);
    }
    variable_list inputs{h};
    for (std::size_t i = 1; i < saved.size(); ++i) inputs.push_back(saved[i]);
    variable_list wanted;
    for (const at::Tensor& t : inputs) {
      if (t.requires_grad()) wanted.push_back(t);
    }
    const variable_list found = torch::autograd::grad({out}, wanted, {grads[0]}, false, false, true);
    variable_list result;
    std::size_t next = 0;
    for (const at::Tensor& t : inputs) result.push_back(t.requires_grad() ? found[next++] : at::Tensor());
    result.emplace_back();  // the holder
    return result;
  }
};

ops::Gate gate_of(const ModelConfig& config) {
  if (config.hidden_act == "silu") return ops::Gate::kSilu;
  return config.hidden_act == "gelu" ? ops::Gate::kGelu : ops::Gate::kGeluTanh;
}

}  // namespace

at::Tensor rotated(const ModelConfig& config, const at::Tensor& x, const at::Tensor& positions,
                   const RotaryTable& rope) {
  const std::int64_t D = config.head_dim, R = config.rotary_dim();
  if (R == D) return ops::rotary(x, positions, rope.cosines, rope.sines);
  return at::cat({ops::rotary(x.narrow(2, 0, R), positions, rope.cosines, rope.sines), x.narrow(2, R, D - R)}, 2);
}

Residual decoder_layer(const ModelConfig& c, const LayerWeights& w, const PackedLayer* packed, const Residual& in,
                       const Attend& attend, const Dropout* dropout, const at::Tensor& next_norm) {
  const ops::RmsNormOptions norm{.eps = c.rms_norm_eps, .zero_centered = c.zero_centered_norm};
  const at::Tensor& h = in.h;
  const std::int64_t T = h.size(0), H = c.hidden_size, I = c.intermediate_size, D = c.head_dim;
  const std::int64_t q_width = c.num_attention_heads * D, kv_width = c.num_key_value_heads * D;

  const at::Tensor x = in.normed.defined() ? in.normed : ops::rms_norm(h, w.input_norm, norm);  // [T, H]
  const std::vector<at::Tensor> qkv =
      project(w.qkv, packed ? &packed->qkv : nullptr, x, {q_width, kv_width, kv_width}, dropout);
  const auto in_heads = [&](const at::Tensor& columns, std::int64_t heads, const at::Tensor& head_norm) {
    if (!head_norm.defined()) return columns.view({T, heads, D});
    return ops::rms_norm(columns.reshape({T * heads, D}), head_norm, norm).view({T, heads, D});
  };
  const at::Tensor attended =
      attend(in_heads(qkv[0], c.num_attention_heads, w.q_norm), in_heads(qkv[1], c.num_key_value_heads, w.k_norm),
             in_heads(qkv[2], c.num_key_value_heads, {}));
  const at::Tensor update = project(w.o, packed ? &packed->o : nullptr, attended, {H}, dropout)[0];  // [T, H]
  const at::Tensor none;
  const auto between = c.post_norms ? ops::residual_norm(h, update, w.post_attention_norm, w.pre_mlp_norm, norm)
                                    : ops::residual_norm(h, update, none, w.post_attention_norm, norm);
  const at::Tensor &middle = between[0], &mlp_input = between[1];

  const ops::Gate gate = gate_of(c);
  const auto multiply_gated = [&] {
    if (packed) return packed->down.multiply(packed->gate_up.multiply_gated(mlp_input, gate));
    const std::vector<at::Tensor> gate_up = project(w.gate_up, nullptr, mlp_input, {I, I}, dropout);
    const Linear& down = w.down[0];
    if (!down.adapter) return ops::gated_linear(gate_up[0], gate_up[1], down.weight, down.bias, gate);
    return apply(down, ops::gated_activation(gate_up[0], gate_up[1], gate), dropout);
  };
  const at::Tensor mlp = multiply_gated();
  auto [out, normed] = ops::residual_norm(middle, mlp, c.post_norms ? w.post_mlp_norm : none, next_norm, norm);
  return {std::move(out), std::move(normed)};
}

at::Tensor recomputed(LayerFunction layer, const at::Tensor& h, const std::vector<at::Tensor>& tensors) {
  return Recompute::apply(h, at::TensorList(tensors), c10::make_intrusive<Recompute::Holder>(std::move(layer)));
}

}  // namespace sao::detail
