// The contract, as it stands in proto/ of this repository: read when the program starts.

import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const folder = (url) => fileURLToPath(new URL(url, import.meta.url));

// Numbers of 64 bits come as text: JavaScript's own have 53.
const definition = protoLoader.loadSync(["map.proto", "cluster.proto", "status.proto"], {
  includeDirs: [folder("../../../proto/"), folder("./")],
  longs: String,
  enums: String,
  defaults: true,
});

export const { Map: MapService, Cluster: ClusterService } = grpc.loadPackageDefinition(definition).raftmap.v1;

/** The `Failure` among the details of a status, of which `bytes` are what gRPC carries. */
export function failureIn(bytes) {
  const { details } = definition["raftmap.example.Status"].deserialize(bytes);
  const detail = details.find(({ typeUrl }) => typeUrl.endsWith("/raftmap.v1.Failure"));
  return detail && definition["raftmap.v1.Failure"].deserialize(detail.value);
}
