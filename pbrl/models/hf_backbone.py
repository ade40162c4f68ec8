"""Vision-language models of Hugging Face, saved in a folder: checked, loaded, given LoRA, told pictures and words.

LoRA: Hu et al. 2021, arXiv:2106.09685. The one file that needs `pip install pbrl[vla]`. A checkpoint is checked by its
small files first; its weights are read after that, and nothing in its folder is run as code.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pbrl.models.frozen_vision import FrozenVision, find_encoder
from pbrl.types import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WEIGHTS = ("*.safetensors", "*.bin")
Inputs = dict[
    str, Tensor
]  # what a processor made of B prompts: input_ids [B, P], attention_mask [B, P], pixel_values …


def libraries() -> tuple[Any, Any]:
    """The modules transformers and peft. Raises UserError where one is not installed."""
    try:
        import peft  # pyright: ignore[reportMissingImports]
        import transformers
    except ImportError as error:
        raise UserError(f"policy=hf_vla needs {error.name}: pip install pbrl[vla]") from error
    return transformers, peft


def find_folder(path: str | None) -> Path:
    """The folder of a saved model; a name that is none, as in owner/name, is that of a hub. Raises UserError."""
    if path is None:
        raise UserError("policy=hf_vla needs a model: name the folder that it was saved in with policy.path=…")
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if folder.is_absolute() or path.count("/") != 1:
        raise UserError(f"policy.path={path}: there is no such folder")
    libraries()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path))
    except Exception as error:
        raise UserError(f"policy.path={path} is no folder, and no hub gave it ({type(error).__name__})") from error


def hash_weights(folder: Path) -> str:
    """The sha256 of a folder's weights. Raises UserError where there are none."""
    found = sorted(file for pattern in WEIGHTS for file in folder.glob(pattern))
    if not found:
        raise UserError(f"{folder} holds no weights (*.safetensors): save a model there with save_pretrained")
    return _hash_files(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in found))


@cache
def _hash_files(found: tuple[tuple[Path, int, int], ...]) -> str:
    content = hashlib.sha256()
    for file, *_ in found:
        content.update(file.name.encode())
        with file.open("rb") as opened:
            content.update(hashlib.file_digest(opened, "sha256").digest())
    return content.hexdigest()


class Kinds(NamedTuple):
    """The classes that read a folder."""

    config: Any
    processor: Any
    model: Any


def kinds_of(folder: Path) -> Kinds:
    """Those of transformers, which finds the right ones itself, or, for OpenVLA, ours."""
    transformers, _ = libraries()
    if json.loads((folder / "config.json").read_text()).get("model_type") == "openvla":
        from pbrl.models.openvla import OpenVLA, OpenVLAConfig, OpenVLAProcessor

        return Kinds(OpenVLAConfig, OpenVLAProcessor, OpenVLA)
    return Kinds(transformers.AutoConfig, transformers.AutoProcessor, transformers.AutoModelForImageTextToText)


