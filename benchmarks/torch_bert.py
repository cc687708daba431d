"""The peer of the encoder: PyTorch with `transformers`' BertModel, read from the same folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from genre_tf.benchmarks.measuring import threads
from genre_tf.benchmarks.peers import peer_module

Array = npt.NDArray[Any]


def torch_as_configured() -> Any:
    """PyTorch with as many threads as TensorFlow has, and always the same random numbers.

    Raises:
        InputError: it is not installed.
    """
    torch = peer_module("torch")
    torch.set_num_threads(threads())
    torch.manual_seed(0)
    return torch


class TorchBert:
    """A BERT as the field runs it on a CPU: eager, with PyTorch's own fused attention.

    Args:
        folder: Hugging Face folder.
        dropout: share dropped in training.
    """

    def __init__(self, folder: Path, dropout: float) -> None:
        self.torch = torch_as_configured()
        transformers = peer_module("transformers")
        transformers.utils.logging.set_verbosity_error()  # it reports that the pooler is not used
        transformers.utils.logging.disable_progress_bar()
        self.model = transformers.BertModel.from_pretrained(
            folder,
            add_pooling_layer=False,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        ).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def states(self, token_ids: Array, mask: Array) -> Array:
        """Hidden states of a padded batch: int [N, T], bool [N, T] -> float32 [N, T, hidden]."""
        with self.torch.inference_mode():
            return self._forward(self.torch.as_tensor(token_ids), self.torch.as_tensor(mask)).numpy()

    def encode(self, titles: Sequence[str], batch_size: int, max_tokens: int) -> list[Array]:
        """States of titles in their order, each batch padded to its longest; float32 [n, T, hidden] each."""
        found = []
        for start in range(0, len(titles), batch_size):
            some = list(titles[start : start + batch_size])
            read = self.tokenizer(
                some, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
            )
            with self.torch.inference_mode():
                found.append(self._forward(read["input_ids"], read["attention_mask"]).numpy())
        return found

    def trainer(
        self, token_ids: Array, mask: Array, target: Array, learning_rate: float
    ) -> Callable[[], float]:
        """One step over all layers at each call, which gives its loss; see `encode_bench`."""
        torch = self.torch
        ids, real = torch.as_tensor(token_ids), torch.as_tensor(mask)
        goal, share = torch.as_tensor(target), torch.as_tensor(mask / mask.sum(1, keepdims=True)).float()
        # The fused one is PyTorch's fastest here; its default goes over the weights one by one.
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=learning_rate, fused=True)
        self.model.train()

        def step() -> float:
            pooled = torch.einsum("nt,nth->nh", share, self._forward(ids, real))
            loss = ((pooled - goal) ** 2).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return float(loss.detach())

        return step

    def _forward(self, token_ids: Any, mask: Any) -> Any:
        return self.model(
            input_ids=token_ids.long(), attention_mask=mask.long()
        ).last_hidden_state  # [texts, tokens, hidden]
