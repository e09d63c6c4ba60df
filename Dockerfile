# The demo in a container: it draws its own images, pretrains and reports; minutes on a CPU.
#
#   docker build -t cxr_jax .                               for a CPU
#   docker build -t cxr_jax:cuda --build-arg EXTRA=cuda .   for NVIDIA GPUs, whose driver the host has
#   docker run --rm -v "$PWD/runs:/work/runs" cxr_jax       with --gpus all for cxr_jax:cuda
#
# Any other command of docs/own_images.md: `docker run … cxr_jax --config=configs/transfer.py …`;
# builds: `docker run … --entrypoint python cxr_jax -m data_builders.build …`.
FROM python:3.11-slim
ARG EXTRA=""
COPY pyproject.toml README.md /src/
COPY cxr_jax /src/cxr_jax
COPY data_builders /src/data_builders
COPY configs /src/configs
RUN pip install --no-cache-dir "/src${EXTRA:+[$EXTRA]}" && rm -r /src \
 && useradd --create-home researcher && mkdir -p /work/runs && chown -R researcher /work
USER researcher
WORKDIR /work
ENTRYPOINT ["cxr-jax"]
CMD ["--config=configs/byol.py:demo"]
