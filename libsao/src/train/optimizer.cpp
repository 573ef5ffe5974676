// SPDX-License-Identifier: Apache-2.0
#include "sao/train/optimizer.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "sao/ops/pointwise.h"
#include "train/problems.h"

namespace sao {

void validate(const AdamWOptions& options) {
  detail::Problems problems("optimizer");
  const auto finite = [](double x) { return std::isfinite(x); };
  problems.need(finite(options.learning_rate) && options.learning_rate >= 0.0, "learning_rate", options.learning_rate,
                "0 or more");
  problems.need(options.beta1 >= 0.0 && options.beta1 < 1.0, "beta1", options.beta1, "0 to below 1");
  problems.need(options.beta2 >= 0.0 && options.beta2 < 1.0, "beta2", options.beta2, "0 to below 1");
  problems.need(finite(options.eps) && options.eps > 0.0, "eps", options.eps, "above 0");
  problems.need(finite(options.weight_decay) && options.weight_decay >= 0.0, "weight_decay", options.weight_decay,
                "0 or more");
  problems.need(finite(options.max_grad_norm) && options.max_grad_norm >= 0.0, "max_grad_norm", options.max_grad_norm,
                "0 or more");
  problems.raise();
}

AdamW::AdamW(const NamedTensors& parameters, const AdamWOptions& options) : options_(options) {
  validate(options);
  if (parameters.empty()) throw InputError("AdamW: no parameters, expected at least one");
  const c10::NoGradGuard no_grad;
  for (const auto& [name, parameter] : parameters) {
    const at::ScalarType type = parameter.scalar_type();
    if (type != at::kFloat && type != at::kDouble && type != at::kBFloat16) {
      throw InputError(
          fmt::format("AdamW: parameter \"{}\" is {}, expected float32, float64 or bfloat16; float16 loses "
                      "gradients, load the model as bfloat16 or float32",
                      name, at::toString(type)));
    }
    has_masters_ = has_masters_ || type == at::kBFloat16;
    names_.push_back(name);
    parameters_.push_back(parameter);
  }
  for (const at::Tensor& parameter : parameters_) {
    const at::Tensor master = parameter.scalar_type() == at::kBFloat16 ? parameter.detach().to(at::kFloat) : parameter;
    masters_.push_back(master);
    exp_avg_.push_back(at::zeros_like(master, at::MemoryFormat::Contiguous));
    exp_avg_sq_.push_back(at::zeros_like(master, at::MemoryFormat::Contiguous));
  }
  if (has_masters_) gradients_.resize(parameters_.size());
}

void AdamW::accumulate() {
  if (!has_masters_) return;  // autograd adds up in the parameters' own gradients
  const c10::NoGradGuard no_grad;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    at::Tensor& gradient = parameters_[i].mutable_grad();
    if (!gradient.defined()) continue;
    if (gradients_[i].defined()) {
      ops::add_widened_(gradients_[i], gradient);
    } else {
      gradients_[i] = gradient.to(masters_[i].scalar_type());
    }
    gradient = at::Tensor();
  }
}

void AdamW::ensure_gradients() {
  if (!has_masters_) gradients_.assign(parameters_.size(), at::Tensor());
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (!has_masters_) gradients_[i] = parameters_[i].grad();
    if (!gradients_[i].defined()) gradients_[i] = at::zeros_like(masters_[i], at::MemoryFormat::Contiguous);
  }
}

double AdamW::gradient_norm() const {
  double squares = 0.0;
  for (const double norm : gradient_norms()) squares += norm * norm;
  return std::sqrt(squares);
}

std::vector<double> AdamW::gradient_norms() const {
  const c10::NoGradGuard no_grad;
  std::vector<at::Tensor> defined;
  std::vector<std::size_t> index;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor& gradient = has_masters_ ? gradients_[i] : parameters_[i].grad();
    if (!gradient.defined()) continue;
    defined.push_back(gradient);
    index.push_back(i);
  }
  std::vector<double> norms(parameters_.size(), 0.0);
  if (defined.empty()) return norms;
  const at::Tensor values = at::stack(at::_foreach_norm(defined)).to(at::kCPU, at::kDouble);
  const double* data = values.const_data_ptr<double>();
  for (std::size_t i = 0; i < index.size(); ++i) norms[index[i]] = data[i];
  return norms;
}

