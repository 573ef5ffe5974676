// SPDX-License-Identifier: Apache-2.0
#include "sao/loop/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include "io/json.h"
#include "loop/html.h"
#include "sao/base/error.h"
#include "sao/base/statistics.h"
#include "sao/data/records.h"
#include "sao/io/files.h"
#include "sao/io/jsonl.h"
#include "sao/judge/health.h"
#include "sao/synth/diversity.h"
#include "sao/synth/filters.h"

namespace sao {
namespace fs = std::filesystem;
namespace {

using detail::ChartOptions;
using detail::escape_html;
using detail::html_table;
using detail::Json;
using detail::line_chart;
using detail::Series;

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

constexpr std::string_view kStyle = R"(
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2226; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #d5dadd; } h3 { margin-bottom: .3rem; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e4e8ea; } th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
table.text td { text-align: left; vertical-align: top; white-space: pre-wrap; overflow-wrap: anywhere; width: 33%; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem; }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; } svg .title { font-weight: 600; font-size: 12px; }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; } svg polyline { fill: none; stroke-width: 1.6; }
svg .grid { stroke: #e4e8ea; } svg .guide { stroke: #8a9499; stroke-dasharray: 4 3; }
.note { color: #56626a; } li.warning { color: #a33a12; } pre { overflow-x: auto; background: #f4f6f7; padding: .8rem; }
)";

/// A number at the end of a path, NaN where it is not there.
double number_at(const Json& value, const std::vector<std::string>& path) {
  const Json* place = &value;
  for (const std::string& name : path) {
    if (!place->is_object() || !place->contains(name)) return kNone;
    place = &(*place)[name];
  }
  return place->is_number() ? place->get<double>() : kNone;
}

std::string shown(double value, const char* format = "{:.3f}") {
  return std::isfinite(value) ? fmt::format(fmt::runtime(format), value) : "–";
}

std::string percent(double share) { return std::isfinite(share) ? fmt::format("{:.1f} %", 100.0 * share) : "–"; }

struct RoundFiles {
  std::int64_t number = 0;
  std::vector<Prompt> prompts = {};
  std::vector<Response> responses = {};
  std::vector<Verdict> verdicts = {};
  std::vector<Preference> pairs = {};
  std::vector<Json> metrics = {};
  Json outcomes = {};
  Json eval = {};
  std::vector<Response> answers = {};
  std::optional<JudgeHealth> health = {};
};

/// Calls `each` with every line of a file, where it is there. What stands behind the last newline is left out: another
/// process may be writing it.
void for_each_whole_line(const fs::path& file, const std::function<void(std::string_view)>& each) {
  if (!fs::exists(file)) return;
  const std::string text = read_file(file);
  std::size_t number = 0, end = 0;
  for (std::size_t begin = 0; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    ++number;
    if (end == begin) continue;
    try {
      each(std::string_view(text).substr(begin, end - begin));
    } catch (const InputError& error) {
      throw InputError(fmt::format("{}:{}: {}", file.string(), number, error.what()));
    }
  }
}

template <class Record>
std::vector<Record> read_if_there(const fs::path& file) {
  std::vector<Record> records;
  for_each_whole_line(file, [&](std::string_view line) { from_json_line(line, records.emplace_back()); });
  return records;
}

Json read_object_if_there(const fs::path& file) {
  return fs::exists(file) ? detail::parse_json_object(read_file(file), file.string()) : Json();
}

RoundFiles read_round(const fs::path& folder, std::int64_t number) {
  RoundFiles round{.number = number};
  round.prompts = read_if_there<Prompt>(folder / "prompts.jsonl");
  round.responses = read_if_there<Response>(folder / "responses.jsonl");
  round.verdicts = read_if_there<Verdict>(folder / "verdicts.jsonl");
  round.pairs = read_if_there<Preference>(folder / "pairs.jsonl");
  round.answers = read_if_there<Response>(folder / "eval_answers.jsonl");
  for_each_whole_line(folder / "metrics.jsonl",
                      [&](std::string_view line) { round.metrics.push_back(detail::parse_json_object(line, "")); });
  round.outcomes = read_object_if_there(folder / "outcomes.json");
  round.eval = read_object_if_there(folder / "eval.json");
  if (!round.verdicts.empty()) round.health = judge_health(round.verdicts, round.responses);
  return round;
}

double mean_tokens(const std::vector<Response>& responses) {
  std::vector<double> lengths;
  for (const Response& response : responses) lengths.push_back(static_cast<double>(response.ids.size()));
  return mean(lengths);
}

double cut_share(const std::vector<Response>& responses) {
  if (responses.empty()) return kNone;
  const auto cut = std::count_if(responses.begin(), responses.end(),
                                 [](const Response& response) { return response.finish_reason == "length"; });
  return static_cast<double>(cut) / static_cast<double>(responses.size());
}

std::int64_t kept_count(const RoundFiles& round) {
  return std::count_if(round.prompts.begin(), round.prompts.end(),
                       [](const Prompt& prompt) { return prompt.outcome == "kept"; });
}

std::vector<double> column(const std::vector<Json>& metrics, const char* name) {
  std::vector<double> values;
  for (const Json& line : metrics) values.push_back(number_at(line, {name}));
  return values;
}

std::string counts_table(const char* name, const std::map<std::string, std::int64_t>& counts) {
  std::int64_t total = 0;
  for (const auto& entry : counts) total += entry.second;
  std::vector<std::vector<std::string>> rows;
  for (const auto& [reason, count] : counts) {
    rows.push_back({escape_html(reason), std::to_string(count),
                    percent(static_cast<double>(count) / static_cast<double>(std::max<std::int64_t>(total, 1)))});
  }
  return html_table({name, "number", "share"}, rows);
}

/// The counts that outcomes.json has of "prompts" or "pairs"; empty where there are none.
std::string outcomes_table(const RoundFiles& round, const char* what, const char* name) {
  if (!round.outcomes.is_object() || !round.outcomes.contains(what)) return {};
  std::map<std::string, std::int64_t> counts;
  for (const auto& [reason, count] : round.outcomes[what].items()) {
    if (count.is_number_integer()) counts[reason] = count.get<std::int64_t>();
  }
  return counts_table(name, counts);
}

std::string rounds_table(const std::vector<RoundFiles>& rounds) {
  std::vector<std::string> head = {""};
  for (const RoundFiles& round : rounds) head.push_back(fmt::format("round {}", round.number));
  std::vector<std::vector<std::string>> rows;
  const auto add = [&](const char* name, const std::function<std::string(const RoundFiles&)>& cell) {
    std::vector<std::string> row = {name};
    for (const RoundFiles& round : rounds) row.push_back(cell(round));
    rows.push_back(std::move(row));
  };
  const auto health = [](double JudgeHealth::*field, bool as_percent) {
    return [=](const RoundFiles& round) -> std::string {
      if (!round.health) return "–";
      return as_percent ? percent((*round.health).*field) : fmt::format("{:+.3f}", (*round.health).*field);
    };
  };
  const auto rate = [](const char* against, const char* value, const char* error) {
    return [=](const RoundFiles& round) {
      const double share = number_at(round.eval, {against, value});
      const double wide = number_at(round.eval, {against, error});
      return std::isfinite(share) ? fmt::format("{:.1f} ± {:.1f} %", 100 * share, 100 * wide) : std::string("–");
    };
  };
  add("prompts kept", [](const RoundFiles& r) { return fmt::format("{} of {}", kept_count(r), r.prompts.size()); });
  add("tokens in a response", [](const RoundFiles& r) { return shown(mean_tokens(r.responses), "{:.1f}"); });
  add("responses cut at the limit", [](const RoundFiles& r) { return percent(cut_share(r.responses)); });
  add("verdicts decided", health(&JudgeHealth::decided_share, true));
  add("the two orders disagree", health(&JudgeHealth::inconsistent_share, true));
  add("position bias", health(&JudgeHealth::position_bias, false));
  add("preference pairs", [](const RoundFiles& r) { return std::to_string(r.pairs.size()); });
  add("training steps", [](const RoundFiles& r) { return std::to_string(r.metrics.size()); });
  add("reward accuracy at the end", [](const RoundFiles& r) {
    return r.metrics.empty() ? std::string("–") : percent(number_at(r.metrics.back(), {"rewards/accuracies"}));
  });
  add("win rate against the base", rate("against_base", "win_rate", "standard_error"));
  add("... length-controlled", rate("against_base", "length_controlled_winrate", "lc_standard_error"));
  add("... answers of equal length only", rate("against_base", "equal_length_win_rate", "equal_length_standard_error"));
  add("win rate against the round's start", rate("against_start", "win_rate", "standard_error"));
  add("... length-controlled", rate("against_start", "length_controlled_winrate", "lc_standard_error"));
  add("characters in an answer (base)", [](const RoundFiles& r) {
    const double own = number_at(r.eval, {"against_base", "model_length"});
    return std::isfinite(own)
               ? fmt::format("{:.0f} ({:.0f})", own, number_at(r.eval, {"against_base", "baseline_length"}))
               : std::string("–");
  });
  return html_table(head, rows);
}

std::string win_rate_charts(const std::vector<RoundFiles>& rounds) {
  const auto line = [&](const char* name, const char* against, const char* value, const char* error) {
    Series series{.name = name};
    for (const RoundFiles& round : rounds) {
      const double share = number_at(round.eval, {against, value});
      const double wide = 1.96 * number_at(round.eval, {against, error});
      series.values.push_back(share);
      series.low.push_back(share - wide);
      series.high.push_back(share + wide);
    }
    return series;
  };
  std::string html;
  for (const auto& [against, title] : {std::pair{"against_base", "Win rate against the base, with 95 % intervals"},
                                       std::pair{"against_start", "Win rate against the round's start"}}) {
    html += line_chart({line("plain", against, "win_rate", "standard_error"),
                        line("length-controlled", against, "length_controlled_winrate", "lc_standard_error")},
                       {.title = title, .x_name = "round", .has_guide = true, .guide = 0.5});
  }
  return html.empty() ? "" : "<div class=\"charts\">" + html + "</div>\n";
}

/// What a careful reader would ask about.
std::string warnings(const std::vector<RoundFiles>& rounds) {
  std::string items;
  const auto warn = [&](std::int64_t round, const std::string& text) {
    items += fmt::format("<li class=\"warning\">Round {}: {}</li>\n", round, text);
  };
  for (const RoundFiles& round : rounds) {
    constexpr double kBias = 0.1, kInconsistent = 0.4, kCut = 0.1, kLengthPart = 0.1;
    if (round.health && std::abs(round.health->position_bias) > kBias) {
      warn(round.number, fmt::format("the judge favours a position (bias {:+.3f}).", round.health->position_bias));
    }
    if (round.health && round.health->inconsistent_share > kInconsistent) {
      warn(round.number, fmt::format("the judge contradicts itself when the order is swapped in {} of the pairs.",
                                     percent(round.health->inconsistent_share)));
    }
    if (cut_share(round.responses) > kCut) {
      warn(round.number,
           fmt::format("{} of the responses are cut at the length limit.", percent(cut_share(round.responses))));
    }
    const double plain = number_at(round.eval, {"against_base", "win_rate"});
    const double controlled = number_at(round.eval, {"against_base", "length_controlled_winrate"});
    if (std::abs(plain - controlled) > kLengthPart) {
      warn(round.number,
           fmt::format("plain and length-controlled win rate lie {:.1f} points apart: part of the difference "
                       "is length.",
                       100 * std::abs(plain - controlled)));
    }
    if (round.metrics.size() > 1 &&
        number_at(round.metrics.back(), {"logps/chosen"}) < number_at(round.metrics.front(), {"logps/chosen"}) * 1.5) {
      warn(round.number,
           "the log-probability of the chosen responses fell by more than half of itself during training.");
    }
  }
  return items.empty() ? "" : "<h2>Worth a look</h2>\n<ul>\n" + items + "</ul>\n";
}

std::string diversity_table(const RoundFiles& round, Seed seed) {
  std::vector<std::string> texts;
  for (const Prompt& prompt : round.prompts) {
    if (!prompt.text.empty()) texts.push_back(prompt.text);
  }
  const Diversity d = measure_diversity(texts, {.seed = seed});
  return html_table({"variety of all prompts written", "value"},
                    {{"exact duplicates", percent(d.exact_duplicate_share)},
                     {"with a near duplicate", percent(d.near_duplicate_share)},
                     {"4-grams that others have too", percent(d.repeated_ngram_share)},
                     {"distinct-1, -2", fmt::format("{:.3f}, {:.3f}", d.distinct[0], d.distinct[1])},
                     {"self-BLEU", shown(d.self_bleu)},
                     {"words in a prompt", shown(d.mean_words, "{:.1f}")}});
}

std::string training_charts(const RoundFiles& round) {
  const std::vector<Json>& m = round.metrics;
  const auto chart = [&](const char* title, std::vector<Series> series) {
    return line_chart(series, {.title = title, .x_name = "step"});
  };
  return "<div class=\"charts\">" + chart("Loss", {{.name = "loss", .values = column(m, "loss")}}) +
         chart("Reward accuracy", {{.name = "accuracy", .values = column(m, "rewards/accuracies")}}) +
         chart("Rewards", {{.name = "chosen", .values = column(m, "rewards/chosen")},
                           {.name = "rejected", .values = column(m, "rewards/rejected")}}) +
         chart("Log-probabilities", {{.name = "chosen", .values = column(m, "logps/chosen")},
                                     {.name = "rejected", .values = column(m, "logps/rejected")}}) +
         "</div>\n";
}

std::string pairs_table(const RoundFiles& round) {
  constexpr std::size_t kShown = 4;
  std::vector<std::vector<std::string>> rows;
  for (std::size_t i = 0; i < std::min(kShown, round.pairs.size()); ++i) {
    const Preference& pair = round.pairs[i];
    const auto text = [](const Messages& messages) {
      return messages.empty() ? std::string() : messages.back().content;
    };
    rows.push_back({escape_html(text(pair.prompt)), fmt::format("{} ({:.2f})", escape_html(text(pair.chosen)), pair.p),
                    escape_html(text(pair.rejected))});
  }
  return html_table({"prompt", "chosen (judge's probability)", "rejected"}, rows, "text");
}

std::string transcripts(const fs::path& run, const std::vector<RoundFiles>& rounds) {
  constexpr std::size_t kShown = 8;
  const std::vector<Prompt> prompts = read_if_there<Prompt>(run / "eval" / "prompts.jsonl");
  const std::vector<Response> base = read_if_there<Response>(run / "eval" / "answers.jsonl");
  const RoundFiles* last = nullptr;
  for (const RoundFiles& round : rounds) {
    if (!round.answers.empty()) last = &round;
  }
  if (last == nullptr) return {};
  std::unordered_map<std::string, std::string> text_of;
  for (const Prompt& prompt : prompts) text_of[prompt.id] = prompt.text;
  std::unordered_map<std::string, std::string> after;
  for (const Response& response : last->answers) after[response.prompt_id] = response.text;
  std::vector<std::vector<std::string>> rows;
  for (const Response& before : base) {
    if (rows.size() == kShown) break;
    if (!after.contains(before.prompt_id)) continue;
    rows.push_back(
        {escape_html(text_of[before.prompt_id]), escape_html(before.text), escape_html(after[before.prompt_id])});
  }
  return "<h2>Before and after</h2>\n<p class=\"note\">The first evaluation prompts, not chosen by anyone.</p>\n" +
         html_table({"prompt", "base", fmt::format("round {}", last->number)}, rows, "text");
}

std::string settings_summary(const Json& manifest) {
  const Json& settings = manifest.contains("settings") ? manifest["settings"] : manifest;
  std::vector<std::vector<std::string>> rows;
  const auto add = [&](const char* name, const Json& value) {
    rows.push_back({name, escape_html(value.is_string() ? value.get<std::string>() : value.dump())});
  };
  const auto at = [&](const char* path) {
    const Json::json_pointer pointer(path);
    return settings.contains(pointer) ? settings.at(pointer) : Json();
  };
  add("model", at("/model"));
  add("personas", at("/personas"));
  add("rounds", at("/rounds"));
  add("prompts a round", at("/prompts/count"));
  add("responses to a prompt", at("/responses/samples"));
  add("temperature of the responses", at("/responses/sampling/temperature"));
  add("judge", at("/judge/mode"));
  add("loss", at("/train/loss/name"));
  add("learning rate", at("/train/optimizer/learning_rate"));
  add("batch size", at("/train/batch_size"));
  add("seed", at("/seed"));
  return html_table({}, rows);
}

}  // namespace

