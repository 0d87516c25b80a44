# cgan-infer on a CPU, as a user without privileges:
#   docker build -t cgan .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" cgan folder PHOTOS colored
# Written where Docker was not at hand: no image has been built; the pip command was tried in a fresh environment.
FROM python:3.12-slim

COPY . /source
RUN pip install --no-cache-dir "/source[cpu]" && rm -r /source && useradd --create-home cgan

# Another user, given with --user, has no home: caches and the state of runs go where everyone may write.
ENV CGAN_CACHE=/tmp/cgan XDG_STATE_HOME=/tmp/state
USER cgan
WORKDIR /work
ENTRYPOINT ["cgan-infer"]
CMD ["--help"]
