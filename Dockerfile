FROM python:3.11-slim

COPY . /build
RUN pip install --no-cache-dir --constraint /build/constraints.txt /build \
    && rm -r /build \
    && useradd --create-home --uid 10001 werk

# by number, so that a cluster can see that it is not root
USER 10001
WORKDIR /home/werk
CMD ["werk", "worker", "default"]
