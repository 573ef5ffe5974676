// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/alpaca_eval.h"

#include <fmt/format.h>

#include <Eigen/Dense>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <tuple>
#include <utility>

#include "base/utf8.h"
#include "eval/logistic.h"
#include "sao/base/error.h"
#include "sao/base/statistics.h"
#include "sao/io/files.h"

namespace sao {
namespace {

using Eigen::Matrix3d;
using Eigen::MatrixX3d;
using Eigen::Vector3d;
using Eigen::VectorXd;
using nlohmann::json;

constexpr double kGamedWeight = 0.1;  // 0.2 shared by the two gamed baselines
constexpr Eigen::Index kFolds = 5;
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

/// What Python's json writes beyond JSON: NaN and infinities become null, unpaired surrogates U+FFFD (one code
/// point, as they count in Python).
std::string without_python_extras(std::string_view text) {
  const auto surrogate = [&](std::size_t at, std::string_view digits) {
    return text.substr(at, 2) == "\\u" && at + 6 <= text.size() && (text[at + 2] == 'd' || text[at + 2] == 'D') &&
           digits.find(text[at + 3]) != std::string_view::npos;
  };
  constexpr std::string_view kHigh = "89abAB";
  constexpr std::string_view kLow = "cdefCDEF";
  std::string result;
  result.reserve(text.size());
  bool inside = false;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t length = 1;
    std::string_view piece;
    if (inside && text[at] == '\\') {
      length = text.substr(at, 2) == "\\u" ? 6 : 2;
      if (surrogate(at, kHigh) && surrogate(at + 6, kLow)) {
        length = 12;
      } else if (surrogate(at, kHigh) || surrogate(at, kLow)) {
        piece = "\\ufffd";
      }
    } else if (text[at] == '"') {
      inside = !inside;
    } else if (!inside) {
      for (std::string_view word : {"NaN", "-Infinity", "Infinity"}) {
        if (!text.substr(at).starts_with(word)) continue;
        length = word.size();
        piece = "null";
        break;
      }
    }
    result += piece.empty() ? text.substr(at, length) : piece;
    at += length;
  }
  return result;
}

/// Draws are 1.5; what is no preference is NaN.
double cleaned(double preference) {
  if (preference == 0.0) return 1.5;
  return preference >= 1.0 && preference <= 2.0 ? preference : kNone;
}

/// A table of numbers and words, its columns found by name. Fields of our files hold no commas or quotes.
class Csv {
 public:
  explicit Csv(const std::filesystem::path& file) : file_(file.string()), text_(read_file(file, 1ULL << 28)) {
    std::string_view rest = text_;
    while (!rest.empty()) {
      std::string_view line = rest.substr(0, std::min(rest.find('\n'), rest.size()));
      rest.remove_prefix(std::min(line.size() + 1, rest.size()));
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (line.empty()) continue;
      std::vector<std::string_view> fields;
      while (true) {
        const std::size_t comma = line.find(',');
        fields.push_back(line.substr(0, comma));
        if (comma == std::string_view::npos) break;
        line.remove_prefix(comma + 1);
      }
      rows_.push_back(std::move(fields));
    }
    if (rows_.empty()) throw InputError(fmt::format("{}: empty, expected a CSV table", file_));
  }
  // rows_ points into text_.
  Csv(const Csv&) = delete;
  Csv& operator=(const Csv&) = delete;

  bool has(std::string_view column) const {
    return std::find(rows_[0].begin(), rows_[0].end(), column) != rows_[0].end();
  }

  std::vector<double> numbers(std::string_view column) const {
    const auto place = std::find(rows_[0].begin(), rows_[0].end(), column);
    if (place == rows_[0].end()) throw InputError(fmt::format("{}: no column \"{}\", expected one", file_, column));
    const auto index = static_cast<std::size_t>(place - rows_[0].begin());
    std::vector<double> values;
    for (std::size_t row = 1; row < rows_.size(); ++row) {
      const std::string_view field = index < rows_[row].size() ? rows_[row][index] : std::string_view();
      double value = 0;
      const auto [end, problem] = std::from_chars(field.data(), field.data() + field.size(), value);
      if (problem != std::errc() || end != field.data() + field.size() || !std::isfinite(value)) {
        throw InputError(fmt::format("{}: row {}: {}: \"{}\", expected a number", file_, row, column, field));
      }
      values.push_back(value);
    }
    return values;
  }

 private:
  std::string file_;
  std::string text_;
  std::vector<std::vector<std::string_view>> rows_;
};

/// Weighted logistic regression with soft labels: rows x, labels y in [0, 1], weights s.
struct Problem {
  MatrixX3d x;
  VectorXd y;
  VectorXd s;

