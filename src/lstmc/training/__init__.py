"""Training on long texts: texts and vocabularies, streams, schedules, the trainer, language models."""

from .checkpoints import read_note
from .interrupts import Interrupted
from .language_model import LanguageModel
from .schedules import ExponentialDecay, PlateauDecay, StepDecay
from .streams import TokenStream, evaluate, streams, windows
from .text import default_text, read_text, tokenize
from .trainer import Trainer
from .vocabulary import Vocabulary

__all__ = [
    "ExponentialDecay",
    "Interrupted",
    "LanguageModel",
    "PlateauDecay",
    "StepDecay",
    "TokenStream",
    "Trainer",
    "Vocabulary",
    "default_text",
    "evaluate",
    "read_note",
    "read_text",
    "streams",
    "tokenize",
    "windows",
]