class Checkpoint:
    """The small files of a saved model: its config, its processor, and what it says of actions. Raises UserError.

    `prompt` is what it is told, with {instruction} for the instruction and {image} for the marks of all images: the
    processor's own unless `image_token` names another, and nothing where it has none.
    """

    def __init__(self, path: str | None, *, prompt: str, image_token: str | None):
        transformers, _ = libraries()
        self.folder, self.prompt = find_folder(path), prompt
        if "{instruction}" not in prompt:
            raise UserError(f"policy.prompt={prompt!r} must say where {{instruction}} is")
        if not (self.folder / "config.json").is_file():
            raise UserError(f"{self.folder} holds no config.json: save a model there with save_pretrained")
        self.kinds = kinds_of(self.folder)
        self.config = self._read(self.kinds.config)
        self.processor = self._read(self.kinds.processor)
        self.tokenizer: Any = getattr(self.processor, "tokenizer", None)
        if self.tokenizer is None:
            raise UserError(f"{self.folder} holds no processor of images and text: save it there with save_pretrained")
        self.image_token = image_token or getattr(self.processor, "image_token", None)
        is_found = self.kinds.model is transformers.AutoModelForImageTextToText
        if is_found and type(self.config) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise UserError(
                f"{self.folder} is a {self.config.model_type}, which reads no images and text: name another"
            )
        rows = self.config.get_text_config().vocab_size
        if len(self.tokenizer) > rows:
            raise UserError(
                f"{self.folder} has a tokenizer of {len(self.tokenizer)} words and a model of {rows}: they are of two "
                "checkpoints, so copy the tokenizer of this one there"
            )

    def _read(self, kind: Any) -> Any:
        """What an auto class makes of the folder. Raises UserError."""
        try:
            return kind.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            name, words = kind.__name__, " ".join(str(error).split())[:300]
            raise UserError(f"{self.folder} cannot be read by transformers' {name} ({words})") from error

    def statistics(self) -> Mapping[str, Any]:
        """What it says of actions, by data set: from dataset_statistics.json, or the config's norm_stats."""
        file = self.folder / "dataset_statistics.json"
        return json.loads(file.read_text()) if file.is_file() else getattr(self.config, "norm_stats", None) or {}

    def inputs(self, images: Sequence[Sequence[Any]], instructions: Sequence[str]) -> Inputs:
        """Images [H, W, 3] uint8 of the cameras, for each of B rows, and its instruction → what the model is given.

        Shorter prompts are padded on their left, so that all end together. Raises UserError.
        """
        marks = (self.image_token or "") * len(images[0])
        texts = [self.prompt.replace("{image}", marks).replace("{instruction}", words) for words in instructions]
        pictures = [[Image.fromarray(image) for image in row] for row in images]
        try:
            found = self.processor(
                text=texts, images=pictures, padding=True, padding_side="left", return_tensors="pt"
            )  # fmt: skip
        except (ValueError, IndexError) as error:
            raise UserError(
                f"policy.prompt={self.prompt!r} does not suit the processor of {self.folder} ({error})"
            ) from error
        return {name: value for name, value in found.items() if name != "labels"}  # PaliGemma's has them unasked


def load_model(files: Checkpoint, dtype: torch.dtype) -> Any:
    """A checkpoint's model with all of its weights. Raises UserError."""
    given = {"local_files_only": True, "trust_remote_code": False, "dtype": dtype, "output_loading_info": True}
    try:
        model, found = files.kinds.model.from_pretrained(files.folder, **given)
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise UserError(f"{files.folder} holds no model of images and text that can be read ({words})") from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise UserError(
            f"the weights in {files.folder} lack {len(missing)} of the model's, as {missing[0]}: save it anew"
        )
    return model


def add_lora(model: Any, *, rank: int, alpha: float, head: bool, frozen: str | None = None) -> None:
    """Adds LoRA to all linear layers of a model but those of the module `frozen`, and freezes the rest.

    OpenVLA's own is on the head too, which peft's "all-linear" has left out since.
    """
    _, peft = libraries()
    last = None if head else model.get_output_embeddings()
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not last and not (frozen and name.startswith(f"{frozen}."))
    ]
    given = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, init_lora_weights="gaussian")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")  # of merging, which is not done here
        peft.inject_adapter_in_model(given, model)


