"""Captions as coco-caption's tokens: Stanford's PTBTokenizer 3.4.1 in lower case, without Java.

A port of the lexer's rules as far as captions use them (contractions, numbers and what is joined to
them, abbreviations, words in one piece with hyphen, slash or full stop), and of what coco-caption
drops afterwards. Against the jar itself: equal on 271 of 273 made-up captions
(tests: ptb_captions.tsv), 29,999 of LlamaGen's 30,000 of MS-COCO, all of PartiPrompts' 1,632.

As there, brackets stay as tokens (`-lrb-`): coco-caption means to drop them but looks for capitals.
"""

from __future__ import annotations

import re

from cm3leon.errors import UserError

DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", '"'])
NAMES = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "€": "$", "£": "#", "¢": "cents",
}  # fmt: skip
ENTITIES = (("&lt;", " < "), ("&gt;", " > "), ("&amp;", "&"))
PLAIN = str.maketrans(
    {
        "\u2019": "'", "\u2018": "`", "\u201c": '"', "\u201d": '"', "«": '"', "»": '"',
        "\u2013": " -- ", "\u2014": " -- ",
        "…": " ... ", "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "²": " ² ", "³": " ³ ",
    }
)  # fmt: skip
SHORT = (  # words that keep their full stop
    "mrs?|ms|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|capt|"
    "ste?|ave|pres|lieut|hon|brig|co?mdr|pfc|spc|supts?|det|mt|ft|adj|adv|asst|assoc|ens|insp|mlle|"
    "mme|msgr|sfc|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thurs?|fri|jr|sr|"
    r"bros|blvd|rd|esq|inc|cos?|corp|ltd|plc|bancorp|bhd|assn|univ|intl|sys|dept|ct|etc|vs|calif|"
    r"mass|conn|fla|ariz|colo|ill|okla|penn|tenn|tex|wis|ala|ark|minn|mich|miss|kans|ky|ore|est|"
    r"tel|ext|sq|ph\.d|ed|e\.g|i\.e|al|seq|viz"
)
L = r"[^\W\d_]"  # a letter
RULES = {  # the first that fits
    "tag": r"</?[a-z!?][^<>\n]*>",
    "address": (
        r"https?://[^\s\"<>|()]+[^\s\"<>|.!?,;:'()&-]"
        r"|www\.(?:[^\s\"<>|.!?,]+\.)+[a-z]{2,4}(?:/[^\s\"<>|()]*[^\s\"<>|.!?,;:'()-])?"
        r"|(?:[^\s\"`'<>|.!?,_$()/-]+\.)+(?:com|net|org|edu)\b"
        r"|[\w.]+@\w+(?:\.\w+)+"
    ),
    "handle": rf"[@#]{L}\w*",
    "two words": (
        r"can(?=not\b)|gon(?=na\b)|got(?=ta\b)|lem(?=me\b)|gim(?=me\b)|wan(?=na\b)"
        r"|'t(?=is\b|was\b)|more(?='n\b)|y'(?=all\b)|[a-z]+(?=n't\b)"
    ),
    "clitic": r"'(?:s|d|m|ll|re|ve)\b|n't\b",
    "left out": r"'n'(?!\w)|'n\b|'em\b|'[2-9]0s\b|'till?\b|'cause\b|'\d\d(?=\s)",
    "acronym": r"(?:[a-z]\.)+[a-z]\.(?![a-z])|[a-hj-z]\.(?=\s*\S)(?![a-z])",
    "short": rf"(?:{SHORT})\.(?![a-z\d])|(?:nos?|figs?|pp?)\.(?=\s*\d)",
    "and": r"[a-z]{1,2}&[a-z](?=s\b)|[a-z]+(?:[&+][a-z]+)+(?!')",
    "or": r"[a-z0-9]+(?:-[a-z]+){0,2}(?:/[a-z0-9]+(?:-[a-z]+){0,2}){1,2}(?![/\w])",
    "date": r"\d{1,2}[/-]\d{1,2}[/-]\d{2,4}",
    "joined": rf"(?:[dol]'(?={L}))?\w+(?:[-_](?:[dol]'(?={L}))?\w+)+",
    "apostrophe": (rf"[a-hj-xzn]'{L}{{2,}}|{L}*[aeiouy]'[aeiou]{L}*|[dol]'{L}{{2,}}|[ldj]'(?={L})"),
    "clock": r"\d+:\d\d(?=[a-z])",
    "currency": r"(?:us|[ac])\$",
    "number": r"[-+]?(?:\d+(?:[.,:]\d+)*|[.]\d+(?:[.,:]\d+)*)(?!\w)",
    "word": rf"{L}\w*(?:[.!?]{L}\w*)*|\w+",
    "face": r"[:;=]-?[()]",
    "marks": r"\*{2,}|\?!+|!\?+|[?!]{2,}|\.{3,}|--+",
    "mark": r"\S",
}
LEXER = re.compile("|".join(f"({rule})" for rule in RULES.values()))
PLACES = {place: name for place, name in enumerate(RULES, 1)}


def tokens(caption: str) -> list[str]:
    """A caption as coco-caption's tokens: "It isn't 12:30!" -> it is n't 12:30."""
    if not isinstance(caption, str):
        raise UserError(f"a caption must be text, got {type(caption).__name__}")
    text = caption.lower().translate(PLAIN)
    for entity, letter in ENTITIES:
        text = text.replace(entity, letter)
    found = []
    for match in LEXER.finditer(text):
        word, rule = match[0], PLACES[match.lastindex]
        if rule == "face":
            word = word[:-1] + NAMES[word[-1]]
        word = NAMES.get(word, word)
        dots = rule == "marks" and word[0] in ".-"
        if word not in DROPPED and not dots and ord(word[0]) <= 0xFFFF:  # the jar drops emoji
            found.append(word)
    return found
