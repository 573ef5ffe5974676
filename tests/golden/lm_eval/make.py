"""Benchmarks by lm-evaluation-harness on a tiny random model: python make.py (lm_eval 0.4.13, transformers, tokenizers, torch,
datasets). Seed 20300.

Writes the rows (*.jsonl), the model with two tokenizers (model, no_bos) and expected.json.
"""
import json
import os
import pathlib
import random
import shutil
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp()
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import torch
from lm_eval.evaluator import simple_evaluate
from lm_eval.filters.extraction import RegexFilter
from lm_eval.models.huggingface import HFLM
from lm_eval.api.metrics import exact_match_hf_evaluate
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

here = pathlib.Path(__file__).parent
rng = random.Random(20300)
torch.manual_seed(20300)
torch.set_num_threads(1)

# ---- rows -------------------------------------------------------------------------------------------------------------
nouns = ["river", "stone", "bird", "lamp", "house", "field", "boat", "cloud", "naïve café", "猫", "engine", "letter"]
verbs = ["carries", "holds", "finds", "breaks", "keeps", "moves"]
colours = ["red", "dark green", "blue", "pale", "été", "white"]


def sentence():
    return f"The {rng.choice(colours)} {rng.choice(nouns)} {rng.choice(verbs)} the {rng.choice(nouns)}"