void AdamW::update(double gradient_norm, double learning_rate) {
  const c10::NoGradGuard no_grad;
  ensure_gradients();
  if (options_.max_grad_norm > 0.0 && gradient_norm > options_.max_grad_norm) {
    at::_foreach_mul_(gradients_, at::Scalar(options_.max_grad_norm / (gradient_norm + 1e-6)));
  }
  ++steps_done_;
  const auto run = [&](const auto& wanted, double weight_decay) {
    std::vector<at::Tensor> parameters, gradients, means, squares;
    for (std::size_t i = 0; i < masters_.size(); ++i) {
      if (!wanted(masters_[i])) continue;
      parameters.push_back(masters_[i]);
      gradients.push_back(gradients_[i]);
      means.push_back(exp_avg_[i]);
      squares.push_back(exp_avg_sq_[i]);
    }
    if (parameters.empty()) return;
    const at::Tensor step = at::scalar_tensor(static_cast<double>(steps_done_),
                                              parameters[0].options().dtype(at::kFloat).requires_grad(false));
    const std::vector<at::Tensor> steps(parameters.size(), step);
    at::_fused_adamw_(parameters, gradients, means, squares, {}, steps, learning_rate, options_.beta1, options_.beta2,
                      weight_decay, options_.eps, /*amsgrad=*/false, /*maximize=*/false);
  };
  if (options_.weight_decay > 0.0) {
    run([](const at::Tensor& t) { return t.dim() >= 2; }, options_.weight_decay);
    run([](const at::Tensor& t) { return t.dim() < 2; }, 0.0);
  } else {
    run([](const at::Tensor&) { return true; }, 0.0);
  }
  if (has_masters_) at::_foreach_copy_(parameters_, masters_);
  zero_grad();
}

void AdamW::zero_grad() {
  for (const at::Tensor& parameter : parameters_) parameter.mutable_grad() = at::Tensor();
  gradients_.assign(has_masters_ ? parameters_.size() : 0, at::Tensor());
}

NamedTensors AdamW::state() const {
  NamedTensors tensors;
  for (std::size_t i = 0; i < names_.size(); ++i) tensors.emplace_back("parameter." + names_[i], masters_[i].detach());
  for (std::size_t i = 0; i < names_.size(); ++i) tensors.emplace_back("exp_avg." + names_[i], exp_avg_[i]);
  for (std::size_t i = 0; i < names_.size(); ++i) tensors.emplace_back("exp_avg_sq." + names_[i], exp_avg_sq_[i]);
  return tensors;
}

void AdamW::load(const SafetensorsFile& file, std::int64_t steps) {
  const c10::NoGradGuard no_grad;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;
  for (const auto& [name, tensor] : state()) {
    if (!file.contains(name)) {
      throw InputError(
          fmt::format("{}: no tensor \"{}\", expected one of another model's checkpoint; start in another "
                      "folder",
                      file.path().string(), name));
    }
    const at::Tensor saved = file.tensor(name);
    if (saved.sizes() != tensor.sizes() || saved.scalar_type() != tensor.scalar_type()) {
      throw InputError(fmt::format("{}: tensor \"{}\" is {} [{}], expected {} [{}]", file.path().string(), name,
                                   at::toString(saved.scalar_type()), fmt::join(saved.sizes(), ", "),
                                   at::toString(tensor.scalar_type()), fmt::join(tensor.sizes(), ", ")));
    }
    copies.emplace_back(tensor, saved);
  }
  for (auto& [to, from] : copies) to.copy_(from);
  if (has_masters_) at::_foreach_copy_(parameters_, masters_);
  zero_grad();
  steps_done_ = steps;
}

}  // namespace sao
