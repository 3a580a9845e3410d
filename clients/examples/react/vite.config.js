import { defineConfig } from "vite";

/** Where `python -m wsstream` listens. */
const server = process.env.WSSTREAM_URL ?? "http://127.0.0.1:8765";

export default defineConfig({
  server: {
    proxy: {
      "/ws": { target: server, ws: true, changeOrigin: true, rewriteWsOrigin: true },
      // What the client turns to where WebSockets are blocked.
      "/api/native": { target: server, changeOrigin: true },
    },
  },
});
