// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sao/base/error.h>
#include <sao/eval/arena.h>
#include <sao/eval/mt_bench.h>

#include <cstdio>
#include <memory>

#include "arguments.h"
#include "commands.h"
#include "rows.h"

namespace sao::cli {
namespace {

struct Arena {
  explicit Arena(CLI::App& app) : arguments(app) {
    arguments.add_positional("FILE", file, "Arena-Hard's judgments, or battles");
    arguments.add("baseline", baseline, "the model with score 50 and Elo 1000");
    arguments.add("last-verdict", last_verdict, "take a text's last verdict, as v2.0; else it must be the only one");
    arguments.add_fields(options, with_dashes);
    arguments.add("output", output, "file for the result; nothing is the standard output", "o");
  }

  void run() {
    arguments.finish();
    arguments.require("baseline");
    check_options(options);
    Output out(output);
    const ArenaBattles games = read_arena_battles(file, baseline, last_verdict);
    for (const auto& [reason, count] : games.dropped) {
      std::fprintf(stderr, "sao: %lld games are left out: %s\n", static_cast<long long>(count), reason.c_str());
    }
    for (const ArenaScore& one : arena_scores(games.battles, baseline, options)) {
      out.write({{"model", one.model},
                 {"score", one.score},
                 {"low", one.low},
                 {"high", one.high},
                 {"elo", one.elo},
                 {"wins", one.wins},
                 {"losses", one.losses},
                 {"ties", one.ties}});
    }
    out.finish();
  }

  Arguments arguments;
  ArenaOptions options;
  std::string file, baseline, output;
  bool last_verdict = false;
};

struct MtBench {
  explicit MtBench(CLI::App& app) : arguments(app) {
    arguments.add_positional("FILE", file, "FastChat's judgments");
    arguments.add("pairwise", pairwise, "judgments of pairs of models in two games, not of single answers");
    arguments.add("output", output, "file for the result; nothing is the standard output", "o");
  }

  void run() {
    arguments.finish();
    Output out(output);
    if (pairwise) {
      for (const MtBenchPair& one : read_mt_bench_pairs(file)) {
        out.write({{"model", one.model},
                   {"adjusted_win_rate", one.adjusted_win_rate},
                   {"win_rate", one.win_rate},
                   {"loss_rate", one.loss_rate},
                   {"wins", one.wins},
                   {"losses", one.losses},
                   {"ties", one.ties},
                   {"failed", one.failed}});
      }
    } else {
      for (const MtBenchScore& one : read_mt_bench_scores(file)) {
        out.write({{"model", one.model},
                   {"score", one.score},
                   {"first_turn", one.first_turn},  // NaN is written as null
                   {"second_turn", one.second_turn},
                   {"n", one.n},
                   {"failed", one.failed}});
      }
    }
    out.finish();
  }

  Arguments arguments;
  std::string file, output;
  bool pairwise = false;
};

}  // namespace

Run arena_command(CLI::App& app) {
  return [command = std::make_shared<Arena>(app)] { command->run(); };
}

Run mt_bench_command(CLI::App& app) {
  return [command = std::make_shared<MtBench>(app)] { command->run(); };
}

}  // namespace sao::cli
