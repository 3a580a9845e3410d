// The protocol's own suite: everything but subscriptions, which this server has not.
import { runConformanceTests } from "@durable-streams/server-conformance-tests";

runConformanceTests({ baseUrl: process.env.WSSTREAM_URL });
