FROM python:3.11.15-slim-bookworm

COPY . /build
RUN pip install --no-cache-dir --constraint /build/constraints.txt /build \
    && rm -r /build \
    && useradd --create-home --uid 10001 werk \
    && install --directory --owner=werk --group=werk --mode=0700 /var/lib/werk

# where jobs may write, as with systemd: a volume in docker-compose.yml
ENV STATE_DIRECTORY=/var/lib/werk

# by number, so that a cluster can see that it is not root
USER 10001
WORKDIR /home/werk
CMD ["werk", "worker", "default"]