  Problem rows(const std::vector<Eigen::Index>& chosen) const { return {x(chosen, Eigen::all), y(chosen), s(chosen)}; }
};

/// argmin |w|_1 + c * sum_i s_i (log(1 + exp(x_i.w)) - y_i x_i.w), from `w`.
/// Proximal Newton: each step minimises the quadratic model plus the penalty by cyclic soft thresholding.
Vector3d solve(const Problem& problem, double c, Vector3d w) {
  const Vector3d b = problem.x.transpose() * problem.s.cwiseProduct(problem.y);
  const auto objective = [&](const Vector3d& v) {
    const VectorXd z = problem.x * v;
    double sum = 0;
    for (Eigen::Index i = 0; i < z.size(); ++i) sum += problem.s(i) * detail::log1p_exp(z(i));
    return v.cwiseAbs().sum() + c * (sum - b.dot(v));
  };
  double value = objective(w);
  constexpr int kMaxSteps = 100;
  for (int step = 0; step < kMaxSteps; ++step) {
    const VectorXd p = (problem.x * w).unaryExpr([](double z) { return detail::sigmoid(z); });
    const VectorXd curvature = problem.s.array() * p.array() * (1.0 - p.array());
    const Vector3d gradient = c * (problem.x.transpose() * problem.s.cwiseProduct(p) - b);
    const Matrix3d hessian =
        c * (problem.x.transpose() * curvature.asDiagonal() * problem.x) + 1e-12 * Matrix3d::Identity();
    Vector3d v = w;
    constexpr int kMaxSweeps = 500;
    for (int sweep = 0; sweep < kMaxSweeps; ++sweep) {
      const Vector3d before = v;
      for (Eigen::Index j = 0; j < 3; ++j) {
        const double z = v(j) - (gradient(j) + hessian.row(j).dot(v - w)) / hessian(j, j);
        v(j) = std::copysign(std::max(std::abs(z) - 1.0 / hessian(j, j), 0.0), z);
      }
      if ((v - before).cwiseAbs().maxCoeff() < 1e-15) break;
    }
    const Vector3d direction = v - w;
    double scale = 1.0;
    double next = objective(w + direction);
    while (next > value + 1e-12 * std::max(1.0, std::abs(value)) && scale >= 1e-10) {
      scale /= 2.0;
      next = objective(w + scale * direction);
    }
    w = scale == 1.0 ? v : Vector3d(w + scale * direction);  // v keeps its exact zeros
    value = next;
    if (direction.cwiseAbs().maxCoeff() < 1e-11) break;
  }
  return w;
}

std::vector<double> candidates_of_c() {
  std::vector<double> candidates;
  for (int i = 0; i < 10; ++i) candidates.push_back(std::pow(10.0, -4.0 + 8.0 * i / 9.0));
  return candidates;
}

/// The permutation that NumPy's introsort leaves on n equal keys: the order in which older GroupKFold deals rows to
/// folds.
std::vector<Eigen::Index> unstable_order(Eigen::Index n) {
  std::vector<Eigen::Index> order(static_cast<std::size_t>(n));
  for (Eigen::Index i = 0; i < n; ++i) order[static_cast<std::size_t>(i)] = i;
  const auto swap = [&](Eigen::Index a, Eigen::Index b) {
    std::swap(order[static_cast<std::size_t>(a)], order[static_cast<std::size_t>(b)]);
  };
  std::vector<std::pair<Eigen::Index, Eigen::Index>> waiting;
  Eigen::Index low = 0, high = n - 1;
  while (true) {
    while (high - low > 15) {
      swap(low + (high - low) / 2, high - 1);
      Eigen::Index i = low, j = high - 1;
      while (true) {
        ++i;
        --j;
        if (i >= j) break;
        swap(i, j);
      }
      swap(i, high - 1);
      if (i - low < high - i) {
        waiting.emplace_back(i + 1, high);
        high = i - 1;
      } else {
        waiting.emplace_back(low, i - 1);
        low = i + 1;
      }
    }
    if (waiting.empty()) return order;
    std::tie(low, high) = waiting.back();
    waiting.pop_back();
  }
}

std::vector<Eigen::Index> fold_of_rows(Eigen::Index n, bool legacy) {
  std::vector<Eigen::Index> fold(static_cast<std::size_t>(n));
  if (!legacy) {
    for (Eigen::Index i = 0; i < n; ++i) fold[static_cast<std::size_t>(i)] = (n - 1 - i) % kFolds;
    return fold;
  }
  const std::vector<Eigen::Index> order = unstable_order(n);
  for (Eigen::Index rank = 0; rank < n; ++rank) {
    fold[static_cast<std::size_t>(order[static_cast<std::size_t>(n - 1 - rank)])] = rank % kFolds;
  }
  return fold;
}

/// The c with the best summed log-likelihood over five held-out folds; the smallest of equals.
double choose_c(const Problem& problem, bool legacy_folds) {
  const std::vector<double> candidates = candidates_of_c();
  const std::vector<Eigen::Index> fold = fold_of_rows(problem.y.size(), legacy_folds);
  std::vector<double> score(candidates.size(), 0.0);
  for (Eigen::Index k = 0; k < kFolds; ++k) {
    std::vector<Eigen::Index> fitted, held_out;
    for (Eigen::Index i = 0; i < problem.y.size(); ++i) {
      (fold[static_cast<std::size_t>(i)] == k ? held_out : fitted).push_back(i);
    }
    const Problem train = problem.rows(fitted);
    const Problem test = problem.rows(held_out);
    Vector3d w = Vector3d::Zero();
    for (std::size_t j = 0; j < candidates.size(); ++j) {
      w = solve(train, candidates[j], w);
      double sum = 0;
      for (Eigen::Index i = 0; i < test.y.size(); ++i) {
        const double p = std::clamp(detail::sigmoid(test.x.row(i).dot(w)), 1e-15, 1.0 - 1e-15);
        sum += test.s(i) * (test.y(i) * std::log(p) + (1.0 - test.y(i)) * std::log(1.0 - p));
      }
      score[j] += sum / static_cast<double>(test.y.size());
    }
  }
  return candidates[static_cast<std::size_t>(std::max_element(score.begin(), score.end()) - score.begin())];
}

}  // namespace

