"""Render the server files in `templates/` with Jinja; a missing value is an error."""

import json
from functools import cache
from importlib import resources
from typing import Any

import jinja2


def rendered(template: str, **values: Any) -> str:
    """Render a template of this package.

    Args:
        template: path within `templates/`, such as `docker/Dockerfile`.
        values: a value for every name in the template; a missing one raises jinja2.UndefinedError.
    """
    return _environment().get_template(template).render(**values)


def verbatim(template: str) -> str:
    """Return a file of `templates/` as it is."""
    return resources.files("genre_tf.serving.operations").joinpath("templates", template).read_text("utf-8")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(verbatim),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  (no HTML: values are quoted by the filters below, or checked beforehand)
    )
    environment.filters["quoted"] = quoted
    environment.filters["compose_quoted"] = compose_quoted
    environment.filters["kubernetes_quoted"] = kubernetes_quoted
    return environment


def quoted(value: object) -> str:
    """Quote a string for YAML; every JSON string is also a YAML string."""
    return json.dumps(str(value), ensure_ascii=False)


def compose_quoted(value: object) -> str:
    """Quote a string for docker-compose, which replaces $NAME inside strings."""
    return quoted(str(value).replace("$", "$$"))


def kubernetes_quoted(value: object) -> str:
    """Quote a container argument for Kubernetes, which replaces $(NAME) inside arguments."""
    return quoted(str(value).replace("$(", "$$("))
