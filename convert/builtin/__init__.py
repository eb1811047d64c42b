"""The recipe of the built-in pair: corpus, tokenizer, training, distillation, figures."""
