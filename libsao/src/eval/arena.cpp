// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/arena.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <Eigen/Dense>
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "eval/logistic.h"
#include "eval/percentile.h"
#include "io/json.h"
#include "sao/base/error.h"
#include "sao/io/jsonl.h"

namespace sao {
namespace {

using detail::Json;
using Eigen::MatrixXd;
using Eigen::VectorXd;

constexpr std::int64_t kStrongWeight = 3;  // of >>
constexpr double kRidge = 1e-9;

struct Label {
  std::string_view name;
  double outcome_of_b;
  std::int64_t weight;
};
constexpr std::array<Label, 5> kLabels = {
    {{"A>>B", 0.0, kStrongWeight}, {"A>B", 0.0, 1}, {"A=B", 0.5, 1}, {"B>A", 1.0, 1}, {"B>>A", 1.0, kStrongWeight}}};

const Label* find_label(std::string_view name) {
  const auto found = std::find_if(kLabels.begin(), kLabels.end(), [&](const Label& one) { return one.name == name; });
  return found == kLabels.end() ? nullptr : &*found;
}

/// What the regular expression \[\[([AB<>=]+)\]\] finds, one after the other.
std::vector<std::string> labels_in(std::string_view text) {
  std::vector<std::string> labels;
  for (std::size_t at = 0; (at = text.find("[[", at)) != std::string_view::npos;) {
    const std::size_t begin = at + 2;
    const std::size_t end = std::min(text.find_first_not_of("AB<>=", begin), text.size());
    if (end > begin && text.substr(end, 2) == "]]") {
      labels.emplace_back(text.substr(begin, end - begin));
      at = end + 2;
    } else {
      ++at;
    }
  }
  return labels;
}

/// The verdict of one game; nothing where there is none.
std::optional<std::string> game_verdict(const Json& game, const std::string& where, bool last_verdict) {
  if (!game.is_object())
    throw InputError(fmt::format("{} is {}, expected an object", where, detail::describe_json(game)));
  if (game.contains("score")) return detail::find_field<std::string>(game, "score", where);
  return arena_verdict(detail::get_field<std::string>(game, "judgment", where), last_verdict);
}

void read_judgment(const Json& row, const std::string& default_baseline, bool last_verdict, ArenaBattles& result) {
  const auto model = detail::get_field<std::string>(row, "model", "");
  const std::string baseline = detail::find_field<std::string>(row, "baseline", "").value_or(default_baseline);
  const auto games = row.find("games");
  if (!games->is_array()) detail::throw_field_error("", "games", *games, "a list of two games");
  if (games->size() < 2) result.dropped["no_game"] += 2 - static_cast<std::int64_t>(games->size());
  for (std::size_t g = 0; g < std::min<std::size_t>(games->size(), 2); ++g) {
    const auto verdict = game_verdict((*games)[g], fmt::format("game {}", g + 1), last_verdict);
    const Label* label = verdict ? find_label(*verdict) : nullptr;
    if (label == nullptr) {
      ++result.dropped["no_verdict"];
      continue;
    }
    const double of_model = g == 0 ? label->outcome_of_b : 1.0 - label->outcome_of_b;  // sides are swapped
    result.battles.push_back({.model_a = baseline, .model_b = model, .outcome = of_model, .weight = label->weight});
  }
}

void read_battle(const Json& row, ArenaBattles& result) {
  ArenaBattle battle = {.model_a = detail::get_field<std::string>(row, "model_a", ""),
                        .model_b = detail::get_field<std::string>(row, "model_b", "")};
  const auto winner = detail::get_field<std::string>(row, "winner", "");
  if (winner != "model_a" && winner != "model_b" && !winner.starts_with("tie")) {
    detail::throw_field_error("", "winner", row["winner"], "model_a, model_b or tie");
  }
  battle.outcome = winner == "model_a" ? 0.0 : winner == "model_b" ? 1.0 : 0.5;
  result.battles.push_back(std::move(battle));
}

/// Half-wins of i over j.
using Wins = MatrixXd;

/// Natural-logarithm strengths, those of model 0 being 0.
VectorXd fit(const Wins& wins) {
  const Eigen::Index n = wins.rows();
  VectorXd strength = VectorXd::Zero(n);
  const auto loss = [&](const VectorXd& s) {
    double sum = kRidge * s.squaredNorm() / 2.0;
    for (Eigen::Index i = 0; i < n; ++i) {
      for (Eigen::Index j = 0; j < n; ++j) {
        if (wins(i, j) > 0.0) sum += wins(i, j) * detail::log1p_exp(s(j) - s(i));
      }
    }
    return sum;
  };
  double value = loss(strength);
  constexpr int kMaxSteps = 200;
  for (int step = 0; step < kMaxSteps; ++step) {
    VectorXd gradient = kRidge * strength;
    MatrixXd hessian = kRidge * MatrixXd::Identity(n, n);
    for (Eigen::Index i = 0; i < n; ++i) {
      for (Eigen::Index j = 0; j < n; ++j) {
        if (wins(i, j) <= 0.0) continue;
        const double p = detail::sigmoid(strength(j) - strength(i));
        gradient(i) -= wins(i, j) * p;
        gradient(j) += wins(i, j) * p;
        const double curvature = wins(i, j) * p * (1.0 - p);
        hessian(i, i) += curvature;
        hessian(j, j) += curvature;
        hessian(i, j) -= curvature;
        hessian(j, i) -= curvature;
      }
    }
    VectorXd newton = VectorXd::Zero(n);
    if (n > 1) {
      newton.tail(n - 1) = -hessian.bottomRightCorner(n - 1, n - 1).ldlt().solve(gradient.tail(n - 1));
    }
    double scale = 1.0;
    double next = loss(strength + newton);
    while (!(next <= value + 1e-12 * std::max(1.0, std::abs(value))) && scale > 1e-10) {
      scale /= 2.0;
      next = loss(strength + scale * newton);
    }
    strength += scale * newton;
    value = next;
    if (newton.cwiseAbs().maxCoeff() < 1e-10) break;
  }
  return strength;
}

struct Game {
  Eigen::Index a;
  Eigen::Index b;
  double outcome_of_b;
};

Wins count_wins(std::span<const Game> games, Eigen::Index models) {
  Wins wins = Wins::Zero(models, models);
  for (const Game& game : games) {
    wins(game.b, game.a) += game.outcome_of_b;
    wins(game.a, game.b) += 1.0 - game.outcome_of_b;
  }
  return wins;
}

void check_connected(const Wins& wins, const std::vector<std::string>& names) {
  std::vector<bool> reached(names.size(), false);
  std::vector<Eigen::Index> waiting = {0};
  reached[0] = true;
  while (!waiting.empty()) {
    const Eigen::Index i = waiting.back();
    waiting.pop_back();
    for (Eigen::Index j = 0; j < wins.rows(); ++j) {
      if (reached[static_cast<std::size_t>(j)] || wins(i, j) + wins(j, i) <= 0.0) continue;
      reached[static_cast<std::size_t>(j)] = true;
      waiting.push_back(j);
    }
  }
  const auto missed = std::find(reached.begin(), reached.end(), false);
  if (missed != reached.end()) {
    throw InputError(fmt::format("battles: \"{}\" has none with \"{}\" or with models that have, expected a connection",
                                 names[static_cast<std::size_t>(missed - reached.begin())], names[0]));
  }
}

}  // namespace

std::optional<std::string> arena_verdict(std::string_view judgment, bool last) {
  std::string text(judgment);
  if (last)
    std::transform(text.begin(), text.end(), text.begin(),
                   [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  const std::vector<std::string> labels = labels_in(text);
  if (labels.empty()) return std::nullopt;
  const bool differ = std::any_of(labels.begin(), labels.end(), [&](const auto& label) { return label != labels[0]; });
  if (differ && !last) return std::nullopt;
  if (find_label(labels.back()) == nullptr) return std::nullopt;
  return labels.back();
}

ArenaBattles read_arena_battles(const std::filesystem::path& file, const std::string& baseline, bool last_verdict) {
  ArenaBattles result;
  for_each_line(file, [&](std::string_view line) {
    const Json row = detail::parse_json_object(line, "");
    if (row.contains("games")) {
      read_judgment(row, baseline, last_verdict, result);
    } else if (row.contains("winner")) {
      read_battle(row, result);
    } else {
      throw InputError("no field \"games\" or \"winner\", expected a judgment or a battle");
    }
  });
  return result;
}

void validate(const ArenaOptions& options) {
  std::vector<std::string> problems;
  if (options.bootstrap < 1) problems.push_back(fmt::format("bootstrap: {}, expected 1 or more", options.bootstrap));
  if (!(options.confidence > 0.0 && options.confidence < 1.0)) {
    problems.push_back(fmt::format("confidence: {}, expected between 0 and 1", options.confidence));
  }
  if (!problems.empty()) throw InputError(fmt::format("ArenaOptions: {}", fmt::join(problems, "; ")));
}

std::vector<ArenaScore> arena_scores(std::span<const ArenaBattle> battles, const std::string& baseline,
                                     const ArenaOptions& options) {
  validate(options);
  std::vector<std::string> names = {baseline};
  const auto number_of = [&](const std::string& name) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found != names.end()) return static_cast<Eigen::Index>(found - names.begin());
    names.push_back(name);
    return static_cast<Eigen::Index>(names.size()) - 1;
  };
  std::vector<Game> games;
  for (const ArenaBattle& battle : battles) {
    const Game game = {number_of(battle.model_a), number_of(battle.model_b), battle.outcome};
    if (game.a == game.b) {
      throw InputError(fmt::format("battles: \"{}\" against itself, expected two models", battle.model_a));
    }
    games.insert(games.end(), static_cast<std::size_t>(std::max<std::int64_t>(battle.weight, 0)), game);
  }
  if (games.empty()) throw InputError("battles: none, expected at least one");
  const auto models = static_cast<Eigen::Index>(names.size());
  const Wins wins = count_wins(games, models);
  if (wins.row(0).sum() + wins.col(0).sum() <= 0.0) {
    std::vector<std::string> others(names.begin() + 1, names.end());
    throw InputError(
        fmt::format("battles: none of the baseline \"{}\", expected one of {}", baseline, fmt::join(others, ", ")));
  }
  check_connected(wins, names);

  const auto percent = [](double strength) { return 100.0 * detail::sigmoid(strength); };
  const VectorXd strength = fit(wins);
  std::vector<std::vector<double>> resampled(names.size());
  for (std::int64_t round = 0; round < options.bootstrap; ++round) {
    const Seed seed = options.seed.fork(static_cast<std::uint64_t>(round));
    std::vector<Game> drawn;
    for (std::size_t i = 0; i < games.size(); ++i) drawn.push_back(games[uniform_below(seed, i, games.size())]);
    const VectorXd found = fit(count_wins(drawn, models));
    for (Eigen::Index m = 0; m < models; ++m) resampled[static_cast<std::size_t>(m)].push_back(percent(found(m)));
  }
  std::vector<ArenaScore> scores;
  const double tail = (1.0 - options.confidence) / 2.0;
  for (Eigen::Index m = 0; m < models; ++m) {
    std::vector<double>& rounds = resampled[static_cast<std::size_t>(m)];
    std::sort(rounds.begin(), rounds.end());
    scores.push_back({.model = names[static_cast<std::size_t>(m)],
                      .score = percent(strength(m)),
                      .low = detail::percentile(rounds, tail),
                      .high = detail::percentile(rounds, 1.0 - tail),
                      .elo = 1000.0 + 400.0 * strength(m) / std::numbers::ln10});
  }
  for (const Game& game : games) {
    ArenaScore& a = scores[static_cast<std::size_t>(game.a)];
    ArenaScore& b = scores[static_cast<std::size_t>(game.b)];
    if (game.outcome_of_b == 0.5) {
      ++a.ties;
      ++b.ties;
    } else {
      ++(game.outcome_of_b > 0.5 ? b : a).wins;
      ++(game.outcome_of_b > 0.5 ? a : b).losses;
    }
  }
  std::stable_sort(scores.begin(), scores.end(),
                   [](const ArenaScore& a, const ArenaScore& b) { return a.score > b.score; });
  return scores;
}

}  // namespace sao
