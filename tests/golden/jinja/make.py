# SPDX-License-Identifier: Apache-2.0
"""Small templates of our own and what Jinja2 makes of them, set up as transformers does it. See README.md."""

import copy
import datetime
import json
import os
import pathlib
import time

import jinja2
import jinja2.ext
import jinja2.sandbox

from cases import CASES, VARIABLES

HERE = pathlib.Path(__file__).parent
NOW = 1720000000  # seconds since 1970


class Generation(jinja2.ext.Extension):
    """`{% generation %}`: a call block that returns what it holds."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(line)

    def _support(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def strftime_now(format):
    return datetime.datetime.fromtimestamp(NOW).strftime(format)


def environment():
    result = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    result.filters["tojson"] = tojson
    result.globals["raise_exception"] = raise_exception
    result.globals["strftime_now"] = strftime_now
    return result


def result_of(env, template, variables):
    try:
        return {"text": env.from_string(template).render(**copy.deepcopy(variables))}
    except Exception as error:
        kind = type(error).__name__
        result = {"error": str(error) if kind != "KeyError" else repr(error.args[0]), "kind": kind}
        if isinstance(error, jinja2.TemplateSyntaxError):
            result["error"] = error.message
            result["line"] = error.lineno
        return result


def main():
    os.environ["TZ"] = "UTC"
    time.tzset()
    env = environment()
    cases = []
    for group, entries in CASES.items():
        for entry in entries:
            template, variables = entry if isinstance(entry, tuple) else (entry, "none")
            cases.append({"group": group, "template": template, "variables": variables,
                          **result_of(env, template, VARIABLES[variables])})
    lines = ",\n".join(json.dumps(case) for case in cases)
    (HERE / "expected.json").write_text(
        f'{{"jinja2": "{jinja2.__version__}", "now": {NOW}, "variables": {json.dumps(VARIABLES)},\n"cases": [\n{lines}]}}\n')
    print(len(cases), "cases,", sum("error" in case for case in cases), "of them errors")


if __name__ == "__main__":
    main()