def write(name, rows):
    (here / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def choice_row():
    choices = [noun + rng.choice(["", ".", " and " + rng.choice(nouns)]) for noun in rng.sample(nouns, rng.choice([2, 3, 4, 4]))]
    return {"question": sentence() + rng.choice(["?", " and the", ":", ""]), "choices": choices, "label": rng.randrange(len(choices))}


plain = [choice_row() for i in range(30)]
plain = [{"context": row["question"], "choices": row["choices"], "label": row["label"]} for row in plain]
plain[3]["context"] += " "  # a blank at the end moves to the continuation
plain[4]["context"] += " \n\u00a0 "
plain[5]["context"] = ""
plain[6]["context"] = "<|begin_of_text|>" + plain[6]["context"]
plain[7]["context"] = " ".join(sentence() for _ in range(12))  # long
write("plain.jsonl", plain)
write("blank.jsonl", [{"context": "   ", "choices": ["a river", "boat"], "label": 1}])  # lm_eval refuses it without a BOS
questions = [choice_row() for i in range(24)]
questions[9] = questions[2]  # the same row twice
write("questions.jsonl", questions)
examples = [choice_row() for i in range(40)]
write("examples.jsonl", examples)

partial = []
for i in range(16):
    a, b = rng.sample(nouns, 2)
    partial.append({"sentence": f"{sentence()} because the _ was {rng.choice(colours)}.", "option1": a, "option2": b,
                    "answer": rng.choice(["1", "2"])})


def parts(row):
    at = row["sentence"].index("_")
    return [row["sentence"][:at] + row["option1"], row["sentence"][:at] + row["option2"]], row["sentence"][at + 1:].strip()


write("partial.jsonl", [{"contexts": parts(row)[0], "continuation": parts(row)[1], "label": int(row["answer"]) - 1} for row in partial])

truths = []
for i in range(14):
    row = choice_row()
    labels = [int(rng.random() < 0.5) for _ in row["choices"]]
    labels[rng.randrange(len(labels))] = 1
    truths.append({"question": row["question"], "choices": row["choices"], "labels": labels})
write("truths.jsonl", truths)


def sum_row():
    a, b = rng.randrange(2, 60), rng.randrange(2, 60)
    return {"question": f"{a} birds and {b} boats?", "answer": f"{a} and {b} are {a + b}.\n#### {a + b}"}


sums, sum_examples = [sum_row() for _ in range(10)], [sum_row() for _ in range(12)]
write("sums.jsonl", sums)
write("sum_examples.jsonl", sum_examples)

texts = [{"text": " ".join(sentence() + rng.choice([".", ",", "!\n", "  \n\n"]) for _ in range(n))} for n in [1, 2, 7, 20, 3, 9]]
texts.append({"text": "a\u2003b \u00e9\tc"})
write("texts.jsonl", texts)

# ---- the model --------------------------------------------------------------------------------------------------------
special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
corpus = [json.dumps(row, ensure_ascii=False) for row in plain + questions + examples + sums] + [row["text"] for row in texts]
tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False,
                                                         initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
vocab = tokenizer.get_vocab_size()
config = LlamaConfig(vocab_size=vocab, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, head_dim=8, max_position_embeddings=96, tie_word_embeddings=True, bos_token_id=0,
                     eos_token_id=1, rope_theta=1000.0)
model = LlamaForCausalLM(config)
with torch.no_grad():
    for name, parameter in model.named_parameters():
        parameter.copy_(torch.randn_like(parameter) * (0.25 if parameter.dim() > 1 else 0.1) + (0 if parameter.dim() > 1 else 1))
for folder in ["model", "no_bos"]:
    shutil.rmtree(here / folder, ignore_errors=True)
    (here / folder).mkdir()
model.save_pretrained(here / "model")
no_bos = json.loads(tokenizer.to_str())
(here / "no_bos" / "tokenizer.json").write_text(json.dumps(no_bos, ensure_ascii=False, separators=(",", ":")))
(here / "no_bos" / "tokenizer_config.json").write_text(
    json.dumps({"eos_token": special[1], "tokenizer_class": "PreTrainedTokenizerFast"}))
tokenizer.post_processor = processors.TemplateProcessing(single=f"{special[0]} $A", pair=None, special_tokens=[(special[0], 0)])
(here / "model" / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")))
template = ("{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}"
            "{{ message.content | trim }}{{ '<|eot_id|>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
(here / "model" / "tokenizer_config.json").write_text(
    json.dumps({"bos_token": special[0], "eos_token": special[1], "tokenizer_class": "PreTrainedTokenizerFast",
                "chat_template": template}))

# ---- the tasks --------------------------------------------------------------------------------------------------------
accuracies = [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ["acc", "acc_norm", "acc_bytes"]]
work = pathlib.Path(tempfile.mkdtemp())


def local(name, rows, few=None):
    """The files as lm_eval loads them; the test split alone where the examples come from it."""
    (work / rows).write_text((here / rows).read_text())
    files = {"test": str(work / rows)}
    if few:
        (work / few).write_text((here / few).read_text())
        files["train"] = str(work / few)
    return {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test",
            "fewshot_split": "train" if few else "test"}


question = "Question: {{question}}\nAnswer:"
tasks = {
    "plain": dict(local("plain", "plain.jsonl"), output_type="multiple_choice", doc_to_text="context", doc_to_choice="choices",
                  doc_to_target="label", metric_list=accuracies),
    "blank": dict(local("blank", "blank.jsonl"), output_type="multiple_choice", doc_to_text="context", doc_to_choice="choices",
                  doc_to_target="label", metric_list=accuracies[:1]),
    "sampled": dict(local("sampled", "questions.jsonl", "examples.jsonl"), output_type="multiple_choice", num_fewshot=2,
                    description="Birds and boats.\n\n", doc_to_text=question, doc_to_choice="choices", doc_to_target="label",
                    metric_list=accuracies),
    "same_rows": dict(local("same_rows", "questions.jsonl"), output_type="multiple_choice", num_fewshot=1, doc_to_text=question,
                      doc_to_choice="choices", doc_to_target="label", metric_list=accuracies),
    "first": dict(local("first", "questions.jsonl"), output_type="multiple_choice", num_fewshot=2,
                  fewshot_config={"sampler": "first_n"}, doc_to_text="{{question}} A. {{choices[0]}} B. {{choices[1]}}\n",
                  doc_to_choice=["A", "B", "C", "D"], doc_to_target="{{label}}", target_delimiter="", fewshot_delimiter="\n",
                  metric_list=accuracies),
    "sums": dict(local("sums", "sums.jsonl", "sum_examples.jsonl"), output_type="generate_until", num_fewshot=1,
                 doc_to_text=question, doc_to_target="{{answer}}",
                 generation_kwargs={"until": ["Question:", "a"], "do_sample": False, "max_gen_toks": 24},
                 metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True,
                               "regexes_to_ignore": [",", "\\$", "(?s).*#### ", "\\.$"]}]),
    "texts": dict(local("texts", "texts.jsonl"), output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
                  metric_list=[{"metric": m} for m in ["word_perplexity", "byte_perplexity", "bits_per_byte"]]),
}
(here / "partial_source.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in partial))
tasks["partial"] = dict(local("partial", "partial_source.jsonl"), output_type="multiple_choice", num_fewshot=1,
                        doc_to_text=lambda row: int(row["answer"]) - 1, doc_to_target=lambda row: parts(row)[1],
                        doc_to_choice=lambda row: parts(row)[0], metric_list=accuracies[:1])
(here / "partial_source.jsonl").unlink()


def true_share(doc, results):
    p = np.exp(np.array([r[0] for r in results]))
    return {"acc": (p / p.sum())[np.array(doc["labels"]) == 1].sum()}


tasks["truths"] = dict(local("truths", "truths.jsonl"), output_type="multiple_choice", doc_to_text=question, doc_to_target=0,
                       doc_to_choice="{{choices}}", process_results=true_share, metric_list=accuracies[:1])


def run(folder, names, **chat):
    lm = HFLM(pretrained=str(folder), batch_size=1, device="cpu", dtype="float32")
    found = simple_evaluate(model=lm, tasks=[tasks[n] for n in names], log_samples=True, bootstrap_iters=2, **chat)
    out = {}
    for name in names:
        metrics = {k.replace(",none", ""): v for k, v in found["results"][name].items() if "," in k or k == "sample_len"}
        samples = sorted(found["samples"][name], key=lambda s: s["doc_id"])
        samples = list({s["doc_id"]: s for s in samples}.values())  # one a filter
        items = []
        for sample in samples:
            arguments = [list(a.values()) for a in sample["arguments"].values()] if isinstance(sample["arguments"], dict) else sample["arguments"]
            if tasks[name]["output_type"] == "multiple_choice":
                contexts = [a[0] for a in arguments]
                items.append({"contexts": contexts if len(set(contexts)) > 1 else contexts[:1], "continuations": [a[1] for a in arguments],
                              "log_likelihoods": [r[0][0] for r in sample["resps"]]})
            elif tasks[name]["output_type"] == "generate_until":
                items.append({"context": arguments[0][0], "response": sample["resps"][0][0]})
            else:
                items.append({"log_likelihood": sample["resps"][0][0]})
        out[name] = {"metrics": metrics, "items": items}
    return out


expected = {"versions": "lm_eval 0.4.13", "model": run(here / "model", list(tasks))}
expected["chat"] = run(here / "model", ["sampled", "sums"], apply_chat_template=True, fewshot_as_multiturn=True)
expected["chat_one_turn"] = run(here / "model", ["sampled"], apply_chat_template=True, fewshot_as_multiturn=False)
for file in ["config.json", "generation_config.json", "model.safetensors"]:
    shutil.copy(here / "model" / file, here / "no_bos" / file)
expected["no_bos"] = run(here / "no_bos", ["plain", "same_rows", "partial", "texts"])
for file in ["config.json", "generation_config.json", "model.safetensors"]:
    (here / "no_bos" / file).unlink()

# ---- GSM8K's filters on made-up answers ---------------------------------------------------------------------------------
pieces = ["#### ", "####", "18", "-18", "1,234", "$5", "3.50", ".", ",", " ", "\n", "-", "$", "the answer is ", "7", "#### -", "€", "0.5.", "..", "- 4"]
responses = ["".join(rng.choice(pieces) for _ in range(rng.randrange(0, 9))) for _ in range(300)]
references = ["so\n#### 18", "#### -18", "#### 1,234", "x\n#### 5", "#### 3.50", "#### 7", "#### 4.\n"]
strict = RegexFilter("#### (\\-?[0-9\\.\\,]+)").apply([[r] for r in responses], [{}] * len(responses))
flexible = RegexFilter("(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1).apply([[r] for r in responses], [{}] * len(responses))
cases = []
for i, response in enumerate(responses):
    reference = references[i % len(references)]
    match = [bool(exact_match_hf_evaluate(predictions=[f[i][0]], references=[reference], ignore_case=True,
                                          regexes_to_ignore=[",", "\\$", "(?s).*#### ", "\\.$"])["exact_match"]) for f in (strict, flexible)]
    cases.append({"response": response, "reference": reference, "strict": strict[i][0], "flexible": flexible[i][0], "match": match})
expected["gsm8k"] = cases
expected["python_random"] = [{"seed": s, "n": n, "k": k, "samples": (lambda r: [r.sample(range(n), k) for _ in range(3)])(random.Random(s))}
                             for s, n, k in [(1234, 10, 5), (1234, 100, 5), (42, 30, 6), (0, 1000, 25), (2**40 + 5, 21, 2), (7, 86, 6), (7, 85, 6)]]
(here / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=0) + "\n")
print({k: v["metrics"] for k, v in expected["model"].items()})
print({k: v["metrics"] for k, v in expected["chat"].items()}, {k: v["metrics"] for k, v in expected["no_bos"].items()})
