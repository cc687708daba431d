"""The sides of `genre bench generate`: each loads the same checkpoint and continues prompts greedily."""

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.backbones.language_models import LanguageModel
from genre_tf.backbones.layers import LanguageLayers
from genre_tf.benchmarks.measuring import threads
from genre_tf.benchmarks.peers import peer_module
from genre_tf.benchmarks.torch_bert import torch_as_configured
from genre_tf.export.saved_model import write_saved_model
from genre_tf.generation.cached_decoder import CachedDecoder
from genre_tf.generation.constraints import Constraints
from genre_tf.generation.decode import DecodeOptions, decode

Array = npt.NDArray[Any]
_INPUTS = {"token_ids": tf.string, "seed": tf.int64}


class Side(Protocol):
    """Continues each prompt by a fixed number of tokens: int [B, time] -> int [B, new tokens]."""

    def __call__(self, prompts: Array) -> Array:
        """Continue the prompts."""


class Exported:
    """Ours: the decode loop in a SavedModel that the package exported, run in a session as TensorFlow Serving
    runs it.

    Args:
        model: model to export.
        folder: folder to export to.
        new_tokens: new tokens per prompt; the text cannot end earlier.
        draft_tokens: tokens drafted ahead by copying from the prompt; 0: none.
    """

    def __init__(self, model: LanguageModel, folder: Path, new_tokens: int, draft_tokens: int = 0) -> None:
        decoder = CachedDecoder(LanguageLayers(model.backbone))
        options = DecodeOptions(constraints=Constraints(min_tokens=new_tokens + 1), draft_tokens=draft_tokens)

        def write(token_ids: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
            ids = tf.strings.to_number(tf.strings.split(token_ids).to_tensor(), tf.int32)  # [B, time]
            everything = tf.ones_like(ids, tf.bool)
            decoded = decode(
                decoder,
                decoder.embed(ids),
                everything,
                seeds=seed,
                end_id=model.tokenizer.vocabulary_size - 1,
                max_tokens=new_tokens,
                options=options,
                copy_from=ids,
            )
            return {"ids": decoded.ids[:, 0]}

        specs = [tf.TensorSpec([None], dtype, name) for name, dtype in _INPUTS.items()]
        traced = tf.function(write, input_signature=specs, autograph=False)
        write_saved_model(folder, [decoder], {"write": (traced, _INPUTS)})
        self._call = _by_session(folder)

    def __call__(self, prompts: Array) -> Array:
        """As in `Side`."""
        joined = np.array([" ".join(map(str, row)) for row in prompts], object)
        return self._call(joined, np.zeros(len(prompts), np.int64))[0]


def _by_session(folder: Path) -> Any:
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads())
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    with session.graph.as_default():
        loaded = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(folder))
    signature = loaded.signature_def["write"]
    inputs = [signature.inputs[name].name for name in _INPUTS]
    return session.make_callable([signature.outputs["ids"].name], inputs)


class Torch:
    """`transformers`' `generate` on PyTorch.

    Args:
        folder: Hugging Face folder.
        new_tokens: new tokens per prompt.
        draft_tokens: tokens drafted ahead by copying from the prompt ("prompt lookup"); 0: none.
    """

    def __init__(self, folder: Path, new_tokens: int, draft_tokens: int = 0) -> None:
        self.torch = torch_as_configured()
        transformers = peer_module("transformers")
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        self.settings: dict[str, Any] = {
            "do_sample": False,
            "max_new_tokens": new_tokens,
            "min_new_tokens": new_tokens,
            "pad_token_id": self.model.config.eos_token_id,
        }
        if draft_tokens:
            self.settings["prompt_lookup_num_tokens"] = draft_tokens

    def __call__(self, prompts: Array) -> Array:
        """As in `Side`."""
        ids = self.torch.as_tensor(prompts)
        with self.torch.inference_mode():
            written = self.model.generate(ids, attention_mask=self.torch.ones_like(ids), **self.settings)
        return written[:, prompts.shape[1] :].numpy()


class CTranslate2:
    """CTranslate2 in float32, with a checkpoint converted by its own converter.

    Args:
        folder: Hugging Face folder.
        converted: folder for the converted checkpoint.
        new_tokens: new tokens per prompt.
    """

    def __init__(self, folder: Path, converted: Path, new_tokens: int) -> None:
        ctranslate2 = peer_module("ctranslate2")
        peer_module("ctranslate2.converters").TransformersConverter(str(folder)).convert(str(converted))
        self.generator = ctranslate2.Generator(
            str(converted), compute_type="float32", inter_threads=1, intra_threads=threads()
        )
        vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
        self.tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        self.new_tokens = new_tokens

    def __call__(self, prompts: Array) -> Array:
        """As in `Side`."""
        written = self.generator.generate_batch(
            [[self.tokens[token] for token in row] for row in prompts],
            max_length=self.new_tokens,
            min_length=self.new_tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return np.array([answer.sequences_ids[0] for answer in written])
