"""Write a SavedModel that TensorFlow Serving can serve.

Use `keras.export.ExportArchive`, never `tf.saved_model.save`: a Keras 3 model saved with the latter loads on
TensorFlow Serving and then fails every request (BUILD_NOTES.md, Fact 2).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from genre_tf.contract import DEFAULT_SIGNATURE, EXAMPLES_INPUT
from genre_tf.export.gate import read_saved_model

REGRESS_METHOD = "tensorflow/serving/regress"

InputTypes = Mapping[str, tf.DType]


def write_saved_model(
    folder: Path,
    resources: Sequence[Any],
    signatures: Mapping[str, tuple[Callable[..., Any], InputTypes]],
    attached: Mapping[str, tf.Module] | None = None,
    aliases: Mapping[str, Any] | None = None,
) -> None:
    """Write signatures and everything that they use.

    Args:
        folder: folder to write; may exist if it is empty.
        resources: objects with look-up tables; variables need not be listed.
        signatures: name to a function of tensors [B] that returns {output: tensor [B, …]}, and the dtypes of
            its inputs. The first is the default. A signature whose only input is `inputs` belongs to the
            Regress API.
        attached: modules that `tf.saved_model.load` returns under these names, with their variables and
            functions. A signature must also read every variable and table that their functions read.
        aliases: functions that signatures call, by the names under which a converter for other devices finds
            them in the graph (`function_aliases`).
    """
    import keras  # here, because it takes 1.5 seconds to import and a refresh does not need it

    archive = keras.export.ExportArchive()
    for resource in resources:
        archive.track(resource)
    for name, (function, inputs) in signatures.items():
        specs = [tf.TensorSpec([None], dtype, key) for key, dtype in inputs.items()]
        archive.add_endpoint(name, function, specs)
    for name, module in (attached or {}).items():
        # Keras stores only variables and tables of what it tracks; this also stores names and functions.
        setattr(archive._tf_trackable, name, module)
    options = tf.saved_model.SaveOptions(function_aliases=dict(aliases or {}))
    archive.write_out(str(folder), options=options, verbose=False)
    _share_default(folder, next(iter(signatures)))
    _name_methods(
        folder, [name for name, (_, inputs) in signatures.items() if set(inputs) == {EXAMPLES_INPUT}]
    )


def _share_default(folder: Path, name: str) -> None:
    """Make the default signature a second name of another signature; Keras writes its graph twice.

    Then a server has one graph less to optimize and to warm up.
    """
    model = read_saved_model(folder)
    definitions = model.meta_graphs[0].signature_def
    definitions[DEFAULT_SIGNATURE].CopyFrom(definitions[name])
    (folder / "saved_model.pb").write_bytes(model.SerializeToString(deterministic=True))


def _name_methods(folder: Path, regressions: Sequence[str]) -> None:
    """Mark signatures as Regress API; Keras marks all of them as Predict.

    TFX's InfraValidator chooses the API by this method name, and TensorFlow Serving checks it if
    `--enable_signature_method_name_check` is set.
    """
    if not regressions:
        return
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
    for name in regressions:
        updater.replace_method_name(signature_key=name, method_name=REGRESS_METHOD, tags="serve")
    updater.save()
