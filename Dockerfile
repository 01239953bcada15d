# softadv in a container (docs/container.md):
#
#   docker build -t softadv --build-arg COMMIT=$(git rev-parse HEAD) .                    with CUDA, ERAN, ELINA and
#                                                                     GPUPoly; the last stage, runtime
#   docker build -t softadv:cpu --target cpu --build-arg COMMIT=$(git rev-parse HEAD) .   without them
#
# COMMIT goes into the records of the image's trials; without it they say "unknown".
# BuildKit and Buildah both build it. `./reproduce.sh --docker` also passes on what this machine has set for proxies,
# package indexes and certificate authorities, as secrets (docker/secrets.sh); none of that stays in the image.

# Build on others with --build-arg. A digest is what counts; the tag is for the reader.
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim@sha256:3783cc01769c7b2b1b83a5c5ad96c815348e28ed7da68e2e3687004faa906251
ARG CUDA_DEVEL_IMAGE=docker.io/nvidia/cuda:12.6.3-devel-ubuntu24.04@sha256:392c0df7b577ecae17a17f6ba7f2009c217bb4422f8431c053ae9af61a8c148a
ARG CUDA_RUNTIME_IMAGE=docker.io/nvidia/cuda:12.6.3-runtime-ubuntu24.04@sha256:92906d87596d638d35015c6353053121bd299d25943b875763321653884ba924


FROM ${BASE_IMAGE} AS cpu
# A package index to take torch and torchvision from, such as PyTorch's own for CPUs, without CUDA's libraries. The
# ordinary one brings them, 4 GB that this image has no use for.
ARG TORCH_INDEX
COPY requirements.lock /opt/softadv/
COPY docker/host.sh docker/install.sh /opt/softadv/docker/
RUN --mount=type=secret,id=apt.conf --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.crt \
    bash /opt/softadv/docker/install.sh
COPY . /opt/softadv
ENV PATH=/opt/venv/bin:$PATH
RUN bash /opt/softadv/docker/finish.sh
# The volumes are beside the working directory's own "data" and "runs". A cache for the
# compiled kernels, which lasts as long as the volume does.
ENV SOFTADV_DATA=/data XDG_CACHE_HOME=/runs/.cache
ARG COMMIT=unknown
ENV SOFTADV_COMMIT=$COMMIT
LABEL org.opencontainers.image.title="softadv, on a CPU" \
      org.opencontainers.image.description="Soft adversarial training, reproduced" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision=$COMMIT
VOLUME ["/data", "/runs"]
USER softadv
WORKDIR /
ENTRYPOINT ["softadv"]
CMD ["reproduce"]


FROM ${CUDA_DEVEL_IMAGE} AS eran
COPY docker/host.sh /tmp/docker/
COPY docker/eran/build.sh docker/eran/python docker/eran/requirements.lock docker/eran/versions.env /tmp/docker/eran/
RUN --mount=type=secret,id=apt.conf --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.crt \
    bash /tmp/docker/eran/build.sh


FROM ${CUDA_RUNTIME_IMAGE} AS runtime
COPY requirements.lock /opt/softadv/
COPY docker/host.sh docker/install.sh /opt/softadv/docker/
RUN --mount=type=secret,id=apt.conf --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.crt \
    bash /opt/softadv/docker/install.sh
COPY --from=eran /opt/eran /opt/eran
COPY docker/eran/worker.py /opt/eran/
COPY . /opt/softadv
ENV PATH=/opt/venv/bin:$PATH
RUN bash /opt/softadv/docker/finish.sh
# Where ERAN's Python and the worker are; and what "reproduce" means here: the paper's grids, certified by GPUPoly.
ENV SOFTADV_ERAN=/opt/eran
ENV SOFTADV_GRID=paper SOFTADV_CERTIFIER=gpupoly
ENV SOFTADV_DATA=/data XDG_CACHE_HOME=/runs/.cache
ARG COMMIT=unknown
ENV SOFTADV_COMMIT=$COMMIT
LABEL org.opencontainers.image.title="softadv, with ERAN and GPUPoly" \
      org.opencontainers.image.description="Soft adversarial training, reproduced" \
      org.opencontainers.image.licenses="MIT AND Apache-2.0 AND LGPL-3.0-only" \
      org.opencontainers.image.revision=$COMMIT
VOLUME ["/data", "/runs"]
USER softadv
WORKDIR /
ENTRYPOINT ["softadv"]
CMD ["reproduce"]
