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
# What the newer sets are tried with besides: many scripts, marks in the wrong order, characters of several versions of
# Unicode, contractions in all cases, special tokens inside text.
NASTY = [
    "", "e\u0301\u0327", "e\u0327\u0301", "\u0301", "a\u0334\u0345\u0301", "Å\u0301 Å A\u030a", "ﬁ ﬂ ﬅ ① ㍿ ㋿ ² ½ ™", "ẛ\u0323",
    "각 각 ᄀ ᅡ 각", "क़ क\u093c", "\U00011935\U00011930 \U00011938", "ΑΣ ΑΣΑ Σ ς", "İSTANBUL ıI ẞß ǅ", "\u1c89 \ua7cb \U00010d50",
    "It'S WE'RE they'LL 'ſ don'T 'd'd", "HelloWorld HELLOworld ABcDEf aBC", "ʰªº ǅungla ǅUNGLA", "مرحبا بالعالم ١٢٣", "नमस्ते दुनिया १२३", "สวัสดีชาวโลก",
    "日本語の文章です。カタカナ", "한국어 문장입니다", "Ελλάδα, Россия; Україна", "👩‍👩‍👧‍👦🇩🇪🏴‍☠️", "\r\n\r\n \r x\r\ny", "a\u2028b\u2029c\u0085d", "x/\n\n//\r\n/y",
    "1234567890 12,345.678 ½¾ Ⅷ ٣٤٥ १२३४", "\x01\x07\x0b\x0c\x1f\x7f\x8f\x9f", "\ufeffBOM\u200b\u200d", "a\u00a0\u2003\u3000b", "¡¿«»„“—…", "᙭ \U000111c9 ؝",
    "  leading and trailing  ", "\t\ttabs\t ", " ", "\u2581\u2581a \u2581b", "a_b‿c", "ab AB ab<|end|>", "<s>Hello</s> <s> x</s>", "<|user|>\n Hi<|end|>\n<|assistant|>", "<|user|> \n\n x",
    "<|im_start|>user\nHi<|im_end|>\n", "Tok en tok en TOK EN", "e" * 70, "ab " * 30, "中" * 50, "\n" * 40, "\U0010ffff\ue000\u0378",
]
INVALID = ["ff", "c3", "61c3", "c328", "e282", "61e28262", "f09f98", "f09f9861", "eda080", "f4908080", "c0af", "80", "e4b8ade6"]


def cases(encode, decode, texts):
    return [{"text": t, "ids": encode(t), "decoded": decode(encode(t), False), "decoded_skip": decode(encode(t), True)}
            for t in texts]


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


def pipeline_set(name, tokenizer, config, extra=(), texts=TEXTS):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    encode = lambda t: tokenizer.encode(t, add_special_tokens=False).ids
    decode = lambda ids, skip: tokenizer.decode(ids, skip_special_tokens=skip)
    tokenizer.encode_special_tokens = True
    not_parsed = [{"text": t, "ids": encode(t)} for t in texts if "<" in t]
    tokenizer.encode_special_tokens = False
    rng = random.Random(SEED)
    random_cases = random_ids(rng, sorted(tokenizer.get_vocab().values()))
    expected = {
        "cases": cases(encode, decode, texts + list(extra)),
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


QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
NEMO = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def qwen2():
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix=""))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS * 3, trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("Tok en", normalized=True)])
    pipeline_set("qwen2", tokenizer, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None,
                                      "tokenizer_class": "Qwen2Tokenizer"}, texts=TEXTS[1::4] + NASTY)


def nemo():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(NEMO), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS * 3, trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))])
    pipeline_set("nemo", tokenizer, {"bos_token": "<s>", "eos_token": "</s>"}, texts=TEXTS[2::4] + NASTY)


