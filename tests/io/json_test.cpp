// SPDX-License-Identifier: Apache-2.0
#include "io/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

namespace sao {

struct InnerOptions {
  double rate = 5e-7;
  Seed seed = {};
};
struct OuterOptions {
  bool flag = false;
  std::int64_t count = 3;
  std::string name = "x";
  InnerOptions inner = {};
};
template <class Visitor, OptionsOf<InnerOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("rate", options.rate, "");
  visit("seed", options.seed, "");
}
template <class Visitor, OptionsOf<OuterOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("flag", options.flag, "");
  visit("count", options.count, "");
  visit("name", options.name, "");
  visit("inner", options.inner, "");
}

namespace detail {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

template <class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const InputError& error) {
    return error.what();
  }
  return "no InputError";
}

TEST(Json, ParseErrorsSayWhere) {
  EXPECT_THAT(message_of([] { parse_json("{\n \"a\": }", "config.json"); }),
              AllOf(HasSubstr("config.json: not valid JSON at line 2, column 7"), HasSubstr("expected JSON")));
  EXPECT_THAT(message_of([] { parse_json("", "x"); }), HasSubstr("x: not valid JSON"));
  EXPECT_THAT(message_of([] { parse_json("{} {}", "x"); }), HasSubstr("x: not valid JSON"));
  EXPECT_THAT(message_of([] { parse_json("\"\xff\"", "x"); }), HasSubstr("x: not valid JSON"));
  EXPECT_THAT(message_of([] { parse_json("[1e999]", "x"); }), HasSubstr("x: not valid JSON"));
  EXPECT_EQ(message_of([] { parse_json_object("[1, 2]", "x"); }), "x: a list of 2, expected a JSON object");
  EXPECT_EQ(message_of([] { parse_json_object("3", ""); }), "3, expected a JSON object");
}

