"""Text to tokens and back: tokenizers, chat templates, and how two vocabularies match."""
