// A client of raftmap over gRPC.
//
//   const client = new Client(["host1:7000", "host2:7000"], { ca, certificate, key });
//   await client.put("greeting", "hello");
//   console.log((await client.get("greeting")).value.toString());
//
// It finds the leader, turns to another server when one fails, and repeats a call until its time is over. Every write carries the
// tag of a session, so that it is applied once however often it is sent. A call without an answer ends with NotApplied or with
// OutcomeUnknown: the difference is whether the write may have happened.

export { Client, absent, get, hasRevision, hasValue, put } from "./client.js";
export { NotApplied, OutcomeUnknown, RaftmapError } from "./failures.js";
