"""The field's recipe in PyTorch: history and candidate in one text, a BERT and a head over it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from genre_tf.benchmarks.torch_bert import TorchBert
from genre_tf.data.examples import ImpressionExample

PAIRS = 16
MAX_TOKENS = 128
_LEARNING_RATE = 2e-5


class CrossEncoder:
    """One click probability for each pair of a reader's history and a candidate, 128 tokens a pair.

    Args:
        folder: Hugging Face folder of the BERT.
        dropout: share dropped in the trained layers.
        trained_layers: the last ones; with 0 the BERT runs all the same, without gradients.

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
        """One step over the next 16 pairs at each call, which gives its loss; tokenized beforehand."""
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
    """Text of the history, newest click first since the end is cut; text of the candidate; label."""
    histories, candidates = [], []
    for example in examples:
        history = " ".join(titles[row] for row in example.history[::-1])
        histories += [history] * len(example.candidates)
        # Two thirds of the tokens stay for the history, however long a title is.
        candidates += [" ".join(titles[row].split()[:32]) for row in example.candidates]
    return histories, candidates, np.concatenate([example.labels for example in examples])
