# SPDX-License-Identifier: Apache-2.0
"""Chat templates of our own in folders of every layout, and what transformers renders with them. See README.md."""

import datetime
import json
import os
import pathlib
import shutil
import tempfile

from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
TOKENIZER = HERE.parent / "text" / "byte_level" / "tokenizer.json"
NOW = 1720008000  # seconds since 1970: noon of 3 July 2024, UTC


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW)


# Turns as "@role: text" and a token; a system message of its own, the date, tools, loop variables, its own errors.
STORY = """{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set rules = messages[0].content | trim %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set rules = 'Answer briefly.' %}
    {%- set turns = messages %}
{%- endif %}
{{- '@rules: ' ~ rules ~ '\\nToday: ' ~ (today if today is defined else strftime_now('%d %b %Y')) ~ '\\n' }}
{%- if tools %}
    {%- for tool in tools %}
        {{- 'Tool ' ~ loop.index ~ ' of ' ~ loop.length ~ ': ' ~ tool | tojson ~ '\\n' }}
    {%- endfor %}
{%- endif %}
{%- for turn in turns %}
    {%- if turn.role not in ['user', 'assistant', 'tool'] %}
        {{- raise_exception('turn ' ~ loop.index ~ ' has the role ' ~ turn.role) }}
    {%- endif %}
    {%- if not loop.first and loop.previtem.role == turn.role and turn.role != 'tool' %}
        {{- raise_exception('two turns of ' ~ turn.role ~ ' in a row') }}
    {%- endif %}
    {{- '@' ~ turn.role ~ ': ' ~ (turn.content or '') | trim }}
    {%- for call in turn.tool_calls or [] %}
        {{- '\\ncall ' ~ call.function.name ~ ' ' ~ call.function.arguments | tojson }}
    {%- endfor %}
    {{- eos_token ~ '\\n' if turn.role == 'assistant' else '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '@assistant: ' }}{% endif %}"""
PLAIN = ("{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + ' ' + m['content'] + '<|eot_id|>' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant ' }}{% endif %}")
TWO = "{{ bos_token }}{{ bos_token }}" + PLAIN
LAST = "{{ bos_token }}{{ messages[-1].content | upper }}{{ eos_token }}"
TOOLS = "{{ bos_token }}{{ tools | tojson(indent=1) }}" + PLAIN
PARTS = ("{{ bos_token }}{% for m in messages %}{{ m.role }}={% if m.content is string %}{{ m.content }}{% else %}"
         "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% else %}<{{ part.type }}>{% endif %}"
         "{% endfor %}{% endif %}{{ eos_token }}{% endfor %}")
TOKENS = ("{% for m in messages %}{{ [bos_token, eos_token, pad_token, unk_token, sep_token, cls_token, mask_token, "
          "image_token, boi_token] | map('default', '-') | join(' ') }} {{ m.content }}{{ eos_token }}{% endfor %}")
BROKEN = "{{ bos_token }}\n{% for m in messages %}{{ m.content }}"

BOS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
# folder -> file -> text or object
FOLDERS = {
    "string": {"tokenizer_config.json": {**BOS, "chat_template": STORY}},
    "list": {"tokenizer_config.json": {**BOS, "chat_template": [
        {"name": "tool_use", "template": TOOLS}, {"name": "default", "template": PLAIN}, {"name": "last", "template": LAST}]}},
    "files": {"tokenizer_config.json": {**BOS, "chat_template": "not this one"}, "chat_template.jinja": STORY,
              "additional_chat_templates/tool_use.jinja": TOOLS, "additional_chat_templates/last.jinja": LAST},
    "no_default": {"tokenizer_config.json": {**BOS, "chat_template": PLAIN}, "additional_chat_templates/last.jinja": LAST},
    "two_bos": {"tokenizer_config.json": {**BOS, "chat_template": TWO}},
    "no_bos": {"tokenizer_config.json": {"bos_token": None, "eos_token": "<|eot_id|>", "chat_template": PLAIN}},
    "parts": {"tokenizer_config.json": {**BOS, "chat_template": PARTS}},
    "tokens": {"tokenizer_config.json": {
        "bos_token": {"__type": "AddedToken", "content": "<|begin_of_text|>", "lstrip": False, "rstrip": False,
                      "normalized": False, "single_word": False},
        "pad_token": "<mask>", "eos_token": "<|end_header_id|>", "image_token": "<ws>", "add_bos_token": True,
        "extra_special_tokens": {"boi_token": "<|start_header_id|>"}, "chat_template": TOKENS},
        "special_tokens_map.json": {"eos_token": "<|eot_id|>", "unk_token": "word"}},
    "broken": {"tokenizer_config.json": {**BOS, "chat_template": BROKEN}},
}


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"zip": "Köln", "a": [1, 2.5, None, True]}}}
CALLS = [{"role": "user", "content": "Rain?"},
         {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {
             "name": "weather", "arguments": {"place": "Köln", "day": 3}}}]},
         {"role": "tool", "content": "yes", "name": "weather"}, {"role": "assistant", "content": "Yes, it rains."}]
