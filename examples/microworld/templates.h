// SPDX-License-Identifier: Apache-2.0
// The chat-turn templates of the micro world; sao_templates.json holds the same strings for the
// pipeline, and tests/microworld/world_test compares the two.
#pragma once

#include <string_view>

namespace microworld {

/// User turn that asks for a request; `{persona}` is replaced by the persona's text.
inline constexpr std::string_view kPersonaTemplate = "{persona}\nWrite a request from this person.";
/// User turn that asks for a request without any guide.
inline constexpr std::string_view kUnguidedTemplate = "Write a request.";
/// User turn of the judge.
inline constexpr std::string_view kJudgeTemplate =
    "Which response is better?\nRequest: {prompt}\nResponse 1: {first}\nResponse 2: {second}";
/// Start of the judge's own turn, and the two verdicts that may follow it.
inline constexpr std::string_view kJudgePrefix = "ranking:";
inline constexpr std::string_view kJudgeFirst = " 1 > 2";
inline constexpr std::string_view kJudgeSecond = " 2 > 1";

}  // namespace microworld
