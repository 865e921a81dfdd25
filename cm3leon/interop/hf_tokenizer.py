"""Our text tokenizer with the whole id space, as files that transformers' AutoTokenizer reads.

Text ids are the byte-pair encoding's own; image codes, sentinels and specials follow as added
tokens in the order of `sequence.Vocabulary`, so that every id is the transformer's. A prompt is
written `<eos>a red star<break>`, an image code `<image:17>`; a caption that contains such a name is
read as that token. The filler behind <eom> has no names.
"""

from __future__ import annotations

import json

from cm3leon.errors import UserError
from cm3leon.sequence.documents import Vocabulary


def token_names(vocabulary: Vocabulary) -> list[str]:
    """Names of all ids behind the text ids, in order; the filler has none."""
    images = [f"<image:{code}>" for code in range(vocabulary.image_size)]
    rest = range(vocabulary.image_end, vocabulary.eom + 1)
    return images + [vocabulary.name(token) for token in rest]


def tokenizer_files(payload: bytes, vocabulary: Vocabulary, context: int) -> dict[str, str]:
    """File name -> content: tokenizer.json, tokenizer_config.json, special_tokens_map.json.

    `payload` are the bytes of a `text.TextTokenizer`. `AutoTokenizer` then gives a caption the ids
    that its `encode` gives, and back; `context` is the longest sequence. Raises UserError when the
    tokenizer has another size than the id space.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers

    whole = Tokenizer.from_str(payload.decode())
    if (size := whole.get_vocab_size()) != vocabulary.text_size:
        raise UserError(
            f"the id space has {vocabulary.text_size} text tokens, the tokenizer {size}; "
            "export with the tokenizer the model was trained with"
        )
    # Our rule of one space before every text, in the library's words: put there, not if it lacks.
    whole.normalizer = normalizers.Prepend(" ")
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    names = token_names(vocabulary)
    whole.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    special = {"bos_token": "<eos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    about = special | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.json": whole.to_str() + "\n",
        "tokenizer_config.json": json.dumps(about, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(special, indent=2) + "\n",
    }
