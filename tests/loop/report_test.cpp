// SPDX-License-Identifier: Apache-2.0
#include "sao/loop/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <regex>

#include "loop/html.h"
#include "sao/base/error.h"
#include "sao/data/records.h"
#include "sao/io/files.h"
#include "sao/io/jsonl.h"
#include "support/paths.h"

namespace sao {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

/// Every element that is opened is closed, in order.
void expect_well_formed(const std::string& html) {
  const std::regex tag("<(/?)([a-zA-Z0-9]+)([^>]*)>");
  std::vector<std::string> open;
  for (auto match = std::sregex_iterator(html.begin(), html.end(), tag); match != std::sregex_iterator(); ++match) {
    const std::string name = (*match)[2];
    const std::string rest = (*match)[3];
    if (name == "meta" || rest.ends_with("/")) continue;
    if ((*match)[1] == "") {
      open.push_back(name);
    } else {
      ASSERT_FALSE(open.empty()) << name;
      ASSERT_EQ(open.back(), name);
      open.pop_back();
    }
  }
  EXPECT_TRUE(open.empty());
}

class ReportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write_file_atomically(
        run_ / "manifest.json",
        R"({"settings": {"model": "a<b", "seed": 18446744073709551615, "rounds": 2, "train": {"loss": {"name": "simpo"}}}})");
    fs::create_directory(run_ / "round-1");
    write(run_ / "round-1/prompts.jsonl",
          std::vector<Prompt>{{.id = "p000000", .text = "<script>alert(1)</script> & \"more\"", .outcome = "kept"},
                              {.id = "p000001", .text = "another one", .outcome = "too_short"}});
    write(
        run_ / "round-1/responses.jsonl",
        std::vector<Response>{
            {.id = "p000000-0", .prompt_id = "p000000", .text = "yes", .ids = {1, 2}, .finish_reason = "stop"},
            {.id = "p000000-1", .prompt_id = "p000000", .k = 1, .text = "no", .ids = {1}, .finish_reason = "length"}});
    write(run_ / "round-1/verdicts.jsonl", std::vector<Verdict>{{.id = "p000000",
                                                                 .prompt_id = "p000000",
                                                                 .first_id = "p000000-0",
                                                                 .second_id = "p000000-1",
                                                                 .p_first = 0.75,
                                                                 .p_as_first = 0.9,
                                                                 .p_as_second = 0.6,
                                                                 .outcome = "first"}});
  }

  template <class Record>
  static void write(const fs::path& file, const std::vector<Record>& records) {
    write_file_atomically(file, to_jsonl(records));
  }

  testing::TemporaryFolder run_;
};

TEST_F(ReportTest, UnfinishedRunsShowWhatThereIs) {
  const std::string html = render_report(run_.path());
  expect_well_formed(html);
  EXPECT_THAT(html, AllOf(HasSubstr("1 of 2"), HasSubstr("too_short"), HasSubstr("a&lt;b"), HasSubstr("+0.300")));
  EXPECT_THAT(html, HasSubstr("50.0 % of the responses are cut"));
}

TEST_F(ReportTest, TextOfTheModelIsNeverMarkup) {
  write(run_ / "round-1/pairs.jsonl",
        std::vector<Preference>{{.prompt = {{"user", "<script>alert(1)</script>"}},
                                 .chosen = {{"assistant", "<img src=x onerror=alert(1)>"}},
                                 .rejected = {{"assistant", "'\"&"}}}});
  const std::string html = render_report(run_.path());
  expect_well_formed(html);
  EXPECT_THAT(html, AllOf(Not(HasSubstr("<script")), Not(HasSubstr("<img")), HasSubstr("&lt;script&gt;alert(1)"),
                          HasSubstr("&#39;&quot;&amp;")));
}

TEST_F(ReportTest, NothingIsFetched) {
  const std::string html = render_report(run_.path());
  EXPECT_THAT(html,
              AllOf(Not(HasSubstr("http")), Not(HasSubstr("src=")), Not(HasSubstr("@import")), Not(HasSubstr("url("))));
}