TEST(Json, DeepNestingIsNoStackOverflow) {
  const std::string open(1'000'000, '[');
  const std::string expected = "x: JSON nested more than 500 deep at byte 500, expected at most that";
  EXPECT_EQ(message_of([&] { parse_json(open, "x"); }), expected);
  EXPECT_EQ(message_of([&] { parse_json_object(open + std::string(1'000'000, ']'), "x"); }), expected);
  EXPECT_EQ(message_of([&] { parse_json(std::string(500, '[') + std::string(500, ']'), "x"); }), "no InputError");
  EXPECT_EQ(message_of([&] { parse_json(R"(["[[[[\"[[", )" + std::string(499, '[') + std::string(500, ']'), "x"); }),
            "no InputError")
      << "brackets in strings do not count";
}

TEST(Json, FieldsThatStandTwiceAreRefusedWhereAsked) {
  const auto once = [](const char* text) { return message_of([&] { parse_json_object_once(text, "x"); }); };
  EXPECT_EQ(once(R"({"a": 1, "b": {"a": 2, "c": {"a": 3}}, "d": [{"a": 1}, {"a": 1}]})"), "no InputError");
  EXPECT_EQ(once(R"({"a": 1, "b": 2, "a": 1})"), "x: field \"a\" twice, expected once");
  EXPECT_EQ(once(R"({"a": 1, "b": [{"c": {}, "d": 1}, {"e": 1, "e": 2}]})"), "x: field \"e\" twice, expected once");
  EXPECT_EQ(once("[]"), "x: a list of 0, expected a JSON object");
}

TEST(Json, FieldsSayFileFieldFoundAndExpected) {
  const Json object = parse_json(R"({"text": 3, "big": 4294967296, "neg": -1, "null": null, "list": [1, "a"]})", "f");
  EXPECT_EQ(message_of([&] { get_field<std::string>(object, "text", "f.json"); }),
            "f.json: field \"text\" is 3, expected a string");
  EXPECT_EQ(message_of([&] { get_field<std::string>(object, "none", "f.json"); }),
            "f.json: no field \"none\", expected a string");
  EXPECT_EQ(message_of([&] { get_field<bool>(object, "null", ""); }), "no field \"null\", expected true or false");
  EXPECT_EQ(message_of([&] { get_field<std::int32_t>(object, "big", "f"); }),
            "f: field \"big\" is 4294967296, expected an integer below 2^31");
  EXPECT_EQ(message_of([&] { get_field<std::uint64_t>(object, "neg", "f"); }),
            "f: field \"neg\" is -1, expected an integer that is not negative");
  EXPECT_EQ(message_of([&] { get_field<std::vector<std::int32_t>>(object, "list", "f"); }),
            "f: field \"list\" is a list of 2, expected a list of integers below 2^31");
  EXPECT_EQ(get_field<std::int64_t>(object, "big", "f"), 4294967296);
  EXPECT_EQ(get_field<double>(object, "text", "f"), 3.0);
  EXPECT_FALSE(find_field<double>(object, "none", "f").has_value());
  EXPECT_FALSE(find_field<double>(object, "null", "f").has_value());
}

TEST(Json, IntegersKeepTheirRange) {
  const Json object = parse_json(R"({"u": 18446744073709551615, "f": 3.0, "over": 18446744073709551616})", "f");
  EXPECT_EQ(get_field<std::uint64_t>(object, "u", "f"), std::numeric_limits<std::uint64_t>::max());
  EXPECT_THROW(get_field<std::int64_t>(object, "u", "f"), InputError);
  EXPECT_THROW(get_field<std::int64_t>(object, "f", "f"), InputError);
  EXPECT_THROW(get_field<std::uint64_t>(object, "over", "f"), InputError);
}

TEST(Json, DoublesRoundTripExactly) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; ++i) {
    const double value = std::bit_cast<double>(random());
    if (!std::isfinite(value)) continue;
    const std::string text = dump_json_line(value);
    ASSERT_EQ(parse_json(text, "").get<double>(), value) << text;
  }
  EXPECT_EQ(dump_json_line(0.1), "0.1");
  EXPECT_EQ(dump_json_line(std::nan("")), "null");
}

TEST(Json, InvalidUtf8IsReplacedWhenWritten) {
  EXPECT_EQ(dump_json_line({{"a", "x\xffy"}}), "{\"a\":\"x\xEF\xBF\xBDy\"}");
  EXPECT_EQ(dump_json_line({{"a", "\xE2\x82"}}), "{\"a\":\"\xEF\xBF\xBD\"}");
  EXPECT_EQ(describe_json(Json(std::string(200, '\xC3'))).size(), 2u + 3);
}

TEST(Json, OptionsGoBothWays) {
  OuterOptions options;
  options.count = 7;
  options.inner.rate = 8e-7;
  options.inner.seed = Seed{18446744073709551615ULL};
  const std::string text = dump_json_line(options_to_json(options));
  EXPECT_EQ(text, R"({"flag":false,"count":7,"name":"x","inner":{"rate":8e-07,"seed":18446744073709551615}})");
  OuterOptions read;
  options_from_json(parse_json(text, ""), read, "f");
  EXPECT_EQ(dump_json_line(options_to_json(read)), text);
}

TEST(Json, OptionsKeepWhatIsNotNamedAndRefuseWhatIsUnknown) {
  OuterOptions options;
  options_from_json(parse_json(R"({"inner": {"rate": 1}})", ""), options, "f");
  EXPECT_EQ(options.inner.rate, 1.0);
  EXPECT_EQ(options.count, 3);
  EXPECT_EQ(message_of([&] { options_from_json(parse_json(R"({"inner": {"rat": 1}})", ""), options, "f"); }),
            "f: inner: unknown field \"rat\", expected rate, seed");
  EXPECT_EQ(message_of([&] { options_from_json(parse_json(R"({"inner": 3})", ""), options, "f"); }),
            "f: inner: 3, expected an object");
  EXPECT_EQ(message_of([&] { options_from_json(parse_json(R"({"count": "3"})", ""), options, ""); }),
            "field \"count\" is \"3\", expected an integer");
}

TEST(Json, DifferencesNameEveryFieldWithBothValues) {
  OuterOptions saved;
  OuterOptions now;
  EXPECT_TRUE(option_differences(saved, now).empty());
  now.inner.rate = 8e-7;
  now.name = "y";
  EXPECT_EQ(option_differences(saved, now), (std::vector<std::string>{"inner.rate: 5e-07 in the checkpoint, 8e-07 now",
                                                                      "name: \"x\" in the checkpoint, \"y\" now"}));
  EXPECT_EQ(
      json_differences(parse_json(R"({"a": 1, "b": [1]})", ""), parse_json(R"({"b": [2, 3]})", ""), "then", "now"),
      (std::vector<std::string>{"a: 1 then, absent now", "b: a list of 1 then, a list of 2 now"}));
}

}  // namespace
}  // namespace detail
}  // namespace sao
