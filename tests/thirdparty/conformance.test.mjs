// The protocol's own suite. It writes what it reads, and this server's streams are written by models only.
import { runConformanceTests } from "@durable-streams/server-conformance-tests";

runConformanceTests({ baseUrl: process.env.WSSTREAM_URL });
