"""Tokens and ids of texts."""

import json
import sys

from modelscope.models.multi_modal.clip.bert_tokenizer import FullTokenizer

tokenizer = FullTokenizer(vocab_file=sys.argv[1])
for text in sys.argv[2:]:
    tokens = tokenizer.tokenize(text)
    ids = tokenizer.convert_tokens_to_ids(tokens)
    assert tokenizer.convert_ids_to_tokens(ids) == tokens
    joined = tokenizer.convert_tokens_to_string(tokens)
    print(json.dumps([tokens, ids, joined], ensure_ascii=False))
print(tokenizer.vocab_size(), tokenizer.vocab["[UNK]"], tokenizer.inv_vocab[0])