std::string render_report(const fs::path& run_folder) {
  const fs::path manifest_path = run_folder / "manifest.json";
  if (!fs::exists(manifest_path)) {
    throw InputError(fmt::format("{}: no manifest.json, expected the folder of a run", run_folder.string()));
  }
  const Json manifest = detail::parse_json_object(read_file(manifest_path), manifest_path.string());
  std::vector<RoundFiles> rounds;
  for (std::int64_t number = 1; fs::exists(run_folder / fmt::format("round-{}", number)); ++number) {
    rounds.push_back(read_round(run_folder / fmt::format("round-{}", number), number));
  }
  const Json::json_pointer seed_place("/settings/seed");
  const Seed seed = {manifest.contains(seed_place) && manifest.at(seed_place).is_number_unsigned()
                         ? manifest.at(seed_place).get<std::uint64_t>()
                         : 0};

  std::string html = fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" "
      "content=\"width=device-width\">\n<title>Self-Alignment Optimization: report of a "
      "run</title>\n<style>{}</style></head>"
      "<body>\n<h1>Self-Alignment Optimization: report of a run</h1>\n",
      kStyle);
  html += settings_summary(manifest);
  html += "<h2>Rounds</h2>\n" + win_rate_charts(rounds) + rounds_table(rounds);
  html +=
      "<p class=\"note\">± is one standard error. Length-controlled: what a logistic regression predicts for answers "
      "of "
      "equal length. The judge of the evaluation is a model too; read the transcripts.</p>\n";
  html += warnings(rounds) + transcripts(run_folder, rounds);
  for (const RoundFiles& round : rounds) {
    html += fmt::format("<h2>Round {}</h2>\n", round.number);
    if (!round.prompts.empty()) {
      html +=
          "<h3>Prompts</h3>\n" + counts_table("outcome", count_outcomes(round.prompts)) + diversity_table(round, seed);
    }
    if (round.health) {
      const JudgeHealth& health = *round.health;
      html +=
          "<h3>Judge</h3>\n" + counts_table("outcome", health.outcomes) +
          html_table({"", "value"}, {{"the two orders agree", percent(health.agreement)},
                                     {"position bias (0 is none)", fmt::format("{:+.3f}", health.position_bias)},
                                     {"entropy of a reading, bits", shown(health.mean_entropy)},
                                     {"the longer response wins", percent(health.characters.longer_wins_share)},
                                     {"winner longer by, tokens", shown(health.tokens.mean_difference, "{:+.1f}")}});
    }
    if (const std::string counts = outcomes_table(round, "prompts", "prompts that gave a pair (kept), or why not");
        !round.pairs.empty() || !counts.empty()) {
      html += "<h3>Preference pairs</h3>\n" + counts + (round.pairs.empty() ? "" : pairs_table(round));
    }
    if (!round.metrics.empty()) {
      html += "<h3>Training</h3>\n" + outcomes_table(round, "pairs", "pairs that were trained on, or why not") +
              training_charts(round);
    }
  }
  html += "<h2>Manifest</h2>\n<details><summary>All settings, seeds, versions and fingerprints</summary><pre>" +
          escape_html(detail::dump_json_pretty(detail::OrderedJson::parse(read_file(manifest_path)))) +
          "</pre></details>\n</body></html>\n";
  return html;
}

void write_report(const fs::path& run_folder) {
  write_file_atomically(run_folder / "report.html", render_report(run_folder));
}

}  // namespace sao