TEST_F(ReportTest, TrainingAndEvaluationAreDrawn) {
  write_file_atomically(
      run_ / "round-1/metrics.jsonl",
      "{\"step\": 1, \"loss\": 2.0, \"logps/chosen\": -10.0}\n{\"step\": 2, \"loss\": 1.0, \"logps/chosen\": -30.0}\n");
  write_file_atomically(run_ / "round-1/eval.json",
                        R"({"against_base": {"win_rate": 0.7, "standard_error": 0.02, "length_controlled_winrate": 0.55,
                            "lc_standard_error": 0.03, "model_length": 120.4, "baseline_length": 80}})");
  const std::string html = render_report(run_.path());
  expect_well_formed(html);
  EXPECT_THAT(
      html, AllOf(HasSubstr("70.0 ± 2.0 %"), HasSubstr("55.0 ± 3.0 %"), HasSubstr("120 (80)"), HasSubstr("<polyline")));
  EXPECT_THAT(html, HasSubstr("15.0 points apart"));
  EXPECT_THAT(html, HasSubstr("chosen responses fell"));
}

TEST_F(ReportTest, CountsOfPairsAreShown) {
  write_file_atomically(run_ / "round-1/outcomes.json",
                        R"({"pairs": {"too_long": 7, "trained": 93}, "prompts": {"kept": 100, "inconsistent": 25}})");
  write_file_atomically(run_ / "round-1/metrics.jsonl", "{\"step\": 1, \"loss\": 2.0}\n");
  const std::string html = render_report(run_.path());
  expect_well_formed(html);
  EXPECT_THAT(html, AllOf(HasSubstr("<td>inconsistent</td><td>25</td><td>20.0 %</td>"),
                          HasSubstr("<td>too_long</td><td>7</td><td>7.0 %</td>")));
}

TEST_F(ReportTest, LinesThatAreBeingWrittenAreLeftOut) {
  write_file_atomically(run_ / "round-1/metrics.jsonl",
                        "{\"step\": 1, \"rewards/accuracies\": 0.75}\n{\"step\": 2, \"rew");
  write_file_atomically(run_ / "round-1/prompts.jsonl", read_file(run_ / "round-1/prompts.jsonl") + "{\"id\": \"p0");
  EXPECT_THAT(render_report(run_.path()), AllOf(HasSubstr("75.0 %"), HasSubstr("1 of 2")));
  write_file_atomically(run_ / "round-1/metrics.jsonl", "{\"step\": 1}\n{\"step\": 2, \"rew\n");
  try {
    render_report(run_.path());
    FAIL() << "no exception";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), HasSubstr("metrics.jsonl:2: "));
  }
}

TEST_F(ReportTest, WrittenWholeAndAlikeEveryTime) {
  write_report(run_.path());
  const std::string first = read_file(run_ / "report.html");
  write_report(run_.path());
  EXPECT_EQ(read_file(run_ / "report.html"), first);
  EXPECT_EQ(first, render_report(run_.path()));
}

TEST_F(ReportTest, OtherFoldersAreNamed) {
  EXPECT_THROW(render_report(run_ / "round-1"), InputError);
  write_file_atomically(run_ / "round-1/prompts.jsonl", "{\"id\": 3}\n");
  try {
    render_report(run_.path());
    FAIL() << "no exception";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), HasSubstr("prompts.jsonl:1: field \"id\" is 3"));
  }
}

TEST(LineChart, PointsLieWhereTheyShould) {
  const std::string svg = detail::line_chart({{.name = "a", .values = {0.0, 1.0}}}, {.title = "t", .x_name = "x"});
  // The plot reaches from (52, 186) to (418, 28).
  EXPECT_THAT(svg, HasSubstr("points=\"52.0,186.0 418.0,28.0 \""));
}

TEST(LineChart, GapsSingleAndConstantValues) {
  const double none = std::nan("");
  EXPECT_EQ(detail::line_chart({}, {}), "");
  EXPECT_EQ(detail::line_chart({{.name = "a", .values = {none}}}, {}), "");
  for (const std::vector<double>& values :
       std::vector<std::vector<double>>{{3.0}, {3.0, 3.0}, {0.0}, {1e9, 1e9 + 1}, {-5.0, none, 2e-9}}) {
    const std::string svg = detail::line_chart({{.name = "a", .values = values}}, {.title = "<t>"});
    EXPECT_THAT(svg, AllOf(HasSubstr("<svg"), Not(HasSubstr("nan")), Not(HasSubstr("inf")), HasSubstr("&lt;t&gt;")));
  }
}

}  // namespace
}  // namespace sao
