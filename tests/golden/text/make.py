# SPDX-License-Identifier: Apache-2.0
"""Small tokenizers and what the reference libraries make of some texts with them. See README.md."""

import io
import json
import pathlib
import random

import sentencepiece as spm
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

HERE = pathlib.Path(__file__).parent
SEED = 20240

CORPUS = """
A model writes prompts in the voice of a persona, answers each of them twice and then judges its own answers.
The better answer is kept as chosen, the other one as rejected; together they make one preference pair.
Training moves the policy towards what it preferred itself, step by step, and the next round starts from there.
In 2024 there were 1200 rounds, 35 of them in 2 days; the learning rate was 8e-7 and the margin 0.5.
It's what we'd call self-alignment: they're not asking anyone, I'm told, and you'll see that it doesn't hurt.
def judge(first, second):\n    return "first" if first > second else "second"\n\n\nprint(judge(1, 2))
The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs! How vexingly quick.
Grüße aus Köln, où l'été est très beau; mañana será otro día. Привет, как дела? 你好，世界。 こんにちは。
""".strip().split("\n")

TEXTS = [
    "", " ", "  ", "\n", "\n\n", "\t", "a", " a", "a ", "  a  b ", "hello", "Hello world", "The better answer is kept",
    "It's what we'd call; I'M TOLD, they'Re", "1", "12", "123", "1234567", "x1y22z333", "8e-7", "a\n\n\nb", "  \n  x",
    "tabs\t\tand  spaces   ", "café", "cafe\u0301", "naïve Grüße", "你好，世界", "こんにちは", "Привет", "👍🏽 👩‍👩‍👧‍👦", "\u00a0x\u2003y",
    "\u200b", "\ufffd", "\u2581", "a\u2581b", "\x00\x01", "zero\x00byte", "def f(x):\n    return x ** 2  # squares\n",
    "https://example.org/a?b=c&d=%20", "<start_of_turn>user\nHi<end_of_turn>\n", "x<end_of_turn>y", "<bos>", "a<eos> b",
    "<unk>", "<|begin_of_text|>x", "a <|eot_id|> b", "<|eot_id|><|eot_id|>", "<|eot_", "mm <mask> nn", "<mask>", "x <mask>",
    "wordier word word, xword word", "é word ü", "a\u180eb", "a\u0085b", "don't", "DON'T", "don’t", "ſ 'ſ", "∑≠²½Ⅷ", "  <ws>  y",
    "<0x41>", "ab<0x41>", "--------", "........", "a" * 60, "the " * 20, "ab" * 40 + " " + "xyz" * 30,
]
INVALID = ["ff", "c3", "61c3", "c328", "e282", "61e28262", "f09f98", "f09f9861", "eda080", "f4908080", "c0af", "80", "e4b8ade6"]


def cases(encode, decode, extra=()):
    return [{"text": t, "ids": encode(t), "decoded": decode(encode(t), False), "decoded_skip": decode(encode(t), True)}
            for t in TEXTS + list(extra)]


def random_ids(rng, usable, n=40):
    return [[rng.choice(usable) for _ in range(rng.randint(1, 9))] for _ in range(n)]


def sentencepiece_set(name, **options):
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3), model_writer=model, byte_fallback=True, character_coverage=0.98,
        normalization_rule_name="identity", num_threads=1, **options)
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    sp = spm.SentencePieceProcessor(model_proto=model.getvalue())
    rng = random.Random(SEED)
    usable = [i for i in range(sp.get_piece_size()) if not sp.is_control(i) and not sp.is_unknown(i)]
    expected = {
        "cases": [{"text": t, "ids": sp.encode(t), "decoded": sp.decode(sp.encode(t))} for t in TEXTS],
        "decode_cases": [{"ids": ids, "decoded": sp.decode(ids)} for ids in random_ids(rng, usable)],
        "invalid_utf8": [{"hex": h, "ids": sp.encode(bytes.fromhex(h))} for h in INVALID],
        "vocab_size": sp.get_piece_size(), "bos": sp.bos_id(), "eos": sp.eos_id(),
    }
    (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=True, separators=(",", ":")) + "\n")


def pipeline_set(name, tokenizer, config, extra=()):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    encode = lambda t: tokenizer.encode(t, add_special_tokens=False).ids
    decode = lambda ids, skip: tokenizer.decode(ids, skip_special_tokens=skip)
    tokenizer.encode_special_tokens = True
    not_parsed = [{"text": t, "ids": encode(t)} for t in TEXTS if "<" in t]
    tokenizer.encode_special_tokens = False
    rng = random.Random(SEED)
    random_cases = random_ids(rng, sorted(tokenizer.get_vocab().values()))
    expected = {
        "cases": cases(encode, decode, extra),
        "special_not_parsed": not_parsed,
        "decode_cases": [{"ids": ids, "decoded": decode(ids, False), "decoded_skip": decode(ids, True)}
                         for ids in random_cases],
        "invalid_utf8": [{"hex": h, "ids": encode(bytes.fromhex(h).decode("utf-8", errors="replace"))}
                         for h in INVALID],
        "with_bos": tokenizer.encode("Hello world").ids,
        "vocab_size": tokenizer.get_vocab_size(),
    }
    (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=True, separators=(",", ":")) + "\n")


def byte_level():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    # In the style of those in use: contractions, words with one sign before, up to three digits, signs, white space.
    pattern = (r"(?i:'[sdmt]|'(?:ll|ve|re))|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
               r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS * 3, trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    # Words of the vocabulary that no merge reaches: only ignore_merges finds them.
    state = json.loads(tokenizer.to_str())
    for word in ["Hello", "\u0120vexingly"]:
        state["model"]["vocab"][word] = len(state["model"]["vocab"])
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"])
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, normalized=False),
                          AddedToken("<ws>", rstrip=True, normalized=False),
                          AddedToken("word", single_word=True)])
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)])])
    pipeline_set("byte_level", tokenizer, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"})


def byte_fallback():
    """The kind of Llama 2, Mistral and Gemma: characters with <0xXX> for unknown ones, blanks as U+2581."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    trained.train_from_iterator(CORPUS[:6], trainers.BpeTrainer(vocab_size=260, show_progress=False))
    state = json.loads(trained.to_str())["model"]
    vocab = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)])}
    for token in state["vocab"]:
        vocab.setdefault(token, len(vocab))
    merges = [tuple(m) for m in state["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = trained.normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("word", single_word=True, normalized=True)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    pipeline_set("byte_fallback", tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, ["<s>x</s> y", "a<s> b"])


sentencepiece_set("unigram", model_type="unigram", vocab_size=400)
sentencepiece_set("gemma", model_type="bpe", vocab_size=420, add_dummy_prefix=False, remove_extra_whitespaces=False,
                  split_digits=True, pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>",
                  bos_piece="<bos>", unk_piece="<unk>", user_defined_symbols=[
                      "<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "\u2581\u2581", "\u2581\u2581\u2581"])
sentencepiece_set("dummy_prefix", model_type="bpe", vocab_size=400, remove_extra_whitespaces=False)
byte_level()
byte_fallback()
