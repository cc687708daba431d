"""What the public models share: raw text in `fit`, `evaluate` and `predict`, and presets on disk."""

import json
from pathlib import Path
from typing import Any, Self

import keras
import tensorflow as tf

from genre_tf.errors import InputError
from genre_tf.files import whole_folder
from genre_tf.losses.replicas import sum_over_replicas

PRESET_FILE = "genre_tf.json"
WEIGHTS_FILE = "model.weights.h5"
_FORMAT = 1  # increased when an older version could no longer read a preset

_DATASETS = (tf.data.Dataset, tf.distribute.DistributedDataset, keras.utils.PyDataset)


class TextModel(keras.Model):
    """A Keras model on raw strings.

    `fit`, `evaluate` and `predict` take datasets, such as `ClickLog.batches` makes, and also
    lists of strings, which a subclass turns into a dataset in `batches_of_texts`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Batches differ in shape, and XLA would compile a program for each.
        self.supports_jit = False

    def batches_of_texts(self, x: Any, y: Any, batch_size: int, shuffle: bool) -> Any:
        """A dataset of batches for raw strings; `y` is None in `predict`.

        Raises:
            InputError: `x` or `y` does not have the form that the model describes.
        """
        raise NotImplementedError

    def compile(self, optimizer: Any = "rmsprop", **options: Any) -> None:
        """Configure for training; arguments are those of `keras.Model.compile`."""
        super().compile(optimizer, **options)
        if self.distribute_strategy.num_replicas_in_sync > 1:
            # Created in the first step, its variables would make TensorFlow's graph of that step invalid.
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def compile_from_config(self, config: Any) -> None:
        """Call `compile` with what `get_compile_config` gave."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)  # so that its state can be loaded

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        *,
        validation_data: Any = None,
        shuffle: bool = True,
        **options: Any,
    ) -> keras.callbacks.History:
        """Train; arguments and result are those of `keras.Model.fit`.

        Args:
            x: a dataset of batches, or raw strings in the form that the model describes.
            y: labels of raw strings.
            batch_size: rows in a batch of raw strings; None: 32.
            epochs: passes through the data.
            validation_data: a dataset, or `(x, y)` with raw strings.
            shuffle: whether raw strings are shuffled in each epoch.
            options: further arguments of `keras.Model.fit`.

        Raises:
            InputError: the data does not fit this model.
        """
        if isinstance(validation_data, (tuple, list)):
            validation_data = self._batches(validation_data[0], validation_data[1], batch_size)
        batches = self._batches(x, y, batch_size, shuffle)
        steps = {
            "steps_per_epoch": getattr(batches, "steps", None),
            "validation_steps": getattr(validation_data, "steps", None),
        }
        return super().fit(
            batches,
            epochs=epochs,
            shuffle=False,  # a dataset has its order
            validation_data=self._checked(validation_data),
            **{**steps, **options},
        )

    def evaluate(self, x: Any = None, y: Any = None, batch_size: int | None = None, **options: Any) -> Any:
        """Measure; arguments and result are those of `keras.Model.evaluate`, `x` and `y` those of `fit`."""
        batches = self._batches(x, y, batch_size)
        return super().evaluate(batches, **{"steps": getattr(batches, "steps", None), **options})

    def predict(self, x: Any, batch_size: int | None = None, **options: Any) -> Any:
        """Predict; arguments are those of `keras.Model.predict`, `x` is that of `fit`."""
        return super().predict(self._batches(x, None, batch_size), **options)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step of one replica: Keras' own step, but several devices learn what one learns.

        Gradients of embeddings are made dense: Adam would otherwise move only rows that a batch names, but
        on several devices, where gradients are added up first, all rows.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        weights = self.trainable_weights
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)
            scaled = self.optimizer.scale_loss(loss)
        gradients = [
            None if each is None else tf.convert_to_tensor(each) for each in tape.gradient(scaled, weights)
        ]
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        self._log_loss(loss, x if y is None else y)
        return self.compute_metrics(x, y, y_pred, sample_weight)  # type: ignore[no-any-return]

    def test_step(self, data: Any) -> dict[str, Any]:
        """Loss and metrics of a batch."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False)
        loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=False)
        self._log_loss(loss, x if y is None else y)
        return self.compute_metrics(x, y, y_pred, sample_weight)  # type: ignore[no-any-return]

    def _log_loss(self, loss: tf.Tensor, rows: Any) -> None:
        """Add the loss of a whole batch, of which each replica has a share, weighted by its own rows."""
        count = tf.shape(tf.nest.flatten(rows)[0])[0]
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(sum_over_replicas(loss), sample_weight=count)

    def _maybe_symbolic_build(self, *arguments: Any, **options: Any) -> None:
        """Build with a first batch, as Keras does, but not on several devices, where it averages the batch.

        Weights are created with each model, losses and metrics by `compile`: nothing is left to be built.
        """
        if self.distribute_strategy.num_replicas_in_sync == 1:
            super()._maybe_symbolic_build(*arguments, **options)

    def _batches(self, x: Any, y: Any = None, batch_size: int | None = None, shuffle: bool = False) -> Any:
        if isinstance(x, _DATASETS):
            return self._checked(x)
        return self.batches_of_texts(x, y, batch_size or 32, shuffle)

    def _checked(self, data: Any) -> Any:
        """Data made for another model is refused here, where the error can still name the remedy."""
        made_for = getattr(data, "made_for", None)
        if made_for is not None and made_for != self.data_identity():
            raise InputError(
                f"these batches were made for another model than this {type(self).__name__} (tokenizer, "
                "frozen layers or lengths): make them with log.batches(model) or log.texts(model)"
            )
        return data

    def data_identity(self) -> tuple[Any, ...]:
        """What batches depend on; batches made for a model with another identity are refused."""
        return (type(self).__name__,)

    def frozen_layers(self) -> list[Any]:
        """The layers that no training changes. A method, because Keras saves what properties hold."""
        return []

    def marked(self, data: Any) -> Any:
        """Mark a dataset as made for this model."""
        data.made_for = self.data_identity()
        return data

    def save_to_preset(self, folder: str | Path) -> None:
        """Write a folder that `from_preset` reads: the configuration and the weights.

        Args:
            folder: created; an earlier preset in it is replaced, anything else is not.

        Raises:
            InputError: there is something else than a preset.
            FailureError: it cannot be written; an earlier preset is kept.
        """
        folder = Path(folder)
        if folder.exists() and not is_preset(folder) and not (folder.is_dir() and not any(folder.iterdir())):
            raise InputError(f"{folder} exists and is not a preset: give a new folder")
        with whole_folder(folder.absolute()) as part:
            describe(self, part)
            self.save_weights(part / WEIGHTS_FILE)

    @classmethod
    def from_preset(cls, preset: str | Path) -> Self:
        """Load what `save_to_preset` wrote.

        Args:
            preset: the folder.

        Raises:
            InputError: the folder is not a preset, or it is damaged, of another model or of a newer version.
        """
        folder = Path(preset)
        config = described_in(folder, cls)["config"]
        try:
            model: Self = cls.from_config(config)
            model.load_weights(folder / WEIGHTS_FILE)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"the preset {folder} is damaged ({reason}): save it again") from None
        return model


def save_own_weights(model: keras.Model, file: Path) -> None:
    """Write the weights of a model of a run, without its frozen layers."""
    keras.saving.save_weights(model, file, objects_to_skip=frozen_parts(model))


def load_own_weights(model: keras.Model, file: Path, remedy: str = "train from the beginning") -> None:
    """Read what `save_own_weights` wrote; raises an `InputError` with the remedy if it is another model's."""
    try:
        keras.saving.load_weights(model, file, objects_to_skip=frozen_parts(model))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file} does not fit this model ({reason}); {remedy}") from None