AlpacaAnnotations read_alpaca_annotations(const std::filesystem::path& file) {
  const std::string name = file.string();
  const json rows =
      json::parse(without_python_extras(read_file(file, 1ULL << 30)), nullptr, /*allow_exceptions=*/false);
  if (!rows.is_array())
    throw InputError(fmt::format("{}: not a JSON list, expected the rows of annotations.json", name));
  AlpacaAnnotations annotations;
  std::string annotator;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const json& row = rows[i];
    if (!row.is_object()) throw InputError(fmt::format("{}: row {}: {}, expected an object", name, i, row.type_name()));
    const auto text = [&](const char* field) -> const std::string& {
      const auto found = row.find(field);
      if (found == row.end() || !found->is_string()) {
        throw InputError(fmt::format("{}: row {}: {}: {}, expected text", name, i, field,
                                     found == row.end() ? "missing" : found->type_name()));
      }
      return found->get_ref<const std::string&>();
    };
    const auto preference = row.find("preference");
    if (preference == row.end() || !(preference->is_number() || preference->is_null())) {
      throw InputError(fmt::format("{}: row {}: preference: {}, expected a number or null", name, i,
                                   preference == row.end() ? "missing" : preference->type_name()));
    }
    annotations.preferences.push_back(preference->is_null() ? kNone : preference->get<double>());
    annotations.baseline_lengths.push_back(static_cast<double>(detail::count_characters(text("output_1"))));
    annotations.model_lengths.push_back(static_cast<double>(detail::count_characters(text("output_2"))));
    const auto one_for_all = [&](const char* field, std::string& value) {
      const std::string found = row.contains(field) ? text(field) : "";
      if (i > 0 && found != value) {
        throw InputError(
            fmt::format("{}: row {}: {}: \"{}\", expected \"{}\" as in the rows before", name, i, field, found, value));
      }
      value = found;
    };
    one_for_all("generator_1", annotations.baseline);
    one_for_all("generator_2", annotations.model);
    one_for_all("annotator", annotator);
  }
  return annotations;
}

AlpacaWinRate alpaca_win_rate(const AlpacaAnnotations& annotations) {
  AlpacaWinRate result;
  std::vector<double> values, discrete;
  for (double raw : annotations.preferences) {
    const double value = cleaned(raw) - 1.0;
    if (std::isnan(value)) continue;
    values.push_back(value);
    discrete.push_back(value > 0.5 ? 1.0 : value == 0.5 ? 0.5 : 0.0);
    ++(value > 0.5 ? result.n_wins : value < 0.5 ? result.n_wins_base : result.n_draws);
  }
  if (values.empty()) throw InputError("annotations: no row has a preference, expected at least one");
  result.n = static_cast<std::int64_t>(values.size());
  result.win_rate = 100.0 * mean(values);
  result.standard_error = 100.0 * standard_error(values);
  result.discrete_win_rate = 100.0 * mean(discrete);
  return result;
}