def sentencepiece_like(name, texts, config, tokens, normalizer=None, pre_tokenizer=None, decoder=None):
    """BPE over characters with bytes for unknown ones, trained with blanks as U+2581."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS[:6], trainers.BpeTrainer(vocab_size=260, show_progress=False))
    state = json.loads(trained.to_str())["model"]
    vocab = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)])}
    for token in state["vocab"]:
        vocab.setdefault(token, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(m) for m in state["merges"]], unk_token="<unk>",
                                     fuse_unk=True, byte_fallback=True))
    if normalizer: tokenizer.normalizer = normalizer
    if pre_tokenizer: tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_tokens(tokens)
    pipeline_set(name, tokenizer, config, texts=texts)


def phi3():
    tokens = [AddedToken(t, rstrip=True, special=True, normalized=False) for t in ["<|user|>", "<|assistant|>", "<|end|>"]]
    sentencepiece_like("phi3", TEXTS[3::4] + NASTY, {"bos_token": "<s>", "eos_token": "<|end|>"},
                       tokens + [AddedToken("word", single_word=True, lstrip=True), AddedToken("Tok en", normalized=True)],
                       normalizer=normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]),
                       decoder=decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                                                  decoders.Fuse(), decoders.Strip(" ", 1, 0)]))


def gemma_json():
    tokens = [AddedToken(t, normalized=False) for t in ["\n", "\n\n", "\n\n\n", "\u2581\u2581", "<start_of_turn>"]]
    sentencepiece_like("gemma_json", TEXTS[0::4] + NASTY, {"bos_token": "<s>", "eos_token": "</s>"}, tokens,
                       normalizer=normalizers.Replace(" ", "\u2581"),
                       pre_tokenizer=pre_tokenizers.Split(" ", "merged_with_previous"),
                       decoder=decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]))


def metaspace():
    sentencepiece_like("metaspace", TEXTS[1::4] + NASTY, {"bos_token": "<s>", "eos_token": "</s>"},
                       [AddedToken("<|user|>", normalized=False)], pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first"),
                       decoder=decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]))


def unigram_json():
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS[:6] * 5, trainers.UnigramTrainer(
        vocab_size=150, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"], show_progress=False))
    vocab = [tuple(entry) for entry in json.loads(trained.to_str())["model"]["vocab"]]
    tokenizer = Tokenizer(models.Unigram(vocab + [(f"<0x{b:02X}>", -20.0) for b in range(0x20, 0x100)], 0, True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    pipeline_set("unigram_json", tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
                 texts=TEXTS[2::4] + NASTY)


def components():
    """Normalizers, pre-tokenizers and decoders one by one."""
    behaviors = ["isolated", "removed", "contiguous", "merged_with_previous", "merged_with_next"]
    forms = [normalizers.NFC(), normalizers.NFD(), normalizers.NFKC(), normalizers.NFKD(), normalizers.Lowercase(),
             normalizers.StripAccents(), normalizers.Strip(), normalizers.Strip(left=False), normalizers.Strip(right=False),
             normalizers.Nmt(), normalizers.ByteLevel(), normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581"),
             normalizers.Replace(Regex(r"\s+|[^\w\s]"), "_"),
             normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])]
    cuts = [pre_tokenizers.Split(pattern, behavior, invert=invert) for behavior in behaviors
            for pattern, invert in [("e", False), (Regex(r"\p{L}+|\s"), True), (Regex(r"\p{N}{1,3}"), False)]]
    cuts += [pre_tokenizers.Split(Regex(QWEN2), "removed", invert=True), pre_tokenizers.Split(Regex(NEMO), "isolated")]
    cuts += [pre_tokenizers.Punctuation(behavior) for behavior in behaviors]
    cuts += [pre_tokenizers.Digits(False), pre_tokenizers.Digits(True), pre_tokenizers.Whitespace(),
             pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="never"),
             pre_tokenizers.Metaspace(split=False), pre_tokenizers.ByteLevel(add_prefix_space=True),
             pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="first"),
                                      pre_tokenizers.Digits(True)])]
    shown = [decoders.ByteLevel(), decoders.Metaspace(), decoders.Metaspace(prepend_scheme="never"),
             decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])]
    lists = [["\u2581a", "\u2581b", "c"], ["\u2581\u2581", "x\u2581y"], ["<0xE4>", "<0xBD>", "<0xA0>", "a"],
             ["a", "<0xFF>", "<0x41>", "b"], ["\u0120the", "\u0120\u00c3", "\u00a9"], ["\u00c3", "x"], [" a", "  b"], ["<0xG1>", "<0x4>"], []]
    state = lambda component: json.loads(component.__getstate__())
    texts = [t for t in TEXTS[::6] + NASTY if len(t) < 60]
    out = {
        "texts": texts,
        "normalizers": [{"component": state(c), "normalized": [c.normalize_str(t) for t in texts]} for c in forms],
        "pre_tokenizers": [{"component": state(c), "words": [[w for w, _ in c.pre_tokenize_str(t)] for t in texts]} for c in cuts],
        "token_lists": lists,
        "decoders": [{"component": state(c), "decoded": [c.decode(t) for t in lists]} for c in shown],
    }
    (HERE / "components.json").write_text(json.dumps(out, ensure_ascii=True, separators=(",", ":")) + "\n")


def transformers_cases():
    """What AutoTokenizer makes of the files beside tokenizer.json."""
    import tempfile

    from transformers import AutoTokenizer

    texts = ["Hello the", " the", "<s>Hello the</s> the", "<s> Hello<x>  the", "<extra>the <pad> [SEP]", ""]
    plain = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    added = {"1": {"content": "<s>", "special": True}, "520": {"content": "<x>", "rstrip": True, "special": True},
             "521": {"content": "<extra>", "normalized": False}}
    variants = []

    def variant(folder, **files):
        variants.append((folder, {name.replace("__", ".") : value for name, value in files.items()}))

    for extra in [{}, {"legacy": True}, {"legacy": False}, {"add_prefix_space": False}, {"add_eos_token": True},
                  {"add_bos_token": True, "add_eos_token": True}, {"add_bos_token": False}]:
        variant("byte_fallback", tokenizer_config__json=plain | {"tokenizer_class": "LlamaTokenizer"} | extra)
    for kind in ["llama", "mistral", "phi3", "gemma2"]:
        variant("byte_fallback", tokenizer_config__json=plain | {"tokenizer_class": "LlamaTokenizerFast"},
                config__json={"model_type": kind})
    fast = plain | {"tokenizer_class": "PreTrainedTokenizerFast"}
    for extra in [{}, {"add_eos_token": True}, {"add_bos_token": False}, {"additional_special_tokens": ["the"]},
                  {"extra_special_tokens": ["the"]}, {"pad_token": {"content": "the", "lstrip": True, "__type": "AddedToken"}},
                  {"added_tokens_decoder": added}, {"added_tokens_decoder": added, "additional_special_tokens": ["<extra>"]}]:
        variant("byte_fallback", tokenizer_config__json=fast | extra)
    variant("byte_fallback", tokenizer_config__json=fast, special_tokens_map__json={"eos_token": "<unk>", "bos_token": {"content": "<s>"}})
    variant("byte_fallback", tokenizer_config__json=fast | {"added_tokens_decoder": added}, special_tokens_map__json={"eos_token": "<unk>"})
    variant("byte_fallback", tokenizer_config__json=fast, added_tokens__json={"<x>": 520, "<extra>": 521}, special_tokens_map__json={"pad_token": "<x>"})
    variant("byte_level", tokenizer_config__json={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"})
    out = []
    for folder, files in variants:
        with tempfile.TemporaryDirectory() as path:
            path = pathlib.Path(path)
            (path / "tokenizer.json").write_bytes((HERE / folder / "tokenizer.json").read_bytes())
            for name, value in files.items():
                (path / name).write_text(json.dumps(value))
            tokenizer = AutoTokenizer.from_pretrained(path)
            ids = [tokenizer.encode(t, add_special_tokens=False) for t in texts]
            out.append({"folder": folder, "files": files, "texts": texts, "ids": ids,
                        "with_special": [tokenizer.encode(t) for t in texts],
                        "decoded": [tokenizer.decode(i) for i in ids],
                        "decoded_skip": [tokenizer.decode(i, skip_special_tokens=True) for i in ids],
                        "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id})
    (HERE / "transformers.json").write_text(json.dumps(out, ensure_ascii=True, separators=(",", ":")) + "\n")


sentencepiece_set("unigram", model_type="unigram", vocab_size=400)
sentencepiece_set("gemma", model_type="bpe", vocab_size=420, add_dummy_prefix=False, remove_extra_whitespaces=False,
                  split_digits=True, pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>",
                  bos_piece="<bos>", unk_piece="<unk>", user_defined_symbols=[
                      "<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "\u2581\u2581", "\u2581\u2581\u2581"])
sentencepiece_set("dummy_prefix", model_type="bpe", vocab_size=400, remove_extra_whitespaces=False)
byte_level()
byte_fallback()
sentencepiece_set("suffix", model_type="unigram", vocab_size=380, treat_whitespace_as_suffix=True,
                  user_defined_symbols=["<sep>", "the", "\u2581x"])
qwen2()
nemo()
phi3()
gemma_json()
metaspace()
unigram_json()
components()
transformers_cases()