CONVERSATIONS = [
    turns(("user", "Hello")),
    turns(("user", " Hello \n"), ("assistant", " The better answer  \n"), ("user", "It's kept")),
    turns(("system", " Be kind.\n"), ("user", "Hi"), ("assistant", "Hi ")),
    turns(("system", "Be kind.")),
    turns(("user", ""), ("assistant", "")),
    turns(("user", "q"), ("assistant", "I am ")),
    turns(("user", "Grüße 你好 👍🏽\u00a0"), ("assistant", "\u2003é e\u0301\u3000")),
    turns(("user", "a"), ("user", "b")),
    turns(("assistant", "alone")),
    turns(("user", "a"), ("system", "b")),
    turns(("user", "<|eot_id|> {{ x }} {% if %}")),
    CALLS,
    CALLS[:2],
]
PART_CONVERSATIONS = [
    [{"role": "user", "content": [{"type": "text", "text": " one"}, {"type": "text", "text": "two "}]}],
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]},
     {"role": "assistant", "content": [{"type": "text", "text": "a cat "}]}],
    [{"role": "user", "content": "x"}, {"role": "assistant", "content": [{"type": "image"}]}],
]


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def result_of(tokenizer, case):
    options = {name: case[name] for name in ("add_generation_prompt", "continue_final_message")}
    arguments = dict(case.get("variables", {}))
    if "chat_template" in case:
        arguments["chat_template"] = case["chat_template"]
    messages = json.loads(json.dumps(case["messages"]))
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options, **arguments)
    except Exception as error:
        return {"kind": type(error).__name__, "error": str(error)}
    return {"text": text, "ids": tokenizer(text, add_special_tokens=False)["input_ids"]}


def cases_of(name, conversations):
    for messages in conversations:
        for add, go_on in ((False, False), (True, False), (False, True)):
            yield {"messages": messages, "add_generation_prompt": add, "continue_final_message": go_on}
    if name in ("string", "files", "list"):
        for variables in ({"tools": [TOOL]}, {"today": "a day"}, {"tools": None, "bos_token": "<mask>"}):
            yield {"messages": CONVERSATIONS[2], "add_generation_prompt": True, "continue_final_message": False,
                   "variables": variables}
    if name in ("list", "files", "no_default"):
        for variables in ({}, {"tools": [TOOL]}):
            yield {"messages": CONVERSATIONS[1], "add_generation_prompt": False, "continue_final_message": False,
                   "variables": variables, "chat_template": "last"}


def main():
    os.environ["TZ"] = "UTC"
    chat_template_utils.datetime = FixedTime
    result = []
    for name, files in FOLDERS.items():
        shutil.rmtree(HERE / name, ignore_errors=True)
        write(HERE / name, files)
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(HERE / name, folder, dirs_exist_ok=True)
            pipeline = json.loads(TOKENIZER.read_text())
            if name == "no_bos":
                pipeline["post_processor"] = None
            pathlib.Path(folder, "tokenizer.json").write_text(json.dumps(pipeline))
            tokenizer = AutoTokenizer.from_pretrained(folder)
            conversations = (PART_CONVERSATIONS if name == "parts" else
                             CONVERSATIONS[:1] if name in ("broken", "no_default") else CONVERSATIONS)
            cases = [{**case, **result_of(tokenizer, case)} for case in cases_of(name, conversations)]
        print(name, len(cases), "cases,", sum("error" in case for case in cases), "of them errors")
        result.append({"folder": name, "cases": cases})
    lines = ",\n".join(f'{{"folder": "{r["folder"]}", "cases": [\n' + ",\n".join(json.dumps(c) for c in r["cases"]) + "]}"
                       for r in result)
    (HERE / "expected.json").write_text(f'{{"now": {NOW}, "sets": [\n{lines}]}}\n')


if __name__ == "__main__":
    main()
