# SPDX-License-Identifier: Apache-2.0
"""Writes libsao/src/text/unicode_tables.inc: what the characters are to the `tokenizers` library.

Its parts know different versions of Unicode (regular expressions by Oniguruma: 16, Rust's standard library: 17,
normalisation: 9, punctuation: 8), so everything is asked of the library itself, for all code points. `unicodedata2`
says which characters a newer normalisation would touch; Python 3.11's `unicodedata` what PCRE2 10.42 (Unicode 14) knows.
"""

import pathlib
import unicodedata

import unicodedata2
from tokenizers import Regex, normalizers, pre_tokenizers

OUT = pathlib.Path(__file__).parents[3] / "libsao" / "src" / "text" / "unicode_tables.inc"
assert unicodedata.unidata_version == "14.0.0"
NAMES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co Cn".split()
ALL = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
TEXT = "".join(map(chr, ALL))


def matched(pattern):
    words = pre_tokenizers.Split(Regex(pattern), "removed", invert=True).pre_tokenize_str(TEXT)
    return {ord(c) for word, _ in words for c in word}


def cut_out(pre_tokenizer):
    """The characters that stand alone between letters."""
    words = pre_tokenizer.pre_tokenize_str("aa".join(map(chr, ALL)) + "aa")
    return {ord(c) for word, _ in words for c in word if "a" not in word}


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


lines = []


def write(name, kind, items, comment):
    lines.append(f"// {comment}")
    lines.append(f"constexpr {kind} {name}[] = {{")
    row = "   "
    for item in items:
        if len(row) + len(item) + 2 > 120:
            lines.append(row)
            row = "   "
        row += f" {item},"
    lines.extend([row, "};"])


def write_ranges(name, points, comment):
    write(name, "CodePointRange", [f"{{0x{a:x}, 0x{b:x}}}" for a, b in ranges(points)], comment)


category = {c: "Cs" for c in range(0xD800, 0xE000)}
for name in NAMES:
    if name != "Cs":
        category |= dict.fromkeys(matched(r"\p{%s}+" % name), name)
assert len(category) == 0x110000
items, last = [], None
for c in range(0x110000):
    now = (NAMES.index(category[c]), unicodedata.category(chr(c)) != category[c])
    if now != last:
        items.append(f"0x{c << 6 | now[1] << 5 | now[0]:x}")
    last = now
write("kCategoryRuns", "std::uint32_t", items,
      "Where a run of one general category begins: code point << 6 | (1 if not so in Unicode 14) << 5 | category")


def of(groups):
    return {c for c in ALL if category[c][0] in groups}


word = matched(r"\w+")
write_ranges("kWordBeyondCategories", word - of("LM") - {c for c in ALL if category[c] in ("Nd", "Nl", "Pc")},
             "\\w of Oniguruma besides letters, marks, Nd, Nl and Pc")
rust_word = {ord(w[1]) for w, _ in pre_tokenizers.Whitespace().pre_tokenize_str(" ".join("a" + chr(c) for c in ALL))
             if len(w) == 2 and w[0] == "a"}
write_ranges("kWordOfRustOnly", rust_word - word, "\\w of Rust's regex that Oniguruma's is not")
write_ranges("kWordOfOnigurumaOnly", word - rust_word, "and the other way round")
numeric = cut_out(pre_tokenizers.Digits(False))
assert numeric > of("N")
write_ranges("kNumericBeyondCategories", numeric - of("N"), "Digits: numeric to Rust besides Nd, Nl and No")
punctuation = cut_out(pre_tokenizers.Punctuation("contiguous"))
ascii_signs = {c for c in range(128) if chr(c).isprintable() and not chr(c).isalnum() and c != 32}
write_ranges("kPunctuationBeyondCategories", punctuation - of("P"), "Punctuation besides the categories P*")
write_ranges("kNotPunctuation", of("P") - punctuation, "P* that it does not know")
assert ascii_signs < punctuation
accents = {c for c in ALL if normalizers.StripAccents().normalize_str(chr(c)) == ""}
write_ranges("kAccentBeyondCategories", accents - of("M"), "StripAccents besides the categories M*")
write_ranges("kNotAccent", of("M") - accents, "M* that it does not know")

lower = {c: normalizers.Lowercase().normalize_str(chr(c)) for c in ALL}
longer = {c: s for c, s in lower.items() if len(s) > 1}
assert longer == {0x130: "i\u0307"}, longer  # code has it
runs = []
for c in ALL:
    d = ord(lower[c]) - c if c not in longer else 0
    if d == 0:
        continue
    if runs and runs[-1][2] == d and c - runs[-1][1] in (1, 2) and (runs[-1][3] in (0, c - runs[-1][1])):
        runs[-1][3] = c - runs[-1][1]
        runs[-1][1] = c
    else:
        runs.append([c, c, d, 0])
write("kLowercaseRuns", "LowercaseRun", [f"{{0x{a:x}, 0x{b:x}, {max(1, step)}, {d}}}" for a, b, d, step in runs],
      "Lowercase: first, last, step, what is added")

# Characters that the reference's normalisation leaves alone and a newer one would touch.
nfd, nfkd, nfc = normalizers.NFD(), normalizers.NFKD(), normalizers.NFC()
inert = set()
for c in ALL:
    s = chr(c)
    decomposition = unicodedata2.decomposition(s)
    if 0xAC00 <= c <= 0xD7A3:
        continue
    if decomposition and nfkd.normalize_str(s) == s:
        inert.add(c)
    if decomposition and not decomposition.startswith("<"):
        if nfd.normalize_str(s) == s:
            inert.add(c)
            inert |= {int(p, 16) for p in decomposition.split() if unicodedata2.decomposition(chr(int(p, 16))) == ""
                      and int(p, 16) > 0x10000 and unicodedata2.combining(chr(int(p, 16))) == 0}
    ccc = unicodedata2.combining(s)
    if ccc:
        low, high = "\u0334", "\u0345"  # classes 1 and 240
        known = nfd.normalize_str("a" + s + low) != "a" + s + low if ccc > 1 else \
            nfd.normalize_str("a" + high + s) != "a" + high + s
        if not known:
            inert.add(c)
write_ranges("kUnknownToNormalization", inert,
             "Left alone by the reference's NFC, NFD, NFKC and NFKD, though newer versions of Unicode change or move them")

OUT.write_text("// SPDX-License-Identifier: Apache-2.0\n// Written by tests/golden/text/make_unicode.py.\n" +
               "\n".join(lines) + "\n")
