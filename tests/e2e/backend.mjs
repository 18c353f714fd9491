// A small Node service behind the proxy: it tells in JSON what it was asked.
import { createHash } from "node:crypto";
import { createServer } from "node:http";

const { port } = JSON.parse(process.argv[2]);
let release = () => {};

const server = createServer((request, response) => {
  const path = request.url.split("?")[0];
  if (path.endsWith("/events")) {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.write("data: one\n\n");
    release = () => response.end("data: two\n\n");
    return;
  }
  if (path.endsWith("/release")) release();
  const hash = createHash("sha256");
  let size = 0;
  request.on("data", (piece) => { hash.update(piece); size += piece.length; });
  request.on("end", () => {
    const seen = {
      method: request.method, url: request.url, headers: request.headers, rawHeaders: request.rawHeaders,
      trailers: request.trailers, size, sha256: hash.digest("hex"),
    };
    response.writeHead(200, { "Content-Type": "application/json", "X-Served-By": "node" });
    response.end(JSON.stringify(seen));
  });
});
server.keepAliveTimeout = 60_000;
server.listen(port, "127.0.0.1");
