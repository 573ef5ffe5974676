// SPDX-License-Identifier: Apache-2.0
#include "muon.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

namespace microworld {
namespace {

// The orthogonal factor of `matrix`, about; the quintic's coefficients are the authors'.
at::Tensor orthogonalized(at::Tensor matrix, int steps) {
  const bool tall = matrix.size(0) > matrix.size(1);
  at::Tensor x = tall ? matrix.t() : matrix;
  x = x / (x.norm() + 1e-7);
  for (int i = 0; i < steps; ++i) {
    const at::Tensor a = at::mm(x, x.t());
    const at::Tensor b = at::addmm(a, a, a, -4.7750, 2.0315);
    x = at::addmm(x, b, x, 3.4445, 1.0);
  }
  return tall ? x.t() : x;
}

}  // namespace

Muon::Muon(const sao::NamedTensors& matrices, const MuonOptions& options) : options_(options) {
  for (const auto& [name, tensor] : matrices) {
    matrices_.push_back(tensor);
    momenta_.push_back(at::zeros_like(tensor));
  }
}

void Muon::update(double learning_rate, double gradient_scale) {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < matrices_.size(); ++i) {
    at::Tensor& matrix = matrices_[i];
    const at::Tensor gradient = matrix.grad() * gradient_scale;
    momenta_[i].mul_(options_.momentum).add_(gradient);
    const at::Tensor direction =
        orthogonalized(at::add(gradient, momenta_[i], options_.momentum), options_.newton_schulz_steps);
    // 0.2 * sqrt(larger side) gives the update the size that AdamW's would have (Liu et al. 2025).
    const double size = 0.2 * std::sqrt(static_cast<double>(std::max(matrix.size(0), matrix.size(1))));
    matrix.mul_(1.0 - learning_rate * options_.weight_decay).add_(direction, -learning_rate * size);
    matrix.mutable_grad().reset();
  }
}

}  // namespace microworld
