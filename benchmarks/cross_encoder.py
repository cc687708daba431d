"""The usual recipe, in PyTorch: history and candidate as one text, read by a BERT with a linear head."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from genre_tf.benchmarks.torch_bert import TorchBert
from genre_tf.data.columns import ImpressionExample

PAIRS = 16
MAX_TOKENS = 128
_LEARNING_RATE = 2e-5


class CrossEncoder:
    """Predicts the click probability of a reader's history paired with a candidate; 128 tokens per pair.

    Args:
        folder: Hugging Face folder of the BERT.
        dropout: dropout rate of the trained layers.
        trained_layers: number of trained layers, counted from the last; with 0 the BERT has no gradients.

    Source: Nogueira and Cho, "Passage Re-ranking with BERT", 2019; Zhang et al., "UNBERT", 2021.
    """

    def __init__(self, folder: Path, dropout: float, trained_layers: int) -> None:
        self.bert = TorchBert(folder, dropout)
        self.torch = self.bert.torch
        self.head = self.torch.nn.Linear(self.bert.model.config.hidden_size, 1)
        self.trained_layers = trained_layers
        self.bert.model.requires_grad_(False)
        upper = self.bert.model.encoder.layer[len(self.bert.model.encoder.layer) - trained_layers :]
        for layer in upper:
            layer.requires_grad_(True).train()
        weights = [*upper.parameters(), *self.head.parameters()]
        self.optimizer = self.torch.optim.AdamW(weights, lr=_LEARNING_RATE, fused=True)

    def trainer(self, examples: Sequence[ImpressionExample], titles: Sequence[str]) -> Callable[[], float]:
        """A function that trains on the next 16 pairs and returns the loss; all texts are tokenized first."""
        histories, candidates, labels = _pairs(examples, titles)
        read = self.bert.tokenizer(
            histories,
            candidates,
            padding="max_length",
            truncation="only_first",
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        clicks = self.torch.as_tensor(labels)
        order = self.torch.randperm(len(labels))
        batches = order[: len(order) // PAIRS * PAIRS].reshape(-1, PAIRS)
        done = 0

        def step() -> float:
            nonlocal done
            rows = batches[done % len(batches)]
            done += 1
            return self._step({name: column[rows] for name, column in read.items()}, clicks[rows])

        return step

    def _step(self, inputs: "dict[str, object]", clicks: "object") -> float:
        with self.torch.set_grad_enabled(self.trained_layers > 0):
            states = self.bert.model(**inputs).last_hidden_state  # [pairs, tokens, hidden]
        logits = self.head(states[:, 0])[:, 0]
        loss = self.torch.nn.functional.binary_cross_entropy_with_logits(logits, clicks)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())


def _pairs(
    examples: Sequence[ImpressionExample], titles: Sequence[str]
) -> "tuple[list[str], list[str], np.ndarray[tuple[int], np.dtype[np.float32]]]":
    """Texts of histories (newest click first, because the end is cut), texts of candidates, labels."""
    histories, candidates = [], []
    for example in examples:
        history = " ".join(titles[row] for row in example.history[::-1])
        histories += [history] * len(example.candidates)
        # A long title may not take more than about a third of the tokens; the rest is for the history.
        candidates += [" ".join(titles[row].split()[:32]) for row in example.candidates]
    return histories, candidates, np.concatenate([example.labels for example in examples])
