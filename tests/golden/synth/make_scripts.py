"""Writes libsao/src/synth/unicode_scripts.inc: python3 make_scripts.py > ../../../libsao/src/synth/unicode_scripts.inc"""
import unicodedata as u,sys
names={'LATIN':'latin','GREEK':'greek','CYRILLIC':'cyrillic','ARMENIAN':'armenian','HEBREW':'hebrew','ARABIC':'arabic','DEVANAGARI':'devanagari','BENGALI':'bengali','TAMIL':'tamil','TELUGU':'telugu','THAI':'thai','GEORGIAN':'georgian','HANGUL':'hangul','ETHIOPIC':'ethiopic','HIRAGANA':'kana','KATAKANA':'kana','CJK':'han'}
r=[]
for c in range(0x110000):
    ch=chr(c); k=u.category(ch)
    if k[0] in 'LM' :
        n=u.name(ch,'?').split()[0]
        s=names.get(n,'mark' if k[0]=='M' and c<0x700 or 0xfe00<=c<=0xfe0f or 0x1ab0<=c<0x1b00 or 0x1dc0<=c<0x1e00 or 0x20d0<=c<0x2100 or 0xe0100<=c else 'other')
        if 0x3400<=c<=0x9fff or 0x20000<=c<=0x323af or c in (0x3005,0x3006,0x3007): s='han'
        if c in (0xaa,0xba): s='latin'
    elif k=='Nd' : s='digit'
    elif k=='Cn' or 0xd800<=c<=0xdfff: s=None
    else: s='-'
    r.append(s)
BMPdig=[0x30,0x660,0x6f0,0x966,0x9e6,0xe50,0xff10]
out=[];cur=None
for c,s in enumerate(r):
    if s is None: continue
    if s=='digit' and not any(d<=c<d+10 for d in BMPdig): s='other'
    if s=='-': 
        # a gap inside 'other' of at most 8 code points does not matter
        if not(cur and cur[2]=='other' and c-cur[1]<=8): cur=None
        continue
    if cur and cur[2]==s: cur[1]=c
    else:
        cur=[c,c,s]; out.append(cur)
print(len(out),file=sys.stderr)
K=lambda s:'Script::k'+s.capitalize()
print('// SPDX-License-Identifier: Apache-2.0')
print('// First and last code point of each run of letters, marks and decimal digits, by script; from the Unicode '+u.unidata_version+' data')
print('// (general categories L, M, Nd; the script is the first word of the character\'s name). Sorted. Rare scripts are kOther.')
line=''
for a,b,s in out:
    e='{0x%X, 0x%X, %s},'%(a,b,K(s))
    if len(line)+len(e)+1>116: print(line); line=''
    line+=(' ' if line else '')+e
print(line)
