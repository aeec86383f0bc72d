FROM python:3.11.15-slim-bookworm

COPY . /build
RUN pip install --no-cache-dir --constraint /build/constraints.txt /build \
    && rm -r /build \
    && useradd --create-home --uid 10001 werk \
    && install --directory --owner=werk --group=werk --mode=0700 /var/lib/werk

# Where jobs may write, as with systemd. docker-compose.yml mounts a volume here.
ENV STATE_DIRECTORY=/var/lib/werk

# By number, so that Kubernetes can check that it is not root.
USER 10001
WORKDIR /home/werk
CMD ["werk", "worker", "default"]
