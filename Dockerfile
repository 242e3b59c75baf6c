# Four stages. What runs is Debian's Python on distroless: no shell, no package manager, no compiler.
#
# Both bases are pinned by the digest of their multi-architecture index; the tags are for people.
# They belong together: the same Python minor version (wheels, bytecode) and the same Debian (libc).

FROM python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b AS base


# What decides, as machine code: the same sources, with their types checked on the way.
FROM base AS compile

# Any version of Debian's stable compiler will do: nothing of it stays.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /build

COPY requirements/runtime.txt requirements/compile.txt ./
RUN python -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
        --require-hashes --no-deps --only-binary=:all: \
        --requirement runtime.txt --requirement compile.txt

COPY pyproject.toml setup.py README.md LICENSE ./
COPY webhook webhook
RUN SEAMLESS_COMPILE=1 python setup.py --quiet build --build-lib /compiled


FROM gcr.io/distroless/python3-debian13:nonroot@sha256:8ee214843129f43e2ebf5e0ca9f2e4e6d8292143d1b8a6787f169b5898578884 AS runtime


FROM base AS build

ARG PACKAGES=/install/usr/local/lib/python3.13/dist-packages

WORKDIR /build

# Exactly what is locked, by hash, and wheels only: nothing is built, nothing is resolved. What goes
# again: commands of the libraries, and a second client in the Kubernetes package (40 MB, not used).
# REQUIREMENTS=tracing.txt holds what `seamless serve --tracing` needs, too.
ARG REQUIREMENTS=runtime.txt
COPY requirements/${REQUIREMENTS} ./
RUN python -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
        --require-hashes --no-deps --only-binary=:all: --no-compile \
        --target "${PACKAGES}" --requirement "${REQUIREMENTS}" \
    && rm -r "${PACKAGES:?}/bin" "${PACKAGES:?}/kubernetes/aio"

COPY --from=compile /compiled "${PACKAGES}"

# The standard library of what runs comes without bytecode, and none is ever written: a third of a
# second of CPU at each start. So it is compiled here, from the very sources that lie there; bytecode
# is that of the minor version. What no server imports is left out, and the sources are there already.
COPY --from=runtime /usr/lib/python3.13 /install/usr/lib/python3.13
RUN python -m compileall -q -j 0 -s /install -p / --invalidation-mode unchecked-hash \
        -x '/(test|tests|idlelib|tkinter|turtledemo|ensurepip|pydoc_data|lib2to3)/' \
        /install/usr/lib/python3.13 \
    && find /install/usr/lib/python3.13 \( -type f -o -type l \) ! -path '*/__pycache__/*' -delete \
    && find /install/usr/lib/python3.13 -type d -empty -delete

# The command, as a file that the kernel runs without a shell. -I: neither the environment nor the
# current folder can slip code in; -B: no bytecode is written, for it is all here already.
#
# Its bytecode is checked against nothing (unchecked-hash): sources cannot change under a read-only
# root, and a start saves a look at each of them. It is written as seen from the final image.
RUN mkdir -p /install/usr/local/bin \
    && printf '%s\n' \
        '#!/usr/bin/python3 -IB' \
        'import sys' \
        'from webhook.cli import main' \
        'sys.exit(main())' > /install/usr/local/bin/seamless \
    && chmod 0755 /install/usr/local/bin/seamless \
    && python -m compileall -q -j 0 -s /install -p / --invalidation-mode unchecked-hash "${PACKAGES}" \
    && chmod -R a+rX,go-w /install \
    && PYTHONPATH="${PACKAGES}" python -B -m webhook --version


FROM runtime

ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="seamless-rollouts" \
      org.opencontainers.image.description="A mutating admission webhook that makes every Kubernetes rollout seamless." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="gcr.io/distroless/python3-debian13:nonroot"

# Everything belongs to root, so the user below cannot change it; where Debian's Python looks by
# itself, so no PYTHONPATH is needed, which -I would ignore.
COPY --from=build /install /

# A number, as runAsNonRoot can check no name.
USER 65532:65532

EXPOSE 8443 8080

ENTRYPOINT ["/usr/local/bin/seamless"]
CMD ["serve"]