class VisionLanguageModel(nn.Module):
    """A checkpoint's model, whose every linear layer has LoRA of `rank`; with rank 0 all that it has is trained. With
    `head` the layer that gives the logits is one of them.

    With `freeze_vision` the image encoder has none, and what it makes of images is kept, at most `vision_cache_mb`.
    `adapter` holds the parameters that are trained, and is all that is saved; the rest is read from the folder again.
    Dropout is off. Where more than `at_once` rows are read, it is so many at a time, and what their gradients need is
    computed again (activation checkpointing). Without `loads` settings are checked, and no weights read. Raises
    UserError.
    """

    def __init__(
        self,
        files: Checkpoint,
        *,
        rank: int,
        alpha: float,
        dtype: str,
        at_once: int,
        head: bool,
        freeze_vision: bool = False,
        vision_cache_mb: float = 0.0,
        loads: bool = True,
    ):
        super().__init__()
        if dtype not in DTYPES:
            raise UserError(f"policy.dtype={dtype}: it is {' or '.join(DTYPES)}")
        if rank == 0 and dtype != "float32":
            raise UserError(
                f"policy.lora_rank=0 trains all parameters, and policy.dtype={dtype} is too coarse: float32"
            )
        self.files, self.at_once = files, at_once
        model = load_model(files, DTYPES[dtype]) if loads else nn.Module()
        name, encoder = find_encoder(model) if freeze_vision and loads else (None, None)
        if rank and loads:
            add_lora(model, rank=rank, alpha=alpha, head=head, frozen=name)
        self.vision = FrozenVision(encoder, vision_cache_mb) if encoder is not None else None
        self.held = (model.eval(),)  # a tuple is not registered: what is frozen is neither saved nor optimized
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for p in trained.values():
            p.data = p.data.float()  # injected, LoRA takes the precision of the model
        self.adapter = nn.ParameterDict({name.replace(".", "/"): p for name, p in trained.items()})

    @property
    def model(self) -> Any:
        """The model as transformers made it."""
        return self.held[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "VisionLanguageModel":
        self.model._apply(fn)
        if self.vision is not None:
            self.vision.forget()  # it lies on another device, or in another precision
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """Without the functions that transformers hooks into a model when it first runs: they cannot be pickled.

        It hooks them in again.
        """
        for module in self.model.modules():
            module._forward_hooks.clear()
            if hasattr(module, "_output_capturing_hooks_installed"):
                module._output_capturing_hooks_installed = False
        return self.__dict__.copy()

    def inputs(self, images: Sequence[Sequence[Any]], instructions: Sequence[str]) -> Inputs:
        """`Checkpoint.inputs` on the model's device, in its precision."""
        weight = self.model.get_input_embeddings().weight
        found = self.files.inputs(images, instructions)
        return {k: v.to(weight.device, weight.dtype if v.is_floating_point() else None) for k, v in found.items()}

    def read(self, inputs: Inputs) -> tuple[Tensor, Any]:
        """Reads prompts: the logits of the token after them [B, 1, V], and the key-value cache."""
        out = self.model(**inputs, use_cache=True, logits_to_keep=1)
        return out.logits, out.cache

    def go_on(self, tokens: Tensor, inputs: Inputs, cache: Any) -> tuple[Tensor, Any]:
        """Reads tokens [B, N] after what is cached: the logits of each next one [B, N, V], and the cache."""
        mask = inputs["attention_mask"]
        beyond = cache.get_seq_length() + tokens.shape[1] - mask.shape[1]
        mask = torch.cat([mask, mask.new_ones(len(mask), beyond)], 1)
        out = self.model(input_ids=tokens, attention_mask=mask, cache=cache, use_cache=True)
        return out.logits, out.cache

    def features(self, inputs: Inputs) -> Tensor:
        """What the last layer makes of the last token of prompts, which has read all of them: [B, W] float32."""
        return self.model.base_model(**inputs, use_cache=False).last_hidden_state[:, -1].float()

    def in_parts(self, compute: Callable[[Inputs, slice], Tensor], images: Sequence, instructions: Sequence) -> Tensor:
        """`compute(inputs, rows)` of at most `at_once` rows at a time, joined along the first axis."""
        found = []
        for begin in range(0, len(images), self.at_once):
            rows = slice(begin, begin + self.at_once)
            inputs = self.inputs(images[rows], instructions[rows])
            if torch.is_grad_enabled() and len(images) > self.at_once:
                found.append(checkpoint(compute, inputs, rows, use_reentrant=False, preserve_rng_state=False))
            else:
                found.append(compute(inputs, rows))
        joined = torch.cat(found)
        return joined + self._nothing() if torch.is_grad_enabled() else joined

    def _nothing(self) -> Tensor:
        """Zero, with a gradient of zero: some models do not use all their layers, as LLaVA its last one of images."""
        return 0.0 * torch.stack([p.flatten()[0].float() for p in self.adapter.values()]).sum()