def frozen_parts(model: keras.Model) -> list[Any]:
    """The layers of a model that no training changes."""
    return model.frozen_layers() if isinstance(model, TextModel) else []


def is_preset(folder: str | Path) -> bool:
    """Whether `save_to_preset` wrote a folder."""
    return (Path(folder) / PRESET_FILE).is_file()


def describe(model: TextModel, folder: Path, **more: Any) -> None:
    """Write the file of a preset that describes a model, with further plain values."""
    described = {"format": _FORMAT, "model": type(model).__name__, "config": model.get_config(), **more}
    (folder / PRESET_FILE).write_text(json.dumps(described, ensure_ascii=False) + "\n", "utf-8")


def described_in(folder: Path, kind: type[TextModel]) -> dict[str, Any]:
    """Read what `describe` wrote.

    Raises:
        InputError: the folder is not a preset, or it is damaged, of another model or of a newer version.
    """
    file, name = folder / PRESET_FILE, kind.__name__
    if not file.is_file():
        raise InputError(f"{folder} is not a preset ({PRESET_FILE} is missing): save_to_preset writes one")
    try:
        described: dict[str, Any] = json.loads(file.read_text("utf-8"))
        found, model, _ = described["format"], described["model"], dict(described["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged ({error!r}): save the preset again") from None
    if found != _FORMAT:
        raise InputError(f"{file} has format {found}, this version reads {_FORMAT}: update genre_tf")
    if model != name:
        raise InputError(f"{folder} holds a {model}, not a {name}: use {model}.from_preset")
    return described
