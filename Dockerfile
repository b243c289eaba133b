# docker build -t seglab .
# docker run --rm -v "$PWD:/work" seglab train loss=focal trainer=debug
FROM python:3.11-slim
WORKDIR /opt/seglab
COPY requirements.lock .
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY seglab seglab
RUN pip install --no-cache-dir --no-deps .
WORKDIR /work
ENTRYPOINT ["seglab"]
CMD ["--help"]
