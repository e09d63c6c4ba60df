# The demo in a container: it draws its own images, pretrains and reports; minutes on a CPU.
#
#   docker build -t cxr_jax .                               for a CPU
#   docker build -t cxr_jax:cuda --build-arg EXTRA=cuda .   for NVIDIA GPUs, whose driver the host has
#   mkdir -p runs data                                      or Docker makes them root's
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/runs:/work/runs" -v "$PWD/data:/work/data" cxr_jax
#                                                           with --gpus all for cxr_jax:cuda
#
# Any other command of docs/own_images.md: `docker run … cxr_jax --config=configs/transfer.py …`;
# builds: `docker run … -v /images:/images:ro --entrypoint python cxr_jax -m data_builders.build …`.
FROM python:3.11-slim
ARG EXTRA=""
COPY pyproject.toml README.md /src/
COPY cxr_jax /src/cxr_jax
COPY data_builders /src/data_builders
COPY configs /src/configs
RUN pip install --no-cache-dir "/src${EXTRA:+[$EXTRA]}" && rm -r /src
# Whoever --user names, known to the system or not, may write here; compiled programs go below HOME.
RUN mkdir -p /work/runs /work/data && chmod -R 1777 /work
ENV HOME=/work USER=researcher
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["cxr-jax"]
CMD ["--config=configs/byol.py:demo"]
