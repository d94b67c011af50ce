// What a reader does with the types: one line for each event and operation.
import { readFileSync } from "node:fs";
import type { ChiveEvent } from "./events.js";
import type { Operation } from "./operations.js";

function event(one: ChiveEvent): string {
  switch (one.type) {
    case "record":
      return `record ${one.uri} ${one.action} ${one.cid ?? "-"} ${one.source}`;
    case "account":
      return `account ${one.did} ${one.active} ${one.status}`;
    case "identity":
      return `identity ${one.did} ${one.handle ?? "-"}`;
    case "sync":
      return `sync ${one.did} ${one.state} ${one.reason ?? "-"}`;
    case "progress":
      return `progress ${one.lane} ${one.seq}`;
    default:
      return "unknown";
  }
}

function operation(one: Operation): string {
  return `operation ${one.id} ${one.type} ${one.status} ${one.children?.done ?? "-"}`;
}

function lines<T>(file: string | undefined): T[] {
  if (file === undefined) throw new Error("read.js EVENTS OPERATIONS");
  return readFileSync(file, "utf8").trimEnd().split("\n").map((line) => JSON.parse(line) as T);
}

const [events, operations] = process.argv.slice(2);
for (const one of lines<ChiveEvent>(events)) console.log(event(one));
for (const one of lines<Operation>(operations)) console.log(operation(one));