std::vector<double> read_alpaca_difficulty(const std::filesystem::path& file) {
  const Csv table(file);
  const std::vector<double> values = table.numbers("instruction_difficulty");
  if (!table.has("index")) return values;
  const std::vector<double> index = table.numbers("index");
  std::vector<double> ordered(values.size(), kNone);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double place = index[i];
    if (!(place >= 0.0 && place < static_cast<double>(values.size())) || place != std::floor(place) ||
        !std::isnan(ordered[static_cast<std::size_t>(place)])) {
      throw InputError(fmt::format("{}: row {}: index: {}, expected each of 0 to {} once", file.string(), i + 1, place,
                                   values.size() - 1));
    }
    ordered[static_cast<std::size_t>(place)] = values[i];
  }
  return ordered;
}

AlpacaGamed read_alpaca_gamed(const std::filesystem::path& file) {
  const Csv table(file);
  AlpacaGamed gamed = {.std_delta_len = table.numbers("std_delta_len"),
                       .difficulty = table.numbers("instruction_difficulty"),
                       .preferences = table.numbers("preference")};
  for (std::size_t i = 0; i < gamed.preferences.size(); ++i) {
    if (!(gamed.preferences[i] >= 0.0 && gamed.preferences[i] <= 1.0)) {
      throw InputError(
          fmt::format("{}: row {}: preference: {}, expected 0 to 1", file.string(), i + 1, gamed.preferences[i]));
    }
  }
  return gamed;
}

AlpacaLengthControlled alpaca_length_controlled(const AlpacaAnnotations& annotations,
                                                std::span<const double> difficulty, const AlpacaGamed& gamed,
                                                const AlpacaFitOptions& options) {
  const std::size_t n = annotations.preferences.size();
  AlpacaLengthControlled result = {.length_controlled_winrate = 50.0, .n = static_cast<std::int64_t>(n)};
  if (!annotations.model.empty() && annotations.model == annotations.baseline) return result;
  if (n > difficulty.size()) {
    throw InputError(fmt::format("annotations: {} rows, expected at most the {} of the instruction difficulties", n,
                                 difficulty.size()));
  }
  if (options.c < 0.0 || !std::isfinite(options.c)) {
    throw InputError(fmt::format("AlpacaFitOptions: c: {}, expected 0 or more", options.c));
  }
  SAO_CHECK(annotations.baseline_lengths.size() == n && annotations.model_lengths.size() == n);
  SAO_CHECK(gamed.preferences.size() == gamed.std_delta_len.size() &&
            gamed.preferences.size() == gamed.difficulty.size());

  std::vector<double> delta;
  for (std::size_t i = 0; i < n; ++i) delta.push_back(annotations.baseline_lengths[i] - annotations.model_lengths[i]);
  const double sd = standard_deviation(delta);
  if (!(sd > 0.0)) {
    throw InputError("annotations: all rows have one length difference, expected lengths that vary");
  }
  std::vector<std::size_t> judged;
  for (std::size_t i = 0; i < n; ++i) {
    if (!std::isnan(cleaned(annotations.preferences[i]))) judged.push_back(i);
  }
  if (judged.empty()) throw InputError("annotations: no row has a preference, expected at least one");

  const auto gamed_rows = static_cast<Eigen::Index>(gamed.preferences.size());
  const auto rows = gamed_rows + static_cast<Eigen::Index>(judged.size());
  Problem problem = {MatrixX3d(rows, 3), VectorXd(rows), VectorXd(rows)};
  for (Eigen::Index i = 0; i < gamed_rows; ++i) {
    const auto row = static_cast<std::size_t>(i);
    problem.x.row(i) = Vector3d(std::tanh(gamed.std_delta_len[row]), gamed.difficulty[row], 0.0);
    problem.y(i) = gamed.preferences[row];
    problem.s(i) = kGamedWeight;
  }
  for (std::size_t j = 0; j < judged.size(); ++j) {
    const std::size_t row = judged[j];
    const Eigen::Index i = gamed_rows + static_cast<Eigen::Index>(j);
    problem.x.row(i) = Vector3d(std::tanh(delta[row] / sd), difficulty[row], 1.0);
    problem.y(i) = cleaned(annotations.preferences[row]) - 1.0;
    problem.s(i) = 1.0;
  }
  result.c = options.c > 0.0 ? options.c : choose_c(problem, options.legacy_folds);
  const Vector3d w = solve(problem, result.c, Vector3d::Zero());
  std::copy(w.begin(), w.end(), result.coefficients.begin());

  std::vector<double> rates;
  for (std::size_t i = 0; i < n; ++i) rates.push_back(detail::sigmoid(w(1) * difficulty[i] + w(2)));
  result.length_controlled_winrate = 100.0 * mean(rates);
  if (!std::isfinite(result.length_controlled_winrate)) {
    throw InputError("annotations: the fit overflows, expected difficulties of ordinary size (about -10 to 10)");
  }
  result.lc_standard_error = 100.0 * standard_error(rates);
  return result;
}

}  // namespace sao
