FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -o /out/kvbus ./cmd/kvbus && mkdir /out/data

# The program, the certificates by which it trusts other servers, and a
# directory that it may write to. There is no shell: look from outside, with a
# TCP connection to 4222 or a request to kv.info.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/kvbus /kvbus
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
VOLUME /data
EXPOSE 4222
ENTRYPOINT ["/kvbus"]
CMD ["serve", "--listen", "0.0.0.0:4222", "--data-dir", "/data"]
