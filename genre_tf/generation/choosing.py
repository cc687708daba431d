"""The choice of one token under all rules, the same for every decoding method."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from genre_tf.generation.constraints import Constraints, force, missing
from genre_tf.generation.sampling import Greedy, Strategy, uniforms


@dataclass(frozen=True)
class Rules:
    """Rules for the rows of a batch; a rule that is None costs nothing.

    Args:
        end_id: the token that ends a text.
        constraints: which tokens are not allowed.
        limits: int32 [rows], maximum number of tokens in a row.
        ban: float32 [rows, vocabulary] from `constraints.banned`, or None.
        required: int32 [rows, words, longest], words that must be written, padded with NOTHING; or None.
    """

    end_id: int
    constraints: Constraints
    limits: Any
    ban: Any | None
    required: Any | None

    @property
    def filler(self) -> int:
        """Number of NOTHING columns needed before the written tokens."""
        longest = 0 if self.required is None else self.required.shape[2]
        return max(self.constraints.filler, longest)

    def allowed(self, logits: Any, written: Any, step: Any, rows: Any | None = None) -> Any:
        """Logits under all rules.

        Args:
            logits: float32 [n, vocabulary].
            written: int32 [n, columns], newest last.
            step: int32 [] or [n], number of written tokens.
            rows: int32 [n], the row that each belongs to; by default each is its own row.
        """
        shape = logits.shape
        logits = self.constraints.apply(logits, written, step, self.end_id, _of(self.ban, rows))
        if self.required is not None:
            lack = missing(_of(self.required, rows), written)
            logits = force(logits, lack, _of(self.limits, rows) - step, self.end_id)
        return tf.ensure_shape(logits, shape)  # conditions of unknown rank lose the static shape


def _of(values: Any | None, rows: Any | None) -> Any:
    return values if values is None or rows is None else tf.gather(values, rows)


@dataclass(frozen=True)
class Chooser:
    """Chooses one token per row.

    Args:
        rules: which tokens are allowed.
        strategy: how to choose.
        uniform: float32 [rows, max_tokens] in [0, 1); None if the strategy needs no random numbers.
    """

    rules: Rules
    strategy: Strategy
    uniform: Any | None

    def choose(self, logits: Any, written: Any, step: Any, rows: Any | None = None) -> tuple[Any, Any]:
        """Choose a token; arguments as in `Rules.allowed`.

        Returns:
            int32 [n], and float32 [n], the model's own log probability.
        """
        allowed = self.rules.allowed(logits, written, step, rows)
        token = self.strategy.choose(allowed, self._draw(step, rows))
        best = tf.reduce_max(logits, axis=-1, keepdims=True)
        total = tf.reduce_sum(tf.exp(logits - best), axis=-1)
        return token, tf.gather(logits, token, batch_dims=1) - best[:, 0] - tf.math.log(total)

    def _draw(self, step: Any, rows: Any | None) -> Any:
        if self.uniform is None:
            return None
        if rows is None:
            return self.uniform[:, step]
        return tf.gather_nd(self.uniform, tf.stack([rows, tf.minimum(step, self.uniform.shape[1] - 1)], 1))


def draws(strategy: Strategy, seeds: Any, samples: int, steps: int) -> Any | None:
    """The random numbers of a strategy, float32 [batch * samples, steps]; None if it is greedy."""
    if isinstance(strategy, Greedy):
        return None
    return tf.reshape(uniforms(seeds, samples, steps), [-1, steps])
