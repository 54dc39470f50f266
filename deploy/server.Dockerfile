# The server on the embedded engine, for CPUs; the shipped model is in it. Not built where this was written.
#   docker build -f deploy/server.Dockerfile -t reflective-server .
#   docker run -p 127.0.0.1:8000:8000 -e REFLECTIVE_SERVER_KEYS=a-long-key reflective-server
FROM python:3.12-slim

RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml README.md LICENSE constraints.txt /opt/reflective/
COPY src /opt/reflective/src
# PyTorch without CUDA: a tenth of the size
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu \
 && pip install --no-cache-dir "/opt/reflective[serve,http]"

RUN useradd --create-home server
USER server
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=2m --retries=3 \
  CMD python3 -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"

# SIGTERM ends it: what runs is finished, or ended cleanly
ENTRYPOINT ["reflective", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--model", "nano"]
