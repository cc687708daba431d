# The newsroom app and `genre loop`.
#
#   docker build -f Dockerfile.app -t {{ app_image }} .
#
# GENRE_TF names what pip installs: a release, or a wheel of yours by its URL.
FROM python:3.11-slim
ARG GENRE_TF="genre-tf[app]=={{ genre_version }}"
RUN pip install --no-cache-dir "${GENRE_TF}"

# User nobody, who may write the mounted folders only.
USER 65534:65534
ENV HOME=/tmp
ENTRYPOINT ["genre"]
