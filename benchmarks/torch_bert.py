"""The encoder's peer: `transformers`' BertModel on PyTorch, loaded from the same folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from genre_tf.benchmarks.measuring import threads
from genre_tf.benchmarks.peers import peer_module

Array = npt.NDArray[Any]


def torch_as_configured() -> Any:
    """PyTorch with as many threads as TensorFlow and a fixed seed.

    Raises:
        InputError: PyTorch is not installed.
    """
    torch = peer_module("torch")
    torch.set_num_threads(threads())
    torch.manual_seed(0)
    return torch


class TorchBert:
    """A BERT as usually run on a CPU: eager, with PyTorch's fused attention.

    Args:
        folder: Hugging Face folder.
        dropout: dropout rate in training.
    """

    def __init__(self, folder: Path, dropout: float) -> None:
        self.torch = torch_as_configured()
        transformers = peer_module("transformers")
        transformers.utils.logging.set_verbosity_error()  # silences the report of the unused pooler
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

    def encode(
        self, titles: Sequence[str], batch_size: int, max_tokens: int, bfloat16: bool = False
    ) -> list[Array]:
        """States of titles in order: float32 [n, T, hidden] per batch, padded to its longest title.

        With `bfloat16` products are computed in it, as PyTorch's autocast does.
        """
        found = []
        for start in range(0, len(titles), batch_size):
            some = list(titles[start : start + batch_size])
            read = self.tokenizer(
                some, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
            )
            rounds = self.torch.autocast("cpu", self.torch.bfloat16, enabled=bfloat16)
            with self.torch.inference_mode(), rounds:
                found.append(self._forward(read["input_ids"], read["attention_mask"]).float().numpy())
        return found

    def trainer(
        self, token_ids: Array, mask: Array, target: Array, learning_rate: float
    ) -> Callable[[], float]:
        """A function that trains all layers for one step and returns the loss; see `encode_bench`."""
        torch = self.torch
        ids, real = torch.as_tensor(token_ids), torch.as_tensor(mask)
        goal, share = torch.as_tensor(target), torch.as_tensor(mask / mask.sum(1, keepdims=True)).float()
        # fused=True is PyTorch's fastest here; the default updates the weights one by one.
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
