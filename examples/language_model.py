"""Train a small language model, look at its predictions, save it.

Run it with: ``python examples/language_model.py``
"""

import sys
from pathlib import Path

import lstmc

TEXT = "the cat sat on the mat.\nthe dog lay on the rug.\nthe cat saw the dog.\n" * 60


def main(path: str | Path = "cats.safetensors", epochs: int = 12) -> lstmc.LanguageModel:
    """Train by words on three sentences, save, load, and return the loaded model."""
    vocabulary = lstmc.Vocabulary.from_text(TEXT, level="word")
    model = lstmc.LanguageModel(vocabulary, layers=1, hidden=32, embed=16, rng=0)
    trainer = lstmc.Trainer(model.net, lstmc.Adam(model.net, lr=0.01), batch=10, steps=20)
    trainer.fit(vocabulary.encode(TEXT), epochs=epochs)

    for token, probability in model.continuations("the cat", k=3):
        print(f"{probability:.3f}  {token!r}")
    print(f"perplexity of its own text: {model.perplexity(TEXT):.3f}")
    print(model.sample("the dog", length=12, temperature=0.5, rng=1))

    model.save(path)
    loaded = lstmc.LanguageModel.load(path)
    probabilities = loaded.step("the")  # reads a word, updates loaded.state
    print(f"after 'the', 'dog' has {probabilities[vocabulary.index('dog')]:.3f}")
    return loaded


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cats.safetensors")
