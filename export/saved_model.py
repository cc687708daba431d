"""Writing a SavedModel that TensorFlow Serving can answer from.

`keras.export.ExportArchive` and never `tf.saved_model.save`: what the latter makes of a Keras 3 model loads
on TensorFlow Serving and then fails every request (BUILD_NOTES.md, Fact 2).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from genre_tf.export.gate import read_saved_model
from genre_tf.funnel.recommender import EXAMPLES_INPUT

REGRESS_METHOD = "tensorflow/serving/regress"

InputTypes = Mapping[str, tf.DType]


def write_saved_model(
    folder: Path,
    resources: Sequence[Any],
    signatures: Mapping[str, tuple[Callable[..., Any], InputTypes]],
    attached: Mapping[str, tf.Module] | None = None,
    aliases: Mapping[str, Any] | None = None,
) -> None:
    """Write signatures and everything they use.

    Args:
        folder: to write; may exist and be empty.
        resources: whatever holds look-up tables; variables are found by themselves.
        signatures: name to a function of tensors [B], which gives {output: tensor [B, …]}, and the dtypes of
            its inputs. The first is the default one. One whose only input is `inputs` is of the Regress API.
        attached: modules that `tf.saved_model.load` gives back under these names, with their variables and
            functions; what their functions read must be read by a signature too.
        aliases: functions that signatures call, under the names by which a converter for other devices finds
            them in the graph (`function_aliases`).
    """
    import keras  # here, since a refresh writes without it, and it takes a second and a half to import

    archive = keras.export.ExportArchive()
    for resource in resources:
        archive.track(resource)
    for name, (function, inputs) in signatures.items():
        specs = [tf.TensorSpec([None], dtype, key) for key, dtype in inputs.items()]
        archive.add_endpoint(name, function, specs)
    for name, module in (attached or {}).items():
        # Keras keeps variables and tables of what it tracks, and neither names nor functions: this does.
        setattr(archive._tf_trackable, name, module)
    options = tf.saved_model.SaveOptions(function_aliases=dict(aliases or {}))
    archive.write_out(str(folder), options=options, verbose=False)
    _share_default(folder, next(iter(signatures)))
    _name_methods(
        folder, [name for name, (_, inputs) in signatures.items() if set(inputs) == {EXAMPLES_INPUT}]
    )


def _share_default(folder: Path, name: str) -> None:
    """Let the default signature be a second name of another one; Keras writes its graph twice.

    Whoever loads the model optimizes and warms up one graph less.
    """
    model = read_saved_model(folder)
    definitions = model.meta_graphs[0].signature_def
    definitions["serving_default"].CopyFrom(definitions[name])
    (folder / "saved_model.pb").write_bytes(model.SerializeToString(deterministic=True))


def _name_methods(folder: Path, regressions: Sequence[str]) -> None:
    """Say that signatures are of the Regress API; Keras calls each one Predict's.

    TFX's InfraValidator chooses the API by this name, and TensorFlow Serving checks it where
    `--enable_signature_method_name_check` is set.
    """
    if not regressions:
        return
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
    for name in regressions:
        updater.replace_method_name(signature_key=name, method_name=REGRESS_METHOD, tags="serve")
    updater.save()
